"""Two classes of tiny images, for tests that train something."""

from __future__ import annotations

import torch

from lightly_prg.data import Splits
from lightly_prg.data.image_set import ImageSet


def halves(size: int, *, num_train: int = 48, class_names: tuple[str, str] = ("a", "b")) -> Splits:
    """Grey noise of ``size`` x ``size`` pixels, darker in the upper half for the second class."""

    def images(count: int, seed: int) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 2
        pixels[labels == 1, :, : size // 2] //= 4
        return ImageSet(pixels, labels=labels, names=[f"{seed}-{i}" for i in range(count)], class_names=class_names)

    return Splits(images(num_train, 0), images(12, 1), images(20, 2))
