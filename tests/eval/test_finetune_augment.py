from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.augment import BatchAugmentation
from lightly_prg.eval.finetuning.presets import PRESETS

ALL: dict[str, Any] = {
    "horizontal_flip": True,
    "crop_padding": 2,
    "rand_augment": 9.0,
    "erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
}


def batch(rows: int = 8, channels: int = 3, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, channels, size, size), dtype=torch.uint8, generator=generator)
    return images, torch.arange(rows) % 4


def augmentation(**options: Any) -> BatchAugmentation:
    return BatchAugmentation(**{"num_classes": 4, "seed": 0, **options})


def test_nothing__is_the_images_in_01() -> None:
    images, labels = batch()
    inputs, targets = augmentation()(images, labels, step=0)
    assert torch.equal(inputs, images.float() / 255)
    assert torch.equal(targets, labels)


def test_draws__depend_on_seed_and_step_alone() -> None:
    images, labels = batch()
    first, targets = augmentation(**ALL)(images, labels, step=3)
    torch.rand(5)
    again, same_targets = augmentation(**ALL)(images, labels, step=3)
    assert torch.equal(first, again)
    assert torch.equal(targets, same_targets)
    assert not torch.equal(first, augmentation(**ALL)(images, labels, step=4)[0])
    assert not torch.equal(first, augmentation(**ALL, seed=1)(images, labels, step=3)[0])


@pytest.mark.parametrize("option", ["rand_augment", "erasing", "mixup", "cutmix"])
def test_each__changes_images_and_leaves_the_global_state(option: str) -> None:
    images, labels = batch()
    state = torch.get_rng_state()
    inputs, _ = augmentation(**{option: ALL[option]})(images, labels, step=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(inputs, images.float() / 255)
    assert inputs.min() >= 0.0
    assert inputs.max() <= 1.0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets__take_grey_and_colour(preset: str, size: int, channels: int) -> None:
    augment = BatchAugmentation.of(PRESETS[preset], num_classes=4, seed=0, image_size=size)
    images, labels = batch(4, channels, size)
    inputs, targets = augment(images, labels, step=0)
    assert inputs.shape == images.shape
    assert inputs.dtype == torch.float32
    assert inputs.isfinite().all()
    assert targets.shape == ((4, 4) if preset == "mae" else (4,))


def test_crop__is_bounded_on_small_images() -> None:
    padding = {
        size: BatchAugmentation.of(PRESETS["shared"], num_classes=2, seed=0, image_size=size).crop_padding
        for size in (4, 8, 28, 32, 64)
    }
    assert padding == {4: 0, 8: 1, 28: 4, 32: 4, 64: 4}


def test_mixed_targets__are_the_shares_of_the_pixels() -> None:
    # Image k is black but for class 0, which is white: the mean of a mixed image is the share of class 0.
    labels = torch.tensor([0, 1, 2, 3])
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    images[0] = 255
    for option in ("mixup", "cutmix"):
        augment = augmentation(**{option: 1.0})
        partly = 0
        for step in range(8):
            inputs, targets = augment(images, labels, step=step)
            torch.testing.assert_close(targets.sum(1), torch.ones(4))
            torch.testing.assert_close(inputs.mean((1, 2, 3)), targets[:, 0], atol=1e-5, rtol=1e-5)
            partly += int(0.01 < float(targets[0, 0]) < 0.99)
        assert partly >= 5


def test_mixup_and_cutmix__take_turns() -> None:
    images, labels = batch()
    images = images // 255 * 255  # black and white: a mixture shows
    both = augmentation(mixup=0.8, cutmix=1.0)
    mixed = [bool(((x > 0.01) & (x < 0.99)).any()) for x in (both(images, labels, step=s)[0] for s in range(12))]
    assert 0 < sum(mixed) < 12


def test_erasing__is_for_a_share_of_the_images() -> None:
    images = torch.zeros(200, 1, 16, 16, dtype=torch.uint8)
    inputs, _ = augmentation(erasing=0.25)(images, torch.zeros(200, dtype=torch.int64), step=0)
    erased = inputs.flatten(1).any(dim=1)
    assert 30 < int(erased.sum()) < 70
    assert 0.4 < float(inputs[inputs > 0].mean()) < 0.6
    every, _ = augmentation(erasing=1.0)(images, torch.zeros(200, dtype=torch.int64), step=0)
    assert every.flatten(1).any(dim=1).all()


def test_rand_augment__leaves_a_quarter_of_the_images() -> None:
    images, _ = batch(200, 3, 8)
    inputs, _ = augmentation(rand_augment=9.0)(images, torch.zeros(200, dtype=torch.int64), step=0)
    same = (inputs == images.float() / 255).flatten(1).all(dim=1)
    # Neither operation of two, or none that changes anything (Identity, AutoContrast of full contrast).
    assert 0.25 - 0.09 < float(same.float().mean()) < 0.25 + 0.25
    weak, _ = augmentation(rand_augment=1.0)(images, torch.zeros(200, dtype=torch.int64), step=0)
    assert (weak - images.float() / 255).abs().mean() < (inputs - images.float() / 255).abs().mean()


def test_other_channels__are_refused_where_colour_is_changed() -> None:
    images, labels = batch(4, 2)
    assert augmentation(erasing=1.0, mixup=1.0, crop_padding=1)(images, labels, step=0)[0].shape == images.shape
    with pytest.raises(UserError, match="have 2"):
        augmentation(rand_augment=9.0)(images, labels, step=0)
    with pytest.raises(ValueError, match="uint8"):
        augmentation()(images.float(), labels, step=0)
