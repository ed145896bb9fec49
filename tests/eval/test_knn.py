from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from lightly_prg.errors import UserError
from lightly_prg.eval import Embeddings, evaluate_knn, knn
from lightly_prg.eval.feature_transform import Whitener, transform_features
from lightly_prg.recipe import parse_recipe

BACKENDS = pytest.mark.parametrize("backend", ["faiss", "torch"])
ANGLES = np.radians([0.0, 10.0, 30.0, 170.0])


@pytest.fixture
def four(make_embeddings) -> Embeddings:
    """Unit vectors at 0 (class 0), 10, 30 (class 1) and 170 degrees (class 0)."""
    return make_embeddings(np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1), [0, 1, 1, 0])


def brute_force(bank: Embeddings, query: Embeddings, k: int, temperature: float, num_classes: int) -> np.ndarray:
    """Votes ``(M, C)`` in float64, one loop at a time."""
    votes = np.zeros((len(query), num_classes))
    for row, feature in enumerate(query.features.astype(np.float64)):
        similarities = []
        for other in bank.features.astype(np.float64):
            length = np.linalg.norm(feature) * np.linalg.norm(other)
            similarities.append(feature @ other / length if length > 0 else 0.0)
        order = sorted(range(len(bank)), key=lambda index: (-similarities[index], index))[:k]
        top = similarities[order[0]]
        for index in order:
            weight = np.exp((similarities[index] - top) / temperature)
            votes[row, bank.labels[index]] += weight
    return votes


@BACKENDS
def test_four_points__by_hand(four: Embeddings, make_embeddings, backend: str) -> None:
    # One query at 4 degrees, of class 0: cosines 0.99756 (class 0), 0.99452 (1), 0.89879 (1),
    # -0.97030 (0). Class 0 wins with one neighbour; with three it has exp(0) = 1 against
    # exp(-0.00304 / T) + exp(-0.09877 / T): 0.96 + 0.24 = 1.20 for T 0.07, 0.86 + 0.007 for 0.02.
    angle = np.radians(4.0)
    query = make_embeddings([[5 * np.cos(angle), 5 * np.sin(angle)]], [0])
    warm = evaluate_knn(four, query, k=1, ks=(3,), backend=backend, device="cpu")
    assert warm.by_k == {1: 100.0, 3: 0.0}
    assert warm.top1 == 100.0
    cold = evaluate_knn(four, query, k=3, ks=(1, 2, 4), temperature=0.02, backend=backend, device="cpu")
    assert cold.by_k == {1: 100.0, 2: 100.0, 3: 100.0, 4: 100.0}


@BACKENDS
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_random__is_brute_force(make_blobs, backend: str, temperature: float) -> None:
    bank, query = make_blobs(30, classes=7), make_blobs(12, classes=7, seed=1)
    result = evaluate_knn(bank, query, k=20, ks=(1, 5, 100), temperature=temperature, backend=backend, device="cpu")
    for k in (1, 5, 20, 100):
        votes = brute_force(bank, query, k, temperature, 7)
        assert result.by_k[k] == 100 * np.mean(votes.argmax(axis=1) == query.labels)
    votes = brute_force(bank, query, 20, temperature, 7)
    ranked = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    voted = np.take_along_axis(votes / votes.sum(axis=1, keepdims=True), ranked, axis=1) > 1e-9
    assert result.top5 == 100 * np.mean(((ranked == query.labels[:, None]) & voted).any(axis=1))
    assert 30 < result.top1 < 100  # neither trivial nor chance


@BACKENDS
@pytest.mark.parametrize("rounding", [0.0, 1.0])
def test_float32_and_float64__agree(make_blobs, backend: str, rounding: float, monkeypatch) -> None:
    # With rounding 1 every query is open and decided in float64, with 0 none is.
    bank, query = make_blobs(40, classes=6), make_blobs(20, classes=6, seed=1)
    usual = evaluate_knn(bank, query, k=9, ks=(30,), backend=backend, device="cpu")
    monkeypatch.setattr(knn, "ROUNDING", rounding)
    other = evaluate_knn(bank, query, k=9, ks=(30,), backend=backend, device="cpu")
    assert (other.by_k, other.top5) == (usual.by_k, usual.top5)


