"""The images of a comparison: read once for the cells of a seed, and told apart from others."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lightly_prg.console import Console
from lightly_prg.data import Splits
from lightly_prg.recipe import Recipe
from lightly_prg.train import load_splits


@dataclass(frozen=True)
class ImageFacts:
    """What is kept of images that are not held any more.

    Attributes:
        fingerprint: See ``Splits.fingerprint``.
        num_train: Images that train.
    """

    fingerprint: str
    num_train: int


class Images:
    """The images of a recipe; those of the last one are kept, which most cells of a seed share.

    Args:
        data: Those of every recipe; None to read each one's own.
        console: Where progress is shown.
    """

    def __init__(self, data: Splits | None, console: Console) -> None:
        self.data = data
        self.console = console
        self._last: tuple[str, Splits] | None = None
        self._facts: dict[str, ImageFacts] = {}

    def of(self, recipe: Recipe) -> Splits:
        """The images of this recipe."""
        if self.data is not None:
            return self.data
        key = _key(recipe)
        if self._last is None or self._last[0] != key:
            self._last = (key, load_splits(recipe, self.console))
        return self._last[1]

    def facts(self, recipe: Recipe) -> ImageFacts:
        """What tells the images of this recipe from others, known once they were read."""
        key = _key(recipe)
        if key not in self._facts:
            splits = self.of(recipe)
            self._facts[key] = ImageFacts(splits.fingerprint, len(splits.train))
        return self._facts[key]


def _key(recipe: Recipe) -> str:
    return json.dumps([recipe.seed, recipe.data.model_dump(mode="json")])
