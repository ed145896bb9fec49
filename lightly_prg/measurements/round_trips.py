"""The round-trip error against the price of a solve, for one solver after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightly_prg.features import PRGEncoder
from lightly_prg.flow import CountedVelocity, decode, encode
from lightly_prg.flow.coupled_steps import BASES
from lightly_prg.module_state import in_evaluation_mode

_EVALUATIONS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
_EVALUATIONS |= {f"reversible_{base}": 2 * _EVALUATIONS[base] for base in BASES if base in _EVALUATIONS}
BUDGETS = (8, 16, 32, 64)
"""Network evaluations of one way that the solvers of fixed steps are given."""
TOLERANCES = (1e-2, 1e-3, 1e-4)
"""Relative and absolute tolerances that adaptive solvers are given."""


@dataclass(frozen=True)
class RoundTripPoint:
    """One solver at one price.

    Attributes:
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        steps: Steps of one way; None where the solver chose them.
        tolerance: What an adaptive solver was asked for; None for the others.
        nfe: Network evaluations for one way, counted, the mean of the two.
        rmse: Root mean square difference between start and end in units of the [0, 1] image range; None where the
            solve broke down.
    """

    solver: str
    steps: int | None
    tolerance: float | None
    nfe: float
    rmse: float | None


@in_evaluation_mode
@torch.no_grad()
def round_trip_curve(
    encoder: PRGEncoder,
    images: Tensor,
    solver: str,
    *,
    budgets: Sequence[int] = BUDGETS,
    tolerances: Sequence[float] = TOLERANCES,
) -> list[RoundTripPoint]:
    """Carries images to the noise end and back, at rising prices.

    Args:
        encoder: Its network and path are used, not its feature.
        images: ``(B, C, H, W)`` in [0, 1].
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        budgets: Network evaluations of one way, for the solvers of fixed steps: all cost the same.
        tolerances: For an adaptive solver.
    """
    x = encoder.normalize(images.to(encoder.mean.device))
    if solver == "dopri5":
        return [_point(encoder, x, solver, None, tolerance) for tolerance in tolerances]
    steps = (max(1, budget // _EVALUATIONS.get(solver, 1)) for budget in budgets)
    return [_point(encoder, x, solver, count, None) for count in dict.fromkeys(steps)]


def _point(encoder: PRGEncoder, x: Tensor, solver: str, steps: int | None, tolerance: float | None) -> RoundTripPoint:
    path, counted = encoder.path, CountedVelocity(encoder.velocity, encoder.path)
    # An adaptive solver takes its first step from the number of steps.
    count = steps if steps is not None else 8
    bound = tolerance if tolerance is not None else 1e-5
    rmse = None
    try:
        z = encode(
            counted, x, tau_start=path.tau_min, tau_end=path.tau_max, steps=count, solver=solver, rtol=bound, atol=bound
        )
        back = decode(
            counted, z, tau_start=path.tau_max, tau_end=path.tau_min, steps=count, solver=solver, rtol=bound, atol=bound
        )
        rmse = float(((back - x) * encoder.std).square().mean().sqrt())
    except FloatingPointError:
        # A network too rough for the solver is a finding, not the end of the measurement.
        pass
    return RoundTripPoint(solver, steps, tolerance, counted.evaluations / 2, rmse)
