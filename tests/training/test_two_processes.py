from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

RECIPE = [
    "quickstart",
    "train.epochs=2",
    "train.batch_size=32",
    "data.train_size=100",
    "method.backbone.channels=8",
    "method.augment.horizontal_flip=true",
    "method.augment.crop_padding=1",
    "train.accelerator=cpu",
    "train.precision=32",
    "eval.knn=null",
    "eval.linear=null",
    "eval.few_shot=null",
]


def run(out: Path, *overrides: str) -> dict[str, torch.Tensor]:
    done = subprocess.run(
        [sys.executable, "-m", "lightly_prg.cli", "train", *RECIPE, *overrides, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    state: dict[str, torch.Tensor] = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def test_two_processes__equal_one(tmp_path: Path) -> None:
    """Shuffling, augmentation, noise and tau are drawn for the global batch, so only rounding may differ."""
    one = run(tmp_path / "one")
    two = run(tmp_path / "two", "train.devices=2", "train.strategy=ddp")
    other = run(tmp_path / "other", "seed=1")
    assert one.keys() == two.keys()
    distance = max(float((one[key].double() - two[key].double()).abs().max()) for key in one)
    seeds = max(float((one[key].double() - other[key].double()).abs().max()) for key in one)
    assert distance < 1e-3 < 0.1 * seeds
