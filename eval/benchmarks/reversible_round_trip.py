"""The round trip of `lightly_prg.diagnostics` with a solver that can be undone: what is left is rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from lightly_prg.diagnostics import RoundTrip
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import REVERSIBLE_SOLVERS, decode_reversible, encode, encode_reversible


@torch.no_grad()
def reversible_round_trip(
    encoder: PRGEncoder, images: Tensor, *, steps: int = 50, solver: str = "reversible_midpoint"
) -> RoundTrip:
    """Carries images to the noise end of the path and back by undoing every step.

    The error says nothing of how well the solver follows the flow: it is as small for one step as for fifty.

    Args:
        encoder: Its network and path are used, not its feature.
        images: ``(B, C, H, W)`` in [0, 1].
        steps: Number of steps.
        solver: One of ``lightly_prg.flow.REVERSIBLE_SOLVERS``.

    Returns:
        As ``lightly_prg.diagnostics.round_trip``.

    Raises:
        ValueError: If the solver is not reversible.
    """
    if solver not in REVERSIBLE_SOLVERS:
        raise ValueError(
            f"A round trip is undone by a reversible solver, {', '.join(REVERSIBLE_SOLVERS)}; got {solver!r}."
        )
    path = encoder.path
    x = encoder.normalize(images.to(encoder.mean.device))
    velocity, start, end = encoder.velocity, path.tau_min, path.tau_max
    forward = encode(velocity, x, tau_start=start, tau_end=end, steps=steps, solver=solver, return_trajectory=True)
    state = encode_reversible(
        velocity, x, tau_start=start, tau_end=end, steps=steps, base=solver.removeprefix("reversible_")
    )
    backward = decode_reversible(velocity, state, return_trajectory=True)
    difference = (backward.states[-1] - x) * encoder.std
    return RoundTrip(forward, backward, float(difference.square().mean().sqrt()))
