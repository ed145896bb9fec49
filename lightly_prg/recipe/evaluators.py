"""The ``eval`` section of a recipe: what a finished run is judged by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lightly_prg.recipe.section import Decay, LearningRate, Number, Positive, Section


class KNNRecipe(Section):
    """Weighted k-nearest neighbours on cosine similarity; see ``lightly_prg.eval.evaluate_knn``.

    Attributes:
        k: Neighbours of the accuracy that tables show.
        ks: For which it is measured as well.
        temperature: A neighbour of cosine c weighs exp(c / temperature).
        transform: Of the features, by the statistics of the bank.
    """

    k: Positive = 20
    ks: tuple[Positive, ...] = (10, 20, 100, 200)
    temperature: Annotated[Number, Field(gt=0.0)] = 0.07
    transform: Literal["none", "standardise", "whiten"] = "none"


class LinearRecipe(Section):
    """Logistic regression on frozen features; see ``lightly_prg.eval.evaluate_linear``.

    Attributes:
        max_iterations: Of L-BFGS for each strength of regularisation.
    """

    max_iterations: Positive = 200


class FewShotRecipe(Section):
    """The linear probe with few labels, averaged over several draws of them.

    Attributes:
        labels: Of each class.
        draws: Over which the accuracy is averaged.
    """

    labels: Positive = 10
    draws: Positive = 5


class LoRARecipe(Section):
    """What fine-tuning in mode ``lora`` adds to convolutions and linear layers; see ``lightly_prg.models.LoRA``.

    Attributes:
        rank: Of the updates.
        alpha: They are multiplied by alpha / rank.
        norms: Train the scales and biases of normalisations as well.
    """

    rank: Positive = 8
    alpha: Annotated[Number, Field(gt=0.0)] = 16.0
    norms: bool = False


class FinetuneRecipe(Section):
    """Fine-tuning with a classification head; see ``lightly_prg.eval.finetune``. null leaves it to the preset.

    Attributes:
        mode: What is trained beside the head: nothing, some blocks, low-rank updates, or all.
        blocks: That mode ``partial`` trains.
        preset: ``shared`` for comparisons, ``prg`` and ``mae`` as their papers have it.
        labels: 10 and the like: of each class; 0.01: one in a hundred; null: all.
        epochs: Passes over the labelled images.
        batch_size: Images of a step.
        learning_rates: Of which the validation images choose one.
        ema_decay: Average the weights with this decay, and keep those.
        beta: Weight of PRG's flow-matching loss beside the cross-entropy.
        lora: Of mode ``lora``.
        feature: Keys of ``method.feature`` that differ from the run's own.
        ode: Keys of ``method.ode`` likewise.
    """

    mode: Literal["head", "partial", "lora", "full"] = "full"
    blocks: tuple[str, ...] = ()
    preset: Literal["shared", "prg", "mae"] = "shared"
    labels: Annotated[Number, Field(gt=0.0)] | None = None
    epochs: Positive | None = None
    batch_size: Positive | None = None
    learning_rates: tuple[LearningRate, ...] | None = None
    ema_decay: Decay | None = None
    beta: Annotated[Number, Field(ge=0.0)] = 0.0
    lora: LoRARecipe = LoRARecipe()
    feature: dict[str, Any] | None = None
    ode: dict[str, Any] | None = None

    @field_validator("labels")
    @classmethod
    def _labels_are_an_amount(cls, labels: float | None) -> float | None:
        if labels is not None and labels >= 1 and not float(labels).is_integer():
            raise ValueError("labels: a whole number of each class, or a share below 1")
        return labels

    @property
    def amount(self) -> int | float | None:
        """``labels`` as evaluators take it: whole numbers, of each class, are integers."""
        return int(self.labels) if self.labels is not None and self.labels >= 1 else self.labels

    @model_validator(mode="after")
    def _beta_keeps_what_is_trained(self) -> FinetuneRecipe:
        if self.mode == "head" and self.beta > 0.0:
            raise ValueError("beta keeps the flow-matching loss of a network in training, and mode 'head' trains none")
        return self

    @model_validator(mode="after")
    def _updates_go_with_their_mode(self) -> FinetuneRecipe:
        if self.lora != LoRARecipe() and self.mode != "lora":
            raise ValueError(f"lora describes the updates of mode 'lora'; the mode is {self.mode!r}")
        return self


class EvalRecipe(Section):
    """What a finished run is judged by.

    Attributes:
        split: What is judged; choices are made on validation images in any case.
        batch_size: Images that are embedded at once.
        knn: The k-NN classifier; null leaves it out.
        linear: The linear probe; null leaves it out.
        few_shot: The probe with few labels; null leaves it out.
        finetune: Fine-tuning, into a run of its own; null: none.
        controls: Encoders without a trained network that are judged beside the run.
    """

    split: Literal["validation", "test"] = "validation"
    batch_size: Positive = 250
    knn: KNNRecipe | None = KNNRecipe()
    linear: LinearRecipe | None = LinearRecipe()
    few_shot: FewShotRecipe | None = FewShotRecipe()
    finetune: FinetuneRecipe | None = None
    controls: tuple[Literal["raw_pixels", "pca", "random_network"], ...] = ("raw_pixels", "random_network")
