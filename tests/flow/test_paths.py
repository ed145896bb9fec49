from __future__ import annotations

import itertools
import math

import pytest
import torch

from lightly_prg.flow import (
    QUANTITIES,
    LinearPath,
    TrigonometricPath,
    VariancePreservingPath,
    path_from_name,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positions(path, n=41):
    return torch.linspace(path.tau_min, path.tau_max, n, dtype=torch.float64)


def test_closed_form_values():
    half = torch.tensor(0.5, dtype=torch.float64)
    linear, trigonometric, vp = LinearPath(), TrigonometricPath(), VariancePreservingPath()
    assert (linear.alpha(half), linear.sigma(half)) == (0.5, 0.5)
    assert trigonometric.alpha(half).item() == pytest.approx(math.sqrt(0.5), abs=1e-15)
    assert trigonometric.sigma(half).item() == pytest.approx(math.sqrt(0.5), abs=1e-15)
    # B(1/2) = 0.05 + 19.9 / 8, B(1) = 10.05: alpha(1) = exp(-5.025)
    assert vp.alpha(half).item() == pytest.approx(math.exp(-0.5 * (0.05 + 19.9 / 8)), rel=1e-14)
    assert vp.alpha(2 * half).item() == pytest.approx(math.exp(-5.025), rel=1e-14)
    assert (vp.tau_min, vp.tau_max) == (1e-3, 1.0)


def test_ends_are_data_and_noise():
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for path in (LinearPath(), TrigonometricPath()):
        assert (path.tau_min, path.tau_max) == (0.0, 1.0)
        assert (path.alpha(zero), path.sigma(zero)) == (1, 0)
        assert (path.alpha(one), path.sigma(one)) == (0, 1)  # exactly: not cos(pi/2) = 6e-17


@pytest.mark.parametrize("path", [TrigonometricPath(), VariancePreservingPath(0.5, 3.0)])
def test_variance_is_preserved(path):
    tau = positions(path)
    one = torch.ones_like(tau)
    torch.testing.assert_close(path.alpha(tau) ** 2 + path.sigma(tau) ** 2, one, rtol=0, atol=1e-15)


def test_velocity_is_the_derivative_of_interpolate(path):
    x, noise = normal(41, 3, 2, 2), normal(41, 3, 2, 2, seed=1)
    tau = positions(path)
    _, derivative = torch.func.jvp(lambda t: path.interpolate(x, noise, t), (tau,), (torch.ones_like(tau),))
    torch.testing.assert_close(path.velocity(x, noise, tau), derivative, rtol=1e-9, atol=1e-12)


def test_tau_as_float_scalar_and_batch_agree(path):
    x, noise = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    for method in (path.interpolate, path.velocity):
        expected = method(x, noise, 0.3)
        assert expected.shape == x.shape
        for tau in (
            torch.tensor(0.3, dtype=torch.float64),
            torch.full((4,), 0.3, dtype=torch.float64),
        ):
            torch.testing.assert_close(method(x, noise, tau), expected, rtol=1e-12, atol=0)
    # a batch of different positions treats each image by its own
    tau = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mixed = path.interpolate(x, noise, tau)
    for i in range(4):
        torch.testing.assert_close(mixed[i], path.interpolate(x[i], noise[i], tau[i].item()))
    assert path.interpolate(x.flatten(1), noise.flatten(1), tau).shape == (4, 12)
    with pytest.raises(ValueError, match=r"\(3,\).*\(4, 3, 2, 2\)"):
        path.interpolate(x, noise, tau[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_images(path, dtype):
    x, noise = normal(2, 1, 2, 2, dtype=dtype), normal(2, 1, 2, 2, seed=1, dtype=dtype)
    for tau in (0.25, torch.tensor(0.25), torch.tensor([0.25, 0.25], dtype=torch.float64)):
        x_tau = path.interpolate(x, noise, tau)
        assert x_tau.dtype == path.velocity(x, noise, tau).dtype == dtype
        exact = path.interpolate(x.double(), noise.double(), 0.25)
        torch.testing.assert_close(x_tau.double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coefficients_of_half_precision_images_are_rounded_once(path, dtype):
    one, zero = torch.ones(1, 1, 1, 1, dtype=dtype), torch.zeros(1, 1, 1, 1, dtype=dtype)
    tau = torch.linspace(0.5, 0.95, 20, dtype=torch.float64)
    for coefficient, pair in ((path.alpha, (one, zero)), (path.sigma, (zero, one))):
        rounded = [path.interpolate(*pair, t).item() for t in tau.tolist()]
        assert rounded == coefficient(tau.float()).to(dtype).tolist()


def test_variance_preserving_sigma_keeps_its_digits_in_float32():
    path = VariancePreservingPath()
    tau = torch.logspace(-6, 0, 50, dtype=torch.float64)
    torch.testing.assert_close(path.sigma(tau.float()).double(), path.sigma(tau), rtol=2e-6, atol=0)


def test_loss_weight():
    tau = torch.tensor([0.1, 0.6, 1.0], dtype=torch.float64)
    assert LinearPath().loss_weight(tau).tolist() == [1, 1, 1]
    assert TrigonometricPath().loss_weight(tau).tolist() == [1, 1, 1]
    vp = VariancePreservingPath()
    torch.testing.assert_close(vp.loss_weight(tau), vp.sigma(tau) ** 2)


@pytest.mark.parametrize(("source", "target"), itertools.product(QUANTITIES, QUANTITIES))
def test_conversions_agree_with_the_pair_that_made_the_state(path, source, target):
    # Inside the path every conversion is defined; the pair (x, eps) itself is consistent.
    tau = torch.tensor([max(path.tau_min, 0.01), 0.3, 0.7, 0.98], dtype=torch.float64)
    x, noise = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1)
    known = {
        "noise": noise,
        "velocity": path.velocity(x, noise, tau),
        "denoised": x,
        "score": -noise / path.sigma(tau).reshape(4, 1, 1, 1),
        "v": path.alpha(tau).reshape(4, 1, 1, 1) * noise - path.sigma(tau).reshape(4, 1, 1, 1) * x,
    }
    x_tau = path.interpolate(x, noise, tau)
    result = path.convert(x_tau, known[source], tau, source=source, target=target)
    torch.testing.assert_close(result, known[target], rtol=1e-9, atol=1e-9)


def test_velocity_converts_on_the_whole_path(path):
    x, noise = normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1)
    tau = torch.tensor([path.tau_min, path.tau_max], dtype=torch.float64)
    x_tau, velocity = path.interpolate(x, noise, tau), path.velocity(x, noise, tau)
    for target, expected in (("noise", noise), ("denoised", x)):
        result = path.convert(x_tau, velocity, tau, source="velocity", target=target)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_score_is_the_gradient_of_the_log_density(path, gaussian):
    velocity = gaussian(path, std=0.5)
    x = normal(5, 1, 2, 2)
    for tau in (max(path.tau_min, 0.02), 0.4, 0.99):
        state = x.clone().requires_grad_()
        log_density = -0.5 * state.square().sum() / velocity.variance(tau)
        (score,) = torch.autograd.grad(log_density, state)
        result = path.convert(x, velocity(torch.tensor(tau), x), tau, source="velocity", target="score")
        torch.testing.assert_close(result, score, rtol=1e-6, atol=1e-6)
        # Tweedie: E[x | x_tau] for Gaussian data shrinks the state
        alpha = path.alpha(torch.tensor(tau, dtype=torch.float64))
        denoised = path.convert(x, score, tau, source="score", target="denoised")
        torch.testing.assert_close(denoised, alpha * 0.25 / velocity.variance(tau) * x)


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()], ids=lambda p: p.name)
def test_conversions_raise_where_they_would_divide_by_zero(path):
    x = normal(2, 1, 2, 2)
    at_data, at_noise = torch.tensor([0.0, 0.5]), torch.tensor([0.5, 1.0])
    for source, target in (
        ("denoised", "noise"),
        ("denoised", "velocity"),
        ("score", "noise"),
        ("score", "denoised"),
        ("noise", "score"),
        ("velocity", "score"),
    ):
        with pytest.raises(ValueError, match=r"sigma is 0 at tau = 0"):
            path.convert(x, x, at_data, source=source, target=target)
    for source, target in itertools.product(("noise", "score"), ("velocity", "denoised", "v")):
        with pytest.raises(ValueError, match=r"alpha is 0 at tau = 1"):
            path.convert(x, x, at_noise, source=source, target=target)
    # and nowhere else
    assert path.convert(x, x, at_data, source="noise", target="velocity").isfinite().all()
    assert path.convert(x, x, at_noise, source="denoised", target="velocity").isfinite().all()
    assert path.convert(x, x, at_noise, source="noise", target="score").isfinite().all()
    for quantity in QUANTITIES:
        for tau in (at_data, at_noise):
            assert path.convert(x, 2 * x, tau, source=quantity, target=quantity).equal(2 * x)


