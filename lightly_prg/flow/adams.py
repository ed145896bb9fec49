"""Adams-Bashforth of order two: the accuracy of a midpoint step for one network evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightly_prg.flow.own_steps import Ask, integrate_own
from lightly_prg.flow.paths import Velocity
from lightly_prg.flow.solver import Trajectory

AB2 = "ab2"
"""The name of this solver for ``encode`` and ``decode``."""


def integrate_ab2(
    velocity: Velocity,
    x: Tensor,
    start: float,
    knots: Sequence[float],
    *,
    steps: int,
    gradient: str,
    grid: str,
) -> Trajectory:
    """Solves from ``x`` at ``start`` through ``knots``, up or down; arguments as in `encode`.

    A step of length h extrapolates the velocity v linearly from the position before, a step of length h' away [0,
    III.5, variable steps]: ``x' = x + h (v + h / (2 h') (v - v'))``. The first step is Euler's. The method is of order
    two on every grid. torchdiffeq's ``explicit_adams`` holds for equal steps only.

    - [0] Hairer, Norsett, Wanner: Solving Ordinary Differential Equations I, 1993

    Returns:
        The states at ``start`` and at every point of the grid.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    before: tuple[Tensor, float] | None = None

    def step(ask: Ask, x: Tensor, here: float, there: float) -> Tensor:
        nonlocal before
        value, length = ask(here, x), there - here
        slope = value
        if before is not None:
            earlier, earlier_length = before
            slope = torch.lerp(earlier, value, 1 + length / (2 * earlier_length))
        before = value, length
        return x + length * slope

    return integrate_own(velocity, x, start, knots, step, solver=AB2, steps=steps, gradient=gradient, grid=grid)
