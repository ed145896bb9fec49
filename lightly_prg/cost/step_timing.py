"""What a step of a training takes, measured by training for a moment in a folder that is thrown away."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightly_prg.data import Splits
from lightly_prg.hardware import peak_memory, reset_peak_memory
from lightly_prg.hardware.cpu_time import cpu_seconds
from lightly_prg.recipe import Recipe
from lightly_prg.train import train
from lightly_prg.training.processes import ON_ONE_DEVICE

WARMUP_STEPS = 3  # the first steps also compile, allocate and fill caches


@dataclass(frozen=True)
class StepTime:
    """What a step took, on average.

    Attributes:
        wall_seconds: By the clock, with the reading of its images.
        computing_seconds: Of all CPU cores together, or of a GPU.
        peak_bytes: The most memory that was in use, see ``lightly_prg.hardware.peak_memory``.
        steps: How many were measured.
    """

    wall_seconds: float
    computing_seconds: float
    peak_bytes: int
    steps: int


def time_steps(
    recipe: Recipe,
    *,
    seconds: float,
    folder: Path,
    data: Splits | None,
    trust: bool,
    warmup: int = WARMUP_STEPS,
    least: int = 5,
) -> StepTime:
    """Trains for a while and measures the steps behind a warm-up.

    Args:
        recipe: What is trained.
        seconds: How long steps are measured.
        folder: Where a temporary run may lie.
        data: The images, where they are not the recipe's.
        trust: Whether the recipe's code may run.
        warmup: Steps before the first that is measured.
        least: Steps that are measured at least, however long they take.
    """
    clock = _StepClock(seconds, warmup, least)
    # Long enough that the clock ends it: a step costs the same wherever in the training it is.
    endless = {"epochs": 1_000_000, "max_steps": None, "checkpoint_every": 1_000_000}
    alone = recipe.train.model_copy(update={**endless, **ON_ONE_DEVICE})
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".probe-*"):
        shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as temporary, suppress(_Enough):
        train(
            recipe.model_copy(update={"train": alone}),
            out=Path(temporary) / "run",
            data=data,
            trust=trust,
            callbacks=[clock],
        )
    wall, computing = clock.spent
    return StepTime(wall / clock.steps, computing / clock.steps, clock.peak, clock.steps)


class _Enough(Exception):
    """The measurement is long enough."""


class _StepClock(Callback):
    """Measures steps until so many seconds have passed, then ends the training by an exception."""

    def __init__(self, seconds: float, warmup: int, least: int) -> None:
        self.seconds = seconds
        self.warmup = warmup
        self.least = least
        self.steps = 0
        self.spent = (0.0, 0.0)
        self.peak = 0
        self._start = (0.0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the memory that was in use before."""
        reset_peak_memory(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock behind the warm-up, reads it after each step."""
        self.steps = batch_idx + 1 - self.warmup
        if self.steps < 0:
            return
        on_gpu = pl_module.device.type != "cpu"
        if on_gpu and (self.steps == 0 or time.monotonic() - self._start[0] > self.seconds):
            _wait_for(pl_module.device)  # launched is not done
        now = (time.monotonic(), cpu_seconds())
        if self.steps == 0:
            self._start = now
        elif now[0] - self._start[0] > self.seconds and self.steps >= self.least:
            wall, cpu = now[0] - self._start[0], now[1] - self._start[1]
            self.spent = (wall, wall if on_gpu else cpu)
            self.peak = peak_memory(pl_module.device)
            raise _Enough


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
