"""What a step of each method costs, kept in budget.json: measured once, on one footing for all methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightly_prg.comparison.budget import StepCost, describe_cost, step_costs, stored_cost
from lightly_prg.comparison.images import Images
from lightly_prg.console import Console
from lightly_prg.data import DataInfo
from lightly_prg.files import read_json, write_json
from lightly_prg.recipe import Recipe
from lightly_prg.recipe.comparison import BudgetRecipe

_FILE = "budget.json"
_TOLD = 1.1  # a pace that differs by more than the noise of a measurement


def known_costs(
    recipes: Mapping[str, Recipe],
    budget: BudgetRecipe,
    infos: Mapping[str, DataInfo],
    *,
    folder: Path,
    images: Images,
    trust: bool,
    console: Console,
) -> dict[str, StepCost]:
    """What budget.json says of each method; what it does not know is measured and written there.

    A comparison may go on where another machine, or a busier one, left it. What is measured later is therefore brought
    to the seconds of what was measured before: one of the known methods is timed beside the new ones, and their seconds
    are multiplied by what it took then, over what it takes now.

    Args:
        recipes: Of one seed, by label; those that are not trained here cost nothing and are left out.
        budget: Says what is measured.
        infos: Of their images, by label.
        folder: Of the comparison.
        images: Gives the images of a recipe.
        trust: Whether the recipes' code may run.
        console: Where progress is shown.

    Raises:
        UserError: If budget.json cannot be read, or as ``step_costs``.
    """
    file = folder / _FILE
    stored: dict[str, Any] = read_json(file) if file.is_file() else {}
    questions = {label: _question(budget, recipe) for label, recipe in recipes.items() if recipe.is_trained_here}
    asked: dict[str, str] = {}  # two methods may be one training with unlike shares of the budget
    for label, question in questions.items():
        if question not in stored:
            asked.setdefault(question, label)
    known = (label for label, question in questions.items() if stored.get(question, {}).get("seconds_per_step"))
    yardstick = next(known, None) if asked else None
    timed = asked if yardstick is None else asked | {questions[yardstick]: yardstick}
    measured = step_costs(
        {question: recipes[label] for question, label in timed.items()},
        budget,
        {question: infos[label] for question, label in timed.items()},
        folder=folder,
        images=images,
        trust=trust,
        console=console,
    )
    if yardstick is not None:
        measured = _at_the_pace_of(measured, questions[yardstick], stored, yardstick, console)
    if measured:
        # What was measured for other questions stays: runs of their steps may be there.
        stored |= {key: {"label": asked[key], **describe_cost(cost, steps=())} for key, cost in measured.items()}
        write_json(file, stored)
    return {label: stored_cost(stored[question]) for label, question in questions.items()}


def _at_the_pace_of(
    measured: Mapping[str, StepCost], question: str, stored: Mapping[str, Any], label: str, console: Console
) -> dict[str, StepCost]:
    """The costs of the new methods in seconds of the machine that the known ones were measured on."""
    before, now = stored[question]["seconds_per_step"], measured[question].seconds
    assert now is not None  # as it was for the known one: the kind of the budget is part of the question
    pace = before / now
    if not 1 / _TOLD < pace < _TOLD:
        console.say(
            f"A step of {label} took {before:.3g} seconds when {_FILE} was begun and takes {now:.3g} now: the seconds "
            f"of what is new are multiplied by {pace:.2f}, so that budgets stay equal."
        )
    return {
        key: replace(cost, seconds=None if cost.seconds is None else pace * cost.seconds)
        for key, cost in measured.items()
        if key != question
    }


def _question(budget: BudgetRecipe, recipe: Recipe) -> str:
    """Tells apart what is measured: all that decides over the training, but for its seed."""
    content = {key: value for key, value in recipe.training_content().items() if key != "seed"}
    return hashlib.sha256(json.dumps([budget.kind, content], sort_keys=True).encode()).hexdigest()
