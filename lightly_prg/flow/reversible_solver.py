"""One coupled solve of ``dx/dtau = velocity(tau, x)``, with any of its gradients.

`lightly_prg.flow.reversible` says what it is good for; ``encode`` and ``decode`` reach it by the name of the solver.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightly_prg.flow.coupled_steps import BASES, DEFAULT_COUPLING, CoupledSteps
from lightly_prg.flow.paths import Velocity
from lightly_prg.flow.reversible_gradient import DifferentiableSolve, collected
from lightly_prg.flow.solver import CheckedVelocity, Trajectory, check_solve, positions_as, time_grid

REVERSIBLE_GRADIENTS = ("full", "checkpoint", "reversible")
"""How a gradient passes through a coupled solve, see ``lightly_prg.flow.encode_reversible``."""


def integrate_reversible(
    velocity: Velocity,
    x: Tensor,
    start: float,
    knots: Sequence[float],
    *,
    steps: int,
    solver: str,
    gradient: str,
    every_step: bool,
    grid: str,
) -> Trajectory:
    """Solves from ``x`` at ``start`` through ``knots``, up or down, with one of `REVERSIBLE_SOLVERS`.

    Returns:
        The states at ``start`` and at every knot; with ``every_step`` also those between.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    check_solve(velocity, x, [start, *knots], steps)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not knots:
        check_gradient(gradient)
        return Trajectory(x[None], torch.tensor([start], dtype=torch.float64))
    tau = time_grid(start, knots, steps, grid=grid)
    base = solver.removeprefix("reversible_")
    kept = [n for n, position in enumerate(tau.tolist()) if n > 0 and (every_step or position in knots)]
    states, _ = solve_coupled(velocity, x, tau, kept, base, DEFAULT_COUPLING, gradient)
    return Trajectory(torch.cat([x[None], states]), tau[[0, *kept]])


def solve_coupled(
    velocity: Velocity, x: Tensor, grid: Tensor, kept: list[int], base: str, coupling: float, gradient: str
) -> tuple[Tensor, Tensor]:
    """Solves over a grid from ``y = z = x``.

    Args:
        velocity: The network.
        x: State at the first position, (B, ...), float32 or better.
        grid: Positions, (N + 1,), float64 on the CPU.
        kept: Which grid points, 1 to N in ascending order, are returned.
        base: The method that is coupled, one of ``lightly_prg.flow.coupled_steps.BASES``.
        coupling: Above 0 and at most 1.
        gradient: One of `REVERSIBLE_GRADIENTS`.

    Returns:
        ``y`` at the grid points kept, (len(kept), B, ...), and the last ``z``.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    check_gradient(gradient)
    steps = coupled_steps(grid, base, coupling)
    positions_as(grid, x)
    evaluate = CheckedVelocity(velocity, gradient)
    if gradient == "reversible" and torch.is_grad_enabled():
        network = evaluate.network
        if not isinstance(network, nn.Module):
            raise ValueError(
                "The reversible gradient needs a velocity that is an nn.Module, whose parameters it can see, got "
                f"{type(network).__name__}: use torch.no_grad(), 'checkpoint' or 'full'."
            )
        solve = DifferentiableSolve(
            steps,
            kept,
            forward=evaluate,
            repeated=CheckedVelocity(network, "full"),
            recomputed=CheckedVelocity(network, "checkpoint"),
            parameters=tuple(p for p in network.parameters() if p.requires_grad),
            network=network,
        )
        states, z = solve(x)
    else:
        states, _, z = collected(steps.advance(evaluate, x, x), kept)
    finite = states.detach().isfinite().flatten(1).all(1)
    if not bool(finite[-1]):
        bad = int((~finite).nonzero()[0])
        raise FloatingPointError(
            f"The state became infinite or NaN before or at tau = {grid[kept[bad]].item():.4g} "
            f"(step {kept[bad]} of {steps.count}, solver reversible_{base})."
        )
    return states, z


def coupled_steps(grid: Tensor, base: str, coupling: float) -> CoupledSteps:
    """Returns the steps over a grid; raises ValueError if the method or the coupling is none."""
    if base not in BASES:
        raise ValueError(f"Unknown method {base!r} to be coupled: use one of {', '.join(BASES)}.")
    if not 0 < coupling <= 1:
        raise ValueError(f"The coupling must lie above 0 and at most at 1, got {coupling}.")
    return CoupledSteps(tuple(grid.tolist()), BASES[base], coupling)


def check_gradient(gradient: str) -> None:
    """Raises ValueError if a gradient does not go with a coupled solve."""
    if gradient not in REVERSIBLE_GRADIENTS:
        raise ValueError(
            f"Gradient {gradient!r} does not go with a reversible solver: use one of {', '.join(REVERSIBLE_GRADIENTS)}."
        )
