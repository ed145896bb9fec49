"""The exact gradient of a coupled solve, in memory that does not grow with the number of steps.

Backpropagation needs the states of the forward pass, and a coupled step can be undone: so they are computed again on
the way back, each from the one after it, instead of being kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightly_prg.flow.autocast import own_autocast
from lightly_prg.flow.coupled_steps import CoupledSteps, Evaluation
from lightly_prg.flow.solver import check_unchanged, with_versions


@dataclass(eq=False)
class DifferentiableSolve:
    """A coupled solve whose gradient reconstructs the states on the way back.

    What the network computes is repeated as it was: in the same autocast precision and, where it draws random numbers,
    with the same draws. The states agree to rounding, which the flow may magnify as it does any error; so does the
    gradient with that of plain backpropagation. A network that changes its own buffers, as batch normalisation does in
    training mode, changes them once more in the backward pass.

    Attributes:
        steps: Grid and method.
        kept: Which grid points, 1 to N in ascending order, are returned.
        forward: The velocity of the forward pass.
        repeated: The same function for the backward pass.
        recomputed: As ``repeated``, but keeps no activations: it evaluates once more when it is differentiated.
        parameters: What the velocity is differentiated for, beside the state.
        network: Whose parameters they are.
    """

    steps: CoupledSteps
    kept: Sequence[int]
    forward: Evaluation
    repeated: Evaluation
    recomputed: Evaluation
    parameters: tuple[nn.Parameter, ...]
    network: nn.Module
    precision: Callable[[], AbstractContextManager[None]] = field(init=False, default=nullcontext)
    random_states: list[_RandomState] = field(init=False, default_factory=list)
    before: list[tuple[Tensor, int]] = field(init=False, default_factory=list)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``y`` at the grid points kept, (len(kept), B, ...), and the last ``z``; both start at ``x``."""
        self.precision = own_autocast(x.device.type)
        self.before = with_versions(self.network.parameters())
        states, last = _Reconstructing.apply(self, x, *self.parameters)
        return states, last

    def solved(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The forward pass: ``y`` at the grid points kept, the last ``y`` and the last ``z``."""
        stages, calls = len(self.steps.method.nodes), 0

        def recorded(tau: Tensor, x: Tensor) -> Tensor:
            nonlocal calls
            if calls % stages == 0:
                self.random_states.append(_RandomState.now(x.device, self.random_states[-1:]))
            calls += 1
            return self.forward(tau, x)

        with self.precision():
            return collected(self.steps.advance(recorded, x, x), self.kept)

    def pulled_back(self, y: Tensor, z: Tensor, of_states: Tensor, of_z: Tensor) -> tuple[Tensor | None, ...]:
        """The backward pass: the gradients of the initial state and of every parameter.

        Args:
            y: The last ``y`` of the forward pass, (B, ...).
            z: The last ``z``, (B, ...).
            of_states: Gradient of the states kept, (len(kept), B, ...).
            of_z: Gradient of the last ``z``, (B, ...).

        Raises:
            RuntimeError: If a parameter is not what it was (``check_unchanged``).
            FloatingPointError: If the states found on the way back are not those of the forward pass.
        """
        check_unchanged(self.before, self.network.parameters())
        coupling = self.steps.coupling
        of_y = torch.zeros_like(of_z)
        totals: list[Tensor | None] = [None] * len(self.parameters)
        largest = z.abs().max()
        for n in reversed(range(self.steps.count)):
            if n + 1 in self.kept:
                of_y = of_y + of_states[self.kept.index(n + 1)]
            increment, through = self._half_step(n, y, -of_z, totals, back=True)
            z = z + increment
            largest = torch.maximum(largest, z.abs().max())
            of_y = of_y + through
            increment, through = self._half_step(n, z, of_y, totals, back=False)
            y = self.steps.unmixed(y, z, increment)
            of_z = of_z + (1 - coupling) * of_y + through
            of_y = coupling * of_y
        # At the start the two states were one: what lies between them now is the error of the reconstruction. Images
        # can be all grey, of states near zero, which rounding by the states on the way is no loss of.
        allowed = torch.maximum(0.05 * z.abs().max(), 1e-4 * largest)
        if not bool((y - z).abs().max() <= allowed):
            raise FloatingPointError(
                "The states of the solve are lost to rounding on the way back, and the gradient with them (coupling "
                f"{coupling:g}, {self.steps.count} steps): take a coupling nearer to 1, fewer steps, or 'checkpoint'."
            )
        return of_y + of_z, *totals

    def _half_step(
        self, n: int, x: Tensor, upstream: Tensor, totals: list[Tensor | None], *, back: bool
    ) -> tuple[Tensor, Tensor]:
        """One increment, and the gradient that flows through it: of ``x`` returned, of parameters added to totals."""
        x = x.detach().requires_grad_()
        self.random_states[2 * n + back].restore()
        with torch.enable_grad(), self.precision():
            # Only the last evaluation keeps its graph: when the others are differentiated it is gone already, and so
            # there is never more than one.
            increment = self.steps.increment(self.recomputed, n, x, back=back, last=self.repeated)
            if not increment.requires_grad:
                return increment, torch.zeros_like(x)
            through, *found = torch.autograd.grad(increment, (x, *self.parameters), upstream, allow_unused=True)
        for i, gradient in enumerate(found):
            total = totals[i]
            if gradient is not None:
                totals[i] = gradient if total is None else total + gradient
        return increment.detach(), torch.zeros_like(x) if through is None else through


def collected(states: Iterator[tuple[Tensor, Tensor]], kept: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``y`` at the positions kept, (len(kept), B, ...), the last ``y`` and the last ``z``."""
    found = []
    for n, pair in enumerate(states):
        y, z = pair
        if n in kept:
            found.append(y)
    return torch.stack(found), y, z


class _Reconstructing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: DifferentiableSolve, x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        states, y, z = solve.solved(x)
        ctx.solve = solve
        ctx.save_for_backward(y, z)
        return states, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_states: Tensor, of_z: Tensor) -> tuple[Tensor | None, ...]:
        y, z = ctx.saved_tensors
        before = _RandomState.now(y.device)
        try:
            return None, *ctx.solve.pulled_back(y, z, of_states, of_z)
        finally:
            before.restore()


@dataclass(frozen=True, eq=False)
class _RandomState:
    """The state of the global generators, which dropout draws from."""

    device: torch.device
    states: tuple[Tensor, ...]

    @classmethod
    def now(cls, device: torch.device, before: Sequence[_RandomState] = ()) -> _RandomState:
        """The present state; the one before, if nothing was drawn since, so that it is kept only once."""
        states = [torch.get_rng_state()]
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device))
        elif device.type == "mps":
            states.append(torch.mps.get_rng_state())
        if before and all(torch.equal(a, b) for a, b in zip(before[0].states, states, strict=True)):
            return before[0]
        return cls(device, tuple(states))

    def restore(self) -> None:
        torch.set_rng_state(self.states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.states[1], self.device)
        elif self.device.type == "mps":
            torch.mps.set_rng_state(self.states[1])
