"""Equal budgets: how many steps every method may take for the same seconds, epochs or multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.console import Console
from lightly_prg.cost import estimate
from lightly_prg.data import DataInfo, Splits
from lightly_prg.errors import UserError
from lightly_prg.hardware import pick_device
from lightly_prg.recipe import GeneratorRecipe, PretrainedRecipe, Recipe
from lightly_prg.recipe_comparison import BudgetRecipe
from lightly_prg.step_timing import time_steps

_UNITS = {"cpu_seconds": "CPU seconds", "gpu_seconds": "GPU seconds", "epochs": "epochs", "macs": "multiply-adds"}


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


def is_trained_here(recipe: Recipe) -> bool:
    """Whether there is anything to train: what was trained elsewhere takes no part in a budget."""
    return not isinstance(recipe.method, PretrainedRecipe | GeneratorRecipe)


def budgeted(recipe: Recipe, budget: BudgetRecipe, cost: StepCost, *, num_train: int) -> Recipe:
    """The recipe with as many steps as the budget pays for; the warm-up keeps its share of the training.

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


def step_cost(
    recipe: Recipe,
    budget: BudgetRecipe,
    info: DataInfo,
    *,
    folder: Path,
    data: Splits | None,
    trust: bool,
    console: Console,
) -> StepCost:
    """Counts the multiply-adds of a step and, for a budget in seconds, trains for a moment to measure its time.

    Args:
        recipe: Of one run.
        budget: Says which seconds are measured, and how long it may take to do so.
        info: Of its images.
        folder: Where a temporary run may lie.
        data: The images, where they are not the recipe's.
        trust: Whether the recipe's code may run.
        console: Where progress is shown.

    Raises:
        UserError: If the seconds of this kind are not spent on the device that the recipe trains on.
    """
    per_epoch = info.num_train // recipe.train.batch_size
    if per_epoch < 1:
        raise UserError(
            f"{recipe.name}: train.batch_size is {recipe.train.batch_size}, but there are {info.num_train} training "
            "images."
        )
    counted = estimate(recipe, info, trust=trust)
    assert counted.steps is not None
    assert counted.training_macs is not None
    macs = counted.training_macs / counted.steps
    seconds = None
    if budget.kind in ("cpu_seconds", "gpu_seconds"):
        device = pick_device(recipe.train.accelerator).type
        if (budget.kind == "cpu_seconds") != (device == "cpu"):
            raise UserError(
                f"The budget is in {_UNITS[budget.kind]}, but {recipe.name} trains on {device}; choose another "
                "budget.kind or train.accelerator."
            )
        with console.task(f"timing {recipe.name}", 1) as update:
            probe = _probe_seconds(budget.amount)
            seconds = time_steps(recipe, seconds=probe, folder=folder, data=data, trust=trust).computing_seconds
            update(1)
    return StepCost(seconds, macs, recipe.train.batch_size)


def _probe_seconds(amount: float) -> float:
    """A twentieth of the budget, between one and ten seconds."""
    return min(10.0, max(1.0, amount / 20))


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
