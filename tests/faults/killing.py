"""Processes that are killed: at a moment, or while they write."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from lightly_prg.files import is_temporary

Job = Callable[..., None]

# Each process is a copy of one that has imported everything already, so that its time is that of the work.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "lightly_prg.comparison",
        "lightly_prg.eval.faiss_import",
        "matplotlib.backends.backend_agg",
        "matplotlib.pyplot",
        "pytest",
        "sklearn.datasets",
        "sklearn.linear_model",
        "sklearn.model_selection",
        "torchvision.models",
    ]
)


def to_the_end(job: Job, *arguments: Any) -> float:
    """Lets a job work undisturbed; the seconds that it took."""
    process = _started(job, arguments)
    begin = time.monotonic()
    process.join()
    seconds = time.monotonic() - begin
    assert process.exitcode == 0
    return seconds


def killed_after(seconds: float, job: Job, *arguments: Any) -> bool:
    """Kills a job at this moment; False if it had ended well before."""
    process = _started(job, arguments)
    process.join(seconds)
    return _killed(process)


def killed_in_writing(skip: int, folder: Path, job: Job, *arguments: Any) -> bool:
    """Kills a job when it writes its file number ``skip + 1`` below ``folder``; False if it had ended well before."""
    process = _started(job, arguments)
    seen: set[Path] = set()
    while process.is_alive() and len(seen) <= skip:
        seen.update(path for path in _files(folder) if is_temporary(path))
    return _killed(process)


def _started(job: Job, arguments: Iterable[Any]) -> ForkServerProcess:
    process = _CONTEXT.Process(target=job, args=tuple(arguments))
    process.start()
    return process


def _killed(process: ForkServerProcess) -> bool:
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"the job failed by itself: exit code {process.exitcode}"
    return process.exitcode != 0


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.rglob(".*"))
    except FileNotFoundError:  # a folder that goes while it is listed
        return []
