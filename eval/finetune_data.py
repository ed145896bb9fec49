"""Which images are fitted, which choose, and which are classified at the end of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.divisible import DivisibleDataset, labelled
from lightly_prg.eval.label_draws import draw_labels, hold_out


@dataclass(frozen=True, eq=False)
class FinetuneData:
    """Three sets of labelled images.

    Attributes:
        train: Those that are fitted.
        validation: Those that choose.
        test: Those that are classified once.
        num_classes: K.
    """

    train: DivisibleDataset
    validation: DivisibleDataset
    test: DivisibleDataset
    num_classes: int

    @classmethod
    def of(
        cls,
        train: DivisibleDataset,
        test: DivisibleDataset,
        *,
        validation: DivisibleDataset | None,
        labels: int | float | None,
        num_classes: int | None,
        seed: int,
    ) -> FinetuneData:
        """Leaves out what has no label, holds validation images out where none are given, and draws few labels.

        Few labels are not drawn from what is held out, of which there is as much for few labels as for all.

        Raises:
            UserError: If labels are missing or too few, or an option is not allowed.
        """
        _check_labels_option(labels)
        train, test = labelled(train), labelled(test)
        given = None if validation is None else labelled(validation)
        for what, part in (("training", train), ("test", test)):
            if len(part) == 0:
                raise UserError(f"No {what} image has a label, which fine-tuning needs.")
        classes = np.asarray(train.labels, dtype=np.int64)
        counts = np.bincount(classes)
        if np.count_nonzero(counts) < 2:
            raise UserError(f"Every training image has the label {classes[0]}; fine-tuning needs two classes.")
        highest = max(int(part.labels.max()) for part in (train, given, test) if part is not None and len(part))
        if num_classes is not None and num_classes <= highest:
            raise UserError(f"num_classes is {num_classes}, and there is a label {highest}.")
        pool, chooser = np.arange(len(train)), given
        if chooser is None or len(chooser) == 0:
            if counts.max() < 2:
                raise UserError(
                    "No class has two labelled training images, so none can be held out to choose the learning rate; "
                    "give a validation set or more images."
                )
            pool, held = hold_out(classes, seed=seed)
            chooser = train.subset(torch.from_numpy(held))
        if labels is not None:
            pool = draw_labels(classes, pool, labels, seed=seed, draw=0)
        fitted = train if len(pool) == len(train) else train.subset(torch.from_numpy(pool))
        return cls(fitted, chooser, test, highest + 1 if num_classes is None else num_classes)


def _check_labels_option(labels: int | float | None) -> None:
    allowed = labels is None or (
        0.0 < labels < 1.0 if isinstance(labels, float) else labels >= 1 and not isinstance(labels, bool)
    )
    if not allowed:
        raise UserError(
            f"labels is {labels!r}; allowed are a whole number of each class from 1 on, a share in (0, 1), or None for "
            "all."
        )
