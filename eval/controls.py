"""Encoders without a trained network: what every table has beside the encoder that has one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightly_prg.eval.embed import ImageDataset, in_unit_range


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


class PCA(nn.Module):
    """The coordinates of an image along the principal components of the training images.

    Args:
        mean: Mean training image, flattened ``(C * H * W,)``.
        components: Directions of the largest variance in rows, ``(D, C * H * W)``.
        input_shape: ``(C, H, W)`` of the images.

    Attributes:
        embedding_dim: D.
        nfe: 0, no network is evaluated.
    """

    def __init__(self, mean: Tensor, components: Tensor, *, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.mean: Tensor
        self.components: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.input_shape = tuple(int(size) for size in input_shape)
        self.embedding_dim = len(components)
        self.nfe = 0

    def forward(self, images: Tensor) -> Tensor:
        """Projects ``(B, C, H, W)`` to ``(B, D)`` in float32.

        Raises:
            ValueError: If the images have another shape than ``input_shape``.
        """
        if tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(
                f"PCA takes images of shape (B, {', '.join(map(str, self.input_shape))}); got {tuple(images.shape)}."
            )
        return (images.flatten(1).float() - self.mean) @ self.components.T


def fit_pca(images: ImageDataset, *, input_shape: Sequence[int], components: int = 128, num_workers: int = 0) -> PCA:
    """Finds the principal components of a set of images with scikit-learn.

    Args:
        images: The training images; all of them are held in memory as float32.
        input_shape: Their ``(C, H, W)``.
        components: D; at most the number of images and of pixels.
        num_workers: Processes that decode.
    """
    from sklearn.decomposition import PCA as ScikitPCA

    batches = images.loader(batch_size=1000, num_workers=num_workers)
    pixels = np.concatenate([in_unit_range(batch).flatten(1).numpy() for batch, _, _ in batches])
    fitted = ScikitPCA(min(components, *pixels.shape), svd_solver="covariance_eigh").fit(pixels)
    return PCA(
        torch.from_numpy(fitted.mean_).float(), torch.from_numpy(fitted.components_).float(), input_shape=input_shape
    )
