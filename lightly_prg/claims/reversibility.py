"""Is the flow still one after fine-tuning? Round trip, samples and accuracy for several weights of its own loss (C14).

Images are carried to the noise end and back before and after; samples are compared with real images by the Fréchet
distance in the features of the pretrained network, the same for all. The distance between real images of the test and
the training split is the floor, and what a flow has beyond it its excess. Any smooth velocity can be followed back, so
that the round trip alone would call a flow reversible that generates nothing: the excess of samples decides as well. A
sampler that breaks down counts as the worst case, ``WORST`` times the excess. Where the pretrained flow breaks down
itself there is nothing to lose, and the seed says nothing. The first weight is the claim's; the others tell what
keeping the flow costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightly_prg.claims.findings import Finding, Outcome, Reading
from lightly_prg.claims.finetuning import finetuned, schedule_of
from lightly_prg.claims.recipe_studies import Reversibility
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.classifier.flow_comparison import compare_samples, round_trip_error
from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import embed, frechet_distance, result_to_dict
from lightly_prg.eval.comparison.statistics import paired_difference
from lightly_prg.features import PRGEncoder
from lightly_prg.features.rereading import reread
from lightly_prg.full_precision import full_precision
from lightly_prg.measurements.round_trips import round_trip_curve
from lightly_prg.measurements.sample_distance import generated_images
from lightly_prg.recipe import Recipe

GREY_LEVELS = 255
"""Errors are told in grey levels; a flow that leaves all bounds counts as having lost the whole range."""

WORST = 10.0
"""Times the excess of the pretrained flow: as far as any flow is told to be, and one whose sampler breaks down is."""

_FLOOR_SHARE = 0.01  # of the distance of real images: the smallest excess, below which there is nothing to lose

_SOLVERS = ("euler", "rk4")
_SAMPLING: dict[str, Any] = {"steps": 16, "solver": "heun2"}


def kinds(options: Reversibility, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The network as it was pretrained, and one fine-tuned with each weight."""
    return {"pretrained": {"beta": None}, **{f"beta-{beta:g}": {"beta": beta} for beta in options.betas}}


def measure(part: Part, cell: Mapping[str, Any], options: Reversibility) -> dict[str, Any]:
    """Fine-tunes, unless it is the pretrained network itself, and looks at the flow."""
    evaluation, result = part.evaluation, {}
    encoder: Any = evaluation.prg
    if cell["beta"] is not None:
        trained, model = finetuned(evaluation, schedule_of(options), steps=options.steps, beta=cell["beta"])
        encoder = model.encoder.to(evaluation.target)
        result["finetuned"] = trained
        name = f"samples-{part.data}-seed{part.seed}-beta{cell['beta']:g}"
        compare_samples(evaluation.prg, encoder, seed=part.seed, figures=part.figures / name)
    images = evaluation.some_images("test", options.images).pixels().float() / 255
    with full_precision(evaluation.target):
        curves = {solver: round_trip_curve(encoder, images, solver) for solver in _SOLVERS}
        error = round_trip_error(encoder, images)
        distance = _distance(part, encoder, options.samples)
    return {
        **result,
        "round_trip": error,
        "curves": {solver: [result_to_dict(point) for point in points] for solver, points in curves.items()},
        **distance,
    }


def _distance(part: Part, generator: PRGEncoder, count: int) -> dict[str, float | None]:
    """Of samples, and of real test images, to training images; None where the flow leaves all bounds."""
    evaluation = part.evaluation
    # A mean over space: of fewer numbers than there are images, as a covariance needs.
    judge = reread(evaluation.prg, feature={"pool": "mean"})
    options: dict[str, Any] = {"batch_size": part.recipe.eval.batch_size, "device": str(evaluation.target)}

    def features(images: ImageSet) -> Any:
        return embed(judge, images, **options).features

    real = {split: evaluation.some_images(split, count) for split in ("train", "test")}
    for split, images in real.items():
        if len(images) < count:  # the distance grows as images get few: that of real ones and of samples need as many
            raise UserError(
                f"study.samples is {count:,}, and {part.data} has {len(images):,} {split} images: take no more samples."
            )
    reference = features(real["train"])
    floor = frechet_distance(features(real["test"]), reference)
    try:
        generated = features(generated_images(generator, count, seed=part.seed, **_SAMPLING))
    except FloatingPointError:
        return {"distance": None, "floor": floor}
    distance = frechet_distance(generated, reference) if np.isfinite(generated).all() else math.inf
    return {"distance": distance if math.isfinite(distance) else None, "floor": floor}


