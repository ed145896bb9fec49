"""One LightningModule for each self-supervised method."""

from __future__ import annotations

from lightly_prg.methods.prg import PRG, build_velocity

__all__ = ["PRG", "build_velocity"]
