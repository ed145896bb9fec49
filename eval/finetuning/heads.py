"""Classification heads for fine-tuning: linear on standardised features, and that of PRG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.errors import UserError

_MOMENTUM = 0.1
_FLOOR = 1e-5
_TINY = 1e-20  # to the power of -3/2, as in the gradient, it is still finite
_PRG_CELLS = 16


class FeatureStandardiser(nn.Module):
    """Batch normalisation without parameters, for features of any scale.

    It differs from ``nn.BatchNorm1d(affine=False)`` in two ways. The running statistics start at those of the first
    batch, where zero and one would still be felt after the few steps of a run on few labels. And what is added to the
    variances is a share of their mean, so that features that are all tiny are not damped, and one that is nearly
    constant is not blown up. Multiplying all features by a number therefore changes nothing.

    Args:
        dimension: D.
        momentum: Least share of a batch in the running statistics; 0 averages over all batches, for an encoder that is
            frozen.
    """

    def __init__(self, dimension: int, *, momentum: float = _MOMENTUM) -> None:
        super().__init__()
        self.momentum = momentum
        self.mean: Tensor
        self.variance: Tensor
        self.batches: Tensor
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("variance", torch.ones(dimension))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """Standardises ``(B, D)``: by the batch in training, by the running statistics in evaluation."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = features.mean(0), features.var(0, correction=0)
            with torch.no_grad():
                self.batches += 1
                share = (1.0 / self.batches).clamp(min=self.momentum)
                self.mean.lerp_(mean.detach(), share)
                self.variance.lerp_(variance.detach(), share)
        floor = _FLOOR * variance.mean() + _TINY
        return (features - mean) * (variance + floor).rsqrt()


class LinearHead(nn.Module):
    """A linear classifier on standardised features.

    Args:
        embedding_dim: D.
        num_classes: K.
    """

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.standardise = FeatureStandardiser(embedding_dim)
        self.linear = nn.Linear(embedding_dim, num_classes)
        # Nearly uniform predictions at first, whatever D is.
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features ``(B, D)`` to logits ``(B, K)``."""
        logits: Tensor = self.linear(self.standardise(features))
        return logits


class PRGHead(nn.Module):
    """The classifier of arXiv 2412.01787 on the state of an ODE, which has the shape of an image.

    The state is averaged to 16 x 16 cells (half the image's height and width where it is smaller than 32 pixels), then
    LayerNorm, a linear layer, tanh and a linear layer without bias.

    Args:
        input_shape: ``(C, H, W)`` of the images and so of the state.
        num_classes: K.
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = (int(size) for size in input_shape)
        self.input_shape = (channels, height, width)
        self.cells = (_cells(height), _cells(width))
        width_of_layers = channels * math.prod(self.cells)
        self.norm = nn.LayerNorm(width_of_layers)
        self.hidden = nn.Linear(width_of_layers, width_of_layers)
        self.output = nn.Linear(width_of_layers, num_classes, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps flat states ``(B, C * H * W)`` to logits ``(B, K)``.

        Raises:
            UserError: If the embedding is no image state.
        """
        if features.ndim != 2 or features.shape[1] != math.prod(self.input_shape):
            raise UserError(
                f"The prg head pools an ODE state, which for images of shape {self.input_shape} has "
                f"{math.prod(self.input_shape)} numbers; the embedding has {features.shape[-1]}. Choose the feature "
                "'state' with pool 'flatten' at one tau, or a linear head."
            )
        pooled = F.adaptive_avg_pool2d(features.reshape(-1, *self.input_shape), self.cells)
        logits: Tensor = self.output(self.hidden(self.norm(pooled.flatten(1))).tanh())
        return logits


def _cells(size: int) -> int:
    return min(_PRG_CELLS, max(1, size // 2))
