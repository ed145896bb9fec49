"""Augmentation: ``PRGTransform`` for Lightly's data sets, ``augment_batch`` for whole batches."""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2 as T

from lightly_prg.transforms.eight_bits import to_uint8

HALF_NORMALIZE = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
"""Maps [0, 1] to [-1, 1], the range in which the generator sees images."""


class PRGTransform:
    """Implements the view augmentation for PRG [0].

    A generator learns to generate what it sees, so that the augmentation is light: no random scale,
    no colour.

    Input to this transform:
        PIL Image or Tensor.

    Output of this transform:
        List of Tensor of length 1.

    Applies the following augmentations by default:
        - Resize of the shorter side and center crop (not random)
        - Random horizontal flip

    The draws come from the global random state of torch, as in every Lightly transform.

    - [0]: Pretrained Reversible Generation as Unsupervised Visual Representation Learning, 2024,
        https://arxiv.org/abs/2412.01787

    Attributes:
        input_size:
            Size of the output image in pixels.
        hf_prob:
            Probability that horizontal flip is applied.
        crop_padding:
            Pixels by which the image is padded (reflected) before a random crop of input_size. 0
            for no random crop.
        normalize:
            Dictionary with 'mean' and 'std' for torchvision.transforms.Normalize, one value for
            each channel or one for all. By default the result lies in [-1, 1]; with None it lies in
            [0, 1].

    Examples:
        >>> dataset = LightlyDataset("path/to/images", transform=PRGTransform(input_size=32))
        >>> views, target, filename = dataset[0]
        >>> views[0].shape
        torch.Size([3, 32, 32])

    """

    def __init__(
        self,
        input_size: int = 32,
        hf_prob: float = 0.5,
        crop_padding: int = 0,
        normalize: dict[str, list[float]] | None = HALF_NORMALIZE,
    ) -> None:
        _check_padding(crop_padding, input_size)
        transforms: list[Any] = [
            T.ToImage(),
            # Resizing floats overshoots their range; eight bits are clamped.
            T.Lambda(to_uint8),
            T.Resize(input_size, interpolation=T.InterpolationMode.BICUBIC, antialias=True),
            T.CenterCrop(input_size),
        ]
        if crop_padding:
            transforms.append(T.RandomCrop(input_size, padding=crop_padding, padding_mode="reflect"))
        transforms += [
            T.RandomHorizontalFlip(p=hf_prob),
            T.ToDtype(torch.float32, scale=True),
            T.ToPureTensor(),
        ]
        self.transform = T.Compose(transforms)
        self.normalize = normalize

    def __call__(self, image: Tensor | Image) -> list[Tensor]:
        """Applies the transforms to the input image.

        Args:
            image:
                The input image to apply the transforms to.

        Returns:
            The transformed image.

        Raises:
            ValueError: If the image has another number of channels than normalize has values, or is a tensor that is
                neither of bytes nor of floats in [0, 1].

        """
        view: Tensor = self.transform(image)
        if self.normalize is None:
            return [view]
        mean, std = (torch.tensor(self.normalize[key]).reshape(-1) for key in ("mean", "std"))
        if len(mean) not in (1, view.shape[0]):
            raise ValueError(
                f"The image has {view.shape[0]} channel(s) and normalize has {len(mean)} values: "
                "one value, or one for each channel, is needed."
            )
        return [(view - mean[:, None, None]) / std[:, None, None]]


def augment_batch(
    images: Tensor,
    *,
    horizontal_flip: bool,
    crop_padding: int,
    generator: torch.Generator | None,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Flips and shifts every image of a batch by a draw of its own.

    Nothing is drawn, and ``images`` itself comes back, where both are off.

    Args:
        images: Shape (B, C, H, W), of any type, on any device.
        horizontal_flip: Whether every other image (at random) is mirrored left to right.
        crop_padding: Pixels by which the image is padded, reflected at its borders, before a random
            crop of its own size; 0 for no crop.
        generator: Where the draws come from.
        global_batch: Size of the batch that the draws are made for, of which ``images`` may be one
            process's part; None for B.
        first: Position of the first image in that batch.

    Returns:
        The same shape, type and device as ``images``.

    Raises:
        ValueError: If ``crop_padding`` is as large as the image, or the images lie outside the
            global batch.
    """
    batch, channels, height, width = images.shape
    _check_padding(crop_padding, min(height, width))
    total = batch if global_batch is None else global_batch
    if not 0 <= first <= first + batch <= total:
        raise ValueError(f"Images {first} to {first + batch} lie outside a batch of {total}.")
    if not (horizontal_flip or crop_padding):
        return images
    part = slice(first, first + batch)
    rows = torch.arange(height, device=images.device).expand(batch, -1)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if crop_padding:
        shifts = _draw(2 * crop_padding + 1, (total, 2), generator, images.device)[part]
        rows, columns = (
            _reflect(index + shifts[:, axis, None] - crop_padding, index.shape[1])
            for axis, index in enumerate((rows, columns))
        )
    if horizontal_flip:
        flipped = _draw(2, (total, 1), generator, images.device)[part].bool()
        columns = torch.where(flipped, columns.flip(1), columns)
    # One gather for both axes, both operations and all channels.
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, height * width)
    return images.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view(images.shape)


def to_unit_range(images: Tensor) -> Tensor:
    """Maps uint8 images to float32 in [0, 1], the range that encoders take.

    Raises:
        ValueError: If the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"Images are {images.dtype}; uint8 is needed.")
    return images.float().div_(255)


def normalize_batch(images: Tensor) -> Tensor:
    """Maps uint8 images to float32 in [-1, 1], the range that the generator takes.

    Raises:
        ValueError: If the images are not uint8.
    """
    return to_unit_range(images).mul_(2).sub_(1)


def _draw(high: int, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    source = device if generator is None else generator.device
    return torch.randint(high, shape, generator=generator, device=source).to(device)


def _reflect(index: Tensor, length: int) -> Tensor:
    """Folds indices that lie less than ``length`` outside back into [0, length)."""
    return (length - 1) - ((length - 1) - index.abs()).abs()


def _check_padding(crop_padding: int, size: int) -> None:
    if not 0 <= crop_padding < size:
        raise ValueError(
            f"crop_padding is {crop_padding}; for images of {size} pixels it has to lie in [0, {size - 1}]."
        )
