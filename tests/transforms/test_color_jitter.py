from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightly_prg.randomness import generator_for
from lightly_prg.transforms import color_jitter as module
from lightly_prg.transforms.color_jitter import (
    _to_all_images,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    random_greyscale,
)

Operation = Callable[[Tensor, Tensor], Tensor]
THEIRS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def noise(batch: int, channels: int = 3, size: int = 6) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=generator_for(0))


def hard_colours() -> Tensor:
    """Black, white, grey, the pure colours and those in which two channels are equal: (1, 3, 5, 25)."""
    levels = torch.linspace(0, 1, 5)
    return torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 5, 25)


def jitter(images: Tensor, seed: int = 0, **options: Any) -> Tensor:
    return color_jitter(images, **{"strength": 0.5, "probability": 1.0, "generator": generator_for(seed), **options})


class TestOperations:
    @pytest.mark.parametrize(
        ("ours", "theirs", "values"),
        [
            (adjust_brightness, F.adjust_brightness, (0.0, 0.2, 1.0, 1.8)),
            (adjust_contrast, F.adjust_contrast, (0.0, 0.2, 1.0, 1.8)),
            (adjust_saturation, F.adjust_saturation, (0.0, 0.2, 1.0, 1.8)),
            (adjust_hue, F.adjust_hue, (-0.5, -0.2, -0.03, 0.0, 0.1, 1 / 6, 0.37, 0.5)),
        ],
    )
    @pytest.mark.parametrize("images", [noise(1, size=16), hard_colours()], ids=["noise", "hard"])
    def test_each_equals_torchvisions(
        self, ours: Operation, theirs: Any, values: tuple[float, ...], images: Tensor
    ) -> None:
        result = ours(images.expand(len(values), -1, -1, -1), torch.tensor(values))
        for value, image in zip(values, result, strict=True):
            torch.testing.assert_close(image, theirs(images[0], value), atol=2e-5, rtol=0)
        as_bytes = (255 * images[0]).round().to(torch.uint8)
        for value, image in zip(values, ours((as_bytes / 255).expand_as(result), torch.tensor(values)), strict=True):
            assert (255 * image - theirs(as_bytes, value).float()).abs().max() < 2

    @pytest.mark.parametrize("ours", [adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue])
    def test_images_are_left_as_they_are(self, ours: Operation) -> None:
        images = noise(3)
        before = images.clone()
        ours(images, torch.full((3,), 0.3))
        assert torch.equal(images, before)

    def test_red_turned_by_thirds(self) -> None:
        red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(3, -1, -1, -1)
        result = adjust_hue(red, torch.tensor([0.0, 1 / 3, -1 / 3]))
        torch.testing.assert_close(result[:, :, 0, 0], torch.eye(3), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("ours", "theirs"), [(adjust_brightness, THEIRS[0]), (adjust_contrast, THEIRS[1])])
    def test_one_channel(self, ours: Operation, theirs: Any) -> None:
        images = noise(2, channels=1)
        for image, result in zip(images, ours(images, torch.tensor([0.6, 0.6])), strict=True):
            torch.testing.assert_close(result, theirs(image, 0.6))


