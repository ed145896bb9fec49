from __future__ import annotations

import math

import numpy as np
import pytest

from lightly_prg.errors import UserError
from lightly_prg.eval import Embeddings
from lightly_prg.measurements import label_information


def embeddings(features: np.ndarray, labels: np.ndarray) -> Embeddings:
    names = tuple(map(str, range(len(labels))))
    return Embeddings(features.astype(np.float32), labels.astype(np.int64), names, nfe=0, seconds=0)


def draw(count: int, seed: int, distance: float = 2.0) -> Embeddings:
    """Two balanced classes N(-distance / 2, 1) and N(distance / 2, 1), and a dimension that says nothing."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    useful = generator.normal(distance * (labels - 0.5), 1.0)
    return embeddings(np.stack([useful, generator.normal(size=count)], axis=1), labels)


def exact_information(distance: float) -> float:
    """I(Y; Z) of the two classes in bits, by integration."""
    z = np.linspace(-12, 12, 20_001)
    densities = [np.exp(-((z - side * distance / 2) ** 2) / 2) / math.sqrt(2 * math.pi) for side in (-1, 1)]
    mixture = (densities[0] + densities[1]) / 2
    parts = [0.5 * density * np.log2(density / mixture) for density in densities]
    return float(np.trapezoid(parts[0] + parts[1], z))


def test_two_gaussians__have_their_mutual_information() -> None:
    # The log-odds are linear, so the bound is tight up to the error of the fit.
    result = label_information(draw(3000, 0), draw(4000, 1), validation=draw(500, 2), device="cpu")
    assert result.standard_error is not None
    assert result.entropy == pytest.approx(1.0)
    assert result.bits == pytest.approx(exact_information(2.0), abs=3 * result.standard_error)
    assert result.bits == pytest.approx(result.entropy - result.cross_entropy)
    assert result.num_train == 3500
    assert result.num_test == 4000
    assert result.top1 == pytest.approx(84.1, abs=2)


def test_no_information__is_about_zero() -> None:
    result = label_information(draw(1000, 0, 0.0), draw(1000, 1, 0.0), device="cpu")
    assert abs(result.bits) < 0.02


def test_separated_classes__give_all_of_the_label() -> None:
    result = label_information(draw(200, 0, 40.0), draw(200, 1, 40.0), device="cpu")
    assert result.bits == pytest.approx(1.0, abs=0.01)
    assert result.top1 == 100


def test_unknown_labels__are_left_out_and_unseen_classes_told() -> None:
    train, test = draw(100, 0), draw(40, 1)
    unknown = embeddings(test.features, np.where(np.arange(40) < 10, -1, test.labels))
    assert label_information(train, unknown, device="cpu").num_test == 30
    unseen = embeddings(test.features, np.where(np.arange(40) < 10, 2, test.labels))
    with pytest.raises(UserError, match="no training image"):
        label_information(train, unseen, device="cpu")
    with pytest.raises(UserError, match="two classes"):
        label_information(train.select(train.labels == 0), test, device="cpu")
