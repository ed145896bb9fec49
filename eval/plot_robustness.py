"""Figures of robustness: accuracy under corruption, and a gallery of the corruptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from lightly_prg.eval.corruptions import CORRUPTIONS, corrupt
from lightly_prg.plotting.style import (
    Theme,
    displayable,
    legend_label,
    method_colours,
    new_axes,
    new_figure,
    show_image,
    write_figure,
)
from lightly_prg.randomness import generator_for

_ROW = 5  # corruptions beside each other in the gallery


def plot_robustness(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws accuracy against severity, mean over the corruptions, and a bar for each corruption.

    Args:
        results: By label, what ``result_to_dict`` makes of a ``RobustnessResult``, or the same as it was read from
            JSON; ``clean_top1``, drawn as severity 0, and ``error`` are read.
        path: Where to write the PNG.

    Raises:
        ValueError: If there is no result.
    """
    if not results:
        raise ValueError("At least one result is needed, got none.")
    errors = {
        label: {name: {int(key): float(value) for key, value in row.items()} for name, row in result["error"].items()}
        for label, result in results.items()
    }
    names = [name for name in CORRUPTIONS if any(name in error for error in errors.values())]
    curves = {label: _curve(float(results[label]["clean_top1"]), error) for label, error in errors.items()}

    def draw(theme: Theme) -> Figure:
        below = (11 * len(results) + 9) * len(names)
        figure = new_figure(470, 330 + below)
        grid = figure.add_gridspec(2, 1, height_ratios=[240, below])
        colours = method_colours(theme, errors)
        lines = new_axes(figure, theme, grid[0])
        for label, curve in curves.items():
            lines.plot(
                list(curve),
                list(curve.values()),
                marker="o",
                ms=5,
                lw=2,
                color=colours[label],
                label=legend_label(label),
            )
        severities = sorted({severity for curve in curves.values() for severity in curve})
        lines.set_xticks(severities, ["clean" if severity == 0 else str(severity) for severity in severities])
        lines.set(ylim=(0, 100), xlabel="severity", ylabel="top-1 accuracy,\nmean over corruptions, %")
        bars = new_axes(figure, theme, grid[1])
        height = 0.84 / len(errors)
        for index, (label, error) in enumerate(errors.items()):
            shown = [(at, 100 - _mean(error[name])) for at, name in enumerate(names) if name in error]
            places = [at + (index - (len(errors) - 1) / 2) * height for at, _ in shown]
            bars.barh(places, [value for _, value in shown], height * 0.94, color=colours[label])
            for place, (_, value) in zip(places, shown, strict=True):
                bars.annotate(
                    f"{value:.1f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center",
                    color=theme.text, fontsize=8.5,
                )  # fmt: skip
        bars.set_yticks(range(len(names)), [_title(name) for name in names], color=theme.text)
        bars.yaxis.set_minor_locator(NullLocator())
        bars.grid(axis="y", visible=False)
        bars.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 112), xticks=range(0, 101, 20))
        bars.set_xlabel("top-1 accuracy, mean over severities, %")
        figure.legend(
            *lines.get_legend_handles_labels(), loc="outside upper left", ncols=min(len(errors), 3), frameon=False,
            labelcolor=theme.text, fontsize=11,
        )  # fmt: skip
        return figure

    write_figure(path, draw)


def plot_corruptions(images: Tensor, path: Path, *, severity: int = 3, seed: int = 0) -> None:
    """Draws a gallery: a few images, clean and under every corruption.

    Args:
        images: ``(N, C, S, S)`` uint8 with C = 1 or 3, S of at least 16; at most four are shown.
        path: Where to write the PNG.
        severity: 1 to 5.
        seed: Decides the draws.

    Raises:
        UserError: If the images cannot be corrupted, or there is no such severity.
        ValueError: If there is no image, or not of uint8.
    """
    if len(images) == 0:
        raise ValueError("At least one image is needed, got none.")
    images = images[:4].cpu()
    columns = {"clean": images}
    for name in CORRUPTIONS:
        generator = generator_for(seed, "corruption", name, severity, 0)
        columns[_title(name)] = corrupt(images, name, severity, generator=generator)
    blocks = [list(columns)[first : first + _ROW] for first in range(1, len(columns), _ROW)]
    shown = {title: displayable(column.float() / 255) for title, column in columns.items()}
    count = len(images)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(112 * (_ROW + 1), len(blocks) * (104 * count + 34), layout=None)
        outer = figure.add_gridspec(
            len(blocks), 1, left=0.01, right=0.99, top=1 - 0.09 / (count + 1), bottom=0.01, hspace=0.28 / count
        )
        for index, block in enumerate(blocks):
            grid = outer[index].subgridspec(count, _ROW + 1, wspace=0.06, hspace=0.06)
            # The clean images stand before each row, to compare with.
            for column, title in enumerate(["clean", *block]):
                for row in range(count):
                    axes = figure.add_subplot(grid[row, column])
                    show_image(axes, theme, shown[title][row])
                    if row == 0:
                        axes.set_title(title, color=theme.text if column else theme.muted, fontsize=10, pad=4)
        return figure

    write_figure(path, draw)


def _curve(clean_top1: float, error: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Accuracy by severity, the mean over the corruptions; clean images have severity 0."""
    severities = sorted({severity for row in error.values() for severity in row})
    curve = {severity: 100 - float(np.mean([row[severity] for row in error.values()])) for severity in severities}
    return {0: clean_top1, **curve}


def _mean(by_severity: Mapping[int, float]) -> float:
    return float(np.mean(list(by_severity.values())))


def _title(name: str) -> str:
    return {"jpeg_compression": "JPEG"}.get(name, name.replace("_", " ").removesuffix(" transform"))
