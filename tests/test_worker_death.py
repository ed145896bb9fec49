from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor

from lightly_prg.data import load_data, pixels
from lightly_prg.data.pixels import FilePixels
from lightly_prg.errors import UserError
from lightly_prg.eval import RawPixels, embed
from lightly_prg.recipe import DataRecipe, Recipe, parse_recipe
from lightly_prg.train import train

MakeFolder = Callable[[Mapping[str, int]], Path]
RECIPE = """
name: tiny
data: {name: folder, image_size: 4, channels: 1}
method:
  name: prg
  backbone: {name: unet, channels: 8, multipliers: [1], blocks: 1, attention: [], middle_attention: false}
  ode: {steps: 1}
train: {epochs: 2, batch_size: 8, precision: 32, accelerator: cpu, num_workers: 1}
eval: {knn: null, linear: null, few_shot: null}
"""


@pytest.fixture
def recipe(image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Images that are read while training, in a process that dies in the second batch, as for want of memory."""
    monkeypatch.setattr(pixels, "MEMORY_LIMIT", 0)
    original, here = FilePixels.read, os.getpid()
    reads = 0

    def read(self: FilePixels, rows: Tensor) -> Tensor:
        nonlocal reads
        reads += 1
        if reads >= 2 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, rows)

    monkeypatch.setattr(FilePixels, "read", read)
    recipe = parse_recipe(RECIPE)
    root = str(image_folder({"cats": 40, "dogs": 40}))
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": root})})


@pytest.mark.filterwarnings("ignore:.*fork")
def test_training__ends_in_a_sentence_and_resumes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"process that reads images died .*(Killed|exited).*train\.num_workers"):
        train(recipe, out=tmp_path / "run")
    monkeypatch.undo()
    assert train(recipe, out=tmp_path / "run", resume=True).is_trained


@pytest.mark.filterwarnings("ignore:.*fork")
def test_embedding__ends_in_a_sentence_and_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    data = DataRecipe.model_validate(recipe.data.model_dump())
    with pytest.raises(UserError, match="process that reads images died"):
        embed(
            RawPixels((1, 4, 4)),
            load_data(data, seed=0).train,
            batch_size=8,
            device="cpu",
            num_workers=1,
            cache_dir=tmp_path / "cache",
        )
    assert not list((tmp_path / "cache").glob("*"))