def outcome(cells: Cells, options: Reversibility) -> Outcome:
    """The change of the round-trip error and of the excess of samples, which both decide, and the price in accuracy."""
    findings: list[Finding] = []
    readings = cells.readings("round trip, pretrained", "pretrained", _grey_levels, unit="grey levels")
    readings += _samples(cells, "pretrained", "pretrained")
    readings += cells.readings("Fréchet distance of real images", "pretrained", "floor", unit="")
    first = f"beta-{options.betas[0]:g}"
    for index, beta in enumerate(options.betas):
        kind, title = f"beta-{beta:g}", f"fine-tuned with beta {beta:g}"
        findings += cells.differences(
            f"round-trip error, {title} less pretrained",
            (kind, _grey_levels),
            ("pretrained", _grey_levels_of_a_flow),
            unit="grey levels",
            side="below" if index == 0 else None,
        )
        for data in cells.sets:
            grown = _doublings(cells, data, kind)
            findings += cells.finding(
                f"Fréchet distance of samples beyond that of real images, at most {WORST:g} times, {title} against "
                "pretrained",
                data,
                paired_difference(grown, dict.fromkeys(grown, 0.0)),
                unit="doublings",
                side="below" if index == 0 else None,
                margin=options.doublings_margin,
            )
        if index > 0:
            name = f"accuracy, beta {beta:g} less beta {options.betas[0]:g}"
            findings += cells.differences(name, (kind, _top1), (first, _top1))
        readings += cells.readings(f"round trip, {title}", kind, _grey_levels, unit="grey levels")
        readings += _samples(cells, kind, title)
        readings += cells.readings(f"accuracy, {title}", kind, _top1)
    return Outcome(tuple(findings), tuple(readings))


def _samples(cells: Cells, kind: str, title: str) -> list[Reading]:
    broken = cells.readings(f"samplers that broke down, {title}", kind, _broke_down, unit="% of the seeds")
    told = [reading for reading in broken if reading.mean > 0.0]  # their distances are in no mean
    return [*cells.readings(f"Fréchet distance of samples, {title}", kind, "distance", unit=""), *told]


def _doublings(cells: Cells, data: str, kind: str) -> dict[int, float]:
    """By seed, how often the excess doubled, at most to ``WORST`` times and at least to its inverse."""
    before, after = (cells.by_seed(data, one, _excess) for one in ("pretrained", kind))
    flows = sorted(seed for seed in before.keys() & after.keys() if math.isfinite(before[seed]))
    return {seed: math.log2(min(WORST, max(1 / WORST, after[seed] / before[seed]))) for seed in flows}


def _excess(result: Mapping[str, Any]) -> float:
    """The distance of samples beyond that of real images; infinite where there are none."""
    distance, floor = result["distance"], result["floor"]
    least = max(_FLOOR_SHARE * floor, 1e-12)
    return math.inf if distance is None else max(distance - floor, least)


def _broke_down(result: Mapping[str, Any]) -> float:
    return 100.0 * (result["distance"] is None)


def _grey_levels(result: Mapping[str, Any]) -> float:
    error = result["round_trip"]
    return float(GREY_LEVELS if error is None else min(1.0, error) * GREY_LEVELS)


def _grey_levels_of_a_flow(result: Mapping[str, Any]) -> float | None:
    """None where the flow left all bounds: nothing can be lost of it."""
    return None if result["round_trip"] is None else _grey_levels(result)


def _top1(result: Mapping[str, Any]) -> float:
    return float(result["finetuned"]["top1"])


STUDY = Study(kinds=kinds, measure=measure, outcome=outcome, aside=frozenset({"betas", "doublings_margin"}))
