"""Lightly's ResNet for small images, as an encoder network whose stages can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightly.models import ResNetGenerator
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.models.blocks import collect


class ResNet(nn.Module):
    """ResNet [0] with a 3 x 3 stem and no max-pooling, from ``lightly.models.ResNetGenerator``.

    Lightly's own script takes the layers out by ``children()`` and so loses the ReLU behind the first normalisation;
    here it is kept.

    - [0]: Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385

    Args:
        in_channels: Channels of the image.
        depth: 9, 18, 34, 50, 101 or 152.
        width: 1 for 64 channels in the first stage.
        stem_stride: 2 halves the image at once and quarters the cost.

    Attributes:
        block_names: The readable stages in order.
        num_features: Channels of the last stage.
    """

    block_names = ("stem", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, *, in_channels: int = 3, depth: int = 18, width: float = 1.0, stem_stride: int = 1) -> None:
        super().__init__()
        if int(64 * width) < 1:
            raise ValueError(f"width is {width}; 64 channels times it has to be at least 1.")
        resnet = ResNetGenerator(f"resnet-{depth}", width=width)
        channels = resnet.base
        stem = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stem_stride, padding=1, bias=False)
        self.stem = nn.Sequential(stem, resnet.bn1, nn.ReLU())
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        self.num_features: int = resnet.linear.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Averages the last stage over space: ``(B, C, H, W)`` to ``(B, num_features)``."""
        for _, activation in self._steps(x):
            x = activation
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def activations(self, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """Returns the output of named stages, running no further than the last of them.

        Raises:
            ValueError: If a stage is unknown.
        """
        return collect(self._steps(x), blocks, self.block_names)

    def _steps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name in self.block_names:
            x = self.get_submodule(name)(x)
            yield name, x
