"""Does better pretraining give better fine-tuning? Snapshots of one training, measured, probed and fine-tuned (C3).

The paper argues by mutual information, which a flow, being invertible, cannot raise; what can be measured in its place
is taken of every snapshot: the held-out loss, bits per dimension, Gaussianity of the noise end, what noise on the code
destroys, label information, and the round trip. Each is ranked against the accuracy over the snapshots of a run. Over
these, loss, likelihood and the mere number of steps mostly rank alike, so that the loss alone decides; and a rank is
blind to how much is gained, so that the gain over the later part of the training decides beside it. A snapshot before
the first step is told and not ranked: its output starts at zero, so that its flow is the identity map, a handicap that
is none of a lack of pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from lightly_prg.claims.findings import Finding, Outcome, Reading
from lightly_prg.claims.finetuning import finetuned, schedule_of
from lightly_prg.claims.recipe_studies import BetterPretraining
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.statistics import mean_of, paired_difference
from lightly_prg.measurements.suite import measure_all
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run
from lightly_prg.scan.features import drawn_by_class
from lightly_prg.scan.frozen_judging import judge_encoder
from lightly_prg.scan.rank_correlation import rank_correlation
from lightly_prg.training.snapshots import snapshot_at, snapshot_step

_FEWEST = 3  # snapshots that can be ranked

BETTER = {
    "loss": ("lower held-out loss", -1),
    "bits_per_dim": ("fewer bits per dimension", -1),
    "sliced_wasserstein": ("noise end nearer to a Gaussian", -1),
    "missing_bits": ("fewer bits lost to noise on the code", -1),
    "label_bits_noise": ("more label information at the noise end", 1),
    "round_trip_rmse": ("smaller round-trip error", -1),
}
"""Some of what ``measure_all`` gives, what is better of each, and the sign that makes more of it better."""

DECIDING = "loss"


def kinds(options: BetterPretraining, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """A cell for each snapshot, from the first.

    Raises:
        UserError: If there are too few to rank.
    """
    count = sum(share > 0.0 for share in recipe.train.snapshots)
    if count < _FEWEST:
        raise UserError(
            f"The study better_pretraining ranks snapshots after the first step, of which there are {count}: at least "
            f"{_FEWEST} such shares are needed in train.snapshots among the overrides."
        )
    if options.rise_from not in recipe.train.snapshots or options.rise_from == max(recipe.train.snapshots):
        shares = ", ".join(f"{share:g}" for share in sorted(recipe.train.snapshots)[:-1])
        raise UserError(
            f"study.rise_from is {options.rise_from:g}; it has to be one of the earlier snapshots, {shares}."
        )
    return {f"snapshot-{share:g}": {"share": share} for share in sorted(recipe.train.snapshots)}


def measure(part: Part, cell: Mapping[str, Any], options: BetterPretraining) -> dict[str, Any]:
    """Measurements on validation images, a frozen probe of the recipe's block, and the state fine-tuned by the ODE."""
    evaluation = part.evaluation_of(_snapshot(part, cell["share"]))
    bank = drawn_by_class(evaluation.images("train"), options.train_images, part.seed)
    probed = judge_encoder(evaluation, evaluation.prg, bank=bank, judged=evaluation.images("test"))
    trained, _ = finetuned(evaluation, schedule_of(options), steps=options.steps)
    return {
        "share": cell["share"],
        "steps": evaluation.description["training"]["steps"],
        "measurements": measure_all(evaluation, split="validation", max_images=options.images, solvers=("heun2",)),
        "probed": probed,
        "finetuned": trained,
    }


def _snapshot(part: Part, share: float) -> Run:
    """The network after a share of its training.

    Raises:
        UserError: If there is none, or it stands for another share too.
    """
    total = part.run.description["training"]["steps"]
    step = snapshot_step(share, total)
    same = [other for other in sorted(part.recipe.train.snapshots) if snapshot_step(other, total) == step]
    if len(same) > 1:
        raise UserError(
            f"{same[0]:g} and {same[1]:g} of {total} steps are both step {step}: take shares in train.snapshots that "
            "are further apart."
        )
    snapshot = snapshot_at(part.run, step)
    if not snapshot.is_trained:
        raise UserError(
            f"{snapshot.folder}, the snapshot at {share:g} of the training, is not there: remove {part.run.folder}, "
            "which is then trained again."
        )
    return snapshot


