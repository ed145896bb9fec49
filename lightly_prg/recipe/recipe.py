"""A recipe: everything about a run."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import yaml
from pydantic import Field

from lightly_prg.recipe.data import DataRecipe
from lightly_prg.recipe.evaluators import EvalRecipe
from lightly_prg.recipe.methods import GeneratorRecipe, MethodRecipe, PretrainedRecipe
from lightly_prg.recipe.section import Integer, Section
from lightly_prg.recipe.train import TrainRecipe


class Recipe(Section):
    """Everything about a run.

    Attributes:
        name: Names the run's folder, ``runs/NAME``.
        description: What it is, for readers.
        seed: Of everything that is drawn.
        init_from: A run folder whose weights training starts from.
        data: The images.
        method: What is trained.
        train: How.
        eval: What is measured then.
    """

    name: Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]
    description: str = ""
    seed: Annotated[Integer, Field(ge=0)] = 0
    init_from: str | None = None
    data: DataRecipe
    method: MethodRecipe
    train: TrainRecipe = TrainRecipe()
    eval: EvalRecipe = EvalRecipe()

    @property
    def is_trained_here(self) -> bool:
        """Whether there is anything to train: not what was trained elsewhere, nor a network left as it was drawn."""
        return self.train.epochs > 0 and not isinstance(self.method, PretrainedRecipe | GeneratorRecipe)

    @property
    def mirrors(self) -> bool:
        """Whether a mirrored image still shows the same thing, as far as the recipe knows: of digits it does not."""
        return bool(getattr(getattr(self.method, "augment", None), "horizontal_flip", True))

    def to_yaml(self) -> str:
        """The fully resolved recipe; ``parse_recipe`` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100, default_flow_style=None)

    def training_content(self) -> dict[str, Any]:
        """What decides the trained weights and the feature: without names, folders, devices and evaluators."""
        content = self._deciding_content()
        content.pop("eval")
        return content

    def sha256(self) -> str:
        """Hash of what decides the result: without names, folders, devices and workers."""
        content = self._deciding_content()
        if content["method"].get("auxiliary", ...) is None:
            content["method"].pop("auxiliary")
        if content["train"]["max_steps"] is None:
            content["train"].pop("max_steps")
        if content["eval"]["knn"] is not None and content["eval"]["knn"]["transform"] == "none":
            content["eval"]["knn"].pop("transform")  # recipes from before there was a choice keep their hash
        if content["eval"]["finetune"] is not None:
            content["eval"]["finetune"] = _without_unused(content["eval"]["finetune"])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _deciding_content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        for section, key in _NOT_HASHED:
            (content[section] if section else content).pop(key)
        return content


_NOT_HASHED = (
    ("", "name"),
    ("", "description"),
    ("data", "root"),
    ("data", "download"),
    ("train", "num_workers"),
    ("train", "accelerator"),
    ("train", "devices"),
    ("train", "strategy"),
    ("train", "wandb"),
    ("train", "checkpoint_every"),
    ("train", "snapshots"),
)


def _without_unused(finetune: dict[str, Any]) -> dict[str, Any]:
    """Fine-tuning without the later options where they decide nothing, so that older recipes keep their hash."""
    unused = {key for key in ("ema_decay", "feature", "ode") if finetune[key] is None}
    unused |= {"lora"} if finetune["mode"] != "lora" else set()
    return {key: value for key, value in finetune.items() if key not in unused}
