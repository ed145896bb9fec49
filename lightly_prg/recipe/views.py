"""What is done to training images, method by method, and the head behind which views are compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lightly_prg.recipe.section import Fraction, Integer, Number, Positive, Section


class AugmentRecipe(Section):
    """What is done to the training images of the generator; it also learns to generate what it sees.

    Attributes:
        horizontal_flip: Mirror every other image.
        crop_padding: Random crop after reflecting this many pixels.
    """

    horizontal_flip: bool = True
    crop_padding: Annotated[Integer, Field(ge=0)] = 0


class ViewsRecipe(Section):
    """The two strong views of contrastive learning; the defaults are Lightly's for CIFAR-10, without blur.

    Attributes:
        crop_min: Smallest share of the image that a crop keeps.
        horizontal_flip: Mirror every other view.
        jitter_strength: Of the colour jitter; 0: none.
        jitter_probability: With which a view's colours are changed.
        grey_probability: With which a view becomes grey.
    """

    crop_min: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.08
    horizontal_flip: bool = True
    jitter_strength: Annotated[Number, Field(ge=0.0, le=1.0)] = 0.5
    jitter_probability: Fraction = 0.8
    grey_probability: Fraction = 0.2


class CropRecipe(Section):
    """The one view of MAE.

    Attributes:
        crop_min: Smallest share of the image that the crop keeps.
        horizontal_flip: Mirror every other view.
    """

    crop_min: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.2
    horizontal_flip: bool = True


class ProjectionRecipe(Section):
    """The projection head, which is thrown away after pretraining.

    Attributes:
        hidden: Width of its hidden layer.
        output: Of what the loss compares.
    """

    hidden: Positive = 512
    output: Positive = 128
