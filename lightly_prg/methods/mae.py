"""MAE as a LightningModule (Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM
from lightly.models.modules.masked_vision_transformer_timm import init_weights
from lightly.transforms.mae_transform import MAETransform
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.errors import UserError
from lightly_prg.methods.backbone_method import BackboneMethod
from lightly_prg.models.vit import ViT
from lightly_prg.module_state import evaluating
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import MAERecipe, TrainRecipe
from lightly_prg.transforms import HALF_NORMALIZE
from lightly_prg.transforms.views import crop_view

# Lightly's benchmark scripts look for a module-level transform beside the class.
transform = MAETransform(input_size=32, normalize=HALF_NORMALIZE)


class MAE(BackboneMethod):
    """Predicts the masked patches of an image from the few that are left; ``forward`` embeds whole images.

    Put together from Lightly's masked vision transformer and decoder. The targets are patches of mean 0 and variance 1
    (the paper's better variant), and the two loose linear layers are initialised like the rest.

    Args:
        batch_size_per_device: As in Lightly's scripts.
        num_classes: Classes of the online classifier.
        input_shape: ``(C, H, W)`` of the images.
        backbone: Default: ViT-S with patches of 4 pixels.
        settings: Decoder, share of masked patches, target; see ``MAERecipe``.
        optimization: Learning rate, schedule and so on; see ``TrainRecipe``.
        online_probe: Train the online classifier beside the method.
        seed: Views and masks depend on it and on the step alone.

    Example:
        >>> model = MAE(backbone=ViT(width=24, depth=1, heads=2))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 24])
    """

    backbone: ViT
    settings: MAERecipe

    def __init__(
        self,
        batch_size_per_device: int = 128,
        num_classes: int = 10,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        backbone: ViT | None = None,
        settings: MAERecipe | None = None,
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
        self.settings = settings if settings is not None else MAERecipe(name="mae")
        channels, size, _ = self.input_shape
        self.backbone = backbone if backbone is not None else ViT(image_size=size, in_channels=channels)
        self.patch_size = size // round(self.backbone.num_patches**0.5)
        decoder = self.settings.decoder
        if decoder.width % decoder.heads or decoder.width % 4:
            raise ValueError(
                f"decoder.width is {decoder.width}; it has to be a multiple of 4 and of {decoder.heads} heads."
            )
        self.kept = self.backbone.num_patches - int(self.settings.mask_ratio * self.backbone.num_patches)
        if not 0 < self.kept < self.backbone.num_patches:
            raise ValueError(
                f"mask_ratio is {self.settings.mask_ratio}; of {self.backbone.num_patches} patches some have to be "
                "masked and some kept."
            )
        self.decoder_embed = nn.Linear(self.backbone.num_features, decoder.width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=self.backbone.num_patches, embed_dim=decoder.width, depth=decoder.depth, num_heads=decoder.heads
        )
        self.prediction_head = nn.Linear(decoder.width, channels * self.patch_size**2)
        for layer in (self.decoder_embed, self.prediction_head):
            layer.apply(init_weights)
        self.finish(num_classes)

    def make_views(
        self, images: Tensor, *, generator: torch.Generator, global_batch: int | None = None, first: int = 0
    ) -> list[Tensor]:
        """One view: crop and flip."""
        options = self.settings.augment.model_dump()
        view = crop_view(images, generator=generator, global_batch=global_batch, first=first, **options)
        return [view.mul_(2).sub_(1)]

    def loss(self, views: Sequence[Tensor], position: int) -> Tensor:
        """Mean squared error on the masked patches."""
        return self._reconstruction_loss(views[0], generator_for(self.seed, "mask", position, device=views[0].device))

    def _reconstruction_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        keep, masked = self.draw_mask(len(images), generator)
        predicted = self.predict(images, keep, masked).float()
        patches = utils.patchify(images.float(), self.patch_size)
        target = utils.get_at_index(patches, masked - 1)  # position 0 is the class token
        if self.settings.normalize_target:
            target = utils.normalize_mean_var(target)
        return F.mse_loss(predicted, target)

    def draw_mask(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws which tokens each image keeps: indices ``(B, 1 + kept)``, the class token first, and the rest.

        Distributed as ``lightly.models.utils.random_token_mask``, which draws from the global random state.
        """
        total, mine = self.share(batch)
        noise = torch.rand(total, self.backbone.num_patches, generator=generator, device=generator.device)[mine]
        order = noise.argsort(dim=1) + 1
        first = torch.zeros(batch, 1, dtype=order.dtype, device=order.device)
        return torch.cat([first, order[:, : self.kept]], dim=1), order[:, self.kept :]

    def predict(self, images: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        """Predicts the pixels of the patches ``masked`` from those of ``keep``: ``(B, masked, C * patch_size^2)``."""
        tokens = self.decoder_embed(self.backbone.encode(images, keep))
        all_tokens = utils.repeat_token(self.decoder.mask_token, (len(images), self.decoder.sequence_length))
        all_tokens = utils.set_at_index(all_tokens.type_as(tokens), keep, tokens)
        predicted: Tensor = self.prediction_head(utils.get_at_index(self.decoder(all_tokens), masked))
        return predicted

    def held_out_loss(self, images: Tensor, position: int) -> Tensor:
        """The loss of held-out images, not cropped, with the weights in training."""
        generator = generator_for(self.seed, "validation", position, device=images.device)
        with evaluating(self):
            return self._reconstruction_loss(images.float() / 127.5 - 1, generator)

    def trained_modules(self) -> list[nn.Module]:
        """Transformer, decoder and the two layers around it."""
        return [self.backbone, self.decoder_embed, self.decoder, self.prediction_head]


def build_vit(method: MAERecipe, input_shape: Sequence[int]) -> ViT:
    """The backbone of a recipe.

    Raises:
        UserError: If it does not fit the images.
    """
    channels, size, _ = input_shape
    try:
        return ViT(image_size=size, in_channels=channels, **method.backbone.model_dump(exclude={"name"}))
    except ValueError as error:
        raise UserError(f"method.backbone does not fit images of {channels} x {size} x {size}: {error}") from None
