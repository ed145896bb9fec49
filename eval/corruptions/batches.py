"""A test set as batches of clean and corrupted images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.corruptions import corrupt
from lightly_prg.eval.corruptions.files import read_corrupted
from lightly_prg.eval.embed import ImageDataset
from lightly_prg.randomness import generator_for

Condition = tuple[str, int] | None
"""A corruption and its severity; None for clean images."""

_BLOCK = 250
"""Images that are corrupted together. It decides the draws, so that the batch size does not."""


def chosen_rows(labels: Tensor, max_images: int | None, seed: int) -> Tensor:
    """Rows whose label is known, or a draw of them, in ascending order.

    Args:
        labels: ``(N,)``, -1 where unknown.
        max_images: How many to draw; None for all.
        seed: Decides the draw.

    Raises:
        UserError: If no label is known.
    """
    rows = (labels >= 0).nonzero().flatten()
    if len(rows) == 0:
        raise UserError("No test image has a label, which the accuracy under corruptions needs.")
    if max_images is None or max_images >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=generator_for(seed, "robustness images"))
    return rows[order[:max_images].sort().values]


def computed_batches(
    dataset: ImageDataset, rows: Tensor, conditions: Sequence[tuple[str, int]], seed: int
) -> Iterator[tuple[Condition, Tensor, Tensor]]:
    """Corrupts the chosen images: each block clean, then under all conditions, so that the set is read once.

    Args:
        dataset: The clean images, uint8.
        rows: Which of them, in ascending order.
        conditions: Corruptions with their severities.
        seed: Decides the draws.

    Yields:
        The condition, None for clean; images ``(B, C, S, S)`` uint8 on the CPU; labels ``(B,)``.
    """
    for first, images, labels in _blocks(dataset, rows):
        yield None, images, labels
        for name, severity in conditions:
            generator = generator_for(seed, "corruption", name, severity, first)
            yield (name, severity), corrupt(images, name, severity, generator=generator), labels


def file_batches(
    dataset: ImageDataset,
    rows: Tensor,
    conditions: Sequence[tuple[str, int]],
    folder: Path,
    max_images: int | None,
    seed: int,
) -> Iterator[tuple[Condition, Tensor, Tensor]]:
    """Reads the published files: the chosen clean images in blocks, then each condition at once.

    Args:
        dataset: The clean images, uint8.
        rows: Which of them, in ascending order.
        conditions: Corruptions with their severities.
        folder: See ``read_corrupted``.
        max_images: How many rows of a file to draw, by the draw that ``chosen_rows`` makes; None for all.
        seed: Decides that draw.

    Yields:
        As ``computed_batches`` does.

    Raises:
        UserError: If a file is not as it should be, or the clean images are of another kind.
    """
    for name in dict(conditions):  # before anything is classified
        read_corrupted(folder, name, 1)
    for _, images, labels in _blocks(dataset, rows):
        if images.shape[1:] != (3, 32, 32):
            raise UserError(
                f"The files hold colour images of 32 pixels, the data set images of shape {tuple(images.shape[1:])}; "
                "they have to be of one kind."
            )
        yield None, images, labels
    for name, severity in conditions:
        images, labels = read_corrupted(folder, name, severity)
        drawn = chosen_rows(labels, max_images, seed)
        yield (name, severity), images[drawn], labels[drawn]


def _blocks(dataset: ImageDataset, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The chosen images, a block of the set at a time, with the number of the block's first."""
    first = 0
    wanted = torch.zeros(len(dataset), dtype=torch.bool)
    wanted[rows] = True
    for images, labels, _ in dataset.loader(batch_size=_BLOCK, num_workers=0):
        chosen = wanted[first : first + len(images)]
        if chosen.any():
            yield first, images[chosen], labels[chosen]
        first += len(images)
