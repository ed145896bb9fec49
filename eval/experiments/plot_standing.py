"""One picture of several comparisons: panels by data set and evaluator, a dot for each seed.

    python eval/experiments/plot_standing.py eval/results/standing/fashion_mnist eval/results/standing/cifar10 \
        --titles "Fashion-MNIST" "CIFAR-10, JPEG copy" --out eval/results/standing/standing.png

Reads the folders of comparisons, with or without weights. The large dot is the mean over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightly_prg.eval.comparison.files import Column, Comparison, read_comparison
from lightly_prg.eval.comparison.plot import LEAST_POINTS
from lightly_prg.eval.comparison.table import TableRow, table_rows
from lightly_prg.plotting.style import Theme, method_colours, new_axes, new_figure, remark, widen, write_figure

SHOWN = ("knn", "linear", "few_shot", "finetune", "robustness")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path, nargs="+", help="folders of comparisons with the same methods")
    parser.add_argument("--titles", nargs="+", help="names of the data sets; default the folders'")
    parser.add_argument("--out", type=Path, required=True, help="the PNG; its dark twin lies beside it")
    options = parser.parse_args(arguments)
    titles = options.titles or [folder.name for folder in options.comparisons]
    if len(titles) != len(options.comparisons):
        parser.error(f"{len(options.comparisons)} titles are needed, got {len(titles)}.")
    read = {title: read_comparison(folder) for title, folder in zip(titles, options.comparisons, strict=True)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    plot(read, options.out)


def plot(comparisons: Mapping[str, Comparison], path: Path) -> None:
    """Draws the accuracies of every method and seed.

    Args:
        comparisons: By the name of their data set.
        path: Where to write the PNG.
    """
    columns = [column for column in next(iter(comparisons.values())).columns if column.key in SHOWN]
    rows = {
        title: [row for row in table_rows(comparison) if row.label not in comparison.controls]
        for title, comparison in comparisons.items()
    }
    labels = list(dict.fromkeys(row.label for of_set in rows.values() for row in of_set))
    height = 50 + 26 * len(labels)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(980, 40 + len(rows) * height)
        grid = figure.add_gridspec(len(rows), len(columns))
        colours = method_colours(theme, labels)
        for (line, (title, of_set)), (place, column) in itertools.product(enumerate(rows.items()), enumerate(columns)):
            axes = new_axes(figure, theme, grid[line, place])
            _panel(axes, theme, of_set, column, labels, colours)
            if line == 0:
                axes.set_title(f"{column.title}\n{column.detail}", color=theme.text, fontsize=11)
            if place == 0:
                axes.set_ylabel(textwrap.fill(title, 12))  # as long as a few rows are high
                axes.set_yticks(range(len(labels)), labels, color=theme.text)
        return figure

    write_figure(path, draw)


def _panel(
    axes: Axes,
    theme: Theme,
    rows: Sequence[TableRow],
    column: Column,
    labels: Sequence[str],
    colours: Mapping[str, str],
) -> None:
    """A line of dots for each method; the axis is the panel's own, since evaluators differ by more than methods do."""
    known = [row for row in rows if column.key in row.scores]
    for row in known:
        level, colour = labels.index(row.label), colours[row.label]
        seeds = list(row.by_seed[column.key].values())
        axes.plot(seeds, [level] * len(seeds), "o", color=colour, ms=5, mfc="none")
        axes.plot(row.scores[column.key].mean, level, "o", color=colour, ms=9)
    if not known:
        remark(axes, theme, "not measured")
        return
    axes.margins(x=0.15)
    widen(axes, LEAST_POINTS, "x")
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), [""] * len(labels))
    axes.locator_params(axis="x", nbins=4, integer=True)


if __name__ == "__main__":
    main()
