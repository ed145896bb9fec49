from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from lightly_prg.cli import main
from lightly_prg.cli.compare import _print
from lightly_prg.console import Console


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Runs a command in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["lightly-prg", *arguments])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_dry_run__tells_what_is_missing_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(monkeypatch, capsys, "compare", "compare_quick", "seeds=[3]", "--dry-run", "--out", "there")
    assert code == 0
    assert "seeds: [3]" in out
    assert "there/runs/simclr-seed3  missing" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare_quik",), "'compare_quick'"),
        (("compare_quick", "budget.kind=hours"), "budget.kind is 'hours'"),
        (("compare_quick", "--reference", "me"), "reference is 'me'"),
        (("a", "b"), "There is no run folder a."),
        (("seeds=[1]",), "Say what to compare"),
    ],
)
def test_mistakes__end_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, "compare", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_recipes__list_and_show_comparisons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, out, _ = call(monkeypatch, capsys, "recipes", "list")
    assert "quickstart" in out
    assert "compare_quick" in out
    assert "claims/c06" in out
    _, out, _ = call(monkeypatch, capsys, "recipes", "show", "compare_quick")
    assert "budget: {kind: cpu_seconds" in out
    _, out, _ = call(monkeypatch, capsys, "recipes", "show", "claims/c06")
    assert "falsified_by:" in out
    for name, word in (("compare_quick", "methods:"), ("claims/c06", "margin:"), ("quickstart", "method:")):
        file = tmp_path / "own.yaml"
        file.write_text(call(monkeypatch, capsys, "recipes", "show", name)[1])
        code, out, _ = call(monkeypatch, capsys, "recipes", "show", str(file))
        assert code == 0
        assert word in out
    code, _, err = call(monkeypatch, capsys, "recipes", "show", "compare_quik")
    assert code == 2
    assert "did you mean 'compare_quick'" in err
    _, out, _ = call(monkeypatch, capsys, "recipes", "show", "claims/c06", "--resolved")
    assert "name: solvers" in out


def test_table__keeps_the_brackets_of_labels(tmp_path: Path) -> None:
    key = "prg-joint-seed0"
    about = {
        "name": "one",
        "methods": ["PRG [joint]"],
        "reference": "PRG [joint]",
        "seeds": [0],
        "split": "test",
        "evaluators": ["knn"],
        "cells": [{"label": "PRG [joint]", "seed": 0, "key": key, "run": "elsewhere"}],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(about), encoding="utf-8")
    (tmp_path / "results" / key).mkdir(parents=True)
    result = {"result": {"top1": 90.0, "k": 20, "num_test": 50}}
    (tmp_path / "results" / key / "knn.json").write_text(json.dumps(result), encoding="utf-8")
    console = Console()
    console.rich = RichConsole(file=io.StringIO(), width=200)
    _print(tmp_path / "comparison.html", console)
    shown = console.rich.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("PRG [joint]") == 2
