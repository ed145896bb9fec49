from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from commands import call

from lightly_prg.cost import estimate
from lightly_prg.cost import forecast as module
from lightly_prg.cost.forecast import Forecast, forecast
from lightly_prg.data import describe_data
from lightly_prg.recipe import Recipe, load_recipe

MakeFolder = Callable[[Mapping[str, int]], Path]
# Each in a process of its own, with nothing in its memory but what was imported: to foretell, to foretell from smaller
# batches, to train.
WATCHED = """
import json, multiprocessing, sys
import torch
from lightly_prg.cost import forecast as module
from lightly_prg.cost import estimate
from lightly_prg.data import describe_data
from lightly_prg.recipe import load_recipe
from lightly_prg.train import train

recipe = load_recipe("quickstart", sys.argv[2:])

def work(name):
    if name == "train":
        told = train(recipe, out=sys.argv[1]).description["training"]
        return told["wall_seconds"], told["peak_memory_bytes"], []
    if name == "extended":
        module._MACS_A_STEP = 3e9
    info = describe_data(recipe.data)
    found = module.forecast(recipe, info, estimate(recipe, info))
    return found.seconds, found.peak_bytes, found.batches

with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print(json.dumps({name: pool.map(work, [name])[0] for name in ("whole", "extended", "train")}))
"""


def foretold(recipe: Recipe) -> Forecast:
    info = describe_data(recipe.data)
    return forecast(recipe, info, estimate(recipe, info))


def test_time_and_memory__are_those_that_are_then_seen(tmp_path: Path) -> None:
    small = ("data.train_size=512", "train.epochs=3", "train.batch_size=512", "train.accelerator=cpu")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "run"), *small, "train.precision=32", "eval.few_shot=null"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["whole"][2] == [512]
    assert len(told["extended"][2]) == 2
    assert told["extended"][2][1] < 256
    for name in ("whole", "extended"):
        # Other processes may take the machine meanwhile.
        assert 1 / 3 < told[name][0] / told["train"][0] < 3, told
        assert told[name][1] / told["train"][1] == pytest.approx(1, abs=0.25), told


def test_several_devices__are_measured_by_the_share_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("train.devices=4", "train.batch_size=64", "method.backbone.channels=8", "train.accelerator=cpu")
    found = foretold(load_recipe("quickstart", [*settings, "train.strategy=ddp"]))
    assert (found.batches, found.batch_size, found.processes) == ((16,), 16, 4)


def test_folder__is_decoded_only_as_far_as_needed(image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder({"a": 60, "b": 60})
    (root / "b" / "59.png").write_bytes(b"")  # sorted among the last, and not needed
    read: list[str] = []
    original = module.read_images
    monkeypatch.setattr(module, "read_images", lambda paths, **sizes: (read.extend(paths), original(paths, **sizes))[1])
    folder = ("data.name=folder", f"data.root={root}", "data.image_size=8", "data.channels=1")
    small = ("train.batch_size=4", "method.backbone.channels=8", "train.accelerator=cpu")
    found = foretold(load_recipe("quickstart", [*folder, *small]))
    assert len(read) == 32
    assert found.seconds > 0


def test_dry_run__measures_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    small = ("method.backbone.channels=8", "train.batch_size=64")
    code, out, err = call(monkeypatch, capsys, "train", "quickstart", *small, "--dry-run")
    assert code == 0, err
    for words in ("an epoch", "in all", "memory, measured", "64 images a batch", "a few steps on this machine"):
        assert words in out
    assert not [path for folder in ("here", "temporary") for path in (tmp_path / folder).iterdir()]


def test_dry_run__without_the_data_tells_what_can_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    download = ("data.download=true", "data.root=nowhere")
    code, out, _ = call(monkeypatch, capsys, "train", "fashion_mnist_prg_cpu", *download, "--dry-run")
    assert code == 0
    assert "MAC" in out
    assert "time                not measured." in out
    assert "nowhere" in out.splitlines()[-1]
    assert "measured    " not in out.replace("not measured", "")
    assert not list(tmp_path.iterdir()), "nothing is downloaded"


def test_dry_run__without_the_folder_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(monkeypatch, capsys, "train", "imagenet64_prg_icfm", "--dry-run")
    assert code == 0
    assert "121.06 M" in out
    assert "images              ? x 3 x 64 x 64" in out
    assert "steps               not known before the data are read" in out
    assert "time                not measured. The image folder data/imagenet does not exist" in out


def test_dry_run__of_what_was_trained_elsewhere_has_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "there.yaml"
    method = "{name: pretrained, source: 'timm:test_resnet', weights: none, resize: 32}"
    recipe.write_text(f"name: there\ndata: {{name: digits}}\nmethod: {method}\n")
    code, out, err = call(monkeypatch, capsys, "train", str(recipe), "--dry-run")
    assert code == 0, err
    assert "in all" not in out
