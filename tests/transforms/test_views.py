from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor

from lightly_prg.randomness import generator_for
from lightly_prg.transforms.views import crop_view, simclr_views


def noise(batch: int, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8, generator=generator_for(0))


def is_grey(images: Tensor) -> Tensor:
    return (images.amax(1) - images.amin(1)).flatten(1).amax(1) < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
def test_two_views__of_the_same_images(channels: int) -> None:
    images = noise(50, channels)
    before = images.clone()
    views = simclr_views(images, generator=generator_for(0))
    assert len(views) == 2
    for view in views:
        assert view.shape == images.shape
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1
    differ = (views[0] - views[1]).flatten(1).abs().amax(1) > 0.02
    assert differ.all()
    assert torch.equal(images, before)


def test_defaults__are_lightlys_for_cifar() -> None:
    theirs = {name: value.default for name, value in inspect.signature(SimCLRTransform).parameters.items()}
    ours = {name: value.default for name, value in inspect.signature(simclr_views).parameters.items()}
    assert ours["crop_min"] == theirs["min_scale"]
    assert ours["jitter_probability"] == theirs["cj_prob"]
    assert ours["grey_probability"] == theirs["random_gray_scale"]
    assert ours["horizontal_flip"] == (theirs["hf_prob"] == 0.5)
    assert theirs["vf_prob"] == theirs["rr_prob"] == 0
    assert ours["jitter_strength"] == 0.5


def test_statistics__are_lightlys() -> None:
    # A colour ramp: its views' mean brightness, contrast and colourfulness depend on every operation.
    ramp = torch.linspace(40, 200, 32).byte()
    image = torch.stack((ramp.expand(32, 32), ramp.expand(32, 32).T, ramp.expand(32, 32).flip(-1)))
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.stack([view for _ in range(200) for view in transform(picture)])
    ours = torch.cat(simclr_views(image.expand(1000, -1, -1, -1), generator=generator_for(0)))

    def measures(views: Tensor) -> Tensor:
        mean = views.mean((1, 2, 3))
        deviation = views.mean(1).flatten(1).std(1)
        colour = (views.amax(1) - views.amin(1)).mean((1, 2))
        slope = views[:, 0, :, -1].mean(1) - views[:, 0, :, 0].mean(1)
        return torch.stack((mean, deviation, colour, slope.abs(), (slope < 0).float()), dim=1)

    reference, measured = measures(theirs), measures(ours)
    error = reference.std(0) * (1 / len(reference) + 1 / len(measured)) ** 0.5
    assert ((measured.mean(0) - reference.mean(0)).abs() < 3.5 * error).all()
    torch.testing.assert_close(measured.std(0), reference.std(0), rtol=0.15, atol=0)


def test_grey_share() -> None:
    views = simclr_views(noise(2000, size=4), generator=generator_for(0))
    for view in views:
        assert is_grey(view).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert is_grey(torch.cat(simclr_views(noise(20), generator=generator_for(0), grey_probability=1.0))).all()


def test_all_off__leaves_a_crop() -> None:
    images = noise(20)
    off: dict[str, Any] = {"jitter_strength": 0.0, "grey_probability": 0.0}
    views = simclr_views(images, generator=generator_for(1), crop_min=0.5, horizontal_flip=False, **off)
    generator = generator_for(1)
    for view in views:
        assert torch.equal(view, crop_view(images, generator=generator, crop_min=0.5, horizontal_flip=False))


@pytest.mark.parametrize("make", [simclr_views, crop_view])
def test_only_the_generator__decides(make: Any) -> None:
    images = noise(10)
    state = torch.get_rng_state()
    one, two, other = (make(images, generator=generator_for(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.stack(tuple(one)), torch.stack(tuple(two)))
    assert not torch.equal(torch.stack(tuple(one)), torch.stack(tuple(other)))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_processes__equal_one() -> None:
    images = noise(12)
    whole = torch.stack(
        [*simclr_views(images, generator=generator_for(0)), crop_view(images, generator=generator_for(0))]
    )
    parts = []
    for first, last in ((0, 5), (5, 12)):
        place: dict[str, Any] = {"global_batch": 12, "first": first}
        views = simclr_views(images[first:last], generator=generator_for(0), **place)
        crop = crop_view(images[first:last], generator=generator_for(0), **place)
        parts.append(torch.stack([*views, crop]))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-6, rtol=0)


def test_crop_view__covers_at_least_its_share() -> None:
    # The view of a ramp spans the share of the width that was cut out.
    ramp = torch.linspace(0, 255, 64).byte().expand(500, 1, 64, 64)
    view = crop_view(ramp, generator=generator_for(0))
    assert view.shape == ramp.shape
    span = view.amax((1, 2, 3)) - view.amin((1, 2, 3))
    # Area 0.2 at a ratio of 3/4 is the narrowest box.
    assert (0.2 * 0.75) ** 0.5 - 0.03 < span.min() < 0.45
    assert span.max() > 0.95


def test_options__are_checked() -> None:
    with pytest.raises(ValueError, match="scale is"):
        crop_view(noise(1), generator=None, crop_min=0.0)
    with pytest.raises(ValueError, match="strength is 3"):
        simclr_views(noise(1), generator=None, jitter_strength=3)
    with pytest.raises(ValueError, match="outside a batch of 2"):
        simclr_views(noise(2), generator=None, global_batch=2, first=1)
