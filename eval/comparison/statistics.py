"""Means over seeds, paired differences, and which methods are worth their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        mean: In percent, or points.
        deviation: Standard deviation over the seeds (N - 1); None for one.
        count: N.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """A method less the reference, seed by seed.

    Attributes:
        mean: In points.
        standard_error: Of the mean; None for one seed.
        half_width: Of the 95 % interval by Student's t with N - 1 degrees of freedom; None for one seed.
        by_seed: The differences.
    """

    mean: float
    standard_error: float | None
    half_width: float | None
    by_seed: Mapping[int, float]

    @property
    def verdict(self) -> str:
        """``above``, ``below`` or ``open``: the interval holds zero, or there is one seed."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "open"
        return "above" if self.mean > 0 else "below"


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard deviation.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("At least one value is needed, got none.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Mean(mean, math.sqrt(variance), len(values))


def paired_difference(
    method: Mapping[int, float], reference: Mapping[int, float], *, step: float = 0.0
) -> PairedDifference | None:
    """The difference of two methods over the seeds that both have; None where they share none.

    The same seed means the same images to train on, to validate on and to draw labels from, so the differences
    scatter less than the accuracies do.

    Args:
        method: Accuracies by seed.
        reference: Likewise.
        step: What values are rounded to, such as one image of those that are judged. The deviation over the seeds is
            taken to be at least what rounding leaves: equal differences of a few seeds are no certainty.
    """
    from scipy.stats import t

    by_seed = {seed: method[seed] - reference[seed] for seed in sorted(method) if seed in reference}
    if not by_seed:
        return None
    mean = mean_of(list(by_seed.values()))
    if mean.deviation is None:
        return PairedDifference(mean.mean, None, None, by_seed)
    # Rounding moves each of two values by a uniform part of a step, whose variance is a twelfth.
    error = max(mean.deviation, step / math.sqrt(6.0)) / math.sqrt(mean.count)
    factor = float(t.ppf(0.5 + CONFIDENCE / 2, mean.count - 1))
    return PairedDifference(mean.mean, error, factor * error, by_seed)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The methods of which no other is both cheaper and better, from the cheapest to the dearest.

    Args:
        points: ``{label: (cost, accuracy)}``. Of equal points all are on the front.
    """
    front = [
        label
        for label, (cost, accuracy) in points.items()
        if not any(
            other_cost <= cost and other >= accuracy and (other_cost, other) != (cost, accuracy)
            for other_cost, other in points.values()
        )
    ]
    return sorted(front, key=lambda label: points[label])
