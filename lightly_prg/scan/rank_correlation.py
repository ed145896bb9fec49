"""Whether two lists of numbers rank things alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable


def rank_correlation(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Spearman's rank correlation of pairs in which both numbers are known.

    Returns:
        In [-1, 1]; None where fewer than three pairs are left, or all numbers of one kind are equal.

    Example:
        >>> rank_correlation([(1, 10), (2, 30), (3, 20)])
        0.5
    """
    from scipy.stats import ConstantInputWarning, spearmanr

    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        value = float(spearmanr([a for a, _ in known], [b for _, b in known]).statistic)
    return value if math.isfinite(value) else None
