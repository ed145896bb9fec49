"""The training curve: metrics.csv, the progress bar, and the check that the loss is still a number."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightly_prg.console import Console, Update
from lightly_prg.data import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.files import write_text
from lightly_prg.hardware import peak_memory
from lightly_prg.hardware.cpu_time import cpu_seconds
from lightly_prg.randomness import generator_for

HELD_OUT_IMAGES = 2000  # at most so many are measured in training
COLUMNS = ("step", "epoch", "train_loss", "validation_loss", "lr", "images_per_second", "seconds")


class TrainingLog(Callback):
    """Writes a row for each stretch of steps, shows progress, measures the held-out loss and the cost.

    The held-out loss is the method's own (``Method.held_out_loss``), of at most ``held_out_images`` validation images,
    with noise that is the same every time.

    Args:
        path: metrics.csv. On resume its rows beyond the checkpoint are dropped, then it is appended to.
        console: Where progress is shown.
        steps_per_epoch: Batches of an epoch.
        total: Batches of the whole training.
        batch_size: Images of a global batch.
        held_out: The validation images.
        held_out_every: Epochs between two measurements.
        device: For the record.
        precision: For the record.
        held_out_images: How many validation images are used.
    """

    def __init__(
        self,
        path: Path,
        console: Console,
        *,
        steps_per_epoch: int,
        total: int,
        batch_size: int,
        held_out: ImageSet,
        held_out_every: int,
        device: str,
        precision: str,
        held_out_images: int = HELD_OUT_IMAGES,
    ) -> None:
        self.path = path
        self.console = console
        self.steps_per_epoch = steps_per_epoch
        self.total = total
        self.batch_size = batch_size
        self.held_out = held_out.subset(range(min(held_out_images, len(held_out))))
        self.held_out_every = held_out_every * steps_per_epoch
        self.device = device
        self.precision = precision
        # About 200 rows, but never rarer than once an epoch and never so often that reading the loss costs.
        self.every = max(1, min(steps_per_epoch, 50))
        self.wall_seconds = 0.0
        self.cpu_seconds = 0.0
        self.step = 0
        self.last: dict[str, float | None] = {"train_loss": None, "validation_loss": None}
        self.peak_memory = 0
        self._losses: list[Tensor | float] = []  # on the device until they are read
        self._clock = (0.0, 0.0)
        self._stretch = (0, 0.0)

    @property
    def state_key(self) -> str:
        """The place of this callback's state in a checkpoint."""
        return "TrainingLog"

    def state_dict(self) -> dict[str, Any]:
        """Time spent so far and the last values, which a resumed run continues."""
        self._measure_time()
        return {
            "step": self.step,
            "losses": _read(self._losses),  # of the stretch that is not written yet
            "last": self.last,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over where a cut-off run stopped."""
        self.step = state_dict["step"]
        self._losses = state_dict["losses"]
        self.wall_seconds = state_dict["wall_seconds"]
        self.cpu_seconds = state_dict["cpu_seconds"]
        self.last = state_dict["last"]

    def summary(self) -> dict[str, Any]:
        """What the training cost and where it ended, for encoder.json."""
        epochs = self.total / self.steps_per_epoch
        return {
            "epochs": int(epochs) if epochs.is_integer() else round(epochs, 4),
            "steps": self.total,
            "images": self.total * self.batch_size,
            "wall_seconds": round(self.wall_seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "images_per_second": round(self.total * self.batch_size / max(self.wall_seconds, 1e-9), 1),
            "peak_memory_bytes": self.peak_memory,
            "device": self.device,
            "precision": self.precision,
            "final_train_loss": self.last["train_loss"],
            "final_validation_loss": self.last["validation_loss"],
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clocks and the progress bar, and drops rows that will be written again."""
        self._clock = (time.monotonic(), cpu_seconds())
        self._stretch = (self.step, time.monotonic())
        if trainer.is_global_zero:
            _keep_rows(self.path, up_to_step=self.step)
        self._task = self.console.task(f"training {self.summary()['epochs']:g} epochs", self.total, done=self.step)
        self._update: Update = self._task.__enter__()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Makes dropout, and any draw of a network of your own, a function of seed and step."""
        seed = getattr(pl_module, "seed", 0)
        torch.manual_seed(generator_for(seed, "network", batch_idx, trainer.global_rank).initial_seed())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects the loss without waiting for the device; every so often writes a row."""
        self._losses.append((outputs["loss"] if isinstance(outputs, Mapping) else outputs).detach())
        self.step = batch_idx + 1
        measure = self.step % self.held_out_every == 0 or self.step == self.total
        if not (measure or self.step % self.every == 0):
            return
        loss = sum(_read(self._losses)) / len(self._losses)
        self._losses.clear()
        bad = not math.isfinite(loss)
        # All processes stop or none: one alone would leave the others waiting for it.
        if trainer.strategy.reduce_boolean_decision(bad, all=False):
            where = "" if bad else " on another device"
            raise UserError(
                f"The training loss became {loss if bad else 'NaN or infinite'} at step {self.step} of "
                f"{self.total}{where}; the last good checkpoint is kept. A smaller train.lr, or train.precision=32, "
                "often helps."
            )
        self.last["train_loss"] = loss
        now = time.monotonic()
        images_per_second = (self.step - self._stretch[0]) * self.batch_size / max(now - self._stretch[1], 1e-9)
        if measure:
            self.last["validation_loss"] = self._held_out_loss(trainer, pl_module)
        self._stretch = (self.step, time.monotonic())
        self._measure_time()
        epoch = self.step / self.steps_per_epoch
        if trainer.is_global_zero:
            self._write_row(
                self.step,
                round(epoch, 4),
                f"{loss:.6g}",
                f"{self.last['validation_loss']:.6g}" if measure and self.last["validation_loss"] is not None else "",
                f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
                f"{images_per_second:.1f}",
                f"{self.wall_seconds:.1f}",
            )
        self._update(self.step, note=f"epoch {epoch:.1f}  loss {loss:.4f}  {images_per_second:,.0f} images/s")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the progress bar."""
        self._measure_time()
        self.peak_memory = peak_memory(pl_module.device)
        self._task.__exit__(None, None, None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the progress bar."""
        if hasattr(self, "_task"):
            self._task.__exit__(None, None, None)

    def _held_out_loss(self, trainer: pl.Trainer, module: Any) -> float | None:
        if len(self.held_out) == 0 or not trainer.is_global_zero:
            return None
        total = 0.0
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for index, (images, _, _) in enumerate(self.held_out.loader(batch_size=self.batch_size)):
                loss = module.held_out_loss(images.to(module.device), index)
                total += float(loss) * len(images)
        return total / len(self.held_out)

    def _measure_time(self) -> None:
        wall, cpu = time.monotonic(), cpu_seconds()
        self.wall_seconds += wall - self._clock[0]
        self.cpu_seconds += cpu - self._clock[1]
        self._clock = (wall, cpu)

    def _write_row(self, *values: Any) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(values)


def _read(losses: list[Tensor | float]) -> list[float]:
    """Brings the losses to the host in one transfer."""
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    values = torch.stack(tensors).tolist() if tensors else []
    return [loss for loss in losses if not isinstance(loss, Tensor)] + values


def _keep_rows(path: Path, *, up_to_step: int) -> None:
    """Drops the rows of steps that will be done again, and a last line that was cut off."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line for line in lines[1:] if line.count(",") == len(COLUMNS) - 1]
    kept = [row for row in rows if (step := row.split(",")[0]).isdecimal() and int(step) <= up_to_step]
    write_text(path, "\n".join([",".join(COLUMNS), *kept]) + "\n")
