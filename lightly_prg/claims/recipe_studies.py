"""The studies that claims are tested by, and their options.

As ``lightly_prg.recipe``, nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lightly_prg.recipe import ResNetRecipe
from lightly_prg.recipe.section import Fraction, Number, Positive, Section

Rates = Annotated[tuple[Annotated[Number, Field(gt=0.0)], ...], Field(min_length=1)]
Margin = Annotated[Number, Field(ge=0.0)]
"""Of a difference that is not in the unit of the claim's own margin."""


class Study(Section):
    """What every study has.

    Attributes:
        test_images: At most so many, drawn by class and by the seed, so that the spread over seeds is also one over
            images.
        validation_images: At most so many, likewise.
    """

    test_images: Positive | None = 1000
    validation_images: Positive | None = 500


class FinetuningStudy(Study):
    """What every study has that trains classifiers; options that are equal for all it compares.

    Attributes:
        labels: Of each class.
        epochs: Passes over these images, at each learning rate.
        batch_size: Images of a step.
        learning_rates: The grid of every model, chosen from on validation images.
        steps: Euler steps K to the noise end, where the state is trained through.
    """

    labels: Positive = 100
    epochs: Positive = 10
    batch_size: Positive = 64
    learning_rates: Rates = (3e-4, 1e-3, 3e-3)
    steps: Positive = 4


class PretrainingHelps(Study):
    """Pretrained weights against fresh ones; see ``lightly_prg.claims.pretraining_helps``.

    Attributes:
        labels: Of each class; every number is a comparison of its own.
        epochs: For each number of labels.
        batch_size: As in ``FinetuningStudy``.
        learning_rates: Likewise.
        steps: Likewise.
        scratch_epochs: For each number of labels, of fresh weights, which learn more slowly; no fewer than ``epochs``.
        features: The state at the noise end, and the block that the recipe reads.
        gradients: With ``adjoint``, the pretrained state is also trained by the paper's gradient.
    """

    name: Literal["pretraining_helps"]
    labels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (100, 10)
    epochs: tuple[Positive, ...] = (10, 40)
    batch_size: Positive = 64
    learning_rates: Rates = (3e-4, 1e-3, 3e-3)
    steps: Positive = 4
    scratch_epochs: tuple[Positive, ...] = (20, 120)
    features: tuple[Literal["state", "block"], ...] = ("state", "block")
    gradients: tuple[Literal["full", "adjoint"], ...] = ("full",)

    @model_validator(mode="after")
    def _is_whole(self) -> PretrainingHelps:
        for key, epochs in (("epochs", self.epochs), ("scratch_epochs", self.scratch_epochs)):
            if len(epochs) != len(self.labels):
                raise ValueError(f"{key} are {list(epochs)}; one is needed for each of labels {list(self.labels)}")
        for own, scratch in zip(self.epochs, self.scratch_epochs, strict=True):
            _check_scratch(own, scratch)
        if "state" not in self.features or "full" not in self.gradients:
            raise ValueError("the claim is about features: [state] with gradients: [full]; others stand beside them")
        return self


def _check_scratch(epochs: int, scratch_epochs: int) -> None:
    if scratch_epochs < epochs:
        raise ValueError(
            f"scratch_epochs are {scratch_epochs} beside epochs of {epochs}: fresh weights need as many at least"
        )


class BetterPretraining(FinetuningStudy):
    """Snapshots of the pretraining; see ``lightly_prg.claims.better_pretraining``.

    Attributes:
        images: Of each measurement.
        train_images: That the linear probe is fitted on.
        rise_from: The share of the training whose snapshot the last one has to surpass.
        rise_margin: By so many points; less counts as flat.
    """

    name: Literal["better_pretraining"]
    images: Positive = 128
    train_images: Positive = 5000
    rise_from: Fraction = 0.2
    rise_margin: Margin = 1.0


