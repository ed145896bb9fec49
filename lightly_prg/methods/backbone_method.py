"""Methods whose encoder is a backbone that is run once: what SimCLR and MAE have in common."""

from __future__ import annotations

from torch import Tensor, nn

from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.methods.method import Method
from lightly_prg.recipe import MAERecipe, SimCLRRecipe


class BackboneMethod(Method):
    """A method with a ``backbone`` and ``settings`` that say where in it the embedding is read."""

    backbone: nn.Module
    settings: SimCLRRecipe | MAERecipe

    @property
    def network(self) -> nn.Module:
        """The backbone; what pretraining puts behind it is not part of the encoder."""
        return self.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Embeds normalised images ``(B, C, H, W)`` to ``(B, D)`` in float32 with the trainable network."""
        return NetworkEncoder(self.backbone, self.settings.feature, input_shape=self.input_shape).embed(images)

    def encoder(self) -> NetworkEncoder:
        """The encoder of the averaged weights: images in [0, 1] to embeddings."""
        return NetworkEncoder(self.averaged, self.settings.feature, input_shape=self.input_shape).eval()
