"""One fine-tuning at one learning rate: a plain loop over augmented batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightly_prg.ema import EMA
from lightly_prg.eval.calibration import expected_calibration_error
from lightly_prg.eval.divisible import DivisibleDataset
from lightly_prg.eval.embed import ImageDataset
from lightly_prg.eval.finetuning.augment import BatchAugmentation
from lightly_prg.eval.finetuning.layer_decay import ParameterGroups, check_groups
from lightly_prg.eval.finetuning.model import FineTuned
from lightly_prg.eval.finetuning.presets import FinetunePreset
from lightly_prg.randomness import generator_for
from lightly_prg.transforms import to_unit_range

ExtraLoss = Callable[[nn.Module, Tensor, int], Tensor]
"""``(encoder in training, its float images in [0, 1], step)`` to a scalar that is added to the loss."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: From 1.
        train_loss: Mean over its steps, ``extra_loss`` included.
        validation_top1: Percent, after the epoch; None where it was not asked for, which it always is after the last.
    """

    epoch: int
    train_loss: float
    validation_top1: float | None


@dataclass(frozen=True)
class Classified:
    """How a model did on a set of images.

    Attributes:
        top1: Percent whose class had the highest logit.
        top5: Percent whose class was among the five highest.
        calibration_error: Expected calibration error in percent; NaN where logits are not finite.
        finite: Whether all logits were.
    """

    top1: float
    top5: float
    calibration_error: float
    finite: bool


class NotFiniteError(FloatingPointError):
    """The loss or the predictions became NaN or infinite.

    Attributes:
        step: The step, from 0, before which it happened.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"Not finite at step {step}.")
        self.step = step


