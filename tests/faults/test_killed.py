"""SIGKILL at random moments: what continues ends as if nothing had happened, and half a file is never read.

Each command is killed ``LIGHTLY_PRG_KILLS`` times (50), at moments drawn from its whole duration, and a fifth as often
in the middle of writing a file. A job that was killed is started again, and killed again, until it comes to its end.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from jobs import compare_job, embed_job, train_job
from killing import killed_after, killed_in_writing, to_the_end

from lightly_prg.eval.comparison.files import read_comparison
from lightly_prg.files import is_temporary
from lightly_prg.recipe import parse_recipe
from lightly_prg.run import Run, load
from lightly_prg.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

RECIPE = """
name: tiny
data: {name: digits, train_size: 200}
method:
  name: prg
  backbone:
    {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false, dropout: 0.1}
  ode: {steps: 2}
  feature: {source: block, block: middle, tau: 0.3}
  augment: {horizontal_flip: true, crop_padding: 1}
train: {epochs: 8, batch_size: 32, lr: 1.0e-2, warmup_epochs: 1, ema_decay: 0.9, precision: 32, accelerator: cpu}
"""
MAE = """
name: mae
data: {name: digits, train_size: 200}
method:
  name: mae
  backbone: {patch_size: 4, width: 16, depth: 1, heads: 2}
  decoder: {width: 8, depth: 1, heads: 2}
  augment: {horizontal_flip: false}
train: {epochs: 2, batch_size: 32, lr: 1.0e-3, warmup_epochs: 1, precision: 32, accelerator: cpu}
"""
Check = Callable[[Path], None]


def endured(
    how: str, kills: int, chance: Random, seconds: float, folders: Iterator[Path], check: Check, job: Any, *before: Any
) -> Iterator[Path]:
    """Kills a job again and again until it ends, in one folder after the other; yields those where it ended."""
    done = 0
    while done < kills:
        folder = next(folders)

        def killed(folder: Path = folder) -> bool:
            if how == "random":
                return killed_after(chance.uniform(0, seconds), job, *before, folder)
            return killed_in_writing(chance.randrange(8), folder, job, *before, folder)

        while killed():
            done += 1
            check(folder)
            if done >= kills and how == "writing":
                to_the_end(job, *before, folder)
                break
        check(folder)
        yield folder
        shutil.rmtree(folder)


def check_run(folder: Path) -> None:
    """Every file that has its name is whole."""
    run = Run(folder)
    if run.recipe_file.exists():
        assert run.recipe == parse_recipe(RECIPE)
    if run.checkpoint.exists():
        read_checkpoint(run.checkpoint, run.recipe)
    if run.is_trained:
        load(folder)


@pytest.mark.parametrize(("how", "share"), [("random", 1.0), ("writing", 0.2)])
def test_train(tmp_path: Path, kills: int, chance: Random, how: str, share: float) -> None:
    seconds = to_the_end(train_job, RECIPE, tmp_path / "whole")
    whole = Run(tmp_path / "whole")
    expected = torch.load(whole.checkpoint, weights_only=True)
    columns = [line.rsplit(",", 2)[0] for line in whole.metrics.read_text().splitlines()]  # without speed and time
    folders = (tmp_path / f"cut-{number}" for number in count())
    amount = max(1, round(kills * share))
    for folder in endured(how, amount, chance, seconds, folders, check_run, train_job, RECIPE):
        run = Run(folder)
        assert run.weights_file.read_bytes() == whole.weights_file.read_bytes()
        state = torch.load(run.checkpoint, weights_only=True)
        assert str(state["optimizer_states"]) == str(expected["optimizer_states"])
        assert all(torch.equal(state["state_dict"][key], value) for key, value in expected["state_dict"].items())
        assert [line.rsplit(",", 2)[0] for line in run.metrics.read_text().splitlines()] == columns
        assert not [path for path in folder.rglob(".*") if is_temporary(path)]


@pytest.mark.parametrize(("how", "share"), [("random", 1.0), ("writing", 0.2)])
def test_embed(tmp_path: Path, kills: int, chance: Random, how: str, share: float) -> None:
    to_the_end(train_job, RECIPE, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "untouched")
    seconds = to_the_end(embed_job, tmp_path / "whole")
    expected = dict(np.load(tmp_path / "whole" / "embeddings-train.npz"))

    def check(folder: Path) -> None:
        written = folder / "embeddings-train.npz"
        if written.exists():
            found = dict(np.load(written))
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[key], expected[key]) for key in expected)
        for facts in (folder / "embeddings").glob("*.json"):
            if is_temporary(facts):  # nobody reads what was being written
                continue
            features = np.load(facts.with_suffix(".npy"))
            assert zlib.crc32(features.tobytes()) == json.loads(facts.read_text())["crc32"]

    def fresh() -> Iterator[Path]:
        for number in count():
            yield shutil.copytree(tmp_path / "untouched", tmp_path / f"cut-{number}")

    amount = max(1, round(kills * share))
    for folder in endured(how, amount, chance, seconds, fresh(), check, embed_job):
        assert (folder / "embeddings-train.npz").exists()


def accuracies(folder: Path) -> list[Any]:
    return [(cell.label, cell.seed, dict(cell.scores)) for cell in read_comparison(folder).cells]


@pytest.mark.parametrize(("how", "share"), [("random", 1.0), ("writing", 0.2)])
def test_compare(tmp_path: Path, kills: int, chance: Random, how: str, share: float) -> None:
    for name, text in (("prg", RECIPE), ("mae", MAE)):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    content = {
        "name": "tiny",
        "methods": [
            {"label": "PRG", "recipe": str(tmp_path / "prg.yaml")},
            {"label": "MAE", "recipe": str(tmp_path / "mae.yaml")},
        ],
        "seeds": [0],
        "may_differ": ["augment"],
        "budget": {"kind": "epochs", "amount": 2},
        "evaluators": {
            "knn": {"k": 5, "ks": [5]},
            "linear": {"max_iterations": 20},
            "few_shot": {"labels": 2, "draws": 2},
            "finetune": {"mode": "head", "epochs": 1, "batch_size": 64, "learning_rates": [1e-3]},
        },
    }
    recipe = json.dumps(content)
    seconds = to_the_end(compare_job, recipe, tmp_path / "whole")
    expected = accuracies(tmp_path / "whole")
    assert [set(scores) for _, _, scores in expected] == [{"knn", "linear", "few_shot", "finetune"}] * 2

    def check(folder: Path) -> None:
        for run in map(Run, (*folder.glob("runs/*"), *folder.glob("finetuned/*"))):
            if run.checkpoint.exists():
                read_checkpoint(run.checkpoint, run.recipe)
            if run.is_trained:
                load(run.folder)
        for file in folder.rglob("*.json"):
            json.loads(file.read_text(encoding="utf-8"))

    folders = (tmp_path / f"cut-{number}" for number in count())
    amount = max(1, round(kills * share))
    for folder in endured(how, amount, chance, seconds, folders, check, compare_job, recipe):
        assert accuracies(folder) == expected
        for method in ("prg", "mae"):
            name = f"runs/{method}-seed0/encoder.safetensors"
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