class TestJitter:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_equals_torchvision_at_the_same_draws(self, channels: int) -> None:
        images = noise(60, channels)
        result = jitter(images, strength=1.2, probability=0.7)
        drawn = torch.rand(60, 9, generator=generator_for(0))
        orders = set()
        for image, ours, values in zip(images, result, drawn, strict=True):
            # At strength 1.2, brightness, contrast and saturation lie in [0.04, 1.96], the hue in [-0.24, 0.24].
            factors = [*(0.04 + 1.92 * values[:3]).tolist(), -0.24 + 0.48 * values[3].item()]
            order = values[4:8].argsort().tolist() if values[8] < 0.7 else []
            orders.add(tuple(order))
            for operation in order:
                image = THEIRS[operation](image, factors[operation])
            torch.testing.assert_close(ours, image, atol=1e-4, rtol=0)
        assert () in orders
        assert len(orders) > 15

    @pytest.mark.parametrize("channels", [1, 3])
    def test_way_of_a_gpu__gives_the_same_bits(self, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
        images = noise(40, channels)
        expected = jitter(images, probability=0.7)
        monkeypatch.setattr("lightly_prg.transforms.color_jitter._to_its_images", _to_all_images)
        assert torch.equal(jitter(images, probability=0.7), expected)

    def test_share_of_changed_images(self) -> None:
        images = noise(2000, size=2)
        changed = (jitter(images, probability=0.8) != images).flatten(1).any(1)
        assert changed.float().mean().item() == pytest.approx(0.8, abs=0.03)

    def test_factors_keep_their_ranges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, list[Tensor]] = {}
        for name in ("brightness", "contrast", "saturation", "hue"):

            def record(images: Tensor, factors: Tensor, name: str = name) -> Tensor:
                seen.setdefault(name, []).append(factors)
                return images

            monkeypatch.setattr(module, f"adjust_{name}", record)
        jitter(noise(4000, size=1), strength=2.0)
        # The factor of 1 - 1.6 would be negative and is cut off at 0.
        for name, (low, high) in {
            "brightness": (0.0, 2.6),
            "contrast": (0.0, 2.6),
            "saturation": (0.0, 2.6),
            "hue": (-0.4, 0.4),
        }.items():
            factors = torch.cat(seen[name])
            assert len(factors) == 4000
            assert low <= factors.min() < low + 0.01
            assert high - 0.01 < factors.max() <= high
            assert factors.mean().item() == pytest.approx((low + high) / 2, abs=0.04)

    def test_only_the_generator_decides(self) -> None:
        images = noise(20)
        before, state = images.clone(), torch.get_rng_state()
        one, two, other = (jitter(images, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)

    def test_range(self) -> None:
        result = jitter(hard_colours().expand(200, -1, -1, -1), strength=2.5)
        assert result.min() == 0
        assert result.max() == 1

    def test_two_processes_equal_one(self) -> None:
        images = noise(10)
        parts = [
            jitter(images[first:last], probability=0.8, global_batch=10, first=first)
            for first, last in ((0, 3), (3, 10))
        ]
        torch.testing.assert_close(torch.cat(parts), jitter(images, probability=0.8), atol=1e-6, rtol=0)
        with pytest.raises(ValueError, match="outside a batch of 10"):
            jitter(images[:5], global_batch=10, first=6)

    @pytest.mark.parametrize("options", [{"strength": 0.0}, {"probability": 0.0}])
    def test_off_draws_nothing(self, options: dict[str, Any]) -> None:
        generator = generator_for(0)
        before = generator.get_state()
        images = noise(2)
        assert jitter(images, generator=generator, **options) is images
        assert torch.equal(generator.get_state(), before)


class TestGreyscale:
    def test_share_and_value(self) -> None:
        images = noise(2000, size=2)
        before = images.clone()
        result = random_greyscale(images, probability=0.2, generator=generator_for(0))
        changed = (result != images).flatten(1).any(1)
        assert changed.float().mean().item() == pytest.approx(0.2, abs=0.03)
        expected = F.rgb_to_grayscale(images[changed], num_output_channels=3)
        torch.testing.assert_close(result[changed], expected, atol=1e-6, rtol=0)
        assert torch.equal(images, before)

    @pytest.mark.parametrize(("channels", "probability"), [(1, 1.0), (3, 0.0)])
    def test_off_draws_nothing(self, channels: int, probability: float) -> None:
        generator = generator_for(0)
        before = generator.get_state()
        images = noise(3, channels)
        assert random_greyscale(images, probability=probability, generator=generator) is images
        assert torch.equal(generator.get_state(), before)

    def test_two_processes_equal_one(self) -> None:
        images = noise(20)
        whole = random_greyscale(images, probability=0.5, generator=generator_for(0))
        part = random_greyscale(images[8:], probability=0.5, generator=generator_for(0), global_batch=20, first=8)
        assert torch.equal(part, whole[8:])
        assert not torch.equal(part, images[8:])


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (noise(1), {"strength": 2.6}, "strength is 2.6"),
        (noise(1), {"strength": -0.1}, "strength is -0.1"),
        (noise(1), {"strength": float("nan")}, "strength is nan"),
        (noise(1), {"probability": 1.1}, r"probability is 1\.1"),
        (noise(1, channels=2), {}, r"shape \(1, 2, 6, 6\)"),
        (noise(1)[0], {}, r"shape \(3, 6, 6\)"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), {}, r"torch\.uint8"),
    ],
)
def test_arguments__are_checked(images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jitter(images, **options)
    if "strength" not in options:
        with pytest.raises(ValueError, match=message):
            random_greyscale(images, **{"probability": 0.2, "generator": None, **options})
