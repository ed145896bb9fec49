"""The figure of a tested claim: every difference with its interval, and where the claim says that it lies."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightly_prg.claims.findings import Finding
from lightly_prg.plotting.style import Theme, legend_label, new_axes, new_figure, remark, write_figure

_LINE = 15  # CSS pixels, of a name
_FRAME = 52  # of a panel: the axis and its title
_LETTERS = 40  # of a line of a name
_SPREAD = 20  # of a row, that the data sets share


def plot_findings(findings: Sequence[Finding], path: Path) -> None:
    """Draws a row for each difference and a panel for each unit; what decides is filled, what is claimed shaded.

    Args:
        findings: In the order in which they are told.
        path: Where to write the PNG.
    """
    deciding = {finding.unit for finding in findings if finding.side is not None}
    units = sorted(dict.fromkeys(finding.unit for finding in findings), key=lambda unit: unit not in deciding)
    panels = [[finding for finding in findings if finding.unit == unit] for unit in units]
    sets = list(dict.fromkeys(finding.data for finding in findings))
    heights = [_FRAME + sum(_row(name) for name in {finding.name for finding in panel}) for panel in panels]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(760, 40 + max(sum(heights), _FRAME))
        if not panels:
            remark(new_axes(figure, theme), theme, "nothing was measured")
            return figure
        grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
        colours = dict(zip(sets, cycle(theme.colours), strict=False))
        for place, panel in enumerate(panels):
            _draw_panel(new_axes(figure, theme, grid[place]), theme, panel, colours)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True))
        figure.legend(
            list(found.values()), list(found), loc="outside upper left", ncols=4, frameon=False, labelcolor=theme.text,
            fontsize=11,
        )  # fmt: skip
        return figure

    write_figure(path, draw)


def _wrapped(name: str) -> str:
    return textwrap.fill(name, _LETTERS)


def _row(name: str) -> int:
    """Its height in CSS pixels: as many lines as its name, at least two, and a gap."""
    return 10 + _LINE * max(2, _wrapped(name).count("\n") + 1)


def _draw_panel(axes: Axes, theme: Theme, panel: Sequence[Finding], colours: Mapping[str, str]) -> None:
    names = list(dict.fromkeys(finding.name for finding in panel))
    ends = dict(zip(names, accumulate(_row(name) for name in names), strict=True))
    centres = {name: end - _row(name) / 2 for name, end in ends.items()}
    for finding in panel:
        if not finding.is_measured:
            continue
        colour, difference = colours[finding.data], finding.difference
        index = list(colours).index(finding.data)
        height = centres[finding.name] + _SPREAD * ((index + 0.5) / len(colours) - 0.5)
        axes.scatter(
            list(difference.by_seed.values()), [height] * len(difference.by_seed), s=9, color=colour, alpha=0.6
        )
        axes.errorbar(
            difference.mean, height, xerr=difference.half_width, color=colour, marker="o", ms=7, lw=0, elinewidth=1.8,
            capsize=3, markerfacecolor=colour if finding.side is not None else theme.background,
            label=legend_label(finding.data),
        )  # fmt: skip
    axes.axvline(0.0, color=theme.muted, lw=1.0)
    low, high = axes.get_xlim()
    for name, one in {finding.name: finding for finding in panel if finding.side is not None}.items():
        assert one.side is not None
        margin = one.margin
        edges = {"above": (margin, high), "below": (low, margin), "within": (-margin, margin)}[one.side]
        left, right = max(edges[0], low), min(edges[1], high)
        if left < right:
            top, bottom = ends[name] - _row(name) + 2, ends[name] - 2
            axes.fill_between([left, right], top, bottom, color=theme.grid, lw=0, zorder=0.5)
    axes.set_xlim(low, high)
    axes.set_yticks(list(centres.values()), [_wrapped(name) for name in names], color=theme.text, fontsize=9.5)
    axes.set_ylim(sum(_row(name) for name in names), 0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"difference, {panel[0].unit}" if panel[0].unit else "difference")
