"""SimCLR as a LightningModule (A Simple Framework for Contrastive Learning, arXiv 2002.05709)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from torch import Tensor, nn

from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.methods.backbone_method import BackboneMethod
from lightly_prg.models.pooling import channels_first, pool
from lightly_prg.models.resnet import ResNet
from lightly_prg.module_state import evaluating
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import SimCLRRecipe, TrainRecipe
from lightly_prg.transforms import HALF_NORMALIZE
from lightly_prg.transforms.views import simclr_views

# Lightly's benchmark scripts look for a module-level transform beside the class; these are its settings for CIFAR-10.
transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=HALF_NORMALIZE)


class SimCLR(BackboneMethod):
    """Pulls two views of an image together and pushes those of other images away; ``forward`` embeds images.

    Put together from ``lightly.loss.NTXentLoss`` and ``lightly.models.modules.SimCLRProjectionHead``.

    Args:
        batch_size_per_device: As in Lightly's scripts.
        num_classes: Classes of the online classifier.
        input_shape: ``(C, H, W)`` of the images.
        backbone: Images ``(B, C, H, W)`` to features ``(B, D)``. Default: Lightly's ResNet-18 for small images.
        settings: Projection, temperature and views; see ``SimCLRRecipe``.
        optimization: Learning rate, schedule and so on; see ``TrainRecipe``.
        online_probe: Train the online classifier beside the method.
        seed: The views depend on it and on the step alone.

    Example:
        >>> model = SimCLR(backbone=ResNet(depth=9, width=0.125))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """

    settings: SimCLRRecipe

    def __init__(
        self,
        batch_size_per_device: int = 128,
        num_classes: int = 10,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        backbone: nn.Module | None = None,
        settings: SimCLRRecipe | None = None,
        optimization: TrainRecipe | None = None,
        online_probe: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size_per_device=batch_size_per_device,
            input_shape=input_shape,
            optimization=optimization if optimization is not None else TrainRecipe(ema_decay=0.0, clip=None),
            online_probe=online_probe,
            seed=seed,
        )
        self.settings = settings if settings is not None else SimCLRRecipe(name="simclr")
        self.backbone = backbone if backbone is not None else ResNet(in_channels=self.input_shape[0])
        self.finish(num_classes)
        own_output = NetworkEncoder(self.averaged, input_shape=self.input_shape)
        self.projection_head = SimCLRProjectionHead(
            own_output.embedding_dim, self.settings.projection.hidden, self.settings.projection.output
        )
        self.criterion = NTXentLoss(temperature=self.settings.temperature, gather_distributed=True)

    def make_views(
        self, images: Tensor, *, generator: torch.Generator, global_batch: int | None = None, first: int = 0
    ) -> list[Tensor]:
        """Two views: crop, flip, colours and greyscale."""
        options = self.settings.augment.model_dump()
        views = simclr_views(images, generator=generator, global_batch=global_batch, first=first, **options)
        return [view.mul_(2).sub_(1) for view in views]

    def loss(self, views: Sequence[Tensor], position: int) -> Tensor:
        """NT-Xent of the two views' projections; one forward for both, so that batch statistics are shared."""
        return self._contrast(views, self.criterion)

    def _contrast(self, views: Sequence[Tensor], criterion: nn.Module) -> Tensor:
        if len(views) != 2:
            raise ValueError(f"SimCLR compares two views of each image; the batch has {len(views)}.")
        x = torch.cat(list(views))
        # What is projected is what `encoder` gives; many a backbone ends in maps of one pixel.
        projections: Tensor = self.projection_head(pool(channels_first(self.backbone(x), x), "mean"))
        # In half precision the similarities of a large batch lose the differences that matter, and mixed precision
        # would round the projections again.
        with torch.autocast(projections.device.type, enabled=False):
            loss: Tensor = criterion(*projections.float().chunk(2))
        return loss

    def held_out_loss(self, images: Tensor, position: int) -> Tensor:
        """The loss of held-out images with the weights in training, among the images of this process."""
        views = self.make_views(
            images, generator=generator_for(self.seed, "validation", position, device=images.device)
        )
        # One process measures while the others train on: a loss that gathers would wait for them for ever.
        with evaluating(self):
            return self._contrast(views, NTXentLoss(temperature=self.settings.temperature))

    def trained_modules(self) -> list[nn.Module]:
        """Backbone and projection head."""
        return [self.backbone, self.projection_head]


def build_resnet(method: SimCLRRecipe, input_shape: Sequence[int]) -> ResNet:
    """The backbone of a recipe."""
    return ResNet(in_channels=input_shape[0], **method.backbone.model_dump(exclude={"name"}))
