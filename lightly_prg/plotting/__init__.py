"""The figures of a run, each in a light and a dark version (``name.png``, ``name-dark.png``)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lightly_prg.plotting.embeddings import plot_embedding_map
from lightly_prg.plotting.images import plot_samples, plot_trajectory
from lightly_prg.plotting.style import (
    Array,
    Theme,
    dark_twin,
    legend_label,
    log_axis,
    method_colours,
    new_axes,
    new_figure,
    remark,
    write_figure,
)

__all__ = [
    "dark_twin",
    "plot_accuracy_bars",
    "plot_curves",
    "plot_embedding_map",
    "plot_round_trip",
    "plot_samples",
    "plot_trajectory",
]


def plot_curves(rows: Sequence[Mapping[str, float | None]], path: Path) -> None:
    """Draws training and validation loss, and the learning rate in a strip below.

    Args:
        rows: Rows of ``metrics.csv``; ``step``, ``train_loss``, ``validation_loss`` and ``lr`` are
            read, each may be missing or None. Without ``step`` the number of the row stands for it.
        path: Where to write the PNG.
    """
    train, validation, rate = (_series(rows, key) for key in ("train_loss", "validation_loss", "lr"))
    smooth = _smoothed(train[1])
    is_smoothed = smooth is not train[1]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 320)
        has_rate = rate[0].size > 0
        grid = figure.add_gridspec(1 + has_rate, 1, height_ratios=[4, 1][: 1 + has_rate])
        blue, orange, *_ = theme.colours
        axes = new_axes(figure, theme, grid[0])
        axes.set_ylabel("loss")
        if is_smoothed:
            axes.plot(*train, color=blue, lw=0.8, alpha=0.35)
        for (steps, _), values, colour, label in (
            (train, smooth, blue, "training"),
            (validation, validation[1], orange, "validation"),
        ):
            if steps.size:
                marker = "o" if steps.size <= 40 else ""
                axes.plot(steps, values, color=colour, lw=1.8, marker=marker, ms=3.5, label=label)
        if axes.lines:
            axes.legend(frameon=False, labelcolor=theme.text, fontsize=11)
            if _log_scale_helps(smooth if smooth.size else validation[1]):
                log_axis(axes.yaxis, axes.set_yscale)
        else:
            remark(axes, theme, "no finite loss was recorded")
        bottom = axes
        if has_rate:
            bottom = new_axes(figure, theme, grid[1], sharex=axes)
            bottom.plot(*rate, color=theme.muted, lw=1.4)
            bottom.set_ylim(bottom=0.0)
            bottom.set_yticks([0.0, rate[1].max()], ["0", f"{rate[1].max():.2g}"])
            bottom.set_ylabel("learning\nrate", fontsize=10)
            axes.tick_params(labelbottom=False)
        if bottom.lines:
            bottom.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        bottom.set_xlabel("step")
        return figure

    write_figure(path, draw)


def plot_round_trip(curves: Mapping[str, Sequence[tuple[float, float | None]]], path: Path) -> None:
    """Draws the error of encoding and decoding against its price, a curve for each solver, both axes logarithmic.

    Args:
        curves: ``{solver: [(network evaluations of one way, root mean square difference), ...]}``; errors that are
            zero, None or no number are left out.
        path: Where to write the PNG.
    """
    kept = {
        solver: sorted((nfe, error) for nfe, error in points if nfe > 0 and error and 0 < error < float("inf"))
        for solver, points in curves.items()
    }

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 320)
        axes = new_axes(figure, theme)
        axes.set(xlabel="network evaluations an image, one way", ylabel="round-trip error (RMSE)")
        if not any(kept.values()):
            remark(axes, theme, "no error above zero to show")
            return figure
        for (solver, points), colour, marker in zip(
            kept.items(), itertools.cycle(theme.colours), itertools.cycle("osD^vP"), strict=False
        ):
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, lw=1.8, marker=marker, ms=6, label=solver)
        axes.legend(frameon=False, labelcolor=theme.text, fontsize=11)
        axes.margins(x=0.08, y=0.12)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        log_axis(axes.yaxis, axes.set_yscale)
        return figure

    write_figure(path, draw)


def plot_accuracy_bars(accuracies: Mapping[str, Mapping[str, tuple[float, float | None]]], path: Path) -> None:
    """Draws accuracies as horizontal bars: a group for each measure, a bar for each encoder.

    Args:
        accuracies: ``{measure: {encoder: (top-1 in percent, standard deviation or None)}}``. An
            encoder has one colour through all groups.
        path: Where to write the PNG.

    Raises:
        ValueError: If there is no accuracy at all.
    """
    encoders = list(dict.fromkeys(name for group in accuracies.values() for name in group))
    if not encoders:
        raise ValueError("At least one accuracy is needed, got none.")
    bars: dict[str, list[tuple[float, float, float | None]]] = {name: [] for name in encoders}
    titles, y = [], 0.0
    for title, group in accuracies.items():
        titles.append((y, title))
        for name in (name for name in encoders if name in group):
            y += 1.0
            bars[name].append((y, *group[name]))
        y += 1.6

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 25 * y + 70)
        axes = new_axes(figure, theme)
        colours = method_colours(theme, bars)
        for name, places in bars.items():
            lengths = [mean for _, mean, _ in places]
            axes.barh([at for at, *_ in places], lengths, 0.86, color=colours[name], label=legend_label(name))
            for at, mean, deviation in places:
                spread = deviation or 0.0
                text = f"{mean:.1f}" + ("" if deviation is None else f" ± {spread:.1f}")
                if spread:
                    axes.errorbar(mean, at, xerr=spread, color=theme.text, lw=1.2, capsize=3)
                axes.annotate(
                    text, (mean + spread, at), xytext=(6, 0), textcoords="offset points", va="center",
                    color=theme.text, fontsize=10.5,
                )  # fmt: skip
        for at, title in titles:
            axes.annotate(title, (0, at), va="center", color=theme.text, fontsize=11.5)
        axes.grid(axis="y", visible=False)
        axes.set(ylim=(y - 0.9, -0.6), yticks=[], xlim=(0, 122), xticks=range(0, 101, 20))
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("top-1 accuracy, %")
        legend = {"frameon": False, "labelcolor": theme.text, "fontsize": 11}
        figure.legend(loc="outside upper left", ncols=min(len(encoders), 3), **legend)
        return figure

    write_figure(path, draw)


def _series(rows: Sequence[Mapping[str, float | None]], key: str) -> tuple[Array, Array]:
    """Steps and finite values of one column."""
    pairs = []
    for index, row in enumerate(rows):
        step, value = row.get("step"), row.get(key)
        if value is not None and np.isfinite(value):
            pairs.append((float(index if step is None else step), float(value)))
    steps, values = np.array(sorted(pairs, key=lambda pair: pair[0])).reshape(-1, 2).T
    return steps, values


def _smoothed(values: Array) -> Array:
    """Mean over a twentieth of the curve around each point; short curves stay as they are."""
    half = len(values) // 40
    if half == 0:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _log_scale_helps(values: Array) -> bool:
    """Whether a linear axis would press the later three quarters into a fifth of the height."""
    if len(values) < 8 or values.min() <= 0:
        return False
    return bool(np.ptp(values[len(values) // 4 :]) < 0.2 * np.ptp(values))
