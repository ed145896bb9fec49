"""What a velocity network has to return."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_prediction(value: Any, x: Tensor) -> None:
    """Refuses what is not a velocity at ``x``.

    Raises:
        ValueError: If it is no tensor, or not shaped as ``x``.
    """
    if not isinstance(value, Tensor):
        raise ValueError(
            f"The velocity network must return a tensor, got {type(value).__name__}: velocity_from(network, "
            "call=lambda module, time, x: ...) takes it out."
        )
    if value.shape != x.shape:
        raise ValueError(
            f"The velocity network must return the shape of its input {tuple(x.shape)}, got {tuple(value.shape)}."
        )
