"""What a scan reads, of which images, and its features: every cell of the grid from one pass over the trajectory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from lightly_prg.data import Splits
from lightly_prg.data.image_set import ImageSet
from lightly_prg.data.splits import split_training
from lightly_prg.errors import UserError
from lightly_prg.eval import Embeddings, embed
from lightly_prg.eval.label_draws import hold_out
from lightly_prg.features import PRGEncoder
from lightly_prg.features.cells import SOURCES, Cell, Row
from lightly_prg.features.grid import GridEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.reading import readable_blocks
from lightly_prg.recipe import FeatureSpec

SCANNED_TAUS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Denser near the data, where the strong frozen features of diffusion models were found (arXiv 2303.09769)."""

MEMORY_BUDGET = 2 << 30  # bytes of features that are held at a time: more, and 16 GiB would not hold two scans

_SMALL_IMAGE = 16  # sides up to this are kept whole where a row is shaped as an image, and larger ones pooled to it


@dataclass(frozen=True, eq=False)
class ScanImages:
    """The images of a scan.

    Attributes:
        bank: Training images: the bank of k-NN, and what the probe is fitted on.
        judged: Images that are judged; None where labels are not known.
        judged_on: ``validation``, or ``train`` where a tenth of the training images is held out for want of others.
    """

    bank: ImageSet
    judged: ImageSet | None
    judged_on: str | None

    @property
    def count(self) -> int:
        """Of all."""
        return len(self.bank) + (len(self.judged) if self.judged is not None else 0)


@dataclass(frozen=True, eq=False)
class CellFeatures:
    """The features of one cell.

    Attributes:
        cell: Which.
        bank: Of the training images.
        judged: Of the images that are judged; None where no image has a label.
    """

    cell: Cell
    bank: Embeddings
    judged: Embeddings | None


def rows_of(
    encoder: PRGEncoder | NetworkEncoder,
    *,
    blocks: Sequence[str] = (),
    sources: Sequence[str] = (),
    pools: Sequence[str] = (),
) -> tuple[Row, ...]:
    """The rows of a scan.

    Args:
        encoder: Whose network is read.
        blocks: Names of blocks; default all (``readable_blocks``).
        sources: Some of ``SOURCES``; default all that the encoder has, or ``block`` alone where blocks are named.
        pools: How they are pooled; default for activations as the encoder pools a block, else ``mean``. State, velocity
            and denoised image have few channels, of which ``mean`` would leave but a colour: by default, and in place
            of ``mean``, they are kept whole, or as ``grid:16`` where the image is larger than that.

    Raises:
        UserError: If the encoder has no such source, or an option is not allowed.
    """
    allowed = SOURCES[:4] if isinstance(encoder, PRGEncoder) else SOURCES[3:]
    if not sources:
        sources = ("block",) if blocks else allowed
    for source in sources:
        if source not in allowed:
            kind = "an encoder with a flow" if isinstance(encoder, PRGEncoder) else "a network without a flow"
            raise UserError(f"The source is {source!r}; allowed for {kind} are {', '.join(allowed)}.")
    if blocks and "block" not in sources:
        raise UserError("A block goes with the source 'block', which is not among the sources.")
    of_images = pools if pools else ("mean",)
    if not pools:
        of_block = not isinstance(encoder, PRGEncoder) or encoder.feature.source == "block"
        pools = (encoder.feature.pool if of_block else "mean",)
    for pool in pools:
        _checked({"pool": pool}, f"The pool is {pool!r}; allowed are mean, flatten and grid:N, such as grid:2.")
    assert encoder.input_shape is not None
    large = max(encoder.input_shape[1:]) > _SMALL_IMAGE
    whole = f"grid:{_SMALL_IMAGE}" if large else "flatten"
    rows = []
    for source in dict.fromkeys(sources):
        if source == "block":
            names = blocks if blocks else readable_blocks(encoder)
            rows += [Row("block", name, pool) for name in names for pool in pools]
        elif source == "output":
            rows += [Row("output", None, pool) for pool in pools]
        else:
            rows += [Row(source, None, whole if pool == "mean" else pool) for pool in of_images]  # type: ignore[arg-type]
    return tuple(dict.fromkeys(rows))


def taus_of(encoder: PRGEncoder | NetworkEncoder, taus: Sequence[float] | None) -> tuple[float, ...]:
    """The positions of a scan in ascending order; none for a network without a flow.

    Raises:
        UserError: If a tau lies outside [0, 1], or there is no flow that has any.
    """
    if not isinstance(encoder, PRGEncoder):
        if taus:
            raise UserError("The encoder is a network that is run once: it has no flow and no tau.")
        return ()
    chosen = tuple(sorted(set(taus if taus else SCANNED_TAUS)))
    _checked({"tau": chosen}, f"tau runs from 0 (data) to 1 (noise); given were {', '.join(f'{t:g}' for t in chosen)}.")
    return chosen


