from __future__ import annotations

import pytest
import torch
from torch import nn

from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.recipe import NetworkFeature


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3, stride=2, padding=1))


def test_output__is_averaged_over_space_after_normalisation() -> None:
    body = network()
    images = torch.rand(2, 1, 8, 8)
    encoder = NetworkEncoder(body, input_shape=(1, 8, 8), mean=0.3, std=0.2)
    torch.testing.assert_close(encoder(images), body((images - 0.3) / 0.2).mean((2, 3)))
    assert (encoder.embedding_dim, encoder.nfe) == (3, 1)


def test_block__of_any_module_is_read_by_name() -> None:
    body = network()
    encoder = NetworkEncoder(body, NetworkFeature(block="1", pool="flatten"), input_shape=(1, 8, 8))
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(encoder(images), body[1](body[0](images * 2 - 1)).flatten(1))
    with pytest.raises(ValueError, match="no block 'x'"):
        NetworkEncoder(body, NetworkFeature(block="x"), input_shape=(1, 8, 8))(images)


def test_grey_images__reach_a_colour_network_in_three_channels() -> None:
    encoder = NetworkEncoder(nn.Conv2d(3, 2, 1), input_shape=(1, 8, 8), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    assert encoder(torch.rand(2, 1, 8, 8)).shape == (2, 2)


def test_resize__enlarges_first() -> None:
    encoder = NetworkEncoder(nn.Identity(), NetworkFeature(pool="flatten"), input_shape=(1, 8, 8), resize=16)
    assert encoder.embedding_dim == 256


def test_wrong_images__are_refused() -> None:
    encoder = NetworkEncoder(network(), input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\)"):
        encoder(torch.rand(2, 1, 9, 9))
    with pytest.raises(ValueError, match="float"):
        encoder(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_blocks__are_prefixes_of_parameter_names() -> None:
    encoder = NetworkEncoder(network(), input_shape=(1, 8, 8))
    assert encoder.blocks == ("network.0", "network.2")  # the ReLU has no parameters
    names = [name for name, _ in encoder.named_parameters()]
    assert all(any(name.startswith(f"{block}.") for block in encoder.blocks) for name in names)


class Turned(nn.Module):
    """As Swin has its stages: channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 2, stride=2)
        self.stage = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.stage(self.stem(x).permute(0, 2, 3, 1))
        return out


@pytest.mark.parametrize("block", [None, "stage"])
def test_channels_last__are_pooled_over_space(block: str | None) -> None:
    body, images = Turned(), torch.rand(2, 1, 8, 8)
    encoder = NetworkEncoder(body, NetworkFeature(block=block), input_shape=(1, 8, 8))
    assert encoder.embedding_dim == 5
    torch.testing.assert_close(encoder(images), body(2 * images - 1).mean((1, 2)))
    cells = NetworkEncoder(body, NetworkFeature(block=block, pool="grid:2"), input_shape=(1, 8, 8))(images)
    torch.testing.assert_close(cells.view(2, 5, 2, 2)[:, :, 0, 1], body(2 * images - 1)[:, :2, 2:].mean((1, 2)))


def test_compiled_network__is_read_after_it_ran_without_a_hook() -> None:
    body, images = network(), torch.rand(2, 1, 8, 8)
    expected = NetworkEncoder(body, NetworkFeature(block="1"), input_shape=(1, 8, 8))(images)
    body.compile(backend="eager")
    body(2 * images - 1)
    torch.testing.assert_close(NetworkEncoder(body, NetworkFeature(block="1"), input_shape=(1, 8, 8))(images), expected)
