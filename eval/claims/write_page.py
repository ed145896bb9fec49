"""Writes docs/claims.md from the results of the claims: their result.json, figures and, if there is one, notes.md.

What belongs into the repository is copied first from the folders of claims that were tested; their claim.yaml, which
has the paths of a machine, and their lock stay where they are.

Example:
    lightly-prg compare claims/c06 data.fashion_mnist.root=data data.cifar10.root=data
    python eval/claims/write_page.py eval/results/claims --take comparisons/claims/c06
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightly_prg.claims.page import take, write_page


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of results, one folder for each claim")
    parser.add_argument("--out", type=Path, default=Path("docs/claims.md"), help="the page")
    parser.add_argument(
        "--take", type=Path, nargs="*", default=(), help="folders of tested claims, copied into results"
    )
    options = parser.parse_args(arguments)
    for folder in options.take:
        take(folder, options.results)
    write_page(options.results, options.out)


if __name__ == "__main__":
    main()
