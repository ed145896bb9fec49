"""Velocity networks ``v(tau, x) -> dx/dtau`` and what training them needs."""

from __future__ import annotations

from lightly_prg.ema import EMA as EMA
from lightly_prg.models.dit import DiT as DiT
from lightly_prg.models.init import redraw_fixed_weights as redraw_fixed_weights
from lightly_prg.models.init import redraw_zero_weights as redraw_zero_weights
from lightly_prg.models.lora import LoRA as LoRA
from lightly_prg.models.pretrained import from_diffusers as from_diffusers
from lightly_prg.models.pretrained import from_edm as from_edm
from lightly_prg.models.pretrained import from_sit as from_sit
from lightly_prg.models.pretrained import from_torchcfm as from_torchcfm
from lightly_prg.models.pretrained import load_diffusers as load_diffusers
from lightly_prg.models.pretrained import velocity_from as velocity_from
from lightly_prg.models.tau_embedding import TauEmbedding as TauEmbedding
from lightly_prg.models.tau_embedding import sinusoidal_embedding as sinusoidal_embedding
from lightly_prg.models.unet import UNet as UNet
from lightly_prg.models.velocity_network import VelocityNetwork as VelocityNetwork

__all__ = [
    "EMA",
    "DiT",
    "LoRA",
    "TauEmbedding",
    "UNet",
    "VelocityNetwork",
    "from_diffusers",
    "from_edm",
    "from_sit",
    "from_torchcfm",
    "load_diffusers",
    "redraw_fixed_weights",
    "redraw_zero_weights",
    "sinusoidal_embedding",
    "velocity_from",
]
