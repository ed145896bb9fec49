"""Random weights in place of the zeros that diffusion networks start with."""

from __future__ import annotations

import math

import torch
from torch import nn


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