def outcome(cells: Cells, options: BetterPretraining) -> Outcome:
    """Rank correlations over the snapshots of a run, and what the later part of the training added; both decide."""
    findings: list[Finding] = []
    count = len({cell.kind for cell in cells.measured if cell.result["steps"] > 0})
    step = 12.0 / (count * (count**2 - 1)) if count > 1 else 0.0  # of Spearman's correlation of so many without ties
    for key, (title, sign) in BETTER.items():
        for accuracy, pick in (("fine-tuned accuracy", _finetuned), ("linear probe", _linear)):
            decides = key == DECIDING and pick is _finetuned
            name = f"rank correlation of {title} with {accuracy}"
            for data in cells.sets:
                by_seed = _correlations(cells, data, key, sign, pick)
                difference = paired_difference(by_seed, dict.fromkeys(by_seed, 0.0), step=step)
                findings += cells.finding(
                    name, data, difference, unit="rank correlation", side="above" if decides else None
                )
    shares = {cell.kind: cell.result["share"] for cell in cells.measured}
    titles = {
        kind: f"{100 * share:g} % of the training" for kind, share in sorted(shares.items(), key=lambda one: one[1])
    }
    *_, last = titles
    early = next(kind for kind in titles if shares[kind] == options.rise_from)
    rise = (early, last)
    for before, after in dict.fromkeys((rise, *pairwise(titles))):
        name = f"fine-tuned accuracy, after {titles[after]} less after {titles[before]}"
        findings += cells.differences(
            name,
            (after, _finetuned),
            (before, _finetuned),
            side="above" if (before, after) == rise else None,
            margin=options.rise_margin,
        )
    readings = [
        Reading("rank correlation of the number of training steps with fine-tuned accuracy", data, "", mean, deviation)
        for data, mean, deviation in _of_steps(cells)
    ]
    for kind, title in titles.items():
        readings += cells.readings(f"fine-tuned accuracy, after {title}", kind, _finetuned)
        readings += cells.readings(f"linear probe, after {title}", kind, _linear)
        readings += cells.readings(f"bits per dimension, after {title}", kind, _bits, unit="")
    return Outcome(tuple(findings), tuple(readings))


def _of_steps(cells: Cells) -> Iterator[tuple[str, float, float | None]]:
    for data in cells.sets:
        found = mean_of(list(_ranked(cells, data, lambda result: result["steps"], _finetuned).values()))
        yield data, found.mean, found.deviation


def _correlations(
    cells: Cells, data: str, key: str, sign: int, pick: Callable[[Mapping[str, Any]], float]
) -> dict[int, float]:
    def better(result: Mapping[str, Any]) -> float | None:
        value = result["measurements"].get(key)
        return None if value is None else sign * value

    return _ranked(cells, data, better, pick)


def _ranked(
    cells: Cells,
    data: str,
    first: Callable[[Mapping[str, Any]], float | None],
    second: Callable[[Mapping[str, Any]], float],
) -> dict[int, float]:
    """The rank correlation by seed; 0 where all snapshots are equal in one of both.

    A seed of which a snapshot could not be measured is left out: a correlation of the others answers another question.
    """
    by_seed: dict[int, list[tuple[float | None, float | None]]] = {}
    for cell in cells.measured:
        if cell.data == data and cell.result["steps"] > 0:
            by_seed.setdefault(cell.seed, []).append((first(cell.result), second(cell.result)))
    whole = {seed: pairs for seed, pairs in by_seed.items() if not any(None in pair for pair in pairs)}
    return {seed: rank_correlation(pairs) or 0.0 for seed, pairs in whole.items()}


def _finetuned(result: Mapping[str, Any]) -> float:
    return float(result["finetuned"]["top1"])


def _linear(result: Mapping[str, Any]) -> float:
    return float(result["probed"]["linear"])


def _bits(result: Mapping[str, Any]) -> float | None:
    value: float | None = result["measurements"].get("bits_per_dim")
    return value


STUDY = Study(kinds=kinds, measure=measure, outcome=outcome, aside=frozenset({"rise_from", "rise_margin"}))
