"""Doing a comparison: cell after cell, and writing what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightly_prg.comparison.cells import Cell
from lightly_prg.comparison.judging import Judge
from lightly_prg.comparison.records import Records
from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.compare import write_comparison
from lightly_prg.files import read_json, write_json
from lightly_prg.recipe.comparison import CONTROLS, slug_of
from lightly_prg.recipe.yaml_text import read_yaml
from lightly_prg.run import Run


@dataclass
class Work:
    """The cells of a comparison, one after the other, and what is written of them.

    Args:
        folder: The comparison.
        judge: Measures a cell.
        facts: What comparison.json says besides the cells.
        train: Gives the run of a cell.
        scanned: Whether features are chosen by a scan.
        controls: What needs no training and stands in the table, too.
    """

    folder: Path
    judge: Judge
    facts: dict[str, Any]
    train: Callable[[Cell], Run]
    scanned: bool
    controls: Sequence[Literal["raw_pixels", "pca"]] = ()

    def do(self, cells: Sequence[Cell]) -> Path:
        """Trains and judges the cells in order; returns the path of the page."""
        done: list[Cell] = []
        for index, cell in enumerate(cells):
            self.judge.console.say(f"{index + 1}/{len(cells)}  {cell.label}, seed {cell.seed}")
            if Run(cell.folder).has_lost_weights and self.judge.is_done(cell, self._records(cell)):
                self.judge.console.say("  measured already; its weights were removed")
            else:
                self.train(cell)
                if self.scanned:
                    self.judge.scan(cell, self._records(cell))
                self.judge.judge(cell, self._records(cell))
            done.append(cell)
            # A comparison of hours can be copied after each cell, and looked at after each round of all methods.
            if cell.key not in self._noted():
                self._note(done, dimension=None)
            if index + 1 < len(cells) and cells[index + 1].seed != cell.seed:
                self._write(done, dimension=None)
        for name, cell in self._controlled(cells):
            self.judge.console.say(f"{CONTROLS[name]}, seed {cell.seed}")
            self.judge.judge_control(cell, name, Records(self.folder / "results" / _key(name, cell)))
        page = self._write(cells, dimension=None)
        dimension = self._dimension(cells)
        if dimension is None:
            return page
        for cell in cells:
            if int(Run(cell.folder).description["embedding_dim"]) < dimension:
                # The page says so. What a longer feature of the same run gave is not its accuracy.
                (self._records(cell).folder / "common_dimension.json").unlink(missing_ok=True)
            else:
                self.judge.judge_at(cell, self._records(cell), dimension)
        return self._write(cells, dimension=dimension)

    def _controlled(self, cells: Sequence[Cell]) -> list[tuple[Literal["raw_pixels", "pca"], Cell]]:
        """Every control with the first cell of every seed, whose images it is judged on."""
        first = {cell.seed: cell for cell in reversed(cells)}
        return [(name, first[seed]) for name in self.controls for seed in sorted(first)]

    def _records(self, cell: Cell) -> Records:
        return Records(self.folder / "results" / cell.key)

    def _dimension(self, cells: Sequence[Cell]) -> int | None:
        """The dimension to which all are brought; None where all have the same, or none is wanted.

        N training images span N - 1 directions, whatever the dimension of the encoders.
        """
        wanted = self.judge.evaluators.common_dimension
        dimensions = {int(Run(cell.folder).description["embedding_dim"]) for cell in cells}
        if wanted == "auto":
            if len(dimensions) == 1:
                return None
            spanned = min(self.judge.images.facts(cell.recipe).num_train for cell in cells) - 1
            return min(*dimensions, spanned) if spanned > 0 else None
        return wanted

    def _write(self, cells: Sequence[Cell], *, dimension: int | None) -> Path:
        self._note(cells, dimension=dimension)
        return write_comparison(self.folder)

    def _noted(self) -> set[str]:
        """The cells that comparison.json has already."""
        try:
            return {entry["key"] for entry in read_json(self.folder / "comparison.json").get("cells", ())}
        except UserError:  # missing, or damaged: written anew
            return set()

    def _note(self, cells: Sequence[Cell], *, dimension: int | None) -> None:
        evaluators = self.judge.evaluators
        asked = [name for name in ("knn", "linear", "few_shot", "finetune", "robustness") if getattr(evaluators, name)]
        content = {
            **self.facts,
            "data": cells[0].recipe.data.title,
            "split": self.judge.settings.split,
            "evaluators": asked + (["common_dimension"] if dimension is not None else []),
            "settings": evaluators.model_dump(mode="json"),
            "cells": [
                {"label": cell.label, "seed": cell.seed, "key": cell.key, "run": str(cell.folder)} for cell in cells
            ],
            "controls": [
                {"label": CONTROLS[name], "seed": cell.seed, "key": _key(name, cell)}
                for name, cell in self._controlled(cells)
                if (self.folder / "results" / _key(name, cell)).is_dir()
            ],
        }
        write_json(self.folder / "comparison.json", content)


def _key(name: str, cell: Cell) -> str:
    return f"{slug_of(CONTROLS[name])}-seed{cell.seed}"


_OF_A_COMPARISON = ("comparison.yaml", "comparison.json", "claim.yaml")
_BEGUN = ("budget.json", "runs", "results", "finetuned", "figures", "cells")
"""What is there before one of them."""


def check_folder(folder: Path, *, name: str | None) -> None:
    """Refuses a folder that something else lies in: its tables would be replaced.

    Args:
        folder: Of a comparison or claim.
        name: That of a comparison recipe or a claim; None where finished runs are compared, which have none.

    Raises:
        UserError: If it is a run, holds another comparison, or files of anything else.
    """
    if Run(folder).recipe_file.is_file():
        raise UserError(f"{folder} is a run; a comparison needs a folder of its own: choose another with --out.")
    there = _named(folder)
    if there not in (None, name):
        raise UserError(f"{folder} holds {there!r}, whose tables would be replaced: choose another folder with --out.")
    if not folder.is_dir() or any((folder / file).is_file() for file in _OF_A_COMPARISON):
        return
    foreign = [entry.name for entry in folder.iterdir() if entry.name not in _BEGUN and not entry.name.startswith(".")]
    if foreign:
        raise UserError(f"{folder} holds {min(foreign)}, which is of no comparison: choose another folder with --out.")


def _named(folder: Path) -> str | None:
    """The comparison or claim that lies in a folder; None where there is none, or it cannot be read."""
    for file, key in (("comparison.yaml", "name"), ("claim.yaml", "id")):
        with suppress(OSError, ValueError):  # damaged: written anew
            content = read_yaml((folder / file).read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return str(content.get(key))
    return None
