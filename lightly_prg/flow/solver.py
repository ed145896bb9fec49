"""One solve of ``dx/dtau = velocity(tau, x)``: grid, solver, gradient and count of evaluations.

The solvers are torchdiffeq's, on a grid of our own that contains every position asked for.
`lightly_prg.flow.ode` wraps this as ``encode`` and ``decode``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchdiffeq import odeint, odeint_adjoint

from lightly_prg.flow.autocast import own_autocast
from lightly_prg.flow.coupled_steps import REVERSIBLE_SOLVERS
from lightly_prg.flow.paths import Path, Velocity, path_of
from lightly_prg.flow.prediction import check_prediction

# torchdiffeq's two Adams methods are left out: their coefficients hold for equal steps only. Where
# the step changes, as it does around a knot, explicit_adams diverges and implicit_adams falls to
# second order; implicit_adams also stops its iteration after four rounds, converged or not.
SOLVERS = ("euler", "midpoint", "heun2", "heun3", "rk4", "dopri5")
ALL_SOLVERS = (*SOLVERS, *REVERSIBLE_SOLVERS, "ddim", "ab2")
GRIDS = ("even", "quadratic")
GRADIENTS = ("full", "checkpoint", "adjoint")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The states along a solve.

    Attributes:
        states: States (steps + 1, B, C, H, W), the initial one first.
        tau: Their positions (steps + 1,), float64 on the CPU.
    """

    states: Tensor
    tau: Tensor


class CountedVelocity:
    """Counts how often the solver asks for the velocity: this is how NFE is measured.

    One call is one network evaluation for every image of the batch, so ``evaluations`` is the NFE
    per image of all calls so far. What the backward pass evaluates again (the recomputation of
    ``checkpoint``, the backward solve of ``adjoint``) is left out, as long as the counter itself
    is what `encode` or `decode` is given.

    Args:
        velocity: The network.
        path: The path that it was trained on, where it does not declare one itself.

    Attributes:
        velocity: The wrapped network.
        evaluations: Calls so far; set it to 0 to start over.

    Examples:
        >>> counted = CountedVelocity(network)
        >>> z = encode(counted, images, steps=8, solver="heun2")
        >>> counted.evaluations
        16
    """

    def __init__(self, velocity: Velocity, path: Path | None = None) -> None:
        self.velocity = velocity
        self.evaluations = 0
        self._path = path

    @property
    def path(self) -> Path | None:
        """The path of the wrapped network, if it declares one or it was given."""
        return self._path if self._path is not None else path_of(self.velocity)

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        """Evaluates the network and counts it."""
        self.evaluations += 1
        return self.velocity(tau, x)


def time_grid(start: float, knots: Sequence[float], steps: int, *, grid: str = "even") -> Tensor:
    """Returns a grid from ``start`` to the last knot that contains every knot exactly.

    Each segment between neighbouring knots is divided evenly. The steps are shared among the
    segments in proportion to their lengths by the method of largest remainders, at least one each.

    Args:
        start: First position.
        knots: Positions to hit, leading away from ``start`` in one direction, up or down.
        steps: Number of steps. With more knots than steps there is one step for each knot.
        grid: One of `GRIDS`. ``"quadratic"`` measures lengths in the square root of the position, so that steps are
            short near the data, where the velocity changes fastest; positions must not be negative.

    Returns:
        Grid (max(steps, len(knots)) + 1,), float64 on the CPU, strictly monotone.

    Raises:
        ValueError: If ``steps < 1``, there is no knot, the knots do not lead away from ``start``
            in one direction, the grid is none, or float64 cannot tell neighbouring grid points apart.
    """
    if grid not in GRIDS:
        raise ValueError(f"Unknown grid {grid!r}: use one of {', '.join(GRIDS)}.")
    given: object = steps
    if not isinstance(given, Integral) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps}.")
    points = [float(start), *(float(knot) for knot in knots)]
    if len(points) == 1 or not all(map(math.isfinite, points)) or not _strictly_monotone(points):
        raise ValueError(
            "The knots must be finite and lead away from the start in one direction, "
            f"got start {start} and knots {list(knots)}."
        )
    if grid == "quadratic":
        if min(points) < 0:
            raise ValueError(f"The quadratic grid needs positions from 0 on, got {points}.")
        roots = time_grid(math.sqrt(start), [math.sqrt(knot) for knot in knots], steps)
        squares = roots.square()
        for point in points:
            squares[(squares - point).abs().argmin()] = point  # exactly
        if not _strictly_monotone(squares.tolist()):
            raise ValueError(f"{steps} steps between {points} are too fine for float64.")
        return squares
    lengths = [abs(b - a) for a, b in pairwise(points)]
    quotas = [steps * length / math.fsum(lengths) for length in lengths]
    counts = [max(1, math.floor(quota)) for quota in quotas]
    segments = range(len(counts))
    while sum(counts) < steps:
        counts[max(segments, key=lambda i: quotas[i] - counts[i])] += 1
    while sum(counts) > max(steps, len(counts)):
        counts[min((i for i in segments if counts[i] > 1), key=lambda i: quotas[i] - counts[i])] -= 1
    pieces = [
        torch.linspace(a, b, count + 1, dtype=torch.float64)
        for (a, b), count in zip(pairwise(points), counts, strict=True)
    ]
    tau = torch.cat([pieces[0], *(piece[1:] for piece in pieces[1:])])
    if not _strictly_monotone(tau.tolist()):
        raise ValueError(f"{steps} steps between {points} are too fine for float64.")
    return tau


