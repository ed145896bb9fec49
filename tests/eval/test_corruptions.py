from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from lightly_prg.errors import UserError
from lightly_prg.eval.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from lightly_prg.eval.corruptions.blur import gaussian_blur, smear, zoom
from lightly_prg.eval.corruptions.digital import elastic_transform
from lightly_prg.eval.corruptions.weather import plasma

LEVELS = (1, 2, 3, 4, 5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant(level: int | tuple[int, int, int], count: int = 1, side: int = 32) -> Tensor:
    values = torch.tensor([level] if isinstance(level, int) else level, dtype=torch.uint8)
    return values[:, None, None].expand(count, -1, side, side).contiguous()


def scenes(count: int, channels: int, side: int) -> Tensor:
    """Smooth images with edges, of all levels."""
    clouds = plasma(count * channels, side, 1.6, torch.empty(0), seeded(9)).view(count, channels, side, side)
    clouds[:, :, side // 4 : side // 2, side // 4 :] *= 0.3
    return (255 * clouds).round().to(torch.uint8)


def test_names__are_the_fifteen() -> None:
    assert CORRUPTIONS == (
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
        "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    )  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(1, 16), (1, 28), (3, 32), (3, 41)])
def test_all__keep_shape_and_input_and_are_deterministic(name: str, channels: int, side: int) -> None:
    images = scenes(2, channels, side)
    before = images.clone()
    for severity in SEVERITIES:
        result = corrupt(images, name, severity, generator=seeded())
        assert (result.shape, result.dtype) == (images.shape, torch.uint8)
        assert not torch.equal(result, images)
        strided = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(result, corrupt(strided, name, severity, generator=seeded()))
    assert torch.equal(images, before)
    assert len(corrupt(images[:0], name, 1, generator=seeded())) == 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws__come_from_the_generator_alone(name: str) -> None:
    images = scenes(2, 3, 32)
    first, again, other = (corrupt(images, name, 5, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    drawn = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(first, other) != drawn


def test_harm__grows_with_severity() -> None:
    images = scenes(16, 3, 32)

    def change(name: str, severity: int) -> float:
        corrupted = corrupt(images, name, severity, generator=seeded(severity))
        return float((corrupted.float() - images.float()).abs().mean())

    changes = {name: [change(name, severity) for severity in SEVERITIES] for name in CORRUPTIONS}
    means = np.mean(list(changes.values()), axis=0)
    assert (np.diff(means) > 0).all(), means
    # The published constants of the others do not grow together: elastic_transform tilts the less, the more it waves.
    for name in set(CORRUPTIONS) - {"glass_blur", "motion_blur", "frost", "elastic_transform", "pixelate"}:
        assert (np.diff(changes[name]) > 0).all(), name
    for name in ("glass_blur", "motion_blur", "pixelate"):
        assert changes[name][4] > changes[name][0], name


def test_frost__hides_more_with_severity() -> None:
    images = scenes(16, 3, 32)
    likeness = []
    for severity in SEVERITIES:
        frosted = corrupt(images, "frost", severity, generator=seeded())
        pairs = zip(images.flatten(1).numpy(), frosted.flatten(1).numpy(), strict=True)
        likeness.append(np.mean([np.corrcoef(clean, frosty)[0, 1] for clean, frosty in pairs]))
    assert (np.diff(likeness) < 0).all(), likeness


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"]
)
def test_constant_images__stay(name: str, severity: int) -> None:
    for image in (constant(128, side=28), constant((3, 77, 250))):
        assert torch.equal(corrupt(image, name, severity, generator=seeded()), image)


@pytest.mark.parametrize(
    "name",
    [
        "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "fog", "brightness", "contrast",
        "elastic_transform", "pixelate",
    ],
)  # fmt: skip
def test_grey__is_colour_of_three_equal_channels(name: str) -> None:
    grey = scenes(2, 1, 28)
    in_grey = corrupt(grey, name, 4, generator=seeded()).int()
    in_colour = corrupt(grey.expand(-1, 3, -1, -1), name, 4, generator=seeded()).int()
    # The weights of the luma add up to 1 but for rounding.
    assert (in_colour - in_grey).abs().max() <= (1 if name == "snow" else 0)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.04), (3, 0.08), (5, 0.10)])
def test_gaussian_noise__has_its_deviation(severity: int, deviation: float) -> None:
    noise = corrupt(constant(128, 40), "gaussian_noise", severity, generator=seeded()).double() - 128
    assert float(noise.std()) == pytest.approx(255 * deviation, rel=0.02)
    assert float(noise.mean()) == pytest.approx(-0.5, abs=0.5)  # levels are cut, not rounded


def test_shot_noise__has_the_deviation_of_photons() -> None:
    # 51 is a fifth: ten photons of fifty, with a variance of ten.
    noise = corrupt(constant(51, 40), "shot_noise", 5, generator=seeded()).double()
    assert float(noise.mean()) == pytest.approx(51, abs=0.5)
    assert float(noise.std()) == pytest.approx(255 * math.sqrt(10) / 50, rel=0.02)
    assert int(corrupt(constant(0), "shot_noise", 5, generator=seeded()).max()) == 0


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (5, 0.07)])
def test_impulse_noise__sets_its_share(severity: int, share: float) -> None:
    image = constant((128, 100, 30), 40)
    result = corrupt(image, "impulse_noise", severity, generator=seeded())
    changed = result[result != image]
    deviation = math.sqrt(share / image.numel())
    assert len(changed) / image.numel() == pytest.approx(share, abs=4 * deviation)
    assert set(changed.tolist()) == {0, 255}
    assert float((changed == 255).double().mean()) == pytest.approx(0.5, abs=2 / math.sqrt(len(changed)))


