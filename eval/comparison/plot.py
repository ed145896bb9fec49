"""Figures of a comparison: accuracy against cost, learning curves, robustness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lightly_prg.eval.comparison.files import Comparison
from lightly_prg.eval.comparison.statistics import pareto_front
from lightly_prg.eval.comparison.table import COSTS, TableRow, shown_cost
from lightly_prg.eval.plot_robustness import plot_robustness
from lightly_prg.eval.result_files import lookup, number
from lightly_prg.plotting.style import (
    Theme,
    legend_label,
    method_colours,
    new_axes,
    new_figure,
    remark,
    widen,
    write_figure,
)

_SHOWN = {
    "training": ("knn", "linear", "few_shot", "finetune"),
    # Fine-tuned, a network is read elsewhere than its frozen feature is, at another cost.
    "embedding": ("knn", "linear", "few_shot"),
}
LEAST_POINTS = 4.0  # of an axis: methods a tenth of a point apart should look as close as they are


def plot_accuracy_against_cost(
    comparison: Comparison, rows: Sequence[TableRow], kind: Literal["training", "embedding"], path: Path
) -> None:
    """Draws accuracy against what a method costs, a panel for each evaluator, with the Pareto front.

    Args:
        comparison: For the titles.
        rows: One for each method; a bar is the standard deviation over seeds.
        kind: The cost: seconds of training, or multiply-adds of an embedding.
        path: Where to write the PNG.
    """
    columns = [column for column in comparison.columns if column.key in _SHOWN[kind]] or list(comparison.columns)
    # Training on a GPU keeps the processor idle for the most part.
    on_cpu = all(lookup(cell.facts, "training", "device") in (None, "cpu") for cell in comparison.cells)
    seconds = "cpu_seconds" if on_cpu else "wall_seconds"
    cost = next(cost for cost in COSTS if cost.key == (seconds if kind == "training" else "embedding_macs"))
    prices = {row.label: price for row in rows if (price := row.costs[cost.key])}
    drawn = [row for row in rows if row.label in prices or row.costs[cost.key] == 0]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(470, 60 + 28 * math.ceil(len(drawn) / 2) + 200 * len(columns))
        colours = method_colours(theme, [row.label for row in rows])
        handles: dict[str, Any] = {}
        for line, column in enumerate(columns, start=1):
            axes = new_axes(figure, theme, len(columns), 1, line)
            for row in drawn:
                if column.key not in row.scores:
                    continue
                mean, colour = row.scores[column.key], colours[row.label]
                if row.label in prices:
                    handles[row.label] = axes.errorbar(
                        prices[row.label], mean.mean, yerr=mean.deviation, color=colour, marker="o", ms=8, capsize=3,
                        lw=0, elinewidth=1.4, label=legend_label(row.label),
                    )  # fmt: skip
                else:
                    # An untrained network has no place on a logarithmic axis; training has to be worth more than it.
                    handles[row.label] = axes.axhline(mean.mean, color=colour, lw=1.4, ls=":", zorder=1)
            points = {
                row.label: (prices[row.label], row.scores[column.key].mean)
                for row in drawn
                if row.label in prices and column.key in row.scores
            }
            draw_front(axes, theme, points)
            if points:
                _price_axis(axes, [price for price, _ in points.values()])
            else:
                remark(axes, theme, "not known")
            axes.margins(y=0.2)
            widen(axes, LEAST_POINTS)
            axes.set_ylabel(f"{column.title}\n{column.detail}, %".replace("\n,", ","))
            if line == len(columns):
                axes.set_xlabel(cost.full)
        if handles:
            labels = [row.label for row in rows if row.label in handles]
            figure.legend(
                [handles[label] for label in labels], [*map(legend_label, labels)], loc="outside upper left", ncols=2,
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
    curves = {label: lines for label, lines in curves.items() if lines}
    if not curves:
        raise ValueError("At least one learning curve is needed, got none.")
    rows = math.ceil(len(curves) / 2)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(760, 20 + 210 * rows)
        grid = figure.add_gridspec(rows, 2)
        colours = method_colours(theme, comparison.labels)
        for index, (label, lines) in enumerate(curves.items()):
            axes = new_axes(figure, theme, grid[index // 2, index % 2])
            for line in lines:
                shares, losses = zip(*line, strict=True)
                marker = "o" if len(line) < 3 else ""
                axes.plot([100 * share for share in shares], losses, color=colours[label], lw=1.4, marker=marker)
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
