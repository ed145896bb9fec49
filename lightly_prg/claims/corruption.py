"""Is a fine-tuned flow more robust than an ordinary network? Corrupted images, equal labels and augmentation (C8).

The flow is fine-tuned through the ODE, a residual network is trained from fresh weights: the same labels, epochs,
augmentation and grid of learning rates. Fifteen corruptions at five severities; robustness is told both as the accuracy
that is left and as its share of the clean accuracy, since a better classifier has more to lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightly_prg.claims.findings import Finding, Outcome, Reading
from lightly_prg.claims.finetuning import finetuned, kept, schedule_of
from lightly_prg.claims.recipe_studies import Corruption
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.classifier import finetune_encoder
from lightly_prg.eval import FineTuned, evaluate_robustness, result_to_dict
from lightly_prg.methods.simclr import build_resnet
from lightly_prg.network_encoder import NetworkEncoder
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import Recipe, SimCLRRecipe, finetune_settings

_TITLES = {"prg": "PRG", "resnet": "ResNet", "scratch": "PRG's network from scratch"}


def kinds(options: Corruption, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The classifiers."""
    return {name: {"model": name} for name in _TITLES if name != "scratch" or options.scratch}


def measure(part: Part, cell: Mapping[str, Any], options: Corruption) -> dict[str, Any]:
    """Trains one classifier and judges it on clean and corrupted test images."""
    trained, model = _trained(part, cell["model"], options)
    evaluation = part.evaluation
    images = evaluation.images("test")
    with part.console.task("classifying corrupted images", 1) as update:
        result = evaluate_robustness(
            model.to(evaluation.target),
            images,
            seed=part.seed,
            batch_size=part.recipe.eval.batch_size,
            device=str(evaluation.target),
            num_classes=evaluation.splits.train.num_classes,
            progress=update,
        )
    robust = result_to_dict(result)
    clean, left = robust["clean_top1"], 100.0 - robust["mean_corruption_error"]
    return {
        "finetuned": trained,
        "parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "clean": clean,
        "corrupted": left,
        "share": 100.0 * left / clean if clean else None,
        "error": robust["error"],
        "source": robust["source"],
    }


def _trained(part: Part, name: str, options: Corruption) -> tuple[dict[str, Any], FineTuned]:
    schedule = schedule_of(options)
    if name != "resnet":
        return finetuned(
            part.evaluation, schedule, steps=options.steps, start="pretrained" if name == "prg" else "scratch"
        )
    settings = finetune_settings(part.evaluation.run.recipe, **schedule)
    result, model = finetune_encoder(part.evaluation, _resnet(part, options), settings, split="test")
    return kept(result), model


def _resnet(part: Part, options: Corruption) -> nn.Module:
    """A residual network with weights that depend on the seed alone."""
    train = part.splits.train
    shape = (train.channels, train.image_size, train.image_size)
    with torch.random.fork_rng():
        torch.manual_seed(generator_for(part.seed, "weights").initial_seed())
        network = build_resnet(SimCLRRecipe(name="simclr", backbone=options.resnet), shape)
    return NetworkEncoder(network, input_shape=shape)


def outcome(cells: Cells, options: Corruption) -> Outcome:
    """PRG less the others: accuracy under corruption, also as a share of the clean accuracy, and that itself."""
    findings: list[Finding] = []
    readings: list[Reading] = []
    numbers = {
        "corrupted": "accuracy under corruption",
        "share": "share of the clean accuracy that is left",
        "clean": "clean accuracy",
    }
    for key, number in numbers.items():
        for other in ("resnet", "scratch"):
            decides = other == "resnet" and key != "clean"
            findings += cells.differences(
                f"{number}, {_TITLES['prg']} less {_TITLES[other]}",
                ("prg", key),
                (other, key),
                side="above" if decides else None,
            )
        for kind, title in _TITLES.items():
            readings += cells.readings(f"{number}, {title}", kind, key)
    return Outcome(tuple(findings), tuple(readings))


STUDY = Study(kinds=kinds, measure=measure, outcome=outcome)
