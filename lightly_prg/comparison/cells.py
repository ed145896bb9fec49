"""The cells of a comparison, method x seed: finding, taking over or training the run of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.comparison.images import Images
from lightly_prg.console import Console
from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.files import replacing
from lightly_prg.recipe import FinetuneRecipe, Recipe
from lightly_prg.run import Run
from lightly_prg.train import train
from lightly_prg.training.processes import ON_ONE_DEVICE


@dataclass(frozen=True)
class Cell:
    """One method with one seed.

    Attributes:
        label: The method's.
        seed: Of everything.
        key: Names its files.
        recipe: What is trained, or was.
        folder: The run.
        source: A finished run that may serve in its place; None to train.
        finetune: How this method is fine-tuned, if at all.
        starts_from: The key of the cell beside it whose weights it starts from.
    """

    label: str
    seed: int
    key: str
    recipe: Recipe
    folder: Path
    source: Path | None = None
    finetune: FinetuneRecipe | None = None
    starts_from: str | None = None


def trained(
    cell: Cell,
    *,
    scanned: bool,
    data: Splits | None,
    trust: bool,
    console: Console,
    images: Images | None = None,
) -> Run:
    """The run of a cell: the one that is there, continued if it was cut off, or a new one.

    Args:
        cell: Which.
        scanned: Whether the feature is chosen by a scan, so that the run's may be another than the recipe's.
        data: The images, where they are not the recipe's.
        trust: Whether the recipe's code may run.
        console: Where progress is shown.
        images: Gives the images of a recipe, to tell whether a run was trained on those that a folder holds now;
            None to go by the path of the folder.

    Raises:
        UserError: If the folder holds a run of another recipe, of other images or that started from other weights, or
            training fails.
    """
    run = Run(cell.folder)
    check_run(cell, scanned=scanned, images=images)
    lost = run.has_lost_weights and not run.checkpoint.is_file()
    unnamed = run.folder.exists() and not run.recipe_file.is_file()
    if unnamed and (foreign := [entry.name for entry in run.folder.iterdir() if not _is_leftover(entry)]):
        raise UserError(
            f"{run.folder} holds {min(foreign)} and no recipe.yaml, so that nothing tells what it is of. Remove that "
            "folder, or choose another with --out."
        )
    if lost or unnamed:
        with run.lock():
            run.clear()  # what was left of another training, or was being written when the process was killed
        run = Run(cell.folder)
    if run.is_trained:
        if has_other_images(run, cell.recipe, images):
            raise UserError(
                f"{run.folder} was trained on other images than {cell.recipe.data.root} holds now. "
                "Choose another folder with --out, or remove that run."
            )
        if cell.starts_from is not None and _has_other_start(run, cell.recipe):
            raise UserError(
                f"{run.folder} started from weights that {cell.recipe.init_from} does not hold any more. "
                "Choose another folder with --out, or remove that run."
            )
        console.say("  trained already")
        return run
    if cell.source is not None:
        source = Run(cell.source)
        if first_difference(rooted(source, cell.recipe, images), cell.recipe, scanned=scanned) is None:
            if not has_other_images(source, cell.recipe, images):
                _take_over(source, run)
                console.say(f"  taken from {cell.source}")
                return Run(cell.folder)
            console.say(f"  {cell.source} is not taken: it was trained on other images")
    console.say(f"  training in {run.folder}")
    begun = run.recipe_file.is_file()
    # The evaluators may have changed since it was begun; what was begun is continued with its own recipe.
    recipe = run.recipe if begun else cell.recipe
    if recipe.train.devices not in ("auto", 1):
        raise UserError(
            f"{cell.label}: train.devices is {recipe.train.devices}; a comparison trains on one device. "
            "Runs that were trained on several are compared as finished runs."
        )
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=ON_ONE_DEVICE)})
    return train(
        recipe,
        out=cell.folder,
        data=data,
        resume=begun,
        trust=trust,
        console=console,
        init_from=cell.recipe.init_from,
    )


def _is_leftover(entry: Path) -> bool:
    """Whether it is of a run that was killed before its recipe was written."""
    return entry.name == "snapshots" or entry.name.startswith(".")  # temporaries, the lock, and no work of anyone


def check_run(cell: Cell, *, scanned: bool, images: Images | None = None) -> None:
    """Refuses a run in the place of the cell that was made from another recipe.

    Raises:
        UserError: With the first key that differs.
    """
    run = Run(cell.folder)
    if not run.recipe_file.is_file():
        return
    recipe = rooted(run, cell.recipe, images)
    start = recipe.init_from
    if cell.starts_from is not None and start is not None and Path(start).parts[-2:] == ("runs", cell.starts_from):
        # The run beside it, wherever the comparison lay when this one was begun.
        recipe = recipe.model_copy(update={"init_from": cell.recipe.init_from})
    difference = first_difference(recipe, cell.recipe, scanned=scanned)
    if difference is not None:
        key, there, here = difference
        raise UserError(
            f"{run.folder} holds a run of another recipe: {key} is {there} there, {here} in the comparison. "
            "Choose another folder with --out, or remove that run."
        )


def first_difference(there: Recipe, here: Recipe, *, scanned: bool) -> tuple[str, Any, Any] | None:
    """The first key that decides the training, or the feature, in which two recipes differ; None if there is none.

    Of a folder of images, its place is what it is; of the named sets, it decides nothing.

    Args:
        there: One recipe.
        here: Another.
        scanned: Leave the feature and its solver out.
    """
    contents = []
    for recipe in (there, here):
        content = recipe.training_content()
        if recipe.data.name == "folder":
            content["data"]["root"] = recipe.data.place
        if scanned:
            for key in ("feature", "ode"):
                content["method"].pop(key, None)
        contents.append(content)
    return _difference(contents[0], contents[1])


def rooted(run: Run, here: Recipe, images: Images | None) -> Recipe:
    """The recipe of a run; where its folder of images was only moved, with the place that the folder has now.

    Args:
        run: One that was begun.
        here: What is wanted.
        images: Tells whether both folders hold the same; None to go by their paths.
    """
    recipe = run.recipe
    if (
        images is None
        or recipe.data.name != "folder"
        or here.data.name != "folder"
        or recipe.data.place == here.data.place
    ):
        return recipe
    if run.trained_on != images.facts(here).fingerprint:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": here.data.root})})


def has_other_images(run: Run, here: Recipe, images: Images | None) -> bool:
    """Whether the folder of images holds others now than the run was trained on."""
    if images is None or here.data.name != "folder":
        return False
    noted = run.trained_on  # None: by a version that did not note it
    return noted is not None and noted != images.facts(here).fingerprint


def _has_other_start(run: Run, here: Recipe) -> bool:
    noted = run.description.get("started_from")  # None: by a version that did not note it
    return noted is not None and noted["weights_crc32"] != Run(Path(str(here.init_from))).weights_crc32


def _difference(there: Any, here: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in (*there, *(name for name in here if name not in there)):
            found = _difference(there.get(name), here.get(name), f"{key}.{name}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if there == here else (key, there, here)


def _take_over(source: Run, run: Run) -> None:
    """Copies what a trained run and its snapshots consist of; the run's encoder.json last, the sign of a whole run."""
    with run.lock():
        for snapshot in source.snapshots:
            _copy(Run(snapshot), Run(run.folder / "snapshots" / snapshot.name))
        _copy(source, run)


def _copy(source: Run, run: Run) -> None:
    for file in (source.recipe_file, source.metrics, source.weights_file, source.encoder_file):
        if file.is_file():
            with replacing(run.folder / file.name) as temporary:
                shutil.copyfile(file, temporary)
                os.utime(temporary)
