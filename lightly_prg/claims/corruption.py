"""Is a fine-tuned flow more robust than an ordinary network? Corrupted images, equal labels and augmentation (C8).

The flow is fine-tuned through the ODE, a residual network is trained from fresh weights: the same labels, augmentation
and grid of learning rates, and as many multiply-adds, since fresh weights need them and a pass of the residual network
costs few. The flow's network from fresh weights tells what of a difference is pretraining and what is the flow. Fifteen
corruptions at five severities; robustness is told both as the accuracy that is left and as its share of the clean
accuracy, since a better classifier has more to lose. The share is one of what lies above chance: below that there is
nothing to lose, and a better classifier would seem the worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightly_prg.claims.findings import Finding, Note, Outcome, Reading
from lightly_prg.claims.finetuning import VALIDATE_AT, finetuned, kept, schedule_of, through_ode, training_told
from lightly_prg.claims.recipe_studies import Corruption
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.classifier import finetune_encoder
from lightly_prg.cost import multiply_adds
from lightly_prg.eval import FineTuned, evaluate_robustness, result_to_dict
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.rereading import reread
from lightly_prg.methods.simclr import build_resnet
from lightly_prg.module_state import device_of, evaluating
from lightly_prg.randomness import global_draws
from lightly_prg.recipe import Recipe, SimCLRRecipe, finetune_settings

_TITLES = {"prg": "PRG", "resnet": "ResNet", "scratch": "PRG's network from scratch"}


def kinds(options: Corruption, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The classifiers."""
    found: dict[str, dict[str, Any]] = {"prg": {"model": "prg"}}
    fresh = {"scratch_epochs": options.scratch_epochs}
    found["resnet"] = {"model": "resnet", **fresh, "network": options.resnet.model_dump(mode="json")}
    if options.scratch:
        found["scratch"] = {"model": "scratch", **fresh}
    return found


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
    chance = 100.0 / evaluation.splits.train.num_classes
    return {
        "finetuned": trained,
        "parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "multiply_adds": _multiply_adds(model.encoder),
        "clean": clean,
        "corrupted": left,
        "share": share_above_chance(clean, left, chance=chance),
        "error": robust["error"],
        "source": robust["source"],
    }


def share_above_chance(clean: float, left: float, *, chance: float) -> float:
    """Percent of the clean accuracy above chance that is left; 0 of a classifier that is no better than chance."""
    return 100.0 * (left - chance) / (clean - chance) if clean > chance else 0.0


def _trained(part: Part, name: str, options: Corruption) -> tuple[dict[str, Any], FineTuned]:
    evaluation, schedule = part.evaluation, schedule_of(options)
    if name == "prg":
        return finetuned(evaluation, schedule, steps=options.steps)
    schedule["epochs"] = options.scratch_epochs
    if name == "scratch":
        return finetuned(evaluation, schedule, steps=options.steps, start="scratch")
    network = _resnet(part, options)
    through = finetune_settings(evaluation.run.recipe, through_ode(options.steps))
    flow = _multiply_adds(reread(evaluation.prg, feature=through.feature, ode=through.ode))
    schedule["epochs"] = max(options.scratch_epochs, round(options.epochs * flow / _multiply_adds(network)))
    settings = finetune_settings(evaluation.run.recipe, **schedule)
    result, model = finetune_encoder(evaluation, network, settings, split="test", validate_at=VALIDATE_AT)
    return kept(result), model


def _multiply_adds(encoder: Any) -> int:
    """Of embedding one image."""
    image = torch.zeros(1, *encoder.input_shape, device=device_of(encoder))
    with torch.no_grad(), evaluating(encoder):
        return multiply_adds(lambda: encoder(image))


def _resnet(part: Part, options: Corruption) -> nn.Module:
    """A residual network with weights that depend on the seed alone."""
    train = part.splits.train
    shape = (train.channels, train.image_size, train.image_size)
    with global_draws(part.seed, "weights"):
        network = build_resnet(SimCLRRecipe(name="simclr", backbone=options.resnet), shape)
    return NetworkEncoder(network, input_shape=shape)


def outcome(cells: Cells, options: Corruption) -> Outcome:
    """PRG less the others: accuracy under corruption, also as a share of the clean accuracy, and that itself."""
    findings: list[Finding] = []
    readings: list[Reading] = []
    numbers = {
        "corrupted": "accuracy under corruption",
        "share": "share of the clean accuracy above chance that is left",
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
                margin=options.share_margin if key == "share" else None,
            )
        for kind, title in _TITLES.items():
            readings += cells.readings(f"{number}, {title}", kind, key)
    notes: list[Note] = []
    for kind, title in _TITLES.items():
        readings += cells.readings(f"parameters, {title}", kind, lambda one: one["parameters"] / 1e6, unit="M")
        readings += cells.readings(f"network evaluations, {title}", kind, lambda one: one["finetuned"]["nfe"], unit="")
        name = f"multiply-adds of an image, {title}"
        readings += cells.readings(name, kind, lambda one: one["multiply_adds"] / 1e6, unit="M")
        readings += cells.readings(f"epochs, {title}", kind, lambda one: one["finetuned"]["epochs"], unit="")
        of_training = training_told(cells, title, kind)
        readings += of_training[0]
        notes += of_training[1]
    return Outcome(tuple(findings), tuple(readings), tuple(notes))


STUDY = Study(
    kinds=kinds,
    measure=measure,
    outcome=outcome,
    aside=frozenset({"scratch", "scratch_epochs", "share_margin", "resnet"}),
)
