"""Random resized crops of whole batches: every image its own box, all of them resampled at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

_TRIES = 10


def random_resized_crop(
    images: Tensor,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    horizontal_flip: bool,
    generator: torch.Generator | None,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Cuts a random box out of every image, enlarges it to the size of the image and mirrors every other one.

    The boxes are distributed as torchvision's ``RandomResizedCrop`` draws them. Whether the flip is on changes no box.

    Args:
        images: Shape (B, C, H, W), uint8 or float in [0, 1], on any device.
        scale: Smallest and largest share of the image's area that a box covers, in (0, 1].
        ratio: Smallest and largest ratio of a box's width to its height.
        horizontal_flip: Whether every other image (at random) is mirrored left to right.
        generator: Where the draws come from.
        global_batch: Size of the batch that the draws are made for, of which ``images`` may be one process's part;
            None for B.
        first: Position of the first image in that batch.

    Returns:
        The same shape, float32 in [0, 1].

    Raises:
        ValueError: If ``scale`` or ``ratio`` is no range, or the images lie outside the global batch.
    """
    batch, _, height, width = images.shape
    boxes = draw_boxes(
        batch,
        (height, width),
        scale=scale,
        ratio=ratio,
        generator=generator,
        device=images.device,
        global_batch=global_batch,
        first=first,
    )
    flipped = None
    if horizontal_flip:
        flipped = (
            draw_uniform(
                batch, 1, generator=generator, device=images.device, global_batch=global_batch, first=first
            ).flatten()
            < 0.5
        )
    return resample_boxes(images, boxes, flipped=flipped)


def draw_boxes(
    batch: int,
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator | None,
    device: torch.device,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Draws one box for each of ``batch`` images, as torchvision's ``RandomResizedCrop`` does.

    The share of the area is uniform and the ratio of width to height log-uniform. Of ten such draws the first whose
    box fits into the image is taken, at a uniform place; where none fits, the largest central box whose ratio is
    allowed.

    Args:
        batch: B.
        size: Height and width of the images in pixels.
        scale: Range of the share of the area, in (0, 1].
        ratio: Range of width / height.
        generator: Where the draws come from.
        device: Where the boxes are needed.
        global_batch: Size of the batch that the draws are made for; None for B.
        first: Position of the first image in that batch.

    Returns:
        (B, 4) int64: top, left, height and width of each box in pixels.

    Raises:
        ValueError: If ``scale`` or ``ratio`` is no range, or the images lie outside the global batch.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale is {scale}; two shares of the area in (0, 1] are needed, the smaller first.")
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError(f"ratio is {ratio}; two ratios of width to height above 0 are needed, the smaller first.")
    height, width = size
    uniform = draw_uniform(
        batch, 2 * _TRIES + 2, generator=generator, device=device, global_batch=global_batch, first=first
    )
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[:, :_TRIES])
    low, high = (math.log(value) for value in ratio)
    ratios = torch.exp(low + (high - low) * uniform[:, _TRIES:-2])
    widths = (areas * ratios).sqrt().round().long()
    heights = (areas / ratios).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # The index of the first of equal maxima is that of the first try that fits.
    chosen = fits.int().argmax(dim=1, keepdim=True)
    drawn = torch.cat((heights.gather(1, chosen), widths.gather(1, chosen)), dim=1)
    room = torch.tensor((height, width), device=device) - drawn
    # Rounding may carry a uniform draw just below 1 to the end of its range.
    corner = (uniform[:, -2:] * (room + 1)).long().minimum(room)
    boxes = torch.cat((corner, drawn), dim=1)
    fallback = torch.tensor(_central_box(height, width, ratio), device=device)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, fallback)


def resample_boxes(images: Tensor, boxes: Tensor, *, flipped: Tensor | None = None) -> Tensor:
    """Enlarges one box of each image to the size of the image, bilinearly.

    What lies outside a box does not enter, so that the result is torchvision's ``resized_crop``. Its antialiasing would
    change nothing: a box is never larger than what it becomes.

    Args:
        images: Shape (B, C, H, W), uint8 or float in [0, 1].
        boxes: (B, 4): top, left, height and width in pixels, within the image.
        flipped: (B,) bool, which images are mirrored left to right; None for none.

    Returns:
        The same shape, float32 in [0, 1].
    """
    height, width = images.shape[-2:]
    top, left, box_height, box_width = boxes.unbind(dim=1)
    rows = _positions(top, box_height, height)
    columns = _positions(left, box_width, width)
    if flipped is not None:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # grid_sample counts from -1 at the image's first edge to 1 at its last.
    x = ((2 * columns + 1) / width - 1)[:, None, :].expand(-1, height, -1)
    y = ((2 * rows + 1) / height - 1)[:, :, None].expand(-1, -1, width)
    result = grid_sample(images.float(), torch.stack((x, y), dim=-1), mode="bilinear", align_corners=False)
    if not images.is_floating_point():
        result = result.mul_(1 / 255)
    # The four weights of a pixel add up to 1 but for rounding.
    return result.clamp_(0, 1)


def draw_uniform(
    batch: int,
    columns: int,
    *,
    generator: torch.Generator | None,
    device: torch.device,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Draws numbers in [0, 1) for every image of the global batch and returns those of this part.

    Args:
        batch: Images of this part, B.
        columns: Numbers for each image, K.
        generator: Where the draws come from, on its own device; None for torch's global one.
        device: Where they are needed.
        global_batch: Images of all parts together; None for B.
        first: Position of this part's first image among them.

    Returns:
        (B, K) float32.

    Raises:
        ValueError: If the part lies outside the global batch.
    """
    total = batch if global_batch is None else global_batch
    if not 0 <= first <= first + batch <= total:
        raise ValueError(f"Images {first} to {first + batch} lie outside a batch of {total}.")
    source = device if generator is None else generator.device
    drawn = torch.rand((total, columns), generator=generator, device=source)
    return drawn[first : first + batch].to(device)


def _positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the centres of ``size`` pixels lie in [start, start + length): (B, size), 0 is the first pixel's centre."""
    centres = torch.arange(size, device=start.device) + 0.5
    inside = centres * (length[:, None] / size) - 0.5
    return inside.clamp_min(0).minimum(length[:, None] - 1) + start[:, None]


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest central box of an allowed ratio."""
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = max(1, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