def integrate(
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
    grid: str = "even",
) -> Trajectory:
    """Solves from ``x`` at ``start`` through ``knots``, up or down; arguments as in `encode`.

    Returns:
        The states at ``start`` and at every knot, exactly on them; the fixed-grid solvers, or any
        with ``every_step``, also those between.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN, or an adaptive step vanished.
    """
    if solver not in SOLVERS:
        raise ValueError(f"Unknown solver {solver!r}: use one of {', '.join(ALL_SOLVERS)}.")
    if gradient == "reversible":
        raise ValueError(
            f"The reversible gradient needs a reversible solver, {', '.join(REVERSIBLE_SOLVERS)}, got {solver!r}."
        )
    if gradient not in GRADIENTS:
        raise ValueError(f"Unknown gradient {gradient!r}: use one of {', '.join(GRADIENTS)}, reversible.")
    check_solve(velocity, x, [start, *knots], steps)
    evaluate = CheckedVelocity(velocity, gradient)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not knots:
        return Trajectory(x[None], torch.tensor([start], dtype=torch.float64))

    points = time_grid(start, knots, steps, grid=grid)
    adaptive = solver == "dopri5"
    tau = points if every_step or not adaptive else torch.tensor([start, *knots], dtype=torch.float64)
    t = positions_as(tau, x).to(x.device)
    options: dict[str, object] | None = None
    adjoint_options: dict[str, object] | None = None
    if adaptive:
        # With first_step torchdiffeq does not probe for one, which it does at positions that may
        # lie far off the path, and with step_t it does not step over the end and interpolate.
        options = {
            "dtype": t.dtype,
            "first_step": float((points[1] - points[0]).abs()),
            "step_t": t[-1:],
        }
        # The backward solve must stop at the start; downward, torchdiffeq has negated time by then.
        adjoint_options = {**options, "step_t": t[:1] if knots[0] > start else -t[:1]}
    try:
        if gradient == "adjoint" and torch.is_grad_enabled():
            # It solves without gradients; what autocast keeps of the weights there would serve later evaluations too.
            with own_autocast(x.device.type)():
                states = odeint_adjoint(
                    evaluate,
                    x,
                    t,
                    method=solver,
                    rtol=rtol,
                    atol=atol,
                    options=options,
                    adjoint_options=adjoint_options,
                    adjoint_params=evaluate.parameters,
                )
        else:
            states = odeint(evaluate, x, t, method=solver, rtol=rtol, atol=atol, options=options)
    except AssertionError as error:
        # torchdiffeq asserts; an assertion of the network's own is none of our business.
        if not adaptive or not str(error).startswith(("underflow in dt", "non-finite values")):
            raise
        raise FloatingPointError(
            f"{solver} gave up near tau = {evaluate.last_tau():.4g}: its step shrank to nothing, "
            "because the velocity is not finite or changes too abruptly there."
        ) from error
    trajectory = Trajectory(states, tau)
    check_finite(trajectory, solver)
    return trajectory


def check_finite(trajectory: Trajectory, solver: str) -> None:
    """Raises FloatingPointError if the solve ended in infinity or NaN, and says where they came up."""
    # They stay once they are there, so the last state tells, and the others tell where.
    states, tau = trajectory.states, trajectory.tau
    if not bool(states[-1].isfinite().all()):
        bad = int((~states.isfinite()).flatten(1).any(1).nonzero()[0])
        raise FloatingPointError(
            f"The state became infinite or NaN at tau = {tau[bad].item():.4g} "
            f"(position {bad} of {len(tau) - 1}, solver {solver})."
        )


