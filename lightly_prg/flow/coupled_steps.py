"""Explicit Runge-Kutta steps made invertible by a second state: the coupling of McCallum and Foster.

Two states ``y`` and ``z`` start equal and follow the same flow. With ``P(t -> s, x)`` for the increment that a
Runge-Kutta method adds to ``x`` between ``t`` and ``s``, one step from ``t`` to ``s`` is

    y' = z + l (y - z) + P(t -> s, z)        and back      z = z' + P(s -> t, y')
    z' = z - P(s -> t, y')                                 y = z + (y' - z - P(t -> s, z)) / l

Each line adds to one state a function of the other alone, so the way back needs no equation to be solved. ``y`` is the
answer, of the same order as the method; the coupling ``l`` in (0, 1] keeps the two states together.

Reference:
    Efficient, Accurate and Stable Gradients for Neural ODEs, 2024, https://arxiv.org/abs/2410.11648
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Evaluation = Callable[[Tensor, Tensor], Tensor]
"""A velocity ``(tau, x) -> dx/dtau`` as a step calls it: ``tau`` 0-d, the result in the dtype of ``x``."""


@dataclass(frozen=True)
class RungeKutta:
    """The tableau of an explicit Runge-Kutta method.

    Attributes:
        nodes: Where in the step each velocity is taken, from 0 to 1.
        stages: For each velocity, the weights of those before it in the state that it is taken at.
        update: The weights of all velocities in the increment.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    update: tuple[float, ...]


# The same methods as torchdiffeq's of these names; its rk4 is the 3/8 rule.
BASES: dict[str, RungeKutta] = {
    "euler": RungeKutta((0.0,), ((),), (1.0,)),
    "midpoint": RungeKutta((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun2": RungeKutta((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "heun3": RungeKutta((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (0.25, 0.0, 0.75)),
    "rk4": RungeKutta(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (0.125, 0.375, 0.375, 0.125),
    ),
}

DEFAULT_COUPLING = 0.999  # McCallum and Foster's, in all their experiments

REVERSIBLE_SOLVERS = tuple(f"reversible_{base}" for base in BASES)
"""Names of the coupled methods for ``encode`` and ``decode``."""


@dataclass(frozen=True)
class CoupledSteps:
    """A grid and what is done between its points.

    Attributes:
        grid: Positions (N + 1), leading up or down.
        method: The Runge-Kutta method.
        coupling: ``l``, in (0, 1].
    """

    grid: tuple[float, ...]
    method: RungeKutta
    coupling: float

    @property
    def count(self) -> int:
        """N, the number of steps."""
        return len(self.grid) - 1

    def increment(
        self, evaluate: Evaluation, n: int, x: Tensor, *, back: bool = False, last: Evaluation | None = None
    ) -> Tensor:
        """Returns ``P(t -> s, x)`` with ``t, s = grid[n], grid[n + 1]``, or ``P(s -> t, x)``.

        Args:
            evaluate: The velocity.
            n: Which step.
            x: The state that the increment is for, (B, ...).
            back: Whether the increment leads from ``s`` to ``t``.
            last: Takes the place of ``evaluate`` for the last velocity.
        """
        start, end = (self.grid[n + 1], self.grid[n]) if back else (self.grid[n], self.grid[n + 1])
        length = end - start
        slopes: list[Tensor] = []
        for node, weights in zip(self.method.nodes, self.method.stages, strict=True):
            point = x
            for weight, slope in zip(weights, slopes, strict=True):
                if weight:
                    point = point + (length * weight) * slope
            # In this form the ends of the step are hit exactly: beyond them the path may have no velocity.
            tau = torch.full((), start * (1 - node) + end * node, dtype=x.dtype, device=x.device)
            velocity = last if last is not None and len(slopes) == len(self.method.nodes) - 1 else evaluate
            slopes.append(velocity(tau, point))
        terms = [(length * weight) * slope for weight, slope in zip(self.method.update, slopes, strict=True) if weight]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def mixed(self, y: Tensor, z: Tensor, increment: Tensor) -> Tensor:
        """Returns ``y'`` of a step from ``y`` and ``z`` with the increment of ``z``."""
        return z + self.coupling * (y - z) + increment

    def unmixed(self, y: Tensor, z: Tensor, increment: Tensor) -> Tensor:
        """Inverts `mixed`: returns the ``y`` before the step, given the one after it."""
        return z + (y - z - increment) / self.coupling

    def advance(self, evaluate: Evaluation, y: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields both states at ``grid[0], ..., grid[N]``, from those at the first, which it is given."""
        yield y, z
        for n in range(self.count):
            y = self.mixed(y, z, self.increment(evaluate, n, z))
            z = z - self.increment(evaluate, n, y, back=True)
            yield y, z

    def retreat(self, evaluate: Evaluation, y: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields both states at ``grid[N], ..., grid[0]``, from those at the first of these: undoes `advance`."""
        yield y, z
        for n in reversed(range(self.count)):
            z = z + self.increment(evaluate, n, y, back=True)
            y = self.unmixed(y, z, self.increment(evaluate, n, z))
            yield y, z
