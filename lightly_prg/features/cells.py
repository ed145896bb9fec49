"""The cells of a grid of features: what is read, where on the path, and by which steps of the solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd, lcm
from typing import Any, Literal, get_args

import torch

from lightly_prg.flow import SOLVERS, Path, time_grid
from lightly_prg.recipe import FeatureSpec, NetworkFeature, OdeSpec

Source = Literal["state", "velocity", "denoised", "block", "output"]
SOURCES: tuple[Source, ...] = get_args(Source)
"""What can be read; the first three need a flow, ``output`` is that of a network that is run once."""


@dataclass(frozen=True)
class Row:
    """What is read at every position of the grid.

    Attributes:
        source: One of ``SOURCES``.
        block: The name of a block, for the source ``block``.
        pool: ``mean``, ``flatten`` or ``grid:N``.
    """

    source: Source
    block: str | None = None
    pool: str = "mean"

    @property
    def name(self) -> str:
        """The block, or else the source."""
        return self.block if self.block is not None else self.source


@dataclass(frozen=True)
class Cell:
    """One feature of the grid.

    Attributes:
        row: What is read.
        taus: Where on the path; several are concatenated; none for a network that is run once.
        steps: Steps of the solver that lead to the last of them; 0 at the data.
        reproducible: Whether an encoder with ``feature()`` and so many steps takes the very same steps, and so gives
            the same embedding as the grid.
    """

    row: Row
    taus: tuple[float, ...]
    steps: int
    reproducible: bool

    def feature(self) -> FeatureSpec | NetworkFeature:
        """The feature for a recipe."""
        if not self.taus:
            return NetworkFeature(block=self.row.block, pool=self.row.pool)
        return FeatureSpec.model_validate(
            {
                "source": self.row.source,
                "block": self.row.block,
                "tau": self.taus if len(self.taus) > 1 else self.taus[0],
                "pool": self.row.pool,
            }
        )


def even_steps(start: float, taus: Sequence[float], at_least: int) -> int:
    """The fewest steps to the last tau, ``at_least`` or more, whose even grid contains every tau.

    On an even grid the way to each tau is the one that is taken where the feature is read there alone. Where that would
    take more than 64 steps and four times as many as asked for, it is ``at_least``, or one for each tau, and the grid
    is uneven (see ``lightly_prg.flow.time_grid``).
    """
    # As they are written: the float 0.1 is no fraction of small numbers.
    distances = [Fraction(repr(tau)) - Fraction(repr(start)) for tau in taus if tau > start]
    if not distances:
        return at_least
    denominator = lcm(*(distance.denominator for distance in distances))
    unit = gcd(*(int(distance * denominator) for distance in distances))
    fewest = int(max(distances) * denominator) // unit
    steps = fewest * ceil(at_least / fewest)
    return steps if steps <= max(64, 4 * at_least) else max(at_least, len(distances))


def places_on(taus: Sequence[float], path: Path) -> list[float]:
    """Where a path is read for these taus: what lies outside its range is moved to its nearer end."""
    return [min(max(tau, path.tau_min), path.tau_max) for tau in taus]


def steps_to(path: Path, ode: OdeSpec, taus: Sequence[float], steps: int) -> tuple[list[int], list[bool]]:
    """For each tau the steps that lead there, and whether they are those of a solve that ends there."""
    start = path.tau_min
    places = places_on(taus, path)
    knots = sorted({place for place in places if place > start})
    if not knots:
        return [0] * len(places), [True] * len(places)
    grid = time_grid(start, knots, steps)
    counts = [int((grid <= place).sum()) - 1 for place in places]
    # Compared as the solver sees them, in float32.
    same = [
        count == 0
        or place == knots[-1] == knots[0]
        or (
            ode.solver in SOLVERS
            and ode.solver != "dopri5"
            and torch.equal(grid[: count + 1].float(), time_grid(start, [place], count).float())
        )
        for place, count in zip(places, counts, strict=True)
    ]
    return counts, same


def ode_of(ode: OdeSpec, cell: Cell) -> OdeSpec:
    """The integration that takes a cell's steps, which are even, as those of a scan are."""
    changes: dict[str, Any] = {"steps": cell.steps, "grid": "even"} if cell.steps else {}
    return ode.model_copy(update=changes)
