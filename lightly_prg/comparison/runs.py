"""Comparing runs that are finished: which of them are one method, and judging them alike."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightly_prg.comparison.cells import Cell, first_difference, has_other_images
from lightly_prg.comparison.comparable import check_comparable, check_same_seeds
from lightly_prg.comparison.images import Images
from lightly_prg.comparison.judging import Judge
from lightly_prg.comparison.work import Work, check_folder
from lightly_prg.console import Console
from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.recipe import Recipe
from lightly_prg.recipe.comparison import EvaluatorsRecipe, MethodEntry, check_choice
from lightly_prg.run import Run


def compare_runs(
    folders: Sequence[str | Path],
    *,
    evaluators: EvaluatorsRecipe | None = None,
    split: Literal["validation", "test"] | None = None,
    reference: str | None = None,
    may_differ: Sequence[str] = (),
    out: str | Path | None = None,
    data: Splits | None = None,
    trust: bool = False,
    console: Console | None = None,
) -> Path:
    """Judges finished runs beside each other; runs that differ in their seed alone are one method.

    Args:
        folders: Of the runs, which are read in place.
        evaluators: What is measured; default k-NN, linear probe and few labels.
        split: What is judged; default what all their recipes say.
        reference: The label that differences are taken to; default the first.
        may_differ: As in ``ComparisonRecipe``.
        out: The folder; default ``comparisons/``, the names of the methods and a split that is not their recipes'.
        data: Image sets of your own, where the runs were trained on them.
        trust: Whether code that recipes name may run.
        console: Where progress is shown; default nowhere.

    Returns:
        The path of comparison.html.

    Raises:
        UserError: If a folder holds no finished run, or the runs were given unequal conditions.
    """
    console = console if console is not None else Console(quiet=True)
    evaluators = evaluators if evaluators is not None else EvaluatorsRecipe()
    runs = [Run.open(folder) for folder in folders]
    cells = _cells_of(runs, split, evaluators)
    by_label = {cell.label: cell.recipe for cell in cells}
    check_comparable({f"{cell.folder}": cell.recipe for cell in cells}, may_differ=may_differ)
    check_same_seeds({label: [cell.seed for cell in cells if cell.label == label] for label in by_label})
    if reference is not None and reference not in by_label:
        raise UserError(f"The reference is {reference!r}; allowed are {', '.join(map(repr, by_label))}.")
    judged = cells[0].recipe.eval.split
    name = "-".join(dict.fromkeys(cell.key.rsplit("-seed", 1)[0] for cell in cells))[:80]
    if any(judged != run.recipe.eval.split for run in runs):
        name += f"-{judged}"  # what the runs are asked by default lies beside it
    folder = Path(out) if out is not None else Path("comparisons") / name
    check_folder(folder, name=None)
    with Run(folder).lock():
        images = Images(data, console)
        for cell in cells:
            _check_images(cell, images)
        work = Work(
            folder=folder,
            judge=Judge(
                evaluators,
                evaluators.settings(judged, cells[0].recipe.eval.batch_size),
                images,
                trust,
                console,
            ),
            facts={
                "name": name,
                "description": "",
                "methods": list(by_label),
                "reference": reference or cells[0].label,
                "seeds": sorted({cell.seed for cell in cells}),
                "budget": None,
                "costs": {},
                "scan": False,
                "may_differ": list(may_differ),
            },
            train=lambda cell: Run(cell.folder),
            scanned=False,
        )
        return work.do(cells)


def _check_images(cell: Cell, images: Images) -> None:
    """Refuses a run whose folder of images has changed: the split, and with it what it was trained on, is another."""
    if has_other_images(Run(cell.folder), cell.recipe, images):
        raise UserError(
            f"{cell.folder} was trained on other images than {cell.recipe.data.root} holds now: some that it was "
            "trained on would judge it."
        )


@dataclass(frozen=True)
class _Method:
    """Runs that differ in their seed alone.

    Attributes:
        label: Its name in tables and figures.
        recipe: Of its first run.
        finetuning: See ``_finetuning``.
    """

    label: str
    recipe: Recipe
    finetuning: dict[str, Any] | None

    @property
    def slug(self) -> str:
        """Names its files."""
        return MethodEntry(label=self.label, recipe="run").slug


def _cells_of(
    runs: Sequence[Run], split: Literal["validation", "test"] | None, evaluators: EvaluatorsRecipe
) -> list[Cell]:
    """Finished runs as cells: those that differ in their seed alone have one label."""
    methods: list[_Method] = []
    cells: list[Cell] = []
    for run in runs:
        recipe = run.recipe
        _ = run.description  # a run that is not finished is told of before anything is measured
        check_choice(run, split or recipe.eval.split)
        if split is not None:
            recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"split": split})})
        taken = {cell.label for cell in cells if cell.seed == recipe.seed}
        finetuning = _finetuning(run)
        method = _method_of(recipe, finetuning, methods, taken)
        if method is None:
            method = _named(recipe, finetuning, methods)
            methods.append(method)
        twin = next((cell for cell in cells if cell.label == method.label and cell.seed == recipe.seed), None)
        if twin is not None:
            raise UserError(f"{twin.folder} and {run.folder} are runs of the same recipe with the same seed.")
        key = f"{method.slug}-seed{recipe.seed}"
        cells.append(Cell(method.label, recipe.seed, key, recipe, run.folder, finetune=evaluators.finetune))
    return sorted(cells, key=lambda cell: cell.seed)


def _finetuning(run: Run) -> dict[str, Any] | None:
    """What was fine-tuned and how, which the recipe shares with the pretraining; None for a pretrained encoder."""
    if not run.is_finetuned:
        return None
    settings = run.recipe.eval.finetune
    started = "random_network" if run.recipe.init_from is None else "run"
    return {
        "encoder": run.description.get("finetuned", {}).get("encoder", started),
        "settings": None if settings is None else settings.model_dump(mode="json"),
    }


def _method_of(
    recipe: Recipe, finetuning: dict[str, Any] | None, methods: Sequence[_Method], taken: Container[str]
) -> _Method | None:
    """The method of runs that differ in their seed alone or, where a scan chose it, their feature."""
    for scanned in (False, True):
        for method in methods:
            if method.finetuning != finetuning:
                continue
            if scanned and (method.label in taken or _base(method.recipe.name) != _base(recipe.name)):
                continue
            if first_difference(_without_seed(method.recipe), _without_seed(recipe), scanned=scanned) is None:
                return method
    return None


def _without_seed(recipe: Recipe) -> Recipe:
    """Each seed starts from a run of its own; whether there is one tells methods apart."""
    return recipe.model_copy(update={"seed": 0, "init_from": None if recipe.init_from is None else "another run"})


def _base(name: str) -> str:
    """The name of a run without its seed."""
    return re.sub(r"[-_.]?(seed|s)[-_]?\d+(?=(-finetuned|-scratch)*$)", "", name).lstrip("-_.") or name


def _named(recipe: Recipe, finetuning: dict[str, Any] | None, methods: Sequence[_Method]) -> _Method:
    """A method of its own; labels that differ in their case alone would have the same files."""
    name, taken = _base(recipe.name), {method.slug for method in methods}
    labels = (name if number == 1 else f"{name} {number}" for number in itertools.count(1))
    candidates = (_Method(label, recipe, finetuning) for label in labels)
    return next(candidate for candidate in candidates if candidate.slug not in taken)
