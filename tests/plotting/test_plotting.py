from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lightly_prg import plotting
from lightly_prg.plotting import (
    dark_twin,
    plot_accuracy_bars,
    plot_curves,
    plot_embedding_map,
    plot_round_trip,
    plot_samples,
    plot_trajectory,
)
from lightly_prg.plotting import embeddings as plot_embeddings
from lightly_prg.plotting import images as plot_images
from lightly_prg.plotting.style import DARK, LIGHT, new_axes, new_figure, widen, write_figure


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def check_written(path: Path) -> None:
    """Both themes are there, decode, show something, and differ; nothing else is left behind."""
    assert sorted(path.parent.iterdir()) == sorted([path, dark_twin(path)])
    for theme, file in ((LIGHT, path), (DARK, dark_twin(path))):
        picture = pixels(file)
        background = (np.array(to_rgb(theme.background)) * 255).round()
        is_background = (picture == background).all(axis=-1)
        assert is_background.any()
        assert not is_background.all()


def drawn(monkeypatch: pytest.MonkeyPatch, module: ModuleType, draw: Callable[[], None]) -> Figure:
    """The light figure that a plotting function draws, before it becomes pixels."""
    figures: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_figure", lambda path, make: figures.append(make(LIGHT)))
        draw()
    return figures[0]


def spiral(count: int) -> tuple[torch.Tensor, list[float]]:
    states = torch.linspace(-1, 1, count)[:, None, None, None].expand(count, 1, 4, 4)
    return states, torch.linspace(0, 1, count).tolist()


