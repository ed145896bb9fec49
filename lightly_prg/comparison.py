"""Comparing methods: trains what is missing, judges every run alike, and writes one table and one page.

A comparison is a folder. Whatever is in it already is not done again, so that one that was cut off, by whatever, is
finished by the same call::

    comparison.yaml, comparison.json    what was asked for, and what was done
    budget.json                         what a step of each method costs
    runs/<method>-seed<n>/              the runs
    finetuned/<method>-seed<n>/         the fine-tuned models
    results/<method>-seed<n>/*.json     a file for each evaluator
    table.md, .csv, .json, .tex, comparison.html, figures/
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape

from lightly_prg.comparable import check_comparable, check_same_seeds
from lightly_prg.comparison_budget import StepCost, budgeted, describe_cost, is_trained_here, step_cost, stored_cost
from lightly_prg.comparison_cells import Cell, first_difference, trained
from lightly_prg.comparison_judging import Judge
from lightly_prg.comparison_records import Records
from lightly_prg.console import Console
from lightly_prg.data import DataInfo, Splits, describe_data
from lightly_prg.errors import UserError
from lightly_prg.eval.compare import write_comparison
from lightly_prg.files import read_json, write_json, write_text
from lightly_prg.recipe import Recipe
from lightly_prg.recipe_comparison import BudgetRecipe, ComparisonRecipe, EvaluatorsRecipe, MethodEntry
from lightly_prg.run import Run
from lightly_prg.train import load_splits


def compare(
    recipe: ComparisonRecipe,
    *,
    out: str | Path | None = None,
    data: Splits | None = None,
    trust: bool = False,
    console: Console | None = None,
) -> Path:
    """Trains and judges every method of a comparison recipe with every seed.

    Called again it continues: runs are resumed bit for bit, results that are there are kept.

    Args:
        recipe: What is compared.
        out: The folder; default the recipe's, or ``comparisons/<name>``.
        data: Image sets of your own, instead of the ``data`` sections.
        trust: Whether code that recipes name may run.
        console: Where progress is shown; default nowhere.

    Returns:
        The path of comparison.html.

    Raises:
        UserError: If methods were given unequal conditions, a recipe is wrong, or the folder holds other runs.
        Interrupted: If it was stopped by Ctrl-C or SIGTERM in training; the same call continues.
    """
    console = console if console is not None else Console(quiet=True)
    folder = Path(out or recipe.out or Path("comparisons") / recipe.name)
    # Everything that can be wrong with the recipes shows here, before anything is trained.
    recipes = {method.label: recipe.recipe_of(method, recipe.seeds[0]) for method in recipe.methods}
    check_comparable(recipes, may_differ=recipe.may_differ)
    for method in recipe.methods:
        recipe.finetune_of(method)
    with Run(folder).lock():
        write_text(folder / "comparison.yaml", recipe.to_yaml())
        costs = _costs(recipe, recipes, folder, data=data, trust=trust, console=console)
        cells = [
            _cell(recipe, method, seed, folder, costs.get(method.label), data)
            for seed in recipe.seeds
            for method in recipe.methods
        ]
        work = _Work(
            folder=folder,
            judge=Judge(
                recipe.evaluators,
                recipe.evaluators.settings(recipe.split, recipe.batch_size),
                _Images(data, console).of,
                trust,
                console,
            ),
            facts={
                "name": recipe.name,
                "description": recipe.description,
                "methods": [method.label for method in recipe.methods],
                "reference": recipe.reference or recipe.methods[0].label,
                "seeds": list(recipe.seeds),
                "budget": None if recipe.budget is None else recipe.budget.model_dump(mode="json"),
                "costs": {
                    label: describe_cost(cost, steps=_steps(cells, label, data)) for label, cost in costs.items()
                },
                "scan": recipe.scan,
                "may_differ": list(recipe.may_differ),
            },
            train=lambda cell: trained(cell, scanned=recipe.scan, data=data, trust=trust, console=console),
            scanned=recipe.scan,
        )
        return work.do(cells)


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
        out: The folder; default ``comparisons/`` and the names of the methods.
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
    cells = _cells_of([Run.open(folder) for folder in folders], split, evaluators)
    by_label = {cell.label: cell.recipe for cell in cells}
    check_comparable({f"{cell.folder}": cell.recipe for cell in cells}, may_differ=may_differ)
    check_same_seeds({label: [cell.seed for cell in cells if cell.label == label] for label in by_label})
    if reference is not None and reference not in by_label:
        raise UserError(f"The reference is {reference!r}; allowed are {', '.join(map(repr, by_label))}.")
    judged = cells[0].recipe.eval.split
    name = "-".join(dict.fromkeys(cell.key.rsplit("-seed", 1)[0] for cell in cells))[:80]
    folder = Path(out) if out is not None else Path("comparisons") / name
    with Run(folder).lock():
        work = _Work(
            folder=folder,
            judge=Judge(
                evaluators,
                evaluators.settings(judged, cells[0].recipe.eval.batch_size),
                _Images(data, console).of,
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


@dataclass
class _Work:
    """The cells of a comparison, one after the other, and what is written of them."""

    folder: Path
    judge: Judge
    facts: dict[str, Any]
    train: Callable[[Cell], Run]
    scanned: bool

    def do(self, cells: Sequence[Cell]) -> Path:
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


class _Images:
    """The images of a recipe; those of the last one are kept, which most cells of a seed share."""

    def __init__(self, data: Splits | None, console: Console) -> None:
        self.data = data
        self.console = console
        self._last: tuple[str, Splits] | None = None

    def of(self, recipe: Recipe) -> Splits:
        if self.data is not None:
            return self.data
        key = json.dumps([recipe.seed, recipe.data.model_dump(mode="json")])
        if self._last is None or self._last[0] != key:
            self._last = (key, load_splits(recipe, self.console))
        return self._last[1]


def _costs(
    comparison: ComparisonRecipe,
    recipes: dict[str, Recipe],
    folder: Path,
    *,
    data: Splits | None,
    trust: bool,
    console: Console,
) -> dict[str, StepCost]:
    """What a step of each method costs: measured once, and then what budget.json says."""
    budget = comparison.budget
    if budget is None:
        return {}
    file = folder / "budget.json"
    stored: dict[str, Any] = read_json(file) if file.is_file() else {}
    costs = {}
    for label, recipe in recipes.items():
        if not is_trained_here(recipe):
            continue
        question = hashlib.sha256(
            json.dumps([budget.kind, recipe.training_content()], sort_keys=True).encode()
        ).hexdigest()
        known = stored.get(label)
        if not isinstance(known, dict) or known.get("question") != question:
            cost = step_cost(
                recipe,
                budget,
                _info(recipe, data),
                folder=folder,
                data=data,
                trust=trust,
                console=console,
            )
            stored[label] = {"question": question, **describe_cost(cost, steps=())}
            write_json(file, stored)
        costs[label] = stored_cost(stored[label])
    return costs


def _info(recipe: Recipe, data: Splits | None) -> DataInfo:
    if data is None:
        return describe_data(recipe.data)
    train = data.train
    counts = (len(part) for part in (train, data.validation, data.test))
    return DataInfo(train.channels, train.image_size, train.num_classes, *counts)


def _cell(
    comparison: ComparisonRecipe,
    method: MethodEntry,
    seed: int,
    folder: Path,
    cost: StepCost | None,
    data: Splits | None,
) -> Cell:
    recipe = comparison.recipe_of(method, seed)
    if cost is not None:
        assert isinstance(comparison.budget, BudgetRecipe)
        recipe = budgeted(recipe, comparison.budget, cost, num_train=_info(recipe, data).num_train)
    source = Run(Path(method.recipe))
    key = f"{method.slug}-seed{seed}"
    return Cell(
        label=method.label,
        seed=seed,
        key=key,
        recipe=recipe,
        folder=folder / "runs" / key,
        source=source.folder if source.recipe_file.is_file() and source.is_trained else None,
        finetune=comparison.finetune_of(method),
    )


def _steps(cells: Sequence[Cell], label: str, data: Splits | None) -> list[int]:
    steps = []
    for cell in cells:
        if cell.label == label:
            settings = cell.recipe.train
            per_epoch = _info(cell.recipe, data).num_train // settings.batch_size
            steps.append(min(settings.max_steps or settings.epochs * per_epoch, settings.epochs * per_epoch))
    return steps


def _cells_of(
    runs: Sequence[Run], split: Literal["validation", "test"] | None, evaluators: EvaluatorsRecipe
) -> list[Cell]:
    """Finished runs as cells: those that differ in their seed alone have one label."""
    methods: list[tuple[Recipe, str]] = []
    cells: list[Cell] = []
    for run in runs:
        recipe = run.recipe
        _ = run.description  # a run that is not finished is told of before anything is measured
        if split is not None:
            recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"split": split})})
        taken = {cell.label for cell in cells if cell.seed == recipe.seed}
        label = _label_of(recipe, methods, taken)
        if label is None:
            label = _free_label(_base(recipe.name), methods)
            methods.append((recipe, label))
        twin = next((cell for cell in cells if cell.label == label and cell.seed == recipe.seed), None)
        if twin is not None:
            raise UserError(f"{twin.folder} and {run.folder} are runs of the same recipe with the same seed.")
        key = f"{MethodEntry(label=label, recipe='run').slug}-seed{recipe.seed}"
        cells.append(Cell(label, recipe.seed, key, recipe, run.folder, finetune=evaluators.finetune))
    return sorted(cells, key=lambda cell: cell.seed)


def _label_of(recipe: Recipe, methods: Sequence[tuple[Recipe, str]], taken: Container[str]) -> str | None:
    """The label of runs that differ in their seed alone or, where a scan chose it for each, in their feature as well."""
    changes = {"seed": 0, "init_from": None}
    for scanned in (False, True):
        for known, label in methods:
            if scanned and (label in taken or _base(known.name) != _base(recipe.name)):
                continue
            both = (each.model_copy(update=changes) for each in (known, recipe))
            if first_difference(*both, scanned=scanned) is None:
                return label
    return None


def _base(name: str) -> str:
    """The name of a run without its seed."""
    return re.sub(r"[-_.]?(seed|s)[-_]?\d+$", "", name) or name


def _free_label(name: str, methods: Sequence[tuple[Recipe, str]]) -> str:
    taken = {label for _, label in methods}
    candidates = (name if number == 1 else f"{name} {number}" for number in range(1, len(methods) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
