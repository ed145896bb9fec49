"""Image files to square uint8 tensors, one by one or many at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import decode_jpeg

from lightly_prg.data.images import fit_pixels, fit_tensor
from lightly_prg.errors import UserError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

EXTENSIONS = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
# By content, whatever the extension says. Other decoders of Pillow run programs (EPS) or are rarely
# kept up.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_FILES_A_TASK = 128


def read_image(path: str, *, image_size: int, channels: int) -> Tensor:
    """Reads one image file; see ``fit_image`` for what is done to it.

    A JPEG at least four times too large is decoded at a half, a quarter or an eighth of its size,
    never below twice ``image_size``, which is several times faster and hardly changes the result.

    Returns:
        uint8 of shape (channels, image_size, image_size).

    Raises:
        UserError: If the file cannot be read as an image.
    """
    return torch.from_numpy(_read(path, image_size, channels).copy())


def read_images(paths: Sequence[str], *, image_size: int, channels: int, progress: Progress | None = None) -> Tensor:
    """Reads many image files in a pool of threads.

    Decoding and resizing go on without the interpreter lock, so large images use every core; for
    images of a few pixels the interpreter is the limit, at about 0.1 ms each.

    Returns:
        uint8 of shape (len(paths), channels, image_size, image_size).

    Raises:
        UserError: If a file cannot be read as an image: the first such file in the order of
            ``paths``.
    """
    images = torch.empty((len(paths), channels, image_size, image_size), dtype=torch.uint8)
    pixels = images.numpy()

    def read_task(first: int) -> int:
        chunk = paths[first : first + _FILES_A_TASK]
        for index, path in enumerate(chunk, start=first):
            pixels[index] = _read(path, image_size, channels)
        return len(chunk)

    pool = ThreadPoolExecutor(max_workers=min(32, _available_cores()))
    try:
        done = 0
        for count in pool.map(read_task, range(0, len(paths), _FILES_A_TASK)):
            done += count
            if progress is not None:
                progress(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _read(path: str, image_size: int, channels: int) -> npt.NDArray[np.uint8]:
    try:
        with open(path, "rb") as file:
            content = file.read()
        fitting = _decode_fitting_jpeg(content, image_size, channels)
        if fitting is not None:
            return fitting
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image.draft(None, (2 * image_size, 2 * image_size))
            return fit_pixels(image, image_size, channels)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken
        # files.
        reason = str(error) if isinstance(error, OSError | ValueError) else repr(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "it is empty" if not content else "it is no image, or is damaged"
        raise UserError(f"Cannot read the image {path}: {reason}.") from error


def _decode_fitting_jpeg(content: bytes, image_size: int, channels: int) -> npt.NDArray[np.uint8] | None:
    """Decodes a plain JPEG file of the right size; None for every other file.

    Torchvision's decoder gives the same pixels in a third of the time that Pillow takes for small
    images, nearly all of which is overhead.
    """
    if (
        not content.startswith(b"\xff\xd8\xff")
        # An APP1 segment may hold an orientation.
        or b"\xff\xe1" in content
        # Most likely larger than asked for.
        or len(content) > 4096 + 3 * image_size**2
        # The decoder would make room for whatever a few bytes declare.
        or _jpeg_size(content) != (image_size, image_size)
    ):
        return None
    try:
        image = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    except RuntimeError:
        return None  # Pillow decides whether the file is broken, and says how
    if image.shape[0] not in (1, 3):
        return None
    pixels: npt.NDArray[np.uint8] = (
        fit_tensor(image.unsqueeze(0), image_size=image_size, channels=channels).squeeze(0).numpy()
    )
    return pixels


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width that the frame header of a JPEG file declares."""
    place = 2
    while len(content) >= place + 9 and content[place] == 0xFF:
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # tables, reserved, arithmetic coding
            return int.from_bytes(content[place + 5 : place + 7]), int.from_bytes(content[place + 7 : place + 9])
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _available_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
