"""Sets of images of which parts can be taken."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lightly_prg.eval.embed import ImageDataset, check_images


class DivisibleDataset(ImageDataset, Protocol):
    """A set of images of which parts can be taken, such as ``lightly_prg.data.ImageSet``."""

    def subset(self, indices: Tensor) -> DivisibleDataset:
        """The images of ``indices`` ``(M,)``, in their order."""
        ...


def labelled(dataset: DivisibleDataset) -> DivisibleDataset:
    """The images whose label is known.

    Raises:
        ValueError: If it is no set of images.
    """
    check_images(dataset)
    known = dataset.labels >= 0
    return dataset if bool(known.all()) else dataset.subset(known.nonzero().flatten())
