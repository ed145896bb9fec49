"""Figures made of images: generated samples, and the path of one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lightly_prg.plotting.style import (
    DPI,
    Array,
    Theme,
    displayable,
    new_figure,
    show_image,
    write_figure,
)

if TYPE_CHECKING:
    from torch import Tensor

_FRAMES = 8


def plot_samples(images: Tensor, path: Path, *, columns: int = 8) -> None:
    """Draws images in a grid, small ones enlarged pixel by pixel.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], with one channel (drawn grey) or three; values outside
            are clipped.
        path: Where to write the PNG.
        columns: Images in a row.

    Raises:
        ValueError: If there is no image, not one or three channels, or no column.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"At least one image and column are needed, got {len(images)}, {columns}.")
    cells = [_cell(image) for image in displayable(images)]
    height, width, _ = cells[0].shape
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    gap = 8

    def draw(theme: Theme) -> Figure:
        shape = rows * (height + gap) - gap, columns * (width + gap) - gap
        canvas = np.broadcast_to(to_rgb(theme.background), (*shape, 3)).copy()
        for index, cell in enumerate(cells):
            top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
            canvas[top : top + height, left : left + width] = cell
        # At the canvas's own resolution nothing is resampled on the way to the file.
        figure = Figure(figsize=(shape[1] / DPI, shape[0] / DPI), dpi=DPI)
        figure.figimage(canvas)
        return figure

    write_figure(path, draw)


def plot_trajectory(
    forward: Tensor,
    forward_tau: Sequence[float] | Tensor,
    backward: Tensor,
    backward_tau: Sequence[float] | Tensor,
    path: Path,
    *,
    round_trip_error: float,
) -> None:
    """Draws one image's way to noise, and the way back below it, equal tau above each other.

    At the right stands what the round trip changed (grey: nothing), amplified by the power of ten
    that shows it best.

    Args:
        forward: ``(K + 1, C, H, W)`` states from the image to noise, with images in [-1, 1].
        forward_tau: The K + 1 positions of ``forward``, rising.
        backward: ``(K' + 1, C, H, W)`` states of the way back.
        backward_tau: The K' + 1 positions of ``backward``, falling.
        path: Where to write the PNG.
        round_trip_error: Root mean square difference, written below the difference.

    Raises:
        ValueError: If there is not one position for each state, or not one or three channels.
    """
    taus = np.asarray(forward_tau, dtype=float), np.asarray(backward_tau, dtype=float)
    for states, tau in zip((forward, backward), taus, strict=True):
        if len(states) == 0 or tau.shape != (len(states),):
            raise ValueError(f"{len(states)} states need one tau each, got {tau.shape}.")
    there = np.unique(np.linspace(0, len(forward) - 1, _FRAMES).round().astype(int))
    back = np.array([np.abs(taus[1] - taus[0][index]).argmin() for index in there])
    rows = (
        ("image → noise", taus[0][there], displayable((forward + 1) / 2)[there]),
        ("image ← noise", taus[1][back], displayable((backward + 1) / 2)[back]),
    )
    change = (backward[int(taus[1].argmin())] - forward[int(taus[0].argmin())]) / 2
    gain = _gain(change.detach().float().abs().cpu().numpy())
    amplified = displayable(0.5 + gain * change[None])[0]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(96 * len(there) + 205, 300, layout=None)
        grid = figure.add_gridspec(
            2, len(there) + 2, width_ratios=[*[1.0] * len(there), 0.1, 1.35],
            left=0.01, right=0.99, top=0.90, bottom=0.08, wspace=0.08, hspace=0.52,
        )  # fmt: skip
        for row, (title, row_taus, frames) in enumerate(rows):
            for column, (tau, frame) in enumerate(zip(row_taus, frames, strict=True)):
                axes = figure.add_subplot(grid[row, column])
                show_image(axes, theme, frame)
                axes.set_xlabel(f"τ = {tau:.2f}", color=theme.muted, fontsize=10.5, labelpad=4)
                if column == 0:
                    axes.set_title(title, color=theme.text, fontsize=12, loc="left", pad=6)
        axes = figure.add_subplot(grid[:, -1], anchor="E")
        show_image(axes, theme, amplified)
        amplification = "" if gain == 1 else f"\n\N{MULTIPLICATION SIGN} {gain:,}"
        axes.set_title(f"difference{amplification}", color=theme.text, fontsize=12, pad=6)
        axes.set_xlabel(f"RMSE {round_trip_error:.2g}", color=theme.text, fontsize=12, labelpad=6)
        return figure

    write_figure(path, draw)


def _gain(magnitude: Array) -> int:
    """The power of ten, at most 1,000, that enlarges differences without clipping many of them."""
    large = float(np.quantile(np.nan_to_num(magnitude), 0.99))
    return next((gain for gain in (1000, 100, 10) if 0 < gain * large <= 0.5), 1)


def _cell(image: Array, size: int = 128) -> Array:
    """Brings ``(H, W, 3)`` near ``size`` pixels: enlarged by a whole number, or averaged."""
    longest = max(image.shape[:2])
    if longest <= size:
        factor = round(size / longest)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (max(1, round(side * size / longest)) for side in image.shape[:2])
    picture = Image.fromarray((255 * image).round().astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX)) / 255.0
