"""What a supervised evaluator needs of its labels, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Protocol

import numpy as np

from lightly_prg.errors import UserError

_HIGHEST_LABEL = 1_000_000


class Labelled(Sized, Protocol):
    """Embeddings or images, all of known label."""

    @property
    def labels(self) -> Any:
        """``(N,)``, an array or a tensor."""
        ...


def count_classes(
    train: Labelled, validation: Labelled | None, test: Labelled, num_classes: int | None, *, evaluator: str
) -> int:
    """The number of classes: what was given, or the highest label and one.

    Args:
        train: What is fitted.
        validation: What chooses, which may be nothing.
        test: What is classified.
        num_classes: What was given.
        evaluator: Who asks, for the message: "The linear probe".

    Raises:
        UserError: If training or test is empty, training has one class, or a label lies beyond ``num_classes`` or is no
            number of a class.
    """
    for what, part in (("training", train), ("test", test)):
        if len(part) == 0:
            raise UserError(f"No {what} image has a label; {evaluator} needs them.")
    fitted = np.asarray(train.labels)
    if (fitted == fitted[0]).all():
        raise UserError(f"Every training image has the label {int(fitted[0])}; {evaluator} needs two classes.")
    parts = (train, test) if validation is None else (train, validation, test)
    highest = max(int(np.asarray(part.labels).max(initial=-1)) for part in parts)
    if highest > _HIGHEST_LABEL:
        raise UserError(f"There is a label {highest}; labels number classes, from 0 on.")
    if num_classes is not None and num_classes <= highest:
        raise UserError(f"num_classes is {num_classes}, and there is a label {highest}.")
    return num_classes if num_classes is not None else highest + 1


def check_amount(labels: int | float | None) -> None:
    """Refuses what is no amount of labels.

    Raises:
        UserError: If ``labels`` is neither None, nor a whole number from 1 on, nor a share in (0, 1).
    """
    allowed = labels is None or (
        0.0 < labels < 1.0 if isinstance(labels, float) else labels >= 1 and not isinstance(labels, bool)
    )
    if not allowed:
        raise UserError(
            f"labels is {labels!r}; allowed are a whole number of each class from 1 on, a share in (0, 1), or None for "
            "all."
        )
