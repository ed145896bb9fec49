"""What a command tells while it works: a live bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Update = Callable[..., None]  # update(done, total=None, note="")


class _Printer(RichConsole):
    """Goes quiet where nobody reads any more, as behind `| head`: the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """Prints messages and progress; one for each command.

    Args:
        quiet: Print nothing, for use from Python and in processes other than the first.
        seconds_between_lines: How often a plain line is printed where there is no terminal.
    """

    def __init__(self, *, quiet: bool = False, seconds_between_lines: float = 10.0) -> None:
        self.rich = _Printer(quiet=quiet, soft_wrap=True)
        self.quiet = quiet
        self.seconds_between_lines = seconds_between_lines

    def say(self, message: object) -> None:
        """Prints one message (text or a rich table)."""
        self.rich.print(message, highlight=False, markup=not isinstance(message, str))

    @contextmanager
    def task(self, description: str, total: int, *, done: int = 0) -> Iterator[Update]:
        """Shows the progress of one long piece of work.

        Yields:
            ``update(done, total=None, note="")``: sets how far the work is, how much there is where that was not
            known before, and a short note such as the loss.
        """
        if self.quiet:
            yield lambda done, total=None, note="": None
        elif self.rich.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(description, total=total, completed=done, note="")
                yield lambda done, total=None, note="": bar.update(task, completed=done, total=total, note=note)
        else:
            yield self._lines(description, total, done)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.rich,
        )

    def _lines(self, description: str, expected: int, start: int) -> Update:
        begin = time.monotonic()
        last = begin

        def update(done: int, total: int | None = None, note: str = "") -> None:
            nonlocal last
            total = total or expected
            now = time.monotonic()
            if now - last < self.seconds_between_lines and done < total:
                return
            if done >= total and now - begin < 1.0:
                return  # too short to be worth a line
            last = now
            left = (now - begin) / max(1, done - start) * (total - done)
            ending = f"  {_clock(left)} left" if done < total else f"  done in {_clock(now - begin)}"
            self.say(f"{description}  {done}/{total}{'  ' + note if note else ''}{ending}")

        return update


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
