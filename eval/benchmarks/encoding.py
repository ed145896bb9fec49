"""Encoding images to the embedding that the ODE defines, with as little work as that takes.

Against: torchdiffeq's ``odeint`` with Euler and 31 even steps, in fp32 and contiguous memory. Ours is
``lightly_prg.eval.embed`` with channels-last memory, what ``precision: auto`` chooses for the device, and the solver,
grid and number of steps that need the fewest evaluations of all that give the same embedding.

The embedding is the state at the noise end, and the same is what agrees with a converged solve (rk4 with 12 quadratic
steps): a mean cosine of 0.99 or more, and a k-NN accuracy within 0.3 points. The choice is made on training images, a
half of which classifies the other. Euler's 31 steps are held to the same measure, for comparison.

Without ``--run`` the embedding is that of a small U-Net, trained here on scikit-learn's digits, because the flow of an
untrained network says nothing about steps; its 10,000 images are the digits over and over, of which a part is timed and
the seconds are multiplied.

    python eval/benchmarks/encoding.py
    python eval/benchmarks/encoding.py --run runs/cifar10 --device cuda

About three minutes on two cores; after four (``--limit``) no further round is begun.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torchdiffeq import odeint

from lightly_prg import FeatureSpec, FlowMatchingLoss, OdeSpec, PRGEncoder, UNet, load_recipe
from lightly_prg.data import Splits, load_data
from lightly_prg.data.image_set import ImageSet
from lightly_prg.eval import Embeddings, embed, evaluate_knn
from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.evaluation import Evaluation
from lightly_prg.features.rereading import reread
from lightly_prg.hardware import pick_precision
from lightly_prg.hardware.layout import fast_layout
from lightly_prg.randomness import generator_for
from lightly_prg.run import Run
from lightly_prg.scan.features import drawn_by_class
from lightly_prg.transforms import normalize_batch

IMAGES = 10_000
REFERENCE_STEPS = 31
COSINE, POINTS = 0.99, 0.3
FEATURE = FeatureSpec(source="state", tau=1.0, pool="flatten")
CONVERGED = OdeSpec(solver="rk4", steps=12, grid="quadratic")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    turns = timing.begin(options)
    return timing.report(cases(options, turns))


def parser() -> argparse.ArgumentParser:
    found = timing.parser(__doc__)
    found.add_argument("--run", default=None, help="a trained PRG run, whose network and images are taken")
    found.add_argument("--images", type=int, default=2000, help="training images, and test images, that are compared")
    found.add_argument("--timed", type=int, default=1000, help="images that are timed")
    found.add_argument("--train-steps", type=int, default=400, help="of the network that is trained here")
    found.add_argument("--batch", type=int, default=250, help="images at a time")
    return found


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    encoder, splits = problem(options)
    most = 40 if options.quick else options.images
    parts = [drawn_by_class(part, most, seed=0) for part in (splits.train, splits.test)]
    converged = [solved(encoder, part, CONVERGED, options) for part in parts]
    ode, by_cosine = chosen(encoder, parts[0], converged[0], options)
    precision = pick_precision("auto", torch.device(options.device)).precision

    def our_way(images: ImageSet) -> Embeddings:
        encoder.network.to(memory_format=fast_layout(encoder.network, torch.device(options.device), precision))
        return solved(encoder, images, ode, options, precision=precision)

    def plain_way(images: ImageSet) -> Embeddings:
        encoder.network.to(memory_format=torch.contiguous_format)
        return by_odeint(encoder, images, options)

    ours, plain = [our_way(part) for part in parts], [plain_way(part) for part in parts]
    exact = knn_accuracy(*converged, device=options.device)
    for way, found, wanted in (("ours", ours, True), ("Euler's 31 steps", plain, False)):
        similar = sum(len(a) * cosine(a, b) for a, b in zip(found, converged, strict=True)) / sum(map(len, parts))
        apart = abs(knn_accuracy(*found, device=options.device) - exact)
        yield timing.value_at_least(f"mean cosine with the converged solve, {way}", similar, COSINE if wanted else None)
        name = f"points of k-NN accuracy from the converged solve ({exact:.4g} %), {way}"
        yield timing.value_at_most(name, apart, POINTS if wanted else None)

    name = f"network evaluations that the cosine alone takes, {told(by_cosine)}"
    yield timing.value_at_most(name, evaluations(by_cosine), None, REFERENCE_STEPS)

    timed = parts[1].subset(torch.arange(20 if options.quick else options.timed) % len(parts[1]))
    seconds = turns(
        {"ours": lambda: our_way(timed), "against": lambda: plain_way(timed)},
    )
    scale = IMAGES / len(timed)
    name = f"seconds of {IMAGES} images (timed {len(timed)}), {told(ode)} in {precision}"
    yield timing.faster(name, scale * seconds["ours"], scale * seconds["against"], 8.0)


def chosen(
    encoder: PRGEncoder, images: ImageSet, converged: Embeddings, options: argparse.Namespace
) -> tuple[OdeSpec, OdeSpec]:
    """The ways of the fewest evaluations whose embedding is the same, and is by the cosine alone.

    Where none is, that of the highest cosine.
    """
    halves = [torch.arange(start, len(images), 2).numpy() for start in (0, 1)]
    exact = knn_accuracy(*(converged.select(half) for half in halves), device=options.device)
    similar: dict[OdeSpec, float] = {}
    for ode in choices():
        embeddings = solved(encoder, images, ode, options)
        similar[ode] = cosine(embeddings, converged)
        if similar[ode] >= COSINE:
            accuracy = knn_accuracy(*(embeddings.select(half) for half in halves), device=options.device)
            if abs(accuracy - exact) <= POINTS:
                break
    else:
        ode = max(similar, key=lambda ode: similar[ode])
    return ode, next((ode for ode, value in similar.items() if value >= COSINE), ode)


def choices() -> list[OdeSpec]:
    """By the number of evaluations; methods of more stages were never better at as many."""
    ways = [
        OdeSpec(solver=solver, steps=steps, grid=grid)
        for solver, most in (("euler", 16), ("ab2", 16), ("midpoint", 8))
        for steps in range(1, most + 1)
        for grid in ("even", "quadratic")
    ]
    return sorted(ways, key=evaluations)


def evaluations(ode: OdeSpec) -> int:
    """Of the network, for one image."""
    return ode.steps * (2 if ode.solver == "midpoint" else 1)


def told(ode: OdeSpec) -> str:
    return f"{ode.solver} with {ode.steps} {ode.grid} steps"


def cosine(first: Embeddings, second: Embeddings) -> float:
    """Mean over the images."""
    return float(F.cosine_similarity(torch.from_numpy(first.features), torch.from_numpy(second.features)).mean())


def solved(
    encoder: PRGEncoder, images: ImageSet, ode: OdeSpec, options: argparse.Namespace, *, precision: str = "32"
) -> Embeddings:
    """Our way with a given solver."""
    read = reread(encoder, feature=FEATURE.model_dump(), ode=ode.model_dump())
    return embed(read, images, batch_size=options.batch, device=options.device, precision=precision)


@torch.no_grad()
def by_odeint(encoder: PRGEncoder, images: ImageSet, options: argparse.Namespace) -> Embeddings:
    """The plain way."""
    network = encoder.network.to(options.device).eval()
    taus = torch.linspace(encoder.path.tau_min, encoder.path.tau_max, REFERENCE_STEPS + 1, device=options.device)
    parts = []
    for batch, _, _ in images.loader(batch_size=options.batch):
        x = encoder.normalize(batch.float() / 255).to(options.device)
        parts.append(odeint(network, x, taus, method="euler")[-1].flatten(1).cpu())
    features = torch.cat(parts).numpy()
    return Embeddings(features, images.labels.numpy(), tuple(images.names), REFERENCE_STEPS, 0.0)


def knn_accuracy(first: Embeddings, second: Embeddings, *, device: str) -> float:
    """Percent of all images that their nearest neighbours in the other part classify."""
    hits = [
        len(query) * evaluate_knn(bank, query, device=device).top1 for bank, query in ((first, second), (second, first))
    ]
    return sum(hits) / (len(first) + len(second))


def problem(options: argparse.Namespace) -> tuple[PRGEncoder, Splits]:
    """The trained encoder and its images."""
    if options.run is not None:
        evaluation = Evaluation(Run.open(options.run), device=options.device)
        return evaluation.prg, evaluation.splits
    splits = load_data(load_recipe("quickstart").data, seed=0)
    return PRGEncoder(trained(splits.train, options), feature=FEATURE).to(options.device).eval(), splits


def trained(images: ImageSet, options: argparse.Namespace) -> nn.Module:
    """A small network that has learned the flow of the digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(
            image_size=8,
            in_channels=1,
            channels=8 if options.quick else 32,
            multipliers=(1,) if options.quick else (1, 2),
            blocks=1,
            attention=(),
            middle_attention=False,
        ).to(options.device)
    pixels = normalize_batch(next(iter(images.loader(batch_size=len(images))))[0])
    criterion = FlowMatchingLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = 3 if options.quick else options.train_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        draws = generator_for(0, "encoding benchmark", step)
        x = pixels[torch.randint(len(pixels), (64,), generator=draws)]
        noise, tau = torch.randn(x.shape, generator=draws), torch.rand(len(x), generator=draws)
        x, noise, tau = (tensor.to(options.device) for tensor in (x, noise, tau))
        optimizer.zero_grad()
        torch.autograd.backward(criterion(network, x, noise=noise, tau=tau))
        optimizer.step()
        schedule.step()
    return network.eval()


if __name__ == "__main__":
    sys.exit(main())
