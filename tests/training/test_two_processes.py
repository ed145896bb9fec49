from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from commands import call

from lightly_prg.console import Console
from lightly_prg.eval import embed
from lightly_prg.evaluation import Evaluation
from lightly_prg.recipe import load_recipe
from lightly_prg.run import Run
from lightly_prg.train import build_module, load_splits, train

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
    "eval.knn={k: 5, ks: [5]}",
    "eval.linear=null",
    "eval.few_shot=null",
    "eval.controls=[random_network]",
    "eval.batch_size=100",
]
COMMAND = ("-m", "lightly_prg.cli", "train", *RECIPE)
SIMCLR = """
import os
import sys
import time
from lightly_prg import load
from lightly_prg.recipe import parse_recipe
from lightly_prg.run import Run
from lightly_prg.train import train

recipe = '''
name: simclr
data: {name: digits, train_size: 40}
method:
  name: simclr
  backbone: {depth: 9, width: 0.125}
  projection: {hidden: 16, output: 8}
train: {epochs: 2, batch_size: 20, accelerator: cpu, precision: 32, devices: 2, strategy: ddp}
eval: {few_shot: null}
'''
export = Run.export

def slowly(*arguments, **options):
    time.sleep(4)
    export(*arguments, **options)

Run.export = slowly
run = train(parse_recipe(recipe), out=sys.argv[-1])
load(run.folder)  # in every process: it has been exported
(run.folder.parent / f"loaded-{os.environ.get('LOCAL_RANK', 0)}").touch()
"""


def run(
    out: Path, *overrides: str, launcher: tuple[str, ...] = (), command: tuple[str, ...] = COMMAND
) -> dict[str, torch.Tensor]:
    with subprocess.Popen(
        [sys.executable, *launcher, *command, *overrides, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:
        try:
            _, told = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and with it those that it started, which would wait on
            raise
    assert process.returncode == 0, told
    state: dict[str, torch.Tensor] = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.detach(), other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, torch.Tensor]:
    return run(folder / "one")


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, torch.Tensor]:
    return run(folder / "two", "train.devices=2", "train.strategy=ddp")


def test_two_processes__equal_one(folder: Path, one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """Shuffling, augmentation, noise and tau are drawn for the global batch, so only rounding may differ."""
    seeds = distance(one, run(folder / "other", "seed=1"))
    assert distance(one, two) < 1e-3 < 0.1 * seeds


def test_two_processes__share_the_embedding_and_count_each_image_once(
    folder: Path, two: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run = Run(folder / "two")
    judged = json.loads((run.folder / "eval/knn.json").read_text())
    evaluation = Evaluation(run, device="cpu")
    bank = len(evaluation.images("train")) + len(evaluation.images("validation"))
    assert (judged["num_test"], judged["num_train"]) == (599, bank)
    for split in ("train", "validation", "test"):
        shared = evaluation.embeddings("run", split)
        images = evaluation.images(split)
        options = {**evaluation.embedding_options("run"), "cache_dir": tmp_path}
        alone = embed(evaluation.encoder("run"), images, **options)
        assert shared.names == alone.names
        np.testing.assert_array_equal(shared.features, alone.features)


@pytest.mark.parametrize("strategy", ["ddp", "auto"])
@pytest.mark.parametrize(("weight", "asked"), [(0, {"find_unused_parameters": True}), (1, {})])
def test_weights_without_a_gradient__are_looked_for_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, weight: int, asked: dict[str, bool]
) -> None:
    class Started(Exception):
        pass

    def fit(trainer: Any, *arguments: Any, **options: Any) -> None:
        raise Started(trainer.strategy._ddp_kwargs)

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    auxiliary = f"method.auxiliary={{loss: ntxent, flow_weight: {weight}}}"
    devices = ["train.devices=2", f"train.strategy={strategy}"]
    with pytest.raises(Started) as started:
        train(load_recipe(RECIPE[0], [*RECIPE[1:], auxiliary, *devices]), out=tmp_path / "run")
    assert started.value.args == (asked,)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "auto"])
def test_auxiliary_loss_alone__trains_as_far_as_its_block(folder: Path, strategy: str) -> None:
    """The weights behind the block get no gradient, for which DDP would wait."""
    alone = (
        "method.auxiliary={loss: ntxent, flow_weight: 0, projection: {hidden: 8, output: 4}}",
        "train.epochs=1",
        "eval.knn=null",
        "eval.controls=[]",
    )
    state = run(folder / f"alone-{strategy}", *alone, "train.devices=2", f"train.strategy={strategy}")
    recipe = load_recipe(RECIPE[0], [*RECIPE[1:], *alone])
    module = build_module(recipe, load_splits(recipe, Console(quiet=True)), trust=False)
    changed = {name for name, value in module.velocity.named_parameters() if not same(value, state[f"velocity.{name}"])}
    behind = {name for name, _ in module.velocity.named_parameters() if name.startswith(("up", "norm", "out"))}
    assert behind
    assert not changed & behind
    assert {name.split(".")[0] for name in changed} >= {"down", "middle"}
    for name in behind:
        assert same(state[f"velocity.{name}"], state[f"ema.module.{name}"]), "and so it is exported"


def test_simclr__measures_held_out_images_in_the_first_process(tmp_path: Path) -> None:
    """The second one trains on meanwhile: it takes no part in a loss that is gathered."""
    script = tmp_path / "script.py"
    script.write_text(SIMCLR)
    run(tmp_path / "run", command=(str(script),))
    assert {file.name for file in tmp_path.glob("loaded-*")} == {"loaded-0", "loaded-1"}
    with (tmp_path / "run/metrics.csv").open() as file:
        losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


@pytest.mark.slow
def test_dispersive__equals_one_process(folder: Path) -> None:
    """All images of the batch are spread together, whichever process computed them."""
    settings = ("method.auxiliary={loss: dispersive}", "train.epochs=1", "eval.knn=null", "eval.controls=[]")
    alone = run(folder / "dispersive-one", *settings)
    shared = run(folder / "dispersive-two", *settings, "train.devices=2", "train.strategy=ddp")
    assert distance(alone, shared) < 1e-3


@pytest.mark.slow
def test_torchrun__is_passed_on(folder: Path, one: dict[str, torch.Tensor]) -> None:
    """It starts the processes itself; Lightning and this package find out by its variables."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    there = run(folder / "torchrun", "train.devices=2", "train.strategy=ddp", launcher=launcher)
    assert distance(one, there) < 1e-3
    assert (folder / "torchrun" / "report.html").is_file()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("train.strategy=fsdp",), "strategy=fsdp"),
        (("train.strategy=dpd",), "strategy=dpd"),
        (("train.accelerator=abacus",), "accelerator=abacus"),
    ],
)
def test_what_lightning_does_not_take__is_a_sentence(
    settings: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = call(monkeypatch, capsys, *COMMAND[2:], *settings, "--out", str(tmp_path / "run"))
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: Lightning cannot train with ")
    assert told in last
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
