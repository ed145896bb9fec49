"""What a study is: kinds of cells, how one is measured, and what follows from all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightly_prg.claims.findings import Finding, Note, Outcome, Reading, Side
from lightly_prg.comparison.judging import JudgedRun
from lightly_prg.console import Console
from lightly_prg.data import ImageSet, Splits
from lightly_prg.eval.comparison.statistics import PairedDifference, mean_of, paired_difference
from lightly_prg.evaluation import Evaluation
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run
from lightly_prg.scan.features import drawn_by_class

OptionsT = TypeVar("OptionsT")
Pick = str | Callable[[Mapping[str, Any]], float | None]
"""The key of a number in the result of a cell, or what finds it there; None where there is none."""


@dataclass
class Part:
    """One data set with one seed: what the cells of a study are measured on.

    Args:
        data: The label of the set.
        recipe: Of its pretraining, as the claim has it.
        run: The pretrained network.
        load: Gives the images, when the first cell needs them.
        validation_images: At most so many, drawn by class; None for all.
        test_images: Likewise.
        figures: Where cells may draw.
        trust: Whether the recipe's code may run.
        console: Where progress is shown.
    """

    data: str
    recipe: Recipe
    run: Run
    load: Callable[[], Splits]
    validation_images: int | None
    test_images: int | None
    figures: Path
    trust: bool
    console: Console

    @property
    def seed(self) -> int:
        """Of the pretraining, and of every draw."""
        return self.recipe.seed

    @cached_property
    def splits(self) -> Splits:
        """All training images, and as many of the others as the study takes."""
        whole = self.load()
        return Splits(
            whole.train,
            self._some(whole.validation, self.validation_images),
            self._some(whole.test, self.test_images),
        )

    def _some(self, images: ImageSet, most: int | None) -> ImageSet:
        return images if most is None else drawn_by_class(images, most, self.seed)

    @cached_property
    def evaluation(self) -> Evaluation:
        """The evaluators of the pretrained network."""
        return self.evaluation_of(self.run)

    def evaluation_of(self, run: Run) -> Evaluation:
        """The evaluators of the network or one of its snapshots, with the claim's options."""
        judged = JudgedRun(run.folder, self.recipe.eval)
        return Evaluation(judged, data=self.splits, console=self.console, trust=self.trust)


@dataclass(frozen=True)
class Measured:
    """A cell that was measured.

    Attributes:
        data: What results call the set.
        seed: Of the pretraining, and of every draw.
        kind: Of the cell.
        result: What the study measured, what it cost and by which versions.
    """

    data: str
    seed: int
    kind: str
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Cells:
    """All cells of a study.

    Args:
        measured: In any order.
        margin: The claim's, of every difference that has none of its own.
        step: Points that an accuracy changes by with one image more: equal differences of a few seeds are no certainty.
    """

    measured: Sequence[Measured]
    margin: float = 0.0
    step: float = 0.0

    @property
    def sets(self) -> list[str]:
        """The data sets, in order."""
        return list(dict.fromkeys(cell.data for cell in self.measured))

    def by_seed(self, data: str, kind: str, pick: Pick) -> dict[int, float]:
        """One number of one kind of cell on one set; a seed where there is none is left out."""
        found = {}
        for cell in self.measured:
            if (cell.data, cell.kind) == (data, kind):
                value = cell.result[pick] if isinstance(pick, str) else pick(cell.result)
                if value is not None:
                    found[cell.seed] = float(value)
        return found

    def differences(
        self,
        name: str,
        first: tuple[str, Pick],
        second: tuple[str, Pick] | None = None,
        *,
        unit: str = "points",
        side: Side | None = None,
        margin: float | None = None,
    ) -> list[Finding]:
        """The difference of two numbers on every set, seed by seed.

        Args:
            name: What less what.
            first: The kind of cell and what is picked of it.
            second: What is subtracted; None where the number is a difference itself.
            unit: Of the numbers.
            side: Where the claim says that it lies.
            margin: Of the side; default the claim's.
        """
        found = []
        for data in self.sets:
            values = self.by_seed(data, *first)
            reference = dict.fromkeys(values, 0.0) if second is None else self.by_seed(data, *second)
            difference = paired_difference(values, reference, step=self.step if unit == "points" else 0.0)
            found += self.finding(name, data, difference, unit=unit, side=side, margin=margin)
        return found

    def finding(
        self,
        name: str,
        data: str,
        difference: PairedDifference | None,
        *,
        unit: str,
        side: Side | None = None,
        margin: float | None = None,
    ) -> list[Finding]:
        """One difference on one set, with the claim's margin if it has none of its own.

        Where there is no difference, one that decides stands as not measured, so that no verdict passes over it.
        """
        own = self.margin if margin is None else margin
        if difference is None and side is not None:
            difference = PairedDifference(math.nan, None, None, {})
        return [] if difference is None else [Finding(name, data, unit, difference, side, own)]

    def readings(self, name: str, kind: str, pick: Pick, *, unit: str = "%") -> list[Reading]:
        """A number on every set, mean over the seeds."""
        found = []
        for data in self.sets:
            values = list(self.by_seed(data, kind, pick).values())
            if values:
                mean = mean_of(values)
                found.append(Reading(name, data, unit, mean.mean, mean.deviation))
        return found

    def notes(self, name: str, kind: str, say: Callable[[Mapping[str, Any]], str]) -> list[Note]:
        """What was chosen on every set, seed after seed."""
        found = []
        for data in self.sets:
            cells = [cell for cell in self.measured if (cell.data, cell.kind) == (data, kind)]
            if cells:
                told = (say(cell.result) for cell in sorted(cells, key=lambda cell: cell.seed))
                found.append(Note(name, data, "; ".join(told)))
        return found


@dataclass(frozen=True)
class Study(Generic[OptionsT]):
    """How a claim is tested.

    Attributes:
        kinds: ``(options, recipe of a pretraining)`` to the cells of every set and seed, by name, in the order in which
            they are measured, with what makes each.
        measure: ``(part, what makes the cell, options)`` to a result that is JSON.
        outcome: ``(cells, options)`` to what they say; it computes nothing but statistics.
        aside: The options that decide over no cell: what of them concerns a cell stands in what ``kinds`` says of it,
            or they concern the outcome alone.
    """

    kinds: Callable[[OptionsT, Recipe], Mapping[str, Mapping[str, Any]]]
    measure: Callable[[Part, Mapping[str, Any], OptionsT], Mapping[str, Any]]
    outcome: Callable[[Cells, OptionsT], Outcome]
    aside: frozenset[str] = frozenset()
