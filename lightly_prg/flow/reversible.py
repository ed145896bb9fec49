"""A solve that can be undone to rounding error: `encode_reversible`, `generate_reversible`, `decode_reversible`.

The way there and the way back of an ordinary solver take their velocities at different states, so a round trip is off
by the error of the solver. Here a second state makes every step invertible (`lightly_prg.flow.coupled_steps`), at twice
the evaluations of the method that is coupled, and the gradient can be exact without keeping the states
(`lightly_prg.flow.reversible_gradient`).

Why this construction and not another:

- It makes any explicit one-step method reversible and keeps its order (https://arxiv.org/abs/2410.11648). Reversible
  Heun (https://arxiv.org/abs/2105.13493) and MALI's asynchronous leapfrog (https://arxiv.org/abs/2102.04668) are of
  order two at most, for one evaluation a step; the first is stable on a piece of the imaginary axis, the second,
  undamped, nowhere; both carry a velocity beside the state, which has no meaning for a feature.
- Rex (https://arxiv.org/abs/2502.08834) is the same coupling after a change of variables that solves the linear part of
  a diffusion ODE. It needs the coefficients of the path and divides by them, and the linear path's ``alpha`` is 0 at
  the noise end; for networks that predict the velocity there is no stiff linear part to remove.

Stability, on ``dx/dtau = a x`` with step ``h`` and ``c = a h``. With the growth factor ``R`` of the method, the step's
two eigenvalues have the product ``l`` (the coupling) and the sum
``1 + l - (1 - l)(R(-c) - 1) - (R(c) - 1)(R(-c) - 1)``. One follows ``exp(c)``, the other is near ``l exp(-c)``: where
the flow contracts, what separates the two states grows, over a time ``T`` by at most about ``exp(|a| T)`` however many
the steps. How far along the negative real and along the imaginary axis both stay below 1.0001 (one percent in a
hundred steps):

========  ===========  ===========  ==============  ============  ============
method    alone        l = 1        l = 0.999       l = 0.9       l = 0.5
========  ===========  ===========  ==============  ============  ============
euler     2.00 / 0.01  0 / 2.00     0.001 / 1.11    0.10 / 0.45   0.50 / 0.87
midpoint  2.00 / 0.17  0 / 1.57     0.001 / 1.20    0.11 / 0.47   2.16 / 0.69
heun2     2.00 / 0.17  0 / 1.57     0.001 / 1.20    0.11 / 0.47   2.16 / 0.69
heun3     2.51 / 1.73  0 / 1.93     0.001 / 1.84    0.11 / 1.73   0.68 / 0.26
rk4       2.79 / 2.83  0 / 3.06     0.001 / 2.88    0.11 / 2.83   0.70 / 2.83
========  ===========  ===========  ==============  ============  ============

A smaller ``l`` is steadier forwards and multiplies every rounding error of the way back by ``1 / l`` a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from lightly_prg.flow.coupled_steps import DEFAULT_COUPLING
from lightly_prg.flow.paths import Velocity
from lightly_prg.flow.reversible_gradient import collected
from lightly_prg.flow.reversible_solver import check_gradient, coupled_steps, solve_coupled
from lightly_prg.flow.solver import CheckedVelocity, Trajectory, check_solve, data_end, noise_end, time_grid


@dataclass(frozen=True, eq=False)
class ReversibleState:
    """Where a coupled solve ended, and all that `decode_reversible` needs to undo it.

    Attributes:
        y: The state at ``tau``, the answer, (B, C, H, W).
        z: Its companion, (B, C, H, W).
        grid: All positions from the start to ``tau``, (steps + 1,), float64 on the CPU.
        base: The method that was coupled, one of ``lightly_prg.flow.coupled_steps.BASES``.
        coupling: The coupling parameter.

    Raises:
        ValueError: If the two states differ in shape or dtype, or the method or the coupling is none.
    """

    y: Tensor
    z: Tensor
    grid: Tensor
    base: str
    coupling: float

    def __post_init__(self) -> None:
        if (self.y.shape, self.y.dtype) != (self.z.shape, self.z.dtype):
            raise ValueError(
                f"The two states must be alike, got {self.y.dtype} {tuple(self.y.shape)} and "
                f"{self.z.dtype} {tuple(self.z.shape)}."
            )
        coupled_steps(self.grid, self.base, self.coupling)

    @property
    def tau(self) -> float:
        """Where the solve ended."""
        return float(self.grid[-1])


def encode_reversible(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | None = None,
    steps: int = 32,
    base: str = "midpoint",
    coupling: float = DEFAULT_COUPLING,
    gradient: str = "reversible",
) -> ReversibleState:
    """Integrates upward, from image towards noise, so that `decode_reversible` finds the image again.

    Undone in the same precision, 50 midpoint steps of a small network are off by about 3e-15 in float64 and 5e-7 in
    float32, and 200 steps by as much. A smaller coupling magnifies rounding by ``coupling^-steps``: with 0.9 the 50
    steps are off by 1e-13 and 1e-4, with 0.5 nothing is left. Under autocast the network is a staircase at the scale of
    its own precision: expect 1e-4 to 1e-3.

    Gradients, where they are enabled, are those of what was computed in every case:

    - ``"reversible"`` keeps the last two states alone and reconstructs the others, in about a tenth more time than
      ``checkpoint`` (docs/reversible.md). It refuses where rounding has swallowed them.
    - ``"checkpoint"`` keeps every state and recomputes one evaluation at a time.
    - ``"full"`` keeps every graph.

    Args:
        velocity: The network ``velocity(tau, x) -> dx/dtau``, see `encode`. It must compute the same on the way back:
            put dropout and batch normalisation into eval mode.
        x: State at ``tau_start``, (B, C, H, W), floating point; half precision is raised to float32.
        tau_start: Where ``x`` lies; by default the path's ``tau_min``, or 0.
        tau_end: Where to stop; by default the path's ``tau_max``, or 1.
        steps: Number of steps; each costs twice the evaluations of the method.
        base: The method that is coupled: euler, midpoint, heun2, heun3 or rk4.
        coupling: Above 0 and at most 1.
        gradient: One of `REVERSIBLE_GRADIENTS`.

    Returns:
        The state at ``tau_end``; its ``y`` is what ``encode(..., solver=f"reversible_{base}")`` returns.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    start = data_end(velocity) if tau_start is None else float(tau_start)
    end = noise_end(velocity) if tau_end is None else float(tau_end)
    if not end >= start:
        raise ValueError(f"encode integrates upward: tau_end must be at least tau_start = {start}, got {end}.")
    return _state(velocity, x, start, end, steps, base, coupling, gradient)


