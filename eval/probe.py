"""One linear probe: the penalty chosen on validation images, the test set classified at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightly_prg.eval.calibration import expected_calibration_error
from lightly_prg.eval.embeddings import Embeddings, Labels
from lightly_prg.eval.logistic import LogisticFit, fit_penalties
from lightly_prg.eval.standardise import Standardiser

# Up to this size a fit in float64 costs next to nothing.
_DOUBLE_ELEMENTS = 1 << 22


_PATIENCE = 2
"""Penalties in a row that may do worse than the best before the sweep ends: weaker ones overfit more, and are slow.

Equal ones are not worse, and a best that the most frequent class alone would reach is none yet: strong penalties leave
it."""


@dataclass(frozen=True)
class LinearDraw:
    """One fit of the probe.

    Attributes:
        top1: Percent of the test images whose class had the highest score.
        top5: Percent whose class was among the five highest; None for fewer than five classes.
        calibration_error: Expected calibration error in percent, over 15 bins.
        validation_top1: Percent on the images that chose the penalty, before any refit.
        penalty: The chosen one.
        penalty_at_edge: Whether it ends the grid, so that a better one may lie beyond.
        num_train: Images of the final fit.
        converged: Whether the final fit did.
        gradient_norm: Largest entry of its gradient, by absolute value.
        iterations: Its iterations.
    """

    top1: float
    top5: float | None
    calibration_error: float
    validation_top1: float
    penalty: float
    penalty_at_edge: bool
    num_train: int
    converged: bool
    gradient_norm: float
    iterations: int


@dataclass(frozen=True)
class Probe:
    """What every fit of one evaluation has in common."""

    test: Embeddings
    penalties: tuple[float, ...]
    max_iterations: int
    num_classes: int
    device: torch.device

    def run(
        self,
        fitted: Embeddings,
        validation: Embeddings,
        *,
        refit: tuple[Embeddings, ...] | None,
    ) -> LinearDraw:
        """Chooses the penalty, fits once more where that is wanted, and classifies the test set."""
        chosen = self.choose(fitted, validation, refit=refit)
        data, fit = chosen.data, chosen.fit
        tested = data.standardise(self.test)
        top1 = data.hits(fit, tested, self.test.labels, top=1)
        top5 = data.hits(fit, tested, self.test.labels, top=5)
        confidence = fit.scores(tested).double().softmax(dim=1).amax(dim=1).clamp(max=1.0)
        return LinearDraw(
            top1=_percent(top1),
            top5=_percent(top5) if self.num_classes >= 5 else None,
            calibration_error=expected_calibration_error(confidence.cpu().numpy(), top1.cpu().numpy()),
            validation_top1=chosen.validation_top1,
            penalty=fit.penalty,
            penalty_at_edge=chosen.penalty_at_edge,
            num_train=len(data.targets),
            converged=fit.converged,
            gradient_norm=fit.gradient_norm,
            iterations=fit.iterations,
        )

    def choose(
        self,
        fitted: Embeddings,
        validation: Embeddings,
        *,
        refit: tuple[Embeddings, ...] | None,
    ) -> ChosenFit:
        """Chooses the penalty by the validation images, and fits once more where that is wanted."""
        data = FitData.of((fitted,), self.device)
        held = data.standardise(validation)
        accuracies, fits, least = [], [], _majority(validation.labels)
        for fit in self._fits(data, self.penalties, choosing=True):
            accuracies.append(_percent(data.hits(fit, held, validation.labels, top=1)))
            fits.append(fit)
            best_so_far = max(accuracies)
            if best_so_far > least and all(accuracy < best_so_far for accuracy in accuracies[-_PATIENCE:]):
                break
        best = int(np.argmax(accuracies))  # the first, that is the strongest, of equal ones
        fit, classes = fits[best], data.classes
        del held, fits
        if refit is not None:
            del data  # before its successor, which is as large
            data = FitData.of(refit, self.device)
        # A class that validation images alone have was not fitted yet: then nothing is there to start from.
        start = fit if torch.equal(classes, data.classes) else None
        (fit,) = self._fits(data, (fit.penalty,), start=start)  # to the end
        return ChosenFit(data, fit, accuracies[best], _at_edge(accuracies, best))

    def _fits(
        self,
        data: FitData,
        penalties: tuple[float, ...],
        *,
        start: LogisticFit | None = None,
        choosing: bool = False,
    ) -> Iterator[LogisticFit]:
        return fit_penalties(
            data.features,
            data.targets,
            penalties,
            num_classes=len(data.classes),
            max_iterations=self.max_iterations,
            start=start,
            choosing=choosing,
        )


@dataclass(frozen=True, eq=False)
class FitData:
    """Standardised features with targets that count the classes that occur: 0, 1, ...

    The features lie in memory feature by feature, which is how ``fit_penalties`` reads them. A class without a sample
    has no place in the fit: its bias would run to minus infinity.
    """

    features: Tensor
    targets: Tensor
    classes: Tensor
    standardiser: Standardiser

    @classmethod
    def of(cls, parts: Sequence[Embeddings], device: torch.device) -> FitData:
        """The parts behind each other, standardised by their own statistics."""
        arrays = [part.features for part in parts if len(part)]
        size = sum(array.size for array in arrays)
        dtype = torch.float64 if size <= _DOUBLE_ELEMENTS else torch.float32
        standardiser = Standardiser.of(arrays)
        labels = np.concatenate([part.labels for part in parts])
        classes, targets = np.unique(labels, return_inverse=True)
        return cls(
            standardiser(arrays, dtype=dtype, device=device, by_feature=True),
            torch.from_numpy(targets).to(device),
            torch.from_numpy(classes).to(device),
            standardiser,
        )

    def standardise(self, embeddings: Embeddings) -> Tensor:
        """Other features by the same statistics, in the same type and place."""
        features = self.features
        return self.standardiser([embeddings.features], dtype=features.dtype, device=features.device)

    def hits(self, fit: LogisticFit, features: Tensor, labels: Labels, *, top: int) -> Tensor:
        """Whether the class is among the ``top`` highest scores, ``(N,)``."""
        ranked = fit.scores(features).topk(min(top, len(self.classes)), dim=1).indices
        truth = torch.from_numpy(labels).to(features.device)
        return (self.classes[ranked] == truth[:, None]).any(dim=1)


@dataclass(frozen=True, eq=False)
class ChosenFit:
    """The final fit of the chosen penalty.

    Attributes:
        data: What it was fitted on.
        fit: The fit.
        validation_top1: Percent on the images that chose the penalty, before any refit.
        penalty_at_edge: Whether it ends the grid, so that a better one may lie beyond.
    """

    data: FitData
    fit: LogisticFit
    validation_top1: float
    penalty_at_edge: bool


def _percent(hits: Tensor) -> float:
    return 100.0 * int(hits.sum()) / len(hits)


def _majority(labels: Labels) -> float:
    """Percent that the most frequent class makes up."""
    return 100.0 * int(np.unique(labels, return_counts=True)[1].max()) / len(labels)


def _at_edge(accuracies: Sequence[float], best: int) -> bool:
    """Whether the accuracy still rises at the end of the grid where the best penalty lies."""
    if len(accuracies) == 1:
        return False
    if best == 0:
        return accuracies[0] > accuracies[1]
    return best == len(accuracies) - 1
