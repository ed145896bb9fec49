"""``ImageSet``: uint8 images with labels and names, in memory or read when asked for."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightly_prg.data.pixels import MemoryPixels, PixelSource
from lightly_prg.errors import UserError

Batch = tuple[Tensor, Tensor, list[str]]
"""Images (B, C, H, W) uint8, labels (B,) int64, B names."""

_T = TypeVar("_T")


class ImageSet(Dataset[tuple[Tensor, int, str]]):
    """A set of square uint8 images of one size with labels and names.

    An item is ``(image (C, H, W) uint8, label, name)``; ``__getitems__`` and ``loader`` give whole
    batches at once.

    Args:
        pixels: uint8 of shape (N, C, S, S), or a ``PixelSource`` that gives them.
        labels: int64 of shape (N,), -1 where unknown; None where none is known.
        names: N file names or other names.
        class_names: Of the labels 0, 1, ...; empty where the images are not labelled.
        grey_levels: How many values a pixel can take.
        rows: Rows of ``pixels`` that the set consists of, in its order; None for all.

    Attributes:
        labels: int64 of shape (N,), -1 = unknown.
        names: N names.
        class_names: Names of the classes.
        grey_levels: How many values a pixel can take.

    Raises:
        ValueError: If types, shapes or lengths do not fit each other.
    """

    def __init__(
        self,
        pixels: Tensor | PixelSource,
        *,
        labels: Tensor | None,
        names: Sequence[str],
        class_names: Sequence[str] = (),
        grey_levels: int = 256,
        rows: Tensor | None = None,
    ) -> None:
        self._source: PixelSource = MemoryPixels(pixels) if isinstance(pixels, Tensor) else pixels
        self._rows = torch.arange(len(names)) if rows is None else rows
        self.labels = torch.full((len(names),), -1) if labels is None else labels
        self.names = names
        self.class_names = tuple(class_names)
        self.grey_levels = grey_levels
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(names),):
            raise ValueError(
                f"Labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; int64 of "
                f"shape ({len(names)},) is needed for {len(names)} names."
            )
        if isinstance(pixels, Tensor) and rows is None and len(pixels) != len(names):
            raise ValueError(f"There are {len(pixels)} images and {len(names)} names.")
        low, high = (int(label) for label in self.labels.aminmax()) if len(names) else (-1, -1)
        if low < -1 or high >= len(self.class_names):
            raise ValueError(
                f"Labels lie in [{low}, {high}]; with {len(self.class_names)} class names, "
                f"[-1, {len(self.class_names) - 1}] is allowed, and -1 stands for unknown."
            )

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self._source.channels

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self._source.image_size

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 where the images are not labelled."""
        return len(self.class_names)

    @property
    def labelled(self) -> bool:
        """Whether the class of every image is known."""
        return self.num_classes > 0 and bool((self.labels >= 0).all())

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are held in memory, so that workers would only cost time."""
        return self._source.in_memory

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"Image {index} was asked for of {len(self)}.")
        index %= len(self)
        image = self._source.read(self._rows[index : index + 1])[0]
        return image, int(self.labels[index]), self.names[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        """Returns a whole batch: images (B, C, H, W) uint8, labels (B,) int64, names.

        A DataLoader calls it; its ``collate_fn`` has to pass the batch through.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64)
        names = [self.names[index] for index in rows.tolist()]
        return self._source.read(self._rows[rows]), self.labels[rows], names

    def pixels(self) -> Tensor:
        """All images, ``(N, C, H, W)`` uint8."""
        return self.__getitems__(range(len(self)))[0]

    def subset(self, indices: Sequence[int] | Tensor) -> ImageSet:
        """Returns the images of ``indices``, in their order, sharing the memory of the pixels.

        Raises:
            ValueError: If ``indices`` are not whole numbers.
            IndexError: If an index lies outside the set.
        """
        chosen = torch.as_tensor(indices)
        if chosen.numel() == 0:
            chosen = chosen.to(torch.int64)
        if chosen.dtype == torch.bool or chosen.is_floating_point():
            raise ValueError(f"Indices have to be whole numbers, not {chosen.dtype}.")
        chosen = chosen.to(torch.int64)
        return ImageSet(
            self._source,
            labels=self.labels[chosen],
            names=[self.names[index] for index in chosen.tolist()],
            class_names=self.class_names,
            grey_levels=self.grey_levels,
            rows=self._rows[chosen],
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels, order, size and channels.

        Pixels are hashed where they are in memory; otherwise names, sizes and modification times of
        the files, or of a data set whose files are not known the pixels of 32 images.
        """
        digest = hashlib.sha256()
        digest.update(f"{len(self)} {self.channels} {self.image_size} {self.in_memory} ".encode())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        for content in self._source.identify(self._rows):
            digest.update(content)
        return digest.hexdigest()

    def loader(
        self,
        *,
        batch_size: int | None = None,
        batch_sampler: Sampler[list[int]] | None = None,
        num_workers: int = 0,
    ) -> DataLoader[Batch]:
        """Returns a loader of batches (images uint8, labels, names).

        Args:
            batch_size: Batches of this size in the order of the set, the last one smaller.
            batch_sampler: Or the indices of every batch.
            num_workers: Processes that decode; not used where the pixels are in memory.

        Raises:
            ValueError: If not exactly one of ``batch_size`` and ``batch_sampler`` is given.
        """
        if (batch_size is None) == (batch_sampler is None):
            raise ValueError("One of batch_size and batch_sampler is needed, and only one.")
        options: dict[str, Any] = (
            {"batch_size": batch_size} if batch_sampler is None else {"batch_sampler": batch_sampler}
        )
        workers = 0 if self.in_memory else num_workers
        dataset: Any = self  # typed by its items; with __getitems__ the loader passes whole batches
        return _Loader(
            dataset,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_identity,
            # Seeds the workers; without one of its own, a loader would draw from the global
            # generator.
            generator=torch.Generator(),
            **options,
        )


class _Loader(DataLoader[Batch]):
    """A DataLoader that passes on a worker's ``UserError`` as it was raised."""

    def __iter__(self) -> Any:
        try:
            yield from super().__iter__()
        except UserError as error:
            # From a worker, torch makes the traceback the message; its last line is the sentence.
            sentence = str(error).strip().splitlines()[-1]
            raise UserError(sentence.partition("UserError: ")[2] or sentence) from error
        except RuntimeError as error:
            # torch's own words, for lack of a class: "DataLoader worker (pid 7) is killed by signal: Killed."
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"A process that reads images died ({str(error).splitlines()[0].rstrip('. ')}), most often for want of "
                "memory: fewer train.num_workers need less."
            ) from error


def _identity(batch: _T) -> _T:
    return batch
