"""The figure of a claim: names do not run into each other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lightly_prg.claims.findings import Finding
from lightly_prg.claims.plot_findings import plot_findings
from lightly_prg.eval.comparison.statistics import PairedDifference
from lightly_prg.plotting.style import LIGHT, Theme

SHORT = "accuracy, beta 1 less beta 0"
LONG = "Fréchet distance of samples beyond that of real images, fine-tuned with beta {} against the pretrained network"


def test_names_of_any_length__have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(path: Path, draw: Callable[[Theme], Figure]) -> None:
        drawn.append(draw(LIGHT))

    monkeypatch.setattr("lightly_prg.claims.plot_findings.write_figure", keep)
    difference = PairedDifference(1.0, 0.2, 0.5, {0: 0.8, 1: 1.2})
    names = [SHORT, *(LONG.format(beta) for beta in (0, 0.1, 1))]
    plot_findings([Finding(name, "cifar10", "points", difference) for name in names], tmp_path / "findings.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 4
    for upper, lower in pairwise(boxes):
        assert upper.y0 > lower.y1
    assert boxes[-1].y0 > 0
