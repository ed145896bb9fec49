"""Recipes: one YAML file says everything about a run.

The sections are the schema; ``load_recipe`` reads a file or a shipped recipe, applies ``key=value`` overrides and
turns every mistake into one sentence that names the dotted key, what was given, what is allowed and the nearest key.
Nothing here imports torch, so that a typing error is told at once.
"""

from __future__ import annotations

from lightly_prg.recipe.auxiliary import AuxiliaryRecipe
from lightly_prg.recipe.data import DataRecipe
from lightly_prg.recipe.evaluators import EvalRecipe, FewShotRecipe, FinetuneRecipe, KNNRecipe, LinearRecipe, LoRARecipe
from lightly_prg.recipe.feature import FeatureSpec, NetworkFeature, OdeSpec
from lightly_prg.recipe.loading import (
    data_settings,
    finetune_settings,
    load_recipe,
    parse_recipe,
    pretrained_recipe,
    shipped_recipes,
)
from lightly_prg.recipe.methods import (
    BackboneRecipe,
    DecoderRecipe,
    DiTRecipe,
    GeneratorRecipe,
    ImportRecipe,
    MAERecipe,
    MethodRecipe,
    PretrainedRecipe,
    PRGRecipe,
    ResNetRecipe,
    SimCLRRecipe,
    UNetRecipe,
    ViTRecipe,
)
from lightly_prg.recipe.mistakes import nearest
from lightly_prg.recipe.recipe import Recipe
from lightly_prg.recipe.train import TrainRecipe
from lightly_prg.recipe.views import AugmentRecipe

__all__ = [
    "AugmentRecipe",
    "AuxiliaryRecipe",
    "BackboneRecipe",
    "DataRecipe",
    "DecoderRecipe",
    "DiTRecipe",
    "EvalRecipe",
    "FeatureSpec",
    "FewShotRecipe",
    "FinetuneRecipe",
    "GeneratorRecipe",
    "ImportRecipe",
    "KNNRecipe",
    "LinearRecipe",
    "LoRARecipe",
    "MAERecipe",
    "MethodRecipe",
    "NetworkFeature",
    "OdeSpec",
    "PRGRecipe",
    "PretrainedRecipe",
    "Recipe",
    "ResNetRecipe",
    "SimCLRRecipe",
    "TrainRecipe",
    "UNetRecipe",
    "ViTRecipe",
    "data_settings",
    "finetune_settings",
    "load_recipe",
    "nearest",
    "parse_recipe",
    "pretrained_recipe",
    "shipped_recipes",
]
