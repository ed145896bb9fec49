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

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightly_prg.comparison.budget import (
    StepCost,
    affordable_steps,
    describe_cost,
    with_steps,
)
from lightly_prg.comparison.cells import Cell, check_run, trained
from lightly_prg.comparison.comparable import check_comparable
from lightly_prg.comparison.images import Images
from lightly_prg.comparison.judging import Judge, Scanning
from lightly_prg.comparison.kept_costs import known_costs
from lightly_prg.comparison.runs import compare_runs
from lightly_prg.comparison.work import Work, check_folder
from lightly_prg.console import Console
from lightly_prg.data import DataInfo, Splits, describe_data
from lightly_prg.errors import UserError
from lightly_prg.files import write_text
from lightly_prg.recipe import Recipe
from lightly_prg.recipe.comparison import ComparisonRecipe, MethodEntry
from lightly_prg.run import Run
from lightly_prg.training.batches import count_steps


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
    check_folder(folder, name=recipe.name)
    with Run(folder).lock():
        images = Images(data, console)
        costs = (
            {}
            if recipe.budget is None
            else known_costs(
                recipes,
                recipe.budget,
                {label: _info(of_method, data) for label, of_method in recipes.items() if of_method.is_trained_here},
                folder=folder,
                images=images,
                trust=trust,
                console=console,
            )
        )
        cells = [_cell(recipe, method, seed, folder, costs, data) for seed in recipe.seeds for method in recipe.methods]
        for cell in cells:
            check_run(cell, scanned=recipe.scan, images=images)
        write_text(folder / "comparison.yaml", recipe.to_yaml())
        scanning = Scanning(
            recipe.scan_taus,
            recipe.scan_together,
            recipe.scan_pools,
            recipe.scan_images,
            recipe.scan_finalists,
            recipe.scan_final_images,
        )
        work = Work(
            folder=folder,
            judge=Judge(
                recipe.evaluators,
                recipe.evaluators.settings(recipe.split, recipe.batch_size),
                images,
                trust,
                console,
                scanning if recipe.scan else None,
            ),
            facts={
                "name": recipe.name,
                "description": recipe.description,
                "methods": [method.label for method in recipe.methods],
                "reference": recipe.reference or recipe.methods[0].label,
                "seeds": list(recipe.seeds),
                "budget": None if recipe.budget is None else recipe.budget.model_dump(mode="json"),
                "promised": {
                    method.label: recipe.promised(method) if method.label in costs else None
                    for method in recipe.methods
                },
                "costs": {
                    label: describe_cost(cost, steps=_steps(cells, label, data)) for label, cost in costs.items()
                },
                "scan": recipe.scan,
                "scan_taus": recipe.scan_taus,
                "scan_together": recipe.scan_together,
                "scan_pools": recipe.scan_pools,
                "scan_images": recipe.scan_images,
                "scan_finalists": recipe.scan_finalists,
                "scan_final_images": recipe.scan_final_images,
                "may_differ": list(recipe.may_differ),
            },
            train=lambda cell: trained(
                cell, scanned=recipe.scan, data=data, trust=trust, console=console, images=images
            ),
            scanned=recipe.scan,
            controls=recipe.controls,
        )
        return work.do(cells)


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
    costs: Mapping[str, StepCost],
    data: Splits | None,
) -> Cell:
    recipe = comparison.recipe_of(method, seed)
    starts_from = None
    if method.start_from is not None:
        first = next(other for other in comparison.methods if other.label == method.start_from)
        starts_from = f"{first.slug}-seed{seed}"
        recipe = recipe.model_copy(update={"init_from": str(folder / "runs" / starts_from)})
    paying = comparison.paying(method)
    if paying.label not in costs and method.label in costs:
        raise UserError(f"{method.label!r} takes the steps of {paying.label!r}, which is not trained here.")
    if comparison.budget is not None and method.label in costs:
        budget = comparison.budget.model_copy(update={"amount": paying.share * comparison.budget.amount})
        payer = comparison.recipe_of(paying, seed)
        num_train = _info(recipe, data).num_train
        steps = affordable_steps(payer, budget, costs[paying.label], num_train=num_train)
        recipe = with_steps(recipe, steps, num_train=num_train)
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
        starts_from=starts_from,
    )


def _steps(cells: Sequence[Cell], label: str, data: Splits | None) -> list[int]:
    """Of each seed."""
    return [
        count_steps(
            _info(cell.recipe, data).num_train,
            batch_size=cell.recipe.train.batch_size,
            epochs=cell.recipe.train.epochs,
            max_steps=cell.recipe.train.max_steps,
        )
        for cell in cells
        if cell.label == label
    ]


__all__ = ["compare", "compare_runs"]
