"""An ordinary network as an encoder: run once, its output or one of its blocks pooled to an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.models.activations import hooked_output, names_activations
from lightly_prg.models.pooling import channels_first, pooled
from lightly_prg.module_state import device_of, evaluating, not_missing
from lightly_prg.recipe import NetworkFeature


class NetworkEncoder(nn.Module):
    """Images in [0, 1] to embeddings ``(B, D)``, by one run of a network: SimCLR's, MAE's, timm's or your own.

    Args:
        network: Takes normalised images ``(B, C, H, W)``; gives ``(B, D)``, tokens ``(B, N, D)`` or ``(B, D, h, w)``.
            With a method ``activations(x, blocks)``, as our networks have it, a block feature stops early.
        feature: Which block is read and how it is pooled. Default: the network's own output, averaged.
        input_shape: ``(C, H, W)`` of the images.
        mean: Normalisation of the network's images, one number for each channel or for all.
        std: Likewise; 0.5 and 0.5 give [-1, 1].
        resize: The side to which images are brought first (bicubic), for networks made for larger ones.

    Attributes:
        embedding_dim: D.
        nfe: 1.

    Example:
        >>> encoder = NetworkEncoder(nn.Conv2d(1, 4, 3), input_shape=(1, 8, 8))
        >>> encoder(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 4])
    """

    nfe = 1

    def __init__(
        self,
        network: nn.Module,
        feature: NetworkFeature | None = None,
        *,
        input_shape: Sequence[int],
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        resize: int | None = None,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.network = network
        self.feature = feature if feature is not None else NetworkFeature()
        self.input_shape = tuple(input_shape)
        self.resize = resize
        device = device_of(network)  # a network that is on a GPU already stays there
        for name, value in (("mean", mean), ("std", std)):
            numbers = torch.as_tensor(value, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            self.register_buffer(name, numbers, persistent=False)
        self._embedding_dim: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1].

        Returns:
            ``(B, D)`` in float32.

        Raises:
            ValueError: If the images are not floats of the shape that the encoder was made for.
        """
        if tuple(images.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(f"The encoder takes images of shape (B, {wanted}); got {tuple(images.shape)}.")
        if not images.is_floating_point():
            raise ValueError(f"The encoder takes float images in [0, 1]; got {images.dtype}. Divide bytes by 255.")
        return self.embed(self.normalize(images))

    def normalize(self, images: Tensor) -> Tensor:
        """[0, 1] to the network's own range."""
        return (images - self.mean) / self.std

    def resized(self, x: Tensor) -> Tensor:
        """Normalised images in the size that the network takes."""
        if self.resize is not None and x.shape[-1] != self.resize:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bicubic", antialias=True)
        return x

    def embed(self, x: Tensor) -> Tensor:
        """The same for images that are normalised already."""
        x = self.resized(x)
        features = pooled(channels_first(self._read(x), x).float(), self.feature.pool, x)
        self._embedding_dim = features.shape[1]
        return features

    def _read(self, x: Tensor) -> Tensor:
        block = self.feature.block
        if block is None:
            output: Tensor = self.network(x)
            return output
        if names_activations(self.network):
            network: Any = self.network
            found: dict[str, Tensor] = network.activations(x, (block,))
            return found[block]
        return hooked_output(self.network, block, x)

    @property
    def embedding_dim(self) -> int:
        """D, found by embedding one black image where nothing has been embedded yet."""
        if self._embedding_dim is None:
            with evaluating(self), torch.no_grad(), not_missing():
                self(torch.zeros(1, *self.input_shape, device=self.mean.device))
        assert self._embedding_dim is not None
        return self._embedding_dim

    @property
    def blocks(self) -> tuple[str, ...]:
        """Prefixes of the parameters' names from input to output, for layer-wise decay and partial training."""
        names = getattr(self.network, "block_names", None)
        if names is None:
            names = tuple(
                name for name, child in self.network.named_children() if any(True for _ in child.parameters())
            )
        return tuple(f"network.{name}" for name in names)

    def description(self) -> dict[str, Any]:
        """What, beside the network and its weights, makes this encoder; stands in encoder.json."""
        return {
            "feature": self.feature.model_dump(mode="json"),
            "normalize": {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()},
            "resize": self.resize,
        }

    def configuration(self) -> dict[str, Any]:
        """What, beside the weights, decides the embedding; evaluators key their caches by it."""
        return self.description()
