"""Training a classifier from a pretrained network, as all studies do it."""

from __future__ import annotations

from typing import Any, Literal

from lightly_prg.claims.recipe_studies import FinetuningStudy
from lightly_prg.classifier import finetune_encoder
from lightly_prg.eval import FineTuned, FinetuneResult, result_to_dict
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.recipe import finetune_settings
from lightly_prg.rereading import reread

ENCODER_OF: dict[str, EncoderName] = {"pretrained": "run", "scratch": "random_network"}

STATE = {"source": "state", "tau": 1.0, "pool": "flatten"}
"""The paper's feature: the image carried to the noise end."""

_LEFT_OUT = ("curve", "options", "top5", "mode", "blocks", "preset", "seed")


def through_ode(steps: int) -> list[str]:
    """The paper's feature as overrides of ``eval.finetune``: the state at the noise end after so many Euler steps."""
    return [*(f"feature.{key}={value}" for key, value in STATE.items()), f"ode.steps={steps}", "ode.solver=euler"]


def schedule_of(options: FinetuningStudy) -> dict[str, Any]:
    """How long, on what and how fast every model of a study is trained."""
    return options.model_dump(include={"labels", "epochs", "batch_size", "learning_rates"})


def finetuned(
    evaluation: Evaluation,
    schedule: dict[str, Any],
    *,
    steps: int | None,
    start: Literal["pretrained", "scratch"] = "pretrained",
    beta: float = 0.0,
    gradient: Literal["full", "adjoint"] = "full",
) -> tuple[dict[str, Any], FineTuned]:
    """Trains the whole network with a head; the learning rate is chosen on validation images.

    Args:
        evaluation: The pretrained network and its images.
        schedule: See ``schedule_of``.
        steps: Euler steps K to the noise end, whose state is the feature; None for the feature that the recipe reads.
        start: ``scratch`` for fresh weights, those that start at zero drawn as well.
        beta: Weight of the flow-matching loss that is kept.
        gradient: ``full`` is exact; ``adjoint`` is torchdiffeq's, which is biased where steps are few.

    Returns:
        What is kept of the result, and the classifier.
    """
    overrides = [*(through_ode(steps) if steps is not None else ()), f"ode.gradient={gradient}"]
    settings = finetune_settings(evaluation.run.recipe, overrides, beta=beta, **schedule)
    encoder: Any = evaluation.encoder(ENCODER_OF[start])
    network = reread(encoder, feature=settings.feature, ode=settings.ode)
    result, model = finetune_encoder(evaluation, network, settings, split="test")
    return kept(result), model


def kept(result: FinetuneResult) -> dict[str, Any]:
    """What a cell keeps of a fine-tuning; its options are the study's."""
    return {key: value for key, value in result_to_dict(result).items() if key not in _LEFT_OUT}
