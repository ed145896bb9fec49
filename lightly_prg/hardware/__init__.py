"""What the machine offers: the device, the precision that ``auto`` picks, and why."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Precision = Literal["32", "bf16", "16"]


@dataclass(frozen=True)
class PrecisionChoice:
    """A number format for the network's arithmetic and the reason for it."""

    precision: Precision
    reason: str


def decoding_workers(asked: Literal["auto"] | int = "auto", *, processes: int = 1) -> int:
    """How many processes decode images; ``auto`` leaves a core to the computation itself.

    Args:
        asked: The recipe's ``train.num_workers``.
        processes: Training processes on this machine, which share its cores.
    """
    if asked != "auto":
        return asked
    return max(1, min(16, (os.cpu_count() or 1) // processes - 1))


def pick_device(accelerator: str = "auto") -> torch.device:
    """The device that a single process computes on: CUDA, Apple's MPS or the CPU.

    Args:
        accelerator: Lightning's word for it: ``auto``, ``gpu``, ``cuda``, ``mps`` or ``cpu``.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def cpu_model() -> str:
    """The name of the CPU where the system tells it, or else of its architecture."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_amx() -> bool:
    """Whether the CPU multiplies bf16 matrices in tiles (AMX)."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return bool(capabilities().get("amx_tile", False))
    return bool(torch.cpu._is_amx_tile_supported())  # torch 2.9 tells it only here


def has_fast_dot_products() -> bool:
    """Whether the CPU's bf16 dot products (AVX512_BF16) gain over fp32: AMD's do, Intel's were not measured."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False)) and "AMD" in str(capabilities.get("cpu_name", ""))


def pick_precision(requested: str, device: torch.device) -> PrecisionChoice:
    """Resolves ``auto``: the fastest format that is safe to train in on this device."""
    if requested in ("32", "bf16", "16"):
        return PrecisionChoice(requested, "asked for")  # type: ignore[arg-type]
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return PrecisionChoice("bf16", "this GPU computes in bf16")
        return PrecisionChoice("16", "this GPU has no bf16 arithmetic, so fp16 with loss scaling")
    if device.type == "cpu":
        # Measured: with AMX tiles bf16 is several times faster than fp32 on convolutions. With the dot products of an
        # AMD Zen 5 U-Nets (as ``fast_layout`` lays them) and ResNets train 1.45 to 1.65 times, ViTs (with
        # ``use_fast_attention``) three times as fast, and embedding is 1.3 to 3 times as fast. On an Intel Xeon with
        # AVX-512 alone the conversions cost more than they gain.
        if has_amx():
            return PrecisionChoice("bf16", "this CPU has AMX tiles, which make bf16 faster than fp32")
        if has_fast_dot_products():
            return PrecisionChoice("bf16", "this CPU's AVX512_BF16 makes bf16 faster than fp32")
        return PrecisionChoice("32", "this CPU has no AMX tiles, without which bf16 is slower than fp32")
    return PrecisionChoice("32", f"fp32 is the safe choice on {device.type}")


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use: on a GPU by tensors, else of the machine's memory by this process alone."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        # Not what getrusage tells: a process that was started by a large one inherits that one's peak there.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory(device: torch.device) -> None:
    """Starts ``peak_memory`` anew, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