class InvertedPath(Study):
    """Frozen activations; see ``lightly_prg.claims.inverted_path``.

    Attributes:
        train_images: Of k-NN and linear probe.
        scan_images: Training images, and validation images, that the choice of the feature looks at.
        middle: The block that is the only choice of one control.
    """

    name: Literal["inverted_path"]
    test_images: Positive | None = 5000
    validation_images: Positive | None = None
    train_images: Positive = 5000
    scan_images: Positive = 2000
    middle: str = "middle"


class SolverChoice(Section):
    """A way to solve the ODE of a model that is trained already.

    Attributes:
        solver: One of ``lightly_prg.flow.SOLVERS``.
        steps: Of a solver of fixed steps.
        decides: Whether the verdict is about it.
    """

    solver: str
    steps: Positive | None = None
    decides: bool = False

    @model_validator(mode="after")
    def _steps_go_with_the_solver(self) -> SolverChoice:
        if (self.steps is None) != (self.solver == "dopri5"):
            raise ValueError(f"{self.solver} {'needs' if self.steps is None else 'chooses its own'} steps")
        return self

    @property
    def title(self) -> str:
        """For readers."""
        return self.solver if self.steps is None else f"{self.solver} {self.steps}"


def _told_apart(choices: tuple[SolverChoice, ...]) -> tuple[SolverChoice, ...]:
    titles = [choice.title for choice in choices]
    if len(set(titles)) < len(titles):
        raise ValueError("every solver with its steps may stand there once")
    return choices


class Solvers(FinetuningStudy):
    """Other steps and solvers than in training; see ``lightly_prg.claims.solvers``.

    Attributes:
        train_steps: Euler steps of the models that are trained, in place of ``steps``.
        judged: What each is judged with.
    """

    name: Literal["solvers"]
    train_steps: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 8)
    judged: Annotated[tuple[SolverChoice, ...], Field(min_length=1), AfterValidator(_told_apart)] = (
        *(SolverChoice(solver="euler", steps=steps, decides=steps == 32) for steps in (2, 4, 8, 32)),
        SolverChoice(solver="dopri5", decides=True),
    )


class Corruption(FinetuningStudy):
    """Corrupted images; see ``lightly_prg.claims.corruption``.

    Attributes:
        resnet: The supervised network; it is trained for as many multiply-adds as the flow is fine-tuned.
        scratch: Whether the flow's network is trained from fresh weights as well.
        scratch_epochs: Of the flow's network from fresh weights, and of the ResNet at least; no fewer than ``epochs``.
        share_margin: Of the share of the clean accuracy that is left, in points of it.
    """

    name: Literal["corruption"]
    resnet: ResNetRecipe = ResNetRecipe(width=0.5, stem_stride=2)
    scratch: bool = True
    scratch_epochs: Positive = 20
    share_margin: Margin = 2.0

    @model_validator(mode="after")
    def _scratch_is_not_cut_short(self) -> Corruption:
        _check_scratch(self.epochs, self.scratch_epochs)
        return self


class Reversibility(FinetuningStudy):
    """The flow before and after fine-tuning; see ``lightly_prg.claims.reversibility``.

    Attributes:
        betas: Weights of the flow-matching loss that is kept, of which the first decides.
        samples: Generated images, and real ones, whose distance is measured.
        images: That are carried to the noise end and back.
        doublings_margin: By how many doublings the Fréchet distance of samples, beyond that of real images, may grow.
    """

    name: Literal["reversibility"]
    betas: Annotated[tuple[Annotated[Number, Field(ge=0.0)], ...], Field(min_length=1)] = (0.0, 0.1, 1.0)
    samples: Annotated[Positive, Field(ge=2)] = 1000
    images: Positive = 32
    doublings_margin: Margin = 1.0


StudyRecipe = Annotated[
    PretrainingHelps | BetterPretraining | InvertedPath | Solvers | Corruption | Reversibility,
    Field(discriminator="name"),
]
