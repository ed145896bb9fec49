"""How long ``lightly-prg --help`` and ``import lightly_prg`` take, beside a Python that does nothing.

    python eval/benchmarks/startup.py

The goals are for our seconds, which hold those of starting Python. Well under a minute; after four (``--limit``) no
further round is begun.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.timing import Case

COMMANDS = {
    "against": ("-c", "pass"),
    "ours, --help": ("-m", "lightly_prg.cli", "--help"),
    "ours, import": ("-c", "import lightly_prg"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = timing.parser(__doc__, repeats=11).parse_args(arguments)
    turns = timing.begin(options)
    return timing.report(cases(options, turns))


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    def started(command: tuple[str, ...]) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

    seconds = turns(
        {name: started(command) for name, command in COMMANDS.items()},
        warm_up=not options.quick,
    )
    python = seconds["against"]
    yield timing.value_at_most("seconds of lightly-prg --help", seconds["ours, --help"], 0.7, python)
    yield timing.value_at_most("seconds of import lightly_prg", seconds["ours, import"], 0.3, python)


if __name__ == "__main__":
    sys.exit(main())
