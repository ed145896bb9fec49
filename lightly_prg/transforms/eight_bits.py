"""Images of other types in eight bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def to_uint8(image: Tensor) -> Tensor:
    """Rounds a float image in [0, 1] to 8 bits; uint8 passes as it is, of uint16 the upper half remains.

    Raises:
        ValueError: If the type or the range is another one.
    """
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.uint16:
        halved: Tensor = F.to_dtype(image, torch.uint8, scale=True)
        return halved
    if not image.dtype.is_floating_point:
        raise ValueError(f"An image has the type {image.dtype}; uint8 and floating point are allowed.")
    low, high = image.aminmax()
    # Written so that NaN fails it.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"A floating-point image spans [{low:.4g}, {high:.4g}]; [0, 1] is needed, so leave the normalisation out."
        )
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
