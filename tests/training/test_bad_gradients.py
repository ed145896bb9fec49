from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.methods import PRG
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run
from lightly_prg.train import train

# 44 images in batches of 8: 5 batches an epoch, 15 in all, a checkpoint after each epoch.


@pytest.mark.parametrize(
    ("step", "value", "clip", "optimizer"),
    [
        (8, float("nan"), 1.0, "adamw"),
        (9, float("inf"), 1.0, "adamw"),
        (9, float("inf"), None, "sgd"),
        (14, float("nan"), None, "adamw"),
    ],
)
def test_gradient_that_is_no_number__stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
    tiny_recipe: Recipe,
    tiny_splits: Splits,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    value: float,
    clip: float | None,
    optimizer: str,
) -> None:
    """The loss of the step is a number. At steps 9 and 14 a checkpoint follows before the loss could tell."""
    settings = tiny_recipe.train.model_copy(update={"clip": clip, "optimizer": optimizer, "lr": 1e-3})
    recipe = tiny_recipe.model_copy(update={"train": settings})
    original = PRG.training_step

    def training_step(self: PRG, batch: Any, batch_idx: int) -> Tensor:
        loss = original(self, batch, batch_idx)
        if batch_idx == step:
            loss.register_hook(lambda gradient: gradient * value)
        return loss

    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(PRG, "training_step", training_step)
        with pytest.raises(UserError, match="last good checkpoint is kept") as told:
            train(recipe, out=run.folder, data=tiny_splits)
    assert f"step {step + 1 if step in (9, 14) else 10} of 15" in str(told.value)
    assert not run.is_trained
    state = torch.load(run.checkpoint, weights_only=True)
    assert state["callbacks"]["LastCheckpoint"]["position"] == (10 if step == 14 else 5)
    assert all(bool(weight.isfinite().all()) for weight in state["state_dict"].values())
    if step != 14:
        return
    whole = train(recipe, out=tmp_path / "whole", data=tiny_splits)
    cut = train(recipe, out=run.folder, data=tiny_splits, resume=True)
    assert whole.weights_file.read_bytes() == cut.weights_file.read_bytes()
