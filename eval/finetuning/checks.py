"""What has to hold before a fine-tuning starts: options, the shape of embeddings and of logits."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.embed import PRECISIONS
from lightly_prg.transforms import to_unit_range


def check_options(epochs: int, batch_size: int, grid: Sequence[float], precision: str, ema_decay: float | None) -> None:
    """Refuses options that no fine-tuning has.

    Raises:
        UserError: With what is given and what is allowed.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; allowed are {', '.join(PRECISIONS)}.")
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
        if value < least:
            raise UserError(f"{name} is {value}; at least {least} is needed.")
    if not grid or not all(0.0 < rate < float("inf") for rate in grid):
        raise UserError(f"The learning rates are {grid}; at least one is needed, all above 0.")
    if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
        raise UserError(f"ema_decay is {ema_decay}; it has to be at least 0 and below 1.")


@torch.no_grad()
def embed_copy(encoder: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Embeds a few images with a copy, since even a forward pass may change what an encoder keeps.

    Raises:
        ValueError: If they are not ``(B, D)``.
    """
    features: Tensor = copy.deepcopy(encoder).to(device).eval()(to_unit_range(images.to(device)))
    if features.ndim != 2 or len(features) != len(images):
        raise ValueError(
            f"The encoder made {tuple(features.shape)} of {len(images)} images; ({len(images)}, D) is needed."
        )
    return features.float()


@torch.no_grad()
def check_head(head: nn.Module, features: Tensor, num_classes: int) -> None:
    """Refuses a head that does not map embeddings ``(B, D)`` to logits ``(B, K)``.

    Raises:
        ValueError: With both shapes.
    """
    logits = head.eval()(features)
    if logits.shape != (len(features), num_classes):
        raise ValueError(
            f"The head made {tuple(logits.shape)} of {len(features)} embeddings; ({len(features)}, {num_classes}) is "
            "needed."
        )
