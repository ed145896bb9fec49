"""Representation alignment: activations drawn towards a frozen teacher's, patch by patch (REPA, arXiv 2410.06940)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.activations import hooked_output
from lightly_prg.errors import UserError
from lightly_prg.models.pretrained_network import build_pretrained
from lightly_prg.recipe import AuxiliaryRecipe


class Teacher:
    """A frozen network whose activation on a clean image is the target. It may have seen labels: say so in tables.

    Not a module on purpose: it is no part of the state that is trained, averaged or saved.

    Args:
        settings: ``teacher``, ``teacher_weights``, ``teacher_block`` and ``teacher_resize``.
        input_shape: ``(C, H, W)`` of the images.

    Raises:
        UserError: If there is no such network, or its activation is no grid.
    """

    def __init__(self, settings: AuxiliaryRecipe, input_shape: tuple[int, ...]) -> None:
        assert settings.teacher is not None
        self.source, self.block, self.resize = settings.teacher, settings.teacher_block, settings.teacher_resize
        size = self.resize if self.resize is not None else input_shape[-1]
        if self.source.startswith(("timm:", "torchvision:")):
            found = build_pretrained(self.source, weights=settings.teacher_weights, image_size=size)
            network, mean, std, channels = found.network, list(found.mean), list(found.std), 3
        else:
            network, mean, std, channels = _from_run(self.source)
        self.network = network.eval().requires_grad_(False)
        self.channels = channels
        self.mean, self.std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))
        with torch.no_grad():
            self.dimension = self(torch.zeros(1, *input_shape)).shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(B, D, h, w)`` of images ``(B, C, H, W)`` in [0, 1]."""
        self.network.to(images.device)
        x = images.expand(-1, self.channels, -1, -1) if images.shape[1] == 1 else images
        x = (x - self.mean.to(x)) / self.std.to(x)
        if self.resize is not None and x.shape[-1] != self.resize:
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bicubic", antialias=True)
        if self.block is not None:
            return self._as_grid(hooked_output(self.network, self.block, x))
        if not hasattr(self.network, "forward_features"):
            raise UserError(f"{self.source} has no forward_features; name a block with auxiliary.teacher_block.")
        network: Any = self.network
        return self._as_grid(network.forward_features(x))

    def _as_grid(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            count = features.shape[1]
            patches = math.isqrt(count) ** 2
            if count - patches > 5:  # class and register tokens stand first
                raise UserError(f"{self.source} gives {count} tokens, which form no square.")
            side = math.isqrt(patches)
            features = features[:, count - patches :].transpose(1, 2).reshape(len(features), -1, side, side)
        if features.ndim != 4:
            raise UserError(
                f"{self.source} gives activations of shape {tuple(features.shape)}; patch-wise alignment needs a grid. "
                "Name another block with auxiliary.teacher_block."
            )
        return features


class Alignment(nn.Module):
    """The projection of REPA, a perceptron of three layers on every patch, and its loss.

    Args:
        channels: Of the activation.
        hidden: Width of the perceptron.
        dimension: Of the teacher's patches.
    """

    def __init__(self, channels: int, hidden: int, dimension: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, dimension, 1),
        )

    def forward(self, activation: Tensor, target: Tensor) -> Tensor:
        """The negative mean cosine similarity of patches (equation 8), on the activation's grid.

        Args:
            activation: ``(B, channels, h, w)``.
            target: ``(B, dimension, h', w')``, brought to the same grid.
        """
        projected = self.layers(activation).float()
        if target.shape[2:] != projected.shape[2:]:
            target = F.interpolate(target, size=projected.shape[2:], mode="bilinear", antialias=True)
        return -F.cosine_similarity(projected, target.float(), dim=1).mean()


def _from_run(source: str) -> tuple[nn.Module, list[float], list[float], int]:
    from lightly_prg.network_encoder import NetworkEncoder
    from lightly_prg.run import load  # stands above the methods

    if not Path(source).is_dir():
        raise UserError(f"auxiliary.teacher is {source!r}; allowed are timm:NAME, torchvision:NAME and a run folder.")
    encoder = load(source)
    if not isinstance(encoder, NetworkEncoder):
        raise UserError(f"{source} holds a flow; a teacher is a network that is run once, such as SimCLR's or MAE's.")
    return encoder.network, encoder.mean.flatten().tolist(), encoder.std.flatten().tolist(), encoder.input_shape[0]