@dataclass(frozen=True, eq=False)
class FinetuneLoop:
    """What every learning rate of one evaluation has in common.

    Attributes:
        train: Labelled images to fit.
        validation: Labelled images that choose the learning rate.
        preset: Optimiser, schedule and loss.
        augmentation: Of the training images.
        parameter_groups: ``(encoder, head, learning rate)`` to groups for the optimiser.
        extra_loss: Added to the cross-entropy.
        epochs: Passes over the training images.
        batch_size: Images of a step.
        num_classes: K.
        seed: Decides the order of the images.
        device: Where it computes.
        autocast: The type of automatic mixed precision; None for float32.
        num_workers: Processes that read images.
        validate_at: Shares of the training after which ``validation`` is classified, as it is after the last epoch in
            any case; None: after each epoch.
    """

    train: DivisibleDataset
    validation: DivisibleDataset
    preset: FinetunePreset
    augmentation: BatchAugmentation
    parameter_groups: ParameterGroups
    extra_loss: ExtraLoss | None
    epochs: int
    batch_size: int
    num_classes: int
    seed: int
    device: torch.device
    autocast: torch.dtype | None
    num_workers: int
    validate_at: tuple[float, ...] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches; one smaller batch where there are fewer images than that."""
        return max(1, len(self.train) // self.batch_size)

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.epochs * self.steps_per_epoch

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at a step from 0: a linear rise, then a cosine."""
        warmup = min(round(self.preset.warmup_epochs * self.steps_per_epoch), self.steps // 2)
        return warmup_cosine(step, steps=self.steps, warmup_steps=warmup, final_share=self.preset.final_share)

    def fit(self, model: FineTuned, learning_rate: float, *, tick: Callable[[], object]) -> tuple[EpochRecord, ...]:
        """Trains a model in place; the weights are those of the last step, or their average where the preset has one.

        Dropout and the like draw from the global generator, which the caller has to seed.

        Args:
            model: On its device, with what is not trained frozen.
            learning_rate: The peak of the head's.
            tick: Called after each step.

        Raises:
            NotFiniteError: If the loss or a prediction for validation becomes NaN or infinite.
        """
        groups = self.parameter_groups(model.encoder, model.head, learning_rate)
        check_groups(groups, model)
        optimizer = torch.optim.AdamW(
            groups, lr=learning_rate, betas=self.preset.betas, weight_decay=self.preset.weight_decay
        )
        peaks = [group["lr"] for group in optimizer.param_groups]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        scaler = torch.amp.GradScaler("cuda", enabled=self.autocast is torch.float16 and self.device.type == "cuda")
        average = None if self.preset.ema_decay is None else EMA(model, self.preset.ema_decay)
        judged = model if average is None else average.module
        records: list[EpochRecord] = []
        validated = self._validated_epochs()
        step = 0
        for epoch in range(self.epochs):
            model.train()
            total = 0.0
            for images, labels in self._batches(epoch):
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * self.factor(step)
                loss = self._loss(model, images, labels, step)
                value = loss.item()
                if not math.isfinite(value):
                    raise NotFiniteError(step)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(scaler.scale(loss))
                if self.preset.clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(parameters, self.preset.clip)
                scaler.step(optimizer)
                scaler.update()
                if average is not None:
                    average.update(model)
                total += value
                step += 1
                tick()
            found = self.classify(judged, self.validation) if epoch + 1 in validated else None
            if found is not None and not found.finite:
                raise NotFiniteError(step)
            top1 = None if found is None else found.top1
            records.append(EpochRecord(epoch + 1, total / self.steps_per_epoch, top1))
        if average is not None:
            model.load_state_dict(judged.state_dict())
        return tuple(records)

    def _validated_epochs(self) -> set[int]:
        """The epochs, from 1, after which validation images are classified."""
        if self.validate_at is None:
            return set(range(1, self.epochs + 1))
        return {max(1, round(share * self.epochs)) for share in self.validate_at} | {self.epochs}

    @torch.no_grad()
    def classify(self, model: nn.Module, dataset: ImageDataset) -> Classified:
        """Classifies every image once."""
        model.eval()
        hits, confidences = [], []
        finite = True
        for images, labels, _ in dataset.loader(batch_size=self.batch_size, num_workers=self.num_workers):
            with self._autocast():
                logits = model(to_unit_range(images.to(self.device))).float()
            finite = finite and bool(logits.isfinite().all())
            ranked = logits.topk(min(5, self.num_classes), dim=1).indices.cpu()
            hits.append(ranked == labels[:, None])
            confidences.append(logits.softmax(dim=1).amax(dim=1).cpu())
        # Softmax rounds: a confidence may be a hair above 1.
        right, confidence = torch.cat(hits), torch.cat(confidences).clamp(max=1.0)
        return Classified(
            top1=100.0 * int(right[:, 0].sum()) / len(right),
            top5=100.0 * int(right.sum()) / len(right),
            calibration_error=expected_calibration_error(confidence, right[:, 0]) if finite else math.nan,
            finite=finite,
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches; of several, those images that fill no batch are left out of this epoch."""
        order = torch.randperm(len(self.train), generator=generator_for(self.seed, "fine-tuning order", epoch))
        shuffled = self.train.subset(order[: self.steps_per_epoch * self.batch_size])
        for images, labels, _ in shuffled.loader(batch_size=self.batch_size, num_workers=self.num_workers):
            yield images, labels

    def _loss(self, model: FineTuned, images: Tensor, labels: Tensor, step: int) -> Tensor:
        inputs, targets = self.augmentation(images, labels, step=step)
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        with self._autocast():
            logits = model(inputs)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.preset.label_smoothing)
            if self.extra_loss is not None:
                loss = loss + self.extra_loss(model.encoder, inputs, step)
        return loss

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, final_share: float) -> float:
    """Factor of the learning rate: ``(step + 1) / warmup_steps`` up to 1, then half a cosine to ``final_share``.

    Args:
        step: From 0; ``steps - 1`` is the last.
        steps: Of the whole training.
        warmup_steps: Those that rise, fewer than ``steps``.
        final_share: What the cosine tends to after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return final_share + (1.0 - final_share) * 0.5 * (1.0 + math.cos(math.pi * progress))
