from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lightly_prg.errors import UserError
from lightly_prg.recipe import load_recipe
from lightly_prg.run import Run
from lightly_prg.train import train

SCRIPT = Path(__file__).parents[2] / "eval/experiments/finetune_through_ode.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("finetune_through_ode", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = ["train.epochs=1", "method.backbone.channels=8", "data.train_size=200", "train.accelerator=cpu"]
    folder = tmp_path_factory.mktemp("experiment") / "run"
    train(load_recipe("quickstart", [*overrides, "train.precision=32", "train.ema_decay=0"]), out=folder)
    return folder


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightly_prg.classifier.flow_comparison.STEPS", 2)


def arguments(run: Path, out: Path, *more: str) -> list[str]:
    small = [
        "--labels",
        "2",
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--rates",
        "1e-3",
        "--steps",
        "2",
        "--device",
        "cpu",
    ]
    return [str(run), "--out", str(out), "--split", "validation", *small, *more]


def test_cells__are_all_that_are_compared(script: Any) -> None:
    found = list(script.cells(script.MODES, script.FEATURES, script.BETAS))
    assert len(found) == len(set(found)) == 2 * 4 + 2 + 2 * 2
    assert {(c.start, c.mode) for c in found if c.beta} == {("pretrained", "full")}
    assert {c.mode for c in found if c.start == "scratch"} == {"full"}


def test_cells__are_measured_once(script: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = script.measure

    def measure(cell: Any, kept: Any, *rest: Any) -> None:
        calls.append(kept.path.stem)
        original(cell, kept, *rest)

    monkeypatch.setattr(script, "measure", measure)
    some = ["--modes", "full", "--features", "state", "--betas", "0.1"]
    assert script.main(arguments(run, tmp_path, *some, "--budget-minutes", "0")) == 0
    assert calls == []
    assert script.main(arguments(run, tmp_path, *some)) == 0
    cells = ("pretrained-full-state-beta0", "scratch-full-state-beta0", "pretrained-full-state-beta0.1")
    names = [f"digits-{cell}-seed0" for cell in cells]
    assert calls == names
    assert {file.stem for file in tmp_path.glob("*.json")} == set(names)
    result = json.loads((tmp_path / f"{names[2]}.json").read_text())
    assert (result["cell"]["beta"], result["cell"]["seed"], result["num_train"], result["nfe"]) == (0.1, 0, 20, 2)
    assert result["round_trip_after"] > 0
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {
        name + dark for name in names if "pretrained" in name for dark in ("", "-dark")
    }
    assert not list((tmp_path / "runs").iterdir())
    assert (tmp_path / "summary.md").read_text().count("\n| digits | state |") == 3
    (tmp_path / f"{names[1]}.json").unlink()
    assert script.main(arguments(run, tmp_path, *some)) == 0
    assert calls == [*names, names[1]]


def test_other_options_or_weights__are_refused(script: Any, run: Path, tmp_path: Path) -> None:
    some = ["--modes", "head", "--features", "block"]
    assert script.main(arguments(run, tmp_path, *some)) == 0
    file = tmp_path / "digits-pretrained-head-block-beta0-seed0.json"
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"beta0-seed0\.json was made otherwise: labels is 2\.0 there, 3\.0 here"):
        script.main(arguments(run, tmp_path, *some, "--labels", "3"))
    with pytest.raises(UserError, match=r"rates is \[0\.001\] there, \[0\.01\] here"):
        script.main(arguments(run, tmp_path, *some, "--rates", "1e-2"))
    other = tmp_path / "other"
    shutil.copytree(run, other)
    description = json.loads((other / "encoder.json").read_text())
    (other / "encoder.json").write_text(json.dumps({**description, "weights_crc32": 1}))
    with pytest.raises(UserError, match="weights_crc32 is"):
        script.main(arguments(other, tmp_path, *some))
    # What decides nothing in a cell is not asked of it.
    assert script.main(arguments(run, tmp_path, *some, "--steps", "3", "--rank", "2")) == 0
    assert file.read_bytes() == before


def test_results_of_the_repository__are_those_of_their_command(script: Any, tmp_path: Path) -> None:
    """They are from before files said what they were made with, and are told apart by what they do hold."""
    words = ["runs/a", "--out", "here", "--labels", "100", "--epochs", "5", "--rates", "1e-3", "3e-3", "--steps", "4"]
    files = sorted(SCRIPT.parents[1].glob("results/finetune_through_ode/*.json"))
    assert len(files) == 84  # of two sets
    for file in files:
        content = json.loads(file.read_text())
        about = content["cell"]
        run = Run(tmp_path / file.stem)
        recipe = load_recipe("quickstart", [f"seed={about['seed']}"])
        data = recipe.data.model_copy(update={"name": about["data"]})
        run.__dict__["recipe"] = recipe.model_copy(update={"data": data})
        run.__dict__["description"] = {"recipe_sha256": content["recipe_sha256"], "weights_crc32": 7}
        cell = script.Cell(*(about[key] for key in ("start", "mode", "feature", "beta")))

        def kept(cell: Any, run: Run, out: Path, *more: str) -> Any:
            return script.result_of(cell, run, script.parser().parse_args([*words, *more, "--out", str(out)]))

        assert kept(cell, run, file.parent).is_there()
        with pytest.raises(UserError, match=r"options\.labels is 100 there, 50"):
            kept(cell, run, file.parent, "--labels", "50").is_there()
        decides = {"state": ("--steps", "3"), "block": ("--block-tau", "0.2")}[about["feature"]]
        with pytest.raises(UserError, match="was made otherwise"):
            kept(cell, run, file.parent, *decides).is_there()
        if about["mode"] == "lora":
            with pytest.raises(UserError, match=r"options\.adapter is"):
                kept(cell, run, file.parent, "--rank", "4").is_there()


def test_partial__trains_the_later_half_before_the_feature(script: Any, run: Path, tmp_path: Path) -> None:
    chosen = ["--modes", "partial", "--features", "block", "--betas", "--keep-runs"]
    assert script.main(arguments(run, tmp_path, *chosen)) == 0
    result = json.loads((tmp_path / "digits-pretrained-partial-block-beta0-seed0.json").read_text())
    assert result["blocks"] == ["velocity.down.1", "velocity.middle"]
    assert result["feature"]["block"] == "middle"
    assert (tmp_path / "runs/digits-pretrained-partial-block-beta0-seed0/head.json").is_file()


def test_cell_that_cannot_be_measured__is_told_and_left_open(
    script: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--modes", "head", "--features", "block", "--block", "center"]
    assert script.main(arguments(run, tmp_path, *chosen)) == 1
    assert "center" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))
