"""Low-rank adaptation (LoRA, arXiv 2106.09685) of the convolutions and linear layers of any network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightly_prg.errors import UserError
from lightly_prg.randomness import generator_for

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


class LowRankUpdate(nn.Module):
    """A parametrisation of a weight: ``W + scale * B A``, where B starts at zero (arXiv 2106.09685, equation 3).

    A convolution's weight ``(out, in, k, k)`` counts as the matrix ``(out, in * k * k)``.

    It is computed anew whenever the layer reads its weight, which for a convolution costs little beside the
    convolution itself. ``parametrize.cached()`` must not be used around a checkpointed solve: the first evaluation
    would keep the product for the others, and recomputing one of those in the backward pass would not find it.

    Args:
        weight: The weight to adapt; its shape, dtype and device are taken.
        rank: Rank r of the update, at most that of the weight.
        alpha: The factor on the update is ``alpha / r``.
        generator: Draws A, on the CPU.

    Attributes:
        inward: A, ``(r, in)``, normal with variance 1 / in, so that ``A x`` is of the size of x.
        outward: B, ``(out, r)``, zero.
    """

    def __init__(self, weight: Tensor, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        rank = min(rank, rows, columns)
        drawn = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.inward = nn.Parameter(drawn.to(weight))
        self.outward = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Adds the update to a weight."""
        # What is merged at the end is this sum in full precision, so it is what training sees, too.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.outward @ self.inward).reshape(weight.shape)


@dataclass(frozen=True)
class LoRA:
    """Puts low-rank updates on the layers of a network, and merges them into its weights again.

    Args:
        rank: Of the updates, r.
        alpha: The updates are multiplied by ``alpha`` over the rank that they have, so that another rank needs no other
            learning rate.
        norms: Whether the scales and biases of normalisations are trained as well.
        seed: Of the random halves of the updates.

    Example:
        >>> network, lora = nn.Sequential(nn.Linear(8, 8)), LoRA(rank=2)
        >>> lora.add(network)
        ('0.parametrizations.weight.0.inward', '0.parametrizations.weight.0.outward')
        >>> lora.merge(network)
        >>> list(network.state_dict())
        ['0.weight', '0.bias']
    """

    rank: int = 8
    alpha: float = 16.0
    norms: bool = False
    seed: int = 0

    def add(self, network: nn.Module) -> tuple[str, ...]:
        """Adapts every ``Conv2d`` and ``Linear`` in place; what the network computes stays exactly the same.

        Returns:
            The names of the parameters that are to be trained; all others are frozen.

        Raises:
            UserError: If there is no such layer.
        """
        network.requires_grad_(False)
        for name, layer in list(network.named_modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                generator = generator_for(self.seed, "lora", name)
                update = LowRankUpdate(layer.weight, rank=self.rank, alpha=self.alpha, generator=generator)
                parametrize.register_parametrization(layer, "weight", update)
            elif self.norms and isinstance(layer, _NORMS):
                layer.requires_grad_(True)
        names = tuple(name for name, parameter in network.named_parameters() if parameter.requires_grad)
        if not any(parametrize.is_parametrized(layer) for layer in network.modules()):
            raise UserError("LoRA adapts convolutions and linear layers, and this network has none.")
        return names

    def merge(self, network: nn.Module) -> None:
        """Writes the updated weights into the layers and removes the updates: an ordinary network again."""
        for layer in list(network.modules()):
            if _is_adapted(layer):
                order = [name for name in ("weight", *layer._parameters) if name in ("weight", "bias")]
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
                # Removal puts the weight last, and optimisers and averages go by the order.
                for name in order:
                    layer._parameters[name] = layer._parameters.pop(name)


def _is_adapted(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    parametrizations: Any = layer.parametrizations
    return any(isinstance(update, LowRankUpdate) for update in parametrizations["weight"])
