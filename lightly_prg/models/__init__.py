"""Velocity networks ``v(tau, x) -> dx/dtau`` and what training them needs."""

from __future__ import annotations

from lightly_prg.models.dit import DiT as DiT
from lightly_prg.models.ema import EMA as EMA
from lightly_prg.models.init import redraw_zero_weights as redraw_zero_weights
from lightly_prg.models.tau_embedding import TauEmbedding as TauEmbedding
from lightly_prg.models.tau_embedding import sinusoidal_embedding as sinusoidal_embedding
from lightly_prg.models.unet import UNet as UNet
from lightly_prg.models.velocity_network import VelocityNetwork as VelocityNetwork

__all__ = [
    "EMA",
    "DiT",
    "TauEmbedding",
    "UNet",
    "VelocityNetwork",
    "redraw_zero_weights",
    "sinusoidal_embedding",
]
