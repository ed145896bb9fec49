"""Whether the fine-tuning of a recipe can be done on its data: asked before an hour of training, not behind it."""

from __future__ import annotations

import copy

import torch

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.checks import check_head
from lightly_prg.eval.finetuning.data import FinetuneData
from lightly_prg.eval.finetuning.heads import PRGHead
from lightly_prg.eval.finetuning.layer_decay import layer_groups
from lightly_prg.eval.finetuning.model import trained_blocks
from lightly_prg.eval.finetuning.presets import preset_by_name
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.rereading import reread
from lightly_prg.models import LoRA
from lightly_prg.recipe import Recipe
from lightly_prg.training.finetune_loss import kept_flow_matching


def check_finetunable(recipe: Recipe, encoder: PRGEncoder | NetworkEncoder, data: Splits) -> None:
    """Refuses an ``eval.finetune`` that could not begin, with this encoder and these images.

    Args:
        recipe: Of the run; without ``eval.finetune`` there is nothing to refuse.
        encoder: What is going to be trained; it is not changed.
        data: The images.

    Raises:
        UserError: If a block, feature, head or loss does not fit the encoder, or there are too few labels.
    """
    settings = recipe.eval.finetune
    if settings is None:
        return
    try:
        network = reread(encoder, feature=settings.feature, ode=settings.ode)
        trained_blocks(network, settings.mode, settings.blocks)
        if settings.mode == "lora":
            LoRA(**settings.lora.model_dump()).add(copy.deepcopy(network))
        kept_flow_matching(settings.beta, encoder=network, recipe=recipe)
        on_test = recipe.eval.split == "test"
        drawn = FinetuneData.of(
            data.train,
            data.test if on_test else data.validation,
            validation=data.validation if on_test and len(data.validation) else None,
            labels=settings.amount,
            num_classes=data.train.num_classes,
            seed=recipe.seed,
        )
        preset = preset_by_name(settings.preset)
        if preset.head == "prg":
            shape = (data.train.channels, data.train.image_size, data.train.image_size)
            check_head(PRGHead(shape, drawn.num_classes), torch.zeros(2, network.embedding_dim), drawn.num_classes)
        if settings.mode != "head":
            layer_groups(network, torch.nn.Identity(), lr=1.0, decay=preset.layer_decay, weight_decay=0.0)
    except UserError as error:
        raise UserError(f"eval.finetune: {error}") from None
