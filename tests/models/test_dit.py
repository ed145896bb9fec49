from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lightly_prg.models import DiT, redraw_zero_weights


@pytest.fixture(autouse=True)
def _weights() -> None:
    torch.manual_seed(0)


def _small(**settings: Any) -> DiT:
    defaults = {"image_size": 12, "in_channels": 2, "patch_size": 3, "width": 16, "depth": 2}
    return DiT(**(defaults | {"heads": 2} | settings))


def test_parameters_by_hand() -> None:
    width, depth, hidden, pixels = 16, 2, 64, 2 * 9
    block = (
        (3 * width * width + 3 * width)  # queries, keys, values
        + (width * width + width)  # projection
        + (width * hidden + hidden + hidden * width + width)  # MLP
        + (6 * width * width + 6 * width)  # modulation
    )
    embedding = 256 * width + width + width * width + width
    patches = pixels * width + width
    output = 2 * width * width + 2 * width + width * pixels + pixels
    expected = depth * block + embedding + patches + output
    assert sum(parameter.numel() for parameter in _small().parameters()) == expected


def test_default_is_dit_s() -> None:
    with torch.device("meta"):
        network = DiT()
    # DiT-S has 33 M parameters, of which its label embedding (1001 x 384) is absent here.
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(32.5, abs=0.5)
    assert network.block_names == tuple(f"blocks.{i}" for i in range(12))


def test_activations_lie_where_their_patch_lies() -> None:
    network = _small()
    # Untrained blocks pass tokens on unchanged, so an activation is patch embedding plus position.
    x = torch.zeros(1, 2, 12, 12)
    x[0, :, 3:6, 9:12] = 1.0  # the patch in row 1, column 3
    blank = network.activations(0.5, torch.zeros_like(x), ["blocks.1"])["blocks.1"]
    marked = network.activations(0.5, x, ["blocks.1"])["blocks.1"]
    assert marked.shape == (1, 16, 4, 4)
    changed = (marked - blank).abs().sum(dim=1)[0]
    assert torch.nonzero(changed).tolist() == [[1, 3]]
    # Without a bias, a black patch is its position alone, row after row.
    for row, column in ((0, 0), (1, 3), (3, 1)):
        torch.testing.assert_close(blank[0, :, row, column], network.positions[4 * row + column])
    patch = network.patch_embed.proj.weight.sum(dim=(1, 2, 3))
    torch.testing.assert_close((marked - blank)[0, :, 1, 3], patch)


def test_output_lies_where_its_patch_lies() -> None:
    network = _small()
    torch.nn.init.normal_(network.output.weight)
    x = torch.zeros(1, 2, 12, 12)
    x[0, :, 3:6, 9:12] = torch.randn(2, 3, 3)
    difference = (network(0.5, x) - network(0.5, torch.zeros_like(x))).abs().sum(dim=1)[0]
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[3:6, 9:12] = True
    assert torch.equal(difference > 1e-6, expected)


def test_output_channels_are_pixels_of_the_patch() -> None:
    network = _small()
    pattern = torch.arange(18.0)
    with torch.no_grad():
        network.output.bias.copy_(pattern)
    velocity = network(0.5, torch.randn(1, 2, 12, 12))
    expected = pattern.reshape(1, 2, 3, 3).tile(1, 1, 4, 4)
    assert torch.equal(velocity, expected)


def test_positions_tell_rows_from_columns() -> None:
    positions = _small().positions.reshape(4, 4, 16)
    # Half of the channels code the row, the other half the column, each the same way.
    by_row = (positions[:, 0] - positions[0, 0]).abs().sum(dim=0) > 0
    by_column = (positions[0] - positions[0, 0]).abs().sum(dim=0) > 0
    assert by_row.sum() == by_column.sum() == 8
    assert not (by_row & by_column).any()
    torch.testing.assert_close(positions[:, 0][:, by_row], positions[0][:, by_column])
    assert torch.equal(by_row.nonzero()[0], torch.tensor([0]))  # rows first, not columns
    assert torch.pdist(positions.reshape(16, 16)).min() > 0.5


def test_transposed_image_is_not_the_same_sequence() -> None:
    network = _small()
    redraw_zero_weights(network, torch.Generator().manual_seed(0))
    x = torch.randn(1, 2, 12, 12)
    assert not torch.allclose(network(0.5, x.mT), network(0.5, x).mT, atol=1e-2)


def test_block_equals_its_definition() -> None:
    network = _small()
    redraw_zero_weights(network, torch.Generator().manual_seed(0))
    block = network.blocks[0]
    tokens, condition = torch.randn(3, 5, 16), torch.randn(3, 16)
    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(condition).split(16, dim=1)

    def modulated(h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(h, (16,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    h = tokens + gate1[:, None] * block.attention(modulated(tokens, scale1, shift1))
    expected = h + gate2[:, None] * block.mlp(modulated(h, scale2, shift2))
    torch.testing.assert_close(block(tokens, condition), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 13}, "image_size=13 does not fit patch_size=3"),
        ({"width": 18}, "width=18"),
        ({"heads": 3}, "heads=3"),
        ({"depth": 0}, "depth=0"),
        ({"tau_scale": -1.0}, "tau_scale is -1.0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**settings)
