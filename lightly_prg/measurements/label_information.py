"""How much of the label a linear probe can read out of embeddings, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.device import float64_device, resolve_device
from lightly_prg.eval.embeddings import Embeddings, check_same_encoder
from lightly_prg.eval.label_draws import hold_out
from lightly_prg.eval.linear import PENALTIES
from lightly_prg.eval.logistic import LogisticFit, fit_penalties
from lightly_prg.eval.probe import FitData
from lightly_prg.full_precision import full_float32

_PATIENCE = 2


@dataclass(frozen=True)
class LabelInformation:
    """Label information of embeddings, in bits.

    Attributes:
        bits: ``H(Y)`` less the cross-entropy: a lower bound on ``I(Y; Z)``. Negative where the probe is worse
            than the class frequencies.
        standard_error: Over the judged images; None for a single one.
        entropy: ``H(Y)`` of the judged images.
        cross_entropy: Of the probe on the judged images.
        top1: Percent of them whose class it found.
        penalty: The one that the images held out chose.
        num_train: Images of the final fit.
        num_test: Judged images.
    """

    bits: float
    standard_error: float | None
    entropy: float
    cross_entropy: float
    top1: float
    penalty: float
    num_train: int
    num_test: int


def label_information(
    train: Embeddings,
    test: Embeddings,
    *,
    validation: Embeddings | None = None,
    max_iterations: int = 100,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> LabelInformation:
    """Bounds ``I(Y; Z) >= H(Y) - E[-log2 p(y | z)]`` with the logistic regression of the linear probe.

    The penalty is chosen by the cross-entropy on validation images, which is what tightens the bound, or on a
    stratified tenth of the training images; the fit is then repeated on all of them. A bijection cannot change
    ``I(Y; Z)``; what changes along the path is how much of it a linear probe can use.

    Args:
        train: Embeddings to fit.
        test: Embeddings to judge, from the same encoder.
        validation: Embeddings that choose the penalty.
        max_iterations: Of L-BFGS for each penalty.
        seed: Decides what is held out.
        device: ``auto``, ``cpu`` or ``cuda``; on MPS, which has no float64, the CPU fits.

    Raises:
        UserError: If labels are missing, or there are judged images of a class that was not trained.
        ValueError: If the embeddings come from different encoders.
    """
    parts = (train, test, validation if validation is not None else train.select([]))
    check_same_encoder(parts)
    train, test, chooser = (part.labelled() for part in parts)
    if len(test) == 0 or len(np.unique(train.labels)) < 2:
        raise UserError("Label information needs labelled images, those for training of two classes.")
    fitted = train
    everything: tuple[Embeddings, ...] = (train, chooser)
    if len(chooser) == 0:
        pool, held = hold_out(train.labels, seed=seed)
        fitted, chooser, everything = train.select(pool), train.select(held), (train,)
    place = float64_device(resolve_device(device))
    with full_float32():
        data = FitData.of((fitted,), place)
        penalty = _choose(data, chooser, max_iterations)
        data = FitData.of(everything, place)
        (fit,) = _fits(data, (penalty,), max_iterations)
        surprise = _surprise(data, fit, test)
        top1 = 100.0 * float(data.hits(fit, data.standardise(test), test.labels, top=1).double().mean())
    if not bool(surprise.isfinite().all()):
        raise UserError("There are images to judge of a class that no training image has.")
    counts = np.unique(test.labels, return_counts=True)[1]
    shares = counts / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    cross_entropy = float(surprise.mean())
    return LabelInformation(
        bits=entropy - cross_entropy,
        standard_error=float(surprise.std()) / math.sqrt(len(test)) if len(test) > 1 else None,
        entropy=entropy,
        cross_entropy=cross_entropy,
        top1=top1,
        penalty=fit.penalty,
        num_train=len(data.targets),
        num_test=len(test),
    )


def _choose(data: FitData, held: Embeddings, max_iterations: int) -> float:
    """The penalty of the lowest cross-entropy on images held out."""
    losses: list[float] = []
    for fit in _fits(data, PENALTIES, max_iterations, choosing=True):
        surprise = _surprise(data, fit, held)
        # A class that occurs among these alone is no reason to prefer any penalty.
        losses.append(float(surprise[surprise.isfinite()].mean()))
        # Weaker ones overfit more, and are slow.
        if len(losses) > int(np.argmin(losses)) + _PATIENCE:
            break
    return PENALTIES[int(np.argmin(losses))]


def _fits(
    data: FitData, penalties: tuple[float, ...], max_iterations: int, *, choosing: bool = False
) -> Iterator[LogisticFit]:
    return fit_penalties(
        data.features,
        data.targets,
        penalties,
        num_classes=len(data.classes),
        max_iterations=max_iterations,
        choosing=choosing,
    )


def _surprise(data: FitData, fit: LogisticFit, judged: Embeddings) -> Tensor:
    """``-log2 p(y | z)`` of each image, ``(N,)`` on the CPU; infinite for a class that was not fitted."""
    logs = fit.scores(data.standardise(judged)).double().log_softmax(dim=1)
    truth = torch.from_numpy(judged.labels).to(logs.device)
    matches = data.classes == truth[:, None]
    chosen = torch.where(matches, logs, 0.0).sum(1).masked_fill(~matches.any(1), -math.inf)
    return (-chosen / math.log(2)).cpu()
