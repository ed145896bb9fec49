from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lightly_prg.eval import Embeddings, concatenate


@pytest.fixture
def three(make_embeddings) -> Embeddings:
    return make_embeddings([[0, 1], [2, 3], [4, 5]], [0, -1, 1], seconds=6.0)


def test_select__takes_rows_in_order(three: Embeddings) -> None:
    chosen = three.select([2, 0])
    assert chosen.features.tolist() == [[4, 5], [0, 1]]
    assert chosen.labels.tolist() == [1, 0]
    assert chosen.names == ("2.png", "0.png")
    assert chosen.seconds == 4.0
    assert chosen.images_per_second == three.images_per_second == 0.5
    assert chosen.nfe == 3


def test_select__takes_a_mask(three: Embeddings) -> None:
    assert three.select([False, True, True]).names == ("1.png", "2.png")
    assert len(three.select([])) == 0


def test_labelled__drops_unknown(three: Embeddings) -> None:
    assert three.labelled().names == ("0.png", "2.png")
    known = three.select([0, 2])
    assert known.labelled() is known


def test_concatenate__adds_up(three: Embeddings) -> None:
    both = concatenate(three, three.select([1]))
    assert both.features.tolist() == [[0, 1], [2, 3], [4, 5], [2, 3]]
    assert both.labels.tolist() == [0, -1, 1, -1]
    assert both.names == ("0.png", "1.png", "2.png", "1.png")
    assert both.seconds == 8.0
    assert both.embedding_dim == 2


def test_concatenate__refuses_another_encoder(three: Embeddings) -> None:
    with pytest.raises(ValueError, match="dimensions are 2 and 5"):
        concatenate(three, dataclasses.replace(three, features=np.zeros((3, 5), np.float32)))


def test_concatenate__averages_the_nfe_of_an_adaptive_solver(three: Embeddings) -> None:
    assert concatenate(three, dataclasses.replace(three, nfe=6)).nfe == 4.5


def test_images_per_second__not_measured(three: Embeddings) -> None:
    assert dataclasses.replace(three, seconds=0.0).images_per_second == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.zeros((3, 2))},
        {"features": np.zeros(3, np.float32)},
        {"labels": np.zeros(2, np.int64)},
        {"labels": np.zeros(3, np.int32)},
        {"names": ("a",)},
    ],
)
def test_embeddings__refuse_what_does_not_fit(three: Embeddings, change) -> None:
    with pytest.raises(ValueError, match="needed"):
        dataclasses.replace(three, **change)
