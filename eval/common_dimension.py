"""Embeddings of different lengths brought to one: the leading principal components of the training embeddings."""

from __future__ import annotations

import dataclasses

import numpy as np

from lightly_prg.errors import UserError
from lightly_prg.eval.embeddings import Embeddings, Features, check_same_encoder
from lightly_prg.eval.spectrum import Matrix, chunk_slices, feature_mean, second_moment


def to_common_dimension(train: Embeddings, *others: Embeddings, dimension: int) -> tuple[Embeddings, ...]:
    """Projects embeddings on the ``dimension`` directions of the largest variance of the training embeddings.

    The components are centred and keep their variances; labels are not used.

    Args:
        train: ``(N, D)``, whose mean and directions are taken.
        others: Embeddings of the same encoder.
        dimension: At most D, and below N: N points span N - 1 directions.

    Returns:
        All of them with ``dimension`` features, ``train`` first.

    Raises:
        UserError: If there are not so many directions.
        ValueError: If the embeddings come from different encoders.
        FloatingPointError: If a feature is not finite.
    """
    check_same_encoder((train, *others))
    rows, columns = train.features.shape
    if not 1 <= dimension <= min(columns, rows - 1):
        raise UserError(
            f"{rows} embeddings of dimension {columns} have no {dimension} principal components; at most "
            f"{min(columns, rows - 1)} are there."
        )
    mean = feature_mean(train.features)
    if columns <= rows:
        _, vectors = np.linalg.eigh(second_moment(train.features, centre=True))
        directions = vectors[:, ::-1][:, :dimension]
    else:
        # Few rows; the smaller product would have to be divided by eigenvalues, of which repeated rows make some zero.
        directions = np.linalg.svd(train.features - mean, full_matrices=False)[2][:dimension].T
    return tuple(
        dataclasses.replace(part, features=_projected(part.features, mean, directions)) for part in (train, *others)
    )


def _projected(features: Features, mean: Matrix, directions: Matrix) -> Features:
    """In float64, but for what is kept: a chunk at a time."""
    result = np.empty((len(features), directions.shape[1]), dtype=np.float32)
    for part in chunk_slices(*features.shape):
        result[part] = (features[part] - mean) @ directions
    return result
