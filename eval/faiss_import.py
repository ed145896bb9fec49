"""Importing faiss when it is first needed, with matrix products that fit the processor."""

from __future__ import annotations

import importlib
import os
import platform
from types import ModuleType

import torch

_CORETYPE = "OPENBLAS_CORETYPE"
# OpenBLAS's names for the kernels of what torch finds the processor to be capable of.
_KERNELS = {"AVX512": "SkylakeX", "AVX2": "Haswell"}


def import_faiss() -> ModuleType:
    """Imports faiss.

    The wheels bring an OpenBLAS of 2021 that takes later processors for one of 2004 and then
    searches five times slower, so it is told the kernel while it loads. A choice of the user's own
    in ``OPENBLAS_CORETYPE`` stands.

    Raises:
        ImportError: If faiss is not installed or does not load.
    """
    kernel = _KERNELS.get(torch.backends.cpu.get_cpu_capability())
    if platform.machine() not in ("x86_64", "AMD64") or kernel is None or _CORETYPE in os.environ:
        return importlib.import_module("faiss")
    os.environ[_CORETYPE] = kernel
    try:
        return importlib.import_module("faiss")
    finally:
        del os.environ[_CORETYPE]
