"""From an image of any size, mode and format to a square uint8 tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

_IMAGES_A_RESIZE = 1024


def fit_image(image: Image.Image, *, image_size: int, channels: int) -> Tensor:
    """Turns a Pillow image into a square uint8 tensor.

    The EXIF orientation is applied, transparency is laid over white, 16-bit grey is scaled to 8
    bits, the central square is cut out (of the shorter side) and resized with an antialiased
    bicubic filter. Colour becomes grey by Pillow's "L" weights, grey becomes colour by repetition.

    Returns:
        uint8 of shape (channels, image_size, image_size).

    Raises:
        ValueError: If the image holds floating-point pixels, which have no fixed range.
    """
    return torch.from_numpy(fit_pixels(image, image_size, channels).copy())


def fit_tensor(images: Tensor, *, image_size: int, channels: int) -> Tensor:
    """Does to uint8 tensors what ``fit_image`` does to Pillow images.

    Args:
        images: uint8 of shape (N, 1 or 3, H, W).
        image_size: Height and width of the result.
        channels: 1 or 3.

    Returns:
        uint8 of shape (N, channels, image_size, image_size); ``images`` itself where it fits
        already.
    """
    side = min(images.shape[-2:])
    if images.shape[-1] != images.shape[-2]:
        top, left = ((length - side) // 2 for length in images.shape[-2:])
        images = images[..., top : top + side, left : left + side]
    if channels == 1 and images.shape[1] == 3:
        images = _grey(images)
    if side != image_size:
        fitted = images.new_empty((*images.shape[:2], image_size, image_size))
        chunks = zip(
            torch.split(fitted, _IMAGES_A_RESIZE),
            torch.split(images, _IMAGES_A_RESIZE),
            strict=True,
        )
        for target, chunk in chunks:
            target.copy_(_resize(chunk, image_size))
        images = fitted
    if channels == 3 and images.shape[1] == 1:
        images = images.repeat(1, 3, 1, 1)
    return images.contiguous()


def fit_pixels(image: Image.Image, image_size: int, channels: int) -> npt.NDArray[np.uint8]:
    """``fit_image`` without the copy: the result may be read-only."""
    image.load()
    image = _in_eight_bits(_upright(image), channels)
    width, height = image.size
    side = min(width, height)
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    pixels: npt.NDArray[np.uint8] = np.asarray(image)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (channels, image_size, image_size))
    return pixels.transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # The pixels are decoded by now. An EXIF block that cannot be parsed, on which older versions
        # of Pillow raise whatever their parser raises, says nothing about orientation.
        return image


def _in_eight_bits(image: Image.Image, channels: int) -> Image.Image:
    """Returns the image in mode "L" or "RGB"; "L" always where it holds no colour."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range, store it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 or image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _resize(images: Tensor, size: int) -> Tensor:
    resized: Tensor = F.resize(images, [size, size], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    return resized


def _grey(images: Tensor) -> Tensor:
    # Pillow's integer weights (ITU-R 601), so that files and tensors give the same grey to the last
    # bit.
    red, green, blue = images.to(torch.int32).unbind(1)
    grey = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey.to(torch.uint8).unsqueeze(1)