def test_defocus__of_a_point() -> None:
    point = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    point[..., 10, 10] = 255
    # Radius 1: five pixels share the light. Radius 1.5: nine do, of 28.3 each.
    plus = corrupt(point, "defocus_blur", 4, generator=seeded())[0, 0]
    assert plus[9:12, 9:12].tolist() == [[0, 51, 0], [51, 51, 51], [0, 51, 0]]
    box = corrupt(point, "defocus_blur", 5, generator=seeded())[0, 0]
    assert box[9:12, 9:12].unique().tolist() == [28]
    assert int(box.sum()) == 9 * 28
    # Below 1, a 3 x 3 Gaussian: exp(-1 / (2 * 0.16)) = 0.0439 beside 1, so 255 / 1.0879^2 in the middle.
    soft = corrupt(point, "defocus_blur", 1, generator=seeded())[0, 0]
    assert soft[9:12, 9:12].tolist() == [[0, 9, 0], [9, 215, 9], [0, 9, 0]]


def test_glass__takes_pixels_from_above_and_left() -> None:
    # Severity 1 blurs nothing, so the levels say where the pixels come from.
    rows = (torch.arange(32)[:, None] * 8).expand(32, 32)
    image = torch.stack([rows, rows.T, torch.zeros_like(rows)])[None].to(torch.uint8)
    result = corrupt(image, "glass_blur", 1, generator=seeded())
    moved = image.int() - result.int()
    assert moved[:, :2].unique().tolist() == [0, 8]
    assert int(moved[:, 0, :2].abs().max()) == int(moved[:, 1, :, :2].abs().max()) == 0
    for axis in (0, 1):
        assert float((moved[0, axis, 2:, 2:] == 8).double().mean()) == pytest.approx(0.5, abs=0.07)


def test_smear__of_a_point_by_hand() -> None:
    point = torch.zeros(2, 1, 21, 21)
    point[..., 10, 10] = 1.0
    result = 255 * smear(point, 6, 1.0, torch.tensor([0.0, 90.0]))
    # exp(-i^2 / 2) for i = 0, 1, 2, 3 is 1, 0.6065, 0.1353, 0.0111, of 1.7533 in all.
    trail = [2, 20, 88, 145]
    assert result[0, 0, 10, 7:11].round().tolist() == trail
    assert result[1, 0, 7:11, 10].round().tolist() == trail
    assert result.flatten(1).sum(dim=1).round().tolist() == [255, 255]


