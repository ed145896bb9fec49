"""A fine-tuned run at other steps and with other solvers than it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from lightly_prg.classifier import load_classifier
from lightly_prg.errors import UserError
from lightly_prg.eval import FineTuned
from lightly_prg.eval.divisible import labelled
from lightly_prg.eval.embed import PRECISIONS
from lightly_prg.evaluation import Evaluation
from lightly_prg.features.rereading import reread
from lightly_prg.hardware import decoding_workers
from lightly_prg.transforms import to_unit_range


def classify_with(
    evaluation: Evaluation, ode: Mapping[str, Any] | None = None, *, split: str | None = None
) -> dict[str, Any]:
    """Classifies with a fine-tuned run as it was trained, and with another solver; writes eval/classify*.json.

    Were the features those of a continuous flow, they would hardly depend on the solver or its steps. How far they do
    is told by the share of equal predictions and the mean cosine between the features of an image.

    Args:
        evaluation: A fine-tuned run and its data.
        ode: Keys of ``OdeSpec`` that change; None for the run's own alone.
        split: Default the recipe's. Images without a label are left out.

    Returns:
        The result as it was written: ``own`` with ``top1`` in percent, ``nfe`` and ``ode``; and ``changed`` with these,
        ``agreement`` in percent and ``feature_cosine``, or None where nothing changes.

    Raises:
        UserError: If the run holds no fine-tuned model, it has no ODE, or an option is not allowed.
    """
    model = load_classifier(evaluation.run.folder, trust=evaluation.trust)
    split = split if split is not None else evaluation.run.recipe.eval.split
    own, *changed = judge_with(evaluation, model, [ode] if ode else [], split=split)
    content = {
        "encoder": "run",
        "split": split,
        "num_test": own.pop("num_test"),
        "own": own,
        "changed": changed[0] if changed else None,
        "options": {"ode": dict(ode or {})},
        "recipe_sha256": evaluation.description["recipe_sha256"],
    }
    own_options = not ode and split == evaluation.run.recipe.eval.split
    evaluation.run.write_result("classify", content, own_options=own_options)
    return content


@torch.no_grad()
def judge_with(
    evaluation: Evaluation, model: FineTuned, changes: Sequence[Mapping[str, Any]], *, split: str
) -> list[dict[str, Any]]:
    """Classifies with a model as it was trained, and with its ODE solved otherwise.

    Args:
        evaluation: Gives the images, of which those without a label are left out, and the device.
        model: An encoder with a head.
        changes: For each other way, the keys of ``OdeSpec`` that change.
        split: Of the images.

    Returns:
        For the model itself ``top1`` in percent, ``nfe``, ``ode`` and ``num_test``; then for each change the first
        three and, against the model itself, ``agreement`` of the predictions in percent and ``feature_cosine``.

    Raises:
        UserError: If there is no ODE, a key is not allowed or no image has a label.
    """
    model = model.to(evaluation.target).eval()
    original: Any = model.encoder
    encoders = [original, *(reread(original, ode=change) for change in changes)]
    images = labelled(evaluation.images(split))
    if len(images) == 0:
        raise UserError(f"No image of the {split} split has a label.")
    precision = PRECISIONS[evaluation.precision]
    autocast = torch.autocast(evaluation.target.type, dtype=precision, enabled=precision is not None)
    hits, same, cosine = ([0.0] * len(encoders) for _ in range(3))
    done = 0
    loader = images.loader(batch_size=evaluation.run.recipe.eval.batch_size, num_workers=decoding_workers())
    with evaluation.console.task(f"classifying {len(images)} {split} images", len(images)) as update:
        for pixels, labels, _ in loader:
            inputs = to_unit_range(pixels.to(evaluation.target))
            own, said = None, None
            for index, encoder in enumerate(encoders):
                with autocast:
                    features = encoder(inputs).float()
                    found = model.head(features).argmax(1).cpu()
                own, said = (features, found) if own is None or said is None else (own, said)
                hits[index] += int((found == labels).sum())
                same[index] += int((found == said).sum())
                cosine[index] += float(F.cosine_similarity(own, features).cpu().double().sum())
            done += len(labels)
            update(done)
    told: list[dict[str, Any]] = [
        {"top1": 100.0 * count / done, "nfe": encoder.nfe, "ode": encoder.description().get("ode")}
        for encoder, count in zip(encoders, hits, strict=True)
    ]
    told[0]["num_test"] = done
    for index in range(1, len(told)):
        told[index] |= {"agreement": 100.0 * same[index] / done, "feature_cosine": cosine[index] / done}
    return told
