"""Judging the cells of a scan, and whether a criterion without labels would have ranked them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from lightly_prg.eval import evaluate_knn, evaluate_linear
from lightly_prg.eval.label_free import alpha_req, closeness_to_one, rankme
from lightly_prg.features.cells import Row, Source
from lightly_prg.scan.features import CellFeatures
from lightly_prg.scan.rank_correlation import rank_correlation

Criterion = Literal["linear", "knn", "both", "rankme", "alpha_req"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
ACCURACIES: tuple[Criterion, ...] = CRITERIA[:3]
LABEL_FREE: tuple[Criterion, ...] = CRITERIA[3:]

SCAN_K = 20
SCAN_ITERATIONS = 50
"""Fewer for each penalty than the linear probe of a result takes: a scan fits a probe for every cell, and only their
order matters. All its penalties are tried, though: short features want small ones, and would be ranked too low. The
chosen cell is judged in full by ``lightly-prg linear``."""


@dataclass(frozen=True)
class ScannedCell:
    """One feature and what it is worth.

    Attributes:
        source: ``state``, ``velocity``, ``denoised``, ``block`` or ``output``.
        block: Name of the block, for the source ``block``.
        pool: How it is pooled.
        tau: Where on the path; several are concatenated; none for a network that is run once.
        steps: Solver steps that lead to the last tau.
        reproducible: Whether the feature, read alone with so many steps, takes the very same steps.
        embedding_dim: D.
        nfe: Network evaluations where it is read alone.
        knn: Top-1 of k-NN with k = 20, in percent; None without labels.
        linear: Top-1 of a linear probe, in percent; None without labels.
        rankme: RankMe of the training features; None where the criteria without labels were left out.
        alpha_req: alpha-ReQ of the training features; None likewise, and where there are too few directions for it.
    """

    source: Source
    block: str | None
    pool: str
    tau: tuple[float, ...]
    steps: int
    reproducible: bool
    embedding_dim: int
    nfe: float
    knn: float | None
    linear: float | None
    rankme: float | None
    alpha_req: float | None

    @property
    def name(self) -> str:
        """The block, or else the source."""
        return self.block if self.block is not None else self.source

    @property
    def position(self) -> str:
        """Where on the path, for readers; ``all`` where several are concatenated, which are always all of a scan."""
        return "all" if len(self.tau) > 1 else f"{self.tau[0]:g}" if self.tau else ""

    @property
    def both(self) -> float | None:
        """The mean of both accuracies, for one feature that serves k-NN and probe."""
        return None if self.knn is None or self.linear is None else (self.knn + self.linear) / 2

    def score(self, criterion: str) -> float | None:
        """What a criterion gives, more being better."""
        value: float | None = getattr(self, criterion)
        return closeness_to_one(value) if criterion == "alpha_req" else value


Identity = tuple[Row, tuple[float, ...]]


def identity(cell: ScannedCell) -> Identity:
    """What tells a cell from the others of its scan: its row and positions."""
    return Row(cell.source, cell.block, cell.pool), cell.tau


def judge(features: CellFeatures, *, seed: int, num_classes: int, device: str, label_free: bool = True) -> ScannedCell:
    """Judges one cell: k-NN and a linear probe where there are labels, and unless left out the criteria without labels.

    The penalty of the probe is chosen on a tenth of the training images, never on those that are judged.
    """
    cell, bank, judged = features.cell, features.bank, features.judged
    knn = linear = None
    if judged is not None:
        common: dict[str, Any] = {"num_classes": num_classes, "device": device}
        knn = evaluate_knn(bank, judged, k=SCAN_K, ks=(SCAN_K,), **common).top1
        linear = evaluate_linear(bank, judged, max_iterations=SCAN_ITERATIONS, seed=seed, **common).top1
    return ScannedCell(
        source=cell.row.source,
        block=cell.row.block,
        pool=cell.row.pool,
        tau=cell.taus,
        steps=cell.steps,
        reproducible=cell.reproducible,
        embedding_dim=bank.embedding_dim,
        nfe=bank.nfe,
        knn=knn,
        linear=linear,
        rankme=rankme(bank.features) if label_free else None,
        alpha_req=alpha_req(bank.features) if label_free else None,
    )


def ranking(criterion: str) -> Callable[[ScannedCell], tuple[float, ...]]:
    """A sort key that puts the best cell first; of equal ones the better by the others, then the cheaper."""
    order = [criterion, *(other for other in CRITERIA[:2] if other != criterion)]

    def key(cell: ScannedCell) -> tuple[float, ...]:
        scores = [cell.score(name) for name in order]
        return (*(np.inf if value is None else -value for value in scores), cell.nfe, cell.embedding_dim)

    return key


def finalists_of(
    cells: Sequence[ScannedCell],
    count: int,
    key: Callable[[ScannedCell], Any],
    samples: Mapping[Identity, np.ndarray[Any, Any]],
) -> set[Identity]:
    """The best cells; of features that are the same, such as a last block and the output, the better one alone.

    Args:
        cells: All that were judged.
        count: So many at most.
        key: Of ``ranking``.
        samples: The features of the same few images for each cell.
    """
    chosen: dict[Identity, np.ndarray[Any, Any]] = {}
    for cell in sorted(cells, key=key):
        if len(chosen) == count:
            break
        mine = samples[identity(cell)]
        # What images differ by is what counts; of what they share, averages of bf16 numbers, which a network may take
        # itself, have three digits.
        close = 0.02 * float(np.abs(mine - mine.mean(axis=0)).mean()) + 0.004 * float(np.abs(mine).mean())
        if not any(
            other.shape == mine.shape and float(np.abs(other - mine).mean()) <= close for other in chosen.values()
        ):
            chosen[identity(cell)] = mine
    return set(chosen)


def rank_correlations(cells: Sequence[ScannedCell]) -> dict[str, dict[str, float | None]]:
    """Spearman's rank correlation over the cells: ``{criterion: {"knn": ..., "linear": ...}}``.

    ``embedding_dim`` stands beside the criteria: one that only counts dimensions would do as well. None where there are
    fewer than three cells, or all are equal.
    """
    found: dict[str, dict[str, float | None]] = {}
    for criterion in (*LABEL_FREE, "embedding_dim"):
        found[criterion] = {}
        for accuracy in ACCURACIES:
            pairs = [(cell.score(criterion), cell.score(accuracy)) for cell in cells]
            found[criterion][accuracy] = rank_correlation(pairs)
    return found


def verdict(
    correlations: Mapping[str, Mapping[str, float | None]],
    choices: Mapping[str, ScannedCell],
    best: ScannedCell,
    criterion: str,
    cells: int,
) -> str:
    """Says in words whether a choice without labels would have been a good one.

    Args:
        correlations: From ``rank_correlations``.
        choices: The cell that each criterion without labels puts first.
        best: The cell that the labels put first.
        criterion: ``knn``, ``linear`` or ``both``.
        cells: How many were judged.
    """
    names = {"rankme": "RankMe", "alpha_req": "alpha-ReQ", "embedding_dim": "the number of dimensions alone"}
    told = []
    for name, values in correlations.items():
        value = values[criterion]
        told.append(f"{names[name]} {'has none' if value is None else f'{value:+.2f}'}")
    top = best.score(criterion)
    assert top is not None
    lost = {name: top - (cell.score(criterion) or 0.0) for name, cell in choices.items()}
    costs = " and ".join(f"{names[name]}'s choice loses {value:.1f} points" for name, value in lost.items())
    usable = [value for name in choices if (value := correlations[name][criterion]) is not None]
    strongest = max(usable, default=0.0)
    word = "predict it well" if strongest >= 0.7 else "predict it in part" if strongest >= 0.4 else "hardly predict it"
    dimensions = correlations["embedding_dim"][criterion]
    if dimensions is not None and strongest <= dimensions:
        word += ", no better than counting dimensions does,"
    title = {"knn": "k-NN", "both": "mean k-NN and linear"}.get(criterion, criterion)
    return (
        f"Without labels: the rank correlation with {title} accuracy over {cells} cells is {', '.join(told)}, so the "
        f"label-free criteria {word} here. Against the best cell, {costs}."
    )