@BACKENDS
def test_lightly_preset__is_knn_predict(make_blobs, backend: str) -> None:
    from lightly.utils.benchmarking.knn import knn_predict

    bank, query = make_blobs(100, classes=4, spread=2.0), make_blobs(50, classes=4, seed=1)
    feature, feature_bank = (
        torch.nn.functional.normalize(torch.from_numpy(part.features), dim=1) for part in (query, bank)
    )
    predicted = knn_predict(feature, feature_bank.T, torch.from_numpy(bank.labels), 4)[:, 0]
    votes = brute_force(bank, query, 200, 0.1, 4)
    shares = np.sort(votes / votes.sum(axis=1, keepdims=True), axis=1)
    clear = shares[:, -1] - shares[:, -2] > 1e-5
    assert clear.mean() > 0.99
    for row in np.flatnonzero(clear):
        # A query whose label is the prediction is a hit, one with another label a miss.
        hit = evaluate_knn(
            bank,
            Embeddings(query.features[[row]], predicted[[row]].numpy(), ("",), 3, 1.0),
            preset="lightly",
            num_classes=4,
            backend=backend,
            device="cpu",
        )
        assert hit.top1 == 100.0, row
    assert (hit.k, hit.temperature, hit.by_k) == (200, 0.1, {200: 100.0})
    assert hit.options == {"k": 200, "ks": [200], "temperature": 0.1}


@BACKENDS
def test_ties__go_to_the_lower_row_and_class(make_embeddings, backend: str) -> None:
    # 40 copies of one vector: with k = 3 the first three rows vote, of classes 2, 1, 1.
    labels = [2, 1, 1, *[0] * 37]
    bank = make_embeddings(np.tile([1.0, 2.0, 3.0], (40, 1)), labels)
    query = make_embeddings([[1, 2, 3]], [1])
    result = evaluate_knn(bank, query, k=3, ks=(1, 2), backend=backend, device="cpu")
    # Two neighbours vote alike for 2 and 1: the lower class wins.
    assert result.by_k == {1: 0.0, 2: 100.0, 3: 100.0}


@BACKENDS
def test_collapsed_encoder__is_no_nan(make_embeddings, backend: str) -> None:
    # Where all vectors are zero, all similarities are: the first ten rows vote, mostly for 1.
    bank = make_embeddings(np.zeros((30, 4)), [1] * 6 + [0] * 24)
    query = make_embeddings([[0, 0, 0, 0], [1, 2, 3, 4]], [1, 1])
    result = evaluate_knn(bank, query, k=10, ks=(30,), backend=backend, device="cpu")
    assert result.by_k == {10: 100.0, 30: 0.0}


def test_backends__agree_on_near_ties(make_embeddings) -> None:
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(12, 16))
    rows = generator.integers(0, 12, size=400)
    # Duplicates up to the last bit of float32, in every order, of every class.
    features = directions[rows] * (1 + 1e-7 * generator.normal(size=(400, 16)))
    labels = generator.integers(0, 6, size=400)
    bank, query = (make_embeddings(features[part], labels[part]) for part in np.split(range(400), [300]))
    ks = (1, 2, 3, 5, 10, 50)
    one, other = (
        evaluate_knn(bank, query, k=20, ks=ks, backend=backend, device="cpu") for backend in ("faiss", "torch")
    )
    assert (one.by_k, one.top5) == (other.by_k, other.top5)
    assert (one.backend, other.backend) == ("faiss", "torch")


@BACKENDS
def test_tiny_temperature__lets_the_nearest_decide(make_blobs, backend: str) -> None:
    bank, query = make_blobs(30), make_blobs(20, seed=1)
    cold = evaluate_knn(bank, query, k=50, temperature=1e-6, backend=backend, device="cpu")
    assert cold.top1 == evaluate_knn(bank, query, k=1, backend=backend, device="cpu").top1


def test_k_beyond_the_bank__is_clamped_and_said(make_blobs) -> None:
    bank, query = make_blobs(5), make_blobs(4, seed=1)
    result = evaluate_knn(bank, query, device="cpu")
    assert result.k == 15
    assert list(result.by_k) == [10, 15]
    assert result.clamped == (20, 100, 200)
    assert result.options["ks"] == [10, 20, 100, 200]
    assert result.top1 == result.by_k[15]
    assert evaluate_knn(bank, query, k=5, ks=(15,), device="cpu").clamped == ()


