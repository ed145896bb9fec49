"""What experiments take of the results that are there."""

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

SCRIPTS = Path(__file__).parents[2] / "eval/experiments"
SMALL = ["train.epochs=1", "method.backbone.channels=8", "data.train_size=200", "train.accelerator=cpu"]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one name in two folders, as comparisons have them, with a snapshot each."""
    folder = tmp_path_factory.mktemp("experiments")
    folders = [folder / name / "runs" / "prg-seed0" for name in ("a", "b")]
    train(load_recipe("quickstart", [*SMALL, "train.snapshots=[1]"]), out=folders[0])
    shutil.copytree(folders[0], folders[1])
    for run in (folders[1], Run(folders[1]).snapshots[0]):
        _other_weights(run)
    return folders


def _other_weights(run: Path) -> None:
    description = json.loads((run / "encoder.json").read_text())
    training = {**description["training"], "wall_seconds": 1234.5, "steps": 99}
    (run / "encoder.json").write_text(json.dumps({**description, "weights_crc32": 1, "training": training}))


def summary(*arguments: Any) -> None:
    """In place of tables and figures."""


@pytest.mark.parametrize(
    ("name", "option", "file"),
    [("frozen_features", "test", "prg-seed0.json"), ("information", "images", "prg-seed0-step-*.json")],
)
def test_runs_of_the_same_name__are_told_apart(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, option: str, file: str
) -> None:
    experiment, measured = script(name), []
    monkeypatch.setattr(experiment, "summarise", summary)
    monkeypatch.setattr(experiment, "measure", lambda folder, _: measured.append(folder) or {"rows": []})

    def main(*arguments: Any) -> None:
        experiment.main([*map(str, arguments), "--out", str(tmp_path)])

    main(runs[0])
    (path,) = tmp_path.glob(file)
    assert json.loads(path.read_text())["made_with"][option]
    main(runs[0])
    assert len(measured) == 1
    with pytest.raises(UserError, match=r"prg-seed0.*\.json was made otherwise: weights_crc32 is"):
        main(runs[1])
    with pytest.raises(UserError, match=rf"prg-seed0.*\.json was made otherwise: {option} is .* there, 9 here"):
        main(runs[0], f"--{option}", 9)
    content = json.loads(path.read_text())
    # A file from before: refused where what it holds differs, else taken.
    description = Run(runs[0]).description
    older = {"steps": description["training"]["steps"], "num_train": description["data"]["num_train"]}
    if name == "frozen_features":
        older = {"training": description["training"], "num_train": older["num_train"]}
    path.write_text(json.dumps({**older, "rows": content["rows"]}))
    main(runs[0])
    with pytest.raises(UserError, match=r"was made otherwise: (training|steps) is"):
        main(runs[1])
    assert len(measured) == 1
    path.unlink()
    with pytest.raises(UserError, match="measure them apart"):
        main(*runs)


def test_frechet_distances_of_another_judge__are_refused(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, judged = script("generates_and_represents"), []
    monkeypatch.setattr(experiment, "summarise", summary)
    monkeypatch.setattr(experiment, "read_comparison", summary)
    monkeypatch.setattr(experiment, "measure", lambda folder, *_: judged.append(folder) or {"frechet": 1.0})
    comparison = runs[0].parents[1]
    cells = [{"key": "prg-seed0", "label": "PRG", "seed": 0}]
    (comparison / "comparison.json").write_text(json.dumps({"cells": cells, "split": "test"}))

    def main(judge: Path, *more: str) -> None:
        experiment.main([str(comparison), "--judge", str(judge), "--out", str(tmp_path), *more])

    for _ in range(2):
        main(runs[0])
    assert judged == [runs[0]]
    with pytest.raises(UserError, match=r"prg-seed0\.json was made otherwise: judge is .*'weights_crc32': 1"):
        main(runs[1])
    with pytest.raises(UserError, match="samples is 2000 there, 50 here"):
        main(runs[0], "--samples", "50")
    (tmp_path / "prg-seed0.json").write_text(json.dumps({"label": "PRG", "seed": 0, "samples": 2000, "split": "test"}))
    main(runs[0])
    with pytest.raises(UserError, match="samples is 2000 there, 50 here"):
        main(runs[0], "--samples", "50")


def test_summary__leaves_out_what_a_snapshot_lacks(tmp_path: Path) -> None:
    """A round trip that broke down, and a bound that exists for independent couplings alone."""
    experiment = script("information")
    accuracies = dict.fromkeys(experiment.ACCURACIES, 50.0)
    for step, measurements in enumerate(
        ({"loss": 3.0, "round_trip_rmse": 0.1}, {"loss": 2.0}, {"loss": 1.0, "linear_loss": 0.5})
    ):
        result = {
            "run": "a",
            "steps": step,
            "accuracies": {**accuracies, "knn, block": step},
            "measurements": measurements,
        }
        (tmp_path / f"a-step-{step}.json").write_text(json.dumps(result))
    experiment.summarise(tmp_path, "command")
    text = (tmp_path / "summary.md").read_text()
    assert "| loss | round_trip_rmse | linear_loss |" in text
    assert "| 50.0 | 2 |  |  |\n" in text
    assert "| loss | -1.00 |" in text
    assert "| round_trip_rmse |  |" in text
