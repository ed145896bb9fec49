"""Results as plain JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

_DIGITS = {"top1": 3, "top5": 3, "top1_std": 3, "validation_top1": 3, "seconds": 3, "images_per_second": 1}


def result_to_dict(result: Any) -> dict[str, Any]:
    """A result dataclass as a dictionary of JSON values, rounded to the digits that mean something."""
    content = asdict(result)
    for key, digits in _DIGITS.items():
        if content.get(key) is not None:
            content[key] = round(content[key], digits)
    for key in ("by_k", "per_draw"):
        if isinstance(content.get(key), dict):
            content[key] = {str(name): round(value, 3) for name, value in content[key].items()}
        elif isinstance(content.get(key), list):
            content[key] = [round(value, 3) for value in content[key]]
    return content
