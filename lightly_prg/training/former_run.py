"""What `--overwrite` replaces stays until what replaces it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightly_prg.console import Console
from lightly_prg.run import FORMER, MOVING, Run


@contextmanager
def former_run_kept(run: Run, console: Console) -> Iterator[Callable[[], None]]:
    """Gives a function that sets the run in a folder aside, as ``FOLDER/.replaced``; when the block ends well, it goes.

    Where the block fails or the process is killed it stays, beside what was begun in its place: that can be resumed,
    looked at or overwritten in its turn. Where nothing was begun the former run comes back. The lock must be held.

    Args:
        run: The folder.
        console: Where it is said where the former run is.
    """
    aside, moving = run.folder / FORMER, run.folder / MOVING
    if moving.is_dir():
        _bring_back(moving, run)  # a process was killed while it set the run aside

    def set_aside() -> None:
        if (aside.exists() and not run.is_trained) or not run.recipe_file.is_file():
            run.clear()  # what is there was to replace the former run and was never finished
            return
        if aside.exists():  # the former run of one that was finished: it was to go, and a process was killed
            shutil.rmtree(aside)
        moving.mkdir()
        try:
            for entry in sorted(run.entries(), key=lambda entry: entry == run.recipe_file):  # that tells a run: last
                entry.rename(moving / entry.name)
            moving.rename(aside)
        except BaseException:
            _bring_back(moving, run)
            raise
        console.say(f"The run that was there is kept in {aside} until this one is finished.")

    try:
        yield set_aside
    except BaseException:
        if aside.exists() and not run.recipe_file.is_file():
            run.clear()
            _bring_back(aside, run)
        raise
    if aside.exists():
        shutil.rmtree(aside)


def _bring_back(folder: Path, run: Run) -> None:
    for entry in list(folder.iterdir()):
        entry.rename(run.folder / entry.name)
    folder.rmdir()
