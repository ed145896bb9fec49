"""The solve around a step of our own, for the methods that torchdiffeq does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

Ask = Callable[[float, Tensor], Tensor]
"""The velocity at one of the two ends of the present step."""
Step = Callable[[Ask, Tensor, float, float], Tensor]
"""The state at the end of a step, of ``(ask, state, here, there)``."""


def integrate_own(
    velocity: Velocity,
    x: Tensor,
    start: float,
    knots: Sequence[float],
    step: Step,
    *,
    solver: str,
    steps: int,
    gradient: str,
    grid: str,
) -> Trajectory:
    """Solves from ``x`` at ``start`` through ``knots``, up or down; arguments as in `encode`.

    Args:
        velocity: The network.
        x: State at ``start``.
        start: First position.
        knots: Positions to hit.
        step: Takes one step; the steps come in order, so it may remember the one before.
        solver: What errors call it.
        steps: Steps of the grid.
        gradient: ``full`` or ``checkpoint``.
        grid: One of `GRIDS`.

    Returns:
        The states at ``start`` and at every point of the grid.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    if gradient not in ("full", "checkpoint"):
        raise ValueError(f"{solver} takes the gradients full and checkpoint, got {gradient!r}.")
    check_solve(velocity, x, [start, *knots], steps)
    evaluate = CheckedVelocity(velocity, gradient)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not knots:
        return Trajectory(x[None], torch.tensor([start], dtype=torch.float64))

    tau = time_grid(start, knots, steps, grid=grid)
    # As the state's type has them, on its device.
    positions = dict(zip(tau.tolist(), positions_as(tau, x).to(x.device), strict=True))
    states = [x]
    for here, there in pairwise(positions):
        states.append(step(lambda position, x: evaluate(positions[position], x), states[-1], here, there))
    trajectory = Trajectory(torch.stack(states), tau)
    check_finite(trajectory, solver)
    return trajectory
