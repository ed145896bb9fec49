"""Doing a comparison: cell after cell, and writing what there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from lightly_prg.comparison_cells import Cell
from lightly_prg.comparison_judging import Judge
from lightly_prg.comparison_records import Records
from lightly_prg.console import Console
from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.eval.compare import write_comparison
from lightly_prg.files import write_json
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run
from lightly_prg.train import load_splits


@dataclass
class Work:
    """The cells of a comparison, one after the other, and what is written of them.

    Args:
        folder: The comparison.
        judge: Measures a cell.
        facts: What comparison.json says besides the cells.
        train: Gives the run of a cell.
        scanned: Whether features are chosen by a scan.
    """

    folder: Path
    judge: Judge
    facts: dict[str, Any]
    train: Callable[[Cell], Run]
    scanned: bool

    def do(self, cells: Sequence[Cell]) -> Path:
        """Trains and judges the cells in order; returns the path of the page."""
        done: list[Cell] = []
        page = self.folder / "comparison.html"
        for index, cell in enumerate(cells):
            self.judge.console.say(f"{index + 1}/{len(cells)}  {escape(cell.label)}, seed {cell.seed}")
            self.train(cell)
            if self.scanned:
                self.judge.scan(cell, self._records(cell))
            self.judge.judge(cell, self._records(cell))
            done.append(cell)
            # A comparison of hours shows what it has after each round of all methods.
            if index + 1 < len(cells) and cells[index + 1].seed != cell.seed:
                page = self._write(done, dimension=None)
        dimension = self._dimension(cells)
        for cell in cells if dimension is not None else ():
            assert dimension is not None
            self.judge.judge_at(cell, self._records(cell), dimension)
        page = self._write(cells, dimension=dimension)
        return page

    def _records(self, cell: Cell) -> Records:
        return Records(self.folder / "results" / cell.key)

    def _dimension(self, cells: Iterable[Cell]) -> int | None:
        """The dimension to which all are brought; None where all have the same, or none is wanted."""
        wanted = self.judge.evaluators.common_dimension
        dimensions = {int(Run(cell.folder).description["embedding_dim"]) for cell in cells}
        if wanted == "auto":
            return None if len(dimensions) == 1 else min(dimensions)
        return wanted

    def _write(self, cells: Sequence[Cell], *, dimension: int | None) -> Path:
        evaluators = self.judge.evaluators
        asked = [name for name in ("knn", "linear", "few_shot", "finetune", "robustness") if getattr(evaluators, name)]
        content = {
            **self.facts,
            "split": self.judge.settings.split,
            "evaluators": asked + (["common_dimension"] if dimension is not None else []),
            "settings": evaluators.model_dump(mode="json"),
            "cells": [
                {"label": cell.label, "seed": cell.seed, "key": cell.key, "run": str(cell.folder)} for cell in cells
            ],
        }
        write_json(self.folder / "comparison.json", content)
        return write_comparison(self.folder)


def check_folder(folder: Path) -> None:
    """Refuses a folder that something else lies in.

    Raises:
        UserError: If it is a run.
    """
    if Run(folder).recipe_file.is_file():
        raise UserError(f"{folder} is a run; a comparison needs a folder of its own: choose another with --out.")


class Images:
    """The images of a recipe; those of the last one are kept, which most cells of a seed share.

    Args:
        data: Those of every recipe; None to read each one's own.
        console: Where progress is shown.
    """

    def __init__(self, data: Splits | None, console: Console) -> None:
        self.data = data
        self.console = console
        self._last: tuple[str, Splits] | None = None

    def of(self, recipe: Recipe) -> Splits:
        """The images of this recipe."""
        if self.data is not None:
            return self.data
        key = json.dumps([recipe.seed, recipe.data.model_dump(mode="json")])
        if self._last is None or self._last[0] != key:
            self._last = (key, load_splits(recipe, self.console))
        return self._last[1]
