"""Standardising or whitening embeddings by the statistics of a bank, before distances are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.embeddings import Features
from lightly_prg.eval.spectrum import chunk_slices, feature_mean, rounding_level, second_moment
from lightly_prg.eval.standardise import Standardiser

Transform = Literal["none", "standardise", "whiten"]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

WHITENING_RIDGE = 1e-4
"""Added to each variance before whitening, in units of their mean: directions of hardly any variance are noise, which
division by their deviation would make as loud as the rest."""


@dataclass(frozen=True, eq=False)
class Whitener:
    """``(features - mean) @ directions``, uncorrelated and of variance 1 but for the ridge.

    Attributes:
        mean: ``(D,)`` float64.
        directions: ``(D, R)`` float64, the principal directions over their deviations.
    """

    mean: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Features, *, ridge: float = WHITENING_RIDGE) -> Whitener:
        """Measures features ``(N, D)``.

        Directions without variance, of which there are D - N + 1 at least, are left out.

        Args:
            features: ``(N, D)`` with N of at least 2.
            ridge: Added to each variance, in units of the mean variance; 0 for none.
        """
        rows, columns = features.shape
        values, vectors = np.linalg.eigh(second_moment(features, centre=True))
        kept = values > rounding_level(values, features.dtype)
        values, vectors = values[kept], vectors[:, kept]
        mean = feature_mean(features)
        if not kept.any():
            return cls(mean, np.zeros((columns, 1)))  # all features are the same
        if columns > rows:
            # What was decomposed is Z Z^T: its vectors mix samples, and Z^T takes them to directions.
            vectors = np.concatenate(
                [
                    (features[:, part].astype(np.float64) - mean[part]).T @ vectors / np.sqrt(values)
                    for part in chunk_slices(columns, rows)
                ]
            )
        variances = values / max(rows - 1, 1)
        floor = ridge * variances.sum() / columns
        return cls(mean, vectors / np.sqrt(variances + floor))

    def __call__(self, features: Features) -> Features:
        """Whitens features ``(M, D)`` to ``(M, R)`` float32."""
        result = np.empty((len(features), self.directions.shape[1]), dtype=np.float32)
        for part in chunk_slices(*features.shape):
            result[part] = (features[part].astype(np.float64) - self.mean) @ self.directions
        return result


def transform_features(
    kind: str, bank: Features, query: Features, *, ridge: float = WHITENING_RIDGE
) -> tuple[Features, Features]:
    """Transforms bank ``(N, D)`` and queries ``(M, D)`` alike, by the statistics of the bank alone.

    Args:
        kind: ``none``; ``standardise``: each feature to mean 0 and variance 1; ``whiten``: uncorrelated as well.
        bank: What is measured.
        query: What only follows.
        ridge: Of whitening, see ``Whitener``.

    Raises:
        UserError: If there is no such transformation.
    """
    check_transform(kind)
    if kind == "none":
        return bank, query
    if kind == "whiten":
        whiten = Whitener.of(bank, ridge=ridge)
        return whiten(bank), whiten(query)
    standardise = Standardiser.of([bank])
    place = torch.device("cpu")
    first, second = (standardise([part], dtype=torch.float32, device=place).numpy() for part in (bank, query))
    return first, second


def check_transform(kind: str) -> None:
    """Refuses an unknown transformation.

    Raises:
        UserError: If there is no such transformation.
    """
    if kind not in TRANSFORMS:
        raise UserError(f"The transform is {kind!r}; allowed are {', '.join(TRANSFORMS)}.")
