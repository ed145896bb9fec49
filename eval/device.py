"""Where the evaluators compute, and with how many bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU where it knows no float64, as Apple's MPS."""
    return torch.device("cpu") if device.type == "mps" else device


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
