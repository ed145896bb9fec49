"""A second loss on one block of the velocity network, so that one network generates and represents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from lightly_prg.flow import Path
from lightly_prg.hardware.layout import laid_out
from lightly_prg.methods.alignment import Alignment, Teacher
from lightly_prg.methods.block_reading import ReadBlock
from lightly_prg.methods.dispersive import dispersive_loss
from lightly_prg.methods.view_losses import ViewLoss, projection_head
from lightly_prg.models.pooling import pool
from lightly_prg.module_state import device_of, evaluating
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import AuxiliaryRecipe
from lightly_prg.recipe.auxiliary import ON_VIEWS
from lightly_prg.transforms.views import simclr_views


class Auxiliary(nn.Module):
    """Whatever shapes an activation beside the flow-matching loss, with all its own weights.

    Args:
        settings: Which loss, where, how strong.
        velocity: The velocity network, which is not kept.
        path: Its path.
        input_shape: ``(C, H, W)``.
        seed: Of noise and tau.
        teacher_weights: Whether a teacher gets the weights that it learned; without them its cost can be counted.

    Attributes:
        head: What stands between the activation and the loss; it is trained and then thrown away.
        reads_views: Whether the loss compares two views; otherwise it reads what the flow computes.
        read: How the views are run as far as the block.

    Raises:
        ValueError: If the network has no such block.
        UserError: If the teacher cannot be had.
    """

    head: nn.Module

    def __init__(
        self,
        settings: AuxiliaryRecipe,
        velocity: nn.Module,
        path: Path,
        input_shape: tuple[int, ...],
        *,
        seed: int,
        teacher_weights: bool = True,
    ) -> None:
        super().__init__()
        self.settings, self.path, self.seed = settings, path, seed
        self.reads_views = settings.loss in ON_VIEWS
        self.read = ReadBlock(settings.block)
        read = self._dry_run(velocity, input_shape)
        self.criterion = ViewLoss(settings) if self.reads_views else None
        self.teacher: Teacher | None = None
        if settings.loss == "align":
            self.teacher = Teacher(settings, input_shape, weights=teacher_weights)
        self.head = nn.Identity()
        if self.reads_views:
            self.head = projection_head(settings, pool(read, settings.pool).shape[1])
        elif self.teacher is not None:
            if read.ndim != 4:
                raise ValueError(f"Block {settings.block!r} gives {tuple(read.shape)}; alignment needs (B, C, h, w).")
            self.head = Alignment(read.shape[1], settings.projection.hidden, self.teacher.dimension)
        self.averaged_head: nn.Module | None = None
        if self.criterion is not None and self.criterion.needs_teacher:
            # Built anew: weight normalisation, which DINO's head has, cannot be copied.
            self.averaged_head = projection_head(settings, pool(read, settings.pool).shape[1])
            self.averaged_head.load_state_dict(self.head.state_dict())
            self.averaged_head.requires_grad_(False)

    def make_views(
        self, images: Tensor, *, generator: torch.Generator, global_batch: int | None, first: int
    ) -> list[Tensor]:
        """The two strong views in [0, 1], or none where the loss needs none."""
        if not self.reads_views:
            return []
        options = self.settings.views.model_dump()
        return simclr_views(images, generator=generator, global_batch=global_batch, first=first, **options)

    def compare_views(
        self, velocity: nn.Module, averaged: nn.Module, views: Sequence[Tensor], position: int, share: tuple[int, slice]
    ) -> Tensor:
        """The loss of two views, which run through the network as far as the block and no further.

        Args:
            velocity: The network in training.
            averaged: That of its averaged weights, the teacher of DINO.
            views: Two, each ``(B, C, H, W)``, normalised.
            position: Batches since the beginning; decides noise and tau.
            share: Size of the global batch and this process's part of it.
        """
        if len(views) != 2:
            raise ValueError(
                f"{self.settings.loss} compares two views of each image, behind the one of the flow; the batch has "
                f"{len(views)}: three in all are needed."
            )
        assert self.criterion is not None
        x, tau = self._carry(torch.cat(list(views)), position, share)
        loss: Tensor = self.criterion(self.project(velocity, tau, x), self.project_averaged(averaged, tau, x))
        return loss

    def project(self, velocity: nn.Module, tau: Tensor, x: Tensor) -> Tensor:
        """What the loss compares: the block's activation at ``x``, pooled, behind the head."""
        projections: Tensor = self.head(self._pooled(self.read(velocity, tau, x)))
        return projections

    @torch.no_grad()
    def project_averaged(self, averaged: nn.Module, tau: Tensor, x: Tensor) -> Tensor | None:
        """The same of the averaged network and head; None where the loss needs no teacher."""
        if self.averaged_head is None:
            return None
        # What was compiled is for the network in training; this one would compile it anew.
        projections: Tensor = self.averaged_head(self._pooled(self.read.forward(averaged, tau, x)))
        return projections

    def _carry(self, x: Tensor, position: int, share: tuple[int, slice]) -> tuple[Tensor, Tensor]:
        """Two views ``(2 B, C, H, W)`` to random positions near the data, with noise drawn for the global batch."""
        low, high = (min(max(end, self.path.tau_min), self.path.tau_max) for end in self.settings.tau)
        if high <= self.path.tau_min:
            return x, x.new_full((len(x),), self.path.tau_min)
        total, mine = share
        generator = generator_for(self.seed, "auxiliary", position, device=x.device)
        tau = torch.rand(2, total, generator=generator, device=x.device)[:, mine].flatten() * (high - low) + low
        noise = torch.randn((2, total, *x.shape[1:]), generator=generator, device=x.device)[:, mine].flatten(0, 1)
        return laid_out(self.path.interpolate(x, noise, tau)), tau

    def _pooled(self, activations: Tensor) -> Tensor:
        return pool(activations.float(), self.settings.pool)

    @torch.no_grad()
    def _dry_run(self, velocity: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
        """The activation at a black image, in evaluation mode: of one image there are no batch statistics."""
        place = device_of(velocity)
        with evaluating(velocity):
            found: Tensor = self.read(
                velocity,
                torch.full((1,), self.path.tau_min, device=place),
                torch.zeros(1, *input_shape, device=place),
            )
        return found

    def read_flow(self, activations: Tensor, images: Tensor) -> Tensor:
        """The loss of what the flow computed on its own batch.

        Args:
            activations: Of the block at the noised images, ``(B, ...)``.
            images: The clean ones ``(B, C, H, W)`` in [0, 1].
        """
        if self.teacher is None:
            return dispersive_loss(activations, temperature=self.settings.temperature, gather_distributed=True)
        loss: Tensor = self.head(activations, self.teacher(images))
        return loss

    def follow(self, decay: float) -> None:
        """Moves the averaged head, after an optimiser step.

        Args:
            decay: That of the averaged network in this step: both are one teacher, and warm up together.
        """
        if self.averaged_head is not None:
            update_momentum(self.head, self.averaged_head, m=decay)
