"""Integrate a velocity along its path: ``encode`` towards noise, ``decode`` towards data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from torch import Tensor

from lightly_prg.flow.adams import AB2, integrate_ab2
from lightly_prg.flow.coupled_steps import REVERSIBLE_SOLVERS
from lightly_prg.flow.ddim import DDIM, integrate_ddim
from lightly_prg.flow.paths import Velocity
from lightly_prg.flow.reversible_solver import integrate_reversible
from lightly_prg.flow.solver import (
    GRADIENTS,
    GRIDS,
    SOLVERS,
    CountedVelocity,
    Trajectory,
    data_end,
    integrate,
    noise_end,
    time_grid,
)

__all__ = [
    "GRADIENTS",
    "GRIDS",
    "REVERSIBLE_SOLVERS",
    "SOLVERS",
    "CountedVelocity",
    "Trajectory",
    "decode",
    "encode",
    "time_grid",
]


@overload
def encode(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | Sequence[float] | None = None,
    steps: int = 32,
    solver: str = "euler",
    gradient: str = "checkpoint",
    return_trajectory: Literal[False] = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: str = "even",
) -> Tensor: ...


@overload
def encode(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | Sequence[float] | None = None,
    steps: int = 32,
    solver: str = "euler",
    gradient: str = "checkpoint",
    return_trajectory: Literal[True],
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: str = "even",
) -> Trajectory: ...


def encode(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | Sequence[float] | None = None,
    steps: int = 32,
    solver: str = "euler",
    gradient: str = "checkpoint",
    return_trajectory: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: str = "even",
) -> Tensor | Trajectory:
    """Integrates ``dx/dtau = velocity(tau, x)`` upward, from image towards noise.

    This is PRG's reversed generation (https://arxiv.org/abs/2412.01787): ``x(tau_end)``.

    Gradients, where they are enabled:

    - ``"full"`` backpropagates through every step and keeps every graph in memory.
    - ``"checkpoint"`` does the same, but keeps the states alone and recomputes one evaluation at a
      time: the same gradient to the last bit, one graph in memory, one more forward pass.
    - ``"adjoint"`` solves the adjoint equation backwards (https://arxiv.org/abs/1806.07366), which
      is not the gradient of what was computed. For Euler the error is of the order of the step
      (some percent at PRG's step counts): each backward step takes the derivative at the noisier
      end of an interval, where the forward step took the velocity at the other.
    - ``"reversible"``, with a reversible solver only, is the gradient of what was computed to rounding, and keeps
      neither graphs nor states (see `lightly_prg.flow.reversible`).

    Args:
        velocity: The network ``velocity(tau, x) -> dx/dtau``; it gets ``tau`` as a 0-d tensor in
            the dtype and on the device of the state, and its output is cast to that dtype. Its
            attribute ``path``, if it has one, sets the default ends and bounds the positions.
        x: State at ``tau_start``, (B, C, H, W), floating point; half precision is raised to
            float32.
        tau_start: Where ``x`` lies; by default the path's ``tau_min``, or 0.
        tau_end: Where to stop; by default the path's ``tau_max``, or 1. Several positions, in any
            order, give several states from one solve; ``tau_start`` may be among them.
        steps: Steps from ``tau_start`` to the largest ``tau_end`` (see `time_grid`). An adaptive
            solver takes its first step, and with ``return_trajectory`` its grid, from it.
        solver: One of `SOLVERS` or `REVERSIBLE_SOLVERS`; ``ab2`` (see `lightly_prg.flow.adams`), of order two at one
            evaluation a step; or ``ddim`` (see `lightly_prg.flow.ddim`), which needs the velocity's ``path``. ``rk4``
            is the 3/8 rule; ``dopri5`` is adaptive.
        gradient: One of `GRADIENTS`, or ``reversible``; this and ``adjoint`` need a velocity that is an ``nn.Module``.
        return_trajectory: Return every state of the grid, as a `Trajectory`.
        rtol: Relative tolerance of an adaptive solver.
        atol: Absolute tolerance of an adaptive solver.
        grid: One of `GRIDS`: ``even`` steps, or ``quadratic`` ones, which are short near the data (see `time_grid`).

    Returns:
        The state at ``tau_end``, shaped as ``x``; for several positions (len(tau_end), B, C, H, W)
        in the order asked; or the trajectory. At ``tau_start`` the state is ``x``.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN, or an adaptive step vanished.
    """
    start = data_end(velocity) if tau_start is None else float(tau_start)
    if tau_end is None:
        tau_end = noise_end(velocity)
    given: Any = tau_end
    if isinstance(given, Tensor | np.ndarray):
        tau_end = given.tolist()
    ends = [float(end) for end in tau_end] if isinstance(tau_end, Sequence) else [float(tau_end)]
    if not ends or not all(end >= start for end in ends):
        raise ValueError(f"encode integrates upward: tau_end must be at least tau_start = {start}, got {ends}.")
    trajectory = _solve(
        velocity,
        x,
        start,
        sorted(set(ends) - {start}),
        steps=steps,
        solver=solver,
        gradient=gradient,
        every_step=return_trajectory,
        rtol=rtol,
        atol=atol,
        grid=grid,
    )
    return trajectory if return_trajectory else _states_at(trajectory, tau_end)


@overload
def decode(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | Sequence[float] | None = None,
    steps: int = 32,
    solver: str = "euler",
    gradient: str = "checkpoint",
    return_trajectory: Literal[False] = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: str = "even",
) -> Tensor: ...


@overload
def decode(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | Sequence[float] | None = None,
    steps: int = 32,
    solver: str = "euler",
    gradient: str = "checkpoint",
    return_trajectory: Literal[True],
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: str = "even",
) -> Trajectory: ...


def decode(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | Sequence[float] | None = None,
    steps: int = 32,
    solver: str = "euler",
    gradient: str = "checkpoint",
    return_trajectory: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    grid: str = "even",
) -> Tensor | Trajectory:
    """Integrates ``dx/dtau = velocity(tau, x)`` downward, from noise to image: generation.

    As `encode`, the other way: ``tau_start`` is the path's ``tau_max`` by default, or 1;
    ``tau_end``, positions at most ``tau_start``, its ``tau_min``, or 0.

    Args:
        velocity: The network, see `encode`.
        x: State at ``tau_start``, (B, C, H, W), standard normal noise if that is 1.
        tau_start: Where ``x`` lies.
        tau_end: Where to stop; several positions, in any order, give several states from one solve.
        steps: Steps from ``tau_start`` to the smallest ``tau_end``.
        solver: One of `SOLVERS` or `REVERSIBLE_SOLVERS`, or ``ab2`` or ``ddim``.
        gradient: One of `GRADIENTS`, or ``reversible`` with a reversible solver.
        return_trajectory: Return every state of the grid, as a `Trajectory`.
        rtol: Relative tolerance of an adaptive solver.
        atol: Absolute tolerance of an adaptive solver.
        grid: One of `GRIDS`.

    Returns:
        As `encode`.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN, or an adaptive step vanished.
    """
    start = noise_end(velocity) if tau_start is None else float(tau_start)
    if tau_end is None:
        tau_end = data_end(velocity)
    ends = [float(end) for end in tau_end] if isinstance(tau_end, Sequence) else [float(tau_end)]
    if not ends or not all(end <= start for end in ends):
        raise ValueError(f"decode integrates downward: tau_end must be at most tau_start = {start}, got {tau_end}.")
    trajectory = _solve(
        velocity,
        x,
        start,
        sorted(set(ends) - {start}, reverse=True),
        steps=steps,
        solver=solver,
        gradient=gradient,
        every_step=return_trajectory,
        rtol=rtol,
        atol=atol,
        grid=grid,
    )
    return trajectory if return_trajectory else _states_at(trajectory, tau_end)


def _solve(
    velocity: Velocity,
    x: Tensor,
    start: float,
    knots: Sequence[float],
    *,
    steps: int,
    solver: str,
    gradient: str,
    every_step: bool,
    rtol: float,
    atol: float,
    grid: str,
) -> Trajectory:
    if solver == DDIM:
        return integrate_ddim(velocity, x, start, knots, steps=steps, gradient=gradient, grid=grid)
    if solver == AB2:
        return integrate_ab2(velocity, x, start, knots, steps=steps, gradient=gradient, grid=grid)
    if solver in REVERSIBLE_SOLVERS:
        return integrate_reversible(
            velocity, x, start, knots, steps=steps, solver=solver, gradient=gradient, every_step=every_step, grid=grid
        )
    return integrate(
        velocity,
        x,
        start,
        knots,
        steps=steps,
        solver=solver,
        gradient=gradient,
        every_step=every_step,
        rtol=rtol,
        atol=atol,
        grid=grid,
    )


def _states_at(trajectory: Trajectory, ends: float | Sequence[float]) -> Tensor:
    if not isinstance(ends, Sequence):
        # A copy: a view would keep every state of the solve alive with the one that was asked for.
        return trajectory.states[-1].clone()
    index = {tau: i for i, tau in enumerate(trajectory.tau.tolist())}
    return trajectory.states[[index[float(end)] for end in ends]]
