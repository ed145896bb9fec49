from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the tests run in several processes

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, laid out as torchvision does."""
    folder = os.environ.get("LIGHTLY_PRG_DATA")
    if not folder:
        pytest.skip("LIGHTLY_PRG_DATA does not name a folder of real data sets")
    return Path(folder)


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[[Mapping[str, int]], Path]:
    """Writes a folder of 4x4 PNGs: ``image_folder({"cats": 3})`` gives cats/0.png to cats/2.png."""

    def write(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "images"
        grey = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.new("L", (4, 4), grey % 256).save(root / folder / f"{index}.png")
                grey += 1
        return root

    return write
