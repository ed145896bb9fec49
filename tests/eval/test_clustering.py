from __future__ import annotations

import numpy as np
import pytest

from lightly_prg.errors import UserError
from lightly_prg.eval import evaluate_clustering
from lightly_prg.eval.clustering import clustering_accuracy


def test_separate_classes__are_found(make_blobs) -> None:
    result = evaluate_clustering(make_blobs(30, classes=4, spread=0.01))
    assert result.num_clusters == 4
    for score in (result.normalised_mutual_information, result.adjusted_rand_index, result.accuracy):
        assert score == pytest.approx(100.0)


def test_classes_without_an_image__get_no_cluster(make_blobs, make_embeddings) -> None:
    blobs = make_blobs(30, classes=3, spread=0.01)
    result = evaluate_clustering(make_embeddings(blobs.features, 5 * blobs.labels))
    assert result.num_clusters == 3
    assert result.accuracy == pytest.approx(100.0)


def test_features_without_information__score_about_zero(make_embeddings) -> None:
    draw = np.random.default_rng(0)
    given = make_embeddings(draw.normal(size=(2000, 5)), draw.integers(0, 4, 2000))
    result = evaluate_clustering(given, starts=2)
    assert abs(result.adjusted_rand_index) < 1.0
    assert result.normalised_mutual_information < 1.0
    assert 25.0 <= result.accuracy < 32.0


def test_accuracy__takes_the_best_assignment() -> None:
    # Cluster 0 stands for class 1 (3 images), cluster 1 for class 0 (2), cluster 2 for nothing.
    labels, clusters = np.array([1, 1, 1, 0, 0, 1, 0]), np.array([0, 0, 0, 1, 1, 1, 2])
    assert clustering_accuracy(labels, clusters) == pytest.approx(100 * 5 / 7)
    assert clustering_accuracy(labels, np.array([2, 2, 2, 0, 0, 2, 0])) == 100.0


def test_length_of_embeddings__does_not_count(make_blobs, make_embeddings) -> None:
    given = make_blobs(20, spread=0.5)
    factors = np.random.default_rng(0).uniform(0.1, 10.0, (len(given), 1))
    scaled = make_embeddings(given.features * factors, given.labels)
    ours, theirs = evaluate_clustering(scaled), evaluate_clustering(given)
    assert ours.adjusted_rand_index == pytest.approx(theirs.adjusted_rand_index)


def test_same_embeddings__of_all_images(make_embeddings) -> None:
    result = evaluate_clustering(make_embeddings(np.ones((6, 3)), [0, 1, 0, 1, 0, 1]))
    assert result.normalised_mutual_information == pytest.approx(0.0)
    assert result.accuracy == pytest.approx(50.0)


def test_bad_input__is_refused(make_blobs, make_embeddings) -> None:
    with pytest.raises(UserError, match="for 40 clusters"):
        evaluate_clustering(make_blobs(5), clusters=40)
    with pytest.raises(UserError, match="starts is 0"):
        evaluate_clustering(make_blobs(5), starts=0)
    with pytest.raises(UserError, match="clustering needs"):
        evaluate_clustering(make_embeddings(np.ones((4, 2)), [-1, -1, -1, -1]))
