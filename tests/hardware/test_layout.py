from __future__ import annotations

import pytest
import torch
from torch import nn

from lightly_prg.hardware.layout import fast_layout
from lightly_prg.models import UNet

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NORMED = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
BATCHED = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


@pytest.mark.parametrize(
    ("network", "device", "precision", "expected"),
    [
        (NORMED, CPU, "bf16", torch.contiguous_format),
        (NORMED, CPU, "16", torch.contiguous_format),
        (NORMED, CPU, "32", torch.channels_last),
        (NORMED, GPU, "bf16", torch.channels_last),
        (BATCHED, CPU, "bf16", torch.channels_last),
        (BATCHED, torch.device("mps"), "32", torch.contiguous_format),
    ],
)
def test_layout__is_contiguous_for_group_norm_in_half_precision_on_a_cpu(
    network: nn.Module, device: torch.device, precision: str, expected: torch.memory_format
) -> None:
    assert fast_layout(network, device, precision) == expected


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_activations__lie_as_the_weights_do_and_are_the_same(patch_size: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = UNet(
        image_size=8, in_channels=3, channels=8, multipliers=(1, 2), blocks=1, attention=(), patch_size=patch_size
    )
    nn.init.normal_(network.output.weight)
    x, tau = torch.rand(2, 3, 8, 8), torch.rand(2)
    expected = network(tau, x)
    network.to(memory_format=layout)
    seen = []
    network.down[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(network(tau, image), expected, rtol=1e-4, atol=1e-5)
    assert all(activation.is_contiguous(memory_format=layout) for activation in seen)
