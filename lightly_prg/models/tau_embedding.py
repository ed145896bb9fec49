"""From a position on the path to a conditioning vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 1e4


def sinusoidal_embedding(tau: Tensor, width: int, *, tau_scale: float) -> Tensor:
    """Returns cosines and sines of ``tau_scale * tau``, at frequencies from 1 down to 1e-4.

    Args:
        tau: Positions on the path, (B,).
        width: Length of the embedding, even.
        tau_scale: Stretches [0, 1] over the frequencies' useful range.

    Returns:
        (B, width) in the dtype of ``tau``: all cosines, then all sines.
    """
    exponents = torch.arange(width // 2, dtype=tau.dtype, device=tau.device) / (width // 2)
    angles = (tau_scale * tau)[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TauEmbedding(nn.Module):
    """Sinusoids of tau and a two-layer MLP (arXiv 2102.09672), ending in an activation.

    Diffusion networks count time in about 1000 steps, flow matching in [0, 1]. Without a scale no
    angle exceeds one radian and most channels are nearly constant in tau; ``tau_scale=1000`` uses
    the range that the frequencies were made for. ``tau_scale=1`` is what PRG's reference code does.

    Args:
        sinusoids: Length of the sinusoidal part, even.
        width: Length of the conditioning vector.
        tau_scale: Factor on tau before the sinusoids.

    Raises:
        ValueError: If ``sinusoids`` is odd or ``tau_scale`` is not positive and finite.
    """

    def __init__(self, sinusoids: int, width: int, *, tau_scale: float = 1000.0) -> None:
        super().__init__()
        if sinusoids % 2:
            raise ValueError(f"The tau embedding takes an even number of channels, not {sinusoids}.")
        if not (tau_scale > 0 and math.isfinite(tau_scale)):
            raise ValueError(f"tau_scale is {tau_scale}; it has to be positive and finite.")
        self.sinusoids = sinusoids
        self.tau_scale = tau_scale
        self.linear1 = nn.Linear(sinusoids, width)
        self.linear2 = nn.Linear(width, width)
        self.activation = nn.SiLU()

    def forward(self, tau: Tensor) -> Tensor:
        """Returns conditioning vectors, (B, width), for positions ``tau``, (B,)."""
        weight = self.linear1.weight
        # Angles reach tau_scale: half precision would round them by whole radians.
        tau = tau.to(torch.promote_types(weight.dtype, torch.float32))
        sinusoids = sinusoidal_embedding(tau, self.sinusoids, tau_scale=self.tau_scale)
        hidden = self.activation(self.linear1(sinusoids.to(weight.dtype)))
        # Every block starts by activating the vector; doing it here does it once.
        condition: Tensor = self.activation(self.linear2(hidden))
        return condition
