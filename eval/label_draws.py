"""Stratified draws of labelled images: a held-out part, or the few labels of a probe."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.embeddings import Labels
from lightly_prg.randomness import generator_for

Rows = npt.NDArray[np.int64]

_HELD_OUT = 0.1


def hold_out(labels: Labels, *, seed: int) -> tuple[Rows, Rows]:
    """Splits rows, by class, into nine tenths and a tenth; no class loses its last image.

    Args:
        labels: ``(N,)``, all known.
        seed: Another seed, another split.

    Returns:
        The rows that stay and those that are held out, each in ascending order.

    Raises:
        UserError: If no class has two images.
    """

    def share(_: int, available: int) -> int:
        return max(1, round(_HELD_OUT * available)) if available > 1 else 0

    held = _draw(labels, np.arange(len(labels)), share, generator_for(seed, "validation"))
    if len(held) == 0:
        raise UserError(
            "No class has two labelled training images, so none can be held out to choose hyper-parameters; "
            "give a validation set or more images."
        )
    return np.setdiff1d(np.arange(len(labels)), held), held


def draw_labels(labels: Labels, pool: Rows, amount: int | float, *, seed: int, draw: int) -> Rows:
    """Draws a few labelled rows, by class.

    Args:
        labels: ``(N,)``, all known.
        pool: The rows that may be drawn.
        amount: Images of each class, an int; or the share of each class in ``labels`` in (0, 1),
            at least one image.
        seed: Seed of the whole evaluation.
        draw: Number of the draw; each is independent of the others.

    Raises:
        UserError: If a class has fewer images than are asked for.
    """

    def size(label: int, available: int) -> int:
        if isinstance(amount, float):
            return min(max(1, round(amount * int((labels == label).sum()))), available)
        if amount > available:
            raise UserError(
                f"{amount} labels of each class were asked for, and class {label} has {available} images to draw from."
            )
        return amount

    return _draw(labels, pool, size, generator_for(seed, "labels", draw))


def _draw(labels: Labels, pool: Rows, size: Callable[[int, int], int], generator: torch.Generator) -> Rows:
    """``size(label, available)`` rows of the pool for each label, in ascending order."""
    drawn = []
    for label in np.unique(labels[pool]):
        rows = pool[labels[pool] == label]
        order = torch.randperm(len(rows), generator=generator).numpy()
        drawn.append(rows[order[: size(int(label), len(rows))]])
    return np.sort(np.concatenate(drawn))