ROWS: list[dict[str, float | None]] = [
    {
        "step": s,
        "train_loss": 1 / (s + 1),
        "validation_loss": 0.5 if s % 20 == 0 else None,
        "lr": 0.1,
    }
    for s in range(100)
]
FORWARD, TAU = spiral(11)
DRAWINGS: dict[str, Callable[[Path], None]] = {
    "curves": lambda path: plot_curves(ROWS, path),
    "curves of nothing": lambda path: plot_curves([], path),
    "curves of one step": lambda path: plot_curves([{"step": 1, "train_loss": 0.5}], path),
    "samples": lambda path: plot_samples(torch.rand(5, 3, 8, 8), path, columns=3),
    "trajectory": lambda path: plot_trajectory(FORWARD, TAU, FORWARD.flip(0), TAU[::-1], path, round_trip_error=0.1),
    "round trip": lambda path: plot_round_trip({"euler": [(1, 0.4), (2, 0.2)], "rk4": [(4, 0.1)]}, path),
    "round trip of nothing": lambda path: plot_round_trip({"euler": [(4, math.nan)], "dopri5": []}, path),
    "bars": lambda path: plot_accuracy_bars({"k-NN": {"PRG": (90.0, None), "raw": (80.0, 1.0)}}, path),
    "map": lambda path: plot_embedding_map(
        np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2, ["a", "b"], path
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure__is_written_in_both_themes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "name.png"  # the folder is made
    DRAWINGS[name](path)
    check_written(path)


def test_figures__are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        DRAWINGS["map"](tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_writing__keeps_the_former_file_when_drawing_fails(tmp_path: Path) -> None:
    (tmp_path / "name.png").write_text("former")

    def fail(theme: Any) -> Figure:
        raise RuntimeError(theme)

    with pytest.raises(RuntimeError):
        write_figure(tmp_path / "name.png", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["name.png"]
    assert (tmp_path / "name.png").read_text() == "former"


def test_writing__refuses_other_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'name\.jpg'"):
        plot_curves([], tmp_path / "name.jpg")


@pytest.mark.parametrize(("drawn", "expected"), [((50.0, 50.1), (48.05, 52.05)), ((40.0, 50.0), (40.0, 50.0))])
def test_widen__spans_at_least_what_is_asked_about_the_middle(
    drawn: tuple[float, float], expected: tuple[float, float]
) -> None:
    axes = new_axes(new_figure(200, 200), LIGHT, 1, 1, 1)
    axes.set_ylim(*drawn)
    widen(axes, 4.0)
    assert axes.get_ylim() == pytest.approx(expected)


def test_import__brings_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, lightly_prg.plotting; "
        "print([m for m in ('matplotlib.pyplot', 'torch', 'sklearn') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


# Curves


def test_curves__leave_out_what_is_not_a_number_and_sort_by_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows: list[dict[str, float | None]] = [
        {"step": 3, "train_loss": 1.0, "validation_loss": None, "lr": None},
        {"step": 1, "train_loss": 2.0, "validation_loss": 5.0},
        {"step": 2, "train_loss": math.nan},
    ]
    figure = drawn(monkeypatch, plotting, lambda: plot_curves(rows, tmp_path / "x.png"))
    training, validation = figure.axes[0].lines
    assert training.get_xydata().tolist() == [[1, 2], [3, 1]]
    assert validation.get_xydata().tolist() == [[1, 5]]
    assert len(figure.axes) == 1  # no learning rate, no strip for it


def test_curves__smooth_long_series_and_keep_the_raw_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"step": float(s), "train_loss": 1.0 + (-1) ** s} for s in range(400)]
    figure = drawn(monkeypatch, plotting, lambda: plot_curves(rows, tmp_path / "x.png"))
    raw, smooth = (np.asarray(line.get_ydata()) for line in figure.axes[0].lines)
    assert np.ptp(raw) == 2
    assert np.abs(smooth - 1).max() <= 1 / 11 + 1e-12  # the mean of at least 11 of 0, 2, 0, 2, ...


@pytest.mark.parametrize(("decay", "scale"), [(0.9, "log"), (0.999, "linear")])
def test_curves__are_logarithmic_only_where_it_helps(
    decay: float, scale: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"step": float(s), "train_loss": decay**s} for s in range(100)]
    figure = drawn(monkeypatch, plotting, lambda: plot_curves(rows, tmp_path / "x.png"))
    assert figure.axes[0].get_yscale() == scale


# Samples


def test_samples__are_enlarged_pixel_by_pixel(tmp_path: Path) -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[0, :, 0, 1] = torch.tensor([1.0, 0.0, 0.2])
    plot_samples(image, tmp_path / "x.png")
    picture = pixels(tmp_path / "x.png")
    assert picture.shape == (128, 128, 3)
    expected = np.zeros((128, 128, 3))
    expected[:16, 16:32] = [255, 0, 51]
    assert np.array_equal(picture, expected)


def test_samples__stand_in_rows_on_the_background(tmp_path: Path) -> None:
    plot_samples(torch.ones(3, 1, 64, 64) * 0.4, tmp_path / "x.png", columns=2)
    for path, theme in ((tmp_path / "x.png", LIGHT), (tmp_path / "x-dark.png", DARK)):
        picture = pixels(path)
        assert picture.shape == (264, 264, 3)
        background = [round(255 * value) for value in to_rgb(theme.background)]
        assert picture[64, 132].tolist() == background  # the gap
        assert picture[200, 200].tolist() == background  # the empty fourth place
        assert picture[200, 64].tolist() == [102, 102, 102]  # grey stays grey


def test_samples__are_reduced_by_averaging(tmp_path: Path) -> None:
    image = torch.zeros(1, 1, 256, 512)
    image[..., ::2] = 1.0
    plot_samples(image, tmp_path / "x.png")
    picture = pixels(tmp_path / "x.png")
    assert picture.shape == (64, 128, 3)
    assert np.abs(picture.astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    ("shape", "columns"), [((0, 1, 8, 8), 8), ((2, 2, 8, 8), 8), ((1, 8, 8), 8), ((2, 1, 8, 8), 0)]
)
def test_samples__refuse_what_is_no_set_of_images(shape: tuple[int, ...], columns: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needed"):
        plot_samples(torch.zeros(shape), tmp_path / "x.png", columns=columns)


# Trajectory


def test_trajectory__puts_equal_tau_above_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forward, tau = spiral(50)
    backward, back_tau = forward[::7].flip(0), tau[::7][::-1]  # 0, 1/7, ..., 1, falling
    figure = drawn(
        monkeypatch,
        plot_images,
        lambda: plot_trajectory(forward, tau, backward + 0.04, back_tau, tmp_path / "x.png", round_trip_error=0.02),
    )
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[:8] == [f"τ = {k / 7:.2f}" for k in range(8)]
    assert labels[8:16] == labels[:8]
    assert labels[16] == "RMSE 0.02"
    shades = [float(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes]
    assert shades[:8] == pytest.approx([k / 7 for k in range(8)], abs=1e-6)
    assert shades[8:15] == pytest.approx([k / 7 + 0.02 for k in range(7)], abs=1e-6)
    assert shades[15] == 1.0  # clipped
    # On the [0, 1] scale the difference is 0.02: ten times that on middle grey.
    assert figure.axes[16].get_title() == "difference\n\N{MULTIPLICATION SIGN} 10"
    assert shades[16] == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize(("change", "factor"), [(0.0, 1), (1e-5, 1000), (0.008, 100), (2.0, 1)])
def test_trajectory__amplifies_what_would_not_be_seen(
    change: float, factor: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forward, tau = spiral(2)
    figure = drawn(
        monkeypatch,
        plot_images,
        lambda: plot_trajectory(
            forward,
            tau,
            forward.flip(0) + change,
            tau[::-1],
            tmp_path / "x.png",
            round_trip_error=0,
        ),
    )
    expected = "difference" if factor == 1 else f"difference\n\N{MULTIPLICATION SIGN} {factor:,}"
    assert figure.axes[-1].get_title() == expected


def test_trajectory__needs_a_tau_for_each_state(tmp_path: Path) -> None:
    forward, tau = spiral(5)
    with pytest.raises(ValueError, match="one tau each"):
        plot_trajectory(forward, tau[1:], forward, tau, tmp_path / "x.png", round_trip_error=0.0)


# Round trip and bars


def test_round_trip__has_a_curve_for_each_solver_and_no_zeros(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    curves: dict[str, list[tuple[float, float | None]]] = {
        "euler": [(8, 0.1), (2, 0.4), (4, 0.0), (16, math.inf), (64, None), (32, 0.05)],
        "none": [(4, None)],
        "rk4": [(8, 0.01)],
    }
    figure = drawn(monkeypatch, plotting, lambda: plot_round_trip(curves, tmp_path / "x.png"))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["euler", "rk4"]
    assert axes.lines[0].get_xydata().tolist() == [[2, 0.4], [8, 0.1], [32, 0.05]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    figure.draw_without_rendering()
    assert {"2", "8", "32"} <= {text.get_text() for text in axes.get_xticklabels()}


def test_round_trip__has_ticks_within_a_decade_but_not_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for smallest in (0.2, 1e-4):
        curves = {"euler": [(1.0, 0.4), (2.0, smallest)]}
        figure = drawn(monkeypatch, plotting, lambda curves=curves: plot_round_trip(curves, tmp_path / "x.png"))
        low, high = figure.axes[0].get_ylim()
        ticks = [tick for tick in figure.axes[0].get_yticks() if low <= tick <= high]
        assert 3 <= len(ticks) <= 6


def test_bars__have_the_length_and_the_text_of_the_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracies = {
        "k-NN": {"PRG": (50.0, None), "raw": (25.0, None)},
        "linear": {"PRG": (75.5, 2.0), "other": (100.0, None)},
    }
    figure = drawn(monkeypatch, plotting, lambda: plot_accuracy_bars(accuracies, tmp_path / "x.png"))
    (axes,) = figure.axes
    widths = {
        str(bars.get_label()): [patch.get_width() for patch in bars.patches]
        for bars in axes.containers
        if hasattr(bars, "patches")
    }
    assert widths == {"PRG": [50, 75.5], "raw": [25], "other": [100]}
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"50.0", "25.0", "75.5 ± 2.0", "100.0", "k-NN", "linear"}
    colours = [bars.patches[0].get_facecolor() for bars in axes.containers if hasattr(bars, "patches")]
    assert len(set(colours)) == 3


def test_bars__need_an_accuracy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="At least one"):
        plot_accuracy_bars({"k-NN": {}}, tmp_path / "x.png")


# Map of embeddings


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        pytest.param(np.zeros((0, 3)), [], id="none"),
        pytest.param(np.ones((1, 3)), [0], id="one"),
        pytest.param(np.eye(3)[:, :1], [0, 1, 0], id="three of one dimension"),
        pytest.param(np.arange(5.0)[:, None], [0, 1, 0, 1, -1], id="five of one dimension"),
        pytest.param(np.eye(5), [0, 1, 0, 1, -1], id="five"),
        pytest.param(np.full((30, 4), 7.0), [0] * 30, id="constant"),
        pytest.param(np.repeat(np.eye(2), 10, axis=0), [0] * 10 + [1] * 10, id="two places"),
        pytest.param(np.array([[np.nan, 1.0], [1, 2], [2, np.inf]]), [0, 0, 1], id="not finite"),
        pytest.param(np.eye(8, dtype=np.float32) * 3e38, [0] * 8, id="huge"),
        pytest.param(np.eye(8) * 1e-300, [0] * 8, id="tiny"),
        pytest.param(np.eye(8), [-1] * 8, id="unlabelled"),
        pytest.param(np.eye(8), [0, 1, 2, 3, 4, 5, 6, 99], id="more classes than names"),
        pytest.param(np.eye(8, dtype=np.float16), [0] * 8, id="half precision"),
    ],
)
def test_map__survives(features: np.ndarray, labels: list[int], tmp_path: Path) -> None:
    names = ["$cat$", "dog"]
    plot_embedding_map(features, np.array(labels), names, tmp_path / "x.png")
    check_written(tmp_path / "x.png")


def test_map__separates_what_is_separate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    labels = np.repeat([0, 1, -1], 20)
    features = np.random.default_rng(0).normal(size=(60, 30)) + 50 * labels[:, None]
    figure = drawn(
        monkeypatch,
        plot_embeddings,
        lambda: plot_embedding_map(features, labels, ["cat", "dog"], tmp_path / "x.png"),
    )
    axes = figure.axes[0]
    clouds = [np.asarray(points.get_offsets()) for points in axes.collections]
    assert [len(cloud) for cloud in clouds] == [20, 20, 20]
    centres = [cloud.mean(axis=0) for cloud in clouds]
    radius = max(np.linalg.norm(c - m, axis=1).max() for c, m in zip(clouds, centres, strict=True))
    assert radius < 0.5 * min(np.linalg.norm(centres[0] - centres[k]) for k in (1, 2))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["no label", "cat", "dog"]
    assert {text.get_text() for text in axes.texts} == set(legend)  # on the islands as well


def test_map__shows_two_thousand_points_of_many_and_twenty_names_of_a_hundred(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = np.arange(2500) % 100
    features = np.random.default_rng(0).normal(size=(2500, 2))
    names = [f"class {k}" for k in range(100)]
    figures = [
        drawn(
            monkeypatch,
            plot_embeddings,
            lambda: plot_embedding_map(features, labels, names, tmp_path / "x.png"),
        )
        for _ in range(2)
    ]
    first, same = (
        np.concatenate([np.asarray(points.get_offsets()) for points in figure.axes[0].collections])
        for figure in figures
    )
    assert len(first) == 2000
    assert np.array_equal(first, same)
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == [*names[:19], "… and 81 more"]
    styles = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in figures[0].axes[0].collections[:100]
    }
    assert len(styles) == 100


def test_map__says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(2,\)"):
        plot_embedding_map(np.eye(3), np.zeros(2), ["a"], tmp_path / "x.png")
