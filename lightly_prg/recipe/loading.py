"""Recipes from files, by name, and from what commands are given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightly_prg.diffusers_folder import image_shape, is_hub_id, open_diffusers_folder
from lightly_prg.recipe.data import DataRecipe
from lightly_prg.recipe.evaluators import FinetuneRecipe
from lightly_prg.recipe.overrides import apply_override
from lightly_prg.recipe.reading import checked, file_of, mapping_of, shipped_texts, text_of
from lightly_prg.recipe.recipe import Recipe
from lightly_prg.recipe.section import Section


def shipped_recipes() -> dict[str, str]:
    """Maps the name of every shipped recipe to its text."""
    return shipped_texts("lightly_prg.recipes")


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by path or shipped name and applies ``key.sub=value`` overrides.

    Args:
        source: Path of a YAML file or of a run folder, or the name of a shipped recipe.
        overrides: For example ``["train.epochs=5", "data.root=/data"]``; values are read as YAML.

    Raises:
        UserError: If there is no such recipe, or a key, type or value is wrong.
    """
    path = file_of(source, "recipe.yaml")
    text = text_of(source, path, shipped_recipes(), kind="recipe")
    return parse_recipe(text, overrides=overrides, origin=str(path or source))


def parse_recipe(text: str, *, overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """Parses YAML text into a recipe, see ``load_recipe``."""
    raw = mapping_of(text, origin=origin, kind="recipe", keys="name, data and method")
    return checked(Recipe, raw, overrides, origin=origin)


def pretrained_recipe(
    source: str, overrides: Sequence[str] = (), *, weights: str = "default", resize: int | None = None
) -> Recipe:
    """The recipe that judges what was trained elsewhere.

    Args:
        source: ``timm:NAME``, ``torchvision:NAME`` or ``diffusers:FOLDER``. Images get as many channels as a generator
            of diffusers has, unless the overrides say otherwise.
        overrides: As in ``load_recipe``.
        weights: Of a network of timm or torchvision, see ``PretrainedRecipe``.
        resize: The side to which images are brought for the network. A generator sees them in its own size alone, so
            for it this is the size of the data.

    Raises:
        UserError: As ``load_recipe``, and if there is no such generator.
    """
    raw: dict[str, Any] = {"name": re.sub(r"[^\w.+-]", "-", source), "data": {"name": "digits"}}
    if source.startswith("diffusers:"):
        location = source.removeprefix("diffusers:")
        if not is_hub_id(location):
            channels, _ = image_shape(open_diffusers_folder(location).unet_config)
            raw["data"]["channels"] = channels if channels in (1, 3) else None
        raw["name"] = "diffusers-" + re.sub(r"[^\w.+-]", "-", location.rstrip("/").rsplit("/", 1)[-1])
        raw["data"]["image_size"] = resize
        raw["method"] = {"name": "generator", "source": source}
    else:
        raw["method"] = {"name": "pretrained", "source": source, "weights": weights, "resize": resize}
    return checked(Recipe, raw, overrides, origin=source)


def finetune_settings(recipe: Recipe, overrides: Sequence[str] = (), **options: Any) -> FinetuneRecipe:
    """The fine-tuning of a recipe, or the default one, with some of its options replaced.

    Args:
        recipe: Of a run.
        overrides: ``key=value`` with keys of ``eval.finetune``, for example ``feature.source=state``, ``lora.rank=4``.
        options: The same by name; they come after the overrides, and None keeps what there is.

    Raises:
        UserError: If an option is not allowed.
    """
    settings = recipe.eval.finetune if recipe.eval.finetune is not None else FinetuneRecipe()
    content = settings.model_dump()
    for override in overrides:
        apply_override(content, override)
    content |= {key: value for key, value in options.items() if value is not None}
    if content["mode"] != "lora" and not any(override.startswith("lora") for override in overrides):
        content["lora"] = {}  # those of the recipe went with its mode
    return checked(FinetuneRecipe, content)


class _OtherData(Section):
    data: DataRecipe


def data_settings(overrides: Sequence[str], **defaults: Any) -> DataRecipe:
    """A ``data`` section alone.

    Args:
        overrides: For example ``["data.name=cifar10", "data.root=/data"]``.
        defaults: Keys of the section that the overrides may change.

    Raises:
        UserError: If a key, type or value is wrong.
    """
    return checked(_OtherData, {"data": dict(defaults)}, overrides).data
