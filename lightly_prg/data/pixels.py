"""Where the pixels of an ``ImageSet`` come from: memory or files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lightly_prg.data.decoding import read_image

MEMORY_LIMIT = 2**30
"""Bytes of pixels up to which a set is held in memory."""

_IMAGES_A_CHUNK = 4096


class PixelSource(Protocol):
    """Where the pixels of an ``ImageSet`` come from, by row."""

    channels: int
    image_size: int
    in_memory: bool

    def read(self, rows: Tensor) -> Tensor:
        """Returns the images of ``rows`` (B,): uint8 (B, channels, image_size, image_size)."""
        ...

    def identify(self, rows: Tensor) -> Iterator[bytes]:
        """Yields bytes that differ where the images of ``rows`` differ."""
        ...


class MemoryPixels:
    """uint8 images in memory, shape (N, 1 or 3, S, S)."""

    in_memory = True

    def __init__(self, images: Tensor) -> None:
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or images.shape[1] not in (1, 3)
            or images.shape[2] != images.shape[3]
        ):
            raise ValueError(
                f"Images are {images.dtype} of shape {tuple(images.shape)}; uint8 of shape (N, 1 or 3, S, S) is needed."
            )
        self.images = images
        self.channels, self.image_size = images.shape[1:3]

    def read(self, rows: Tensor) -> Tensor:
        """Copies the images of ``rows``."""
        return self.images.index_select(0, rows)

    def identify(self, rows: Tensor) -> Iterator[bytes]:
        """The pixels."""
        for chunk in torch.split(rows, _IMAGES_A_CHUNK):
            yield self.read(chunk).numpy().tobytes()


class FilePixels:
    """Image files that are decoded each time they are read; see ``decoding.read_image``."""

    in_memory = False

    def __init__(self, root: str | os.PathLike[str], names: Sequence[str], *, image_size: int, channels: int) -> None:
        self.root = os.fspath(root)
        self.names = names
        self.image_size = image_size
        self.channels = channels

    def paths(self, rows: Tensor) -> list[str]:
        """The files of ``rows``."""
        return [os.path.join(self.root, self.names[row]) for row in rows.tolist()]

    def read(self, rows: Tensor) -> Tensor:
        """Decodes the files of ``rows``."""
        images = torch.empty((len(rows), self.channels, self.image_size, self.image_size), dtype=torch.uint8)
        for image, path in zip(images, self.paths(rows), strict=True):
            image.copy_(read_image(path, image_size=self.image_size, channels=self.channels))
        return images

    def identify(self, rows: Tensor) -> Iterator[bytes]:
        """Names, sizes and modification times."""
        for row, path in zip(rows.tolist(), self.paths(rows), strict=True):
            status = os.stat(path)
            yield os.fsencode(self.names[row])
            yield f"\0{status.st_size} {status.st_mtime_ns}\0".encode()


def fits_in_memory(count: int, *, channels: int, image_size: int) -> bool:
    """Whether so many uint8 images take at most ``MEMORY_LIMIT`` bytes."""
    return count * channels * image_size**2 <= MEMORY_LIMIT
