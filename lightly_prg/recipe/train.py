"""The ``train`` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lightly_prg.recipe.section import Decay, Fraction, Integer, LearningRate, Number, Positive, Section, number_to_text


class TrainRecipe(Section):
    """How long, how fast, on what.

    Attributes:
        epochs: Passes over the training images; 0 leaves the network as it was drawn, for comparison.
        max_steps: Batches at which training ends, if that is before its epochs do.
        batch_size: Images of an optimiser step and micro-step, summed over devices.
        optimizer: ``lars`` is Lightly's, for large batches.
        lr: Learning rate at its peak.
        betas: Of ``adam`` and ``adamw``.
        momentum: Of ``sgd`` and ``lars``.
        weight_decay: Not of biases and normalisations.
        schedule: Of the learning rate after its warm-up.
        warmup_epochs: In which the learning rate rises from zero.
        clip: Largest norm of the gradient; null: any.
        accumulate: Micro-steps of ``batch_size`` images to an optimiser step.
        ema_decay: Of the averaged weights, which are what is kept; 0: the last weights themselves.
        precision: ``auto``: bf16 where the device is faster in it, else fp16 on a GPU and 32 on a CPU.
        compile: With torch.compile; ``auto``: on a GPU.
        num_workers: Processes that decode images.
        checkpoint_every: Epochs between checkpoints and held-out losses.
        snapshots: Shares of the training after which the encoder is exported as well; 0 is before it.
        accelerator: Of Lightning: ``auto``, ``gpu``, ``cpu``, ``mps``.
        devices: How many.
        strategy: Of Lightning: ``auto`` or ``ddp``.
        wandb: Project of Weights & Biases to which the training is logged as well; needs the extra ``wandb``.
    """

    epochs: Annotated[Integer, Field(ge=0)] = 200
    max_steps: Positive | None = None
    batch_size: Positive = 128
    optimizer: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    lr: LearningRate = 2.0e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    momentum: Decay = 0.9
    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[Number, Field(ge=0.0)] = 0.0
    clip: Annotated[Number, Field(gt=0.0)] | None = 1.0
    accumulate: Positive = 1
    ema_decay: Decay = 0.9999
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(number_to_text)] = "auto"
    compile: Literal["auto"] | bool = "auto"
    num_workers: Literal["auto"] | Annotated[Integer, Field(ge=0)] = "auto"
    checkpoint_every: Positive = 1
    snapshots: tuple[Fraction, ...] = ()
    accelerator: str = "auto"
    devices: Literal["auto"] | Positive = "auto"
    strategy: str = "auto"
    wandb: str | None = None
