"""The ``method.auxiliary`` section of PRG's recipe: a second loss that shapes an activation of the velocity network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lightly_prg.recipe.feature import check_pool
from lightly_prg.recipe.section import Number, Positive, Section
from lightly_prg.recipe.views import ProjectionRecipe, ViewsRecipe

ON_VIEWS = ("ntxent", "vicreg", "barlow_twins", "dino", "lejepa")
"""Losses that compare two views of an image; ``dispersive`` and ``align`` read what the flow computes anyway."""


def _check_range(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the lower end comes first")
    return value


class AuxiliaryRecipe(Section):
    """A self-supervised loss on one block, beside the flow-matching loss.

    Attributes:
        loss: ``ntxent``, ``vicreg``, ``barlow_twins``, ``dino`` and ``lejepa`` are Lightly's, on two strong views;
            ``dispersive`` (arXiv 2506.09027) spreads the activations of the flow's own batch; ``align`` (REPA, arXiv
            2410.06940) draws them towards a frozen teacher's; ``none`` is plain PRG.
        block: Where the activation is read; views run through the network only as far as this block.
        pool: How an activation becomes a vector; not used by ``dispersive`` and ``align``.
        weight: Factor of this loss. 0 is plain PRG, to the last bit.
        flow_weight: Factor of the flow-matching loss. 0 trains the contracting half alone.
        flow_every: The flow-matching loss sees every n-th image of a batch: it costs a whole network, a view half.
        tau: Views are carried to a position drawn between these two by adding noise; [0, 0] leaves them clean.
        temperature: Of ``ntxent`` and ``dispersive``.
        views: How strong the views are.
        projection: Sizes of the head between activation and loss.
        teacher: For ``align``: ``timm:NAME``, ``torchvision:NAME`` or a run folder.
        teacher_weights: ``default`` for the library's own, ``none`` for random ones, or a file.
        teacher_block: Which of its activations; None for timm's ``forward_features``.
        teacher_resize: The side to which its images are enlarged first.
    """

    loss: Literal["ntxent", "vicreg", "barlow_twins", "dino", "lejepa", "dispersive", "align", "none"] = "ntxent"
    block: str = "middle"
    pool: Annotated[str, AfterValidator(check_pool)] = "mean"
    weight: Annotated[Number, Field(ge=0.0)] = 1.0
    flow_weight: Annotated[Number, Field(ge=0.0)] = 1.0
    flow_every: Positive = 1
    tau: Annotated[
        tuple[Annotated[Number, Field(ge=0.0, le=1.0)], Annotated[Number, Field(ge=0.0, le=1.0)]],
        AfterValidator(_check_range),
    ] = (0.0, 0.1)
    temperature: Annotated[Number, Field(gt=0.0)] = 0.5
    views: ViewsRecipe = ViewsRecipe()
    projection: ProjectionRecipe = ProjectionRecipe()
    teacher: str | None = None
    teacher_weights: str = "default"
    teacher_block: str | None = None
    teacher_resize: Positive | None = None

    @model_validator(mode="after")
    def _teacher_goes_with_align(self) -> AuxiliaryRecipe:
        if (self.loss == "align") != (self.teacher is not None):
            raise ValueError("loss 'align' needs a teacher, and no other loss takes one")
        if self.is_active and self.flow_weight == 0.0 and self.loss not in ON_VIEWS:
            raise ValueError(f"loss {self.loss!r} reads the batch of the flow, so flow_weight has to be above 0")
        return self

    @property
    def is_active(self) -> bool:
        """Whether there is a second loss at all."""
        return self.loss != "none" and self.weight > 0.0
