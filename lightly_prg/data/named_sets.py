"""The named data sets: digits from scikit-learn, the others as torchvision reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightly_prg.data.image_set import ImageSet
from lightly_prg.data.images import fit_tensor
from lightly_prg.errors import MissingImages


@dataclass(frozen=True)
class NamedSet:
    """What is known about a data set without its files.

    Attributes:
        title: As papers write it.
        channels: 1 or 3.
        image_size: Height and width in pixels.
        num_classes: Number of classes, all labelled.
        num_train: Training images, before any of them validate.
        num_test: Test images.
        grey_levels: How many values a pixel can take.
        folder: Where torchvision keeps it inside its root; empty if it needs no files.
    """

    title: str
    channels: int
    image_size: int
    num_classes: int
    num_train: int
    num_test: int
    grey_levels: int = 256
    folder: str = ""


NAMED_SETS = {
    "digits": NamedSet("digits", 1, 8, 10, 1198, 599, grey_levels=17),
    "fashion_mnist": NamedSet("Fashion-MNIST", 1, 28, 10, 60_000, 10_000, folder="FashionMNIST/raw"),
    "cifar10": NamedSet("CIFAR-10", 3, 32, 10, 50_000, 10_000, folder="cifar-10-batches-py"),
    "cifar100": NamedSet("CIFAR-100", 3, 32, 100, 50_000, 10_000, folder="cifar-100-python"),
    "stl10": NamedSet("STL-10", 3, 96, 10, 5_000, 8_000, folder="stl10_binary"),
}


def load_named_set(
    name: str, *, root: str, download: bool, image_size: int, channels: int
) -> tuple[ImageSet, ImageSet]:
    """Loads the training and the test images of a named set into memory.

    Of ``digits`` a fixed, stratified third tests; its values 0 to 16 are spread over 0 to 255. Of
    ``stl10`` the 5,000 labelled images train; the unlabelled ones are not used.

    Args:
        name: A key of ``NAMED_SETS``.
        root: The folder that holds torchvision's folders.
        download: Whether torchvision may download what is missing.
        image_size: Height and width to resize and crop to.
        channels: 1 or 3.

    Raises:
        MissingImages: If the files are missing or cannot be read.
    """
    named = NAMED_SETS[name]

    def image_set(images: Tensor, labels: Any, names: Sequence[str], class_names: Sequence[str]) -> ImageSet:
        return ImageSet(
            fit_tensor(images, image_size=image_size, channels=channels),
            labels=torch.as_tensor(np.asarray(labels), dtype=torch.int64),
            names=names,
            class_names=class_names,
            # Resizing mixes the levels.
            grey_levels=named.grey_levels if image_size == named.image_size else 256,
        )

    parts = []
    if name == "digits":
        table, *rows_of_parts = _digits()
        images = torch.from_numpy(np.rint(table.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        classes = [str(digit) for digit in table.target_names]
        for part, rows in zip(("train", "test"), rows_of_parts, strict=True):
            names = [f"{part}/{row:04d}" for row in rows]
            parts.append(image_set(images[rows], table.target[rows], names, classes))
    else:
        for part in ("train", "test"):
            dataset = _open(name, root=root, download=download, train=part == "train")
            labels = dataset.labels if name == "stl10" else dataset.targets
            names = [f"{part}/{row:05d}" for row in range(len(dataset))]
            parts.append(image_set(_stacked(dataset.data), labels, names, dataset.classes))
    train, test = parts
    return train, test


def _digits() -> tuple[Any, Any, Any]:
    """scikit-learn's table, and the sorted rows that train and that test."""
    # Takes a second to import, and only this set needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    table = load_digits()
    train, test = train_test_split(np.arange(len(table.target)), test_size=1 / 3, stratify=table.target, random_state=0)
    return table, np.sort(train), np.sort(test)


def _open(name: str, *, root: str, download: bool, train: bool) -> Any:
    from torchvision import datasets

    options: dict[str, Any] = {"root": root, "download": download}
    try:
        if name == "stl10":
            return datasets.STL10(split="train" if train else "test", **options)
        kinds = {
            "fashion_mnist": datasets.FashionMNIST,
            "cifar10": datasets.CIFAR10,
            "cifar100": datasets.CIFAR100,
        }
        return kinds[name](train=train, **options)
    except Exception as error:
        # RuntimeError for missing files, and whatever torchvision's parsers raise for broken ones.
        folder = Path(root, NAMED_SETS[name].folder).absolute()
        if download:
            advice = "the download failed, or the files are damaged"
        else:
            advice = "set data.root=... to the folder above it, or data.download=true to fetch it"
        reason = " ".join(str(error).split())
        raise MissingImages(f"Cannot read {name} from {folder}: {advice} ({reason}).") from error


def _stacked(data: Any) -> Tensor:
    """Makes (N, C, H, W) of MNIST's (N, H, W) and CIFAR's (N, H, W, C); STL's fit already."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2).contiguous() if images.shape[-1] == 3 else images
