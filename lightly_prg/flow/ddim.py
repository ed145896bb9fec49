"""DDIM's way of integrating: exact in the linear part of the flow, Euler in what the network adds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightly_prg.flow.own_steps import Ask, integrate_own
from lightly_prg.flow.paths import Path, Velocity, path_of
from lightly_prg.flow.solver import Trajectory

DDIM = "ddim"
"""The name of this solver for ``encode`` and ``decode``."""


def integrate_ddim(
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

    In ``y = x / alpha`` and ``s = sigma / alpha`` the flow is ``dy/ds = noise(x, tau)`` [0, eq. 14], and Euler's step
    in it, from alpha and sigma to alpha' and sigma', is ``x' = alpha' denoised + sigma' noise`` without the division
    [0, eq. 13; 1, DPM-Solver-1]: what the path alone does to the state is exact, and an error is left only where the
    prediction changes along the way. It is of order one. Downward on the linear path it is Euler's method.

    The network is always asked at the noisier end of a step, as diffusers' schedulers ask it: downward that is where
    the state lies (DDIMScheduler, eta 0); upward it is where the step leads (DDIMInverseScheduler), while the state is
    still that of the other end. So a model that was never trained at the clean end is not asked there. What is held
    fast on the way up is the noise, if that is what the network's attribute ``prediction`` names, and otherwise ``v``
    (see `Path.convert`), which is known at both ends of every path.

    The path is needed: the velocity network's attribute ``path``.

    - [0] Denoising Diffusion Implicit Models, 2020, https://arxiv.org/abs/2010.02502
    - [1] DPM-Solver, 2022, https://arxiv.org/abs/2206.00927

    Returns:
        The states at ``start`` and at every point of the grid.

    Raises:
        ValueError: If an argument is outside what is allowed, the path is not known, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN.
    """
    path = path_of(velocity)
    if path is None:
        raise ValueError("ddim needs the path of the velocity network: give it an attribute `path`.")
    held = _held(velocity)

    def step(ask: Ask, x: Tensor, here: float, there: float) -> Tensor:
        noisier = max(here, there)
        value = path.convert(x, ask(noisier, x), noisier, source="velocity", target=held)
        return _step(path, x, value, here, there, held)

    return integrate_own(velocity, x, start, knots, step, solver=DDIM, steps=steps, gradient=gradient, grid=grid)


def _step(path: Path, x: Tensor, value: Tensor, here: float, there: float, held: str) -> Tensor:
    """``x' = alpha' denoised + sigma' noise`` with the prediction taken as one at the state's own position."""
    denoised = path.convert(x, value, here, source=held, target="denoised")
    noise = path.convert(x, value, here, source=held, target="noise")
    return path.interpolate(denoised, noise, there)


def _held(velocity: Velocity) -> str:
    # Through whatever counts or reads the network on the way.
    while not hasattr(velocity, "prediction") and callable(inner := getattr(velocity, "velocity", None)):
        velocity = inner
    return "noise" if getattr(velocity, "prediction", None) == "noise" else "v"
