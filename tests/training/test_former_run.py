"""What `--overwrite` must not lose, wherever it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightly_prg.console import Console
from lightly_prg.run import Run
from lightly_prg.training.former_run import former_run_kept

FILES = ("recipe.yaml", "encoder.json", "encoder.safetensors", "metrics.csv", "report.html", "embeddings-test.npz")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for name in FILES:
        (tmp_path / name).write_text(f"former {name}")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "knn.json").write_text("former knn")
    return Run(tmp_path)


def held(run: Run) -> dict[str, str]:
    files = (file for file in run.folder.rglob("*") if file.is_file())
    return {str(file.relative_to(run.folder)): file.read_text() for file in files}


def full() -> None:
    raise OSError("full")


def overwritten(run: Run, work: Callable[[], object]) -> None:
    with former_run_kept(run, Console(quiet=True)) as set_aside:
        set_aside()
        work()


@pytest.mark.parametrize("moved", range(len(FILES) + 1))
def test_stopped_while_it_is_set_aside__all_comes_back(run: Run, moved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename, calls = held(run), Path.rename, iter(range(moved))

    def stopped(path: Path, target: Path) -> Path:
        if path.parent == run.folder and target.parent.name == ".replacing" and next(calls, None) is None:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), former_run_kept(run, Console(quiet=True)) as set_aside:
        set_aside()
    assert held(run) == before


@pytest.mark.parametrize("moved", [("encoder.json", "eval"), (*FILES, "eval")])
def test_killed_while_it_was_set_aside__the_next_one_brings_it_back(run: Run, moved: tuple[str, ...]) -> None:
    before = held(run)
    (run.folder / ".replacing").mkdir()
    for name in moved:
        (run.folder / name).rename(run.folder / ".replacing" / name)
    assert run.is_taken()
    with pytest.raises(OSError, match="full"):
        overwritten(run, full)
    assert held(run) == before


def test_finished_run_beside_a_former_one__is_the_one_that_is_kept(run: Run) -> None:
    before = held(run)
    (run.folder / ".replaced").mkdir()  # a process was killed while it removed it
    (run.folder / ".replaced" / "recipe.yaml").write_text("older")
    with pytest.raises(OSError, match="full"):
        overwritten(run, full)
    assert held(run) == before


def test_finished__nothing_of_the_former_is_left(run: Run) -> None:
    with former_run_kept(run, Console(quiet=True)) as set_aside:
        set_aside()
        assert not run.recipe_file.exists()
        run.recipe_file.write_text("new")
    assert held(run) == {"recipe.yaml": "new"}
