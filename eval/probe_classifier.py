"""``ProbeClassifier``: an encoder with its linear probe, as one module from images to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.device import float64_device, resolve_device
from lightly_prg.eval.embeddings import Embeddings, check_same_encoder
from lightly_prg.eval.label_draws import hold_out
from lightly_prg.eval.linear import PENALTIES
from lightly_prg.eval.probe import ChosenFit, Probe
from lightly_prg.full_precision import full_float32


class ProbeClassifier(nn.Module):
    """Encodes images, standardises the features and scores them by a logistic regression.

    Args:
        encoder: Maps float images in [0, 1], ``(B, C, H, W)``, to ``(B, D)``. It is shared, not copied.
        mean: ``(D,)``; what the standardiser subtracts.
        scale: ``(D,)``; what it then multiplies by.
        weight: ``(C', D)``, a row for each class that was fitted.
        bias: ``(C',)``.
        classes: ``(C',)`` int64, their labels.
        num_classes: C. A class that was not fitted scores minus infinity.
        penalty: The L2 penalty of the fit.
        validation_top1: Percent on the images that chose it.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    classes: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mean: Tensor,
        scale: Tensor,
        weight: Tensor,
        bias: Tensor,
        classes: Tensor,
        num_classes: int,
        penalty: float,
        validation_top1: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_classes = num_classes
        self.penalty = penalty
        self.validation_top1 = validation_top1
        buffers = {"mean": mean, "scale": scale, "weight": weight, "bias": bias, "classes": classes}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Maps float images in [0, 1], ``(B, C, H, W)``, to scores ``(B, num_classes)`` in the type of the fit."""
        features = self.encoder(images).float().to(self.mean.dtype)
        fitted = nn.functional.linear((features - self.mean) * self.scale, self.weight, self.bias)
        scores = fitted.new_full((len(fitted), self.num_classes), float("-inf"))
        return scores.index_copy(1, self.classes, fitted)


def fit_probe(
    train: Embeddings,
    validation: Embeddings | None = None,
    *,
    encoder: nn.Module,
    penalties: Sequence[float] | None = None,
    max_iterations: int = 200,
    num_classes: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> ProbeClassifier:
    """Fits the linear probe of ``evaluate_linear`` with all labels, and puts it behind its encoder.

    The penalty is chosen as there: by the highest accuracy on ``validation``, or on a stratified tenth of ``train``
    where there is none. Then the fit is repeated on all images.

    Args:
        train: Embeddings to fit. Those of label -1 are left out, here and in ``validation``.
        validation: Embeddings that choose the penalty, from the same encoder.
        encoder: The encoder that they come from.
        penalties: The grid; default ``PENALTIES``.
        max_iterations: Of L-BFGS for each penalty.
        num_classes: Number of classes; default the highest label and one.
        seed: Decides what is held out.
        device: ``auto``, ``cpu`` or ``cuda``; on MPS, which has no float64, the CPU fits.

    Returns:
        The classifier, its buffers on the CPU; the encoder stays where it is.

    Raises:
        UserError: If labels are missing, or an option is not allowed.
        ValueError: If the embeddings come from different encoders.
    """
    grid = tuple(sorted(set(PENALTIES if penalties is None else penalties), reverse=True))
    if not grid or not all(0.0 < penalty < float("inf") for penalty in grid):
        raise UserError(f"The penalties are {list(grid)}; at least one is needed, all above 0.")
    if max_iterations < 1:
        raise UserError(f"max_iterations is {max_iterations}; at least 1 is needed.")
    given = validation if validation is not None else train.select([])
    check_same_encoder((train, given))
    train, given = train.labelled(), given.labelled()
    labels = np.concatenate([train.labels, given.labels])
    if len(np.unique(train.labels)) < 2:
        raise UserError("The probe needs labelled training images of two classes.")
    highest = int(labels.max())
    if num_classes is not None and num_classes <= highest:
        raise UserError(f"num_classes is {num_classes}, and there is a label {highest}.")
    fitted, chooser = train, given
    if len(given) == 0:
        pool, held = hold_out(train.labels, seed=seed)
        fitted, chooser = train.select(pool), train.select(held)
    place = resolve_device(device)
    probe = Probe(
        test=train.select([]),
        penalties=grid,
        max_iterations=max_iterations,
        num_classes=num_classes or highest + 1,
        device=float64_device(place),
    )
    with full_float32():
        chosen = probe.choose(fitted, chooser, refit=(train, given))
    dtype = chosen.data.features.dtype if place.type != "mps" else torch.float32
    return _classifier(encoder, chosen, probe.num_classes, dtype)


def _classifier(encoder: nn.Module, chosen: ChosenFit, num_classes: int, dtype: torch.dtype) -> ProbeClassifier:
    standardiser = chosen.data.standardiser
    return ProbeClassifier(
        encoder,
        mean=torch.from_numpy(standardiser.mean).to(dtype),
        scale=torch.from_numpy(standardiser.scale).to(dtype),
        weight=chosen.fit.weight.cpu().to(dtype),
        bias=chosen.fit.bias.cpu().to(dtype),
        classes=chosen.data.classes.cpu(),
        num_classes=num_classes,
        penalty=chosen.fit.penalty,
        validation_top1=chosen.validation_top1,
    )
