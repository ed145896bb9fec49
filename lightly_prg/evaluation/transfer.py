"""Transfer: how well an encoder that was trained on one set of images serves another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightly_prg.data import resolved_shape
from lightly_prg.errors import UserError
from lightly_prg.eval import concatenate, evaluate_knn, evaluate_linear
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.files import read_json, write_json
from lightly_prg.recipe import DataRecipe
from lightly_prg.run import Run
from lightly_prg.train import load_splits


def transfer(
    evaluation: Evaluation,
    data: DataRecipe,
    *,
    encoders: Sequence[EncoderName] | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Judges a run's frozen encoder and its controls on other images, by k-NN and linear probe.

    The images are brought to the size and channels that the encoder takes. Everything else is the protocol of the run's
    own images: the penalty is chosen on validation images of the new set, its test images are touched once.

    Args:
        evaluation: The run; its own images are not read.
        data: The other images. Size and channels that it leaves open are the encoder's.
        encoders: Default the run and the controls of its recipe. PCA finds its components on the new images.
        split: Default the recipe's.

    Returns:
        The result as it was written to ``eval/transfer-<data>.json``, with a hash in its name where another question
        on such images was answered there: ``encoders`` with ``knn`` and ``linear`` in
        percent, ``calibration_error``, ``embedding_dim`` and ``nfe`` of each.

    Raises:
        UserError: If the images are not there, have no labels, or are to have a size that the encoder does not take.
    """
    run = evaluation.run
    recipe = run.recipe
    channels, size, width = evaluation.description["input_shape"]
    if size != width:
        raise UserError(f"{run.folder} takes images of {size} x {width}; a transfer needs square ones.")
    settings = data.model_copy(
        update={"image_size": data.image_size or size, "channels": data.channels if data.channels else channels}
    )
    if resolved_shape(settings) != (size, channels):
        raise UserError(
            f"{run.folder} takes images of {channels} x {size} x {size}; leave data.image_size and data.channels out, "
            "and they are brought to that."
        )
    loaded = load_splits(recipe.model_copy(update={"data": settings}), evaluation.console)
    other = dataclasses.replace(evaluation, data=loaded)
    split = split if split is not None else recipe.eval.split
    if split == "train":
        raise UserError(
            "Probes and k-NN have seen the training images of that set: take validation or test to judge it."
        )
    if not (loaded.train.labelled and other.images(split).labelled):
        raise UserError(f"The images of {data.title} have no labels, which k-NN and probes need.")
    names: Sequence[EncoderName] = encoders if encoders is not None else ("run", *recipe.eval.controls)
    result = {
        "transferred_to": settings.title,
        "data": settings.model_dump(mode="json"),
        "trained_on": recipe.data.title,
        "split": split,
        "num_train": len(loaded.train),
        "num_validation": len(loaded.validation),
        "num_test": len(other.images(split)),
        "num_classes": loaded.train.num_classes,
        "seed": recipe.seed,
        "recipe_sha256": evaluation.description["recipe_sha256"],
        "encoders": {name: _judged(other, name, split) for name in names},
    }
    write_json(_file_of(run, settings, split), {"evaluator": "transfer", **result})
    return result


def _file_of(run: Run, data: DataRecipe, split: str) -> Path:
    """Where a result is written: one of other images, or of another share of them, is not replaced by it."""
    slug = re.sub(r"[^\w.+-]+", "-", data.title)
    plain = run.folder / "eval" / f"transfer-{slug}.json"
    asked = _question(data.model_dump(mode="json"), split)
    if not plain.is_file():
        return plain
    with suppress(UserError):  # a damaged one holds nothing to be kept
        there = read_json(plain)
        if _question(there.get("data"), there.get("split")) != asked:
            return plain.with_stem(f"{plain.stem}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}")
    return plain


def _question(data: Any, split: Any) -> str:
    """What was asked, as text; a named set is the same wherever it lies."""
    named = isinstance(data, dict) and data.get("name") != "folder"
    return json.dumps([{**data, "root": None} if named else data, split], sort_keys=True)


def _judged(evaluation: Evaluation, name: EncoderName, split: str) -> dict[str, Any]:
    recipe = evaluation.run.recipe.eval
    defaults = type(recipe)()
    knn, linear = recipe.knn or defaults.knn, recipe.linear or defaults.linear
    assert knn is not None
    assert linear is not None
    train, judged = evaluation.embeddings(name, "train"), evaluation.embeddings(name, split)
    has_validation = split == "test" and len(evaluation.splits.validation) > 0
    validation = evaluation.embeddings(name, "validation") if has_validation else None
    classes = evaluation.splits.train.num_classes
    nearest = evaluate_knn(
        train if validation is None else concatenate(train, validation),
        judged,
        k=knn.k,
        ks=(knn.k,),
        temperature=knn.temperature,
        transform=knn.transform,
        num_classes=classes,
        device=evaluation.target,
    )
    probe = evaluate_linear(
        train,
        judged,
        validation=validation,
        max_iterations=linear.max_iterations,
        seed=evaluation.run.recipe.seed,
        num_classes=classes,
        device=str(evaluation.target),
    )
    return {
        "knn": nearest.top1,
        "linear": probe.top1,
        "calibration_error": probe.calibration_error,
        "penalty": list(probe.penalty),
        "embedding_dim": train.embedding_dim,
        "nfe": train.nfe,
    }
