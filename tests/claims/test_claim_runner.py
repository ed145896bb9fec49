from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call
from torchvision.utils import save_image

from lightly_prg.claims import pretraining_helps, runner, solvers
from lightly_prg.claims.findings import Outcome
from lightly_prg.claims.pretraining import run_cells
from lightly_prg.claims.recipe import ClaimRecipe
from lightly_prg.claims.runner import run_claim
from lightly_prg.claims.studies import STUDIES
from lightly_prg.claims.study import Study
from lightly_prg.comparison.images import Images
from lightly_prg.errors import UserError
from lightly_prg.methods.method import Method
from lightly_prg.randomness import generator_for
from lightly_prg.run import Run

MakeClaim = Callable[..., ClaimRecipe]


class Killed(Exception):
    pass


def state(claim: ClaimRecipe) -> ClaimRecipe:
    """With the fewest cells: two starts and two numbers of labels, of each seed."""
    return claim.model_copy(update={"study": claim.study.model_copy(update={"features": ("state",)})})


def without_costs(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "cpu_minutes"}


def test_killed_in_the_third_cell__goes_on_there_and_ends_the_same(
    make_claim: MakeClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = state(make_claim("pretraining_helps", seeds=[0]))
    whole = run_claim(claim, out=tmp_path / "whole")
    done: list[str] = []
    dies = True

    def measure(part: Any, cell: Any, options: Any) -> Any:
        if dies and len(done) == 2:
            raise Killed
        done.append(f"{part.seed} {cell['start']} {cell['labels']}")
        return pretraining_helps.measure(part, cell, options)

    monkeypatch.setitem(
        STUDIES, "pretraining_helps", Study(pretraining_helps.kinds, measure, pretraining_helps.outcome)
    )
    with pytest.raises(Killed):
        run_claim(claim, out=tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("cells/*/*.json"))) == 2
    assert not (tmp_path / "out/result.json").exists()
    dies = False
    again = run_claim(claim, out=tmp_path / "out")
    assert len(done) == len(set(done)) == 2 * 2
    assert without_costs(again) == without_costs(whole)
    # Nothing is left to do, and nothing is done.
    finished = run_claim(claim, out=tmp_path / "out")
    assert len(done) == 4
    assert finished == again
    # Another question is asked anew.
    study = claim.study.model_copy(update={"steps": 1})
    run_claim(claim.model_copy(update={"study": study}), out=tmp_path / "out")
    assert len(done) == 8
    # So is a network that was trained anew.
    monkeypatch.setattr(Run, "weights_crc32", 1)
    run_claim(claim.model_copy(update={"study": study}), out=tmp_path / "out")
    assert len(done) == 12


