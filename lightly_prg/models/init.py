"""Random weights in place of the zeros that diffusion networks start with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def redraw_fixed_weights(module: nn.Module, twin: nn.Module) -> list[str]:
    """Redraws the weights that a builder does not draw: those of a checkpoint that it loads.

    A layer with ``reset_parameters``, as torch's have it, draws as it does for a new network; any other weight that
    could be trained is drawn from the normal law of its mean and deviation. Frozen ones, such as embeddings of
    positions, stay. Random numbers come from the global generator.

    Args:
        module: Changed in place.
        twin: The same network, built again from another random state: what is equal in both was not drawn.

    Returns:
        The names of the weights that were equal.
    """
    twins = dict(twin.named_parameters())
    fixed = [
        name
        for name, weight in module.named_parameters()
        if torch.equal(weight, twins[name]) and bool((weight != weight.flatten()[:1]).any())
    ]
    layers: dict[str, list[str]] = {}
    for name in fixed:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    for place, names in layers.items():
        layer: Any = module.get_submodule(place)
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
            continue
        for weight in (module.get_parameter(name) for name in names):
            if weight.requires_grad:
                weight.normal_(float(weight.float().mean()), float(weight.float().std()))
    return fixed


@torch.no_grad()
def redraw_zero_weights(module: nn.Module, generator: torch.Generator) -> int:
    """Redraws every weight that is entirely zero, as ``nn.Linear`` and ``nn.Conv2d`` draw theirs.

    The U-Net and DiT end each residual branch and the output in zeros, so untrained they are the
    zero velocity and their flow is the identity: as a "random network" control they would equal
    raw pixels. Biases stay as they are.

    Args:
        module: Changed in place.
        generator: The only source of randomness. Draws happen on its device, so a CPU generator
            gives the same weights wherever the module lives.

    Returns:
        How many weights were redrawn.
    """
    redrawn = 0
    for name, parameter in module.named_parameters():
        if name.split(".")[-1] != "weight" or parameter.ndim < 2 or parameter.any():
            continue
        draw = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
        nn.init.kaiming_uniform_(draw, a=math.sqrt(5), generator=generator)
        parameter.copy_(draw)
        redrawn += 1
    return redrawn
