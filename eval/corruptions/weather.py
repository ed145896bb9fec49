"""The weather among the corruptions: snow, frost, fog and brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from lightly_prg.eval.corruptions.blur import smear, zoom
from lightly_prg.eval.corruptions.levels import cut_to_levels
from lightly_prg.eval.corruptions.noise import normal, uniform

_LUMA = (0.299, 0.587, 0.114)
_ICE = (0.78, 0.90, 1.0)


def snow(
    images: Tensor,
    mean: float,
    deviation: float,
    magnification: float,
    threshold: float,
    radius: int,
    sigma: float,
    share: float,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Whitens the image and adds flakes that fall in one direction, and the same flakes turned by 180 degrees.

    For grey images the grey value takes the place of the luma.

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        mean: Of the normal noise that the flakes are the peaks of.
        deviation: Of that noise.
        magnification: Of the flakes.
        threshold: Below it there is no snow.
        radius: Half the length of a flake's trail, in pixels.
        sigma: Of that trail.
        share: Of the image that is not whitened.
        generator: Of flakes and directions.
    """
    count, channels, side, _ = images.shape
    flakes = zoom(mean + deviation * normal((count, 1, side, side), images, generator), magnification)
    flakes = torch.where(flakes < threshold, torch.zeros_like(flakes), flakes)
    degrees = uniform((count,), -135.0, -45.0, images, generator)
    flakes = smear(cut_to_levels(flakes).to(images) / 255, radius, sigma, degrees)
    grey = (images * images.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True) if channels == 3 else images
    white = torch.maximum(images, grey * 1.5 + 0.5)
    return share * images + (1 - share) * white + flakes + flakes.rot90(2, dims=(2, 3))


def frost(images: Tensor, share: float, strength: float, *, generator: torch.Generator) -> Tensor:
    """Adds frost to the dimmed image: a procedural texture, not the photographs behind the published files.

    The texture is a pale blue veil of uneven thickness with needles of ice in three directions. Errors under it can be
    compared with each other, and not with published ones. On grey images it is grey.

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        share: What the image is multiplied by.
        strength: What the texture is multiplied by.
        generator: Of the texture.
    """
    count, channels, side, _ = images.shape
    veil = plasma(count, side, 2.0, images, generator)
    needles = torch.zeros_like(veil)
    for _ in range(3):
        seeds = uniform(veil.shape, 0.0, 1.0, images, generator)
        degrees = uniform((count,), 0.0, 360.0, images, generator)
        needles = torch.maximum(needles, smear((seeds > 0.97).to(images), 8, 3.0, degrees))
    needles /= needles.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    ice = images.new_tensor(_ICE)[:, None, None]
    if channels == 1:
        ice = (ice * images.new_tensor(_LUMA)[:, None, None]).sum(dim=0, keepdim=True)
    texture = (0.15 + 0.6 * veil) * ice + needles * (0.2 + 0.8 * veil)
    return share * images + strength * texture.clamp(max=1.0)


def fog(images: Tensor, thickness: float, decay: float, *, generator: torch.Generator) -> Tensor:
    """Adds a cloud to all channels alike and scales back to the image's largest value.

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        thickness: Value of the cloud where it is thickest.
        decay: The higher, the smoother the cloud.
        generator: Of the cloud.
    """
    largest = images.amax(dim=(1, 2, 3), keepdim=True)
    cloud = plasma(len(images), images.shape[-1], decay, images, generator)
    return (images + thickness * cloud) * largest / (largest + thickness)


def brightness(images: Tensor, amount: float, *, generator: torch.Generator) -> Tensor:
    """Raises the V of HSV, the largest of the channels; hue and saturation stay.

    With these two fixed, all channels are multiplied by the same; black has neither and becomes grey. For grey images
    the value itself is V.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        amount: What V grows by, up to 1.
        generator: Not used.
    """
    value = images.amax(dim=1, keepdim=True)
    raised = (value + amount).clamp(max=1.0)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


def plasma(count: int, side: int, decay: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Fractal clouds by the diamond-square algorithm on a torus, scaled to [0, 1] before they are cropped.

    Every halving of the distance between points divides the noise by ``decay`` squared, as in the published code.

    Args:
        count: Number of clouds.
        side: Their height and width.
        decay: Above 1; the higher, the smoother.
        like: Type and device.
        generator: Of the draws.

    Returns:
        ``(count, 1, side, side)``.
    """
    size = 1 << (side - 1).bit_length()
    field = like.new_zeros(count, size, size)
    step, amplitude = size, 1.0

    def noisy(total: Tensor) -> Tensor:
        return total / 4 + uniform(total.shape, -amplitude, amplitude, like, generator)

    while step > 1:
        half = step // 2
        corners = field[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        middles = noisy(pairs + pairs.roll(-1, 2))
        field[:, half::step, half::step] = middles
        # Between two corners, each point has a middle on either side.
        field[:, ::step, half::step] = noisy(corners + corners.roll(-1, 2) + middles + middles.roll(1, 1))
        field[:, half::step, ::step] = noisy(pairs + middles + middles.roll(1, 2))
        step, amplitude = half, amplitude / decay**2
    low, high = (bound.view(-1, 1, 1) for bound in field.flatten(1).aminmax(dim=1))
    cloud: Tensor = ((field - low) / (high - low))[:, None, :side, :side]
    return cloud
