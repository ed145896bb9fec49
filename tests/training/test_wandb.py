from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.recipe import Recipe
from lightly_prg.train import train


def logged(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"wandb": "flows"})})


def test_training__is_logged_as_one_curve_however_often_it_is_begun(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    class Recorder(CSVLogger):
        def __init__(self, **options: Any) -> None:
            asked.append(options)
            super().__init__(save_dir=tmp_path / "csv")

    monkeypatch.setattr("lightly_prg.train.WandbLogger", Recorder)
    monkeypatch.setattr("lightly_prg.train.find_spec", lambda name: object() if name == "wandb" else None)
    recipe = logged(tiny_recipe)
    assert recipe.sha256() == tiny_recipe.sha256(), "where it is logged decides nothing"
    for out in ("run", "run", "other"):
        train(recipe, out=tmp_path / out, data=tiny_splits, overwrite=True)
    assert asked[0]["project"] == "flows"
    assert asked[0]["config"]["train"]["lr"] == recipe.train.lr
    assert asked[0]["resume"] == "allow"
    assert asked[0]["id"] == asked[1]["id"] != asked[2]["id"]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_without_the_package__it_is_told_and_nothing_is_left(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    with pytest.raises(UserError, match=r"pip install 'lightly-prg\[wandb\]'"):
        train(logged(tiny_recipe), out=tmp_path / "run", data=tiny_splits)
    assert not (tmp_path / "run").exists()
