from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2 as T
from torchvision.transforms.v2 import functional as F

from lightly_prg.randomness import generator_for
from lightly_prg.transforms.resized_crop import draw_boxes, draw_uniform, random_resized_crop, resample_boxes

CPU = torch.device("cpu")


def noise(batch: int, channels: int = 3, height: int = 12, width: int = 12) -> Tensor:
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator_for(0))


def boxes_of(batch: int, height: int, width: int, seed: int = 0, **options: Any) -> Tensor:
    options = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), **options}
    return draw_boxes(batch, (height, width), generator=generator_for(seed), device=CPU, **options)


class TestResample:
    @pytest.mark.parametrize("size", [(12, 12), (9, 16)])
    def test_equals_torchvision(self, size: tuple[int, int]) -> None:
        images = noise(60, 3, *size)
        boxes = boxes_of(60, *size)
        result = resample_boxes(images, boxes)
        assert result.dtype == torch.float32
        for image, box, ours in zip(images, boxes.tolist(), result, strict=True):
            exact = F.resized_crop(image / 255, *box, list(size), antialias=True)
            torch.testing.assert_close(ours, exact, atol=2e-5, rtol=0)
            rounded = F.resized_crop(image, *box, list(size), antialias=True)
            # Bytes are rounded after each axis.
            assert (255 * ours - rounded.float()).abs().max() < 1.2

    def test_whole_image_is_the_image(self) -> None:
        images = noise(2)
        whole = torch.tensor([[0, 0, 12, 12]]).expand(2, -1)
        torch.testing.assert_close(resample_boxes(images, whole), images / 255, atol=1e-5, rtol=0)

    def test_one_pixel_fills_the_image(self) -> None:
        images = noise(1)
        result = resample_boxes(images, torch.tensor([[11, 3, 1, 1]]))
        expected = (images[:, :, 11:, 3:4] / 255).expand_as(result)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)

    def test_flip_mirrors_what_was_cut(self) -> None:
        images = noise(6)
        boxes = boxes_of(6, 12, 12)
        flipped = torch.tensor([True, False, True, True, False, False])
        plain = resample_boxes(images, boxes)
        expected = torch.where(flipped[:, None, None, None], plain.flip(-1), plain)
        torch.testing.assert_close(resample_boxes(images, boxes, flipped=flipped), expected, atol=1e-6, rtol=0)

    def test_floats_and_bytes_agree(self) -> None:
        images = noise(4)
        boxes = boxes_of(4, 12, 12)
        torch.testing.assert_close(resample_boxes(images, boxes), resample_boxes(images / 255, boxes))
        assert resample_boxes((images / 255).double(), boxes).dtype == torch.float32

    def test_white_stays_in_range(self) -> None:
        white = torch.full((200, 1, 13, 11), 255, dtype=torch.uint8)
        result = resample_boxes(white, boxes_of(200, 13, 11))
        assert result.max() == 1
        assert result.min() > 1 - 1e-5


