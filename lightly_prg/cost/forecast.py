"""How long a training will take and in how much memory, from a few steps of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from lightly_prg.cost import Estimate
from lightly_prg.cost.step_timing import WARMUP_STEPS, StepTime, time_steps
from lightly_prg.data import DataInfo, ImageSet, Splits, load_data, resolved_shape
from lightly_prg.data.decoding import read_images
from lightly_prg.data.folder import list_folder
from lightly_prg.data.pixels import FilePixels, fits_in_memory
from lightly_prg.hardware import peak_memory, pick_device, pick_precision
from lightly_prg.recipe import EvalRecipe, Recipe
from lightly_prg.training.log import HELD_OUT_IMAGES
from lightly_prg.training.processes import process_count

SECONDS = 1.0
_FEW_BATCHES = 8
_MACS_A_STEP = 4e10  # about a second of one CPU core


@dataclass(frozen=True)
class Forecast:
    """What a training will take.

    Attributes:
        seconds_per_epoch: By the clock.
        seconds: Of the whole training.
        peak_bytes: On a GPU of its memory, else of the machine's by the training process.
        batches: Sizes of the batches that were measured: one, or two from which a straight line leads to the batch of
            one process.
        batch_size: Of one process.
        processes: How many share the training.
        device: What was measured.
        precision: What the network computed in.
        compiled: Whether the recipe compiles, which the measurement did not: it would have taken minutes.
    """

    seconds_per_epoch: float
    seconds: float
    peak_bytes: int
    batches: tuple[int, ...]
    batch_size: int
    processes: int
    device: str
    precision: str
    compiled: bool


def forecast(recipe: Recipe, info: DataInfo, counted: Estimate, *, trust: bool = False) -> Forecast:
    """Trains for a few seconds in a temporary folder, and extends what that took to the whole training.

    Where a step would take many seconds on this machine, two smaller batches are measured in its place. The loss on
    held-out images is taken for a third of a step of as many. A training on several devices is measured on one, with
    its share of the batch; what they have to tell each other comes on top.

    Args:
        recipe: What is to be trained.
        info: Of its images.
        counted: What can be known without measuring.
        trust: Whether the recipe's code may run.

    Raises:
        UserError: If the images are not there, or the recipe does not fit them.
    """
    settings, device = recipe.train, pick_device(recipe.train.accelerator)
    count = process_count(settings.devices, device, settings.batch_size)
    processes = torch.cuda.device_count() if count == "auto" else count
    share = max(1, settings.batch_size // processes)
    assert counted.steps
    assert counted.training_macs is not None
    macs_an_image = counted.training_macs / counted.steps / settings.batch_size
    batches: tuple[int, ...] = (share,)
    few = max(2, int(_MACS_A_STEP / macs_an_image))
    if device.type == "cpu" and 2 * few < share:
        batches = (few, 2 * few)
    data, held_bytes = _images(recipe, info, _FEW_BATCHES * share)
    before = peak_memory(device)  # reading the images may have taken more than training will
    measured = [_measured(recipe, data, batch, len(batches) > 1, trust=trust) for batch in batches]
    step = _line([each.wall_seconds for each in measured], batches, share)
    peak = max(before, _line([each.peak_bytes for each in measured], batches, share))
    held_out = min(HELD_OUT_IMAGES, info.num_validation) / settings.batch_size / 3
    per_epoch = info.num_train // settings.batch_size
    an_epoch = step * (per_epoch + held_out / settings.checkpoint_every)
    return Forecast(
        seconds_per_epoch=an_epoch,
        seconds=an_epoch * counted.steps / per_epoch,
        peak_bytes=round(peak) + held_bytes,
        batches=batches,
        batch_size=share,
        processes=processes,
        device=device.type,
        precision=pick_precision(settings.precision, device).precision,
        compiled=settings.compile is True or (settings.compile == "auto" and device.type == "cuda"),
    )


def _measured(recipe: Recipe, data: Splits, batch: int, slow: bool, *, trust: bool) -> StepTime:
    alone = {"batch_size": batch, "compile": False}
    only = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=alone),
            "eval": EvalRecipe(knn=None, linear=None, few_shot=None, controls=()),
        }
    )
    with tempfile.TemporaryDirectory(prefix="lightly-prg-") as folder:
        return time_steps(
            only,
            seconds=SECONDS,
            folder=Path(folder),
            data=data,
            trust=trust,
            warmup=1 if slow else WARMUP_STEPS,
            least=max(2, recipe.train.accumulate),
        )


def _line(values: list[float] | list[int], places: tuple[int, ...], place: int) -> float:
    """The value at a place on the line through one or two points; it never falls."""
    if len(values) == 1:
        return values[0]
    slope = max(0.0, (values[1] - values[0]) / (places[1] - places[0]))
    return values[1] + slope * (place - places[1])


def _images(recipe: Recipe, info: DataInfo, count: int) -> tuple[Splits, int]:
    """Images to measure with, and the bytes that the training will hold beside them.

    Of a folder no more files are decoded than are needed.
    """
    settings = recipe.data.model_copy(update={"download": False})
    if settings.name != "folder":
        return load_data(settings, seed=recipe.seed), 0
    listing = list_folder(settings.root)
    image_size, channels = resolved_shape(settings)
    chosen = torch.arange(min(count, len(listing.train_names)))
    names = [listing.train_names[row] for row in chosen.tolist()]
    files = FilePixels(listing.root, names, image_size=image_size, channels=channels)
    total = info.num_train + info.num_validation + info.num_test
    held = fits_in_memory(total, channels=channels, image_size=image_size)
    images = ImageSet(
        read_images(files.paths(chosen), image_size=image_size, channels=channels) if held else files,
        labels=torch.tensor(listing.train_labels)[chosen],
        names=names,
        class_names=listing.class_names,
    )
    nothing = images.subset([])
    return Splits(images, nothing, nothing), (total - len(names)) * channels * image_size**2 if held else 0
