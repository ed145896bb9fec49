"""Training a classifier from a pretrained network, as all studies do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lightly_prg.claims.findings import Note, Reading
from lightly_prg.claims.recipe_studies import FinetuningStudy
from lightly_prg.claims.study import Cells
from lightly_prg.classifier import finetune_encoder
from lightly_prg.eval import FineTuned, FinetuneResult, result_to_dict
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.features.rereading import reread
from lightly_prg.recipe import finetune_settings

ENCODER_OF: dict[str, EncoderName] = {"pretrained": "run", "scratch": "random_network"}

STATE = {"source": "state", "tau": 1.0, "pool": "flatten"}
"""The paper's feature: the image carried to the noise end."""

VALIDATE_AT = (0.125, 0.25, 0.5, 0.75)
"""Shares of a training after which validation images are classified, beside its end: with few labels, to do so after
every epoch takes longer than the training."""

_LEFT_OUT = ("options", "top5", "mode", "blocks", "preset", "seed")


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
    result, model = finetune_encoder(evaluation, network, settings, split="test", validate_at=VALIDATE_AT)
    return kept(result), model


def kept(result: FinetuneResult) -> dict[str, Any]:
    """What a cell keeps of a fine-tuning; its options are the study's."""
    return {key: value for key, value in result_to_dict(result).items() if key not in _LEFT_OUT}


def late_gain(result: Mapping[str, Any]) -> float | None:
    """Points of validation accuracy that the last quarter of a training added; None where it is too short to tell.

    Args:
        result: See ``kept``.
    """
    curve, epochs = result["curve"], result["epochs"]
    known = [(point["epoch"], point["validation_top1"]) for point in curve if point["validation_top1"] is not None]
    earlier = [top1 for epoch, top1 in known if epoch <= round(0.75 * epochs) and epoch < epochs]
    return float(known[-1][1] - earlier[-1]) if earlier else None


def chosen_rate(result: Mapping[str, Any]) -> str:
    """The learning rate that was chosen, and at which edge of the grid it lies, beyond which a better one may be."""
    rate, grid = result["learning_rate"], [trial["learning_rate"] for trial in result["per_learning_rate"]]
    edges = [name for name, edge in (("lowest", min(grid)), ("highest", max(grid))) if rate == edge]
    return f"{rate:g}" + (f" ({' and '.join(edges)} of {len(grid)})" if edges else "")


def training_told(
    cells: Cells, title: str, kind: str, key: str | None = "finetuned"
) -> tuple[list[Reading], list[Note]]:
    """Whether a classifier had converged, and how fast it learnt.

    Args:
        cells: Of the study.
        title: Of the classifier.
        kind: Its cells.
        key: Where the fine-tuning stands in their results; None where it is all of it.
    """

    def of(result: Mapping[str, Any]) -> Mapping[str, Any]:
        part: Mapping[str, Any] = result if key is None else result[key]
        return part

    name = f"validation accuracy, gained in the last quarter of the epochs, {title}"
    readings = cells.readings(name, kind, lambda result: late_gain(of(result)), unit="points")
    return readings, cells.notes(f"learning rates chosen, {title}", kind, lambda result: chosen_rate(of(result)))
