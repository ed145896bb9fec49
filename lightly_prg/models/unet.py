"""The U-Net of improved diffusion (arXiv 2102.09672, 2105.05233) as a velocity network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightly_prg.models.tau_embedding import TauEmbedding
from lightly_prg.models.unet_blocks import (
    ConditionedGroupNorm,
    Downsample,
    ResidualBlock,
    SelfAttention,
    Upsample,
    zero_,
)
from lightly_prg.models.velocity_network import VelocityNetwork


class UNetBlock(nn.Module):
    """A residual block and, at some resolutions, attention after it: a readable unit."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        tau_width: int,
        dropout: float,
        heads: int | None,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, tau_width=tau_width, dropout=dropout)
        self.attention = None if heads is None else SelfAttention(out_channels, heads=heads)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) and the conditioning vector to (B, out_channels, H, W)."""
        h: Tensor = self.residual(x, condition)
        return h if self.attention is None else self.attention(h)


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, *, tau_width: int, dropout: float, heads: int | None) -> None:
        super().__init__()
        self.block1 = UNetBlock(channels, channels, tau_width=tau_width, dropout=dropout, heads=heads)
        self.block2 = UNetBlock(channels, channels, tau_width=tau_width, dropout=dropout, heads=None)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps (B, C, H, W) and the conditioning vector to (B, C, H, W)."""
        out: Tensor = self.block2(self.block1(x, condition), condition)
        return out


class UNet(VelocityNetwork):
    """Residual U-Net with attention, conditioned on tau by scale and shift.

    The defaults are PRG's network for 32 x 32 images (52.54 M parameters); ``image_size=64,
    multipliers=(1, 2, 3, 4)`` is its network for 64 x 64 (121.06 M). The output and the last layer
    of every residual branch start at zero, so an untrained network is exactly the zero velocity;
    see ``redraw_zero_weights`` for a random control.

    Blocks: ``stem``, ``down.0`` ... , ``middle``, ``up.0`` ... , counted through all resolutions;
    resampling layers lie between them and are not blocks.

    Args:
        image_size: Side of the square image, in pixels; a multiple of
            ``patch_size * 2**(len(multipliers) - 1)``.
        in_channels: Channels of the image.
        channels: Width of the first resolution; even.
        multipliers: Width of each resolution as a multiple of ``channels``.
        blocks: Residual blocks at each resolution on the way down (one more on the way up).
        attention: Sides of the feature maps that have attention after each block. It counts
            positions of the map, not pixels: with ``patch_size=2`` a 32-pixel image starts as a
            map of side 16.
        middle_attention: Whether the middle has attention, whatever its side.
        heads: Attention heads.
        dropout: Probability before the last convolution of each residual block.
        patch_size: Side of the square of pixels folded into channels at the input and unfolded at
            the output. 2 makes all layers between about four times cheaper.
        tau_scale: Factor on tau before its sinusoids; see ``TauEmbedding``.

    Raises:
        ValueError: If the sizes do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        middle_attention: bool = True,
        heads: int = 4,
        dropout: float = 0.0,
        patch_size: int = 1,
        tau_scale: float = 1000.0,
    ) -> None:
        super().__init__(image_size=image_size, in_channels=in_channels)
        sides = _feature_map_sides(image_size, patch_size, len(multipliers))
        _check_attention(attention, sides)
        if blocks < 1 or channels < 1 or min(multipliers) < 1:
            raise ValueError(
                f"blocks={blocks}, channels={channels}, multipliers={tuple(multipliers)}: each has to be at least 1."
            )
        self.patch_size = patch_size
        self.blocks = blocks
        tau_width = 4 * channels
        widths = [channels * multiplier for multiplier in multipliers]
        level_heads = [heads if side in attention else None for side in sides]

        def block(width_in: int, level: int) -> UNetBlock:
            return UNetBlock(
                width_in,
                widths[level],
                tau_width=tau_width,
                dropout=dropout,
                heads=level_heads[level],
            )

        folded = in_channels * patch_size**2
        self.tau_embedding = TauEmbedding(channels, tau_width, tau_scale=tau_scale)
        self.stem = nn.Conv2d(folded, channels, 3, padding=1)

        width = channels
        skips = [width]
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        for level in range(len(widths)):
            for _ in range(blocks):
                self.down.append(block(width, level))
                width = widths[level]
                skips.append(width)
            if level < len(widths) - 1:
                self.downsample.append(Downsample(width))
                skips.append(width)

        self.middle = MiddleBlock(
            width, tau_width=tau_width, dropout=dropout, heads=heads if middle_attention else None
        )

        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                self.up.append(block(width + skips.pop(), level))
                width = widths[level]
            if level > 0:
                self.upsample.append(Upsample(width))

        self.norm = ConditionedGroupNorm(width)
        self.output = nn.Conv2d(width, folded, 3, padding=1)
        zero_(self.output)
        self.block_names = (
            "stem",
            *(f"down.{i}" for i in range(len(self.down))),
            "middle",
            *(f"up.{i}" for i in range(len(self.up))),
        )

    def _steps(self, tau: Tensor, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        condition = self.tau_embedding(tau)
        folded = F.pixel_unshuffle(x, self.patch_size)
        # Activations take the layout of the input as well as that of the weights; here the weights decide.
        h = self.stem(folded.contiguous() if self.output.weight.is_contiguous() else folded)
        yield "stem", h
        skips = [h]
        for i, block in enumerate(self.down):
            h = block(h, condition)
            yield f"down.{i}", h
            skips.append(h)
            level, position = divmod(i + 1, self.blocks)
            if position == 0 and level <= len(self.downsample):
                h = self.downsample[level - 1](h)
                skips.append(h)
        h = self.middle(h, condition)
        yield "middle", h
        for i, block in enumerate(self.up):
            h = block(torch.cat([h, skips.pop()], dim=1), condition)
            yield f"up.{i}", h
            level, position = divmod(i + 1, self.blocks + 1)
            if position == 0 and level <= len(self.upsample):
                h = self.upsample[level - 1](h)
        h = self.output(F.silu(self.norm(h)))
        yield "velocity", F.pixel_shuffle(h, self.patch_size)


def _feature_map_sides(image_size: int, patch_size: int, levels: int) -> list[int]:
    """Returns the side of the feature map at each resolution, highest first."""
    if levels < 1 or patch_size < 1:
        raise ValueError(f"patch_size={patch_size} and {levels} multipliers: each has to be at least 1.")
    unit = patch_size * 2 ** (levels - 1)
    if image_size < 1 or image_size % unit:
        below = image_size // unit * unit
        fitting = " or ".join(str(size) for size in (below, below + unit) if size > 0)
        raise ValueError(
            f"image_size={image_size} does not fit patch_size={patch_size} and {levels} "
            f"resolutions: it has to be a multiple of {unit}, for example {fitting}."
        )
    return [image_size // patch_size // 2**level for level in range(levels)]


def _check_attention(attention: Sequence[int], sides: Sequence[int]) -> None:
    """Refuses attention at a side that no feature map has: it would silently be left out."""
    absent = [side for side in attention if side not in sides]
    if absent:
        raise ValueError(
            f"attention={tuple(attention)} names {', '.join(map(str, absent))}, "
            f"but the feature maps have sides {', '.join(map(str, sides))}."
        )
