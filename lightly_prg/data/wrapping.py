"""Any map-style data set as an ``ImageSet``."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VisionDataset

from lightly_prg.data.image_set import ImageSet
from lightly_prg.data.images import fit_image, fit_tensor
from lightly_prg.data.pixels import fits_in_memory
from lightly_prg.errors import UserError
from lightly_prg.transforms.eight_bits import to_uint8

_IDENTIFYING_IMAGES = 32


def wrap_dataset(
    dataset: Any,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    name: str = "custom",
) -> ImageSet:
    """Turns a map-style data set into an ``ImageSet``.

    It is read once, into memory, where its uint8 pixels take at most 1 GiB; a larger one is read
    image by image, in the workers of a loader. So it should give the same image each time: leave
    random augmentation and normalisation out of its transform.

    Args:
        dataset: A ``LightlyDataset``, torchvision data set or anything else with ``len`` and
            indexing that gives ``(image, target[, file name])`` or a bare image. An image is a
            Pillow image or a tensor of shape (H, W) or (1 or 3, H, W), uint8 or floating point in
            [0, 1]; a target is a whole number, or None or -1 if unknown.
        image_size: Height and width to resize and crop to; None for the shorter side of the first
            image.
        channels: 1 or 3; None for those of the first image.
        name: Stands in names and error messages where the data set gives no file names.

    Returns:
        The images in the order of ``dataset``. Class names come from its ``classes``, or are the
        numbers.

    Raises:
        UserError: If the data set is empty, or an image or target is none of the above.
    """
    try:
        total = len(dataset)
    except TypeError:
        raise UserError(
            f"The data set {name!r} has no length: a map-style data set is needed, not an iterable one."
        ) from None
    if total == 0:
        raise UserError(f"The data set {name!r} is empty.")
    source = _DatasetPixels(dataset, image_size=image_size, channels=channels, name=name)
    if fits_in_memory(total, channels=source.channels, image_size=source.image_size):
        images = torch.empty((total, source.channels, source.image_size, source.image_size), dtype=torch.uint8)
        items = []
        for index in range(total):
            images[index], target, file_name = source.item(index)
            items.append((target, file_name))
        return _image_set(images, items, dataset)
    known = _known_targets(dataset, total)
    if known is not None:
        file_names = _known_names(dataset, total) or [f"{name}/{index}" for index in range(total)]
        return _image_set(source, list(zip(known, file_names, strict=True)), dataset)
    return _image_set(source, [source.item(index)[1:] for index in range(total)], dataset)


def _image_set(pixels: Tensor | _DatasetPixels, items: Sequence[tuple[int, str]], dataset: Any) -> ImageSet:
    labels = torch.tensor([target for target, _ in items], dtype=torch.int64)
    if any(type(part).__module__ == "lightly.data._image" for part in _layers(dataset)):
        # Lightly's folder without class folders gives the target 0 for want of labels.
        labels.fill_(-1)
    num_classes = int(labels.max()) + 1
    class_names: Sequence[Any] = range(num_classes)
    for part in _layers(dataset):
        classes = getattr(part, "classes", None)
        if num_classes and isinstance(classes, list | tuple) and len(classes) >= num_classes:
            class_names = classes
            break
    return ImageSet(
        pixels,
        labels=labels,
        names=[file_name for _, file_name in items],
        class_names=[str(class_name) for class_name in class_names],
    )


class _DatasetPixels:
    """The images of a data set, taken from it each time they are read."""

    in_memory = False

    def __init__(self, dataset: Any, *, image_size: int | None, channels: int | None, name: str) -> None:
        self.dataset = dataset
        self.name = name
        image = _unpack(dataset[0])[0]
        with self._naming(0):
            height, width, depth = _shape(image)
        self.image_size = min(height, width) if image_size is None else image_size
        self.channels = depth if channels is None else channels

    def read(self, rows: Tensor) -> Tensor:
        return torch.stack([self.item(row)[0] for row in rows.tolist()])

    def identify(self, rows: Tensor) -> Iterator[bytes]:
        # All pixels would take a pass over the whole set, so that those of some images have to do.
        yield f"{[type(part).__qualname__ for part in _layers(self.dataset)]} {self.name}".encode()
        yield rows.numpy().astype("<i8").tobytes()
        some = rows[:: max(1, len(rows) // _IDENTIFYING_IMAGES)][:_IDENTIFYING_IMAGES]
        yield from (self.item(row)[0].numpy().tobytes() for row in some.tolist())

    def item(self, index: int) -> tuple[Tensor, int, str]:
        """Image (C, S, S) uint8, target and name of one item."""
        image, target, file_name = _unpack(self.dataset[index])
        with self._naming(index):
            label = -1 if target is None else operator.index(target)
            return self._fit(image), label, file_name or f"{self.name}/{index}"

    def _fit(self, image: Any) -> Tensor:
        if isinstance(image, Image.Image):
            return fit_image(image, image_size=self.image_size, channels=self.channels)
        stacked = to_uint8(_with_channels(image)).unsqueeze(0)
        return fit_tensor(stacked, image_size=self.image_size, channels=self.channels)[0]

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError) as error:
            raise UserError(f"Item {index} of the data set {self.name!r}: {error}") from error


def _shape(image: Any) -> tuple[int, int, int]:
    """Height, width and channels."""
    if isinstance(image, Image.Image):
        grey = image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")
        return image.height, image.width, 1 if grey else 3
    channels, height, width = _with_channels(image).shape
    return height, width, channels


def _unpack(item: Any) -> tuple[Any, Any, str | None]:
    """Image, target (None if there is none) and file name (None if there is none) of an item."""
    if not isinstance(item, list | tuple):
        return item, None, None
    image, target, file_name = (*item, None, None, None)[:3]
    if isinstance(image, list | tuple) and len(image) == 1:
        image = image[0]  # the one view of a Lightly transform
    return image, target, file_name if isinstance(file_name, str) else None


def _with_channels(image: Any) -> Tensor:
    if not isinstance(image, Tensor):
        raise TypeError(f"a Pillow image or a tensor is needed, not {type(image).__name__}.")
    stacked = image.unsqueeze(0) if image.ndim == 2 else image
    if stacked.ndim != 3 or stacked.shape[0] not in (1, 3):
        raise ValueError(
            f"an image tensor has the shape {tuple(image.shape)}; (H, W), (1, H, W) and (3, H, W) are allowed."
        )
    return stacked


def _layers(dataset: Any) -> Iterator[Any]:
    """The data set and those it wraps; LightlyDataset and Subset keep theirs in ``dataset``."""
    while dataset is not None:
        yield dataset
        dataset = getattr(dataset, "dataset", None)


def _known_targets(dataset: Any, total: int) -> list[int] | None:
    """The targets that a torchvision data set keeps, which saves decoding every image for them."""
    # Of the wrappers, only LightlyDataset is known to keep the order.
    inner = dataset.dataset if hasattr(dataset, "index_to_filename") else dataset
    if not isinstance(inner, VisionDataset) or inner.target_transform is not None:
        return None
    targets = getattr(inner, "targets", None)
    if targets is None or len(targets) != total:
        return None
    return [operator.index(target) for target in targets]


def _known_names(dataset: Any, total: int) -> list[str] | None:
    names = dataset.get_filenames() if hasattr(dataset, "get_filenames") else None
    return list(names) if names is not None and len(names) == total else None
