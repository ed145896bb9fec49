"""Encoders that learned nothing: what every table has beside the encoder that did."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class RawPixels(nn.Module):
    """The image itself as its embedding.

    Args:
        input_shape: ``(C, H, W)`` of the images.

    Attributes:
        embedding_dim: C * H * W.
        nfe: 0, no network is evaluated.

    Example:
        >>> RawPixels((1, 28, 28)).embedding_dim
        784
    """

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.input_shape = tuple(int(size) for size in input_shape)
        self.embedding_dim = math.prod(self.input_shape)
        self.nfe = 0

    def forward(self, images: Tensor) -> Tensor:
        """Flattens ``(B, C, H, W)`` to ``(B, C * H * W)`` in float32.

        Raises:
            ValueError: If the images have another shape than ``input_shape``.
        """
        if tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(
                f"RawPixels takes images of shape (B, {', '.join(map(str, self.input_shape))}); "
                f"got {tuple(images.shape)}."
            )
        return images.flatten(1).float()
