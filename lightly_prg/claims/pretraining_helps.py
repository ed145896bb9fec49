"""Is it pretraining that makes fine-tuning work? The same network from pretrained and from fresh weights (C2).

Both get the same labels, solver and grid of learning rates, and each the rate that is best for it on validation images;
fresh weights get more epochs. What the last quarter of them still gained is told: a training that was cut short speaks
for neither. Fresh weights that would start at zero are drawn as well: an untrained flow is the identity map otherwise,
which would be another handicap than the lack of pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightly_prg.claims.findings import Finding, Note, Outcome, Reading
from lightly_prg.claims.finetuning import finetuned, training_told
from lightly_prg.claims.recipe_studies import PretrainingHelps
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.recipe import Recipe

_TITLES = {"state": "state through the ODE", "block": "block"}


def kinds(options: PretrainingHelps, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Starts x features x labels and, of the pretrained state, the other gradients."""
    found = {}
    for labels, epochs, scratch_epochs in zip(options.labels, options.epochs, options.scratch_epochs, strict=True):
        for feature in options.features:
            for start, length in (("pretrained", epochs), ("scratch", scratch_epochs)):
                what = {"start": start, "feature": feature, "labels": labels, "epochs": length, "gradient": "full"}
                found[_kind(start, feature, labels)] = what
        for gradient in options.gradients:
            if gradient != "full":
                what = {"start": "pretrained", "feature": "state", "labels": labels, "epochs": epochs}
                found[_kind(gradient, "state", labels)] = {**what, "gradient": gradient}
    return found


def _kind(start: str, feature: str, labels: int) -> str:
    return f"{start}-{feature}-{labels}"


def measure(part: Part, cell: Mapping[str, Any], options: PretrainingHelps) -> dict[str, Any]:
    """One fine-tuning."""
    schedule = {
        "labels": cell["labels"],
        "epochs": cell["epochs"],
        "batch_size": options.batch_size,
        "learning_rates": options.learning_rates,
    }
    result, _ = finetuned(
        part.evaluation,
        schedule,
        steps=options.steps if cell["feature"] == "state" else None,
        start=cell["start"],
        gradient=cell["gradient"],
    )
    return result


def outcome(cells: Cells, options: PretrainingHelps) -> Outcome:
    """Pretrained less scratch; of the state, which the paper fine-tunes, it decides."""
    findings: list[Finding] = []
    readings: list[Reading] = []
    notes: list[Note] = []
    for labels in options.labels:
        for feature in options.features:
            title = f"{_TITLES[feature]}, {labels} labels of each class"
            first, second = (_kind(start, feature, labels) for start in ("pretrained", "scratch"))
            findings += cells.differences(
                f"pretrained less scratch, {title}",
                (first, "top1"),
                (second, "top1"),
                side="above" if feature == "state" else None,
            )
            readings += cells.readings(f"accuracy, pretrained, {title}", first, "top1")
            readings += cells.readings(f"accuracy, scratch, {title}", second, "top1")
            for start, kind in (("pretrained", first), ("scratch", second)):
                of_training = training_told(cells, f"{start}, {title}", kind, key=None)
                readings += of_training[0]
                notes += of_training[1]
        for gradient in options.gradients:
            if gradient != "full":
                name = f"{gradient} less exact gradient, {_TITLES['state']}, {labels} labels of each class"
                exact = (_kind("pretrained", "state", labels), "top1")
                findings += cells.differences(name, (_kind(gradient, "state", labels), "top1"), exact)
    return Outcome(tuple(findings), tuple(readings), tuple(notes))


STUDY = Study(
    kinds=kinds,
    measure=measure,
    outcome=outcome,
    aside=frozenset({"labels", "epochs", "scratch_epochs", "features", "gradients"}),
)
