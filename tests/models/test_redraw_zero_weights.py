from __future__ import annotations

import torch
from torch import nn

from lightly_prg.models import DiT, UNet, redraw_zero_weights


def _layers() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Linear(25, 400), nn.GroupNorm(2, 4), nn.Linear(2, 2))
    for layer in layers[:3]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layers


def test_zero_weights_are_drawn_as_their_layer_draws_them() -> None:
    layers = _layers()
    kept = layers[3].weight.clone()
    assert redraw_zero_weights(layers, torch.Generator().manual_seed(0)) == 2
    for layer, fan_in in ((layers[0], 36), (layers[1], 25)):
        bound = fan_in**-0.5
        assert 0.95 * bound < layer.weight.max() <= bound
        assert -bound <= layer.weight.min() < -0.95 * bound
        assert not layer.bias.any()
    assert not layers[2].weight.any()  # a norm's scale is no projection
    assert torch.equal(layers[3].weight, kept)
    assert redraw_zero_weights(layers, torch.Generator().manual_seed(0)) == 0


def test_only_the_generator_decides() -> None:
    first, second, other = _layers(), _layers(), _layers()
    redraw_zero_weights(first, torch.Generator().manual_seed(3))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    redraw_zero_weights(second, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    redraw_zero_weights(other, torch.Generator().manual_seed(4))
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_counts_in_the_networks() -> None:
    unet = UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention=(4,))
    # Residual blocks: 2 down, 2 middle, 4 up; attention: 1 down, 1 middle, 2 up; the output.
    assert redraw_zero_weights(unet, torch.Generator()) == 8 + 4 + 1
    dit = DiT(image_size=8, in_channels=1, width=8, depth=3, heads=2)
    assert redraw_zero_weights(dit, torch.Generator()) == 3 + 2
