"""One LightningModule for each self-supervised method."""

from __future__ import annotations

from lightly_prg.methods.build import (
    adopted_encoder,
    build_encoder,
    build_method,
    build_network,
    pretrained_encoder,
    untrained_encoder,
)
from lightly_prg.methods.generator import generator_encoder
from lightly_prg.methods.mae import MAE
from lightly_prg.methods.method import Method
from lightly_prg.methods.prg import PRG, build_velocity
from lightly_prg.methods.simclr import SimCLR

__all__ = [
    "MAE",
    "PRG",
    "Method",
    "SimCLR",
    "adopted_encoder",
    "build_encoder",
    "build_method",
    "build_network",
    "build_velocity",
    "generator_encoder",
    "pretrained_encoder",
    "untrained_encoder",
]
