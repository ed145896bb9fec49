"""Options of which one or several values can be given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def several(values: Any) -> tuple[Any, ...]:
    """A tuple of the values, also where one alone was given; a text is one value."""
    return (values,) if isinstance(values, str) or not isinstance(values, Iterable) else tuple(values)
