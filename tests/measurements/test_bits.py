from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import VariancePreservingPath
from lightly_prg.measurements import bits_per_dim, dequantise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(tau: Tensor, x: Tensor) -> Tensor:
    """The flow that moves nothing: the model is N(0, I) in the range of the network."""
    return torch.zeros_like(x)


def levels(count: int, number: int, shape: tuple[int, ...] = (1, 2, 2)) -> Tensor:
    """Images whose pixels run through all grey levels, spread over 0 to 255 as image sets do."""
    level = torch.arange(count * math.prod(shape)) % number
    return (level * 255 / (number - 1)).round().to(torch.uint8).reshape(count, *shape)


class TestDequantise:
    @pytest.mark.parametrize("number", [2, 17, 256])
    def test_levels__fill_their_cells(self, number: int) -> None:
        images = levels(300, number)
        spread = dequantise(images, grey_levels=number, generator=seeded())
        inside = spread * (number - 1) - torch.round(images.float() * (number - 1) / 255)
        assert float(inside.min()) >= -0.5
        assert float(inside.max()) <= 0.5
        assert abs(float(inside.mean())) < 0.03
        assert float(inside.var()) == pytest.approx(1 / 12, rel=0.1)

    def test_image__does_not_depend_on_those_behind_it(self) -> None:
        images = levels(3, 17)
        first, all_of_them = (dequantise(part, grey_levels=17, generator=seeded()) for part in (images[:1], images))
        assert torch.equal(first, all_of_them[:1])

    def test_wrong_number_of_levels__is_told(self) -> None:
        with pytest.raises(UserError, match="none of 17 grey levels"):
            dequantise(levels(64, 256), grey_levels=17)

    @pytest.mark.parametrize("number", [1, 257])
    def test_impossible_number_of_levels__is_told(self, number: int) -> None:
        with pytest.raises(ValueError, match="between 2 and 256"):
            dequantise(levels(1, 2), grey_levels=number)

    def test_floats__are_told(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            dequantise(torch.rand(1, 1, 2, 2))


class TestBitsPerDim:
    def test_still_flow__has_the_bits_of_the_normal_density(self) -> None:
        encoder = PRGEncoder(still, input_shape=(1, 8, 8), mean=0.4, std=0.25)
        images = levels(200, 17, (1, 8, 8))
        result = bits_per_dim(encoder, images, grey_levels=17, generator=seeded())
        x = (images.double() / 255 - 0.4) / 0.25
        # A cell of width 1 / (16 * 0.25) in the range of the network has the variance of its uniform noise.
        square = x.square().mean() + (1 / 4) ** 2 / 12
        expected = float(0.5 * math.log(2 * math.pi) + 0.5 * square) / math.log(2) + math.log2(16 * 0.25)
        assert result.mean == pytest.approx(expected, abs=0.01)
        assert result.uniform == pytest.approx(math.log2(17))
        assert result.probe_standard_error == 0

    def test_cells__hold_the_probability_of_the_density(self) -> None:
        # One pixel of four levels: the probabilities of its cells sum to that of the range that they cover.
        encoder = PRGEncoder(still, input_shape=(1, 1, 1), mean=0.3, std=0.8)
        total = 0.0
        for level in range(4):
            images = torch.full((400, 1, 1, 1), level * 85, dtype=torch.uint8)
            bits = bits_per_dim(encoder, images, grey_levels=4, generator=seeded(level), batch_size=400).per_image
            total += float((-math.log(2) * bits).exp().mean())
        low, high = ((end - 0.3) / 0.8 for end in (-1 / 6, 1 + 1 / 6))
        normal = torch.distributions.Normal(0.0, 1.0)
        expected = float(normal.cdf(torch.tensor(high)) - normal.cdf(torch.tensor(low)))
        assert total == pytest.approx(expected, abs=0.01)

    def test_normalisation__changes_nothing_where_the_flow_makes_up_for_it(self) -> None:
        images = levels(4, 17)
        halves = PRGEncoder(lambda tau, x: -math.log(2) * x, input_shape=(1, 2, 2), mean=0.5, std=0.25)
        plain = PRGEncoder(still, input_shape=(1, 2, 2), mean=0.5, std=0.5)
        first, second = (
            bits_per_dim(encoder, images, grey_levels=17, solver="rk4", generator=seeded()).per_image
            for encoder in (halves, plain)
        )
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)

    def test_channels__have_their_own_scale(self) -> None:
        encoder = PRGEncoder(still, input_shape=(3, 2, 2), mean=(0.0, 0.0, 0.0), std=(0.5, 1.0, 2.0))
        result = bits_per_dim(encoder, levels(2, 256, (3, 2, 2)), generator=seeded())
        assert result.offset == pytest.approx(math.log2(255))

    def test_more_levels_than_there_are__make_it_worse(self) -> None:
        encoder = PRGEncoder(still, input_shape=(1, 2, 2))
        images = levels(50, 17)
        assert result_difference(encoder, images) == pytest.approx(math.log2(255 / 16), abs=0.05)

    def test_path__starts_where_it_starts(self) -> None:
        seen: list[float] = []

        def velocity(tau: Tensor, x: Tensor) -> Tensor:
            seen.append(float(tau))
            return 0 * x

        encoder = PRGEncoder(velocity, VariancePreservingPath(), input_shape=(1, 2, 2))
        result = bits_per_dim(encoder, levels(1, 2), grey_levels=2, steps=4, generator=seeded())
        assert min(seen) == pytest.approx(1e-3)
        assert max(seen) == 1.0
        assert result.likelihood.nfe == 16
        assert result.standard_error is None


def result_difference(encoder: PRGEncoder, images: Tensor) -> float:
    """Bits at 256 levels less those at 17: finer cells hold less of the same density."""
    fine, coarse = (bits_per_dim(encoder, images, grey_levels=number, generator=seeded()).mean for number in (256, 17))
    return fine - coarse
