"""Which images train and which validate: a function of the labels and the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.randomness import generator_for


def split_training(
    labels: Tensor,
    *,
    validation_fraction: float,
    train_size: int | None,
    seed: int,
    class_names: Sequence[str] = (),
) -> tuple[Tensor, Tensor]:
    """Splits training images into those that train and those that validate.

    Both draws are stratified (``apportion``) and depend on ``labels`` and ``seed`` alone;
    ``train_size`` is drawn from what the validation images leave, so that runs of different sizes
    share their validation images.

    Args:
        labels: int64 of shape (N,); -1 stands for unknown and is treated as one more class.
        validation_fraction: Share of the N images that validates, in [0, 1).
        train_size: How many of the others train; None for all of them.
        seed: The seed of the run.
        class_names: For error messages.

    Returns:
        Sorted indices of the training and of the validation images, int64.

    Raises:
        UserError: If there are too few images, in all or of one class.
    """
    num_validation, num_train = count_split(len(labels), validation_fraction=validation_fraction, train_size=train_size)
    rest = torch.arange(len(labels))
    validation = rest[:0]
    if num_validation:
        validation = _draw(
            labels,
            num_validation,
            generator=generator_for(seed, "validation"),
            leave_one=True,
            what=f"data.validation_fraction={validation_fraction:g}",
            class_names=class_names,
        )
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[validation] = False
        rest = rest[kept]
    if num_train < len(rest):
        drawn = _draw(
            labels[rest],
            num_train,
            generator=generator_for(seed, "train_size"),
            leave_one=False,
            what=f"data.train_size={train_size}",
            class_names=class_names,
        )
        rest = rest[drawn]
    return rest, validation


def count_split(total: int, *, validation_fraction: float, train_size: int | None) -> tuple[int, int]:
    """Returns the number of validation and of training images out of ``total``.

    Raises:
        UserError: If ``train_size`` is more than validation leaves, or validation takes or leaves
            nothing.
    """
    num_validation = round(total * validation_fraction)
    if validation_fraction > 0 and not 0 < num_validation < total:
        raise UserError(
            f"data.validation_fraction={validation_fraction:g} makes {num_validation} of {total} "
            "training images validate: both parts need at least one; 0 goes without validation."
        )
    available = total - num_validation
    if train_size is not None and train_size > available:
        raise UserError(
            f"data.train_size={train_size} is more than the {available} training images there are"
            + (f" beside {num_validation} for validation." if num_validation else ".")
        )
    return num_validation, available if train_size is None else train_size


def apportion(counts: Sequence[int], total: int, *, leave_one: bool = False) -> list[int]:
    """Distributes ``total`` draws over classes in proportion to their sizes, by largest remainder.

    Every class gets at least one, even where its share would round to none.

    Args:
        counts: Images of each class, all positive.
        total: Draws to distribute.
        leave_one: Whether at least one image of every class has to stay.

    Returns:
        Draws for each class; they add up to ``total``.

    Raises:
        ValueError: If that cannot be.

    Example:
        >>> apportion([50, 30, 20], 7)
        [4, 2, 1]
    """
    sizes = np.array(counts, dtype=np.int64)
    upper = sizes - 1 if leave_one else sizes
    if (upper < 1).any() or not len(sizes) <= total <= upper.sum():
        raise ValueError(f"{total} draws cannot be distributed over classes of {list(counts)}.")
    # Integers throughout: `owed` is the exact share minus the quota, times the number of images.
    quota: npt.NDArray[np.int64] = (sizes * total // sizes.sum()).clip(1, upper)
    while quota.sum() != total:
        owed = sizes * total - quota * sizes.sum()
        none = np.iinfo(np.int64).min
        if quota.sum() < total:
            quota[np.where(quota < upper, owed, none).argmax()] += 1
        else:
            quota[np.where(quota > 1, -owed, none).argmax()] -= 1
    return [int(draws) for draws in quota]


def _draw(
    labels: Tensor,
    total: int,
    *,
    generator: torch.Generator,
    leave_one: bool,
    what: str,
    class_names: Sequence[str],
) -> Tensor:
    classes, counts = torch.unique(labels, return_counts=True)
    if total < len(classes):
        raise UserError(f"{what} draws {total} images, fewer than the {len(classes)} classes there are.")
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        if leave_one and count < 2:
            name = class_names[label] if 0 <= label < len(class_names) else label
            raise UserError(f"{what} needs at least 2 training images of every class; the class {name!r} has {count}.")
    try:
        quotas = apportion(counts.tolist(), total, leave_one=leave_one)
    except ValueError:
        raise UserError(f"{what} draws {total} of {len(labels)} images, which leaves a class without any.") from None
    classes_members = torch.split(labels.argsort(stable=True), counts.tolist())
    drawn = [
        # A whole permutation, so that the images of a small draw are among those of a larger one.
        members[torch.randperm(len(members), generator=generator)[:quota]]
        for members, quota in zip(classes_members, quotas, strict=True)
    ]
    return torch.cat(drawn).sort().values
