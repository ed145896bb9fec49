"""The figures of a flow's measurements: likelihood, loss along the path, noise end, information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightly_prg.plotting.style import Theme, log_axis, new_axes, new_figure, write_figure


def plot_likelihood(bits: Sequence[float], uniform: float, path: Path) -> None:
    """Draws how bits per dimension are spread over the images.

    Args:
        bits: One value for each image.
        uniform: What a code costs that knows nothing, drawn as a line.
        path: Where to write the PNG.
    """
    values = np.asarray(bits, dtype=float)
    mean = float(values.mean())

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 320)
        axes = new_axes(figure, theme)
        axes.hist(values, bins=min(30, max(5, len(values) // 4)), color=theme.colours[0])
        axes.axvline(mean, color=theme.text, lw=1.8, label=f"mean {mean:.2f}")
        axes.axvline(uniform, color=theme.colours[1], lw=1.8, ls="--", label=f"knows nothing {uniform:.2f}")
        axes.grid(axis="x", visible=False)
        axes.set(xlabel="bits per dimension", ylabel="images")
        _legend(figure, axes, theme)
        return figure

    write_figure(path, draw)


def plot_loss_by_tau(
    edges: Sequence[float],
    mean: Sequence[float],
    standard_error: Sequence[float] | None,
    path: Path,
    *,
    constant: Sequence[float] | None = None,
    linear: Sequence[float] | None = None,
) -> None:
    """Draws the flow-matching loss along the path beside predictors in closed form.

    Args:
        edges: Ends of the K bins, K + 1 positions.
        mean: Loss in each bin.
        standard_error: Of it.
        path: Where to write the PNG.
        constant: Loss of the mean velocity.
        linear: Loss of the best linear predictor.
    """
    middles = (np.asarray(edges[:-1]) + np.asarray(edges[1:])) / 2

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 320)
        axes = new_axes(figure, theme)
        if constant is not None:
            axes.plot(middles, constant, color=theme.muted, lw=1.6, ls=":", label="mean velocity")
        if linear is not None:
            axes.plot(middles, linear, color=theme.colours[1], lw=1.6, ls="--", label="best linear")
        axes.errorbar(
            middles, mean, yerr=None if standard_error is None else 2 * np.asarray(standard_error),
            color=theme.colours[0], lw=1.8, marker="o", ms=5, capsize=3, label="network",
        )  # fmt: skip
        axes.set(xlabel="τ (0 image, 1 noise)", ylabel="flow-matching loss", xlim=(edges[0], edges[-1]))
        axes.set_ylim(bottom=0.0)
        _legend(figure, axes, theme)
        return figure

    write_figure(path, draw)


def plot_gaussianity(statistics: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the covariance spectrum, and the distance to N(0, I), of the noise end, pixels and true Gaussian samples.

    Args:
        statistics: ``GaussianStatistics`` as dictionaries, for ``noise``, ``pixels`` and ``floor``.
        path: Where to write the PNG.
    """
    names = {"noise": "noise end", "pixels": "raw pixels", "floor": "true Gaussian"}

    def draw(theme: Theme) -> Figure:
        figure = new_figure(760, 330)
        grid = figure.add_gridspec(1, 2, width_ratios=[1.5, 1])
        left, right = new_axes(figure, theme, grid[0]), new_axes(figure, theme, grid[1])
        colours = dict(zip(names, (theme.colours[0], theme.colours[1], theme.colours[8]), strict=True))
        for name, title in names.items():
            # What is 0 up to rounding would stretch the axis over ten decades.
            values = np.maximum(np.asarray(statistics[name]["spectrum"], dtype=float), 1e-4)
            share = np.linspace(0, 100, len(values))
            style = "--" if name == "floor" else "-"
            left.plot(share, values, color=colours[name], lw=1.8, ls=style, label=title)
        left.set(xlabel="rank of the direction, %", ylabel="variance along it")
        log_axis(left.yaxis, left.set_yscale)
        distances = [float(statistics[name]["sliced_wasserstein"]) for name in names]
        places = list(range(len(names)))
        right.barh(places, distances, 0.6, color=[colours[name] for name in names])
        for place, distance in zip(places, distances, strict=True):
            right.annotate(
                f"{distance:.2g}", (distance, place), xytext=(6, 0), textcoords="offset points", va="center",
                color=theme.text, fontsize=10.5,
            )  # fmt: skip
        right.set_yticks(places, list(names.values()))
        right.invert_yaxis()
        right.grid(axis="y", visible=False)
        right.set_xlim(0, 1.25 * max(distances, default=1.0))
        right.set_xlabel("sliced Wasserstein distance")
        _legend(figure, left, theme)
        return figure

    write_figure(path, draw)


def plot_channel(curve: Mapping[str, Any], path: Path) -> None:
    """Draws the error of the decoded image, and the bits it leaves open, against the noise on the code.

    Args:
        curve: A ``ChannelCurve`` as a dictionary.
        path: Where to write the PNG.
    """
    sigma = np.asarray(curve["sigma"], dtype=float)
    # A logarithmic axis has no place for 0: it stands one step to the left.
    positive = sigma[sigma > 0]
    zero = (positive.min() if positive.size else 1.0) / 3
    places = np.where(sigma > 0, sigma, zero)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(760, 330)
        grid = figure.add_gridspec(1, 2)
        left, right = new_axes(figure, theme, grid[0]), new_axes(figure, theme, grid[1])
        blue, orange, *_ = theme.colours
        left.plot(places, np.sqrt(curve["mse"]), color=blue, lw=1.8, marker="o", ms=5, label="flow, decoded")
        right.plot(places, curve["missing_bits"], color=blue, lw=1.8, marker="o", ms=5)
        if curve.get("pixels_mse") is not None:
            style: dict[str, Any] = {"color": orange, "lw": 1.8, "ls": "--", "marker": "s", "ms": 4}
            left.plot(places, np.sqrt(curve["pixels_mse"]), label="raw pixels, best linear decoder", **style)
            right.plot(places, curve["pixels_missing_bits"], **style)
        left.set_ylabel("error of the image (RMSE)")
        right.set_ylabel("missing bits per dimension")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{value:g}" for value in sigma])
            axes.minorticks_off()
            axes.set_xlabel("standard deviation of the noise on the code")
        left.set_ylim(bottom=0.0)
        _legend(figure, left, theme)
        return figure

    write_figure(path, draw)


def plot_label_information(content: Mapping[str, Any], path: Path) -> None:
    """Draws the bits of the label that a linear probe reads from the state, against tau.

    Args:
        content: ``tau`` with a ``LabelInformation`` dictionary each in ``state``, another one in ``embedding``, and
            the ``entropy`` of the labels.
        path: Where to write the PNG.
    """
    bits = [one["bits"] for one in content["state"]]
    errors = [2 * (one["standard_error"] or 0.0) for one in content["state"]]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 320)
        axes = new_axes(figure, theme)
        blue, orange, *_ = theme.colours
        axes.axhline(content["entropy"], color=theme.muted, lw=1.4, ls=":", label="all of the label")
        axes.axhline(content["embedding"]["bits"], color=orange, lw=1.8, ls="--", label="the run's embedding")
        axes.errorbar(content["tau"], bits, yerr=errors, color=blue, lw=1.8, marker="o", ms=5, capsize=3, label="state")
        axes.set(xlabel="τ (0 image, 1 noise)", ylabel="bits of the label")
        axes.set_ylim(bottom=min(0.0, *bits), top=1.05 * content["entropy"])
        _legend(figure, axes, theme)
        return figure

    write_figure(path, draw)


def _legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, labelcolor=theme.text, fontsize=11)
