"""``train.epochs=0``: the network as it was drawn, which every comparison of trained ones needs."""

from __future__ import annotations

from pathlib import Path

import torch

from lightly_prg.data import load_data
from lightly_prg.recipe import Recipe, parse_recipe
from lightly_prg.run import Run, load
from lightly_prg.train import train

PRG = """
name: p
data: {name: digits}
method:
  name: prg
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false}
  ode: {steps: 1}
  feature: {source: state, tau: 0.3}
  augment: {horizontal_flip: false}
train: {epochs: 1, batch_size: 64, max_steps: 2, warmup_epochs: 0.1, ema_decay: 0.5, precision: 32, accelerator: cpu}
"""


def made(folder: Path, *overrides: str, init_from: Path | None = None) -> Run:
    recipe: Recipe = parse_recipe(PRG, overrides=overrides)
    if init_from is not None:
        recipe = recipe.model_copy(update={"init_from": str(init_from)})
    return train(recipe, out=folder, data=load_data(recipe.data, seed=0))


def test_without_epochs__the_network_is_drawn_by_the_seed_and_moves_images(tmp_path: Path) -> None:
    runs = [made(tmp_path / name, "train.epochs=0", f"seed={seed}") for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    training = runs[0].description["training"]
    assert [training[key] for key in ("epochs", "steps", "images", "cpu_seconds", "wall_seconds")] == [0] * 5
    assert not runs[0].metrics.exists()
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = [load(run.folder)(images) for run in runs]
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2], atol=1e-3)
    # Weights that start at zero are drawn as well: the zero velocity would leave the image where it is.
    assert (states[0] - (images * 2 - 1).flatten(1)).abs().mean() > 1e-3


def test_without_epochs__a_start_keeps_its_weights(tmp_path: Path) -> None:
    start = made(tmp_path / "start", "train.max_steps=1")  # some weights are zeros still
    run = made(tmp_path / "again", "train.epochs=0", init_from=start.folder)
    weights, kept = (load(folder).network.state_dict() for folder in (start.folder, run.folder))
    assert any(not weight.any() for name, weight in weights.items() if name.endswith("weight"))
    assert all(torch.equal(weights[name], kept[name]) for name in weights)
    assert run.description["started_from"] == {"weights_crc32": start.weights_crc32}
