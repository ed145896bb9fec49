"""Features of mean 0 and variance 1, by statistics that are stated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightly_prg.eval.embeddings import Features

_CHUNK_ELEMENTS = 1 << 16  # in float64 these, and what is made of them, stay in the cache of a core


@dataclass(frozen=True)
class Standardiser:
    """``(features - mean) * scale``.

    Attributes:
        mean: ``(D,)`` float64.
        scale: ``(D,)`` float64, one over the standard deviation; 0 where a feature is constant.
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    @classmethod
    def of(cls, parts: Sequence[Features]) -> Standardiser:
        """Measures the features ``(N, D)`` of all parts together.

        Raises:
            FloatingPointError: If a feature is not finite.
        """
        count = sum(len(part) for part in parts)
        dimension = parts[0].shape[1]
        mean, variance = np.zeros(dimension), np.zeros(dimension)
        for chunk in _chunks(parts):
            mean += chunk.sum(axis=0) / count
        if not np.isfinite(mean).all():
            raise FloatingPointError("The features hold NaN or infinity.")
        for chunk in _chunks(parts):
            variance += np.square(chunk - mean).sum(axis=0) / count
        deviation = np.sqrt(variance)
        # What is left of a constant feature is rounding of the mean.
        varies = deviation > 1e-10 * np.abs(mean)
        return cls(mean, np.divide(1.0, deviation, out=np.zeros(dimension), where=varies))

    def __call__(
        self, parts: Sequence[Features], *, dtype: torch.dtype, device: torch.device, by_feature: bool = False
    ) -> Tensor:
        """Standardises the features of all parts into one tensor ``(N, D)``.

        Args:
            parts: Each ``(N_i, D)``.
            dtype: Of the result.
            device: Of the result.
            by_feature: Whether it lies in memory feature by feature, in place of image by image.

        Raises:
            FloatingPointError: If a feature is not finite.
        """
        rows = sum(len(part) for part in parts)
        if by_feature:
            result = torch.empty(len(self.mean), rows, dtype=dtype).T
        else:
            result = torch.empty(rows, len(self.mean), dtype=dtype)
        done = 0
        for chunk in _chunks(parts):
            if not np.isfinite(chunk.sum()):
                raise FloatingPointError("The features hold NaN or infinity.")
            chunk = (chunk - self.mean) * self.scale
            result[done : done + len(chunk)] = torch.from_numpy(chunk)
            done += len(chunk)
        return result.to(device)


def _chunks(parts: Sequence[Features]) -> Iterator[npt.NDArray[np.float64]]:
    for part in parts:
        step = max(1, _CHUNK_ELEMENTS // part.shape[1])
        for start in range(0, len(part), step):
            yield part[start : start + step].astype(np.float64)
