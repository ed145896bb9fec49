"""The last checkpoint: written whole, only where the state is whole, and read back only if it fits."""

from __future__ import annotations

import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import TorchCheckpointIO

from lightly_prg.errors import UserError
from lightly_prg.files import replacing
from lightly_prg.recipe import Recipe

_KEY = "LastCheckpoint"
_ASK_EVERY = 8  # batches between two questions to all processes whether one of them was told to stop


class Interrupted(Exception):
    """Training was stopped by a signal.

    Attributes:
        signal_number: SIGINT (Ctrl-C) or SIGTERM.
        saved: Whether the state at that moment was saved; otherwise the last checkpoint holds.
    """

    def __init__(self, signal_number: int, *, saved: bool) -> None:
        super().__init__("Training was interrupted.")
        self.signal_number = signal_number
        self.saved = saved


class LastCheckpoint(Callback):
    """Keeps ``checkpoints/last.ckpt`` up to date and stops training between two steps when a signal came.

    Args:
        path: Where it is written.
        recipe_sha256: Stored, so that a checkpoint cannot continue another recipe.
        every: Batches between two checkpoints.
        accumulate: Batches of one optimiser step; a checkpoint between them would lose their gradients.
        total: Batches of the whole training.
        images: Stored, so that a checkpoint cannot continue on other images; None for a named set.
        seconds: At the latest after this long there is another one.

    Attributes:
        stop_signal: The number of the signal that this process was sent, if it was.
        stopped_at_end: The same where one came in the last step, in every process.
    """

    def __init__(
        self,
        path: Path,
        *,
        recipe_sha256: str,
        every: int,
        accumulate: int,
        total: int,
        images: str | None = None,
        seconds: float = 300.0,
    ) -> None:
        self.path = path
        self.recipe_sha256 = recipe_sha256
        self.every = every
        self.accumulate = accumulate
        self.total = total
        self.images = images
        self.seconds = seconds
        self.stop_signal: int | None = None
        self.stopped_at_end: int | None = None
        self._position = 0
        self._due = False
        self._last = time.monotonic()

    @property
    def state_key(self) -> str:
        """The place of this callback's state in a checkpoint."""
        return _KEY

    def state_dict(self) -> dict[str, Any]:
        """Where in the stream of batches the checkpoint was written, for which recipe and on which images."""
        return {"position": self._position, "recipe_sha256": self.recipe_sha256, "images": self.images}

    @staticmethod
    def images_in(state: dict[str, Any]) -> str | None:
        """The images that a checkpoint was trained on, where it says so."""
        images: str | None = state["callbacks"][_KEY].get("images")
        return images

    @staticmethod
    def position_in(state: dict[str, Any]) -> int:
        """The number of batches that a checkpoint has behind it."""
        return int(state["callbacks"][_KEY]["position"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time, and raises ``Interrupted`` when a signal came."""
        self._position = batch_idx + 1
        stop = self.stop_signal is not None
        late = time.monotonic() - self._last > self.seconds
        due = self._position % self.every == 0 or self._position == self.total
        if trainer.world_size > 1:
            # Saving is collective, so every process has to decide alike. Asking waits for the devices, so it is rare.
            decide = trainer.strategy.reduce_boolean_decision
            late = bool((due or self._position % _ASK_EVERY == 0) and decide(stop or late, all=False))
            stop = bool(late and decide(stop, all=False))
        self._due = self._due or late or stop or due
        whole = self._position % self.accumulate == 0 or self._position == self.total
        if not (self._due and whole):
            return
        self._check_weights(pl_module)
        if trainer.global_rank == 0:
            with replacing(self.path) as temporary:
                trainer.save_checkpoint(temporary)
        else:
            # Saving is collective, yet only the first process writes: the others must not touch the file.
            trainer.save_checkpoint(self.path)
        self._due, self._last = False, time.monotonic()
        if stop:
            number = self.stop_signal or signal.SIGTERM
            if self._position < self.total:
                raise Interrupted(number, saved=True)
            self.stopped_at_end = number

    def _check_weights(self, module: pl.LightningModule) -> None:
        """Keeps weights that are no numbers from taking the place of those that were.

        The loss tells of a gradient that is no number one step late, which is one checkpoint too late.
        """
        finite = [parameter.isfinite().all() for parameter in module.parameters()]
        if not bool(torch.stack(finite).all()):
            raise UserError(
                f"The weights became NaN or infinite by step {self._position} of {self.total}; the last good "
                "checkpoint is kept. A smaller train.lr, or train.precision=32, often helps."
            )


class PlainFiles(TorchCheckpointIO):
    """Writes checkpoints straight to their path and reads them as plain data.

    Lightning's own way goes through the system's temporary folder, where a killed process leaves gigabytes, and through
    a copy in memory; and what it reads may run code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a state; the caller makes sure that nobody reads the half of it."""
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Reads a state onto the CPU."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state


def read_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any]:
    """Reads a checkpoint as plain data, without running code from it.

    Raises:
        UserError: If the file is damaged, is not one of ours, or belongs to another recipe.
    """
    try:
        # torch.load does not look at the checksums that torch.save writes: a flipped bit would go unnoticed.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path} is damaged: the checksum of {damaged} is wrong.")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = state["callbacks"][_KEY]["recipe_sha256"]
    except UserError:
        raise
    except Exception as error:  # from a damaged or foreign file, readers raise whatever they stumble over
        reason = str(error).splitlines()[0].rstrip(":.")
        raise UserError(f"{path} is damaged or is no checkpoint of lightly-prg: {reason}.") from None
    if stored != recipe.sha256():
        raise UserError(f"{path} belongs to another recipe; train anew with --overwrite.")
    return state
