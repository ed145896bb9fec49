"""The figure of a scan: a heat map of what every block is worth at every position on the path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightly_prg.plotting.style import Array, Theme, new_figure, write_figure

_TITLES = {
    "knn": "k-NN top-1, %",
    "linear": "linear probe top-1, %",
    "rankme": "RankMe",
    "alpha_req": "alpha-ReQ (best near 1)",
}
_CELL, _ROW = 44, 27  # CSS pixels
_GAP = 0.22  # before the blocks and before all taus together, in cells


def plot_scan(result: Mapping[str, Any], path: Path) -> None:
    """Draws two heat maps side by side, rows from input to output, columns along the path; the best are framed.

    Accuracies where labels are known, RankMe and alpha-ReQ where not. The colour goes by the logarithm of the
    error, of RankMe or of the distance from 1, which tells the best apart without hiding the rest.

    Args:
        result: The content of eval/scan.json; ``cells`` and ``rows`` are read.
        path: Where to write the PNG.

    Raises:
        ValueError: If there is no cell.
    """
    cells: Sequence[Mapping[str, Any]] = result["cells"]
    if not cells:
        raise ValueError("At least one cell is needed, got none.")
    labelled = any(cell["linear"] is not None for cell in cells)
    positions = sorted({tuple(cell["tau"]) for cell in cells}, key=lambda taus: (len(taus), taus))
    rows = [(row["source"], row["name"], row["pool"]) for row in result["rows"]]
    measures = ("knn", "linear") if labelled else ("rankme", "alpha_req")
    tables = {measure: _table(cells, rows, positions, measure) for measure in measures}
    names = _row_names(rows)
    columns = ["all" if len(taus) > 1 else f"{taus[0]:g}" if taus else "" for taus in positions]
    x = [i + _GAP * (len(taus) > 1) for i, taus in enumerate(positions)]
    is_block = [row["source"] in ("block", "output") for row in result["rows"]]
    y = [i + _GAP * (block and not all(is_block)) for i, block in enumerate(is_block)]

    def draw(theme: Theme) -> Figure:
        width = max(_CELL * (x[-1] + 1), 130)
        label = 8 * max(map(len, names)) + 20
        figure = new_figure(2 * width + label + 50, _ROW * (y[-1] + 1) + (92 if any(columns) else 62))
        for axes, (measure, table) in zip(figure.subplots(1, 2, sharey=True), tables.items(), strict=True):
            _draw_panel(axes, theme, table, measure, x, y)
            axes.set_title(_TITLES[measure], color=theme.text, fontsize=11.5, pad=7)
            axes.set_xticks(x, columns)
            axes.set_yticks(y, names, color=theme.text)
            if any(columns):
                axes.set_xlabel(r"$\tau$  (0 = image, 1 = noise)", color=theme.muted, fontsize=10.5)
        return figure

    write_figure(path, draw)


def _draw_panel(axes: Axes, theme: Theme, table: Array, measure: str, x: Sequence[float], y: Sequence[float]) -> None:
    quality, shades = _quality(table, measure), _shades(theme)
    known = quality[np.isfinite(quality)]
    best = known.max(initial=-np.inf)
    norm = Normalize(known.min(initial=best), best + 1e-9)
    for (row, column), value in np.ndenumerate(table):
        place = (x[column], y[row])
        corner = (x[column] - 0.5, y[row] - 0.5)
        if not np.isfinite(value):
            axes.text(*place, "\N{EN DASH}", color=theme.muted, ha="center", va="center", fontsize=10)
            continue
        shade = shades(norm(quality[row, column]))
        is_best = quality[row, column] == best
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor=theme.background, lw=2))
        axes.text(
            *place, f"{value:.2f}" if measure == "alpha_req" else f"{value:.1f}", color=_readable(shade), ha="center",
            va="center", fontsize=10, fontweight="bold" if is_best else "normal",
        )  # fmt: skip
        if is_best:
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, lw=2.4, edgecolor=theme.colours[1], zorder=3))
    axes.set_xlim(-0.56, x[-1] + 0.56)
    axes.set_ylim(y[-1] + 0.56, -0.56)
    axes.set_facecolor(theme.background)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=theme.muted, labelsize=10.5)


def _quality(table: Array, measure: str) -> Array:
    """What the colour goes by, more being better: logarithms, since what matters spans few points or decades."""
    if measure == "alpha_req":
        return np.asarray(-np.log(np.abs(table - 1.0) + 0.05))
    if measure == "rankme":
        return np.asarray(np.log(table + 1.0))
    return np.asarray(-np.log(100.0 - table + 0.5))  # half a point, so that no error at all is not infinitely far


def _table(
    cells: Sequence[Mapping[str, Any]],
    rows: Sequence[tuple[str, str, str]],
    positions: Sequence[tuple[float, ...]],
    measure: str,
) -> Array:
    table = np.full((len(rows), len(positions)), np.nan)
    for cell in cells:
        name = cell["block"] if cell["block"] is not None else cell["source"]
        value = cell[measure]
        if value is not None:
            row = rows.index((cell["source"], name, cell["pool"]))
            table[row, positions.index(tuple(cell["tau"]))] = value
    return table


def _row_names(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Names for readers: without what all have in common, and with the pool where it tells rows apart."""
    several = len({row[:2] for row in rows}) < len(rows)
    short = [(name.removeprefix("masked.vit."), pool) for _, name, pool in rows]
    return [f"{name}  {pool}" if several else name for name, pool in short]


def _shades(theme: Theme) -> LinearSegmentedColormap:
    """From near the background to far from it, by way of the theme's blue."""
    light = sum(to_rgb(theme.background)) > 1.5
    ends = ("#f1f5fa", "#a9cdee", "#3f90da", "#153f6b") if light else ("#1b222c", "#234a73", "#3f90da", "#c4e2ff")
    return LinearSegmentedColormap.from_list("scan", ends)


def _readable(shade: tuple[float, ...]) -> str:
    red, green, blue = shade[:3]
    return "#15191f" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.52 else "#ffffff"
