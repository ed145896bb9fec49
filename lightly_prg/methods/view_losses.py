"""Losses that compare two views of an image: Lightly's, with the projection head that goes with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss, LeJEPALoss, NTXentLoss, VICRegLoss
from lightly.models.modules.heads import (
    BarlowTwinsProjectionHead,
    DINOProjectionHead,
    SimCLRProjectionHead,
    VICRegProjectionHead,
)
from torch import Tensor, nn

from lightly_prg.recipe import AuxiliaryRecipe


def projection_head(settings: AuxiliaryRecipe, dimension: int) -> nn.Module:
    """The head that maps an activation's vector to what the loss compares.

    LeJEPA has no head of its own in Lightly; as in its paper, it gets a perceptron with batch normalisation.
    """
    hidden, output = settings.projection.hidden, settings.projection.output
    heads: dict[str, Callable[[], nn.Module]] = {
        "ntxent": lambda: SimCLRProjectionHead(dimension, hidden, output),
        "vicreg": lambda: VICRegProjectionHead(dimension, hidden, output),
        "barlow_twins": lambda: BarlowTwinsProjectionHead(dimension, hidden, output),
        "lejepa": lambda: BarlowTwinsProjectionHead(dimension, hidden, output),
        "dino": lambda: DINOProjectionHead(dimension, hidden, bottleneck_dim=min(256, hidden), output_dim=output),
    }
    return heads[settings.loss]()


class ViewLoss(nn.Module):
    """One of Lightly's losses on the projections of two views.

    Args:
        settings: Which, and its temperature.

    Attributes:
        needs_teacher: Whether it compares with the projections of an averaged network.
    """

    def __init__(self, settings: AuxiliaryRecipe) -> None:
        super().__init__()
        losses: dict[str, Callable[[], Any]] = {
            "ntxent": lambda: NTXentLoss(temperature=settings.temperature, gather_distributed=True),
            "vicreg": lambda: VICRegLoss(gather_distributed=True),
            "barlow_twins": lambda: BarlowTwinsLoss(gather_distributed=True),
            "lejepa": lambda: LeJEPALoss(gather_distributed=True),
            "dino": lambda: DINOLoss(output_dim=settings.projection.output),
        }
        self.name = settings.loss
        self.needs_teacher = settings.loss == "dino"
        self.criterion = losses[settings.loss]()

    def forward(self, projections: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Computes the loss.

        Args:
            projections: ``(2 B, D)``, those of all first views before those of all second ones.
            teacher: The same from the averaged network, for DINO.
        """
        # In half precision the similarities of a large batch lose the differences that matter, and mixed precision
        # would round the projections again.
        with torch.autocast(projections.device.type, enabled=False):
            first, second = projections.float().chunk(2)
            if teacher is not None:
                loss: Tensor = self.criterion(list(teacher.float().chunk(2)), [first, second])
            elif self.name == "lejepa":
                # Both views are global ones; the loss counts its local views besides, of which there are none.
                views = torch.stack([first, second])
                loss = self.criterion(local_proj=views, global_proj=views)
            else:
                loss = self.criterion(first, second)
        return loss
