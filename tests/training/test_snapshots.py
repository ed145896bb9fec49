from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightly_prg.data import Splits
from lightly_prg.recipe import Recipe
from lightly_prg.run import load
from lightly_prg.train import build_module, train


def test_snapshots__are_encoders_of_their_moment_and_change_nothing(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    plain = train(tiny_recipe, out=tmp_path / "plain", data=tiny_splits)
    settings = tiny_recipe.train.model_copy(update={"snapshots": (0.0, 0.4, 1.0)})
    recipe = tiny_recipe.model_copy(update={"train": settings})
    assert recipe.sha256() == tiny_recipe.sha256()
    run = train(recipe, out=tmp_path / "run", data=tiny_splits)
    assert run.weights_file.read_bytes() == plain.weights_file.read_bytes()
    folders = sorted(path.name for path in (run.folder / "snapshots").iterdir())
    assert folders == ["step-000000", "step-000006", "step-000015"], "5 batches an epoch, 15 in all"
    first, middle, last = (load(run.folder / "snapshots" / name) for name in folders)
    untrained = build_module(recipe, tiny_splits, trust=False).encoder()
    for snapshot, expected in ((first, untrained), (last, load(run.folder))):
        for key, value in snapshot.network.state_dict().items():
            assert torch.equal(value, expected.network.state_dict()[key])
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert not torch.equal(middle(images), last(images))


def test_share__beyond_the_training_is_refused() -> None:
    from lightly_prg.errors import UserError
    from lightly_prg.recipe import load_recipe

    with pytest.raises(UserError, match=r"train\.snapshots"):
        load_recipe("quickstart", ["train.snapshots=[1.5]"])
