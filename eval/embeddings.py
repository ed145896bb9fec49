"""``Embeddings``: what an encoder made of a set of images, with what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The embeddings of N images.

    Attributes:
        features: ``(N, D)`` float32; possibly a read-only memory map.
        labels: ``(N,)`` int64, -1 where unknown.
        names: N names of the images.
        nfe: Network evaluations that one embedding cost.
        seconds: What embedding all N images took; 0 where it was not measured.

    Raises:
        ValueError: If types or lengths do not fit each other.
    """

    features: Features
    labels: Labels
    names: tuple[str, ...]
    nfe: float
    seconds: float

    def __post_init__(self) -> None:
        if not isinstance(self.features, np.ndarray) or not isinstance(self.labels, np.ndarray):
            raise ValueError("Features and labels are NumPy arrays: Embeddings.of(features, labels) takes others.")
        if self.features.ndim != 2 or self.features.dtype != np.float32:
            raise ValueError(
                f"Features are {self.features.dtype} of shape {self.features.shape}; float32 (N, D) is needed. "
                "Embeddings.of(features, labels) takes others."
            )
        rows = len(self.features)
        if self.labels.dtype != np.int64 or self.labels.shape != (rows,) or len(self.names) != rows:
            raise ValueError(
                f"{rows} features come with {len(self.names)} names and {self.labels.dtype} labels "
                f"of shape {self.labels.shape}; {rows} names and int64 labels are needed."
            )

    @classmethod
    def of(
        cls,
        features: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        *,
        names: Sequence[str] | None = None,
        nfe: float = 1,
    ) -> Embeddings:
        """Features of one's own, of whatever made them.

        Args:
            features: ``(N, D)``, an array, list or tensor of numbers.
            labels: ``(N,)`` whole numbers, -1 where unknown; None: all unknown.
            names: Of the images; None: their numbers.
            nfe: Network evaluations that one embedding cost.

        Raises:
            ValueError: If shapes do not fit each other, or labels are no whole numbers.

        Example:
            >>> Embeddings.of([[0.0, 1.0], [1.0, 0.0]], [0, 1]).embedding_dim
            2
        """
        rows = np.asarray(_on_host(features), dtype=np.float32)
        given = np.full(len(rows), -1) if labels is None else np.asarray(_on_host(labels))
        if given.dtype.kind not in "biu":
            raise ValueError(f"Labels are {given.dtype}; whole numbers are needed.")
        return cls(
            features=rows,
            labels=given.astype(np.int64),
            names=tuple(map(str, range(len(rows)) if names is None else names)),
            nfe=nfe,
            seconds=0.0,
        )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(self.features.shape[1])

    @property
    def images_per_second(self) -> float:
        """Embedding speed; 0 where it was not measured."""
        return len(self) / self.seconds if self.seconds > 0 else 0.0

    def select(self, indices: npt.ArrayLike) -> Embeddings:
        """The embeddings of some of the images, in the order of ``indices``, at the same speed.

        Args:
            indices: Whole numbers, or a mask of N booleans.

        Raises:
            ValueError: If they are neither.
        """
        chosen = np.asarray(indices)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise ValueError(f"The mask has the shape {chosen.shape}; one boolean for each of {len(self)} is needed.")
        if chosen.size and chosen.dtype.kind not in "bui":
            raise ValueError(f"Indices are {chosen.dtype}; whole numbers or booleans are needed.")
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return Embeddings(
            features=self.features[rows],
            labels=self.labels[rows],
            names=tuple(self.names[row] for row in rows),
            nfe=self.nfe,
            seconds=self.seconds * len(rows) / max(len(self), 1),
        )

    def labelled(self) -> Embeddings:
        """Those whose label is known; itself, without a copy, where all are."""
        known = self.labels >= 0
        return self if known.all() else self.select(known)


def _on_host(values: Any) -> Any:
    return (
        values.detach().float().cpu().numpy()
        if isinstance(values, Tensor) and values.is_floating_point()
        else (values.cpu().numpy() if isinstance(values, Tensor) else values)
    )


def concatenate(first: Embeddings, *others: Embeddings) -> Embeddings:
    """Puts embeddings of one encoder behind each other.

    Raises:
        ValueError: If they differ in dimension, and so come from different encoders.
    """
    parts = (first, *others)
    check_same_encoder(parts)
    return Embeddings(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        # An adaptive solver takes more evaluations for some images than for others.
        nfe=round(sum(part.nfe * len(part) for part in parts) / max(sum(map(len, parts)), 1), 2),
        seconds=sum(part.seconds for part in parts),
    )


def check_same_encoder(parts: Sequence[Embeddings]) -> None:
    """Refuses embeddings that cannot come from one encoder.

    Raises:
        ValueError: If they differ in dimension.
    """
    dimensions = [part.embedding_dim for part in parts]
    if len(set(dimensions)) > 1:
        given = " and ".join(map(str, dimensions))
        raise ValueError(f"Embeddings of one encoder are needed; their dimensions are {given}.")


def overall_speed(parts: Sequence[Embeddings]) -> float:
    """Images per second over several sets; 0 where it was not measured."""
    seconds = sum(part.seconds for part in parts)
    return sum(len(part) for part in parts) / seconds if seconds > 0 else 0.0