def test_zoom__of_a_ramp() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    # The middle 16 columns, 8 to 23, are spread over 32.
    torch.testing.assert_close(zoom(ramp, 2.0)[0, 0, 0], 8 + torch.arange(32.0) * 15 / 31)
    assert torch.equal(zoom(ramp, 1.0), ramp)


@pytest.mark.parametrize(("border", "mode"), [("repeat", "nearest"), ("mirror", "reflect")])
def test_gaussian_blur__is_scipys(border, mode: str) -> None:
    from scipy.ndimage import gaussian_filter

    image = torch.rand(20, 20, dtype=torch.float64, generator=seeded())
    expected = gaussian_filter(image.numpy(), 6.4, mode=mode, truncate=3.5)
    result = gaussian_blur(image, 6.4, truncate=3.5, border=border)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)


def test_snow__is_symmetric_and_whitens() -> None:
    result = corrupt(constant(0, 3), "snow", 5, generator=seeded())
    assert torch.equal(result, result.rot90(2, dims=(2, 3)))
    # A fifth of the way to 0.5 where there are no flakes.
    assert int(result.min()) == 25
    assert int(result.max()) > 100
    white = constant((255, 255, 255))
    assert torch.equal(corrupt(white, "snow", 3, generator=seeded()), white)


def test_frost__lies_on_the_dimmed_image() -> None:
    black, white = (corrupt(constant((level,) * 3), "frost", 5, generator=seeded()).int() for level in (0, 255))
    assert 0 < int(black.max()) <= 0.45 * 255
    # Three quarters of white are 191.25.
    unclipped = white < 255
    assert unclipped.any()
    assert (white - black)[unclipped].unique().tolist() in ([191], [191, 192])
    red, _, blue = black[0]
    assert (blue >= red).all()


@pytest.mark.parametrize("side", [28, 32])
def test_plasma__fills_the_range(side: int) -> None:
    rough, smooth = (plasma(3, side, decay, torch.empty(0), seeded()) for decay in (1.75, 3.0))
    assert rough.shape == (3, 1, side, side)
    if side == 32:
        assert rough.amin(dim=(1, 2, 3)).tolist() == [0.0] * 3
        assert rough.amax(dim=(1, 2, 3)).tolist() == [1.0] * 3
    assert rough.diff(dim=-1).abs().mean() > 1.5 * smooth.diff(dim=-1).abs().mean()


def test_fog__keeps_black_and_the_largest_value() -> None:
    assert int(corrupt(constant(0), "fog", 5, generator=seeded()).max()) == 0
    result = corrupt(constant(255), "fog", 5, generator=seeded())
    # (1 + 1.5 * cloud) / 2.5, with clouds from 0 to 1.
    assert (int(result.min()), int(result.max())) == (102, 255)


def test_brightness__scales_to_the_raised_value() -> None:
    # V grows by 0.3: from 100 to 176.5, so that all are multiplied by 1.765.
    result = corrupt(constant((100, 50, 0)), "brightness", 5, generator=seeded())
    assert torch.equal(result, constant((176, 88, 0)))
    assert torch.equal(corrupt(constant((0, 0, 0)), "brightness", 5, generator=seeded()), constant((76, 76, 76)))
    # At most 255, by 255 / 200.
    assert torch.equal(corrupt(constant((200, 100, 4)), "brightness", 5, generator=seeded()), constant((255, 127, 5)))
    levels = [int(corrupt(constant(100), "brightness", level, generator=seeded())[0, 0, 0, 0]) for level in LEVELS]
    assert levels == [112, 125, 138, 151, 176]


