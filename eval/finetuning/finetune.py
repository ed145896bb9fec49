"""Fine-tuning: an encoder and a head trained together on labelled images, or parts of them."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightly_prg.errors import UserError
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.divisible import DivisibleDataset
from lightly_prg.eval.embed import PRECISIONS
from lightly_prg.eval.finetuning.augment import BatchAugmentation
from lightly_prg.eval.finetuning.checks import check_head, check_options, embed_copy
from lightly_prg.eval.finetuning.data import FinetuneData
from lightly_prg.eval.finetuning.heads import LinearHead, PRGHead
from lightly_prg.eval.finetuning.layer_decay import ParameterGroup, ParameterGroups, layer_groups
from lightly_prg.eval.finetuning.loop import EpochRecord, ExtraLoss, FinetuneLoop
from lightly_prg.eval.finetuning.model import Adapter, FineTuned, trained_blocks
from lightly_prg.eval.finetuning.presets import FinetunePreset, preset_by_name
from lightly_prg.eval.finetuning.search import LearningRateTrial, search_learning_rate
from lightly_prg.eval.grids import several
from lightly_prg.hardware.cpu_time import cpu_seconds
from lightly_prg.hardware.layout import fast_layout


@dataclass(frozen=True)
class FinetuneResult:
    """Accuracy of a fine-tuned encoder.

    Attributes:
        top1: Percent of the test images whose class had the highest logit.
        top5: Percent whose class was among the five highest; None for fewer than five classes.
        calibration_error: Expected calibration error in percent; see ``lightly_prg.eval.calibration``.
        validation_top1: Percent on the images that chose the learning rate, after the last epoch.
        learning_rate: The chosen one.
        learning_rate_at_edge: Whether it ends the grid, so that a better one may lie beyond; not of a single one.
        per_learning_rate: The whole grid, in ascending order.
        mode: ``head``, ``partial``, ``lora`` or ``full``.
        blocks: Those that ``partial`` trained.
        preset: Its name.
        epochs: Of each training.
        steps: Of each training.
        num_train: Images that were fitted.
        num_validation: Images that chose.
        num_test: Labelled images that were classified at the end.
        num_classes: Classes that were told apart.
        trainable_parameters: Numbers that training could change, those of the head included.
        embedding_dim: D.
        nfe: Network evaluations that one embedding cost.
        seconds: Duration of it all.
        cpu_seconds: That of all threads and finished child processes together.
        seed: Of the head, the order, the augmentation, the draw of labels and what is held out.
        options: What was asked for, with every number of the preset.
        curve: The epochs of the chosen learning rate.
    """

    top1: float
    top5: float | None
    calibration_error: float
    validation_top1: float
    learning_rate: float
    learning_rate_at_edge: bool
    per_learning_rate: tuple[LearningRateTrial, ...]
    mode: str
    blocks: tuple[str, ...]
    preset: str
    epochs: int
    steps: int
    num_train: int
    num_validation: int
    num_test: int
    num_classes: int
    trainable_parameters: int
    embedding_dim: int
    nfe: float
    seconds: float
    cpu_seconds: float
    seed: int
    options: dict[str, Any]
    curve: tuple[EpochRecord, ...]


def finetune(
    encoder: nn.Module,
    train: DivisibleDataset,
    test: DivisibleDataset,
    *,
    validation: DivisibleDataset | None = None,
    mode: str = "full",
    blocks: Sequence[str] = (),
    adapter: Adapter | None = None,
    preset: str = "shared",
    head: nn.Module | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    ema_decay: float | None = None,
    labels: int | float | None = None,
    horizontal_flip: bool = True,
    num_classes: int | None = None,
    extra_loss: ExtraLoss | None = None,
    parameter_groups: ParameterGroups | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str = "32",
    num_workers: int = 0,
    validate_at: Sequence[float] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[FinetuneResult, FineTuned]:
    """Trains a copy of an encoder with a head at each learning rate, and classifies the test set with the best one.

    The learning rate is the one of the highest validation accuracy after its last epoch, the smaller of equal ones. The
    model that was trained with it on the training images is the result: it is not fitted again with the validation
    images, and no earlier epoch is picked. The test set is classified once and chooses nothing. A learning rate at
    which the loss is not finite counts as failed and stands in the result.

    Images of label -1 are left out everywhere. Every learning rate gets the same head, order and augmentation. The
    global random states come back as they were.

    Args:
        encoder: Float images in [0, 1] to embeddings ``(B, D)``; it is not changed.
        train: uint8 images to fit.
        test: Images to classify.
        validation: Images that choose the learning rate. Default: a stratified tenth of ``train``, which few labels
            are then not drawn from.
        mode: ``head`` trains the head alone, ``partial`` the ``blocks`` as well, ``lora`` what the ``adapter`` adds,
            ``full`` everything, also what the encoder has frozen. What is not trained stays in evaluation mode.
        blocks: Prefixes of the encoder's parameter names, for ``partial``.
        adapter: For ``lora``: adds parameters to copies of the encoder, and merges them into the result.
        preset: ``shared``, ``prg`` or ``mae``, see ``lightly_prg.eval.PRESETS``.
        head: A module ``(B, D)`` to ``(B, num_classes)``, of which copies are trained. Default: the preset's.
        epochs: Default: the preset's.
        batch_size: Images of a step, at least 2. Default: the preset's.
        learning_rates: The grid, taken as it is. Default: the preset's, which may scale with the batch size.
        ema_decay: Largest decay of an average of the weights, which is then classified with and returned; it starts
            small, as ``lightly_prg.ema.EMA`` does. Default: the preset's.
        labels: None for all; n for n of each class; a share in (0, 1) for that of each class.
        horizontal_flip: Whether images may be mirrored, as the preset says; False: digits and letters may not.
        num_classes: Number of classes; default the highest label and one.
        extra_loss: ``(encoder, images, step)`` to a scalar that is added to the loss, for example a share of the loss
            of pretraining; the images are those that the encoder sees, augmented and in [0, 1].
        parameter_groups: ``(encoder, head, learning_rate)`` to the optimiser's groups of everything that is trainable.
            Default: ``layer_groups`` with the preset's decay.
        seed: Decides every draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``32``, or ``bf16`` or ``16`` for automatic mixed precision.
        num_workers: Processes that read images.
        validate_at: Shares of each training after which the validation images are classified for ``curve``, besides
            its end, which alone chooses; default: after each epoch. With few labels that takes longer than training.
        progress: Called with the number of steps done and of all, over the whole grid.

    Returns:
        The result; and the trained classifier, on the CPU and in evaluation mode.

    Raises:
        UserError: If labels are missing or too few, an option is not allowed, the encoder does not fit the preset, or
            every learning rate failed.
        ValueError: If the encoder or the head gives another shape, or the parameter groups are not complete.
        FloatingPointError: If a logit of a test image is not finite.

    Example:
        >>> result, model = finetune(encoder, splits.train, splits.test, labels=10)  # doctest: +SKIP
        >>> result.top1, model(images).argmax(1)  # doctest: +SKIP
    """
    start, cpu_start = time.perf_counter(), cpu_seconds()
    settings = preset_by_name(preset)
    if ema_decay is not None:
        settings = dataclasses.replace(settings, ema_decay=ema_decay)
    if not horizontal_flip:
        settings = dataclasses.replace(settings, horizontal_flip=False)
    epochs = settings.epochs if epochs is None else epochs
    batch_size = settings.batch_size if batch_size is None else batch_size
    grid = sorted(set(settings.grid(batch_size) if learning_rates is None else several(learning_rates)))
    check_options(epochs, batch_size, grid, precision, settings.ema_decay)
    trained = trained_blocks(encoder, mode, blocks)
    if (mode == "lora") != (adapter is not None):
        raise UserError(f"The mode is {mode!r}; the mode 'lora' and an adapter go together.")
    data = FinetuneData.of(train, test, validation=validation, labels=labels, num_classes=num_classes, seed=seed)
    place = resolve_device(device)
    sample = next(iter(data.train.subset(torch.arange(2)).loader(batch_size=2, num_workers=0)))[0]
    shape = tuple(sample.shape[1:])
    loop = FinetuneLoop(
        train=data.train,
        validation=data.validation,
        preset=settings,
        augmentation=BatchAugmentation.of(settings, num_classes=data.num_classes, seed=seed, image_size=min(shape[1:])),
        parameter_groups=parameter_groups if parameter_groups is not None else _groups_of(settings),
        extra_loss=extra_loss,
        epochs=epochs,
        batch_size=batch_size,
        num_classes=data.num_classes,
        seed=seed,
        device=place,
        autocast=PRECISIONS[precision],
        num_workers=num_workers,
        validate_at=None if validate_at is None else tuple(validate_at),
    )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        features = embed_copy(encoder, sample, place)
        embedding_dim = features.shape[1]

        def build() -> FineTuned:
            if head is not None:
                own = copy.deepcopy(head)
            elif settings.head == "prg":
                own = PRGHead(shape, data.num_classes)
            else:
                own = LinearHead(embedding_dim, data.num_classes)
            inner = copy.deepcopy(encoder)
            names = trained if adapter is None else adapter.add(inner)
            model = FineTuned(inner, own, trained=names).to(place).freeze()
            check_head(own, features, data.num_classes)
            return model.to(memory_format=fast_layout(model, place, precision))

        trials, winner = search_learning_rate(loop, grid, build=build, progress=progress)
        model, trainable_parameters = winner.model, winner.model.trainable_parameters
        if adapter is not None:  # what is classified is what is returned
            adapter.merge(model.encoder)
            model = FineTuned(model.encoder, model.head)
        judged = loop.classify(model, data.test)
    if not judged.finite:
        raise FloatingPointError("The logits of a test image hold NaN or infinity.")
    model = model.to(memory_format=torch.contiguous_format).cpu().eval()
    result = FinetuneResult(
        top1=judged.top1,
        top5=judged.top5 if data.num_classes >= 5 else None,
        calibration_error=judged.calibration_error,
        validation_top1=winner.validation_top1,
        learning_rate=winner.learning_rate,
        learning_rate_at_edge=len(trials) > 1 and winner.learning_rate in (grid[0], grid[-1]),
        per_learning_rate=trials,
        mode=mode,
        blocks=() if trained is None else trained,
        preset=settings.name,
        epochs=epochs,
        steps=loop.steps,
        num_train=len(data.train),
        num_validation=len(data.validation),
        num_test=len(data.test),
        num_classes=data.num_classes,
        trainable_parameters=trainable_parameters,
        embedding_dim=embedding_dim,
        nfe=getattr(model.encoder, "nfe", 1),
        seconds=time.perf_counter() - start,
        cpu_seconds=cpu_seconds() - cpu_start,
        seed=seed,
        options={
            "labels": labels,
            "learning_rates": grid,
            "batch_size": batch_size,
            "precision": precision,
            "head": type(model.head).__name__,
            "adapter": None if adapter is None else repr(adapter),
            "extra_loss": extra_loss is not None,
            "parameter_groups": parameter_groups is not None,
            "preset": dataclasses.asdict(settings),
        },
        curve=winner.curve,
    )
    return result, model


def _groups_of(preset: FinetunePreset) -> ParameterGroups:
    def groups(encoder: nn.Module, head: nn.Module, learning_rate: float) -> list[ParameterGroup]:
        return layer_groups(
            encoder,
            head,
            lr=learning_rate,
            decay=preset.layer_decay,
            weight_decay=preset.weight_decay,
            decay_one_dimensional=preset.decay_one_dimensional,
        )

    return groups
