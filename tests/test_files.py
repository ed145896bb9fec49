from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

import pytest

from lightly_prg.errors import UserError
from lightly_prg.files import is_temporary, remove_temporaries, replacing, write_json, write_text
from lightly_prg.run import Run


def fail(error: Exception, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def as_torch_tells_it() -> Exception:
    """A writer of its own gives up on top of the system's error."""
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "The disk is full"),
        (OSError(errno.EFBIG, "File too large"), "The disk is full"),
        (as_torch_tells_it(), "The disk is full"),
        (Exception("I/O error: No space left on device (os error 28)"), "The disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "There is no permission"),
        (OSError(errno.EROFS, "Read-only file system"), "There is no permission"),
        (Exception("I/O error: Permission denied (os error 13)"), "There is no permission"),
    ],
)
def test_failed_write__is_told_and_keeps_what_was_there(tmp_path: Path, error: Exception, told: str) -> None:
    path = tmp_path / "x.json"
    write_text(path, "whole")
    with pytest.raises(UserError, match=rf"{told}.*x\.json"):
        fail(error, path)
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["x.json"]


def test_other_errors__pass_and_keep_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "whole")
    with pytest.raises(KeyError):
        fail(KeyError("x"), path)
    with pytest.raises(OSError, match="Input/output"):
        fail(OSError(errno.EIO, "Input/output error"), path)
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_a_killed_process_left__is_told_from_everything_else(tmp_path: Path) -> None:
    for name in ("encoder.safetensors", "recipe.yaml", "x.tar.gz", "plain"):
        with replacing(tmp_path / name) as temporary:
            assert is_temporary(temporary)
            temporary.write_text("half")
    kept = {".lock", ".gitignore", "recipe.yaml", "step.12.json", ".hidden", ".a.b"}
    for name in kept:
        (tmp_path / name).touch()
    kept |= {"encoder.safetensors", "x.tar.gz", "plain", ".recipe.77.json", ".recipes.77.yaml", ".last.77.ckpt"}
    (tmp_path / ".last.77.ckpt").touch()
    for name in (".recipe.77.json", ".recipes.77.yaml", ".recipe.77.yaml", ".recipe.123456.yaml"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path / "recipe.yaml")
    remove_temporaries(tmp_path / "not there" / "recipe.yaml")
    assert {entry.name for entry in tmp_path.iterdir()} == kept


def test_locked_folder__goes_again_only_if_it_was_made_for_what_failed(tmp_path: Path) -> None:
    def fail_in(folder: Path, *, written: bool) -> None:
        with Run(folder).lock():
            if written:
                (folder / "metrics.csv").write_text("step\n")
            raise UserError("it failed")

    (tmp_path / "mine").mkdir()
    for name in ("made", "begun", "mine"):
        with pytest.raises(UserError, match="it failed"):
            fail_in(tmp_path / name, written=name == "begun")
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "begun" / "metrics.csv").is_file()
    assert (tmp_path / "mine").is_dir()


def test_lock_of_a_folder_that_was_removed_meanwhile__is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, flock = Run(tmp_path / "run"), fcntl.flock

    def removed_first(handle: IO[str], operation: int) -> None:
        (run.folder / ".lock").unlink()
        (run.folder / ".lock").touch()  # by the next one, who locks this file
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with pytest.raises(UserError, match="Another process"), run.lock():
        pytest.fail("two processes would write into one folder")


def test_folder_of_a_run_killed_before_its_recipe_was_whole__is_free(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.lock():
        assert not run.is_taken()
        (run.folder / ".recipe.4711.yaml").write_text("name: ha")
        assert not run.is_taken()
        (run.folder / "thesis.tex").write_text("years of work")
        with pytest.raises(UserError, match="no run"):
            run.is_taken()


def test_write_json__replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    before = path.read_text()

    def dies(*_: object) -> None:
        assert path.read_text() == before, "nothing is seen of the new content before it is whole"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert path.read_text() == before
