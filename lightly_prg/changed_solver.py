"""A fine-tuned run at other steps and with other solvers than it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from lightly_prg.classifier import load_classifier
from lightly_prg.errors import UserError
from lightly_prg.eval.divisible import labelled
from lightly_prg.eval.embed import PRECISIONS
from lightly_prg.evaluation import Evaluation
from lightly_prg.hardware import decoding_workers, pick_precision
from lightly_prg.rereading import reread
from lightly_prg.transforms import to_unit_range


@torch.no_grad()
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
    model = load_classifier(evaluation.run.folder, trust=evaluation.trust).to(evaluation.target).eval()
    own: Any = model.encoder
    encoders = [own] if not ode else [own, reread(own, ode=ode)]
    split = split if split is not None else evaluation.run.recipe.eval.split
    images = labelled(evaluation.images(split))
    if len(images) == 0:
        raise UserError(f"No image of the {split} split has a label.")
    precision = PRECISIONS[pick_precision("auto", evaluation.target).precision]
    autocast = torch.autocast(evaluation.target.type, dtype=precision, enabled=precision is not None)
    hits, same, cosine, done = [0] * len(encoders), 0, 0.0, 0
    loader = images.loader(batch_size=evaluation.run.recipe.eval.batch_size, num_workers=decoding_workers())
    with evaluation.console.task(f"classifying {len(images)} {split} images", len(images)) as update:
        for pixels, labels, _ in loader:
            inputs = to_unit_range(pixels.to(evaluation.target))
            with autocast:
                features = [encoder(inputs).float() for encoder in encoders]
                found = [model.head(part).argmax(1).cpu() for part in features]
            hits = [count + int((part == labels).sum()) for count, part in zip(hits, found, strict=True)]
            same += int((found[0] == found[-1]).sum())
            cosine += float(F.cosine_similarity(features[0], features[-1]).double().sum())
            done += len(labels)
            update(done)
    told: list[dict[str, Any]] = [
        {"top1": 100.0 * count / done, "nfe": encoder.nfe, "ode": encoder.description().get("ode")}
        for encoder, count in zip(encoders, hits, strict=True)
    ]
    told[-1] |= {"agreement": 100.0 * same / done, "feature_cosine": cosine / done} if ode else {}
    content = {
        "encoder": "run",
        "split": split,
        "num_test": done,
        "own": told[0],
        "changed": told[1] if ode else None,
        "options": {"ode": dict(ode or {})},
        "recipe_sha256": evaluation.description["recipe_sha256"],
    }
    own_options = not ode and split == evaluation.run.recipe.eval.split
    evaluation.run.write_result("classify", content, own_options=own_options)
    return content
