"""Copies what was found of a comparison, without weights, images and caches: what belongs into a repository.

    lightly-prg compare standing_fashion_mnist seeds=[0]
    python eval/experiments/keep_comparison.py comparisons/standing_fashion_mnist eval/results/standing/fashion_mnist

Of every run its recipe, the description of its encoder and its training curve stay, so that tables, page and figures
can be written again, and a copy goes on where the comparison stopped, on another machine as well::

    cp -r eval/results/standing/fashion_mnist comparisons/standing_fashion_mnist
    lightly-prg compare standing_fashion_mnist seeds=[0,1]

What was measured there is not measured again; a run is trained anew only if something else is asked of it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.files import read_comparison
from lightly_prg.files import is_temporary

KEPT = (
    "comparison.yaml",
    "comparison.json",
    "budget.json",
    "table.*",
    "figures/*.png",
    "results/*/*.json",
    "runs/*/recipe.yaml",
    "runs/*/encoder.json",
    "runs/*/metrics.csv",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and copies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of a comparison")
    parser.add_argument("out", type=Path, help="where the copy goes; what a former copy had is replaced")
    options = parser.parse_args(arguments)
    try:
        copied = keep(options.comparison, options.out)
    except UserError as error:
        parser.error(str(error))
    print(f"{copied} files in {options.out}")


def keep(comparison: Path, out: Path) -> int:
    """Copies the files of results; those that a former copy had and the comparison has no more are removed.

    Returns:
        How many there are.

    Raises:
        UserError: If there is no comparison, or it has no results yet.
    """
    read_comparison(comparison)
    wanted = {path.relative_to(comparison) for path in _kept(comparison)}
    for path in _kept(out):
        if path.relative_to(out) not in wanted:
            path.unlink()
    for path in wanted:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(comparison / path, out / path)
    return len(wanted)


def _kept(folder: Path) -> list[Path]:
    found = (path for pattern in KEPT for path in folder.glob(pattern))
    return [path for path in found if not is_temporary(path)]


if __name__ == "__main__":
    main()
