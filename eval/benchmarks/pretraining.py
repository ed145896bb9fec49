"""A pretraining step beside the plain way of writing it: eager, fp32, contiguous, weights averaged one by one.

Ours is the step of ``lightly_prg.methods.PRG`` as ``train`` sets it up: channels-last memory, what ``precision: auto``
and ``compile: auto`` choose for the device, and all weights averaged at once. The network is a U-Net of 64 channels on
images of 32 x 32. Then both ways train a small network on scikit-learn's digits for 300 steps, from the same weights
and with the same draws: the curves are the same within noise if the means of the last third differ by less than two
standard errors.

    python eval/benchmarks/pretraining.py
    python eval/benchmarks/pretraining.py --device cuda

The goal needs arithmetic that is faster than fp32, that is a GPU or a CPU with AMX tiles: elsewhere both ways take
the same products in the same fp32, and it is missed. After four minutes (``--limit``) no further round is begun.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightly_prg import PRG, FlowMatchingLoss, UNet
from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.eval.embed import PRECISIONS
from lightly_prg.hardware import pick_precision
from lightly_prg.hardware.layout import fast_layout
from lightly_prg.models import EMA
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import FeatureSpec

DECAY = 0.999
TINY: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "middle_attention": False}

Step = Callable[[Tensor, int], Tensor]
"""``(images in [-1, 1], number of the step)`` to the loss."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    turns = timing.begin(options)
    return timing.report(cases(options, turns))


def parser() -> argparse.ArgumentParser:
    found = timing.parser(__doc__)
    found.add_argument("--batch", type=int, default=0, help="images of a step; 0: 8 on a CPU, 128 on a GPU")
    return found


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    batch = options.batch or (128 if options.device.startswith("cuda") else 8)
    size, settings = (8, TINY) if options.quick else (32, {"channels": 64})
    x = 2 * torch.rand(batch, 3, size, size, generator=generator_for(0, "pretraining benchmark")) - 1
    x = x.to(options.device)
    steps = {"ours": our_step(options, 3, size, settings), "against": plain_step(options, 3, size, settings)}
    yield from curves(options)
    seconds = turns({name: partial(step, x, 0) for name, step in steps.items()})
    name = f"seconds of a step ({precision_of(options)})"
    yield timing.faster(name, seconds["ours"], seconds["against"], 3.0)


def curves(options: argparse.Namespace) -> Iterator[Case]:
    """The means of the losses of the last third, and how far they are apart."""
    count, batch = (6, 8) if options.quick else (300, 32)
    settings = {**TINY, "channels": 8 if options.quick else 16}
    images = torch.from_numpy(load_digits().images).float().div(8).sub(1)[:, None]
    steps = {"ours": our_step(options, 1, 8, settings), "against": plain_step(options, 1, 8, settings)}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(count):
        rows = torch.randint(len(images), (batch,), generator=generator_for(0, "rows", number))
        for name, step in steps.items():
            losses[name].append(float(step(images[rows].to(options.device), number)))
    ours, against = (torch.tensor(losses[name][-count // 3 :]) for name in ("ours", "against"))
    noise = 2 * float(against.std()) / len(against) ** 0.5
    apart = abs(float(ours.mean() - against.mean()))
    name = f"distance of the losses after {count} steps, to the noise of {float(against.mean()):.3g}"
    yield timing.value_at_most(name, apart, noise)


def our_step(options: argparse.Namespace, channels: int, size: int, settings: dict[str, Any]) -> Step:
    """As ``lightly_prg.train`` sets the method up."""
    network = backbone(channels, size, settings)
    module = PRG(
        input_shape=(channels, size, size), backbone=network, feature=FeatureSpec(source="block", block="middle")
    ).to(options.device)
    module.ema = EMA(network, DECAY).to(options.device)
    if options.device.startswith("cuda"):
        module.compile_network()
    precision = precision_of(options)
    layout = fast_layout(module.network, torch.device(options.device), precision)
    module.network.to(memory_format=layout)
    module.ema.to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(options.device, enabled=precision == "16")
    half = PRECISIONS[precision]

    def step(x: Tensor, number: int) -> Tensor:
        with torch.autocast(options.device, dtype=half, enabled=half is not None):
            loss = module.loss([x.contiguous(memory_format=torch.channels_last)], number)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        module.ema.update(network)
        return loss.detach()

    return step


def plain_step(options: argparse.Namespace, channels: int, size: int, settings: dict[str, Any]) -> Step:
    """The same computation as one would write it down."""
    network = backbone(channels, size, settings).to(options.device)
    average = EMA(network, DECAY).module
    criterion = FlowMatchingLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    count = 0

    def step(x: Tensor, number: int) -> Tensor:
        nonlocal count
        generator = generator_for(0, "train", number, device=x.device)  # the method's draws
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        tau = criterion.sample_tau(len(x), generator=generator, device=x.device)
        loss: Tensor = criterion(network, x, noise=noise, tau=tau)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        decay = min(DECAY, (1 + count) / (10 + count))
        count += 1
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
        return loss.detach()

    return step


def backbone(channels: int, size: int, settings: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(image_size=size, in_channels=channels, **settings)


def precision_of(options: argparse.Namespace) -> str:
    return pick_precision("auto", torch.device(options.device)).precision


if __name__ == "__main__":
    sys.exit(main())
