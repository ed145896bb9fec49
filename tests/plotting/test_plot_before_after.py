from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightly_prg.plotting.before_after import plot_before_after


@pytest.mark.parametrize("channels", [1, 3])
def test_grids__stand_beside_each_other(channels: int, tmp_path: Path) -> None:
    dark, bright = torch.zeros(6, channels, 8, 8), torch.full((6, channels, 8, 8), 0.5)
    plot_before_after({"before": dark, "after": bright}, tmp_path / "both.png")
    picture = np.asarray(Image.open(tmp_path / "both.png").convert("RGB")).astype(int)
    below = picture[60:180]  # beneath the titles, in the first row, two pixels for each of the page
    assert (below[:, 20] == 0).all()
    assert (abs(below[:, -100] - 128) <= 1).all()
    assert (picture[-20, 400] == 255).all()  # the second row has two images
    assert (tmp_path / "both-dark.png").stat().st_size > 0


def test_unequal_numbers__are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        plot_before_after({"a": torch.zeros(2, 1, 4, 4), "b": torch.zeros(3, 1, 4, 4)}, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"\[0\]"):
        plot_before_after({"a": torch.zeros(0, 1, 4, 4)}, tmp_path / "a.png")