def generate_reversible(
    velocity: Velocity,
    noise: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | None = None,
    steps: int = 32,
    base: str = "midpoint",
    coupling: float = DEFAULT_COUPLING,
    gradient: str = "reversible",
) -> ReversibleState:
    """Integrates downward, from noise to image, so that `decode_reversible` finds the noise again.

    Args:
        velocity: As in `encode_reversible`.
        noise: State at ``tau_start``, (B, C, H, W), standard normal noise if that is 1.
        tau_start: Where ``noise`` lies; by default the path's ``tau_max``, or 1.
        tau_end: Where to stop; by default the path's ``tau_min``, or 0.
        steps: Number of steps.
        base: The method that is coupled.
        coupling: Above 0 and at most 1.
        gradient: One of `REVERSIBLE_GRADIENTS`.

    Returns:
        The state at ``tau_end``; its ``y`` is the image.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    start = noise_end(velocity) if tau_start is None else float(tau_start)
    end = data_end(velocity) if tau_end is None else float(tau_end)
    if not end <= start:
        raise ValueError(f"Generation integrates downward: tau_end must be at most tau_start = {start}, got {end}.")
    return _state(velocity, noise, start, end, steps, base, coupling, gradient)


@overload
def decode_reversible(
    velocity: Velocity, state: ReversibleState, *, return_trajectory: Literal[False] = False
) -> Tensor: ...


@overload
def decode_reversible(
    velocity: Velocity, state: ReversibleState, *, return_trajectory: Literal[True]
) -> Trajectory: ...


def decode_reversible(
    velocity: Velocity, state: ReversibleState, *, return_trajectory: bool = False
) -> Tensor | Trajectory:
    """Undoes `encode_reversible` or `generate_reversible`: returns what they were given, to rounding error.

    Where gradients are enabled they are those of plain backpropagation, whose memory grows with the steps.

    Args:
        velocity: The network that the state was computed with, unchanged.
        state: The state at the end of the solve.
        return_trajectory: Return every state of the grid, in the order passed, as a `Trajectory`.

    Returns:
        The state at its start, (B, C, H, W), or the trajectory.

    Raises:
        ValueError: If the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    check_solve(velocity, state.y, state.grid.tolist(), 1)
    steps = coupled_steps(state.grid, state.base, state.coupling)
    way = steps.retreat(CheckedVelocity(velocity, "full"), state.y, state.z)
    states, y, _ = collected(way, range(len(state.grid)) if return_trajectory else [steps.count])
    if not bool(y.detach().isfinite().all()):
        raise FloatingPointError(f"The state became infinite or NaN on the way from tau = {state.tau:.4g} back.")
    return Trajectory(states, state.grid.flip(0)) if return_trajectory else y


def _state(
    velocity: Velocity, x: Tensor, start: float, end: float, steps: int, base: str, coupling: float, gradient: str
) -> ReversibleState:
    check_solve(velocity, x, [start, end], steps)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if start == end:
        check_gradient(gradient)
        return ReversibleState(x, x, torch.tensor([start], dtype=torch.float64), base, coupling)
    grid = time_grid(start, [end], steps)
    states, z = solve_coupled(velocity, x, grid, [len(grid) - 1], base, coupling, gradient)
    return ReversibleState(states[0], z, grid, base, coupling)