def test_top5__counts_classes_with_votes_alone(make_embeddings) -> None:
    bank = make_embeddings(np.eye(6, 8), range(6))
    query = make_embeddings([[1, 0, 0, 0, 0, 0, 0, 0]] * 2, [0, 1])
    # One neighbour: class 1 is second among the classes without votes, and does not count.
    assert evaluate_knn(bank, query, k=1, ks=(), device="cpu").top5 == 50.0
    # Six neighbours: 1 to 5 have equal votes, of which the lower four follow class 0.
    assert evaluate_knn(bank, query, k=6, ks=(), temperature=1.0, device="cpu").top5 == 100.0
    query = make_embeddings([[1, 0, 0, 0, 0, 0, 0, 0]] * 2, [4, 5])
    assert evaluate_knn(bank, query, k=6, ks=(), temperature=1.0, device="cpu").top5 == 50.0


@pytest.mark.parametrize(("classes", "known"), [(4, False), (5, True)])
def test_top5__needs_five_classes(make_blobs, classes: int, known: bool) -> None:
    result = evaluate_knn(make_blobs(4, classes=classes), make_blobs(2, classes=classes))
    assert (result.top5 is not None) == known


def test_unknown_labels__are_left_out(make_blobs) -> None:
    bank, query = make_blobs(20), make_blobs(10, seed=1)
    expected = evaluate_knn(bank, query, device="cpu")
    noise = make_blobs(7, seed=2)
    noise.labels[:] = -1
    from lightly_prg.eval import concatenate

    result = evaluate_knn(concatenate(noise, bank), concatenate(query, noise), device="cpu")
    assert result.by_k == expected.by_k
    assert (result.num_train, result.num_test) == (60, 30)


