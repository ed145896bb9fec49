"""What experiments take of the results that are there."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.files import CellResults, Column, Comparison, read_comparison
from lightly_prg.plotting.style import LIGHT
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


# Method and seed: accuracies of k-NN and of the linear probe; bits and Fréchet distance where there is a flow.
JOINT: dict[tuple[str, int], tuple[float, float, dict[str, float]]] = {
    ("PRG", 0): (80.0, 70.0, {"bits": 3.0, "frechet": 10.0, "floor": 1.0}),
    ("PRG", 1): (82.0, 74.0, {"bits": 3.2, "frechet": 12.0, "floor": 2.0}),
    ("joint", 0): (81.0, 76.0, {"bits": 3.1, "frechet": 8.0, "floor": 1.0}),
    ("joint", 1): (85.0, 78.0, {"bits": 3.1, "frechet": 9.0, "floor": 2.0}),
    ("SimCLR", 0): (83.0, 77.0, {}),
    ("alone", 0): (84.0, 79.0, {"bits": 9.2, "frechet": 400.0, "floor": 1.0}),
}


@pytest.fixture
def joint(tmp_path: Path) -> tuple[list[Path], Comparison]:
    files, cells = [], []
    for (label, seed), (knn, linear, measured) in JOINT.items():
        files.append(tmp_path / f"{label}-{seed}.json")
        files[-1].write_text(json.dumps({"label": label, "seed": seed, **measured}))
        cells.append(CellResults(label, seed, {"knn": knn, "linear": linear}, {}, {}, {}, []))
    about = {"split": "test", "seeds": [0, 1], "budget": {"kind": "cpu_seconds", "amount": 600}}
    columns = (Column("knn", "k-NN", "k = 20"), Column("linear", "linear"))
    return files, Comparison(about, columns, tuple(cells), (), "")


def test_summary__sets_what_a_network_generates_beside_its_accuracies(
    joint: tuple[list[Path], Comparison], tmp_path: Path
) -> None:
    experiment = script("generates_and_represents")
    experiment.summarise(tmp_path / "out", *joint, "PRG", "the command")
    text = (tmp_path / "out/summary.md").read_text()
    assert text.startswith("Made by `the command`.\n")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows == {
        "method": "| method | k-NN k = 20 | linear | bits per dimension | Fréchet distance |",
        "PRG": "| PRG | 81.0 ± 1.4 | 72.0 ± 2.8 | 3.100 ± 0.141 | 11.000 ± 1.414 |",
        # Seed by seed: +1 and +3, +6 and +4, +0.1 and -0.1, -2 and -3.
        "joint": "| joint | 83.0 ± 2.8 (+2.0 ± 12.7) | 77.0 ± 1.4 (+5.0 ± 12.7) | 3.100 ± 0.000 (+0.000 ± 1.271) "
        "| 8.500 ± 0.707 (-2.500 ± 6.353) |",
        "SimCLR": "| SimCLR | 83.0 (+3.0) | 77.0 (+7.0) |  |  |",
        "alone": "| alone | 84.0 (+4.0) | 79.0 (+9.0) | 9.200 (+6.200) | 400.000 (+390.000) |",
    }
    assert "Split test, seeds 0, 1;" in text
    assert "the paired difference to PRG" in text
    assert "Budget: 600 cpu seconds. Fréchet distance between real images: 1.4." in text
    assert (tmp_path / "out/tradeoff.png").stat().st_size > 1000


def test_tradeoff__has_a_point_for_each_flow_and_a_line_for_each_other(
    joint: tuple[list[Path], Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, figures = script("generates_and_represents"), []
    monkeypatch.setattr(experiment, "write_figure", lambda path, draw: figures.append(draw(LIGHT)))
    experiment.summarise(tmp_path / "out", *joint, "PRG", "the command")
    figure: Figure
    (figure,) = figures
    bits, frechet = figure.axes

    def points(axes: Any) -> dict[str, tuple[float, float]]:
        shown = zip(*axes.get_legend_handles_labels(), strict=True)
        return {
            label: tuple(map(float, mark[0].get_xydata()[0]))
            for mark, label in shown
            if isinstance(mark, ErrorbarContainer)
        }

    assert points(bits) == {
        "PRG": (pytest.approx(3.1), 72.0),
        "joint": (pytest.approx(3.1), 77.0),
        "alone": (9.2, 79.0),
    }
    assert points(frechet) == {"PRG": (11.0, 72.0), "joint": (8.5, 77.0)}, "what is off the picture is left out"
    for axes in (bits, frechet):
        (line,) = (line for line in axes.lines if line.get_label() == "SimCLR")
        assert list(line.get_ydata()) == [77.0, 77.0]
        assert line.get_color() == LIGHT.colours[-1], "grey for the third, as in the comparison's figures"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SimCLR", "PRG", "joint", "alone"]


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


def test_kept_comparison__has_results_and_no_weights(tmp_path: Path) -> None:
    comparison, out, keep = tmp_path / "made", tmp_path / "kept", script("keep_comparison").keep
    about = {"methods": ["A"], "evaluators": ["knn"], "split": "test", "seeds": [0, 1], "reference": "A"}

    def make(seeds: list[int]) -> None:
        cells = [{"key": f"a-seed{seed}", "label": "A", "seed": seed, "run": "elsewhere"} for seed in seeds]
        _fill(comparison / "comparison.json", {**about, "cells": cells})
        for seed in seeds:
            result = {"k": 5, "top1": 50.0 + seed, "num_train": 9, "num_test": 9}
            _fill(comparison / f"results/a-seed{seed}/knn.json", {"result": result})
            _fill(comparison / f"runs/a-seed{seed}/encoder.json", {})
            _fill(comparison / f"runs/a-seed{seed}/recipe.yaml", {"seed": seed})
            for lost in ("encoder.safetensors", "checkpoints/last.ckpt", "embeddings/x.npy", ".recipe.12.yaml"):
                _fill(comparison / f"runs/a-seed{seed}" / lost, {})

    make([0, 1])
    assert keep(comparison, out) == 7
    # What is no part of it any more goes from the copy; what somebody wrote beside it stays.
    shutil.rmtree(comparison / "results/a-seed1")
    shutil.rmtree(comparison / "runs/a-seed1")
    make([0])
    _fill(out / "README.md", {})
    assert keep(comparison, out) == 4
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "comparison.json",
        "results/a-seed0/knn.json",
        "runs/a-seed0/encoder.json",
        "runs/a-seed0/recipe.yaml",
    }
    assert read_comparison(out).by_seed("A", "knn") == {0: 50.0}
    with pytest.raises(UserError, match="nowhere"):
        keep(tmp_path / "nowhere", out)


def _fill(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_standing_plot__has_a_line_for_each_method_and_a_dot_for_each_seed(
    joint: tuple[list[Path], Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, figures = script("plot_standing"), []
    _, comparison = joint
    fewer = Comparison(
        comparison.about, comparison.columns, tuple(c for c in comparison.cells if c.label != "joint"), (), ""
    )
    monkeypatch.setattr(experiment, "write_figure", lambda path, draw: figures.append(draw(LIGHT)))
    experiment.plot({"one": comparison, "other": fewer}, tmp_path / "standing.png")
    panels = figures[0].axes
    assert len(panels) == 4  # two sets, two evaluators
    knn = panels[0]
    assert [text.get_text() for text in knn.get_yticklabels()] == ["PRG", "joint", "SimCLR", "alone"]
    dots = {(float(x), float(y)) for line in knn.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {(80.0, 0.0), (82.0, 0.0), (81.0, 0.0), (83.0, 1.0), (83.0, 2.0), (84.0, 3.0)} <= dots
    # The same line for the same method where another is missing.
    other = {float(y) for line in panels[2].lines for y in line.get_ydata()}
    assert other == {0.0, 2.0, 3.0}
    assert all(axes.get_xlim()[1] - axes.get_xlim()[0] >= 4 for axes in panels)


def test_standing_plot__takes_a_title_for_each_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        script("plot_standing").main([str(tmp_path), str(tmp_path), "--titles", "a", "--out", str(tmp_path / "a.png")])
