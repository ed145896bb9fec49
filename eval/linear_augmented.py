"""The classic linear protocol: heads trained by SGD on augmented views, above a frozen encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from lightly_prg.errors import UserError
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.divisible import DivisibleDataset, labelled
from lightly_prg.eval.embed import PRECISIONS, embed, evaluation_mode
from lightly_prg.eval.embeddings import Embeddings
from lightly_prg.eval.finetuning.heads import FeatureStandardiser
from lightly_prg.eval.grids import several
from lightly_prg.eval.label_checks import count_classes
from lightly_prg.eval.label_draws import hold_out
from lightly_prg.randomness import generator_for
from lightly_prg.transforms.resized_crop import random_resized_crop

LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""For a batch of 256 images, around Lightly's 0.1."""


@dataclass(frozen=True)
class AugmentedLinearResult:
    """Accuracy of a linear head that was trained on augmented views.

    Attributes:
        top1: Percent of the test images whose class had the highest score.
        top5: Percent whose class was among the five highest; None for fewer than five classes.
        validation_top1: Percent on the images that chose the learning rate.
        learning_rate: The chosen one, for a batch of 256 images.
        learning_rate_at_edge: Whether it ends the grid, so that a better one may lie beyond.
        per_learning_rate: ``validation_top1`` for every learning rate, in ascending order.
        epochs: Passes over the training images.
        steps: Updates of each head.
        num_train: Images that the heads were trained on.
        num_validation: Images that chose the learning rate.
        num_test: Labelled images that were classified.
        num_classes: Classes that were told apart.
        embedding_dim: D.
        nfe: Network evaluations that one embedding cost.
        seconds: Duration of it all.
        images_per_second: Speed of the training, with augmentation and encoder.
        seed: Of the order, the augmentation and of what is held out.
        options: What was asked for.
    """

    top1: float
    top5: float | None
    validation_top1: float
    learning_rate: float
    learning_rate_at_edge: bool
    per_learning_rate: dict[float, float]
    epochs: int
    steps: int
    num_train: int
    num_validation: int
    num_test: int
    num_classes: int
    embedding_dim: int
    nfe: float
    seconds: float
    images_per_second: float
    seed: int
    options: dict[str, Any]