def test_cells__are_of_their_images_and_options_and_tell_their_versions(
    make_claim: MakeClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that is told faster than it is made: what it measures is how often it was asked."""
    asked: list[dict[str, Any]] = []

    def measure(part: Any, cell: Any, options: Any) -> Any:
        asked.append(dict(cell))
        return {"top1": 50.0}

    def outcome(cells: Any, options: Any) -> Outcome:
        return Outcome(tuple(cells.differences("top1", (next(iter(asked))["read"], "top1"), side="above")))

    def kinds(options: Any, recipe: Any) -> dict[str, dict[str, Any]]:
        return {f"steps-{steps}": {"read": f"steps-{steps}"} for steps in options.train_steps}

    study = Study(kinds, measure, outcome, aside=frozenset({"train_steps", "judged"}))
    monkeypatch.setitem(STUDIES, "solvers", study)
    claim = make_claim("solvers", seeds=[0], margin=7)
    content = run_claim(claim, out=tmp_path / "c06")
    assert len(asked) == 1
    assert content["findings"][0]["margin"] == 7
    (file,) = (tmp_path / "c06").rglob("cells/*/*.json")
    versions = json.loads(file.read_text())["result"]["versions"]
    assert {"lightly-prg", "torch"} <= set(versions)
    assert content["versions_of_cells"] == {package: [version] for package, version in versions.items()}
    # What concerns other cells alone, or the outcome, is no other question to this one.
    more = claim.study.model_copy(update={"train_steps": (2, 3)})
    run_claim(claim.model_copy(update={"study": more, "margin": 1.0}), out=tmp_path / "c06")
    assert [one["read"] for one in asked] == ["steps-2", "steps-3"]
    fewer = claim.study.model_copy(update={"epochs": 2})
    run_claim(claim.model_copy(update={"study": fewer}), out=tmp_path / "c06")
    assert len(asked) == 3
    # Nor are other images the same.
    whole = Images.facts
    monkeypatch.setattr(Images, "facts", lambda self, recipe: replace(whole(self, recipe), fingerprint="others"))
    run_claim(claim.model_copy(update={"study": fewer}), out=tmp_path / "c06")
    assert len(asked) == 4


def test_folder_of_images__may_be_moved_but_not_changed(
    make_claim: MakeClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, count in (("train", 30), ("test", 10)):
        for index in range(count):
            file = tmp_path / f"here/{split}/{index % 2}/{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator_for(index, split)
            save_image(torch.rand(3, 16, 16, generator=pixels), file)
    monkeypatch.setattr(
        runner, "STUDIES", {"solvers": Study(lambda options, recipe: {}, solvers.measure, solvers.outcome)}
    )

    def claim(place: str, **changes: Any) -> ClaimRecipe:
        overrides = ["data.name=folder", "data.train_size=null", "train.snapshots=[]"]
        data = {"faces": {"recipe": "quickstart", "root": str(tmp_path / place), "overrides": overrides}}
        return make_claim("solvers", seeds=[0], data=data, **{"runs": str(tmp_path / "runs"), **changes})

    run_claim(claim("here"), out=tmp_path / "c06")
    trained = (tmp_path / "runs/faces-seed0/encoder.safetensors").read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")
    run_claim(claim("there"), out=tmp_path / "c06")
    taken = claim("there", runs=str(tmp_path / "others"), existing=str(tmp_path / "runs"))
    run_claim(taken, out=tmp_path / "c08")
    assert (tmp_path / "others/faces-seed0/encoder.safetensors").read_bytes() == trained
    save_image(torch.zeros(3, 16, 16), tmp_path / "there/train/0/0.png")
    with pytest.raises(UserError, match="holds a run of another recipe"):
        run_claim(claim("there"), out=tmp_path / "c06")
    (tmp_path / "there").rename(tmp_path / "here")
    with pytest.raises(UserError, match="was trained on other images than"):
        run_claim(claim("here"), out=tmp_path / "c06")


def test_folder__tells_everything(make_claim: MakeClaim, tmp_path: Path) -> None:
    claim = state(make_claim("pretraining_helps", margin=1))
    content = run_claim(claim, out=tmp_path / "c02", command="lightly-prg compare claims/c02")
    assert json.loads((tmp_path / "c02/result.json").read_text()) == content
    for name in ("claim.yaml", "summary.md", "findings.png", "findings-dark.png"):
        assert (tmp_path / "c02" / name).stat().st_size > 0
    assert content["verdict"] in ("holds", "does not hold", "cannot be told at this size")
    assert set(content["training"]) == {"digits-seed0", "digits-seed1"}
    assert content["machine"]["cores"] >= 1
    assert content["versions"]["torch"]
    assert content["cells"] == 8
    assert str(tmp_path) not in (tmp_path / "c02/result.json").read_text()
    text = (tmp_path / "c02/summary.md").read_text()
    assert text.startswith("# C6: tiny\n")
    assert content["sentence"].partition(": ")[2][1:] in text


def test_runs__are_trained_once_and_taken_where_they_fit(
    make_claim: MakeClaim, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    original = Method.training_step

    def step(self: Method, batch: Any, batch_idx: int) -> Any:
        steps.append(batch_idx)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", step)
    monkeypatch.setattr(
        runner, "STUDIES", {"solvers": Study(lambda options, recipe: {}, solvers.measure, solvers.outcome)}
    )
    claim = make_claim("solvers", seeds=[0], runs=None, existing=str(runs))
    run_claim(claim, out=tmp_path / "taken/c06")
    taken = Run(tmp_path / "taken/runs/digits-seed0")
    assert steps == []
    assert [folder.name for folder in taken.snapshots] == ["step-000000", "step-000001", "step-000002", "step-000004"]
    assert taken.weights_file.read_bytes() == (runs / "digits-seed0/encoder.safetensors").read_bytes()
    other = claim.model_copy(update={"overrides": (*claim.overrides, "train.lr=0.5")})
    run_claim(other, out=tmp_path / "other/c06")
    assert len(steps) == 4
    more = claim.model_copy(update={"overrides": (*claim.overrides, "train.snapshots=[0.75]")})
    run_claim(more, out=tmp_path / "more/c06")
    assert len(steps) == 8
    run_claim(more, out=tmp_path / "more/c08")  # another claim beside it
    assert len(steps) == 8
    with pytest.raises(UserError, match=r"digits-seed0 holds a run of another recipe: train\.lr is 0\.001 there, 0\.5"):
        run_claim(other, out=tmp_path / "more/c06")


def test_command__prints_the_findings_and_the_verdict(
    make_claim: MakeClaim,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(make_claim("solvers", runs=None).to_yaml(), encoding="utf-8")
    shutil.copytree(runs, tmp_path / "runs")
    out = tmp_path / "c06"
    code, told, _ = call(monkeypatch, capsys, "compare", str(file), "seeds=[0]", "margin=3", "--out", str(out))
    assert code == 0
    # A table as wide as the terminal of the test breaks its lines.
    assert all(word in told for word in ("euler 4", "trained", "within"))
    assert "Cannot be told at this size: one seed gives no interval." in told
    content = json.loads((out / "result.json").read_text())
    assert content["command"] == f"lightly-prg compare {file} 'seeds=[0]' margin=3"
    assert (content["seeds"], content["margin"]) == ([0], 3)


def test_snapshots__are_those_that_are_asked_for(make_claim: MakeClaim, runs: Path) -> None:
    """As many as before at other shares are other networks; more than are asked for do no harm."""
    claim = make_claim("solvers", seeds=[0])
    other = claim.model_copy(update={"overrides": (*claim.overrides, "train.snapshots=[0, 0.75, 1]")})
    with pytest.raises(UserError, match=r"digits-seed0 has no snapshot at 0\.75 .* it has 0, 0\.25, 0\.5, 1\."):
        run_cells(other, runs)
    fewer = claim.model_copy(update={"overrides": (*claim.overrides, "train.snapshots=[0, 1]")})
    assert [cell.folder for cell in run_cells(fewer, runs)] == [runs / "digits-seed0"]
