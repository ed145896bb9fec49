"""Where the evaluators compute, and with how many bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightly_prg.errors import UserError

_ONE_THREAD_ELEMENTS = 1 << 22


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that is meant; ``auto`` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: If there is no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved).cpu()  # of `meta` nothing can be read
    except (RuntimeError, AssertionError):  # NotImplementedError is the former
        raise UserError(
            f"The device {str(device)!r} is not available here; allowed are auto, cpu, cuda and mps."
        ) from None
    return resolved


@contextmanager
def full_float32() -> Iterator[None]:
    """Switches TF32 and bf16 shortcuts in float32 matrix products off, and back as they were.

    Training code often switches them on for the whole process; their errors of 1e-3 would move
    neighbours past each other and stall the line search of L-BFGS.
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextmanager
def threads_for(elements: int) -> Iterator[None]:
    """Lets torch compute in one thread where there is little to do.

    Many small products in several threads cost more in waiting than in work, the more so beside the thread pools of
    NumPy and faiss: 88 probes on 600 embeddings took 171 s in two threads and 46 s in one.

    Args:
        elements: Of the matrix that all products share.
    """
    before = torch.get_num_threads()
    if elements <= _ONE_THREAD_ELEMENTS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
