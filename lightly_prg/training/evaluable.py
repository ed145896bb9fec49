"""Whether the evaluators of a recipe can work on its data: asked before an hour of training, not behind it."""

from __future__ import annotations

import numpy as np

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.eval.label_draws import draw_labels, hold_out
from lightly_prg.recipe import Recipe


def check_evaluable(recipe: Recipe, data: Splits) -> None:
    """Refuses labels of which k-NN and the probes could make nothing. Images without labels are not judged at all.

    Raises:
        UserError: If all training images are of one class, one has fewer images than ``eval.few_shot`` draws, or there
            are no labels to fine-tune on.
    """
    settings = recipe.eval
    labels = data.train.labels[data.train.labels >= 0].numpy()
    if len(labels) == 0 and settings.finetune is not None:
        raise UserError("eval.finetune needs labels, and the training images have none: leave it out (=null).")
    if len(labels) == 0 or not any((settings.knn, settings.linear, settings.few_shot)):
        return
    if (labels == labels[0]).all():
        raise UserError(
            f"All training images are of one class, {data.train.class_names[labels[0]]!r}; the evaluators need two. "
            "To train without them, set eval.knn=null eval.linear=null eval.few_shot=null."
        )
    if settings.few_shot is not None:
        has_validation = settings.split == "test" and len(data.validation) > 0
        pool = np.arange(len(labels)) if has_validation else hold_out(labels, seed=recipe.seed)[0]
        try:
            draw_labels(labels, pool, settings.few_shot.labels, seed=recipe.seed, draw=0)
        except UserError as error:
            raise UserError(f"eval.few_shot: {error} Lower eval.few_shot.labels, or leave it out: =null.") from None
