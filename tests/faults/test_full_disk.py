"""A disk that is full: said in one sentence, nothing half written stays, and what was there before is still good."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# A file system in memory that only this process and its children see.
_MOUNTED = 'mount -t tmpfs -o size=96m none "$0" && exec "$@"'


def on_a_small_disk(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("a file system of its own needs Linux")
    return subprocess.run(
        [unshare, "--map-root-user", "--mount", "sh", "-c", _MOUNTED, str(folder), *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory, kills: int) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("disk")
    if on_a_small_disk(folder, "true").returncode != 0:
        pytest.skip("this system does not let a user mount a file system")
    script = Path(__file__).with_name("small_disk.py")
    done = on_a_small_disk(folder, sys.executable, str(script), str(folder), str(kills), "0")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("work", ["train", "embed"])
def test_full_disk(trials: list[dict[str, Any]], work: str, kills: int) -> None:
    mine = [trial for trial in trials if trial["work"] == work]
    assert len(mine) == kills
    for trial in mine:
        # metrics.csv is appended to, which the system's own error tells.
        told = {"none": "None", "OSError": "28"}.get(trial["error"])
        assert trial["text"] == told if told else "disk is full" in trial["text"] or "GiB free" in trial["text"], trial
        assert trial["half"] == [], trial
        assert trial["same"], trial
    failed = [trial for trial in mine if trial["error"] != "none"]
    assert len(failed) > kills // 4, "most of the time there was too little room"
    if work == "train":
        assert any(trial["position"] > 0 for trial in failed), "sometimes a good checkpoint was kept"
