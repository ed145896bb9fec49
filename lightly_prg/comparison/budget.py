"""Equal budgets: how many steps every method may take for the same seconds, epochs or multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lightly_prg.comparison.images import Images
from lightly_prg.console import Console
from lightly_prg.cost import estimate
from lightly_prg.cost.step_timing import time_steps
from lightly_prg.data import DataInfo
from lightly_prg.errors import UserError
from lightly_prg.hardware import pick_device
from lightly_prg.recipe import Recipe
from lightly_prg.recipe.comparison import BudgetRecipe

_UNITS = {"cpu_seconds": "CPU seconds", "gpu_seconds": "GPU seconds", "epochs": "epochs", "macs": "multiply-adds"}
_ROUNDS = 3  # in which the methods are timed


@dataclass(frozen=True)
class StepCost:
    """What one step of a method costs.

    Attributes:
        seconds: Of CPU or GPU, for a budget in these; else None.
        macs: Multiply-adds, counted.
        images: Of one step.
    """

    seconds: float | None
    macs: float
    images: int


def affordable_steps(recipe: Recipe, budget: BudgetRecipe, cost: StepCost, *, num_train: int) -> int:
    """How many steps the budget pays for.

    Args:
        recipe: Of one run.
        budget: What it gets.
        cost: Of one of its steps.
        num_train: Its training images.

    Raises:
        UserError: If the budget is less than a step.
    """
    per_epoch = num_train // recipe.train.batch_size
    if budget.kind == "epochs":
        steps = round(budget.amount * per_epoch)
    elif budget.kind == "macs":
        steps = math.floor(budget.amount / cost.macs)
    else:
        assert cost.seconds is not None
        steps = math.floor(budget.amount / cost.seconds)
    if steps < 1:
        price = {"epochs": 1 / max(per_epoch, 1), "macs": cost.macs}.get(budget.kind, cost.seconds)
        raise UserError(
            f"The budget of {budget.amount:g} {_UNITS[budget.kind]} is less than one step of {recipe.name}, "
            f"which takes {price:.3g}."
        )
    return steps


def with_steps(recipe: Recipe, steps: int, *, num_train: int) -> Recipe:
    """The recipe with so many steps; the warm-up keeps its share of the training."""
    per_epoch = num_train // recipe.train.batch_size
    epochs = math.ceil(steps / per_epoch)
    warmup = min(1.0, recipe.train.warmup_epochs / recipe.train.epochs)
    settings = recipe.train.model_copy(
        update={
            "epochs": epochs,
            "max_steps": None if steps == epochs * per_epoch else steps,
            "warmup_epochs": warmup * epochs,
        }
    )
    return recipe.model_copy(update={"train": settings})


def step_costs(
    recipes: Mapping[str, Recipe],
    budget: BudgetRecipe,
    infos: Mapping[str, DataInfo],
    *,
    folder: Path,
    images: Images,
    trust: bool,
    console: Console,
) -> dict[str, StepCost]:
    """Counts the multiply-adds of a step and, for a budget in seconds, trains for moments to measure its time.

    The moments of the recipes take turns, and the median of a recipe's counts: what else the machine does in the
    meantime slows all of them, not the one whose turn it was.

    Args:
        recipes: By any name.
        budget: Says which seconds are measured, and how long it may take to do so.
        infos: Of their images, by the same names.
        folder: Where temporary runs may lie.
        images: Gives the images of a recipe.
        trust: Whether the recipes' code may run.
        console: Where progress is shown.

    Raises:
        UserError: If the seconds of this kind are not spent on the device that a recipe trains on.
    """
    macs = {name: _macs(recipe, budget, infos[name], trust=trust) for name, recipe in recipes.items()}
    measured: dict[str, list[float]] = {name: [] for name in recipes}
    if budget.kind in ("cpu_seconds", "gpu_seconds"):
        moment = min(10.0, max(0.5, budget.amount / 60))
        turns = [name for _ in range(_ROUNDS) for name in recipes]
        with console.task("timing a step of each method", len(turns)) as update:
            for done, name in enumerate(turns, start=1):
                recipe = recipes[name]
                time = time_steps(recipe, seconds=moment, folder=folder, data=images.of(recipe), trust=trust)
                measured[name].append(time.computing_seconds)
                update(done)
    return {
        name: StepCost(median(measured[name]) if measured[name] else None, macs[name], recipe.train.batch_size)
        for name, recipe in recipes.items()
    }


def _macs(recipe: Recipe, budget: BudgetRecipe, info: DataInfo, *, trust: bool) -> float:
    """Multiply-adds of a step, once it is known that the budget fits the recipe."""
    if info.num_train < recipe.train.batch_size:
        raise UserError(
            f"{recipe.name}: train.batch_size is {recipe.train.batch_size}, but there are {info.num_train} training "
            "images."
        )
    if budget.kind in ("cpu_seconds", "gpu_seconds"):
        device = pick_device(recipe.train.accelerator).type
        if (budget.kind == "cpu_seconds") != (device == "cpu"):
            raise UserError(
                f"The budget is in {_UNITS[budget.kind]}, but {recipe.name} trains on {device}; choose another "
                "budget.kind or train.accelerator."
            )
    counted = estimate(recipe, info, trust=trust)
    assert counted.steps is not None
    assert counted.training_macs is not None
    return counted.training_macs / counted.steps


def stored_cost(content: dict[str, Any]) -> StepCost:
    """A cost as it was written to budget.json."""
    return StepCost(content["seconds_per_step"], content["macs_per_step"], content["images_per_step"])


def describe_cost(cost: StepCost, *, steps: Sequence[int]) -> dict[str, Any]:
    """What budget.json and the page say of a method's budget."""
    return {
        "seconds_per_step": cost.seconds,
        "macs_per_step": cost.macs,
        "images_per_step": cost.images,
        "steps": list(steps),
    }
