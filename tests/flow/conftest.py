"""Flows whose answers are known: Gaussian data, and a network small enough to differentiate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.flow import LinearPath, Path, TrigonometricPath, VariancePreservingPath

PATHS = [LinearPath(), TrigonometricPath(), VariancePreservingPath()]


class GaussianVelocity:
    """The exact velocity E[u | x_tau] for data N(0, std^2 I), whose encode map is a rescaling."""

    def __init__(self, path: Path, std: float = 0.5) -> None:
        self.path = path
        self.std = std

    def variance(self, tau: Tensor | float) -> Tensor:
        tau = torch.as_tensor(tau, dtype=torch.float64)
        return self.path.alpha(tau) ** 2 * self.std**2 + self.path.sigma(tau) ** 2

    def coefficient(self, tau: Tensor | float) -> Tensor:
        tau = torch.as_tensor(tau, dtype=torch.float64)
        data = self.path.alpha(tau) * self.path.alpha_prime(tau) * self.std**2
        return (data + self.path.sigma(tau) * self.path.sigma_prime(tau)) / self.variance(tau)

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        return self.coefficient(tau).to(x.dtype) * x

    def encoded(self, x: Tensor, start: float, end: float) -> Tensor:
        return x * (self.variance(end) / self.variance(start)).sqrt()


class TinyVelocity(nn.Module):
    """A smooth network on states (B, 1, 2, 2), drawn from a fixed seed, float64."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.7 * torch.randn(shape, generator=generator, dtype=torch.float64))

        self.inner, self.time, self.outer = draw(5, 4), draw(5), draw(4, 5)

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        hidden = torch.tanh(x.flatten(1) @ self.inner.T + self.time * tau)
        return (hidden @ self.outer.T).reshape(x.shape)


@pytest.fixture(params=PATHS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


@pytest.fixture
def gaussian() -> Callable[..., GaussianVelocity]:
    return GaussianVelocity


@pytest.fixture
def tiny() -> Callable[..., TinyVelocity]:
    return TinyVelocity


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
