"""The vision transformer of the masked autoencoder, from Lightly's and timm's modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightly.models.modules import MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightly_prg.models.blocks import collect


class ViT(nn.Module):
    """A vision transformer with a class token and fixed 2-D sine-cosine positions, initialised as MAE [0] does.

    - [0]: Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377

    Args:
        image_size: Side of the square image.
        in_channels: Channels of the image.
        patch_size: Side of a patch.
        width: Dimension of a token.
        depth: Blocks.
        heads: Attention heads of each.
        mlp_ratio: Hidden size of a block's MLP in units of ``width``.

    Attributes:
        block_names: The blocks, whose outputs can be read.
        num_features: ``width``.
        num_patches: Tokens of an image, without the class token.

    Raises:
        ValueError: If the patch does not divide the image, or the heads the width, or the width is no multiple of 4.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        patch_size: int = 4,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide the image size {image_size}.")
        if width % heads or width % 4:
            raise ValueError(f"width is {width}; it has to be a multiple of 4 and of the {heads} heads.")
        vit = VisionTransformer(
            img_size=image_size,
            in_chans=in_channels,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
        )
        self.masked = MaskedVisionTransformerTIMM(vit)
        # Only filled where tokens are masked in place, which MAE never does: it would be a parameter without gradient.
        self.masked.mask_token.requires_grad_(False)
        self.block_names = tuple(f"masked.vit.blocks.{index}" for index in range(depth))
        self.num_features = width
        self.num_patches: int = vit.patch_embed.num_patches

    def forward(self, images: Tensor) -> Tensor:
        """Normalised patch tokens, without the class token: ``(B, C, H, W)`` to ``(B, num_patches, width)``."""
        tokens: Tensor = self.masked.encode(images)
        return tokens[:, 1:]

    def encode(self, images: Tensor, idx_keep: Tensor) -> Tensor:
        """Tokens of the kept positions only, class token included: ``(B, K, width)`` for ``idx_keep`` ``(B, K)``."""
        tokens: Tensor = self.masked.encode(images, idx_keep=idx_keep)
        return tokens

    def activations(self, images: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """Patch tokens behind named blocks, ``(B, num_patches, width)``, running no further than the last of them.

        Raises:
            ValueError: If a block is unknown.
        """
        return collect(self._steps(images), blocks, self.block_names)

    def _steps(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        tokens = self.masked.vit.norm_pre(self.masked.preprocess(images))
        for name, block in zip(self.block_names, self.masked.vit.blocks, strict=True):
            tokens = block(tokens)
            yield name, tokens[:, 1:]
