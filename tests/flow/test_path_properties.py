from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightly_prg.flow import (
    LinearPath,
    Path,
    SchedulerPath,
    TrigonometricPath,
    VariancePreservingPath,
    decode,
    decode_reversible,
    encode,
    encode_reversible,
    generate_reversible,
)
from lightly_prg.flow.paths import QUANTITIES

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
inside = st.floats(0.02, 0.98)
seeds = st.integers(0, 2**32)


@st.composite
def tables(draw: st.DrawFn) -> SchedulerPath:
    """Levels as schedulers have them: falling, by factors from 1/2 to nearly 1."""
    factors = draw(st.lists(st.floats(0.5, 0.9999), min_size=2, max_size=40))
    return SchedulerPath(tuple(math.prod(factors[: count + 1]) for count in range(len(factors))))


@st.composite
def rates(draw: st.DrawFn) -> VariancePreservingPath:
    low = draw(st.floats(0.01, 2.0))
    return VariancePreservingPath(beta_min=low, beta_max=low + draw(st.floats(0, 20.0)))


paths = st.one_of(st.just(LinearPath()), st.just(TrigonometricPath()), rates(), tables())


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=150)
@given(paths, st.lists(inside, min_size=3, max_size=3), seeds, st.sampled_from(QUANTITIES), st.sampled_from(QUANTITIES))
def test_conversion__there_and_back(path: Path, taus: list[float], seed: int, source: str, target: str) -> None:
    """Of any prediction, not only of one that fits a pair of image and noise."""
    tau = torch.tensor(taus, dtype=torch.float64)
    x_tau, value = normal(seed, 3, 1, 2, 2), normal(seed + 1, 3, 1, 2, 2)
    there = path.convert(x_tau, value, tau, source=source, target=target)
    back = path.convert(x_tau, there, tau, source=target, target=source)
    # Near the ends one coefficient is small: rounding grows by its inverse, at most twice.
    smallest = float(torch.minimum(path.alpha(tau), path.sigma(tau)).min())
    steepest = float(torch.maximum(path.alpha_prime(tau).abs(), path.sigma_prime(tau).abs()).max())
    torch.testing.assert_close(back, value, rtol=0, atol=1e-13 * (1 + steepest) / smallest**3)


@settings(deadline=None, max_examples=150)
@given(paths, inside, inside)
def test_position__and_its_levels_tell_each_other(path: Path, first: float, second: float) -> None:
    """Alpha falls and sigma rises, so each tells tau: found again by halving."""
    low, high = sorted((first, second))
    ends = torch.tensor([low, high], dtype=torch.float64)
    if high - low > 1e-6:
        assert path.alpha(ends)[0] > path.alpha(ends)[1]
        assert path.sigma(ends)[0] < path.sigma(ends)[1]
    for level, falls in ((path.alpha, True), (path.sigma, False)):
        wanted = level(torch.tensor(first, dtype=torch.float64))
        left, right = path.tau_min, path.tau_max
        for _ in range(60):
            middle = (left + right) / 2
            beyond = (level(torch.tensor(middle, dtype=torch.float64)) < wanted).item() == falls
            left, right = (left, middle) if beyond else (middle, right)
        slope = abs(float((path.alpha_prime if falls else path.sigma_prime)(torch.tensor(first, dtype=torch.float64))))
        assert left == pytest.approx(first, abs=1e-12 + 1e-14 / max(slope, 1e-9))


@settings(deadline=None, max_examples=50)
@given(tables(), st.data())
def test_timestep__is_found_again_by_its_position(path: SchedulerPath, data: st.DataObject) -> None:
    timestep = data.draw(st.integers(0, len(path.alphas_cumprod) - 1))
    tau = torch.tensor(path.position(timestep), dtype=torch.float64)
    assert path.timestep(tau) == timestep
    assert path.alpha(tau).item() ** 2 == pytest.approx(path.alphas_cumprod[timestep], rel=1e-12)
    assert path.sigma(tau).item() ** 2 == pytest.approx(1 - path.alphas_cumprod[timestep], rel=1e-12)


class Field:
    """A smooth velocity on states (B, 1, 2, 2), drawn from a seed."""

    def __init__(self, seed: int) -> None:
        weights = normal(seed, 14, 4)
        self.inner, self.outer = 0.8 * weights[:6], 0.5 * weights[6:12]
        self.slow, self.fast = weights[12:].reshape(-1)[:6], 2.0

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        hidden = torch.tanh(x.flatten(1) @ self.inner.T + torch.cos(self.fast * tau + self.slow))
        return (hidden @ self.outer).reshape(x.shape)


@settings(deadline=None, max_examples=20)
@given(seeds, st.sampled_from(sorted(ORDERS)), st.floats(0.0, 0.4), st.floats(0.5, 1.0))
def test_encode_and_decode__come_back_to_the_order_of_the_solver(
    seed: int, solver: str, start: float, end: float
) -> None:
    field, x = Field(seed), normal(seed + 1, 16, 1, 2, 2)

    def error(steps: int) -> float:
        state = encode(field, x, tau_start=start, tau_end=end, steps=steps, solver=solver)
        back = decode(field, state, tau_start=end, tau_end=start, steps=steps, solver=solver)
        return float((back - x).square().mean().sqrt())

    coarse, fine = error(16), error(32)
    assert fine < 1e-12 or math.log2(coarse / fine) > ORDERS[solver] - 0.4
    assert coarse < 0.5


@settings(deadline=None, max_examples=20)
@given(
    seeds,
    st.sampled_from(sorted(ORDERS)),
    st.sampled_from([encode_reversible, generate_reversible]),
    st.integers(1, 60),
    st.floats(0.98, 1.0),
)
def test_reversible__comes_back_to_rounding(seed: int, base: str, solve: object, steps: int, coupling: float) -> None:
    field, x = Field(seed), normal(seed + 1, 4, 1, 2, 2)
    assert callable(solve)
    state = solve(field, x, steps=steps, base=base, coupling=coupling, gradient="full")
    assert (state.y - x).abs().max() > 1e-3
    torch.testing.assert_close(decode_reversible(field, state), x, rtol=0, atol=1e-12 * coupling**-steps * 100)
