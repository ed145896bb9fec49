"""Second moments of features and their eigenvalues, by whichever of the two matrices is smaller."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_CHUNK_ELEMENTS = 1 << 22


def feature_mean(features: npt.NDArray[np.floating]) -> Matrix:
    """Mean of the rows ``(N, D)`` in float64: ``(D,)``."""
    return np.asarray(features.mean(axis=0, dtype=np.float64))


def second_moment(features: npt.NDArray[np.floating], *, centre: bool) -> Matrix:
    """Returns ``Z^T Z`` ``(D, D)``, or ``Z Z^T`` ``(N, N)`` where that is smaller, in float64.

    Both have the same eigenvalues above 0: the squared singular values of ``Z``. A chunk of the features at a time is
    raised to float64, so that memory is that of the smaller matrix.

    Args:
        features: ``(N, D)``; possibly a memory map or a view of some columns.
        centre: Whether the mean is subtracted from every feature first.

    Raises:
        ValueError: If there is no feature, or they are not ``(N, D)``.
        FloatingPointError: If a feature is not finite.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"Features (N, D) are needed, got shape {features.shape}.")
    rows, columns = features.shape
    mean = feature_mean(features) if centre else np.zeros(columns)
    result = np.zeros((min(rows, columns),) * 2)
    if columns <= rows:
        for part in chunk_slices(rows, columns):
            chunk = features[part].astype(np.float64) - mean
            result += chunk.T @ chunk
    else:
        for part in chunk_slices(columns, rows):
            chunk = features[:, part].astype(np.float64) - mean[part]
            result += chunk @ chunk.T
    if not np.isfinite(result).all():
        raise FloatingPointError("The features hold NaN or infinity.")
    return result


def eigenvalues(features: npt.NDArray[np.floating], *, centre: bool) -> Matrix:
    """Eigenvalues of the second moment of features in descending order; those that are rounding alone are set to 0."""
    values: Matrix = np.linalg.eigvalsh(second_moment(features, centre=centre))[::-1].astype(np.float64)
    return np.where(values > rounding_level(values, features.dtype), values, 0.0)


def rounding_level(values: Matrix, dtype: npt.DTypeLike) -> float:
    """Below this an eigenvalue of a second moment is rounding: its own in float64, or that of the features.

    Args:
        values: All eigenvalues.
        dtype: Of the features, whose rounding errors enter squared.
    """
    relative = max(np.finfo(np.float64).eps, np.finfo(np.dtype(dtype)).eps ** 2)
    return float(len(values) * relative * values.max(initial=0.0))


def chunk_slices(length: int, other: int) -> Iterator[slice]:
    """Slices of an axis of ``length`` such that each, times ``other``, is raised to float64 in 32 MiB."""
    step = max(1, _CHUNK_ELEMENTS // max(other, 1))
    for start in range(0, length, step):
        yield slice(start, start + step)
