from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from lightly_prg.errors import UserError
from lightly_prg.eval import evaluate_retrieval, retrieval
from lightly_prg.eval.retrieval import average_precision


def test_three_rankings__by_hand() -> None:
    relevant = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    expected = [(1 + 2 / 3) / 2, 1 / 4, 0.0]
    assert average_precision(relevant).tolist() == pytest.approx(expected)


def test_random_embeddings__are_ranked_as_scikit_learn_does(make_blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, query = make_blobs(30, classes=5), make_blobs(10, classes=5, seed=1)
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", 7 * len(bank))  # several blocks, the last one smaller
    result = evaluate_retrieval(bank, query, ks=(1, 5, 1000), device="cpu")
    rows, queries = (part.features / np.linalg.norm(part.features, axis=1, keepdims=True) for part in (bank, query))
    similarities = queries @ rows.T
    expected = [
        average_precision_score(bank.labels == label, row)
        for label, row in zip(query.labels, similarities, strict=True)
    ]
    assert result.mean_average_precision == pytest.approx(100 * np.mean(expected), abs=1e-4)
    first = bank.labels[np.argsort(-similarities, axis=1)]
    for k in (1, 5):
        assert result.recall_at[k] == pytest.approx(100 * np.mean((first[:, :k] == query.labels[:, None]).any(axis=1)))
    assert result.recall_at[len(bank)] == 100.0  # ranks beyond the bank are the bank's
    assert result.options == {"ks": [1, 5, 1000]}


def test_embeddings_without_information__reach_chance(make_embeddings) -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], [500, 1500])
    bank = make_embeddings(draw.normal(size=(2000, 4)), labels)
    query = make_embeddings(draw.normal(size=(200, 4)), np.repeat([0, 1], [100, 100]))
    result = evaluate_retrieval(bank, query, device="cpu")
    assert result.chance == pytest.approx(50.0, abs=0.4)
    assert result.mean_average_precision == pytest.approx(result.chance, abs=1.5)


def test_unlabelled__are_left_out_and_a_class_the_bank_lacks_counts_as_zero(make_embeddings) -> None:
    bank = make_embeddings([[1, 0], [0, 1], [1, 1]], [0, 1, -1])
    query = make_embeddings([[1, 0.1], [0, 1], [1, 1]], [0, 2, -1])
    result = evaluate_retrieval(bank, query, device="cpu")
    assert (result.num_train, result.num_test) == (2, 2)
    assert result.mean_average_precision == pytest.approx(50.0)


def test_bad_input__is_refused(make_blobs, make_embeddings) -> None:
    with pytest.raises(UserError, match="ranks"):
        evaluate_retrieval(make_blobs(5), make_blobs(5), ks=(0,))
    with pytest.raises(UserError, match="retrieval needs"):
        evaluate_retrieval(make_blobs(5), make_embeddings(np.ones((2, 8)), [-1, -1]))
    with pytest.raises(ValueError, match="one encoder"):
        evaluate_retrieval(make_blobs(5), make_blobs(5, dimension=4))