def images_of(splits: Splits, most: int, *, seed: int) -> ScanImages:
    """Draws the images of a scan from the training and the validation split, by class.

    Args:
        splits: Of which the test images are left alone.
        most: Of each kind.
        seed: Decides the draws.

    Raises:
        UserError: If there is no training image, or fewer are asked for than there are classes.
    """
    if len(splits.train) == 0:
        raise UserError("The train split of this run is empty: there is nothing to scan.")
    train, validation = splits.train, splits.validation
    bank = drawn_by_class(train, most, seed)
    if not train.labelled or not (len(validation) == 0 or validation.labelled):
        return ScanImages(bank, None, None)
    if len(validation):
        return ScanImages(bank, drawn_by_class(validation, most, seed), "validation")
    kept, held = (torch.from_numpy(rows) for rows in hold_out(bank.labels.numpy(), seed=seed))
    return ScanImages(bank.subset(kept), bank.subset(held), "train")


def drawn_by_class(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most so many images of a set, stratified, all of it where there are no more.

    Raises:
        UserError: If fewer are asked for than there are classes.
    """
    if most >= len(images):
        return images
    classes = len(set(images.labels.tolist()))
    if most < classes:
        raise UserError(f"max_images is {most}; at least one image of each of the {classes} classes is needed.")
    rows, _ = split_training(images.labels, validation_fraction=0.0, train_size=most, seed=seed)
    return images.subset(rows)


def groups_of(grid: GridEncoder, images: int, budget: int) -> list[tuple[Row, ...]]:
    """Shares the rows out so that the features of each group fit into memory; each group is a pass of its own.

    Args:
        grid: All rows.
        images: Of which features are held.
        budget: Bytes.

    Raises:
        UserError: If one row alone does not fit.
    """
    groups: list[tuple[Row, ...]] = []
    held = budget + 1
    for row in grid.rows:
        size = 4 * images * grid.width(row)
        if size > budget:
            raise UserError(
                f"The features of {row.name} pooled by {row.pool!r} take {size / 2**30:.1f} GiB, more than the "
                f"{budget / 2**30:.1f} GiB that a scan holds: take a coarser pool, fewer images or fewer taus."
            )
        if held + size > budget:
            groups.append(())
            held = 0
        groups[-1] += (row,)
        held += size
    return groups


def part_of(grid: GridEncoder, rows: Sequence[Row]) -> GridEncoder:
    """The grid of some of its rows, which are read as in the whole."""
    if tuple(rows) == grid.rows:
        return grid
    return GridEncoder(
        grid.encoder,
        rows,
        taus=grid.taus,
        steps=grid.steps or None,
        noised=grid.noised,
        seed=grid.seed,
        together=grid.together,
    )


def read_group(
    grid: GridEncoder,
    rows: Sequence[Row],
    images: ScanImages,
    *,
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> list[CellFeatures]:
    """Reads the cells of some rows by one pass over the images; they are views of one array.

    Args:
        grid: All cells.
        rows: Some of its rows, see ``groups_of``.
        images: Of the scan.
        progress: Called with the number of images read.
        options: Of ``embed``: batch size, device, precision, workers.
    """
    part = part_of(grid, rows)

    def read(chosen: ImageSet, before: int) -> Embeddings:
        return embed(part, chosen, progress=lambda done, _: progress and progress(before + done), **options)

    bank = read(images.bank, 0)
    judged = read(images.judged, len(images.bank)) if images.judged is not None else None
    found = []
    for cell in part.cells:
        columns, nfe = part.columns(cell), part.nfe_of(cell)
        held = None if judged is None else _columns(judged, columns, nfe)
        found.append(CellFeatures(cell, _columns(bank, columns, nfe), held))
    return found


def _columns(embeddings: Embeddings, columns: slice, nfe: float) -> Embeddings:
    return dataclasses.replace(embeddings, features=embeddings.features[:, columns], nfe=nfe)


def copied(features: CellFeatures) -> CellFeatures:
    """The same, without holding on to those of the other cells."""

    def copy(part: Embeddings) -> Embeddings:
        return dataclasses.replace(part, features=np.ascontiguousarray(part.features))

    return CellFeatures(features.cell, copy(features.bank), None if features.judged is None else copy(features.judged))


def _checked(keys: dict[str, Any], message: str) -> None:
    try:
        FeatureSpec.model_validate({"source": "state", **keys})
    except ValidationError:
        raise UserError(message) from None
