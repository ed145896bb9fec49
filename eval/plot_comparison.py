"""Figures of a comparison: accuracy against cost, learning curves, robustness."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lightly_prg.eval.comparison_files import Comparison
from lightly_prg.eval.comparison_statistics import pareto_front
from lightly_prg.eval.comparison_table import COSTS, TableRow, shown_cost
from lightly_prg.eval.plot_robustness import plot_robustness
from lightly_prg.eval.result_files import lookup, number
from lightly_prg.plot_style import Theme, new_axes, new_figure, remark, widen, write_figure

_SHOWN = ("knn", "linear", "few_shot", "finetune")
LEAST_POINTS = 4.0  # of an axis: methods a tenth of a point apart should look as close as they are


def plot_pareto(comparison: Comparison, rows: Sequence[TableRow], path: Path) -> None:
    """Draws accuracy against the cost of training and of an embedding, with the Pareto front.

    Args:
        comparison: For the titles.
        rows: One for each method; a bar is the standard deviation over seeds.
        path: Where to write the PNG.
    """
    columns = [column for column in comparison.columns if column.key in _SHOWN] or list(comparison.columns)
    # Training on a GPU keeps the processor idle for the most part.
    on_cpu = all(lookup(cell.facts, "training", "device") in (None, "cpu") for cell in comparison.cells)
    keys = ("cpu_seconds" if on_cpu else "wall_seconds", "embedding_macs")
    prices = [cost for key in keys for cost in COSTS if cost.key == key]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(760, 60 + 230 * len(columns))
        grid = figure.add_gridspec(len(columns), len(prices))
        for (line, column), (place, cost) in itertools.product(enumerate(columns), enumerate(prices)):
            axes = new_axes(figure, theme, grid[line, place])
            known = {
                row.label: (price, row.scores[column.key])
                for row in rows
                if column.key in row.scores and (price := row.costs[cost.key])
            }
            for row, colour in zip(rows, method_colours(theme), strict=False):
                if row.label in known:
                    price, mean = known[row.label]
                    axes.errorbar(
                        price, mean.mean, yerr=mean.deviation, color=colour, marker="o", ms=8, capsize=3, lw=0,
                        elinewidth=1.4, label=row.label,
                    )  # fmt: skip
                elif column.key in row.scores and row.costs[cost.key] == 0:
                    # An untrained network has no place on a logarithmic axis; training has to be worth more than it.
                    axes.axhline(row.scores[column.key].mean, color=colour, lw=1.4, ls=":", label=row.label, zorder=1)
            draw_front(axes, theme, {label: (price, mean.mean) for label, (price, mean) in known.items()})
            if known:
                _price_axis(axes, [price for price, _ in known.values()])
            else:
                remark(axes, theme, "not known")
            axes.margins(y=0.2)
            widen(axes, LEAST_POINTS)
            if line == len(columns) - 1:
                axes.set_xlabel(cost.full)
            if place == 0:
                axes.set_ylabel(f"{column.title}\n{column.detail}, %".replace("\n,", ","))
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        if handles:
            labels = [row.label for row in rows if row.label in handles]
            figure.legend(
                [handles[label] for label in labels], labels, loc="outside upper left", ncols=min(len(labels), 4),
                frameon=False, labelcolor=theme.text, fontsize=11,
            )  # fmt: skip
        return figure

    write_figure(path, draw)


def draw_front(axes: Axes, theme: Theme, points: Mapping[str, tuple[float, float]]) -> None:
    """Draws the Pareto front of ``(price, accuracy)`` as steps, if more than one method is on it."""
    steps = [points[label] for label in pareto_front(points)]
    if len(steps) > 1:
        axes.step(*zip(*steps, strict=True), where="post", color=theme.muted, lw=1.2, ls="--", zorder=1)


def _price_axis(axes: Axes, prices: Sequence[float]) -> None:
    """Logarithmic where prices differ, with numbers such as ``1.2 M``."""
    if max(prices) > 1.5 * min(prices):
        axes.set_xscale("log")
        axes.set_xlim(min(prices) / 1.6, max(prices) * 1.6)
        decades = math.log10(max(prices) / min(prices))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,), numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.25 * max(prices))
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """``50 k`` in place of ``50,000``, which would run into its neighbour."""
    return f"{value / 1000:g} k" if 10_000 <= value < 1_000_000 else shown_cost(value)


def plot_learning_curves(comparison: Comparison, path: Path) -> None:
    """Draws the training loss of every method in its own panel, a line for each seed; losses are not comparable.

    Raises:
        ValueError: If there is no curve.
    """
    curves = {label: [cell.losses for cell in comparison.of(label) if cell.losses] for label in comparison.labels}
    colours_at = {label: index for index, label in enumerate(comparison.labels)}
    curves = {label: lines for label, lines in curves.items() if lines}
    if not curves:
        raise ValueError("At least one learning curve is needed, got none.")
    rows = math.ceil(len(curves) / 2)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(760, 20 + 210 * rows)
        grid = figure.add_gridspec(rows, 2)
        colours = list(itertools.islice(method_colours(theme), len(colours_at)))
        for index, (label, lines) in enumerate(curves.items()):
            axes = new_axes(figure, theme, grid[index // 2, index % 2])
            for line in lines:
                shares, losses = zip(*line, strict=True)
                marker = "o" if len(line) < 3 else ""
                axes.plot(
                    [100 * share for share in shares], losses, color=colours[colours_at[label]], lw=1.4, marker=marker
                )
            axes.set_title(label, color=theme.text, fontsize=11, loc="left")
            axes.set(xlim=(0, 102), ylabel="training loss")
            if index >= len(curves) - 2:
                axes.set_xlabel("share of the training, %")
        return figure

    write_figure(path, draw)


def plot_robustness_of(comparison: Comparison, path: Path) -> bool:
    """Draws the accuracies under corruption, means over the seeds; returns whether there were any."""
    results = {}
    for label in comparison.labels:
        measured = [cell.results["robustness"] for cell in comparison.of(label) if "robustness" in cell.results]
        if measured:
            results[label] = mean_robustness(measured)
    if results:
        plot_robustness(results, path)
    return bool(results)


def mean_robustness(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of ``clean_top1`` and of ``error`` by corruption and severity."""
    count = len(results)
    first = results[0]
    return {
        "clean_top1": sum(float(number(result["clean_top1"]) or 0.0) for result in results) / count,
        "error": {
            name: {severity: sum(float(r["error"][name][severity]) for r in results) / count for severity in errors}
            for name, errors in first["error"].items()
        },
    }


def method_colours(theme: Theme) -> itertools.cycle[str]:
    """A colour for each method, in their order."""
    # As in the figures of a run: its second control has the grey.
    blue, orange, *others, grey = theme.colours
    return itertools.cycle((blue, orange, grey, *others))
