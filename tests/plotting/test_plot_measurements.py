from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from lightly_prg.plotting import measurements as plots
from lightly_prg.plotting.style import LIGHT, dark_twin

EDGES = (0.0, 0.5, 1.0)
STATISTICS = {
    name: {"spectrum": [2.0, 1.0, 0.0], "sliced_wasserstein": distance}
    for name, distance in (("noise", 0.2), ("pixels", 0.8), ("floor", 0.1))
}
CURVE: dict[str, Any] = {
    "sigma": [0.0, 0.1, 1.0], "mse": [0.0, 0.01, 0.04], "missing_bits": [0.25, 1.0, 2.0],
    "pixels_mse": [0.0, 0.02, 0.09], "pixels_missing_bits": [0.25, 2.0, 3.0],
}  # fmt: skip
LABELS: dict[str, Any] = {
    "tau": [0.0, 1.0],
    "state": [{"bits": 3.0, "standard_error": 0.1}, {"bits": -0.5, "standard_error": None}],
    "embedding": {"bits": 3.2},
    "entropy": 3.3,
}
DRAWINGS: dict[str, Callable[[Path], None]] = {
    "likelihood": lambda path: plots.plot_likelihood([2.0, 2.5, 3.0], 4.1, path),
    "likelihood of one": lambda path: plots.plot_likelihood([2.0], 4.1, path),
    "loss": lambda path: plots.plot_loss_by_tau(
        EDGES, (0.5, 0.4), (0.01, 0.02), path, constant=(2.0, 2.0), linear=(1.0, 0.5)
    ),
    "loss alone": lambda path: plots.plot_loss_by_tau(EDGES, (0.5, 0.4), None, path),
    "gaussianity": lambda path: plots.plot_gaussianity(STATISTICS, path),
    "channel": lambda path: plots.plot_channel(CURVE, path),
    "channel alone": lambda path: plots.plot_channel({**CURVE, "pixels_mse": None}, path),
    "labels": lambda path: plots.plot_label_information(LABELS, path),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_figures__are_written_light_and_dark(draw: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    draw(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, dark_twin(path)])
    assert path.read_bytes() != dark_twin(path).read_bytes()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Figure]:
    def draw(name: str) -> Figure:
        figures: list[Figure] = []
        with monkeypatch.context() as patch:
            patch.setattr(plots, "write_figure", lambda path, make: figures.append(make(LIGHT)))
            DRAWINGS[name](Path("x.png"))
        return figures[0]

    return draw


def test_loss__stands_in_the_middle_of_its_bin(drawn: Callable[[str], Figure]) -> None:
    (axes,) = drawn("loss").axes
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines[:2]} == {
        "mean velocity": [[0.25, 2.0], [0.75, 2.0]],
        "best linear": [[0.25, 1.0], [0.75, 0.5]],
    }
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[0.25, 0.5], [0.75, 0.4]]


def test_channel__has_a_place_for_no_noise(drawn: Callable[[str], Figure]) -> None:
    left, right = drawn("channel").axes
    x, y = left.lines[0].get_data()
    assert x[0] == pytest.approx(0.1 / 3)
    assert list(y) == pytest.approx([0, 0.1, 0.2])
    assert [text.get_text() for text in left.get_xticklabels()] == ["0", "0.1", "1"]
    assert list(right.lines[1].get_ydata()) == [0.25, 2.0, 3.0]


def test_gaussianity__says_its_distances_and_keeps_zeros_off_the_logarithm(drawn: Callable[[str], Figure]) -> None:
    left, right = drawn("gaussianity").axes
    assert [text.get_text() for text in right.texts] == ["0.2", "0.8", "0.1"]
    assert all(min(line.get_ydata()) == 1e-4 for line in left.lines)


def test_labels__below_zero_stay_in_sight(drawn: Callable[[str], Figure]) -> None:
    (axes,) = drawn("labels").axes
    assert axes.get_ylim()[0] <= -0.5
