"""What `--overwrite` replaces stays until what replaces it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightly_prg.console import Console
from lightly_prg.run import FORMER, Run


@contextmanager
def former_run_kept(run: Run, console: Console) -> Iterator[Callable[[], None]]:
    """Gives a function that sets the run in a folder aside, as ``FOLDER/.replaced``; when the block ends well, it goes.

    Where the block fails or the process is killed it stays, beside what was begun in its place: that can be resumed,
    looked at or overwritten in its turn. Where nothing was begun the former run comes back. The lock must be held.

    Args:
        run: The folder.
        console: Where it is said where the former run is.
    """
    aside = run.folder / FORMER

    def set_aside() -> None:
        if aside.exists() or not run.recipe_file.is_file():
            run.clear()  # what is there was to replace the former run and was never finished
            return
        aside.mkdir()
        for entry in run.entries():
            entry.rename(aside / entry.name)
        console.say(f"The run that was there is kept in {aside} until this one is finished.")

    try:
        yield set_aside
    except BaseException:
        if aside.exists() and not run.recipe_file.is_file():
            run.clear()
            for entry in list(aside.iterdir()):
                entry.rename(run.folder / entry.name)
            aside.rmdir()
        raise
    if aside.exists():
        shutil.rmtree(aside)
