from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightly_prg.flow import FlowMatchingLoss, LinearPath, Path, TrigonometricPath, VariancePreservingPath
from lightly_prg.measurements import closed_form_losses, loss_by_tau

PATHS = [LinearPath(), TrigonometricPath(), VariancePreservingPath()]


def gaussian(path: Path, variances: Tensor, count: int = 3000) -> tuple[Tensor, object, object]:
    """Data of these variances, the exact velocity, and that of the mean, which is 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 1, len(variances), generator=generator) * variances.sqrt()

    def velocity(tau: Tensor, state: Tensor) -> Tensor:
        tau = tau.reshape(-1, 1, 1, 1)
        a, s, a1, s1 = path.alpha(tau), path.sigma(tau), path.alpha_prime(tau), path.sigma_prime(tau)
        return state * (a * a1 * variances + s * s1) / (a**2 * variances + s**2)

    return x, velocity, lambda tau, state: torch.zeros_like(state)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_gaussian_data__has_the_loss_in_closed_form(path: Path) -> None:
    variances = torch.tensor([0.05, 0.5, 2.0, 0.0])
    x, exact, mean = gaussian(path, variances)
    measured = loss_by_tau(exact, x, path=path, bins=4, draws=1, batch_size=3000)  # type: ignore[arg-type]
    constant, linear = closed_form_losses(path, measured.edges, variances)
    assert measured.standard_error is not None
    for value, error, expected in zip(measured.mean, measured.standard_error, linear, strict=True):
        assert abs(value - expected) < 4 * error + 1e-4
    unlearnt = loss_by_tau(mean, x, path=path, bins=4, draws=1, batch_size=3000)  # type: ignore[arg-type]
    assert unlearnt.standard_error is not None
    for value, error, expected in zip(unlearnt.mean, unlearnt.standard_error, constant, strict=True):
        assert abs(value - expected) < 4 * error + 0.02 * expected
    assert (measured.edges[0], measured.edges[-1]) == (path.tau_min, path.tau_max)


def test_mean_over_the_bins__is_the_training_loss() -> None:
    path = LinearPath()
    x, velocity, _ = gaussian(path, torch.tensor([0.3, 0.9]), count=20_000)
    criterion = FlowMatchingLoss(path=path)
    trained = float(criterion(velocity, x, generator=torch.Generator().manual_seed(1)))
    measured = loss_by_tau(velocity, x, path=path, bins=5, draws=1, batch_size=20_000)  # type: ignore[arg-type]
    assert measured.overall == pytest.approx(trained, rel=0.03)
    assert measured.overall == pytest.approx(sum(measured.mean) / 5)
    assert measured.overall_standard_error is not None
    assert 0 < measured.overall_standard_error < 0.01


def test_positions__lie_in_their_bins_and_noise_depends_on_the_seed_alone() -> None:
    seen: list[Tensor] = []

    def velocity(tau: Tensor, x: Tensor) -> Tensor:
        seen.append(tau)
        return x

    x = torch.zeros(7, 1, 2, 2)
    first = loss_by_tau(velocity, x, path=LinearPath(), bins=4, draws=2, seed=3)
    assert len(seen) == 8
    for index, tau in enumerate(seen):
        assert tau.shape == (7,)
        assert (tau * 4).floor().tolist() == [index // 2] * 7
    assert first == loss_by_tau(velocity, x, path=LinearPath(), bins=4, draws=2, seed=3)
    assert first != loss_by_tau(velocity, x, path=LinearPath(), bins=4, draws=2, seed=4)


def test_optimal_transport__pairs_inside_the_batch() -> None:
    path = LinearPath()
    x, _, _ = gaussian(path, torch.tensor([4.0]), count=64)
    still = lambda tau, state: torch.zeros_like(state)  # noqa: E731
    alone, paired = (
        loss_by_tau(still, x, path=path, bins=1, coupling=kind).overall for kind in ("independent", "optimal_transport")
    )
    # E (eps - x)^2 is 1 + 4 of independent ones, and (2 - 1)^2 of sorted ones.
    assert alone == pytest.approx(5, rel=0.25)
    assert 0.5 < paired < 2


def test_one_image__has_no_standard_error() -> None:
    measured = loss_by_tau(lambda tau, x: x, torch.zeros(1, 1, 1, 1), path=LinearPath(), bins=2)
    assert measured.standard_error is None
    assert measured.overall_standard_error is None


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"draws": 0}, {"batch_size": 0}])
def test_bad_numbers__are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="At least one image"):
        loss_by_tau(lambda tau, x: x, torch.zeros(1, 1, 1, 1), path=LinearPath(), **wrong)
