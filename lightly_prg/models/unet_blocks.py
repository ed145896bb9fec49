"""The pieces of the U-Net: group norm with a condition, residual block, attention, resampling."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_count(channels: int) -> int:
    """Returns the largest divisor of ``channels`` up to 32 with four channels or more to a group.

    Thin networks would otherwise normalise each channel on its own, and lose its mean.
    """
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 4))


class ConditionedGroupNorm(nn.GroupNorm):
    """Group norm, optionally followed by a scale and shift of each image's channels.

    Args:
        channels: Channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(group_count(channels), channels)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        """Returns ``norm(x) * (1 + scale) + shift``, (B, C, H, W), in the dtype of ``x``.

        Args:
            x: (B, C, H, W).
            scale_shift: Scales and shifts side by side, (B, 2C) or (1, 2C).
        """
        if scale_shift is None:
            return self._normalise(x, self.num_groups, self.weight, self.bias)
        batch, channels = x.shape[:2]
        scale, shift = scale_shift.chunk(2, dim=1)
        factor = 1 + scale
        if not x.is_contiguous() or batch == 0:  # channels_last: folding would copy the activation
            h = self._normalise(x, self.num_groups, self.weight, self.bias)
            factor, shift = factor[:, :, None, None], shift[:, :, None, None]
            return torch.addcmul(shift.to(h.dtype), h, factor.to(h.dtype))
        # With the batch folded into the channels, the kernel's own affine step applies the
        # condition: two passes over the activation and one stored copy of it less.
        weight = (self.weight * factor).expand(batch, channels).flatten()
        bias = (self.bias * factor + shift).expand(batch, channels).flatten()
        folded = x.reshape(1, batch * channels, *x.shape[2:])
        return self._normalise(folded, batch * self.num_groups, weight, bias).reshape(x.shape)

    def _normalise(self, x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
        # CUDA's autocast would widen the activation to float32, and with it all that is stored
        # until the next convolution; the kernel takes its moments in float32 either way.
        half = x.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, enabled=False) if half else nullcontext():
            return F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), self.eps)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut; tau scales and shifts the second norm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        tau_width: Length of the conditioning vector.
        dropout: Probability before the second convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, tau_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = ConditionedGroupNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(tau_width, 2 * out_channels)
        self.norm2 = ConditionedGroupNorm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        zero_(self.conv2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) and (B or 1, tau_width) to (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h, self.scale_shift(condition)))
        out: Tensor = self.shortcut(x) + self.conv2(self.dropout(h))
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention between all positions of a feature map, added to it.

    Args:
        channels: Channels of the feature map.
        heads: Number of heads; a divisor of ``channels``.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads={heads} does not divide the {channels} channels of its map.")
        self.heads = heads
        self.norm = ConditionedGroupNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        zero_(self.projection)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, H, W)."""
        tokens: Tensor = self.norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (B, H*W, 3, heads, C/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, H*W, C/heads)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = x + self.projection(mixed).transpose(1, 2).reshape(x.shape)
        return out


class Downsample(nn.Module):
    """Halves height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, H/2, W/2)."""
        out: Tensor = self.layer(x)
        return out


class Upsample(nn.Module):
    """Doubles height and width by repetition, followed by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, 2H, 2W)."""
        out: Tensor = self.layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Zeroes a layer, so that the branch which ends in it starts as the zero map."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
