from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from lightly.data import LightlyDataset
from PIL import Image
from torch import Tensor

from lightly_prg.randomness import generator_for
from lightly_prg.transforms import (
    PRGTransform,
    augment_batch,
    normalize_batch,
    to_unit_range,
)

MakeFolder = Callable[[Mapping[str, int]], Path]


def counted(batch: int, channels: int = 1, size: int = 5) -> Tensor:
    """Every pixel of an image differs; channel c is channel 0 plus 100 c."""
    image = torch.arange(size * size, dtype=torch.uint8).view(1, 1, size, size)
    offset = 100 * torch.arange(channels, dtype=torch.uint8).view(1, -1, 1, 1)
    return (image + offset).repeat(batch, 1, 1, 1)


class TestAugmentBatch:
    def test_off_draws_nothing(self) -> None:
        generator = generator_for(0)
        before = generator.get_state()
        images = counted(4)
        result = augment_batch(images, horizontal_flip=False, crop_padding=0, generator=generator)
        assert result is images
        assert torch.equal(generator.get_state(), before)

    def test_flip_mirrors_left_and_right_alone(self) -> None:
        images = counted(200, channels=2)
        result = augment_batch(images, horizontal_flip=True, crop_padding=0, generator=generator_for(0))
        same = (result == images).flatten(1).all(1)
        mirrored = (result == images.flip(-1)).flatten(1).all(1)
        assert (same ^ mirrored).all()
        assert 70 < int(mirrored.sum()) < 130

    def test_known_flips(self) -> None:
        drawn = torch.randint(2, (8, 1), generator=generator_for(5)).flatten().bool()
        images = counted(8)
        result = augment_batch(images, horizontal_flip=True, crop_padding=0, generator=generator_for(5))
        for image, original, flipped in zip(result, images, drawn, strict=True):
            assert torch.equal(image, original.flip(-1) if flipped else original)

    def test_crops_are_windows_of_the_reflected_image(self) -> None:
        images = counted(300, channels=2)
        result = augment_batch(images, horizontal_flip=False, crop_padding=2, generator=generator_for(0))
        padded = torch.from_numpy(np.pad(images[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect"))
        windows = torch.stack([padded[:, y : y + 5, x : x + 5] for y in range(5) for x in range(5)])
        found = (result[:, None] == windows).flatten(2).all(2)
        assert (found.sum(1) == 1).all()
        counts = found.sum(0)
        # 25 windows, 12 expected of each.
        assert counts.min() > 1
        assert counts.max() < 30

    def test_largest_padding(self) -> None:
        images = counted(50, size=4)
        result = augment_batch(images, horizontal_flip=True, crop_padding=3, generator=generator_for(0))
        assert result.shape == images.shape
        assert int(result.max()) < 16

    @pytest.mark.parametrize("padding", [-1, 5])
    def test_impossible_padding(self, padding: int) -> None:
        with pytest.raises(ValueError, match=f"crop_padding is {padding}"):
            augment_batch(counted(1), horizontal_flip=False, crop_padding=padding, generator=None)

    def test_images_are_drawn_independently(self) -> None:
        # Four rounds of draws for 100 images: nearly all sequences of (flip, shift) differ.
        rounds = [
            augment_batch(counted(100), horizontal_flip=True, crop_padding=4, generator=generator_for(0, k))
            for k in range(4)
        ]
        sequences = torch.stack(rounds, 1).flatten(1)
        assert len(sequences.unique(dim=0)) == 100

    def test_axes_are_drawn_independently(self) -> None:
        result = augment_batch(counted(400), horizontal_flip=False, crop_padding=2, generator=generator_for(1))
        centres = result[:, 0, 2, 2].long()
        rows, columns = centres // 5, centres % 5
        table = torch.zeros(5, 5)
        table.index_put_((rows, columns), torch.ones(400), accumulate=True)
        assert (table > 3).all()

    def test_only_the_generator_decides(self) -> None:
        images = counted(50)
        state = torch.get_rng_state()
        first, second = (
            augment_batch(images, horizontal_flip=True, crop_padding=2, generator=generator_for(3)) for _ in range(2)
        )
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), state)
        other = augment_batch(images, horizontal_flip=True, crop_padding=2, generator=generator_for(4))
        assert not torch.equal(first, other)

    def test_what_an_image_holds_does_not_matter(self) -> None:
        images = counted(20)
        first = augment_batch(images, horizontal_flip=True, crop_padding=2, generator=generator_for(0))
        second = augment_batch(255 - images, horizontal_flip=True, crop_padding=2, generator=generator_for(0))
        assert torch.equal(first, 255 - second)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
    def test_type_is_kept(self, dtype: torch.dtype) -> None:
        images = counted(10).to(dtype)
        before = images.clone()
        result = augment_batch(images, horizontal_flip=True, crop_padding=1, generator=generator_for(0))
        expected = augment_batch(counted(10), horizontal_flip=True, crop_padding=1, generator=generator_for(0))
        assert result.dtype == dtype
        assert torch.equal(result, expected.to(dtype))
        assert torch.equal(images, before)

    def test_not_square_and_not_contiguous(self) -> None:
        images = torch.arange(2 * 3 * 4 * 6).view(2, 4, 6, 3).permute(0, 3, 1, 2)
        options = {"horizontal_flip": True, "crop_padding": 2}
        first = augment_batch(images, generator=generator_for(0), **options)  # type: ignore[arg-type]
        second = augment_batch(images.contiguous(), generator=generator_for(0), **options)  # type: ignore[arg-type]
        assert first.shape == images.shape
        assert torch.equal(first, second)

    @pytest.mark.parametrize("padding", [0, 2])
    def test_two_processes_equal_one(self, padding: int) -> None:
        images = counted(10) + torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1)

        def augment(part: Tensor, **place: int) -> Tensor:
            return augment_batch(
                part,
                horizontal_flip=True,
                crop_padding=padding,
                generator=generator_for(2),
                **place,
            )

        halves = [
            augment(images[:5], global_batch=10, first=0),
            augment(images[5:], global_batch=10, first=5),
        ]
        assert torch.equal(torch.cat(halves), augment(images))
        with pytest.raises(ValueError, match="outside a batch of 10"):
            augment(images[:5], global_batch=10, first=6)


