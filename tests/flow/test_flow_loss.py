from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightly_prg.flow import (
    FlowMatchingLoss,
    LinearPath,
    TrigonometricPath,
    VariancePreservingPath,
)
from lightly_prg.flow.loss import TAU_SAMPLINGS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def zero(tau, x):
    return torch.zeros_like(x)


def test_value_by_hand():
    x = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    noise = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).reshape(2, 1, 1, 2)
    tau = torch.tensor([0.25, 0.5])
    # linear: u = noise - x = (1, -2), (1, -1); v = 0: mean squares 5/2 and 1
    loss = FlowMatchingLoss()(zero, x, noise=noise, tau=tau)
    assert loss.shape == ()
    assert loss.item() == pytest.approx((2.5 + 1.0) / 2)
    # v = x_tau = (1.25, 2.5), (0.5, 1.5): errors (0.25, 4.5), (-0.5, 2.5)
    loss = FlowMatchingLoss()(lambda tau, x: x, x, noise=noise, tau=tau)
    assert loss.item() == pytest.approx(((0.25**2 + 4.5**2) / 2 + (0.5**2 + 2.5**2) / 2) / 2)


def test_reference_code_value_is_half_as_much_again_for_three_channels():
    x = torch.randn(4, 3, 2, 2, generator=seeded())
    noise = torch.randn(4, 3, 2, 2, generator=seeded(1))
    loss = FlowMatchingLoss()(zero, x, noise=noise, tau=torch.full((4,), 0.5))
    reference = 0.5 * (noise - x).square().sum(1).mean()
    assert reference.item() == pytest.approx(1.5 * loss.item(), rel=1e-6)


