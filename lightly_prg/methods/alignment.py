"""Representation alignment: activations drawn towards a frozen teacher's, patch by patch (REPA, arXiv 2410.06940)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.errors import UserError
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.models.activations import hooked_output
from lightly_prg.models.pooling import channels_first
from lightly_prg.models.pretrained_network import build_pretrained
from lightly_prg.recipe import AuxiliaryRecipe


class Teacher:
    """A frozen network whose activation on a clean image is the target. It may have seen labels: say so in tables.

    Not a module on purpose: it is no part of the state that is trained, averaged or saved.

    Args:
        settings: ``teacher``, ``teacher_weights``, ``teacher_block`` and ``teacher_resize``.
        input_shape: ``(C, H, W)`` of the images.
        weights: Whether it gets the weights that it learned; without them its cost can be counted.

    Raises:
        UserError: If there is no such network, or its activation is no grid.
    """

    def __init__(self, settings: AuxiliaryRecipe, input_shape: tuple[int, ...], *, weights: bool = True) -> None:
        assert settings.teacher is not None
        self.source, self.block = settings.teacher, settings.teacher_block
        self.encoder = _encoder_of(settings, input_shape, weights=weights).eval().requires_grad_(False)
        with torch.no_grad():
            self.dimension = self(torch.zeros(1, *input_shape)).shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(B, D, h, w)`` of images ``(B, C, H, W)`` in [0, 1]."""
        encoder = self.encoder.to(images.device)
        if images.shape[1] == 1:
            images = images.expand(-1, encoder.input_shape[0], -1, -1)
        x = encoder.resized(encoder.normalize(images))
        if self.block is not None:
            return self._as_grid(hooked_output(encoder.network, self.block, x), x)
        if not hasattr(encoder.network, "forward_features"):
            raise UserError(f"{self.source} has no forward_features; name a block with auxiliary.teacher_block.")
        network: Any = encoder.network
        return self._as_grid(network.forward_features(x), x)

    def _as_grid(self, features: Tensor, x: Tensor) -> Tensor:
        if features.ndim == 3:
            patches = features[:, self._tokens_in_front(features.shape[1]) :]
            side = math.isqrt(patches.shape[1])
            features = patches.transpose(1, 2).reshape(len(features), -1, side, side)
        features = channels_first(features, x)
        if features.ndim != 4:
            raise UserError(
                f"{self.source} gives activations of shape {tuple(features.shape)}; patch-wise alignment needs a grid. "
                "Name another block with auxiliary.teacher_block."
            )
        return features

    def _tokens_in_front(self, count: int) -> int:
        """How many class and register tokens stand before the patches; a block ahead of them has none yet."""
        known = getattr(self.encoder.network, "num_prefix_tokens", None)  # timm's
        if known is not None and known < count and math.isqrt(count - known) ** 2 == count - known:
            return int(known)
        front = count - math.isqrt(count) ** 2
        if front > 5:
            raise UserError(f"{self.source} gives {count} tokens, which form no square.")
        return front


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
        projected, target = self.layers(activation).float(), target.float()
        if target.shape[2:] != projected.shape[2:]:
            # Antialiasing on CPUs knows no half precision, in which a teacher may have run.
            target = F.interpolate(target, size=projected.shape[2:], mode="bilinear", antialias=True)
        return -F.cosine_similarity(projected, target, dim=1).mean()


def _encoder_of(settings: AuxiliaryRecipe, input_shape: tuple[int, ...], *, weights: bool) -> NetworkEncoder:
    from lightly_prg.methods.build import build_encoder  # these two stand above
    from lightly_prg.run import Run, load

    source, resize = str(settings.teacher), settings.teacher_resize
    if source.startswith(("timm:", "torchvision:")):
        size = resize if resize is not None else input_shape[-1]
        wanted = settings.teacher_weights if weights else "none"
        found = build_pretrained(source, weights=wanted, image_size=size)
        shape = (3, *input_shape[1:])
        return NetworkEncoder(found.network, input_shape=shape, mean=found.mean, std=found.std, resize=resize)
    if not Path(source).is_dir():
        raise UserError(f"auxiliary.teacher is {source!r}; allowed are timm:NAME, torchvision:NAME and a run folder.")
    encoder = load(source) if weights else build_encoder(Run(Path(source)).description)
    if not isinstance(encoder, NetworkEncoder):
        raise UserError(f"{source} holds a flow; a teacher is a network that is run once, such as SimCLR's or MAE's.")
    if resize is not None:
        encoder.resize = resize
    return encoder