def test_contrast__halves_the_distance_to_the_mean() -> None:
    image = constant((100, 20, 8))
    image[..., 16:] = torch.tensor([200, 40, 8], dtype=torch.uint8)[:, None, None]
    result = corrupt(image, "contrast", 2, generator=seeded())
    assert result[0, :, 0, 0].tolist() == [125, 25, 8]
    assert result[0, :, 0, -1].tolist() == [175, 35, 8]
    strong = corrupt(image, "contrast", 5, generator=seeded())
    assert strong[0, 0, 0, [0, -1]].tolist() == [142, 157]  # 150 -+ 7.5


def test_elastic__without_displacement_is_nothing() -> None:
    images = torch.rand(2, 3, 28, 28, generator=seeded())
    still = elastic_transform(images, 0.0, 0.0, 0.0, generator=seeded())
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0)


def test_elastic__is_affine_without_strength() -> None:
    ramp = torch.arange(32.0).expand(4, 1, 32, 32)
    moved = elastic_transform(ramp, 0.0, 0.0, 0.08, generator=seeded())[:, 0]
    inner = moved[:, 12:20, 12:20]
    assert (inner - ramp[:, 0, 12:20, 12:20]).abs().max() > 0.3
    for axis in (1, 2):
        assert inner.diff(n=2, dim=axis).abs().max() < 1e-3
    # The three points went at most 2.56 pixels in either direction.
    for row, column in ((26, 26), (6, 26), (6, 6)):
        assert (moved[:, column, row] - row).abs().max() < 6


def test_pixelate__by_hand() -> None:
    # 32 pixels become 24: of each four, the outer two stay, the inner two are averaged.
    image = (4 * torch.arange(32)).expand(1, 1, 32, 32).to(torch.uint8)
    result = corrupt(image, "pixelate", 4, generator=seeded())
    expected = torch.tensor([0, 6, 6, 12]).repeat(8) + 16 * torch.arange(8).repeat_interleave(4)
    assert (result == expected).all()
    assert torch.equal(corrupt(image.mT, "pixelate", 4, generator=seeded()), result.mT)


@pytest.mark.parametrize("side", [16, 28, 32, 45])
@pytest.mark.parametrize(("severity", "share"), [(1, 0.95), (2, 0.9), (3, 0.85), (4, 0.75), (5, 0.65)])
def test_pixelate__is_pillows_box(side: int, severity: int, share: float) -> None:
    image = torch.randint(0, 256, (1, 1, side, side), dtype=torch.uint8, generator=seeded())
    small = int(side * share)
    picture = Image.fromarray(image[0, 0].numpy())
    box = Image.Resampling.BOX
    expected = np.asarray(picture.resize((small, small), box).resize((side, side), box))
    np.testing.assert_array_equal(corrupt(image, "pixelate", severity, generator=seeded())[0, 0].numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("severity", "quality"), [(1, 80), (2, 65), (3, 58), (4, 50), (5, 40)])
def test_jpeg__is_the_round_trip(channels: int, severity: int, quality: int) -> None:
    images = scenes(2, channels, 28)
    expected = torch.stack([decode_jpeg(encode_jpeg(image, quality=quality)) for image in images])
    assert torch.equal(corrupt(images, "jpeg_compression", severity, generator=seeded()), expected)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("rain", 1, "There is no corruption 'rain'; allowed are gaussian_noise, "),
        ("fog", 0, "The severity is 0; allowed are 1, 2, 3, 4 and 5"),
        ("fog", 6, "The severity is 6"),
    ],
)
def test_conditions__are_checked(name: str, severity: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        corrupt(constant(0), name, severity, generator=seeded())


def test_images__are_checked() -> None:
    with pytest.raises(UserError, match="15 x 15 pixels; corruptions need square ones of at least 16"):
        corrupt(constant(0, side=15), "fog", 1, generator=seeded())
    with pytest.raises(UserError, match="32 x 31"):
        corrupt(constant(0)[..., :31], "fog", 1, generator=seeded())
    for wrong in (constant(0).float(), constant(0)[0], constant(0).expand(1, 2, 32, 32)):
        with pytest.raises(ValueError, match="uint8 of shape"):
            corrupt(wrong, "fog", 1, generator=seeded())
