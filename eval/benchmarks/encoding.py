"""Encoding images to the embedding that a plain solve of many steps gives, with as little work as that takes.

Against: torchdiffeq's ``odeint`` with Euler and 31 steps, in fp32 and contiguous memory. Ours is
``lightly_prg.eval.embed`` with channels-last memory, what ``precision: auto`` chooses for the device, and the solver
and number of steps that need the fewest evaluations of all that give the same embedding: a mean cosine of 0.99 or more,
on training images.

The embedding is the state at the noise end. Without ``--run`` it is that of a small U-Net, trained here on
scikit-learn's digits, because the flow of an untrained network says nothing about steps; its 10,000 images are the
digits over and over, of which a part is timed and the seconds are multiplied.

    python eval/benchmarks/encoding.py
    python eval/benchmarks/encoding.py --run runs/cifar10 --device cuda

About two minutes on two cores; after four (``--limit``) no further round is begun.
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
from lightly_prg.eval import Embeddings, embed, evaluate_knn
from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.evaluation import Evaluation
from lightly_prg.hardware import pick_precision
from lightly_prg.image_set import ImageSet
from lightly_prg.randomness import generator_for
from lightly_prg.rereading import reread
from lightly_prg.run import Run
from lightly_prg.transforms import normalize_batch

IMAGES = 10_000
REFERENCE_STEPS = 31
CHOICES = sorted(
    [*(("euler", steps) for steps in range(1, 17)), *(("midpoint", steps) for steps in range(1, 9))],
    key=lambda choice: choice[1] * (1 if choice[0] == "euler" else 2),
)
"""Solvers and steps by the number of evaluations; methods of more stages were never better at as many."""
FEATURE = FeatureSpec(source="state", tau=1.0, pool="flatten")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    turns = timing.begin(options)
    return timing.report(cases(options, turns))


def parser() -> argparse.ArgumentParser:
    found = timing.parser(__doc__)
    found.add_argument("--run", default=None, help="a trained PRG run, whose network and images are taken")
    found.add_argument("--timed", type=int, default=1000, help="images that are timed")
    found.add_argument("--train-steps", type=int, default=400, help="of the network that is trained here")
    found.add_argument("--batch", type=int, default=250, help="images at a time")
    return found


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    encoder, splits = problem(options)
    solver, steps = chosen(encoder, splits.train, options)
    precision = pick_precision("auto", torch.device(options.device)).precision
    ours = reread(encoder, feature=FEATURE.model_dump(), ode=OdeSpec(solver=solver, steps=steps).model_dump())

    def our_way(images: ImageSet) -> Embeddings:
        encoder.network.to(memory_format=torch.channels_last)
        return embed(ours, images, batch_size=options.batch, device=options.device, precision=precision)

    def plain_way(images: ImageSet) -> Embeddings:
        encoder.network.to(memory_format=torch.contiguous_format)
        return by_odeint(encoder, images, options)

    parts = [splits.train, splits.test]
    if options.quick:
        parts = [part.subset(torch.arange(40)) for part in parts]
    found = {"ours": [our_way(part) for part in parts], "against": [plain_way(part) for part in parts]}
    cosines = [
        F.cosine_similarity(torch.from_numpy(a.features), torch.from_numpy(b.features))
        for a, b in zip(found["ours"], found["against"], strict=True)
    ]
    yield timing.value_at_least("mean cosine of the embeddings", float(torch.cat(cosines).mean()), 0.99)
    accuracies = {way: knn_accuracy(*parts_of, device=options.device) for way, parts_of in found.items()}
    apart = abs(accuracies["ours"] - accuracies["against"])
    yield timing.value_at_most(f"points of k-NN accuracy apart ({accuracies['against']:.4g} %)", apart, 0.3)

    timed = parts[1].subset(torch.arange(20 if options.quick else options.timed) % len(parts[1]))
    seconds = turns(
        {"ours": lambda: our_way(timed), "against": lambda: plain_way(timed)},
    )
    scale = IMAGES / len(timed)
    name = f"seconds of {IMAGES} images (timed {len(timed)}), {solver} with {steps} steps in {precision}"
    yield timing.faster(name, scale * seconds["ours"], scale * seconds["against"], 8.0)


def chosen(encoder: PRGEncoder, images: ImageSet, options: argparse.Namespace) -> tuple[str, int]:
    """The solver and steps of the fewest evaluations whose embedding is the same; the best where none is."""
    few = images.subset(torch.arange(20 if options.quick else min(100, len(images))))
    exact = torch.from_numpy(by_odeint(encoder, few, options).features)
    best, chosen = -1.0, CHOICES[0]
    for solver, steps in CHOICES:
        read = reread(encoder, feature=FEATURE.model_dump(), ode=OdeSpec(solver=solver, steps=steps).model_dump())
        features = torch.from_numpy(embed(read, few, batch_size=options.batch, device=options.device).features)
        cosine = float(F.cosine_similarity(features, exact).mean())
        if cosine > best:
            best, chosen = cosine, (solver, steps)
        if best >= 0.99:
            break
    return chosen


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
