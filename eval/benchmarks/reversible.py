"""The reversible solver beside what it replaces, on a small U-Net: round trip, gradient, memory and time.

Run: ``python -m lightly_prg.eval.benchmarks.reversible`` or this file. Prints one JSON line a case; a case is met where
``ratio = ours / against`` is at most ``goal``. Under a minute on two cores. The exit code is 1 where a case is not met.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightly_prg import UNet
from lightly_prg.diagnostics import round_trip
from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.reversible_round_trip import reversible_round_trip
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import encode
from lightly_prg.randomness import generator_for


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of tensors made inside that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        _, replaced = self.alive.get(storage._cdata, (None, 0))  # one that died and left its address
        self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        self.total += storage.nbytes() - replaced
        if self.total > self.peak:  # with the dead among them: only now is it worth looking for those
            for key, (weak, size) in list(self.alive.items()):
                if weak.expired():  # type: ignore[no-untyped-call]
                    del self.alive[key]
                    self.total -= size
            self.peak = max(self.peak, self.total)


def compared(case: str, ours: float, against: float, goal: float | None = None) -> Case:
    ratio = ours / against
    return Case(case, ours, against, ratio, goal, goal is None or ratio <= goal)


def network() -> UNet:
    torch.manual_seed(0)
    unet = UNet(image_size=8, in_channels=1, channels=32, multipliers=(1, 2), blocks=1, attention=())
    for parameter in unet.parameters():
        if not parameter.any():  # the layers that start at zero: a network that stands still proves nothing
            torch.nn.init.normal_(parameter, std=0.03)
    return unet.eval()


def gradient(unet: UNet, x: Tensor, **ode: Any) -> Tensor:
    unet.zero_grad()
    encode(unet, x, **ode).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None])


def seconds(unet: UNet, x: Tensor, options: list[dict[str, Any]], rounds: int = 3) -> list[float]:
    best = [float("inf")] * len(options)
    for _ in range(rounds):  # in turns, and the processor's time alone: other work on the machine should not count
        for i, ode in enumerate(options):
            start = time.process_time()
            gradient(unet, x, **ode)
            best[i] = min(best[i], time.process_time() - start)
    return best


def peak(unet: UNet, x: Tensor, **ode: Any) -> int:
    unet.zero_grad()
    with PeakMemory() as memory:
        gradient(unet, x, **ode)
    return int(memory.peak)


def main() -> int:
    return timing.report(cases(), digits=3)


def cases() -> Iterator[Case]:
    unet = network()
    images = torch.rand(8, 1, 8, 8, generator=generator_for(0, "images"))
    x = 2 * images - 1

    encoder = PRGEncoder(unet)
    ours = reversible_round_trip(encoder, images, steps=16).rmse
    for steps, case in ((16, "round trip, 16 steps"), (32, "round trip, equal evaluations")):
        error = round_trip(encoder, images, steps=steps, solver="midpoint").rmse
        yield compared(f"{case}: midpoint with {steps} steps", ours, error, 1e-2)

    coupled = {"solver": "reversible_midpoint", "steps": 4}
    plain = {"solver": "midpoint", "steps": 4}
    exact = gradient(unet, x, **coupled, gradient="full")
    error = float((gradient(unet, x, **coupled, gradient="reversible") - exact).norm() / exact.norm())
    exact = gradient(unet, x, **plain, gradient="full")
    biased = float((gradient(unet, x, **plain, gradient="adjoint") - exact).norm() / exact.norm())
    yield compared("gradient error, 4 steps: adjoint of midpoint", error, biased, 1e-2)

    def at(steps: int) -> dict[str, Any]:
        return {**coupled, "steps": steps}

    peaks = {steps: peak(unet, x, **at(steps), gradient="reversible") for steps in (2, 16)}
    for steps in (2, 16):
        ours = peaks[steps]
        yield compared(
            f"peak bytes, {steps} steps: checkpoint", ours, peak(unet, x, **at(steps), gradient="checkpoint")
        )
    yield compared("peak bytes, 2 steps: full", peaks[2], peak(unet, x, **at(2), gradient="full"))
    yield compared("peak bytes, 16 steps: its own for 2 steps", peaks[16], peaks[2], 1.01)

    reversible, same, usual = seconds(
        unet,
        x,
        [
            {**coupled, "gradient": "reversible"},
            {**coupled, "gradient": "checkpoint"},
            {**plain, "gradient": "checkpoint"},
        ],
    )
    yield compared("CPU seconds of solve and gradient: the same with checkpoint", reversible, same, 1.3)
    yield compared("CPU seconds of solve and gradient: midpoint with checkpoint", reversible, usual, 2.6)


if __name__ == "__main__":
    sys.exit(main())
