"""Adams-Bashforth of order two: the accuracy of a midpoint step for one network evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lightly_prg.flow.paths import Velocity
from lightly_prg.flow.solver import (
    CheckedVelocity,
    Trajectory,
    check_finite,
    check_solve,
    positions_as,
    time_grid,
)

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
    if gradient not in ("full", "checkpoint"):
        raise ValueError(f"{AB2} takes the gradients full and checkpoint, got {gradient!r}.")
    check_solve(velocity, x, [start, *knots], steps)
    evaluate = CheckedVelocity(velocity, gradient)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not knots:
        return Trajectory(x[None], torch.tensor([start], dtype=torch.float64))

    tau = time_grid(start, knots, steps, grid=grid)
    positions = positions_as(tau, x).to(x.device)
    states = [x]
    before: tuple[Tensor, float] | None = None
    for position, (here, there) in zip(positions, pairwise(tau.tolist()), strict=False):
        value, step = evaluate(position, x), there - here
        if before is None:
            x = x + step * value
        else:
            earlier, earlier_step = before
            x = x + step * torch.lerp(earlier, value, 1 + step / (2 * earlier_step))
        before = value, step
        states.append(x)
    trajectory = Trajectory(torch.stack(states), tau)
    check_finite(trajectory, AB2)
    return trajectory
