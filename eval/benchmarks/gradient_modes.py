"""Gradient error, time and peak memory of the three ways to differentiate through the ODE, on a real U-Net.

One JSON line for each case: ``ours`` is the mode's figure, ``against`` that of ``full``, ``ratio`` the one by the
other, ``goal`` what is asked of the ratio (of ``ours`` for errors) and ``met`` whether it holds; null where nothing is
asked. Without ``--run`` the U-Net is an untrained one whose zero weights are drawn, too, and the images are noise.

    python eval/benchmarks/gradient_modes.py
    python eval/benchmarks/gradient_modes.py --run runs/quickstart --batch 64
    python eval/benchmarks/gradient_modes.py --channels 64 --size 32 --steps 4 --batch 64
    python eval/benchmarks/gradient_modes.py --device cuda --channels 128 --size 32 --steps 16 --batch 128
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightly_prg import FeatureSpec, OdeSpec, PRGEncoder, UNet
from lightly_prg.eval.benchmarks import memory, timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.evaluation import Evaluation
from lightly_prg.features.rereading import reread
from lightly_prg.models import redraw_zero_weights
from lightly_prg.randomness import generator_for
from lightly_prg.run import Run

MODES = ("full", "checkpoint", "adjoint")
CLASSES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.measure_memory is not None:
        print(json.dumps({"megabytes": memory_of_a_step(options, options.measure_memory)}))
        return 0
    cases = (*errors(options), *times(options), *memories(options))
    for case in cases:
        timing.show(case, options=described(options))
    return int(any(case.met is False for case in cases))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--run", default=None, help="a PRG run, whose network and test images are taken")
    found.add_argument("--channels", type=int, default=16, help="width of the U-Net's first resolution")
    found.add_argument("--size", type=int, default=16, help="side of the images in pixels, a multiple of 4")
    found.add_argument("--patch", type=int, default=1, help="side of the patches folded into channels")
    found.add_argument("--steps", type=int, default=4, help="steps K from the data to the noise end")
    found.add_argument("--solver", default="euler", help="euler, midpoint, heun2, rk4, ...")
    found.add_argument("--batch", type=int, default=32, help="images of a step")
    found.add_argument("--repeats", type=int, default=5, help="timed steps of each mode, taken in turns")
    found.add_argument("--device", default="cpu", help="cpu or cuda")
    found.add_argument("--threads", type=int, default=0, help="of the CPU; 0: torch's choice")
    found.add_argument("--measure-memory", choices=MODES, default=None, help=argparse.SUPPRESS)
    return found


def described(options: argparse.Namespace) -> dict[str, Any]:
    """The size of what was measured."""
    return {key: value for key, value in vars(options).items() if key not in ("measure_memory", "repeats")}


def errors(options: argparse.Namespace) -> list[Case]:
    """The distance of each gradient from that of ``full``, relative to its length; all parameters as one vector."""
    if options.threads:
        torch.set_num_threads(options.threads)
    gradients = {mode: gradient(options, mode) for mode in MODES}
    exact = gradients["full"]
    cases = []
    for mode in MODES[1:]:
        error = float((gradients[mode] - exact).norm() / exact.norm())
        # Recomputing takes the same operations in the same order: nothing but equality is right.
        goal = 0.0 if mode == "checkpoint" else None
        met = error == 0.0 if mode == "checkpoint" else None
        cases.append(Case(f"relative gradient error, {mode}", error, 0.0, None, goal, met))
        cosine = float(F.cosine_similarity(gradients[mode].double(), exact.double(), dim=0))
        cases.append(Case(f"cosine with the gradient of full, {mode}", cosine, 1.0, cosine, None, None))
    return cases


def times(options: argparse.Namespace) -> list[Case]:
    """Seconds of a forward and backward pass."""
    steps = {mode: step_of(options, mode) for mode in MODES}
    medians = timing.interleaved(steps, repeats=options.repeats, until=math.inf, device=options.device)
    # One more forward to recompute beside a forward and a backward of two: 4 / 3, and some room.
    goals = {"checkpoint": 1.6, "adjoint": None}
    return [
        compared(f"seconds of a step, {mode}", medians[mode], medians["full"], goal) for mode, goal in goals.items()
    ]


def memories(options: argparse.Namespace) -> list[Case]:
    """Peak of the memory that one step takes, in MB, each mode in a process of its own."""
    peaks = {}
    for mode in MODES:
        chosen = {key: value for key, value in vars(options).items() if key != "measure_memory" and value is not None}
        given = [f"--{key}={value}" for key, value in chosen.items()]
        peaks[mode] = memory.in_fresh_process(__file__, [*given, f"--measure-memory={mode}"])
    # One graph in memory in place of K, beside what does not shrink: the gradients and the states of the solve.
    return [compared(f"peak MB of a step, {mode}", peaks[mode], peaks["full"], None) for mode in MODES[1:]]


def memory_of_a_step(options: argparse.Namespace, mode: str) -> float:
    """Runs in a fresh process: how much a step needs beyond what is there before it."""
    if options.threads:
        torch.set_num_threads(options.threads)
    step_of(options, mode, batch=2)()
    return memory.megabytes_of(step_of(options, mode), options.device)


def gradient(options: argparse.Namespace, mode: str) -> Tensor:
    """Of all parameters, as one vector."""
    encoder, loss = model_and_loss(options, mode)
    torch.autograd.backward(loss())
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in encoder.parameters()]
    )


def step_of(options: argparse.Namespace, mode: str, batch: int | None = None) -> Callable[[], None]:
    """A forward and backward pass, as in fine-tuning without the optimiser."""
    encoder, loss = model_and_loss(options, mode, batch)

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        torch.autograd.backward(loss())

    return step


def model_and_loss(
    options: argparse.Namespace, mode: str, batch: int | None = None
) -> tuple[PRGEncoder, Callable[[], Tensor]]:
    """A classifier on the state at the noise end: the same weights, images and labels for every mode."""
    batch = options.batch if batch is None else batch
    draws = generator_for(0, "gradient modes, images")
    ode = OdeSpec.model_validate({"solver": options.solver, "steps": options.steps, "gradient": mode})
    feature = FeatureSpec(source="state", tau=1.0, pool="flatten")
    if options.run is not None:
        evaluation = Evaluation(Run.open(options.run), device=options.device)
        encoder: Any = reread(evaluation.prg, feature=feature.model_dump(), ode=ode.model_dump())
        part = evaluation.images("test")
        images = torch.stack([part[index][0] for index in range(batch)]).float() / 255
    else:
        encoder = PRGEncoder(untrained(options), ode=ode, feature=feature)
        images = torch.rand(batch, 3, options.size, options.size, generator=draws)
    encoder, images = encoder.to(options.device).train(), images.to(options.device)
    labels = torch.randint(CLASSES, (batch,), generator=draws).to(options.device)
    head = torch.randn(images[0].numel(), CLASSES, generator=draws) / images[0].numel() ** 0.5
    head = head.to(options.device)

    def loss() -> Tensor:
        return F.cross_entropy(encoder(images) @ head, labels)

    return encoder, loss


def untrained(options: argparse.Namespace) -> UNet:
    """A U-Net whose flow is none of the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(
            image_size=options.size,
            channels=options.channels,
            multipliers=(1, 2, 2),
            blocks=2,
            attention=(options.size // options.patch // 4,),
            patch_size=options.patch,
        )
    redraw_zero_weights(network, generator_for(0, "gradient modes"))
    return network


def compared(name: str, ours: float, against: float, goal: float | None) -> Case:
    ratio = ours / against
    return Case(name, ours, against, ratio, goal, None if goal is None else ratio <= goal)


if __name__ == "__main__":
    sys.exit(main())