def test_variance_preserving_weight_applies_to_each_image():
    path = VariancePreservingPath()
    x, noise = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    tau = torch.tensor([0.1, 0.8], dtype=torch.float64)
    loss = FlowMatchingLoss(path=path)(zero, x.double(), noise=noise.double(), tau=tau)
    expected = (path.sigma(tau) ** 2 * path.alpha_prime(tau) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_exact_velocity_of_one_pair_costs_nothing(path):
    x, noise = torch.randn(1, 3, 2, 2, generator=seeded()), torch.ones(1, 3, 2, 2)
    tau = torch.tensor([0.4])
    target = path.velocity(x, noise, tau)
    assert FlowMatchingLoss(path=path)(lambda t, s: target, x, noise=noise, tau=tau).item() == 0


def test_the_network_sees_the_state_and_its_positions(path):
    x = torch.randn(4, 1, 2, 2, generator=seeded())
    noise, tau = torch.randn(4, 1, 2, 2, generator=seeded(1)), torch.tensor([0.1, 0.2, 0.5, 0.9])
    seen = []

    def record(tau, x_tau):
        seen.append((tau, x_tau))
        return x_tau

    FlowMatchingLoss(path=path)(record, x, noise=noise, tau=tau)
    assert torch.equal(seen[0][0], tau)
    assert torch.equal(seen[0][1], path.interpolate(x, noise, tau))


def test_gaussian_velocity_is_the_minimum(path, gaussian):
    exact = gaussian(path, 0.5)
    x = 0.5 * torch.randn(20_000, 1, 1, 1, generator=seeded(), dtype=torch.float64)
    criterion = FlowMatchingLoss(path=path)

    def loss(scale):
        def velocity(tau, x_tau):
            return scale * exact.coefficient(tau).reshape(-1, 1, 1, 1) * x_tau

        return criterion(velocity, x, generator=seeded(1)).item()

    assert loss(1.0) < min(loss(0.9), loss(1.1))


def test_coupling_reaches_the_loss():
    x = torch.randn(32, 1, 2, 2, generator=seeded())
    independent = FlowMatchingLoss()(zero, x, generator=seeded(1))
    optimal = FlowMatchingLoss(coupling="optimal_transport")(zero, x, generator=seeded(1))
    assert optimal < 0.9 * independent
    noise, tau = torch.randn(32, 1, 2, 2, generator=seeded(2)), torch.full((32,), 0.5)
    given = FlowMatchingLoss(coupling="optimal_transport")(zero, x, noise=noise, tau=tau)
    assert given < 0.9 * FlowMatchingLoss()(zero, x, noise=noise, tau=tau)


def test_only_the_generator_is_drawn_from():
    x = torch.randn(4, 1, 2, 2, generator=seeded())
    before = torch.random.get_rng_state()
    one, two, other = (FlowMatchingLoss()(zero, x, generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    generator = seeded(5)
    FlowMatchingLoss()(zero, x, noise=x, tau=torch.full((4,), 0.5), generator=generator)
    assert torch.equal(generator.get_state(), seeded(5).get_state())
    assert torch.equal(torch.random.get_rng_state(), before)
    # noise first, then positions
    noise = torch.randn(4, 1, 2, 2, generator=generator)
    tau = torch.rand(4, generator=generator)
    assert torch.equal(FlowMatchingLoss()(zero, x, noise=noise, tau=tau), one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computed_in_float32_whatever_the_network_returns(dtype):
    x = torch.randn(4, 1, 2, 2, generator=seeded())
    noise, tau = torch.randn(4, 1, 2, 2, generator=seeded(1)), torch.full((4,), 0.3)
    loss = FlowMatchingLoss()(lambda t, s: torch.zeros_like(s, dtype=dtype), x, noise=noise, tau=tau)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, FlowMatchingLoss()(zero, x, noise=noise, tau=tau))
    assert FlowMatchingLoss()(zero, x.to(dtype), noise=noise, tau=tau).dtype == torch.float32


def test_gradient_against_finite_differences(path, tiny, images):
    network = tiny()
    criterion = FlowMatchingLoss(path=path)
    noise = torch.randn(3, 1, 2, 2, generator=seeded(1), dtype=torch.float64)
    tau = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def velocity(tau, x):
        return torch.stack([network(t, s[None])[0] for t, s in zip(tau, x, strict=True)])

    criterion(velocity, images, noise=noise, tau=tau).backward()
    step = 1e-6
    for parameter in network.parameters():
        index = (1,) * parameter.ndim
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[index] += sign * step
                values.append(criterion(velocity, images, noise=noise, tau=tau).item())
                parameter[index] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert parameter.grad[index].item() == pytest.approx(difference, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("sampling", TAU_SAMPLINGS)
def test_positions_are_distributed_as_promised(path, sampling):
    criterion = FlowMatchingLoss(path=path, tau_sampling=sampling)
    n = 20_000
    tau = criterion.sample_tau(n, seeded())
    assert tau.shape == (n,)
    assert tau.dtype == torch.float32
    assert tau.min() >= torch.tensor(path.tau_min)
    assert tau.max() <= path.tau_max
    unit = ((tau - path.tau_min) / (path.tau_max - path.tau_min)).double().sort().values
    if sampling == "logit_normal":
        unit = 0.5 * (1 + torch.erf(torch.logit(unit) / math.sqrt(2)))
    elif sampling == "mode":
        # The share u below tau solves tau = u - s (sin^2(pi u / 2) - u): equation 20 of the paper, mirrored.
        u = np.linspace(0, 1, 10_001)
        unit = torch.from_numpy(np.interp(unit, u - 1.29 * (np.sin(np.pi / 2 * u) ** 2 - u), u))
    # Kolmogorov-Smirnov distance to the uniform law, 1.95 / sqrt(n) is the 0.1 % level
    ranks = (torch.arange(n) + 0.5) / n
    assert (unit - ranks).abs().max() < 1.95 / math.sqrt(n)


def test_names_and_defaults():
    assert FlowMatchingLoss().path == LinearPath()
    assert FlowMatchingLoss(path="trigonometric").path == TrigonometricPath()
    with pytest.raises(ValueError, match=r"'cosine'.*linear"):
        FlowMatchingLoss(path="cosine")
    with pytest.raises(ValueError, match=r"'ot'.*optimal_transport"):
        FlowMatchingLoss(coupling="ot")
    with pytest.raises(ValueError, match=r"'cubic'.*logit_normal"):
        FlowMatchingLoss(tau_sampling="cubic")


def test_shape_errors():
    x = torch.zeros(4, 1, 2, 2)
    with pytest.raises(ValueError, match=r"non-empty batch.*\(0, 1, 2, 2\)"):
        FlowMatchingLoss()(zero, x[:0])
    with pytest.raises(ValueError, match=r"non-empty batch.*\(4,\)"):
        FlowMatchingLoss()(zero, x[:, 0, 0, 0])
    with pytest.raises(ValueError, match=r"noise.*\(4, 1, 2, 2\), got \(4, 2, 2\)"):
        FlowMatchingLoss()(zero, x, noise=x[:, 0])
    with pytest.raises(ValueError, match=r"\(4,\), got \(1,\)"):
        FlowMatchingLoss()(zero, x, tau=torch.zeros(1))
    with pytest.raises(ValueError, match=r"shape of its input \(4, 1, 2, 2\), got \(4, 1, 1, 1\)"):
        FlowMatchingLoss()(lambda t, s: s.mean((2, 3), keepdim=True), x)
