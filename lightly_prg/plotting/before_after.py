"""Images that two models made from the same noise, beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lightly_prg.plotting.style import Array, Theme, displayable, new_figure, write_figure

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 4
_CELL = 64  # CSS pixels of an image
_GAP = 16  # between two grids
_TITLE = 28


def plot_before_after(samples: Mapping[str, Tensor], path: Path) -> None:
    """Draws one grid of images for each title, from left to right, the same place for the same noise.

    Args:
        samples: Title to ``(N, C, H, W)`` in [0, 1], with one channel or three, as many for each.
        path: Where to write the PNG.

    Raises:
        ValueError: If there is nothing to draw, or one grid has more images than another.
    """
    counts = {len(images) for images in samples.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(f"As many images are needed for each title, got {sorted(counts)}.")
    rows = -(-counts.pop() // _COLUMNS)
    grids = {title: displayable(images) for title, images in samples.items()}

    def draw(theme: Theme) -> Figure:
        width, height = len(grids) * (_COLUMNS * _CELL + _GAP) - _GAP, rows * _CELL + _TITLE
        figure = new_figure(width, height, layout=None)
        for number, (title, images) in enumerate(grids.items()):
            left = number * (_COLUMNS * _CELL + _GAP) / width
            axes = figure.add_axes((left, 0.0, _COLUMNS * _CELL / width, rows * _CELL / height))
            axes.imshow(_tiled(images, rows, theme), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            axes.set_title(title, color=theme.text, fontsize=12, loc="left", pad=6)
        return figure

    write_figure(path, draw)


def _tiled(images: Array, rows: int, theme: Theme) -> Array:
    """Puts ``(N, H, W, 3)`` into one picture, in rows of four, with a thin line between them."""
    height, width = images.shape[1:3]
    factor = max(1, round(2 * _CELL / max(height, width)))  # small pixels stay square and sharp
    height, width, line = height * factor, width * factor, 2
    picture = np.broadcast_to(to_rgb(theme.background), (rows * (height + line), _COLUMNS * (width + line), 3)).copy()
    for index, image in enumerate(images):
        top, left = index // _COLUMNS * (height + line), index % _COLUMNS * (width + line)
        picture[top : top + height, left : left + width] = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return picture
