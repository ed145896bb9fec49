"""A fine-tuning step through the reverse ODE beside the reference's way of taking it.

The reference: torchdiffeq's ``odeint_adjoint`` with Euler, in fp32 and contiguous memory. Ours: checkpointed
evaluations and channels-last memory, as ``lightly_prg.eval.finetune`` has them; at equal precision, and at what
``precision: auto`` chooses for the device. The network is a U-Net of 64 channels on images of 32 x 32, its zero weights
drawn; K = 8. A step is the forward and backward pass and AdamW's update.

    python eval/benchmarks/finetuning.py
    python eval/benchmarks/finetuning.py --device cuda --compile

The goal for all together needs arithmetic that is faster than fp32, that is a GPU or a CPU with AMX tiles: elsewhere
both ways take the same products in the same fp32, and it is missed. After four minutes (``--limit``) no further round
is begun.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchdiffeq import odeint_adjoint

from lightly_prg import UNet, encode
from lightly_prg.eval.benchmarks import memory, timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.eval.embed import PRECISIONS
from lightly_prg.hardware import pick_precision
from lightly_prg.hardware.layout import fast_layout
from lightly_prg.models import redraw_zero_weights
from lightly_prg.randomness import generator_for

CLASSES = 10
WAYS = ("against", "ours at equal precision", "ours")
STEPS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    turns = timing.begin(options)
    if options.measure_memory is not None:
        print(json.dumps({"megabytes": memory_of_a_step(options, options.measure_memory)}))
        return 0
    return timing.report(cases(options, turns))


def parser() -> argparse.ArgumentParser:
    found = timing.parser(__doc__)
    found.add_argument("--batch", type=int, default=0, help="images of a step; 0: 2 on a CPU, 128 on a GPU")
    found.add_argument("--compile", action="store_true", help="compile our network")
    found.add_argument("--measure-memory", choices=WAYS, default=None, help=argparse.SUPPRESS)
    return found


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    full, checkpoint = (gradient(options, mode) for mode in ("full", "checkpoint"))
    error = float((checkpoint - full).norm() / full.norm())
    yield timing.value_at_most("relative distance of checkpoint's gradient from full's", error, 0.0)
    precision = precision_of(options)
    peaks = {way: memory.in_fresh_process(__file__, given(options, way)) for way in WAYS[:2]}
    if precision != "32":
        peaks["ours"] = memory.in_fresh_process(__file__, given(options, "ours"))
    ways = WAYS if precision != "32" or options.compile else WAYS[:2]
    seconds = turns({way: step_of(options, way) for way in ways})
    reference = seconds["against"]
    yield timing.faster(f"seconds of a step, all together ({precision})", seconds[ways[-1]], reference, 4.0)
    yield timing.faster("seconds of a step, equal precision", seconds["ours at equal precision"], reference, 1.1)
    worst = max(peaks[way] for way in peaks if way != "against")
    yield timing.at_most("peak MB of a step", worst, peaks["against"], 1.1)


def given(options: argparse.Namespace, way: str) -> list[str]:
    """The same options, for a process that measures one way's memory."""
    flags = [*(["--quick"] if options.quick else []), *(["--compile"] if options.compile else [])]
    values = {"device": options.device, "threads": options.threads, "batch": options.batch, "measure-memory": way}
    return [*flags, *(f"--{name}={value}" for name, value in values.items())]


def memory_of_a_step(options: argparse.Namespace, way: str) -> float:
    step = step_of(options, way)
    step()  # makes the optimiser's state, which both ways have
    return memory.megabytes_of(step, options.device)


def precision_of(options: argparse.Namespace) -> str:
    return pick_precision("auto", torch.device(options.device)).precision


def step_of(options: argparse.Namespace, way: str) -> Callable[[], None]:
    """Forward, backward and update of one way."""
    ours = way != "against"
    network, x, labels, head = problem(options)
    carry = by_checkpoints if ours else by_adjoint
    precision = precision_of(options) if way == "ours" else "32"
    if ours:
        network.to(memory_format=fast_layout(network, torch.device(options.device), precision))
        if options.compile:
            network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    scaler = torch.amp.GradScaler(options.device, enabled=precision == "16")
    half = PRECISIONS[precision]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, dtype=half, enabled=half is not None):
            loss = F.cross_entropy(carry(network, x).float().flatten(1) @ head, labels)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()

    return step


def by_adjoint(network: nn.Module, x: Tensor) -> Tensor:
    """The reference's way."""
    taus = torch.linspace(0.0, 1.0, STEPS + 1, device=x.device)
    states = odeint_adjoint(network, x, taus, method="euler", adjoint_params=tuple(network.parameters()))
    last: Tensor = states[-1]
    return last


def by_checkpoints(network: nn.Module, x: Tensor) -> Tensor:
    """Ours."""
    return encode(network, x, steps=STEPS, solver="euler", gradient="checkpoint")


def gradient(options: argparse.Namespace, mode: str) -> Tensor:
    """Of all parameters as one vector, for one image."""
    network, x, labels, head = problem(options, batch=1)
    network.to(memory_format=torch.channels_last)
    state = encode(network, x, steps=STEPS, solver="euler", gradient=mode)
    torch.autograd.backward(F.cross_entropy(state.flatten(1) @ head, labels))
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def problem(options: argparse.Namespace, batch: int | None = None) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Network, images, labels and the weights of a linear head: the same for every way."""
    draws = generator_for(0, "fine-tuning benchmark")
    size, channels = (8, 8) if options.quick else (32, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if options.quick:
            network = UNet(image_size=size, channels=channels, multipliers=(1,), blocks=1, attention=())
        else:
            network = UNet(image_size=size, channels=channels)
    redraw_zero_weights(network, draws)
    if batch is None:
        batch = options.batch or (128 if options.device.startswith("cuda") else 2)
    x = 2 * torch.rand(batch, 3, size, size, generator=draws) - 1
    labels = torch.randint(CLASSES, (batch,), generator=draws)
    head = torch.randn(x[0].numel(), CLASSES, generator=draws) / x[0].numel() ** 0.5
    x, labels, head = (tensor.to(options.device) for tensor in (x, labels, head))
    return network.to(options.device), x, labels, head


if __name__ == "__main__":
    sys.exit(main())
