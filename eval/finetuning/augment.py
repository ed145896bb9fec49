"""Augmentation of whole batches for fine-tuning, by torchvision's transforms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2 as T

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.presets import FinetunePreset
from lightly_prg.randomness import generator_for, global_draws
from lightly_prg.transforms import augment_batch, to_unit_range

_OPERATIONS = 2
_MAGNITUDES = 101  # tenths of timm's scale of 0 to 10
_MAGNITUDE_DEVIATION = 0.5
_GREY = 128
_NOISE_DEVIATION = 0.25


@dataclass(frozen=True)
class BatchAugmentation:
    """Augments batches on the CPU; the draws depend on ``seed`` and the number of the step alone.

    The order is: flip and crop, RandAugment, conversion to [0, 1], erasing, and MixUp or CutMix. All but
    the last two are drawn for each image. RandAugment is timm's ``rand-m9-mstd0.5-inc1`` with torchvision's operations:
    two of them, each with probability one half, of normally distributed magnitude. Noise that replaces an erased
    rectangle is normal with mean 0.5 and deviation 0.25, clipped to [0, 1].

    Grey images (C = 1) are augmented alike; a change of saturation leaves them as they are.

    Args:
        num_classes: K.
        seed: Seed of the whole fine-tuning.
        horizontal_flip: Whether half of the images are mirrored.
        crop_padding: Pixels of reflected border before a random crop; 0 for none.
        rand_augment: Magnitude in [0, 10]; 0 for none.
        erasing: Probability for each image.
        mixup: The alpha of MixUp; 0 for none.
        cutmix: The alpha of CutMix; 0 for none. Where both are given, each batch gets one of them, at random.
    """

    num_classes: int
    seed: int
    horizontal_flip: bool = False
    crop_padding: int = 0
    rand_augment: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def of(cls, preset: FinetunePreset, *, num_classes: int, seed: int, image_size: int) -> BatchAugmentation:
        """What a preset asks for; on small images the crop moves by no more than a seventh of them."""
        return cls(
            num_classes=num_classes,
            seed=seed,
            horizontal_flip=preset.horizontal_flip,
            crop_padding=min(preset.crop_padding, image_size // 7),
            rand_augment=preset.rand_augment,
            erasing=preset.erasing,
            mixup=preset.mixup,
            cutmix=preset.cutmix,
        )

    def __call__(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Augments one batch.

        Args:
            images: ``(B, C, H, W)`` uint8.
            labels: ``(B,)`` int64.
            step: Number of the training step.

        Returns:
            Float images in [0, 1]; and the labels, or with MixUp or CutMix the shares of the classes ``(B, K)``.

        Raises:
            UserError: If RandAugment is asked for, and the images have neither 1 nor 3 channels.
            ValueError: If the images are not uint8.
        """
        if self.rand_augment > 0 and images.shape[1] not in (1, 3):
            raise UserError(
                f"RandAugment takes images of 1 or 3 channels, and these have {images.shape[1]}; "
                "choose the preset 'shared'."
            )
        images = augment_batch(
            images,
            horizontal_flip=self.horizontal_flip,
            crop_padding=self.crop_padding,
            generator=generator_for(self.seed, "fine-tuning flip and crop", step),
        )
        with global_draws(self.seed, "fine-tuning augmentation", step):
            if self.rand_augment > 0:
                images = torch.stack([self._recolour(image) for image in images])
            inputs = to_unit_range(images)
            if self.erasing > 0:
                inputs = torch.stack([self._erase(image) for image in inputs])
            return self._mix(inputs, labels)

    def _recolour(self, image: Tensor) -> Tensor:
        operations = int((torch.rand(_OPERATIONS) < 0.5).sum())
        magnitude = self.rand_augment + _MAGNITUDE_DEVIATION * float(torch.randn(()))
        randomly = T.RandAugment(
            operations,
            magnitude=min(max(round(10 * magnitude), 0), _MAGNITUDES - 1),
            num_magnitude_bins=_MAGNITUDES,
            interpolation=T.InterpolationMode.BILINEAR,
            fill=_GREY,
        )
        recoloured: Tensor = randomly(image)
        return recoloured

    def _erase(self, image: Tensor) -> Tensor:
        if float(torch.rand(())) >= self.erasing:
            return image
        # torchvision's noise is that of normalised images.
        erased: Tensor = T.RandomErasing(p=1.0, value="random")((image - 0.5) / _NOISE_DEVIATION)
        return (erased * _NOISE_DEVIATION + 0.5).clamp_(0.0, 1.0)

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        choices = []
        if self.mixup > 0:
            choices.append(T.MixUp(alpha=self.mixup, num_classes=self.num_classes))
        if self.cutmix > 0:
            choices.append(T.CutMix(alpha=self.cutmix, num_classes=self.num_classes))
        if not choices:
            return images, labels
        mixed: tuple[Tensor, Tensor] = T.RandomChoice(choices)(images, labels)
        return mixed
