"""Float32 that is float32: no TF32, no bf16, no autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Switches TF32 and bf16 shortcuts in float32 matrix products and convolutions off, and back as they were.

    Training code often switches them on for the whole process, and for convolutions on GPUs they are on by default;
    their errors of 1e-3 would move neighbours past each other, stall the line search of L-BFGS, and be most of the
    round-trip error of a flow. Nothing may be compiled inside: torch then reads the older settings, which it refuses
    beside these.
    """
    backends: tuple[Any, ...] = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    )
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """``full_float32``, and no autocast: for what is about the flow, not about rounding."""
    with torch.autocast(device.type, enabled=False), full_float32():
        yield
