from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lightly_prg.flow import CountedVelocity, LinearPath, Path, encode
from lightly_prg.flow.likelihood import Likelihood, log_likelihood

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_normal(x: Tensor, variance: float) -> Tensor:
    """log N(x; 0, variance I), independently of the code under test."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), math.sqrt(variance))
    return normal.log_prob(x.double()).flatten(1).sum(1)


class MatrixVelocity:
    """dx/dtau = A x with a full matrix, so that the noise is expm(A) x and the divergence tr A."""

    def __init__(self, dims: int = 6, scale: float = 0.6) -> None:
        self.matrix = scale * torch.randn(dims, dims, generator=seeded(4), dtype=torch.float64)

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T.to(x)).view_as(x)

    def exact(self, x: Tensor) -> Tensor:
        z = x.double().flatten(1) @ torch.linalg.matrix_exp(self.matrix).T
        return log_normal(z, 1.0) + self.matrix.trace()


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_gaussian_data__to_solver_accuracy(
    path: Path, divergence: str, gaussian: Callable[..., Any], images: Tensor
) -> None:
    velocity = gaussian(path, 0.5)
    end = float(velocity.variance(path.tau_max))
    result = log_likelihood(
        velocity, images, steps=80, solver="rk4", divergence=divergence, noise_std=math.sqrt(end), generator=seeded()
    )
    # The Jacobian is a multiple of the identity: signs as probes have no variance.
    exact = log_normal(images, float(velocity.variance(path.tau_min)))
    torch.testing.assert_close(result.per_image, exact, rtol=0, atol=2e-5)
    assert result.nfe == 320
    assert result.dims == 4
    assert result.probe_standard_error == pytest.approx(0, abs=1e-12)
    # Without noise_std it is the density of the model that starts from a standard normal.
    started = log_likelihood(velocity, images, steps=80, solver="rk4", divergence=divergence, generator=seeded())
    exact = log_normal(images, float(velocity.variance(path.tau_min)) / end)
    torch.testing.assert_close(started.per_image, exact, rtol=0, atol=2e-5)


def test_gaussian_data__within_three_standard_errors(path: Path, gaussian: Callable[..., Any]) -> None:
    velocity = gaussian(path, 0.5)
    start, end = float(velocity.variance(path.tau_min)), float(velocity.variance(path.tau_max))
    x = 0.5 * torch.randn(200, 1, 4, 4, generator=seeded(1))
    result = log_likelihood(
        velocity,
        x,
        steps=60,
        solver="rk4",
        probe="gaussian",
        probes=8,
        noise_std=math.sqrt(end),
        batch_size=200,
        generator=seeded(2),
    )
    exact = log_normal(x, start)
    assert result.probe_error is not None
    assert result.probe_standard_error is not None
    assert result.standard_error is not None
    assert abs(result.mean - float(exact.mean())) < 3 * result.probe_standard_error
    # The errors that are claimed are those that occur: a t of 7 degrees of freedom has a variance of 7 / 5.
    scores = (result.per_image - exact) / result.probe_error
    assert float(scores.square().mean()) == pytest.approx(1.4, abs=0.5)
    # Over the images: E[log N(x; 0, start I)] for x of variance 1/4.
    expected = -8 * math.log(2 * math.pi * start) - 8 * 0.25 / start
    assert abs(result.mean - expected) < 3 * result.standard_error


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_full_matrix__within_three_standard_errors(probe: str) -> None:
    velocity = MatrixVelocity()
    x = torch.randn(50, 1, 2, 3, generator=seeded(1))
    result = log_likelihood(velocity, x, solver="rk4", probe=probe, probes=16, generator=seeded(2))
    assert result.per_probe.shape == (50, 16)
    assert result.probe_standard_error is not None
    assert 0.005 < result.probe_standard_error < 0.5
    assert abs(result.mean - float(velocity.exact(x).mean())) < 3 * result.probe_standard_error


def test_full_matrix__exactly() -> None:
    velocity = MatrixVelocity()
    x = torch.randn(3, 6, generator=seeded(1), dtype=torch.float64)
    for solver in ("rk4", "dopri5"):
        result = log_likelihood(velocity, x, solver=solver, divergence="exact", steps=40, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(result.per_image, velocity.exact(x), rtol=1e-6, atol=0)
        assert result.per_probe.shape == (3, 1)
        assert result.exact
        assert result.probe_standard_error == 0


def test_network__agrees_with_the_determinant_of_encode(tiny: Callable[..., Any], images: Tensor) -> None:
    network = tiny()

    def encoded(x: Tensor) -> Tensor:
        return encode(network, x[None], steps=100, solver="rk4", gradient="full")[0].flatten()

    determinants = [
        torch.linalg.slogdet(torch.autograd.functional.jacobian(encoded, x).reshape(4, 4))[1]  # type: ignore[no-untyped-call]
        for x in images
    ]
    z = encode(network, images, steps=100, solver="rk4").detach()
    result = log_likelihood(network, images, steps=100, solver="rk4", divergence="exact")
    torch.testing.assert_close(result.per_image, log_normal(z, 1.0) + torch.stack(determinants), rtol=0, atol=1e-6)
    assert not result.per_probe.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("solver", ORDERS)
def test_order_of_convergence__is_the_solvers(solver: str, tiny: Callable[..., Any], images: Tensor) -> None:
    network = tiny()

    def solve(steps: int, solver: str = solver) -> Tensor:
        return log_likelihood(network, images, steps=steps, solver=solver, divergence="exact").per_image

    exact = solve(120, "rk4")
    errors = [float((solve(steps) - exact).abs().max()) for steps in (15, 30, 60)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDERS[solver], abs=0.35)


def test_probe__stays_the_same_along_a_solve(images: Tensor) -> None:
    matrix = MatrixVelocity(4)
    few, many = (
        log_likelihood(matrix, images, steps=steps, solver="rk4", generator=seeded()).per_probe for steps in (30, 60)
    )
    # Fresh probes at every evaluation would average out, differently for other steps.
    torch.testing.assert_close(few, many, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("grid", "expected"), [("quadratic", [0, 1 / 16, 1 / 4, 9 / 16]), ("even", [0, 0.25, 0.5, 0.75])]
)
def test_grid__is_dense_near_the_data_or_even(grid: str, expected: list[float], images: Tensor) -> None:
    seen: list[float] = []

    def velocity(tau: Tensor, x: Tensor) -> Tensor:
        seen.append(float(tau))
        return x

    log_likelihood(velocity, images, steps=4, solver="euler", grid=grid, generator=seeded())
    assert seen == pytest.approx(expected)


def test_size_of_the_batch__changes_nothing() -> None:
    velocity, x = MatrixVelocity(), torch.randn(7, 1, 2, 3, generator=seeded(1))
    whole, parts = (
        log_likelihood(velocity, x, batch_size=size, probe="gaussian", generator=seeded()) for size in (7, 3)
    )
    torch.testing.assert_close(whole.per_probe, parts.per_probe, rtol=0, atol=1e-4)
    assert whole.nfe == parts.nfe == 64


def test_constant_velocity__shifts_the_density(images: Tensor) -> None:
    for divergence in ("exact", "hutchinson"):
        result = log_likelihood(lambda tau, x: torch.ones_like(x), images, divergence=divergence, generator=seeded())
        torch.testing.assert_close(result.per_image, log_normal(images + 1, 1.0))


def test_part_of_the_path__and_the_callers_modes(gaussian: Callable[..., Any], images: Tensor) -> None:
    velocity = CountedVelocity(gaussian(LinearPath(), 0.5))
    variance = velocity.velocity.variance  # type: ignore[attr-defined]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = log_likelihood(
            velocity,
            images.float(),
            tau_start=0.2,
            tau_end=0.7,
            noise_std=math.sqrt(variance(0.7)),
            steps=30,
            solver="rk4",
            generator=seeded(),
        )
    torch.testing.assert_close(result.per_image, log_normal(images, float(variance(0.2))), rtol=0, atol=1e-4)
    assert velocity.evaluations == 120


def test_errors__over_probes_and_over_images() -> None:
    result = Likelihood(torch.tensor([[1.0, 3.0], [5.0, 9.0]]).double(), exact=False, dims=1, nfe=1)
    assert result.per_image.tolist() == [2, 7]
    assert result.mean == 4.5
    assert result.probe_error is not None
    assert result.probe_error.tolist() == pytest.approx([1, 2])
    assert result.probe_standard_error == pytest.approx(math.sqrt(5) / 2)
    assert result.standard_error == pytest.approx(2.5)
    single = Likelihood(torch.tensor([[1.0]]), exact=False, dims=1, nfe=1)
    assert single.standard_error is None
    assert single.probe_error is None
    assert single.probe_standard_error is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"divergence": "trace"}, "Unknown divergence 'trace'"),
        ({"probe": "sobol"}, "Unknown probe 'sobol'"),
        ({"grid": "cubic"}, "Unknown grid 'cubic'"),
        ({"probes": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"solver": "heun"}, r"takes the solvers .*, got .heun."),
        ({"solver": "ab2"}, r"takes the solvers .*, got .ab2."),
        ({"steps": 0}, "steps must be at least 1"),
        ({"tau_start": 0.5, "tau_end": 0.5}, "above the data end"),
        ({"tau_end": 1.5}, "on the linear path"),
    ],
)
def test_bad_options__are_told(wrong: dict[str, Any], message: str, gaussian: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=message):
        log_likelihood(gaussian(LinearPath()), torch.zeros(1, 1, 2, 2), **wrong)


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(2, 4, dtype=torch.uint8)])
def test_bad_states__are_told(x: Tensor) -> None:
    with pytest.raises(ValueError, match="non-empty float batch"):
        log_likelihood(lambda tau, state: state, x)


def test_network_that_changes_the_shape__is_told() -> None:
    with pytest.raises(ValueError, match=r"shape of its input \(2, 4\)"):
        log_likelihood(lambda tau, x: x[:, :2], torch.zeros(2, 4))