def test_result__says_what_was_measured(make_blobs) -> None:
    bank, query = make_blobs(20), make_blobs(10, seed=1)
    result = evaluate_knn(bank, query, num_classes=9, temperature=0.5, device="cpu")
    assert result.num_classes == 9
    assert result.embedding_dim == 8
    assert result.nfe == 3
    assert result.images_per_second == 90 / 4
    assert result.seconds > 0
    assert result.options == {"k": 20, "ks": [10, 20, 100, 200], "temperature": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"ks": (5, -1)}, "k is -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"preset": "dino"}, "'dino'; allowed is lightly"),
        ({"num_classes": 2}, "num_classes is 2, and there is a label 2"),
        ({"backend": "annoy"}, "annoy"),
    ],
)
def test_options__are_checked(make_blobs, options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_knn(make_blobs(5), make_blobs(2), **{"device": "cpu", **options})


def test_bank__needs_labels_of_two_classes(make_blobs) -> None:
    bank, query = make_blobs(5), make_blobs(2)
    bank.labels[:] = -1
    with pytest.raises(UserError, match="No training image has a label; k-NN needs them"):
        evaluate_knn(bank, query)
    bank.labels[3:] = 1
    with pytest.raises(UserError, match="has the label 1; k-NN needs two classes"):
        evaluate_knn(bank, query)
    with pytest.raises(UserError, match="No test image has a label"):
        evaluate_knn(make_blobs(5), bank.select([0, 1]))


def test_other_encoder__is_refused(make_blobs) -> None:
    with pytest.raises(ValueError, match="dimensions are 8 and 9"):
        evaluate_knn(make_blobs(5), make_blobs(5, dimension=9))


class TestTransform:
    def test_standardise__changes_the_neighbour_by_hand(self, make_embeddings) -> None:
        # Mean 0, deviations 10 and 0.1: standardised, the bank is (1, 1) and (-1, -1). The query (1, -0.1) has a
        # positive cosine with (10, 0.1), since the first feature is loud; standardised it is (0.1, -1), whose cosine
        # with (1, 1) is negative.
        bank, query = make_embeddings([[10, 0.1], [-10, -0.1]], [0, 1]), make_embeddings([[1, -0.1]], [1])
        assert evaluate_knn(bank, query, k=1, ks=(1,), device="cpu").top1 == 0.0
        assert evaluate_knn(bank, query, k=1, ks=(1,), transform="standardise", device="cpu").top1 == 100.0

    @pytest.mark.parametrize("kind", ["standardise", "whiten"])
    def test_transform__is_sklearns_fitted_on_the_bank(self, make_blobs, kind: str) -> None:
        scale = np.geomspace(0.01, 100, 8).astype(np.float32)
        bank, query = (
            Embeddings(part.features * scale, part.labels, part.names, part.nfe, part.seconds)
            for part in (make_blobs(40, classes=5, spread=2.0), make_blobs(20, classes=5, spread=2.0, seed=1))
        )
        model = StandardScaler() if kind == "standardise" else PCA(whiten=True)
        model.fit(bank.features.astype(np.float64))
        by_hand = [
            Embeddings(
                model.transform(part.features.astype(np.float64)).astype(np.float32), part.labels, part.names, 3, 1
            )
            for part in (bank, query)
        ]
        transformed = transform_features(kind, bank.features, query.features, ridge=0.0)
        for ours, theirs in zip(transformed, by_hand, strict=True):  # directions may have the other sign
            np.testing.assert_allclose(ours @ ours.T, theirs.features @ theirs.features.T, rtol=1e-3, atol=1e-3)
        result = evaluate_knn(bank, query, k=10, ks=(3, 30), transform=kind, device="cpu")
        assert result.options == {"k": 10, "ks": [3, 10, 30], "temperature": 0.07, "transform": kind}
        plain = evaluate_knn(bank, query, k=10, ks=(3, 30), device="cpu")
        assert result.by_k != plain.by_k
        if kind == "standardise":
            assert result.by_k == evaluate_knn(*by_hand, k=10, ks=(3, 30), device="cpu").by_k

    @pytest.mark.parametrize("rows", [200, 12])
    def test_whitened_bank__is_uncorrelated_and_of_variance_one(self, rows: int) -> None:
        generator = np.random.default_rng(0)
        features = generator.normal(size=(rows, 20)) @ np.diag(np.geomspace(1, 3, 20)) @ generator.normal(size=(20, 20))
        features = features.astype(np.float32) + 7
        white = Whitener.of(features, ridge=0.0)(features)
        assert white.shape == (rows, min(20, rows - 1))  # 12 samples about their mean span 11 directions
        np.testing.assert_allclose(np.cov(white.T), np.eye(white.shape[1]), atol=2e-3)
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)

    def test_ridge__by_hand(self) -> None:
        # Variances 4 and 1 (N - 1), mean 2.5: the ridge 0.4 adds 1 to each.
        features = np.array([[2, 0], [-2, 0], [0, 1], [0, -1], [0, 0]], dtype=np.float32) * np.float32(2**0.5)
        white = Whitener.of(features, ridge=0.4)(features)
        np.testing.assert_allclose(sorted(np.var(white, axis=0, ddof=1)), [1 / 2, 4 / 5], rtol=1e-6)

    def test_constant_features__are_no_nan(self, make_embeddings) -> None:
        bank, query = make_embeddings(np.full((30, 4), 3.0), [1] * 20 + [0] * 10), make_embeddings([[3.0] * 4], [1])
        for kind in ("standardise", "whiten"):
            assert evaluate_knn(bank, query, k=10, ks=(10,), transform=kind, device="cpu").top1 == 100.0

    def test_unknown__is_refused(self, make_blobs) -> None:
        with pytest.raises(UserError, match=r"'zca'.*none, standardise, whiten"):
            evaluate_knn(make_blobs(4), make_blobs(4), transform="zca")

    def test_recipe__of_no_choice_keeps_its_hash(self) -> None:
        recipe = parse_recipe("name: x\ndata: {name: digits}\nmethod: {name: simclr}\n")
        other = parse_recipe(recipe.to_yaml(), overrides=["eval.knn.transform=whiten"])
        content = json.loads(json.dumps(recipe.model_dump(mode="json")))
        assert content["eval"]["knn"].pop("transform") == "none"
        assert parse_recipe(yaml.safe_dump(content)).sha256() == recipe.sha256() != other.sha256()
