"""Encoders as they were at some moments of a training, each a run folder of its own that every command reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightly_prg.run import Run


def snapshot_step(share: float, total: int) -> int:
    """After how many of ``total`` batches a share of the training is done."""
    return round(share * total)


def snapshot_at(run: Run, step: int) -> Run:
    """The snapshot of a run after a batch, whether it is there or not."""
    return Run(run.folder / "snapshots" / f"step-{step:06d}")


class Snapshots(Callback):
    """Exports the averaged weights into ``snapshots/step-000123`` after given shares of the training.

    Nothing is drawn and nothing of the training is changed, so that a run with snapshots equals one without. A resumed
    run writes those that lie ahead; the others are there.

    Args:
        run: The run.
        shares: Of all batches, in [0, 1]; 0 is before the first.
        total: Batches of the training.
        data: What encoder.json says of the images.
        cost: Gives what encoder.json says of the training up to a batch.
    """

    def __init__(
        self,
        run: Run,
        shares: Sequence[float],
        *,
        total: int,
        data: Mapping[str, Any],
        cost: Callable[[int], Mapping[str, Any]],
    ) -> None:
        self.run = run
        self.positions = {snapshot_step(share, total) for share in shares}
        self.data = data
        self.cost = cost

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The one before the first batch."""
        self._export(trainer, pl_module, 0, wanted=0 in self.positions and trainer.global_step == 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Those after a batch."""
        self._export(trainer, pl_module, batch_idx + 1, wanted=batch_idx + 1 in self.positions)

    def _export(self, trainer: pl.Trainer, module: Any, position: int, *, wanted: bool) -> None:
        if not wanted or not trainer.is_global_zero:
            return
        recipe = self.run.recipe
        snapshot = snapshot_at(self.run, position)
        snapshot.create(recipe.model_copy(update={"name": f"{recipe.name}-{snapshot.folder.name}"}))
        snapshot.export(module.encoder().to(module.device), data=self.data, training=self.cost(position))
