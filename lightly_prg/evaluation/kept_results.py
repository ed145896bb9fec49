"""Results of experiments that are there already: taken where they answer the same question, refused where they do not.

The name of a file says which run and which cell it is about, but not with what options it was made, nor of which
weights. So every file stores that under ``made_with``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightly_prg.errors import UserError
from lightly_prg.eval.result_files import lookup
from lightly_prg.files import read_json, write_json
from lightly_prg.run import Run


@dataclass(frozen=True)
class KeptResult:
    """A file of results and what decides over its content.

    Args:
        path: Of the JSON.
        made_with: Every option that matters, and the run by ``identity_of``.
        older: What files from before hold of it, by dotted key: ``{"options.labels": 100}``. Keys that are not there
            are not missed.
    """

    path: Path
    made_with: Mapping[str, Any]
    older: Mapping[str, Any] = field(default_factory=dict)

    def is_there(self) -> bool:
        """Whether the result was made before.

        Raises:
            UserError: If it was made of another run or with other options.
        """
        if not self.path.is_file():
            return False
        content = read_json(self.path)
        made_with = content.get("made_with")
        if isinstance(made_with, Mapping):
            keys = {**self.made_with, **made_with}
            _refuse(self.path, [(key, made_with.get(key), self.made_with.get(key)) for key in keys])
        else:
            held = [(key, lookup(content, *key.split(".")), value) for key, value in self.older.items()]
            _refuse(self.path, [(key, there, here) for key, there, here in held if there is not None])
        return True

    def write(self, content: Mapping[str, Any]) -> None:
        """Writes the result."""
        write_json(self.path, {**content, "made_with": dict(self.made_with)})


def _refuse(path: Path, pairs: Iterable[tuple[str, Any, Any]]) -> None:
    """Ends at the first key of which a file has one thing and the question another."""
    for key, there, here in pairs:
        if there != json.loads(json.dumps(here)):  # tuples are lists there
            raise UserError(
                f"{path} was made otherwise: {key} is {there!r} there, {here!r} here. Choose another folder with "
                "--out, or remove the file."
            )


def identity_of(run: Run) -> dict[str, Any]:
    """What tells a run from all others, whatever its folder is called."""
    return {"recipe_sha256": run.description["recipe_sha256"], "weights_crc32": run.weights_crc32}


def missing_results(asked: Mapping[Any, KeptResult]) -> list[Any]:
    """The keys of those results that are to be made, in order; all are looked at before hours are spent on one.

    Args:
        asked: By whatever names their work.

    Raises:
        UserError: If one was made otherwise, or two would be written to the same file.
    """
    paths = [result.path for result in asked.values()]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"Two runs would be written to {path}: measure them apart, each with an --out of its own.")
    return [key for key, result in asked.items() if not result.is_there()]


def check_neighbours(folder: Path, options: Mapping[str, Any]) -> None:
    """Refuses a folder with results of other options, which a summary would take together.

    Args:
        folder: Of all results.
        options: What ``made_with`` has to say beside the run; files from before do not tell, and pass.

    Raises:
        UserError: If one was made otherwise.
    """
    for file in sorted(folder.glob("*.json")):
        made_with = read_json(file).get("made_with") or {}
        _refuse(file, [(key, made_with[key], value) for key, value in options.items() if key in made_with])


def told(main: Callable[[], int | None]) -> int:
    """Runs a script; what its user did wrong is one sentence."""
    try:
        return main() or 0
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
