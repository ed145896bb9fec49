"""Testing a claim: pretrains what is missing, measures what is missing, and says what became of it.

A claim is a folder. Whatever is in it already is not done again, so that one that was cut off, by whatever, is finished
by the same call::

    claim.yaml                       what was asked for, with the folders of this machine
    cells/<set>-seed<n>/<kind>.json  one file for each cell
    figures/                         what cells drew
    result.json, summary.md, findings.png
    ../runs/<set>-seed<n>/           the pretrained networks, which other claims share
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightly_prg.claims.pretraining import check_images, pretrained, run_cells
from lightly_prg.claims.recipe import ClaimRecipe, folders_of
from lightly_prg.claims.result import write_result
from lightly_prg.claims.studies import STUDIES
from lightly_prg.claims.study import Cells, Measured, Part, Study
from lightly_prg.comparison.cells import Cell
from lightly_prg.comparison.images import Images
from lightly_prg.comparison.records import Records
from lightly_prg.comparison.work import check_folder
from lightly_prg.console import Console
from lightly_prg.files import write_text
from lightly_prg.hardware.cpu_time import cpu_seconds
from lightly_prg.run import Run, versions


def run_claim(
    claim: ClaimRecipe,
    *,
    out: str | Path | None = None,
    trust: bool = False,
    console: Console | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Tests one claim.

    Called again it continues: networks and cells that are there are kept, and the result is that of a single call.

    Args:
        claim: What is tested, and how.
        out: The folder; default the recipe's, or ``comparisons/claims/<id>``.
        trust: Whether code that recipes name may run.
        console: Where progress is shown; default nowhere.
        command: What made it, for the result.

    Returns:
        The content of result.json.

    Raises:
        UserError: If a recipe is wrong, images are missing, or a folder holds something else.
        Interrupted: If it was stopped by Ctrl-C or SIGTERM in pretraining; the same call continues.
    """
    work = _Work(claim, out=out, trust=trust, console=console if console is not None else Console(quiet=True))
    with Run(work.folder).lock():
        write_text(work.folder / "claim.yaml", claim.to_yaml())
        measured = [found for cell in work.cells for found in work.measure(cell)]
        images = claim.study.test_images
        step = 0.0 if images is None else 100.0 / images
        outcome = work.study.outcome(Cells(measured, claim.margin, step), claim.study)
        return write_result(work.folder, claim, outcome, measured, training=work.training, command=command)


class _Work:
    """The cells of one claim; everything that can be wrong with its recipes shows when it is made."""

    def __init__(self, claim: ClaimRecipe, *, out: str | Path | None, trust: bool, console: Console) -> None:
        self.claim = claim
        self.trust = trust
        self.console = console
        self.study: Study[Any] = STUDIES[claim.study.name]
        self.folder, runs = folders_of(claim, out)
        self._images = Images(None, console)
        self.titles = claim.titles()
        self.cells = run_cells(claim, runs, images=self._images)
        self.kinds = {cell.key: self.study.kinds(claim.study, cell.recipe) for cell in self.cells}
        self.training: dict[str, Any] = {}
        self._asked = claim.study.model_dump(mode="json", exclude=set(self.study.aside))
        check_folder(self.folder, name=claim.id)
        for cell in self.cells:
            check_images(cell.label, cell.recipe)

    def measure(self, cell: Cell) -> list[Measured]:
        """All cells of a study on one set with one seed."""
        number = self.cells.index(cell) + 1
        self.console.say(f"{number}/{len(self.cells)}  {cell.label}, seed {cell.seed}")
        run = pretrained(cell, trust=self.trust, console=self.console, images=self._images)
        facts = {key: run.description[key] for key in ("parameters", "input_shape")}
        self.training[cell.key] = {**run.description["training"], **facts}
        part = Part(
            data=cell.label,
            recipe=cell.recipe,
            run=run,
            load=partial(self._images.of, cell.recipe),
            validation_images=self.claim.study.validation_images,
            test_images=self.claim.study.test_images,
            figures=self.folder / "figures",
            trust=self.trust,
            console=self.console,
        )
        measured = []
        for kind, what in self.kinds[cell.key].items():
            result = self._records(cell).measured(
                kind,
                partial(self._costed, part, kind, what),
                request={"study": self._asked, "cell": dict(what)},
                recipe_sha256=run.description["recipe_sha256"],
                # A run can be trained anew from the same recipe, and a folder hold other images.
                made_of={
                    "weights_crc32": run.weights_crc32,
                    "images": self._images.facts(cell.recipe).fingerprint,
                },
            )
            measured.append(Measured(self.titles[cell.label], cell.seed, kind, result))
        return measured

    def _costed(self, part: Part, kind: str, what: Mapping[str, Any]) -> dict[str, Any]:
        self.console.say(f"  {kind}")
        start, before = time.perf_counter(), cpu_seconds()
        result = dict(self.study.measure(part, what, self.claim.study))
        cost = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - before}
        return {**result, "cost": {name: round(value, 1) for name, value in cost.items()}, "versions": versions()}

    def _records(self, cell: Cell) -> Records:
        return Records(self.folder / "cells" / cell.key)
