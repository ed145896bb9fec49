"""Which image files a folder holds, and which of them train and which test."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lightly_prg.data.decoding import EXTENSIONS
from lightly_prg.errors import MissingImages, UserError

_TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class FolderListing:
    """The images of a folder, sorted by class and name.

    Attributes:
        root: The folder.
        class_names: Sorted; empty where the images are not labelled.
        train_names: Paths relative to ``root``, with forward slashes.
        train_labels: Index into ``class_names`` for each, -1 where unknown.
        test_names: The same for the test images.
        test_labels: The same for the test images.
    """

    root: Path
    class_names: tuple[str, ...]
    train_names: tuple[str, ...]
    train_labels: tuple[int, ...]
    test_names: tuple[str, ...]
    test_labels: tuple[int, ...]


def list_folder(root: str | Path) -> FolderListing:
    """Lists a folder of images by its shape.

    * ``root/train`` and ``root/test`` (or ``val``, ``valid``, ``validation``; the first of these
      that is there), each with one folder for each class, or, unlabelled, without class folders;
    * one folder for each class in ``root``, or in ``root/train`` where nothing lies beside it;
    * images without class folders: unlabelled.

    In the last two shapes a fifth of every class (at least one image) becomes the test set, chosen
    by a hash of the
    path: the same on every machine and for every seed, and nearly the same after images have been
    added. Class folders are searched to any depth; hidden files and files without an image
    extension are passed over. Only names are read, no file is opened.

    Raises:
        MissingImages: If there is no such folder.
        UserError: If it holds no images, or has none of these shapes.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise MissingImages(f"The image folder {root} {what}: set data.root to a folder of images.")
    folders, loose = _entries(root)
    by_name = {name.lower(): name for name in reversed(folders)}
    test_folder = next((by_name[name] for name in _TEST_NAMES if name in by_name), None)
    if "train" in by_name and test_folder is not None:
        return _two_trees(root, by_name["train"], test_folder)
    if [name.lower() for name in folders] == ["train"] and not loose:
        return _one_tree(root, f"{folders[0]}/")
    return _one_tree(root, "")


def _two_trees(root: Path, train_folder: str, test_folder: str) -> FolderListing:
    train = _list_classes(root, f"{train_folder}/")
    test = _list_classes(root, f"{test_folder}/", empty_classes_allowed=True)
    known = {name for name in train if name is not None}
    foreign = sorted(name for name in test if name is not None and name not in known)
    if foreign:
        named = ", ".join(repr(name) for name in foreign[:5])
        raise UserError(
            f"{root / test_folder} holds classes that {root / train_folder} does not: {named}"
            f"{' and more' if len(foreign) > 5 else ''}."
        )
    return _listing(root, train, test)


def _one_tree(root: Path, prefix: str) -> FolderListing:
    train: dict[str | None, list[str]] = {}
    test: dict[str | None, list[str]] = {}
    for class_name, names in _list_classes(root, prefix).items():
        if len(names) < 2:
            what = "" if class_name is None else f"The class {class_name!r} of "
            raise UserError(
                f"{what}{root} holds one image only: a fifth of the images becomes the test set, "
                "so at least 2 are needed."
            )
        by_hash = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        num_test = max(1, round(len(names) / 5))
        test[class_name] = sorted(by_hash[:num_test])
        train[class_name] = sorted(by_hash[num_test:])
    return _listing(root, train, test)


def _listing(root: Path, train: dict[str | None, list[str]], test: dict[str | None, list[str]]) -> FolderListing:
    class_names = tuple(sorted(name for name in train if name is not None))
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(class_names)}
    label_of[None] = -1

    def flat(tree: dict[str | None, list[str]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        ordered = sorted(tree, key=lambda name: label_of[name])
        names = tuple(path for name in ordered for path in tree[name])
        return names, tuple(label_of[name] for name in ordered for _ in tree[name])

    train_names, train_labels = flat(train)
    test_names, test_labels = flat(test)
    return FolderListing(root, class_names, train_names, train_labels, test_names, test_labels)


def _list_classes(root: Path, prefix: str, *, empty_classes_allowed: bool = False) -> dict[str | None, list[str]]:
    """Sorted paths of every class; the key None stands for images without a class folder."""
    folder = root / prefix
    folders, loose = _entries(folder)
    tree: dict[str | None, list[str]] = {}
    for name in folders:
        paths = _images_under(folder / name, f"{prefix}{name}/", above=(os.path.realpath(folder),))
        if paths:
            tree[name] = sorted(paths)
        elif not empty_classes_allowed and not loose:
            raise UserError(f"The class folder {folder / name} holds no images ({', '.join(EXTENSIONS)}).")
    if loose and tree:
        raise UserError(
            f"{folder} holds both folders with images and images of its own, such as {loose[0]!r}: "
            "either every image lies in the folder of its class, or none does."
        )
    if loose:
        tree[None] = [f"{prefix}{name}" for name in sorted(loose)]
    if not tree:
        raise UserError(f"The image folder {folder} holds no images ({', '.join(EXTENSIONS)}).")
    return tree


def _images_under(folder: Path | str, prefix: str, *, above: tuple[str, ...]) -> list[str]:
    place = os.path.realpath(folder)
    if place in above:
        raise UserError(f"The folder {folder} is a link to a folder that it lies in: its images would never end.")
    folders, images = _entries(folder)
    names = [prefix + name for name in images]
    for name in folders:
        names += _images_under(os.path.join(folder, name), f"{prefix}{name}/", above=(*above, place))
    return names


def _readable(entry: os.DirEntry[str]) -> str:
    """The name, which results and tables are to show."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(entry.path).decode(errors="backslashreplace")
        raise UserError(f"The name of {shown} is no UTF-8 text: rename it.") from None
    return entry.name


def _entries(folder: Path | str) -> tuple[list[str], list[str]]:
    """Sorted names of the folders and of the images in a folder, hidden ones left out."""
    folders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(_readable(entry))
                elif entry.name.lower().endswith(EXTENSIONS):
                    # A pipe or a device, also behind a link, would be read for ever.
                    if not entry.is_file() and os.path.exists(entry.path):
                        raise UserError(f"{entry.path} has the name of an image, but is no file.")
                    images.append(_readable(entry))
    except OSError as error:
        raise UserError(f"Cannot list the image folder {folder}: {error}.") from error
    return sorted(folders), sorted(images)
