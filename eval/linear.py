"""The linear probe: logistic regression on frozen embeddings, with all labels or few."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.device import float64_device, resolve_device, threads_for
from lightly_prg.eval.embeddings import Embeddings, check_same_encoder, overall_speed
from lightly_prg.eval.grids import several
from lightly_prg.eval.label_checks import check_amount, count_classes
from lightly_prg.eval.label_draws import draw_labels, hold_out
from lightly_prg.eval.probe import LinearDraw, Probe
from lightly_prg.full_precision import full_float32

PENALTIES = tuple(10.0**-exponent for exponent in range(-1, 7))
"""10, 1, ... 1e-6: from class means alone to hardly any penalty."""


@dataclass(frozen=True)
class LinearResult:
    """Accuracy of a linear probe; means over the draws, of which there is one for all labels.

    Attributes:
        top1: Percent of the test images whose class had the highest score.
        top1_std: Its standard deviation over the draws (N - 1); None for one.
        top5: Percent whose class was among the five highest; None for fewer than five classes.
        calibration_error: Expected calibration error in percent; see ``lightly_prg.eval.calibration``.
        validation_top1: Percent on the images that chose the penalty.
        penalty: The chosen penalty of each draw.
        penalty_at_edge: Whether that of any draw ends the grid.
        converged: Whether all final fits did.
        gradient_norm: The largest of theirs.
        labels: None for all, else labels of each class or the share of them.
        draws: Independent draws of the labels.
        per_draw: Each of them.
        num_train: Images of a final fit.
        num_validation: Images that chose the penalty.
        num_test: Labelled images that were classified.
        num_classes: Classes that were told apart.
        embedding_dim: D.
        nfe: Network evaluations that one embedding cost.
        seconds: Duration of it all.
        images_per_second: Speed of the embedding.
        seed: Of the draws and of what is held out.
        options: What was asked for.
    """

    top1: float
    top1_std: float | None
    top5: float | None
    calibration_error: float
    validation_top1: float
    penalty: tuple[float, ...]
    penalty_at_edge: bool
    converged: bool
    gradient_norm: float
    labels: int | float | None
    draws: int
    per_draw: tuple[LinearDraw, ...]
    num_train: int
    num_validation: int
    num_test: int
    num_classes: int
    embedding_dim: int
    nfe: float
    seconds: float
    images_per_second: float
    seed: int
    options: dict[str, Any]


def evaluate_linear(
    train: Embeddings,
    test: Embeddings,
    *,
    validation: Embeddings | None = None,
    labels: int | float | None = None,
    draws: int = 5,
    penalties: Sequence[float] | None = None,
    max_iterations: int = 200,
    seed: int = 0,
    num_classes: int | None = None,
    device: str | torch.device = "auto",
) -> LinearResult:
    """Fits a logistic regression on frozen features and counts its hits on the test set.

    The objective is the mean cross-entropy plus ``penalty / 2`` times the squared weights, on
    features standardised by what is fitted (scikit-learn's with ``C = 1 / (N * penalty)``). The
    penalty is the one of the highest validation accuracy, the stronger of equal ones. With all
    labels, the fit is then repeated on training and validation images; with few labels, the draw
    alone is fitted. The test set is classified once and chooses nothing.

    Embeddings of label -1 are left out everywhere. All fitted features are held in memory.

    Args:
        train: Embeddings to fit.
        test: Embeddings to classify, from the same encoder.
        validation: Embeddings that choose the penalty. Default: a stratified tenth of ``train``,
            which few labels are then not drawn from.
        labels: None for all; n for n of each class; a share in (0, 1) for that of each class.
        draws: Independent stratified draws of few labels.
        penalties: The grid; default ``PENALTIES``.
        max_iterations: Of L-BFGS for each penalty.
        seed: Decides the draws and what is held out.
        num_classes: Number of classes; default the highest label and one.
        device: ``auto``, ``cpu`` or ``cuda``; on MPS, which has no float64, the CPU fits.

    Raises:
        UserError: If labels are missing or too few, or an option is not allowed.
        ValueError: If the embeddings come from different encoders.
    """
    start = time.perf_counter()
    grid = _check_options(labels, draws, penalties, max_iterations)
    given = validation if validation is not None else train.select([])
    parts = (train, given, test)
    check_same_encoder(parts)
    train, given, test = (part.labelled() for part in parts)
    num_classes = count_classes(train, given, test, num_classes, evaluator="the linear probe")
    place = resolve_device(device)
    probe = Probe(
        test=test,
        penalties=grid,
        max_iterations=max_iterations,
        num_classes=num_classes,
        device=float64_device(place),
    )
    pool, chooser = np.arange(len(train)), given
    if len(given) == 0:
        pool, held = hold_out(train.labels, seed=seed)
        chooser = train.select(held)
    with full_float32(), threads_for(train.features.size):
        if labels is None:
            fitted = train if len(given) else train.select(pool)
            results = [probe.run(fitted, chooser, refit=(train, given))]
        else:
            results = []
            for draw in range(draws):
                rows = draw_labels(train.labels, pool, labels, seed=seed, draw=draw)
                results.append(probe.run(train.select(rows), chooser, refit=None))

    accuracies = [result.top1 for result in results]
    top5 = [result.top5 for result in results if result.top5 is not None]
    return LinearResult(
        top1=float(np.mean(accuracies)),
        top1_std=float(np.std(accuracies, ddof=1)) if len(results) > 1 else None,
        top5=float(np.mean(top5)) if top5 else None,
        calibration_error=float(np.mean([result.calibration_error for result in results])),
        validation_top1=float(np.mean([result.validation_top1 for result in results])),
        penalty=tuple(result.penalty for result in results),
        penalty_at_edge=any(result.penalty_at_edge for result in results),
        converged=all(result.converged for result in results),
        gradient_norm=max(result.gradient_norm for result in results),
        labels=labels,
        draws=len(results),
        per_draw=tuple(results),
        num_train=results[0].num_train,
        num_validation=len(chooser),
        num_test=len(test),
        num_classes=num_classes,
        embedding_dim=train.embedding_dim,
        nfe=train.nfe,
        seconds=time.perf_counter() - start,
        images_per_second=overall_speed(parts),
        seed=seed,
        options={
            "labels": labels,
            "draws": len(results),
            "penalties": list(grid),
            "max_iterations": max_iterations,
        },
    )


def _check_options(
    labels: int | float | None, draws: int, penalties: Sequence[float] | None, max_iterations: int
) -> tuple[float, ...]:
    """Returns the penalties from strong to weak."""
    check_amount(labels)
    for name, value in (("draws", draws), ("max_iterations", max_iterations)):
        if value < 1:
            raise UserError(f"{name} is {value}; at least 1 is needed.")
    grid = sorted(set(PENALTIES if penalties is None else several(penalties)), reverse=True)
    if not grid or not all(0.0 < penalty < float("inf") for penalty in grid):
        raise UserError(f"The penalties are {grid}; at least one is needed, all above 0.")
    return tuple(grid)
