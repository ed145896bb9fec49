"""Trains and embeds on a disk that fills up at random moments; prints what came of each trial as a line of JSON.

``python small_disk.py FOLDER TRIALS SEED``, where FOLDER is the root of a file system of 96 MiB.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytorch_lightning as pl

from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.files import is_temporary
from lightly_prg.recipe import parse_recipe
from lightly_prg.run import Run
from lightly_prg.train import train
from lightly_prg.training.checkpoint import read_checkpoint

RECIPE = parse_recipe("""
name: tiny
data: {name: digits, train_size: 200}
method:
  name: prg
  backbone: {name: unet, channels: 16, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false}
  ode: {steps: 1}
  feature: {source: block, block: middle, tau: 0.3, pool: flatten}
train: {epochs: 3, batch_size: 32, lr: 1.0e-2, ema_decay: 0.9, precision: 32, accelerator: cpu}
""")
STEPS = 18  # 200 images to train on, 6 batches an epoch


class Filler(pl.Callback):
    """Fills the disk after a step, but for some bytes."""

    def __init__(self, folder: Path, step: int, left: int) -> None:
        self.file = folder / "filler"
        self.step = step
        self.left = left

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            fill(self.file, self.left)


def fill(file: Path, left: int) -> None:
    with file.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(4096, shutil.disk_usage(file.parent).free - left))


def tell(work: str, left: int, error: Exception | None, **more: Any) -> None:
    kind = "none" if error is None else type(error).__name__
    text = str(error) if isinstance(error, UserError) else f"{getattr(error, 'errno', None)}"
    print(json.dumps({"work": work, "left": left, "error": kind, "text": text, **more}), flush=True)


def train_on(folder: Path, chance: Random, expected: bytes, largest: int) -> None:
    step, left = chance.randrange(STEPS), chance.randrange(2 * largest)
    run, error = Run(folder / "run"), None
    filler = Filler(folder, step, left)
    try:
        train(RECIPE, out=run.folder, callbacks=[filler])
    except (UserError, OSError) as caught:
        error = caught
    position = 0
    if run.checkpoint.exists():
        position = read_checkpoint(run.checkpoint, RECIPE)["callbacks"]["LastCheckpoint"]["position"]
    half = [path.name for path in folder.rglob(".*") if is_temporary(path)]
    filler.file.unlink(missing_ok=True)
    train(RECIPE, out=run.folder, resume=True)
    same = run.weights_file.read_bytes() == expected
    tell("train", left, error, step=step, position=position, half=half, same=same)
    shutil.rmtree(run.folder)


def embed_on(folder: Path, chance: Random, whole: Path, largest: int) -> None:
    left = chance.randrange(2 * largest)
    run = Run(Path(shutil.copytree(whole, folder / "run")))
    error = None
    fill(folder / "filler", left)
    try:
        Evaluation(run, device="cpu").embeddings("run", "train")
    except (UserError, OSError) as caught:
        error = caught
    (folder / "filler").unlink()
    left_over = [path.name for path in run.embeddings.glob("*")] if error is not None else []
    again = Evaluation(run, device="cpu").embeddings("run", "train")
    tell("embed", left, error, half=[name for name in left_over if name.startswith(".")], same=len(again) == 200)
    shutil.rmtree(run.folder)


def main() -> None:
    folder, trials, chance = Path(sys.argv[1]), int(sys.argv[2]), Random(int(sys.argv[3]))
    whole = train(RECIPE, out=folder / "whole")
    expected = whole.weights_file.read_bytes()
    for _ in range(trials):
        train_on(folder, chance, expected, whole.checkpoint.stat().st_size)
    features = Evaluation(whole, device="cpu").embeddings("run", "train").features.nbytes
    shutil.rmtree(whole.embeddings)
    for _ in range(trials):
        embed_on(folder, chance, whole.folder, features)


if __name__ == "__main__":
    main()
