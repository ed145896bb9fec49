"""What all figures share: two themes, axes, and writing both versions of a file.

Figures are drawn on their own canvases: nothing touches pyplot's global state or needs a display.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lightly_prg.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]

DPI = 192  # two pixels for each CSS pixel, of which an inch has 96


@dataclass(frozen=True)
class Theme:
    """Colours of one theme.

    Attributes:
        background: Behind the figure; the cards of the report have the same.
        text: Titles, names and values.
        muted: Ticks and remarks.
        grid: Grid lines and frames.
        colours: Petroff's ten colours, made to be told apart by colour-blind readers
            (arXiv 2107.02270), the greys last.
    """

    background: str
    text: str
    muted: str
    grid: str
    colours: tuple[str, ...]


_COLOURS = "#3f90da #e76300 #832db6 #ffa90e #bd1f01 #92dadd #a96b59 #b9ac70 #717581 #94a4a2"
LIGHT = Theme("#ffffff", "#1b1f24", "#59636e", "#e3e7eb", tuple(_COLOURS.split()))
# Two colours are lifted for the dark theme, where they would have a contrast below 3.
_LIFTED = _COLOURS.replace("#832db6", "#a05ad6").replace("#bd1f01", "#dd4526")
DARK = Theme("#15191f", "#e6eaef", "#9aa5b1", "#2c333c", tuple(_LIFTED.split()))


def method_colours(theme: Theme, labels: Iterable[str]) -> dict[str, str]:
    """A colour for each method that is compared, in their order."""
    # In the figures of a run the third is its second control, a baseline of the baseline, so it has the grey.
    blue, orange, *others, grey = theme.colours
    return dict(zip(labels, itertools.cycle((blue, orange, grey, *others)), strict=False))


def legend_label(text: str) -> str:
    """The text as matplotlib shows it in a legend, from which it leaves out what begins with an underscore."""
    return f" {text}" if text.startswith("_") else text


def dark_twin(path: Path) -> Path:
    """The path of the dark version of a figure: ``name.png`` -> ``name-dark.png``."""
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def write_figure(path: Path, draw: Callable[[Theme], Figure]) -> None:
    """Draws a figure in both themes and writes each in one step.

    Raises:
        ValueError: If the path does not end in ``.png``.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"Figures are written as .png, got {path.name!r}.")
    for theme, target in ((LIGHT, path), (DARK, dark_twin(path))):
        # A dollar sign in a label is one, and begins no formula.
        with replacing(target) as temporary, rc_context({"text.parse_math": False}):
            draw(theme).savefig(temporary, format="png", dpi=DPI, facecolor=theme.background)


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure of so many CSS pixels."""
    return Figure(figsize=(width / 96, height / 96), dpi=DPI, layout=layout)


def new_axes(figure: Figure, theme: Theme, *place: Any, sharex: Axes | None = None) -> Axes:
    """Axes with a light grid and no frame."""
    axes: Axes = figure.add_subplot(*place, sharex=sharex)
    axes.set_facecolor(theme.background)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=theme.muted, labelsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(size=11, color=theme.text)
    return axes


def widen(axes: Axes, least: float, which: Literal["x", "y"] = "y") -> None:
    """Makes an axis span at least so much, about its middle."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    missing = max(0.0, least - (high - low)) / 2
    axes.set(**{f"{which}lim": (low - missing, high + missing)})


def log_axis(axis: Any, set_scale: Callable[[str], None]) -> None:
    """Makes an axis logarithmic with plain numbers, of which some also stand within a decade."""
    set_scale("log")
    low, high = axis.get_view_interval()
    within = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(subs=within, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def show_image(axes: Axes, theme: Theme, image: Array) -> None:
    """Shows ``(H, W, 3)`` in a thin frame, small images with visible pixels."""
    axes.imshow(image, interpolation="nearest" if max(image.shape[:2]) < 96 else "auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(theme.grid)


def remark(axes: Axes, theme: Theme, text: str) -> None:
    """Says in the middle of empty axes why they are empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, color=theme.muted, ha="center", va="center", transform=axes.transAxes)


def displayable(images: Tensor | Array) -> Array:
    """``(N, C, H, W)`` -> ``(N, H, W, 3)`` clipped to [0, 1]; what is no number becomes black.

    Raises:
        ValueError: If there are not one or three channels.
    """
    array = images if isinstance(images, np.ndarray) else images.detach().float().cpu().numpy()
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"Images (N, C, H, W) with C = 1 or 3 are needed, got {array.shape}.")
    array = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
    array = array.transpose(0, 2, 3, 1)
    return np.asarray(np.broadcast_to(array, (*array.shape[:3], 3)))