def test_conversions_name_what_is_wrong(path):
    x = normal(2, 1, 2, 2)
    with pytest.raises(ValueError, match=r"'epsilon'.*noise, velocity, denoised, score"):
        path.convert(x, x, 0.5, source="epsilon", target="score")
    for tau in (path.tau_min - 1e-3, 1.001, math.nan):
        with pytest.raises(ValueError, match=rf"\[{path.tau_min:g}, 1\] on the {path.name}"):
            path.convert(x, x, tau, source="velocity", target="noise")
    with pytest.raises(ValueError, match=r"\(2, 1, 2, 2\), got \(2,\)"):
        path.convert(x, x[:, 0, 0, 0], 0.5, source="velocity", target="noise")


def test_the_ends_lie_on_the_path_in_every_precision():
    x = normal(2, 1, 2, 2)
    for tau_min in (1e-3, 0.01):  # rounded up, rounded down in float32
        path = VariancePreservingPath(tau_min=tau_min)
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            ends = torch.tensor([tau_min, 1.0], dtype=dtype)
            for tau in (ends, ends[0], ends[1]):
                assert path.convert(x, x, tau, source="velocity", target="noise").isfinite().all()


def test_path_from_name(path):
    assert path_from_name(path.name) == path
    with pytest.raises(ValueError, match=r"'cosine'.*linear, trigonometric, variance_preserving"):
        path_from_name("cosine")


@pytest.mark.parametrize(
    "constants",
    [
        {"beta_min": 0.0},
        {"beta_max": 0.01},
        {"tau_min": 0.0},
        {"tau_min": 1.0},
        {"beta_max": math.nan},
    ],
)
def test_variance_preserving_refuses_impossible_constants(constants):
    with pytest.raises(ValueError, match=r"beta_min|tau_min"):
        VariancePreservingPath(**constants)


def test_velocity_target_regresses_to_the_closed_form(path, gaussian):
    # E[u | x_tau] is linear in x_tau for Gaussian data: least squares must find its slope.
    n, std = 200_000, 0.5
    x, noise = std * normal(n, 1), normal(n, 1, seed=1)
    for tau in (0.2, 0.5, 0.9):
        x_tau, u = path.interpolate(x, noise, tau), path.velocity(x, noise, tau)
        slope = (x_tau * u).sum() / x_tau.square().sum()
        residual = (u - slope * x_tau).std() / x_tau.std()
        expected = gaussian(path, std).coefficient(tau)
        assert abs(slope - expected) < 5 * residual / math.sqrt(n)