class TestBoxes:
    @pytest.mark.parametrize("size", [(32, 32), (10, 28)])
    def test_distribution_is_torchvisions(self, size: tuple[int, int]) -> None:
        reference = T.RandomResizedCrop(size, scale=(0.2, 1.0))
        image = torch.empty(3, *size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn = [reference.make_params([image]) for _ in range(1500)]
        ours = boxes_of(4000, *size, scale=(0.2, 1.0))
        for column, name in enumerate(("top", "left", "height", "width")):
            theirs = [params[name] for params in drawn]
            assert ks_2samp(theirs, ours[:, column].numpy()).pvalue > 0.01, name

    def test_area_and_ratio_keep_their_ranges(self) -> None:
        top, left, height, width = boxes_of(3000, 200, 200, scale=(0.3, 0.5), ratio=(0.8, 1.25)).unbind(1)
        share = height * width / 200**2
        # Rounding moves each side by half a pixel.
        assert 0.29 < share.min() < 0.31
        assert 0.49 < share.max() < 0.51
        assert share.mean().item() == pytest.approx(0.4, abs=0.005)
        logs = (width / height).log()
        assert 0.22 < logs.max() < 0.24
        assert -0.24 < logs.min() < -0.22
        assert logs.mean().item() == pytest.approx(0.0, abs=0.01)
        assert top.min() == left.min() == 0
        assert (top + height).max() == (left + width).max() == 200
        drawn = torch.stack((share, logs, top / (201 - height), left / (201 - width)))
        assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 0.05

    def test_small_images_have_no_empty_box(self) -> None:
        top, left, height, width = boxes_of(2000, 3, 4, scale=(0.01, 1.0)).unbind(1)
        assert height.min() == width.min() == 1
        assert min(top.min(), left.min()) == 0
        assert (top + height).max() == 3
        assert (left + width).max() == 4

    @pytest.mark.parametrize(
        ("size", "ratio", "expected"),
        [
            ((12, 12), (2.0, 2.0), [3, 0, 6, 12]),
            ((12, 12), (0.5, 0.5), [0, 3, 12, 6]),
            ((12, 24), (2.0, 2.0), [0, 0, 12, 24]),
            ((13, 26), (0.9, 1.1), [0, 6, 13, 14]),
        ],
    )
    def test_what_does_not_fit_becomes_a_central_box(
        self, size: tuple[int, int], ratio: tuple[float, float], expected: list[int]
    ) -> None:
        assert boxes_of(3, *size, scale=(1.0, 1.0), ratio=ratio).tolist() == [expected] * 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": (0.0, 1.0)}, r"scale is \(0\.0, 1\.0\)"),
            ({"scale": (0.5, 0.2)}, "scale is"),
            ({"scale": (0.5, 1.1)}, "scale is"),
            ({"scale": (float("nan"), 1.0)}, "scale is"),
            ({"ratio": (0.0, 1.0)}, r"ratio is \(0\.0, 1\.0\)"),
            ({"ratio": (2.0, 1.0)}, "ratio is"),
            ({"ratio": (1.0, float("inf"))}, "ratio is"),
        ],
    )
    def test_ranges_are_checked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            boxes_of(1, 8, 8, **options)


class TestRandomResizedCrop:
    OPTIONS: ClassVar[dict[str, Any]] = {"scale": (0.2, 1.0), "horizontal_flip": True}

    def test_half_are_mirrored(self) -> None:
        ramp = torch.arange(16, dtype=torch.uint8).expand(2000, 1, 16, 16)
        result = random_resized_crop(ramp, generator=generator_for(0), **self.OPTIONS)
        slope = result[:, 0, 0, -1] - result[:, 0, 0, 0]
        assert slope.abs().min() > 0
        assert (slope < 0).float().mean().item() == pytest.approx(0.5, abs=0.04)

    def test_flip_changes_no_box(self) -> None:
        images = noise(40)
        plain, mirrored = (
            random_resized_crop(images, scale=(0.2, 1.0), horizontal_flip=flip, generator=generator_for(0))
            for flip in (False, True)
        )
        same = (plain - mirrored).abs().flatten(1).amax(1) < 1e-5
        other = (plain - mirrored.flip(-1)).abs().flatten(1).amax(1) < 1e-5
        assert (same ^ other).all()
        assert 8 < same.sum() < 32
        boxes = boxes_of(40, 12, 12, scale=(0.2, 1.0))
        assert torch.equal(plain, resample_boxes(images, boxes))

    def test_only_the_generator_decides(self) -> None:
        images = noise(10)
        before, state = images.clone(), torch.get_rng_state()
        one, two, other = (
            random_resized_crop(images, generator=generator_for(seed), **self.OPTIONS) for seed in (0, 0, 1)
        )
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(images, before)
        assert one.min() >= 0
        assert one.max() <= 1

    def test_images_are_drawn_independently(self) -> None:
        image = noise(1, 1, 32, 32).expand(100, -1, -1, -1)
        result = random_resized_crop(image, generator=generator_for(0), **self.OPTIONS)
        assert len(result.flatten(1).unique(dim=0)) > 95

    def test_two_processes_equal_one(self) -> None:
        images = noise(10)
        whole = random_resized_crop(images, generator=generator_for(3), **self.OPTIONS)
        parts = [
            random_resized_crop(
                images[first:last], generator=generator_for(3), global_batch=10, first=first, **self.OPTIONS
            )
            for first, last in ((0, 4), (4, 10))
        ]
        assert torch.equal(torch.cat(parts), whole)

    @pytest.mark.parametrize("first", [-1, 6])
    def test_part_outside_the_batch(self, first: int) -> None:
        with pytest.raises(ValueError, match="outside a batch of 10"):
            random_resized_crop(noise(5), generator=None, global_batch=10, first=first, **self.OPTIONS)


def test_uniform_draws__are_a_part_of_the_whole() -> None:
    whole = torch.rand(6, 3, generator=generator_for(1))
    part = draw_uniform(2, 3, generator=generator_for(1), device=CPU, global_batch=6, first=3)
    assert torch.equal(part, whole[3:5])
