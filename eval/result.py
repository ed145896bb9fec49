"""From a frozen result to what a JSON file holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_DIGITS = 6


def result_to_dict(result: Any) -> dict[str, Any]:
    """The fields of a result as JSON knows them: text keys, lists, numbers of six digits.

    What is not finite becomes None, since JSON has no NaN.

    Args:
        result: A ``KNNResult``, a ``LinearResult`` or any other dataclass.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Example:
        ...     top1: float
        ...     by_k: dict[int, float]
        >>> result_to_dict(Example(200 / 3, {10: 50.0}))
        {'top1': 66.6667, 'by_k': {'10': 50.0}}
    """
    content: dict[str, Any] = plain(dataclasses.asdict(result))
    return content


def plain(value: Any) -> Any:
    """A value as JSON knows it, see ``result_to_dict``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
