"""How images and activations lie in memory: what the convolutions and norms of a network are fastest in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def laid_out(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` as convolutions like them; on MPS as they are, see ``fast_layout``."""
    return images if images.device.type == "mps" else images.contiguous(memory_format=torch.channels_last)


def fast_layout(network: nn.Module, device: torch.device, precision: str) -> torch.memory_format:
    """The layout for the weights of a network; its activations follow them.

    Convolutions like ``channels_last``. In half precision on a CPU torch's group norm takes ten times as long there as
    in ``contiguous_format``, which costs more than the convolutions gain: in the latter a U-Net of PRG trains 1.6 times
    and embeds twice as fast (AMD Zen 5, bf16). A ResNet, which has no group norm, would be a fifth slower in it.

    Args:
        network: Which.
        device: Where it runs.
        precision: Of its arithmetic: ``32``, ``bf16`` or ``16``.
    """
    if device.type == "mps":  # there the gradients of batch norm are wrong in channels_last (pytorch #175189)
        return torch.contiguous_format
    if device.type == "cpu" and precision != "32" and any(isinstance(part, nn.GroupNorm) for part in network.modules()):
        return torch.contiguous_format
    return torch.channels_last
