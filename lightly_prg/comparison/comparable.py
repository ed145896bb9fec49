"""Whether methods were given the same conditions; where not, the difference is named and nothing is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightly_prg.data import resolved_shape
from lightly_prg.errors import UserError
from lightly_prg.recipe import MAERecipe, PRGRecipe, Recipe, SimCLRRecipe
from lightly_prg.recipe.auxiliary import ON_VIEWS


@dataclass(frozen=True)
class Condition:
    """One thing that has to be equal.

    Attributes:
        kind: What is compared with what.
        key: Its place in the recipe.
        value: What it is there.
        exempt: The word of ``may_differ`` that lets it differ; None for what never may.
    """

    kind: str
    key: str
    value: Any
    exempt: str | None = None


def check_comparable(recipes: Mapping[str, Recipe], *, may_differ: Sequence[str] = ()) -> None:
    """Refuses methods that differ in data, split, size, augmentation or what is judged.

    Augmentation belongs to a method, and is compared where two methods have the same kind: flips in all of them, the
    strong views of SimCLR and of PRG's contrastive losses, the crop of MAE, the padding of PRG.

    Args:
        recipes: By label.
        may_differ: Some of ``augment`` and ``train_size``.

    Raises:
        UserError: With the first difference.
    """
    first: dict[str, tuple[str, Condition]] = {}
    for label, recipe in recipes.items():
        for condition in conditions_of(recipe):
            if condition.exempt in may_differ:
                continue
            other, known = first.setdefault(condition.kind, (label, condition))
            if known.value != condition.value:
                hint = f" Where that is what is compared, set may_differ=[{known.exempt}]." if known.exempt else ""
                raise UserError(
                    f"{other} and {label} cannot be compared: {known.key} is {_shown(known.value)} for {other}, "
                    f"{_also(known, condition)}{_shown(condition.value)} for {label}.{hint}"
                )


def check_same_seeds(seeds: Mapping[str, Sequence[int]]) -> None:
    """Refuses methods of different seeds: these decide which images train and validate, and differences are paired.

    Raises:
        UserError: If the seeds of two methods differ.
    """
    labels = list(seeds)
    for label in labels[1:]:
        if sorted(seeds[label]) != sorted(seeds[labels[0]]):
            raise UserError(
                f"{labels[0]} and {label} cannot be compared: the seeds, which decide over the split, are "
                f"{_listed(seeds[labels[0]])} for {labels[0]}, {_listed(seeds[label])} for {label}."
            )


def conditions_of(recipe: Recipe) -> Iterator[Condition]:
    """Everything of a recipe that has to be equal."""
    data, method = recipe.data, recipe.method
    size, channels = resolved_shape(data)
    yield Condition("data", "data.name", data.name)
    if data.name == "folder":
        yield Condition("root", "data.root", data.place)
    yield Condition("size", "data.image_size", size)
    yield Condition("channels", "data.channels", channels)
    yield Condition("validation", "data.validation_fraction", data.validation_fraction)
    yield Condition("train size", "data.train_size", data.train_size, "train_size")
    yield Condition("judged", "eval.split", recipe.eval.split)
    if not recipe.is_trained_here:
        return  # no image is augmented
    if isinstance(method, PRGRecipe | SimCLRRecipe | MAERecipe):
        yield Condition("flip", "method.augment.horizontal_flip", method.augment.horizontal_flip, "augment")
    if isinstance(method, PRGRecipe):
        yield Condition("padding", "method.augment.crop_padding", method.augment.crop_padding, "augment")
    if isinstance(method, MAERecipe):
        yield Condition("crop", "method.augment.crop_min", method.augment.crop_min, "augment")
    views, where = None, "method.augment"
    if isinstance(method, SimCLRRecipe):
        views = method.augment
    elif isinstance(method, PRGRecipe) and method.auxiliary is not None:
        auxiliary = method.auxiliary
        if auxiliary.is_active and auxiliary.loss in ON_VIEWS:
            views, where = auxiliary.views, "method.auxiliary.views"
    for name, value in views.model_dump().items() if views is not None else ():
        kind = "flip" if name == "horizontal_flip" else f"views: {name}"
        yield Condition(kind, f"{where}.{name}", value, "augment")


def _also(known: Condition, condition: Condition) -> str:
    return "" if known.key == condition.key else f"{condition.key} is "


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