class TestRanges:
    def test_ends_and_middle(self) -> None:
        images = torch.tensor([0, 51, 255], dtype=torch.uint8)
        assert to_unit_range(images).tolist() == pytest.approx([0.0, 0.2, 1.0])
        assert normalize_batch(images).tolist() == pytest.approx([-1.0, -0.6, 1.0])
        assert images.tolist() == [0, 51, 255]

    @pytest.mark.parametrize("function", [to_unit_range, normalize_batch])
    def test_floats_are_refused(self, function: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(ValueError, match=r"torch\.float32; uint8 is needed"):
            function(torch.zeros(2))


class TestPRGTransform:
    def test_in_a_lightly_dataset(self, image_folder: MakeFolder) -> None:
        dataset = LightlyDataset(str(image_folder({"a": 2, "b": 1})), transform=PRGTransform(input_size=8))
        views, target, name = dataset[2]
        assert isinstance(views, list)
        assert len(views) == 1
        assert type(views[0]) is Tensor
        assert views[0].shape == (3, 8, 8)
        assert views[0].dtype == torch.float32
        assert (target, name) == (1, "b/0.png")
        batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=3)))  # type: ignore[arg-type]
        assert batch[0][0].shape == (3, 3, 8, 8)

    def test_range(self) -> None:
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[:2] = 255
        for normalize, low in ((None, 0.0), ({"mean": [0.5] * 3, "std": [0.5] * 3}, -1.0)):
            (view,) = PRGTransform(4, normalize=normalize)(Image.fromarray(pixels))
            assert view.unique().tolist() == [low, 1.0]
        (view,) = PRGTransform(4)(Image.fromarray(pixels))
        assert view.unique().tolist() == [-1.0, 1.0]

    def test_normalisation_by_channel(self) -> None:
        transform = PRGTransform(2, normalize={"mean": [0.0, 0.5, 1.0], "std": [1.0, 0.5, 2.0]})
        (view,) = transform(torch.full((3, 2, 2), 255, dtype=torch.uint8))
        assert view[:, 0, 0].tolist() == [1.0, 1.0, 0.0]

    def test_grey(self) -> None:
        one = {"mean": [0.5], "std": [0.5]}
        (view,) = PRGTransform(4, normalize=one)(Image.new("L", (4, 4), 255))
        assert view.shape == (1, 4, 4)
        assert view.unique().tolist() == [1.0]
        (view,) = PRGTransform(4, normalize=one)(Image.new("RGB", (4, 4)))
        assert view.shape == (3, 4, 4)
        with pytest.raises(ValueError, match=r"1 channel\(s\) and normalize has 3 values"):
            PRGTransform(4)(Image.new("L", (4, 4)))

    @pytest.mark.parametrize("probability", [0.0, 1.0])
    def test_flip(self, probability: float) -> None:
        image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
        transform = PRGTransform(4, hf_prob=probability, normalize=None)
        expected = image.flip(-1) if probability else image
        for given in (image, image / 255, Image.fromarray(image[0].numpy())):
            (view,) = transform(given)
            assert torch.equal((view * 255).round().to(torch.uint8), expected)

    def test_resize_and_centre(self) -> None:
        bands = np.zeros((20, 60, 3), np.uint8)
        for band in range(3):
            bands[:, 20 * band : 20 * band + 20, band] = 255
        (view,) = PRGTransform(10, normalize=None)(Image.fromarray(bands))
        assert view[:, 5, 5].tolist() == [0.0, 1.0, 0.0]
        assert view.min() >= 0
        assert view.max() <= 1

    def test_float_tensors_do_not_overshoot(self) -> None:
        edges = (torch.arange(8) % 2).float().view(1, 1, 8).expand(1, 8, 8)
        (view,) = PRGTransform(20, normalize=None)(edges)
        assert view.min() >= 0
        assert view.max() <= 1

    def test_crop_is_a_window_of_the_reflected_image(self) -> None:
        image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
        padded = np.pad(image[0].numpy(), 1, mode="reflect")
        windows = {padded[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(3)}
        transform = PRGTransform(4, hf_prob=0.0, crop_padding=1, normalize=None)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            seen = {(transform(image)[0][0] * 255).round().to(torch.uint8).numpy().tobytes() for _ in range(200)}
        assert seen == windows
        with pytest.raises(ValueError, match="crop_padding is 4"):
            PRGTransform(4, crop_padding=4)
