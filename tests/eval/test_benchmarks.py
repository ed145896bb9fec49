from __future__ import annotations

import importlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightly_prg.eval.benchmarks import memory, timing
from lightly_prg.eval.benchmarks.timing import Case

SCRIPTS = ("finetuning", "pretraining", "encoding", "scanning", "knn", "linear", "pipeline", "startup")
KEYS = {"case", "ours", "against", "ratio", "goal", "met"}


def fake_timing(monkeypatch: pytest.MonkeyPatch, ours: float, *, run: bool) -> None:
    """Ours takes so many seconds and everything else one; memory is the same."""

    def interleaved(callables: Mapping[str, Callable[[], object]], **_: Any) -> dict[str, float]:
        if run:
            for function in callables.values():
                function()
        return {name: ours if name.startswith("ours") else 1.0 for name in callables}

    monkeypatch.setattr(timing, "interleaved", interleaved)
    monkeypatch.setattr(memory, "in_fresh_process", lambda *_: 1.0)


def lines_of(output: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines
    assert all(set(line) == KEYS for line in lines)
    return lines


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts__end_in_0_where_every_goal_is_met(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_timing(monkeypatch, 0.01, run=True)
    script = importlib.import_module(f"lightly_prg.eval.benchmarks.{name}")
    code = script.main(["--quick"])
    lines = lines_of(capsys.readouterr().out)
    assert code == 0, [line for line in lines if line["met"] is False]
    assert any(line["met"] is True for line in lines)


@pytest.mark.parametrize("name", ["scanning", "knn", "pipeline", "startup"])
def test_scripts__end_in_1_where_a_goal_is_missed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_timing(monkeypatch, 100.0, run=False)
    script = importlib.import_module(f"lightly_prg.eval.benchmarks.{name}")
    assert script.main(["--quick"]) == 1
    missed = [line for line in lines_of(capsys.readouterr().out) if line["met"] is False]
    assert missed
    assert all("second" in line["case"] for line in missed)


def test_goals__bound_what_the_name_says() -> None:
    assert timing.faster("a", 2.0, 8.0, 4.0) == Case("a: times faster", 2.0, 8.0, 4.0, 4.0, True)
    assert timing.faster("a", 2.0, 7.9, 4.0).met is False
    assert timing.faster("a", 2.0, 8.0, None).met is None
    assert timing.at_most("a", 11.0, 10.0, 1.1) == Case("a: ratio at most", 11.0, 10.0, 1.1, 1.1, True)
    assert timing.at_most("a", 12.0, 10.0, 1.1).met is False
    assert timing.value_at_most("a", 0.5, 0.5).met
    assert not timing.value_at_most("a", 0.6, 0.5, 9.0).met
    assert timing.value_at_least("a", 0.5, 0.5).met
    assert not timing.value_at_least("a", 0.4, 0.5, 0.1).met


@pytest.mark.parametrize(("met", "code"), [((True, None), 0), ((True, False, True), 1), ((), 0)])
def test_report__exits_by_the_goals(
    met: tuple[bool | None, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [Case("a", 1 / 3, None, 0.123456, 2.0, each) for each in met]
    assert timing.report(cases) == code
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["met"] for line in printed] == list(met)
    assert all(line["ours"] == 0.3333 and line["ratio"] == 0.1235 for line in printed)


def test_interleaved__takes_turns_and_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    lasting = {"a": itertools.chain([9.0, 1.0, 5.0, 2.0]), "b": itertools.chain([9.0, 4.0, 4.0, 8.0])}
    now = [0.0]

    def named(name: str) -> Callable[[], None]:
        def function() -> None:
            called.append(name)
            now[0] += next(lasting[name])

        return function

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seconds = timing.interleaved({"a": named("a"), "b": named("b")}, repeats=3, until=1e9, clock=lambda: now[0])
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert seconds == {"a": 2.0, "b": 4.0}


@pytest.mark.parametrize(("until", "rounds"), [(0.0, 1), (19.9, 1), (20.0, 2), (1000.0, 5)])
def test_interleaved__stops_before_the_time_is_over(until: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    called = []

    def ten_seconds() -> None:
        called.append(now[0])
        now[0] += 10.0

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timing.interleaved({"a": ten_seconds}, repeats=5, until=until, warm_up=False)
    assert len(called) == rounds


def test_processor_time__counts_what_was_computed_alone() -> None:
    options = timing.parser(None).parse_args(["--processor-time", "--repeats", "1"])
    turns = timing.begin(options)
    seconds = turns({"sleeps": lambda: time.sleep(0.3), "works": lambda: sum(range(20_000_000))}, warm_up=False)
    assert seconds["sleeps"] < 0.02 < seconds["works"]


def test_memory__is_what_a_step_takes() -> None:
    assert 60 < memory.megabytes_of(lambda: np.ones(8_000_000), "cpu") < 90


def test_memory__is_read_from_a_fresh_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('a word')\nprint('{\"megabytes\": %s}' % sys.argv[1])\n")
    assert memory.in_fresh_process(str(script), ["3.5"]) == 3.5
