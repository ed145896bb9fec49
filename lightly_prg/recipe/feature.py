"""Where an embedding is read, and how the ODE that leads there is integrated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lightly_prg.recipe.section import Number, Positive, Section, refuse_bool


def check_pool(pool: str) -> str:
    """Refuses what is no kind of pooling."""
    kind, _, cells = pool.partition(":")
    if pool in ("mean", "flatten") or (kind == "grid" and cells.isdigit() and int(cells) >= 1):
        return pool
    raise ValueError("allowed are 'mean', 'flatten' and 'grid:N' with N cells a side, such as 'grid:2'")


Pool = Annotated[str, AfterValidator(check_pool)]
"""``mean``, ``flatten`` or ``grid:N``."""


def _check_tau(tau: Any) -> Any:
    if isinstance(tau, str) and "," in tau:
        tau = [part.strip() for part in tau.strip("[]()").split(",")]
    values = tau if isinstance(tau, list | tuple) else [tau]
    try:
        numbers = [float(refuse_bool(value)) for value in values]
    except (TypeError, ValueError):
        raise ValueError("a number in [0, 1], or a list of them, is needed") from None
    if not numbers or not all(0.0 <= number <= 1.0 for number in numbers):
        raise ValueError("tau runs from 0 (data) to 1 (noise): a number in [0, 1], or a list of them")
    if len(set(numbers)) != len(numbers):
        raise ValueError("every tau may stand in the list once")
    return tuple(numbers) if isinstance(tau, list | tuple) else numbers[0]


class OdeSpec(Section):
    """How the ODE between data and noise is integrated.

    Attributes:
        solver: One of torchdiffeq's solvers, see ``lightly_prg.flow.SOLVERS``; ``ab2``, see ``lightly_prg.flow.adams``;
            ``ddim``, see ``lightly_prg.flow.ddim``; or ``reversible_`` and one of the fixed-step solvers, such as
            ``reversible_midpoint``: twice the evaluations, and every step can be undone.
        steps: Steps from the data to the largest tau that is asked for (fixed-step solvers).
        grid: ``even`` steps, or ``quadratic`` ones, which are short near the data, where the velocity changes fastest.
            A scan takes even steps, so that it can read every tau on one way.
        gradient: How gradients pass through it: ``full``, ``checkpoint`` (exact, the memory of one evaluation),
            ``adjoint`` (torchdiffeq's, biased for coarse grids) or ``reversible`` (exact to rounding, with a reversible
            solver alone; memory independent of the steps).
        rtol: Relative tolerance of ``dopri5``.
        atol: Absolute tolerance of ``dopri5``.
    """

    solver: str = "euler"
    steps: Positive = 8
    grid: Literal["even", "quadratic"] = "even"
    gradient: Literal["full", "checkpoint", "adjoint", "reversible"] = "checkpoint"
    rtol: Annotated[Number, Field(gt=0.0)] = 1e-5
    atol: Annotated[Number, Field(gt=0.0)] = 1e-5

    @model_validator(mode="after")
    def _gradient_goes_with_its_solver(self) -> OdeSpec:
        reversible = self.solver.startswith("reversible_")
        if self.gradient == "reversible" and not reversible:
            raise ValueError(f"gradient 'reversible' needs a solver such as reversible_midpoint, not {self.solver!r}")
        if self.gradient == "adjoint" and reversible:
            raise ValueError(f"gradient 'adjoint' does not go with {self.solver}: take reversible, checkpoint or full")
        if self.solver == "dopri5" and self.grid != "even":
            raise ValueError("dopri5 chooses its own steps; grid 'quadratic' goes with solvers of fixed steps")
        return self


class FeatureSpec(Section):
    """Where on the path, and where in the network, the embedding is read.

    Attributes:
        source: ``state`` (the image carried to tau, the paper's feature), ``velocity``, ``denoised`` (the network's
            estimate of the clean image) or ``block`` (an activation).
        block: The name of the block in ``named_modules()`` of the velocity network, for ``source="block"``.
        tau: Position on the path, 0 = data, 1 = noise; several are concatenated.
        pool: ``mean`` over space, ``flatten``, or ``grid:N`` for an average over N x N cells.

    Example:
        >>> FeatureSpec(source="block", block="middle", tau=0.1, pool="grid:2").tau
        0.1
    """

    source: Literal["state", "velocity", "denoised", "block"] = "block"
    block: str | None = None
    tau: Annotated[float | tuple[float, ...], BeforeValidator(_check_tau)] = 0.1
    pool: Pool = "mean"

    @model_validator(mode="after")
    def _block_goes_with_its_source(self) -> FeatureSpec:
        if self.source == "block" and self.block is None:
            raise ValueError("source 'block' needs the name of a block, for example block=middle")
        if self.source != "block" and self.block is not None:
            raise ValueError(f"block={self.block!r} goes with source 'block', not with {self.source!r}")
        return self

    @property
    def taus(self) -> tuple[float, ...]:
        """The positions as a tuple, however many were given."""
        return self.tau if isinstance(self.tau, tuple) else (self.tau,)


class NetworkFeature(Section):
    """Where in an ordinary network, which is run once, the embedding is read.

    Attributes:
        block: The name of a block in ``named_modules()`` of the network; None for its own output.
        pool: ``mean`` over space or tokens, ``flatten``, or ``grid:N`` for an average over N x N cells.

    Example:
        >>> NetworkFeature(block="layer3", pool="grid:2").block
        'layer3'
    """

    block: str | None = None
    pool: Pool = "mean"
