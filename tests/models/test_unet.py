from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightly_prg.models import UNet, redraw_zero_weights
from lightly_prg.models.unet_blocks import (
    ConditionedGroupNorm,
    ResidualBlock,
    SelfAttention,
    group_count,
)


@pytest.fixture(autouse=True)
def _weights() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("settings", "millions"),
    [({}, 52.54), ({"image_size": 64, "multipliers": (1, 2, 3, 4)}, 121.06)],
)
def test_parameters_of_the_papers_networks(settings: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = UNet(**settings)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_blocks_of_the_default_network() -> None:
    with torch.device("meta"):
        network = UNet()
        x = torch.zeros(2, 3, 32, 32)
        _, found = network(torch.zeros(2), x, network.block_names)
    assert network.block_names[0] == "stem"
    assert sum(name.startswith("down.") for name in network.block_names) == 4 * 3
    assert sum(name.startswith("up.") for name in network.block_names) == 4 * 4
    assert found["stem"].shape == (2, 128, 32, 32)
    assert found["down.3"].shape == (2, 256, 16, 16)
    assert found["middle"].shape == (2, 256, 4, 4)
    assert found["up.15"].shape == (2, 128, 32, 32)
    attending = [name for name in network.block_names if getattr(network.get_submodule(name), "attention", 0)]
    assert attending == [f"down.{i}" for i in range(3, 9)] + [f"up.{i}" for i in range(4, 12)]


@pytest.mark.parametrize(
    ("image_size", "patch_size", "levels", "smallest"),
    [(28, 1, 3, 7), (28, 2, 2, 7), (12, 4, 1, 3), (9, 3, 1, 3), (8, 1, 4, 1)],
)
def test_odd_feature_maps(image_size: int, patch_size: int, levels: int, smallest: int) -> None:
    network = UNet(
        image_size=image_size,
        in_channels=1,
        channels=16,
        multipliers=(1,) * levels,
        blocks=1,
        attention=(smallest,),
        patch_size=patch_size,
    )
    redraw_zero_weights(network, torch.Generator().manual_seed(0))
    x = torch.randn(2, *network.input_shape)
    velocity, found = network(0.5, x, ["middle"])
    assert network.input_shape == (1, image_size, image_size)
    assert velocity.shape == x.shape
    assert found["middle"].shape == (2, 16, smallest, smallest)


@pytest.mark.parametrize(("image_size", "expected"), [(28, "24 or 32"), (30, "24 or 32"), (5, "8")])
def test_sizes_that_do_not_fit(image_size: int, expected: str) -> None:
    with pytest.raises(ValueError, match=f"multiple of 8, for example {expected}\\."):
        UNet(image_size=image_size, patch_size=2, multipliers=(1, 1, 1), attention=())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": (16, 7)}, "names 7, .* sides 32, 16, 8, 4"),
        ({"heads": 3}, "heads=3 does not divide"),
        ({"channels": 33, "attention": (), "middle_attention": False}, "even number"),
        ({"blocks": 0}, "blocks=0"),
        ({"multipliers": (), "attention": ()}, "0 multipliers"),
        ({"tau_scale": 0.0}, "tau_scale is 0.0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        UNet(**settings)


@pytest.mark.parametrize(("middle", "expected"), [(True, 1), (False, 0)])
def test_attention_can_be_left_out(middle: bool, expected: int) -> None:
    with torch.device("meta"):
        network = UNet(attention=(), middle_attention=middle)
    assert sum(isinstance(module, SelfAttention) for module in network.modules()) == expected


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patch_folding_alone_is_the_identity(patch_size: int) -> None:
    network = UNet(
        image_size=8,
        in_channels=3,
        channels=4,
        multipliers=(1,),
        blocks=1,
        attention=(),
        patch_size=patch_size,
    )
    folded = 3 * patch_size**2
    # The output layer gives what the stem was given, so only folding and unfolding are left.
    x = torch.randn(2, 3, 8, 8)
    seen: list[torch.Tensor] = []
    network.stem.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    network.output.register_forward_hook(lambda _m, _i, _o: seen[0])
    assert torch.equal(network(0.5, x), x)
    assert seen[0].shape == (2, folded, 8 // patch_size, 8 // patch_size)
    # A position of the map holds the pixels of its own square, so folding keeps neighbourhoods.
    square = x[:, :, :patch_size, :patch_size].flatten(1)
    assert torch.equal(seen[0][:, :, 0, 0], square)


def test_dropout_acts_in_training_only() -> None:
    network = UNet(image_size=4, in_channels=1, channels=8, multipliers=(1,), attention=(), dropout=0.5)
    redraw_zero_weights(network, torch.Generator().manual_seed(0))
    x = torch.randn(2, 1, 4, 4)
    assert not torch.equal(network(0.5, x), network(0.5, x))
    network.eval()
    assert torch.equal(network(0.5, x), network(0.5, x))


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (384, 32), (64, 16), (48, 12), (6, 1), (3, 1), (10, 2)])
def test_groups_divide_the_channels_and_are_not_thin(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rows", [1, 5])
def test_conditioned_norm_equals_its_definition(layout: torch.memory_format, rows: int) -> None:
    norm = ConditionedGroupNorm(12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(5, 12, 3, 4).to(memory_format=layout)
    scale, shift = torch.randn(rows, 12), torch.randn(rows, 12)
    groups = x.reshape(5, 3, -1)
    normalised = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
    plain = normalised.reshape(x.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), plain)
    expected = plain * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(norm(x, torch.cat([scale, shift], dim=1)), expected)


def test_norm_keeps_half_precision_under_autocast() -> None:
    norm = ConditionedGroupNorm(8)
    x = torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            narrow = x.bfloat16().to(memory_format=layout)
            assert norm(narrow, torch.zeros(2, 16)).dtype == torch.bfloat16
            assert norm(narrow).dtype == torch.bfloat16
        assert norm(x, torch.zeros(2, 16)).dtype == torch.float32


def test_attention_equals_its_definition() -> None:
    attention = SelfAttention(8, heads=2)
    redraw_zero_weights(attention, torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 3, 2)
    tokens = attention.norm(x).reshape(2, 8, 6).transpose(1, 2)
    qkv = F.linear(tokens, attention.qkv.weight, attention.qkv.bias)
    heads = []
    for head in range(2):
        query, key, value = (qkv[:, :, part * 8 + head * 4 : part * 8 + head * 4 + 4] for part in range(3))
        heads.append((query @ key.transpose(1, 2) / 4**0.5).softmax(dim=2) @ value)
    mixed = attention.projection(torch.cat(heads, dim=2))
    torch.testing.assert_close(attention(x), x + mixed.transpose(1, 2).reshape(2, 8, 3, 2))


def test_untrained_residual_block_is_its_shortcut() -> None:
    x, condition = torch.randn(2, 8, 3, 3), torch.randn(2, 5)
    same = ResidualBlock(8, 8, tau_width=5, dropout=0.0)
    assert torch.equal(same(x, condition), x)
    wider = ResidualBlock(8, 12, tau_width=5, dropout=0.0)
    assert torch.equal(wider(x, condition), wider.shortcut(x))
