"""Peak memory of a step, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def in_fresh_process(script: str, arguments: Sequence[str]) -> float:
    """Starts a script that ends in a line ``{"megabytes": ...}`` and returns that number."""
    output = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1])["megabytes"])


def megabytes_of(step: Callable[[], object], device: str) -> float:
    """What a step needs beyond what is there before it, at its peak, in MB.

    What libraries keep for themselves is not the step's: let it, or a smaller one, run before, so that they take it.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    _give_back_what_is_free()
    _forget_the_peak()
    start = resident("VmRSS")
    step()
    return (resident("VmHWM") - start) / 1e3


def resident(field: str) -> int:
    """Memory of this process in kB: VmRSS now, VmHWM at its peak."""
    # Not getrusage: its maximum may be that of the parent, from which this process was forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _give_back_what_is_free() -> None:
    """Returns freed memory to the system, which would otherwise count as there before the step; needs glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _forget_the_peak() -> None:
    """Lets VmHWM start again from what is resident now, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
