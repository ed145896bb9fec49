"""A folder that nothing can be written to: one sentence, exit code 2, and what can be read is read."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TINY = (
    "quickstart",
    "train.epochs=1",
    "train.batch_size=64",
    "method.backbone.channels=8",
    "data.train_size=200",
    "train.accelerator=cpu",
    "train.precision=32",
)


def obey_permissions() -> None:
    """Root may write anywhere; without these capabilities it may not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lightly_prg.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=obey_permissions,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read_only") / "run"
    done = run("train", *TINY, "eval.controls=[]", "eval.few_shot=null", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def read_only(finished: Path, tmp_path: Path) -> Iterator[Path]:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    yield folder
    for path in folders:
        path.chmod(0o755)


def told(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "ermission" in last
    assert str(folder) in last


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_into_it(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    told(run("train", *TINY, "--out", str(tmp_path / "locked" / "run")), tmp_path / "locked" / "run")
    assert list((tmp_path / "locked").iterdir()) == []


@pytest.mark.parametrize("command", [("embed", "--split", "train"), ("knn", "--k", "3"), ("sample",), ("report",)])
def test_commands_on_a_finished_run(read_only: Path, command: tuple[str, ...]) -> None:
    before = content(read_only)
    told(run(command[0], str(read_only), *command[1:]), read_only)
    assert content(read_only) == before


def test_resuming_and_replacing(read_only: Path) -> None:
    before = content(read_only)
    told(run("train", *TINY, "--out", str(read_only), "--overwrite"), read_only)
    assert content(read_only) == before


def test_embeddings_can_be_written_elsewhere_where_they_are_cached(read_only: Path, tmp_path: Path) -> None:
    done = run("embed", str(read_only), "--split", "test", "--out", str(tmp_path / "there.npz"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there.npz").is_file()
