from __future__ import annotations

import itertools

import pytest
import torch

from lightly_prg.flow import couple


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cost(x, noise):
    return (x - noise).square().sum().item()


def test_independent_leaves_the_noise_alone():
    x, noise = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1)
    assert torch.equal(couple(x, noise), noise)


def test_optimal_transport_undoes_a_known_shuffle():
    x = normal(16, 1, 2, 2)
    permutation = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    # far-off norms must not matter: scaling and shifting keep the order of least cost here
    assert torch.equal(couple(x, x[permutation], "optimal_transport"), x)


def test_optimal_transport_is_a_permutation_and_lowers_the_cost():
    x, noise = normal(64, 1, 2, 2), normal(64, 1, 2, 2, seed=1)
    paired = couple(x, noise, "optimal_transport")
    order = (paired[:, None] == noise[None]).flatten(2).all(2)
    assert order.sum(0).tolist() == order.sum(1).tolist() == [1] * 64
    assert cost(x, paired) < 0.8 * cost(x, noise)


@pytest.mark.parametrize("seed", range(5))
def test_optimal_transport_equals_brute_force(seed):
    x, noise = normal(5, 1, 1, 2, seed=seed), 3 * normal(5, 1, 1, 2, seed=seed + 50)
    best = min(cost(x, noise[list(p)]) for p in itertools.permutations(range(5)))
    assert cost(x, couple(x, noise, "optimal_transport")) == pytest.approx(best, rel=1e-6)


def test_mixed_precision_does_not_blur_the_costs():
    x, noise = normal(64, 1, 4, 4), normal(64, 1, 4, 4, seed=1)
    expected = couple(x, noise, "optimal_transport")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(couple(x, noise, "optimal_transport"), expected)


@pytest.mark.parametrize("kind", ["independent", "optimal_transport"])
def test_noise_is_drawn_from_the_generator_alone(kind):
    x = normal(4, 1, 2, 2)
    before = torch.random.get_rng_state()
    one, two, other = (couple(x, None, kind, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == x.shape
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_single_image_and_gradients():
    x, noise = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1)
    assert torch.equal(couple(x, noise, "optimal_transport"), noise)
    assert couple(normal(0, 1, 2, 2), None, "optimal_transport").shape == (0, 1, 2, 2)
    network_noise = normal(6, 1, 2, 2, seed=2).requires_grad_()
    couple(normal(6, 1, 2, 2), network_noise, "optimal_transport").sum().backward()
    assert torch.equal(network_noise.grad, torch.ones(6, 1, 2, 2))


def test_errors():
    x = normal(4, 1, 2, 2)
    with pytest.raises(ValueError, match=r"'ot'.*independent, optimal_transport"):
        couple(x, x, "ot")
    with pytest.raises(ValueError, match=r"\(4, 1, 2, 2\), got \(3, 1, 2, 2\)"):
        couple(x, x[:3])