def check_solve(velocity: Velocity, x: Tensor, positions: Sequence[float], steps: int) -> None:
    """Raises ValueError if the state, the number of steps or a position is nothing to solve with."""
    if not x.is_floating_point():
        raise ValueError(f"The state must be a floating-point tensor, got {x.dtype}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    path = path_of(velocity)
    if path is not None and not all(path.tau_min <= t <= path.tau_max for t in positions):
        raise ValueError(
            f"Positions must lie in [{path.tau_min:g}, {path.tau_max:g}] on the {path.name} path, got {[*positions]}."
        )


def positions_as(tau: Tensor, x: Tensor) -> Tensor:
    """Returns the positions in the dtype of the state, still on the CPU: MPS has no float64.

    Raises:
        ValueError: If that dtype cannot tell neighbouring positions apart.
    """
    t = tau.to(x.dtype)
    if not _strictly_monotone(t.tolist()):
        raise ValueError(
            f"{len(tau) - 1} steps from {tau[0].item():g} to {tau[-1].item():g} are too fine for {x.dtype}: "
            "take fewer steps or a float64 state."
        )
    return t


def data_end(velocity: Velocity) -> float:
    """Returns where the path of a velocity network begins: its ``tau_min``, or 0 where it declares none."""
    path = path_of(velocity)
    return 0.0 if path is None else path.tau_min


def noise_end(velocity: Velocity) -> float:
    """Returns where the path of a velocity network ends: its ``tau_max``, or 1 where it declares none."""
    path = path_of(velocity)
    return 1.0 if path is None else path.tau_max


def checkpointed(evaluation: Callable[..., Tensor], network: object, *inputs: Any) -> Tensor:
    """Evaluates a network keeping nothing for the backward pass, which evaluates it again.

    Batch normalisations count the first evaluation alone, so that training is the same as with everything kept. The
    backward pass raises a RuntimeError if the parameters are no longer those of the evaluation (``check_unchanged``).

    Args:
        evaluation: What is called, with the inputs.
        network: What it evaluates.
        inputs: Its inputs.
    """
    module = network if isinstance(network, nn.Module) else nn.Module()
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training]
    before = with_versions(module.parameters())

    @contextmanager
    def again() -> Iterator[None]:
        check_unchanged(before, module.parameters())
        statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
        try:
            yield
        finally:
            for buffer, value in statistics:
                buffer.copy_(value)

    value: Tensor = checkpoint(evaluation, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    return value


def with_versions(parameters: Iterable[Tensor]) -> list[tuple[Tensor, int]]:
    """Parameters and how often each was changed in place; what inference mode made does not count."""
    return [(parameter, 0 if parameter.is_inference() else parameter._version) for parameter in parameters]


def check_unchanged(before: Sequence[tuple[Tensor, int]], now: Iterable[Tensor]) -> None:
    """Refuses to evaluate a network again for its gradient with other parameters than those of the solve.

    Args:
        before: Of ``with_versions`` at the solve.
        now: The parameters in the backward pass.

    Raises:
        RuntimeError: If one was changed in place or exchanged.
    """
    same = [(id(parameter), version) for parameter, version in before]
    if same != [(id(parameter), version) for parameter, version in with_versions(now)]:
        raise RuntimeError(
            "A parameter of the velocity was changed in place, or exchanged for another, between the solve and its "
            "backward pass, which evaluates the network again: gradient='full' keeps what it needs."
        )


class CheckedVelocity:
    """The right-hand side as torchdiffeq calls it: counted, checkpointed, checked and cast."""

    def __init__(self, velocity: Velocity, gradient: str) -> None:
        self.counters: list[CountedVelocity] = []
        while isinstance(velocity, CountedVelocity):
            self.counters.append(velocity)
            velocity = velocity.velocity
        self.network = velocity
        self.gradient = gradient
        self.tau: Tensor | None = None
        self.parameters: tuple[nn.Parameter, ...] = ()
        self.before = with_versions(velocity.parameters()) if isinstance(velocity, nn.Module) else []
        if gradient == "adjoint":
            if not isinstance(velocity, nn.Module):
                raise ValueError(
                    "The adjoint gradient needs a velocity that is an nn.Module, whose parameters "
                    f"it can see, got {type(velocity).__name__}: use 'checkpoint' or 'full'."
                )
            self.parameters = tuple(p for p in velocity.parameters() if p.requires_grad)

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        """Evaluates the network."""
        self.tau = tau
        differentiating = torch.is_grad_enabled()
        # The adjoint method solves forward without gradients: with them, this is its way back.
        if self.gradient == "adjoint" and differentiating:
            check_unchanged(self.before, self.network.parameters())  # type: ignore[attr-defined]
        else:
            for counter in self.counters:
                counter.evaluations += 1
        if self.gradient == "checkpoint" and differentiating:
            value = checkpointed(self.network, self.network, tau, x)
        else:
            value = self.network(tau, x)
        check_prediction(value, x)
        return value.to(x.dtype)

    def last_tau(self) -> float:
        """Where the solver asked last."""
        return math.nan if self.tau is None else self.tau.item()


def _strictly_monotone(points: Sequence[float]) -> bool:
    pairs = list(pairwise(points))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)