def evaluate_linear_augmented(
    encoder: nn.Module,
    train: DivisibleDataset,
    test: DivisibleDataset,
    *,
    validation: DivisibleDataset | None = None,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rates: Sequence[float] = LEARNING_RATES,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: bool = True,
    seed: int = 0,
    num_classes: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "32",
    num_workers: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> AugmentedLinearResult:
    """Trains a linear head on augmented views of a frozen encoder and counts its hits on the test set.

    The protocol of SimCLR (arXiv 2002.05709, appendix B.6) and Lightly: SGD with momentum 0.9, no weight decay, a
    cosine schedule without warm-up, random resized crops and flips; Lightly trains for 90 epochs. As in DINOv2 (arXiv
    2304.07193, appendix B.3), one head for each learning rate is trained on the same forward passes. The learning rate
    is the one of the highest validation accuracy, the smaller of equal ones; the heads are not trained again on the
    validation images. The test set is classified once, by the chosen head, and chooses nothing.

    As in MAE (arXiv 2111.06377, appendix A.1), the features are standardised by a batch normalisation without
    parameters, here of features of any scale: by the statistics of the batch in training, and by their mean over all
    of training in validation and test. Validation and test images are not augmented. The heads start from zero, so
    that only the order and the augmentation are drawn. The last incomplete batch of an epoch is left out.

    Images of label -1 are left out everywhere. The encoder is in evaluation mode, without gradients, and comes back as
    it was given.

    Args:
        encoder: A module such as ``Encoder`` describes.
        train: Images to train on.
        test: Images to classify.
        validation: Images that choose the learning rate. Default: a stratified tenth of ``train``, which is then not
            trained on.
        epochs: Passes over the training images.
        batch_size: Images of a step; all, where there are fewer.
        learning_rates: The grid, for a batch of 256 images: each is multiplied by the images of a step / 256.
        crop_scale: Smallest and largest share of the image's area that a crop covers, in (0, 1].
        horizontal_flip: Whether every other view (at random) is mirrored left to right.
        seed: Decides the order, the augmentation and what is held out.
        num_classes: Number of classes; default the highest label and one.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: Of the encoder: ``32``, or ``bf16`` or ``16`` for automatic mixed precision. The heads are float32.
        num_workers: Processes that read images.
        progress: Called with the number of images done and of all, those of validation and test included.

    Raises:
        UserError: If labels are missing or too few, or an option is not allowed.
        ValueError: If the precision is not allowed, or the encoder does not give ``(B, D)``.
        FloatingPointError: If an embedding is not finite.
    """
    start = time.perf_counter()
    grid = _check_options(epochs, batch_size, learning_rates, crop_scale)
    place = resolve_device(device)
    train, test = labelled(train), labelled(test)
    chooser = labelled(validation) if validation is not None else train.subset(torch.arange(0))
    num_classes = count_classes(train, chooser, test, num_classes, evaluator="the linear probe")
    if len(chooser) == 0:
        pool, held = hold_out(np.asarray(train.labels, dtype=np.int64), seed=seed)
        train, chooser = train.subset(torch.from_numpy(pool)), train.subset(torch.from_numpy(held))
    size = min(batch_size, len(train))
    steps = epochs * (len(train) // size)
    total = len(chooser) + steps * size + len(test)

    def report(before: int) -> Callable[[int, int], object] | None:
        return None if progress is None else lambda done, _: progress(before + done, total)

    embedding: dict[str, Any] = {
        "batch_size": batch_size,
        "device": place,
        "precision": precision,
        "num_workers": num_workers,
    }
    # Before the training, since that tells D and finds what is wrong with the encoder.
    held_out = embed(encoder, chooser, progress=report(0), **embedding)
    heads = _Heads(held_out.embedding_dim, num_classes, [rate * size / 256 for rate in grid], steps, place)
    training_start = time.perf_counter()
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(encoder, place):
        for step, (images, labels, names) in enumerate(_batches(train, epochs, size, seed, num_workers)):
            views = random_resized_crop(
                images.to(place),
                scale=crop_scale,
                horizontal_flip=horizontal_flip,
                generator=generator_for(seed, "linear-augmented", step, device=place),
            )
            autocast = PRECISIONS[precision]
            with torch.no_grad(), torch.autocast(place.type, dtype=autocast, enabled=autocast is not None):
                features = encoder(views).float()
            finite = features.isfinite().all(dim=1)
            if not finite.all():
                name = names[int(finite.int().argmin())]
                raise FloatingPointError(f"The embedding of a view of {name!r} holds NaN or infinity.")
            heads.step(features, labels.to(place))
            if progress is not None:
                progress(len(chooser) + (step + 1) * size, total)
    training_seconds = time.perf_counter() - training_start

    accuracies = [_percent(heads.scores(held_out, head), held_out) for head in range(len(grid))]
    best = int(np.argmax(accuracies))
    classified = embed(encoder, test, progress=report(total - len(test)), **embedding)
    scores = heads.scores(classified, best)
    return AugmentedLinearResult(
        top1=_percent(scores, classified),
        top5=_percent(scores, classified, among=5) if num_classes >= 5 else None,
        validation_top1=accuracies[best],
        learning_rate=grid[best],
        learning_rate_at_edge=len(grid) > 1 and best in (0, len(grid) - 1),
        per_learning_rate=dict(zip(grid, accuracies, strict=True)),
        epochs=epochs,
        steps=steps,
        num_train=len(train),
        num_validation=len(chooser),
        num_test=len(test),
        num_classes=num_classes,
        embedding_dim=held_out.embedding_dim,
        nfe=held_out.nfe,
        seconds=time.perf_counter() - start,
        images_per_second=steps * size / training_seconds,
        seed=seed,
        options={
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rates": list(grid),
            "crop_scale": list(crop_scale),
            "horizontal_flip": horizontal_flip,
            "precision": precision,
        },
    )


class _Heads:
    """One linear head for each learning rate, above one normalisation, all trained by the same steps."""

    def __init__(
        self, dimension: int, num_classes: int, learning_rates: Sequence[float], steps: int, device: torch.device
    ) -> None:
        # Features of a frozen encoder do not drift, and may be of any scale.
        self._norm = FeatureStandardiser(dimension, momentum=0.0).to(device)
        self._weights = [torch.zeros(num_classes, dimension, device=device) for _ in learning_rates]
        self._biases = [torch.zeros(num_classes, device=device) for _ in learning_rates]
        groups: list[dict[str, Any]] = [
            {"params": [weight.requires_grad_(), bias.requires_grad_()], "lr": rate}
            for weight, bias, rate in zip(self._weights, self._biases, learning_rates, strict=True)
        ]
        self._optimizer = torch.optim.SGD(groups, momentum=0.9)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, T_max=steps)

    def step(self, features: Tensor, labels: Tensor) -> None:
        """One update of every head on features (B, D) and labels (B,)."""
        normalised = self._norm.train()(features)
        # The heads share no parameter, so that each gets the gradient of its own loss.
        losses = [
            cross_entropy(linear(normalised, weight, bias), labels)
            for weight, bias in zip(self._weights, self._biases, strict=True)
        ]
        self._optimizer.zero_grad()
        torch.autograd.backward(losses)
        self._optimizer.step()
        self._schedule.step()

    @torch.no_grad()
    def scores(self, embeddings: Embeddings, head: int) -> Tensor:
        """What one head gives the classes: (N, num_classes) on the CPU."""
        features = torch.from_numpy(embeddings.features).to(self._weights[head].device)
        return linear(self._norm.eval()(features), self._weights[head], self._biases[head]).cpu()


def _batches(
    train: DivisibleDataset, epochs: int, size: int, seed: int, num_workers: int
) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
    """Yields whole batches, in a new order in every epoch."""
    for epoch in range(epochs):
        order = torch.randperm(len(train), generator=generator_for(seed, "linear-augmented order", epoch))
        kept = order[: len(train) // size * size]
        yield from train.subset(kept).loader(batch_size=size, num_workers=num_workers)


def _percent(scores: Tensor, embeddings: Embeddings, *, among: int = 1) -> float:
    """Percent of the images whose class is among the highest scores; scores that are not finite hit nothing."""
    found = scores.topk(among, dim=1).indices == torch.from_numpy(embeddings.labels)[:, None]
    return 100.0 * int((found.any(dim=1) & scores.isfinite().all(dim=1)).sum()) / len(embeddings)


def _check_options(
    epochs: int, batch_size: int, learning_rates: Sequence[float], crop_scale: tuple[float, float]
) -> tuple[float, ...]:
    """Returns the learning rates in ascending order."""
    if epochs < 1:
        raise UserError(f"epochs is {epochs}; at least 1 is needed.")
    if batch_size < 2:
        raise UserError(f"batch_size is {batch_size}; at least 2 are needed, since their statistics standardise them.")
    if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise UserError(f"crop_scale is {crop_scale}; two shares of the area in (0, 1] are needed, the smaller first.")
    grid = tuple(sorted(set(several(learning_rates))))
    if not grid or not all(0.0 < rate < float("inf") for rate in grid):
        raise UserError(f"The learning rates are {list(grid)}; at least one is needed, all above 0.")
    return grid
