from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lightly_prg.eval.logistic import LogisticFit, _span, fit_penalties

CLASSES = 4


def problem(rows: int = 300, dimension: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping clouds with features of very different and correlated size."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    centres = generator.normal(size=(CLASSES, dimension))
    features = centres[labels] + 1.5 * generator.normal(size=(rows, dimension))
    features = features @ generator.normal(size=(dimension, dimension))
    features *= 10.0 ** generator.uniform(-1, 1, size=dimension)
    return torch.from_numpy(features), torch.from_numpy(labels)


def fit(features: Tensor, labels: Tensor, *penalties: float, **options) -> list[LogisticFit]:
    options = {"num_classes": CLASSES, "max_iterations": 500, **options}
    return list(fit_penalties(features, labels, penalties, **options))


def sklearn_fit(features: Tensor, labels: Tensor, penalty: float) -> LogisticRegression:
    # Newton's method: scikit-learn's own L-BFGS stops further from the minimum than the comparison allows.
    model = LogisticRegression(C=1 / (len(features) * penalty), tol=1e-10, max_iter=20000, solver="newton-cg")
    return model.fit(features.numpy(), labels.numpy())


@pytest.mark.parametrize("shape", [(300, 6), (40, 60)], ids=["tall", "wide"])
def test_path__is_sklearn_at_every_penalty(shape: tuple[int, int]) -> None:
    features, labels = problem(*shape)
    features = (features - features.mean(dim=0)) / features.std(dim=0)
    penalties = (1.0, 1e-2, 1e-4)
    for found, penalty in zip(fit(features, labels, *penalties), penalties, strict=True):
        expected = sklearn_fit(features, labels, penalty)
        assert found.penalty == penalty
        assert found.converged
        size = np.abs(expected.coef_).max()
        np.testing.assert_allclose(found.weight, expected.coef_, atol=1e-5 * size, rtol=0)
        intercept = expected.intercept_ - expected.intercept_.mean()
        np.testing.assert_allclose(found.bias - found.bias.mean(), intercept, atol=1e-5, rtol=0)


def test_gradient__is_zero_and_loss_is_the_objective() -> None:
    features, labels = problem()
    (found,) = fit(features, labels, 1e-3)
    weight, bias = (t.clone().requires_grad_() for t in (found.weight, found.bias))
    entropy = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels)
    loss = entropy + 1e-3 / 2 * weight.square().sum()
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), abs=1e-12)
    largest = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    assert largest == pytest.approx(found.gradient_norm, abs=1e-12)
    assert largest < 1e-6


def test_float32__is_float64_up_to_its_rounding() -> None:
    features, labels = problem(2000, 20)
    features = (features - features.mean(dim=0)) / features.std(dim=0)
    for exact, rough in zip(
        fit(features, labels, 0.1, 1e-3),
        fit(features.float(), labels, 0.1, 1e-3),
        strict=True,
    ):
        assert rough.weight.dtype == torch.float64
        assert rough.converged
        assert rough.loss == pytest.approx(exact.loss, abs=1e-6)
        torch.testing.assert_close(rough.weight, exact.weight, atol=5e-3, rtol=0)


def test_start__is_where_the_fit_begins() -> None:
    features, labels = problem()
    (cold,) = fit(features, labels, 1e-3)
    (warm,) = fit(features, labels, 1e-3, start=cold)
    assert warm.iterations <= 1 < cold.iterations
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-6, rtol=0)


def test_max_iterations__is_kept_and_said() -> None:
    (found,) = fit(*problem(), 1e-6, max_iterations=2)
    assert found.iterations <= 2
    assert not found.converged
    assert found.gradient_norm > 1e-4


def test_scores__are_those_of_the_data_type() -> None:
    features, labels = problem()
    (found,) = fit(features, labels, 1e-2)
    expected = features @ found.weight.T + found.bias
    torch.testing.assert_close(found.scores(features), expected)
    assert found.scores(features.float()).dtype == torch.float32


def test_degenerate_features__do_no_harm() -> None:
    features, labels = problem()
    doubled = torch.cat([features, features[:, :2], torch.zeros(len(features), 3)], dim=1)
    (found,) = fit(doubled, labels, 1e-6)
    assert found.converged
    assert found.weight[:, 8:].abs().max() < 1e-9
    # The penalty shares a weight equally among equal features.
    torch.testing.assert_close(found.weight[:, :2], found.weight[:, 6:8], atol=1e-5, rtol=0)


def test_separable__ends() -> None:
    labels = torch.arange(40) % 2
    features = (2.0 * labels - 1)[:, None].double()
    fits = fit(features, labels, 1.0, 1e-3, 1e-9, num_classes=2)
    assert all(found.converged for found in fits)
    assert all(bool(torch.equal(found.scores(features).argmax(dim=1), labels)) for found in fits)


@pytest.mark.parametrize("kind", ["standardised", "anywhere", "repeated", "nearly repeated"])
def test_span__holds_all_samples_in_orthonormal_directions(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(40, 60, generator=generator) + 2.0
    if kind == "standardised":
        samples = (samples - samples.mean(dim=0)) / samples.std(dim=0)
    elif kind == "repeated":
        samples[20:] = samples[:20]
    elif kind == "nearly repeated":  # the Cholesky factor exists, and its directions are rounding errors
        samples[20:] = samples[:20] + 1e-6 * torch.randn(20, 60, generator=generator)
    directions, coordinates = _span(samples)
    rank = directions.shape[1]
    torch.testing.assert_close(coordinates @ directions.T, samples.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(directions.T @ directions, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-5)
