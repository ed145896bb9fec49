"""The settings of fine-tuning: one preset for comparisons, the paper's, and that of masked autoencoders."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from lightly_prg.errors import UserError


@dataclass(frozen=True)
class FinetunePreset:
    """Every number of one way to fine-tune.

    Attributes:
        name: Of the preset.
        learning_rates: The grid, for batches of ``learning_rate_batch`` images.
        learning_rate_batch: Batch size that the learning rates are meant for, by which they are scaled linearly; None
            for no scaling.
        epochs: Passes over the training images.
        batch_size: Images of a step.
        warmup_epochs: Epochs in which the learning rate rises linearly; at most half of all steps.
        final_share: Share of the learning rate that the cosine ends in.
        betas: Of AdamW.
        weight_decay: Of AdamW, decoupled.
        decay_one_dimensional: Whether biases and the parameters of normalisations are decayed, too.
        layer_decay: Factor of the learning rate from one block to the one before it, see ``layer_groups``.
        clip: Largest norm of the gradient; None for no clipping.
        ema_decay: Largest decay of an exponential moving average of the weights, which then is what is classified with
            and kept, see ``lightly_prg.ema.EMA``; None for the weights themselves.
        label_smoothing: Share of the target that all classes have equally.
        head: ``linear`` or ``prg``.
        horizontal_flip: Whether half of the images are mirrored.
        crop_padding: Pixels of reflected border before a random crop; at most a seventh of the image.
        rand_augment: Magnitude of RandAugment, of 10, two operations with probability one half; 0 for none.
        erasing: Probability that a rectangle of an image is replaced by noise.
        mixup: The alpha of MixUp; 0 for none. With CutMix beside it, a batch gets the one or the other.
        cutmix: The alpha of CutMix; 0 for none.
    """

    name: str
    learning_rates: tuple[float, ...]
    learning_rate_batch: int | None
    epochs: int
    batch_size: int
    warmup_epochs: float
    final_share: float
    betas: tuple[float, float]
    weight_decay: float
    decay_one_dimensional: bool
    layer_decay: float
    clip: float | None
    ema_decay: float | None
    label_smoothing: float
    head: str
    horizontal_flip: bool
    crop_padding: int
    rand_augment: float
    erasing: float
    mixup: float
    cutmix: float

    def grid(self, batch_size: int) -> tuple[float, ...]:
        """The learning rates for batches of ``batch_size`` images."""
        scale = 1.0 if self.learning_rate_batch is None else batch_size / self.learning_rate_batch
        return tuple(rate * scale for rate in self.learning_rates)


SHARED = FinetunePreset(
    name="shared",
    learning_rates=(3e-4, 1e-3, 3e-3),  # half a decade apart: what suits a residual network and what a transformer
    learning_rate_batch=None,  # the grid is searched anyway
    epochs=20,  # with pretrained weights the accuracy saturates early
    batch_size=128,  # usual for 32 pixels
    warmup_epochs=1.0,  # a random head would otherwise tear at the encoder
    final_share=0.0,  # the last epoch's weights are used, and settle
    betas=(0.9, 0.999),  # AdamW's own
    weight_decay=0.05,  # of both other presets
    decay_one_dimensional=False,  # pulling scales and biases to zero regularises nothing
    layer_decay=1.0,  # not every encoder has an order of blocks
    clip=1.0,  # one bad batch does not end a high learning rate
    ema_decay=None,  # the cosine ends at zero, which averages already
    label_smoothing=0.1,  # of both other presets
    head="linear",
    horizontal_flip=True,
    crop_padding=4,  # the standard of CIFAR-10
    rand_augment=0.0,  # light: the encoder is judged, not the augmentation
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
)
"""The same for every method in a comparison."""

PRG = FinetunePreset(
    name="prg",
    learning_rates=(1.25e-4,),  # arXiv 2412.01787, released configuration
    learning_rate_batch=512,
    epochs=200,
    batch_size=128,
    warmup_epochs=5.0,
    final_share=0.01,  # 1.25e-6
    betas=(0.9, 0.999),
    weight_decay=0.05,
    decay_one_dimensional=True,  # the released code decays everything
    layer_decay=1.0,
    clip=None,
    ema_decay=None,
    label_smoothing=0.1,
    head="prg",
    horizontal_flip=True,
    crop_padding=4,  # there with a black border
    rand_augment=9.0,  # the configuration has color_jitter 0.4 as well, which timm ignores beside it
    erasing=0.25,
    mixup=0.0,
    cutmix=0.0,
)
"""That of Pretrained Reversible Generation, arXiv 2412.01787."""

MAE = FinetunePreset(
    name="mae",
    learning_rates=(5e-4,),  # arXiv 2111.06377, released code for ViT-B
    learning_rate_batch=256,
    epochs=100,
    batch_size=128,
    warmup_epochs=5.0,
    final_share=0.004,  # 1e-6 for batches of 128
    betas=(0.9, 0.999),
    weight_decay=0.05,
    decay_one_dimensional=False,
    layer_decay=0.65,
    clip=None,
    ema_decay=None,
    label_smoothing=0.1,
    head="linear",
    horizontal_flip=True,
    crop_padding=4,  # timm's choice for 32 pixels, where ImageNet has a crop of random scale
    rand_augment=9.0,
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
)
"""That of masked autoencoders, arXiv 2111.06377; its drop path of 0.1 is for the encoder to have."""

PRESETS = {preset.name: preset for preset in (SHARED, PRG, MAE)}


def preset_by_name(name: str) -> FinetunePreset:
    """Looks a preset up.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UserError(f"There is no preset {name!r}: allowed are {', '.join(PRESETS)}{hint}")
    return PRESETS[name]
