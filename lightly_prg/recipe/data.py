"""The ``data`` section of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lightly_prg.recipe.section import Number, Positive, Section


class DataRecipe(Section):
    """Which images, from where, in which size, and how they are split.

    Attributes:
        name: A named set, or ``folder``: images in ``root/train/CLASS`` and ``root/test/CLASS`` (or ``val``, ``valid``,
            ``validation``, which are then the test images: validation images are a part of the training images), or in
            ``root/CLASS``, which are split.
        root: Where the images lie.
        image_size: The side in pixels to which images are brought; null: the set's own. A folder has to say it.
        channels: 1 for grey, 3 for colour; null: the set's own, and 3 of a folder.
        train_size: So many training images, drawn by class; null: all.
        validation_fraction: Share of the training images that is kept for every choice.
        download: Fetch the set with torchvision, where it has one.
    """

    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "stl10", "folder"]
    root: str = "data"
    image_size: Positive | None = None
    channels: Literal[1, 3] | None = None
    train_size: Positive | None = None
    validation_fraction: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.1
    download: bool = False

    @model_validator(mode="after")
    def _folder_says_its_size(self) -> DataRecipe:
        if self.name == "folder" and self.image_size is None:
            raise ValueError("data.image_size is needed for a folder of images, for example data.image_size=32")
        return self

    @property
    def title(self) -> str:
        """What tables and file names call the set: its name, or that of the folder."""
        return Path(self.place).name if self.name == "folder" else self.name

    @property
    def place(self) -> str:
        """Where the images lie, however ``root`` says it: of a folder, that is what it is."""
        return str(Path(self.root).resolve())
