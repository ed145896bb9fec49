"""Which images are fitted, which choose, and which are classified at the end of a fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lightly_prg.eval.divisible import DivisibleDataset, labelled
from lightly_prg.eval.label_checks import check_amount, count_classes
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
        check_amount(labels)
        train, test = labelled(train), labelled(test)
        given = None if validation is None else labelled(validation)
        num_classes = count_classes(train, given, test, num_classes, evaluator="fine-tuning")
        classes = np.asarray(train.labels, dtype=np.int64)
        pool, chooser = np.arange(len(train)), given
        if chooser is None or len(chooser) == 0:
            pool, held = hold_out(classes, seed=seed)
            chooser = train.subset(torch.from_numpy(held))
        if labels is not None:
            pool = draw_labels(classes, pool, labels, seed=seed, draw=0)
        fitted = train if len(pool) == len(train) else train.subset(torch.from_numpy(pool))
        return cls(fitted, chooser, test, num_classes)
