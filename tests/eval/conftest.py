from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from lightly_prg.eval import Embeddings

MakeEmbeddings = Callable[..., Embeddings]


@pytest.fixture
def make_embeddings() -> MakeEmbeddings:
    """Builds embeddings from anything array-like: ``make_embeddings(features, labels)``."""

    def make(features: npt.ArrayLike, labels: npt.ArrayLike, seconds: float = 2.0) -> Embeddings:
        array = np.asarray(features, dtype=np.float32)
        return Embeddings(
            features=array,
            labels=np.asarray(labels, dtype=np.int64),
            names=tuple(f"{row}.png" for row in range(len(array))),
            nfe=3,
            seconds=seconds,
        )

    return make


@pytest.fixture
def make_blobs(make_embeddings: MakeEmbeddings) -> MakeEmbeddings:
    """Normal clouds around one random centre for each class; ``spread`` is their deviation."""

    def make(
        per_class: int,
        *,
        classes: int = 3,
        dimension: int = 8,
        spread: float = 1.0,
        seed: int = 0,
        centres: int = 0,
    ) -> Embeddings:
        middle = np.random.default_rng(1000 + centres).normal(size=(classes, dimension))
        labels = np.repeat(np.arange(classes), per_class)
        noise = np.random.default_rng(seed).normal(size=(len(labels), dimension))
        return make_embeddings(middle[labels] + spread * noise, labels)

    return make
