"""Accuracy on corrupted images: 15 corruptions at five severities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.corruptions import CORRUPTIONS, SEVERITIES, check_condition
from lightly_prg.eval.corruptions.batches import Condition, chosen_rows, computed_batches, file_batches
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.embed import ImageDataset, check_images, evaluation_mode, in_unit_range
from lightly_prg.eval.grids import several


@dataclass(frozen=True)
class RobustnessResult:
    """Errors on corrupted images, in percent.

    Attributes:
        clean_top1: Percent of the clean test images that were classified rightly.
        error: Percent that were not, by corruption and severity.
        mean_corruption_error: Mean over all of ``error``, not normalised, as is usual for CIFAR-10-C.
        normalised_mce: Where errors of a reference were given: the mean over the corruptions of the error relative to
            the reference's, in percent, as is usual for ImageNet-C.
        num_test: Clean images that were classified.
        num_corrupted: Images that were classified for each corruption and severity.
        num_classes: Classes between which was chosen.
        seconds: Duration of it all.
        seed: Of the draws.
        source: ``computed``, ``computed: frost procedural`` or ``files``.
        options: What was asked for.
    """

    clean_top1: float
    error: dict[str, dict[int, float]]
    mean_corruption_error: float
    normalised_mce: float | None
    num_test: int
    num_corrupted: int
    num_classes: int
    seconds: float
    seed: int
    source: str
    options: dict[str, Any]


def evaluate_robustness(
    predict: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 250,
    device: str | torch.device = "auto",
    folder: Path | None = None,
    max_images: int | None = None,
    num_classes: int | None = None,
    reference_errors: Mapping[str, float] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> RobustnessResult:
    """Classifies a test set clean and under each corruption and severity.

    Images of label -1 are left out. Every device and every batch size classifies the same corrupted images: they are
    made on the CPU, in blocks of 250 in the order of the set.

    Args:
        predict: Maps float images in [0, 1], ``(B, C, H, W)``, to scores ``(B, K)``. A module is moved to the device
            and into evaluation mode, and comes back as it was given.
        dataset: The clean test images, uint8.
        corruptions: Some of ``CORRUPTIONS``.
        severities: Some of 1 to 5.
        seed: Decides the corruptions' draws and the choice of ``max_images``.
        batch_size: Images that are classified at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        folder: Where the published files of CIFAR-10-C lie, to be classified in place of computed corruptions; see
            ``read_corrupted``. ``dataset`` then has to be its clean test set.
        max_images: How many images to draw, the same for all conditions; None for all.
        num_classes: How many scores ``predict`` has to give; None for as many as it does.
        reference_errors: For each corruption the mean error of a reference over the severities, in percent.
        progress: Called with the number of classifications done and, before the last, of all that are expected.

    Raises:
        UserError: If an option is not allowed, no label is known, the files are not as they should be, or there are
            labels beyond the scores.
        ValueError: If ``predict`` does not give ``(B, K)``, or the images cannot be corrupted.
        FloatingPointError: If a score is NaN.

    Example:
        >>> result = evaluate_robustness(classifier, splits.test)  # doctest: +SKIP
        >>> result.mean_corruption_error  # doctest: +SKIP
        31.4
    """
    start = time.perf_counter()
    check_images(dataset)
    conditions = _check_options(corruptions, severities, batch_size, max_images, reference_errors)
    rows = chosen_rows(torch.as_tensor(dataset.labels), max_images, seed)
    if folder is None:
        batches = computed_batches(dataset, rows, conditions, seed)
    else:
        batches = file_batches(dataset, rows, conditions, Path(folder), max_images, seed)
    hits: dict[Condition, int] = {}
    counts: dict[Condition, int] = {}
    expected = len(rows) * (1 + len(conditions))
    with ExitStack() as stack:
        place = resolve_device(device)
        if isinstance(predict, nn.Module):
            stack.enter_context(evaluation_mode(predict, place))
        for condition, images, labels in batches:
            for part, truth in zip(*(torch.split(each, batch_size) for each in (images, labels)), strict=True):
                scores = _scores(predict, part.to(place), num_classes)
                num_classes = scores.shape[1]
                if int(truth.max()) >= num_classes:
                    raise UserError(
                        f"There is a label {int(truth.max())}, and the scores are of {num_classes} classes."
                    )
                hits[condition] = hits.get(condition, 0) + int((scores.argmax(dim=1).cpu() == truth).sum())
                counts[condition] = counts.get(condition, 0) + len(truth)
                if progress is not None:
                    progress(sum(counts.values()), max(expected, sum(counts.values())))

    assert num_classes is not None  # at least one batch was classified
    error: dict[str, dict[int, float]] = {}
    for name, severity in conditions:
        wrong = counts[name, severity] - hits[name, severity]
        error.setdefault(name, {})[severity] = 100.0 * wrong / counts[name, severity]
    means = {name: _mean(by_severity.values()) for name, by_severity in error.items()}
    normalised = None
    if reference_errors is not None:
        normalised = 100.0 * _mean(mean / reference_errors[name] for name, mean in means.items())
    computed = "computed: frost procedural" if "frost" in error else "computed"
    return RobustnessResult(
        clean_top1=100.0 * hits[None] / counts[None],
        error=error,
        mean_corruption_error=_mean(means.values()),
        normalised_mce=normalised,
        num_test=counts[None],
        num_corrupted=counts[conditions[0]],
        num_classes=num_classes,
        seconds=time.perf_counter() - start,
        seed=seed,
        source=computed if folder is None else "files",
        options={
            "corruptions": list(error),
            "severities": list(dict.fromkeys(severity for _, severity in conditions)),
            "max_images": max_images,
            "reference_errors": None if reference_errors is None else dict(reference_errors),
        },
    )


def _scores(predict: Callable[[Tensor], Tensor], images: Tensor, num_classes: int | None) -> Tensor:
    with torch.no_grad():
        scores = predict(in_unit_range(images))
    if scores.ndim != 2 or len(scores) != len(images):
        raise ValueError(f"Scores of shape {tuple(scores.shape)} came of {len(images)} images; (B, K) is needed.")
    if num_classes is not None and scores.shape[1] != num_classes:
        raise UserError(f"The classifier gives scores of {scores.shape[1]} classes, and {num_classes} are needed.")
    if scores.isnan().any():
        raise FloatingPointError("A score of the classifier is NaN.")
    return scores


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _check_options(
    corruptions: Sequence[str],
    severities: Sequence[int],
    batch_size: int,
    max_images: int | None,
    reference_errors: Mapping[str, float] | None,
) -> list[tuple[str, int]]:
    """Returns the conditions, each once."""
    corruptions, severities = several(corruptions), several(severities)
    conditions = [(name, level) for name in dict.fromkeys(corruptions) for level in dict.fromkeys(severities)]
    if not conditions:
        raise UserError("At least one corruption and one severity are needed.")
    for name, severity in conditions:
        check_condition(name, severity)
    for option, value in (("batch_size", batch_size), ("max_images", max_images)):
        if value is not None and value < 1:
            raise UserError(f"{option} is {value}; at least 1 is needed.")
    if reference_errors is not None:
        for name in dict.fromkeys(corruptions):
            if not reference_errors.get(name, 0.0) > 0:
                raise UserError(f"reference_errors needs an error above 0 for {name}, in percent.")
    return conditions
