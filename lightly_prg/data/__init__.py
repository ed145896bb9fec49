"""Named data sets and folders of images -> (train, validation, test), by recipe and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightly_prg.data.decoding import read_images
from lightly_prg.data.folder import list_folder
from lightly_prg.data.image_set import ImageSet
from lightly_prg.data.named_sets import NAMED_SETS, load_named_set
from lightly_prg.data.pixels import FilePixels, fits_in_memory
from lightly_prg.data.splits import count_split, split_training
from lightly_prg.data.wrapping import wrap_dataset
from lightly_prg.errors import UserError
from lightly_prg.recipe import DataRecipe


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; they share no image.

    Attributes:
        train: What is trained on.
        validation: A stratified draw from the training images, for every choice; may be empty.
        test: For the final number only.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the three ``ImageSet.fingerprint`` and the names of the classes."""
        parts = [part.fingerprint for part in (self.train, self.validation, self.test)]
        return hashlib.sha256(repr((parts, self.train.class_names)).encode()).hexdigest()


@dataclass(frozen=True)
class DataInfo:
    """What can be said about a data set before it is loaded.

    Attributes:
        channels: 1 or 3.
        image_size: Height and width in pixels.
        num_classes: 0 where the images are not labelled.
        num_train: Images that train.
        num_validation: Images that validate.
        num_test: Images that test.
    """

    channels: int
    image_size: int
    num_classes: int
    num_train: int
    num_validation: int
    num_test: int


def load_data(recipe: DataRecipe, *, seed: int, progress: Callable[[int, int], None] | None = None) -> Splits:
    """Loads a data set and splits it.

    ``digits`` comes with scikit-learn (a fixed, stratified third of it tests); the other named sets
    are read, and downloaded if the recipe says so, by torchvision; of ``stl10`` the labelled images
    alone are used; for ``folder`` see ``lightly_prg.data.folder.list_folder``. Validation and
    ``train_size`` are stratified draws that depend on the seed alone
    (``lightly_prg.data.splits.split_training``).

    Images are held in memory as uint8. A folder whose images in use would take more than 1 GiB is
    decoded anew whenever a batch is read, in the workers of ``ImageSet.loader``.

    Args:
        recipe: Which images, from where, in which size.
        seed: The seed of the run.
        progress: Called with (images done, images in all) while the files of a folder are decoded.

    Raises:
        UserError: If files are missing or cannot be read, or there are too few images for the
            split.
    """
    if recipe.name == "folder":
        return _load_folder(recipe, seed=seed, progress=progress)
    image_size, channels = resolved_shape(recipe)
    train, test = load_named_set(
        recipe.name,
        root=recipe.root,
        download=recipe.download,
        image_size=image_size,
        channels=channels,
    )
    train_rows, validation_rows = _split(recipe, train.labels, train.class_names, seed)
    return Splits(train.subset(train_rows), train.subset(validation_rows), test)


def describe_data(recipe: DataRecipe) -> DataInfo:
    """Says what ``load_data`` would give, without opening a file.

    The named sets are known by heart, a folder is listed.

    Raises:
        UserError: If the folder is missing or empty, or there are too few images for the split.
    """
    image_size, channels = resolved_shape(recipe)
    if recipe.name == "folder":
        listing = list_folder(recipe.root)
        # Drawn, not counted, so that a class that is too small is told here already.
        train, validation = _split(recipe, torch.tensor(listing.train_labels), listing.class_names, seed=0)
        num_train, num_validation = len(train), len(validation)
        num_classes, num_test = len(listing.class_names), len(listing.test_names)
    else:
        named = NAMED_SETS[recipe.name]
        num_validation, num_train = count_split(
            named.num_train,
            validation_fraction=recipe.validation_fraction,
            train_size=recipe.train_size,
        )
        num_classes, num_test = named.num_classes, named.num_test
    return DataInfo(channels, image_size, num_classes, num_train, num_validation, num_test)


def resolved_shape(recipe: DataRecipe) -> tuple[int, int]:
    """Image size and channels: the recipe's, or else the set's own.

    Raises:
        UserError: If a folder of images has no size.
    """
    named = NAMED_SETS.get(recipe.name)
    image_size = recipe.image_size or (named.image_size if named else None)
    if image_size is None:
        raise UserError("data.image_size is needed for a folder of images.")
    return image_size, recipe.channels or (named.channels if named else 3)


def _split(recipe: DataRecipe, labels: Tensor, class_names: tuple[str, ...], seed: int) -> tuple[Tensor, Tensor]:
    return split_training(
        labels,
        validation_fraction=recipe.validation_fraction,
        train_size=recipe.train_size,
        seed=seed,
        class_names=class_names,
    )


def _load_folder(recipe: DataRecipe, *, seed: int, progress: Callable[[int, int], None] | None) -> Splits:
    listing = list_folder(recipe.root)
    image_size, channels = resolved_shape(recipe)
    labels = torch.tensor(listing.train_labels + listing.test_labels, dtype=torch.int64)
    num_train = len(listing.train_names)
    train_rows, validation_rows = _split(recipe, labels[:num_train], listing.class_names, seed)
    names = listing.train_names + listing.test_names
    files = FilePixels(listing.root, names, image_size=image_size, channels=channels)
    everything = ImageSet(files, labels=labels, names=names, class_names=listing.class_names)
    test_rows = torch.arange(num_train, len(names))
    parts = (train_rows, validation_rows, test_rows)
    used = torch.cat(parts)
    if not fits_in_memory(len(used), channels=channels, image_size=image_size):
        return Splits(*(everything.subset(part) for part in parts))
    images = read_images(files.paths(used), image_size=image_size, channels=channels, progress=progress)
    chunks = torch.split(images, [len(part) for part in parts])
    return Splits(
        *(
            ImageSet(
                chunk,
                labels=labels[part],
                names=[names[row] for row in part.tolist()],
                class_names=listing.class_names,
            )
            for chunk, part in zip(chunks, parts, strict=True)
        )
    )


__all__ = [
    "DataInfo",
    "ImageSet",
    "Splits",
    "describe_data",
    "load_data",
    "resolved_shape",
    "wrap_dataset",
]
