from __future__ import annotations

import math

import pytest
import torch

from lightly_prg.flow import CountedVelocity, VariancePreservingPath, decode, encode


def test_ab2__by_hand() -> None:
    # dx/dtau = tau x from 1 in steps of 1/4 and 3/4 to x = 1 and then 1 + 3/4 (1/4 + (3/4) / (2 * 1/4) (1/4 - 0))
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    ends = [0.25, 1.0]
    found = encode(lambda tau, x: tau * x, x, steps=2, tau_end=ends, solver="ab2")
    assert found.flatten().tolist() == [1.0, 1 + 0.75 * (0.25 + 1.5 * 0.25)]


def test_ab2__with_one_step_is_euler(images: torch.Tensor, tiny) -> None:
    network = tiny()
    assert torch.equal(
        encode(network, images, steps=1, solver="ab2"),
        encode(network, images, steps=1, solver="euler"),
    )


@pytest.mark.parametrize("knots", [(1.0,), (0.3, 0.35, 1.0)], ids=["even", "uneven"])
@pytest.mark.parametrize("grid", ["even", "quadratic"])
def test_ab2__is_of_order_two_on_every_grid(path, gaussian, images, grid, knots) -> None:
    velocity = gaussian(path, 0.5)
    exact = velocity.encoded(images, path.tau_min, 1.0)
    coarse, fine = (
        (encode(velocity, images, steps=steps, solver="ab2", tau_end=knots, grid=grid)[-1] - exact).abs().max().item()
        for steps in (60, 120)
    )
    assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.4)
    assert fine < 2e-3


def test_ab2__downward_is_of_order_two(tiny, images) -> None:
    network = tiny()
    with torch.no_grad():
        exact = decode(network, images, steps=200, solver="rk4")
        coarse, fine = (
            (decode(network, images, steps=steps, solver="ab2") - exact).abs().max().item() for steps in (20, 40)
        )
    assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.4)


def test_ab2__takes_one_evaluation_a_step(tiny, images) -> None:
    counted = CountedVelocity(tiny())
    with torch.no_grad():
        encode(counted, images, steps=7, solver="ab2")
    assert counted.evaluations == 7


def test_ab2__gradients(tiny, images) -> None:
    network = tiny()
    found = {}
    for gradient in ("full", "checkpoint"):
        x = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(encode(network, x, steps=3, solver="ab2", gradient=gradient).square().sum(), x)
        found[gradient] = slope
    assert torch.equal(found["full"], found["checkpoint"])
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)

    @torch.no_grad()
    def value(shift: float) -> float:
        return encode(network, images + shift * direction, steps=3, solver="ab2").square().sum().item()

    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    assert (found["full"] * direction).sum().item() == pytest.approx(difference, rel=1e-6)


def test_ab2__refuses_what_it_does_not_take(tiny, images) -> None:
    with pytest.raises(ValueError, match=r"ab2 takes the gradients full and checkpoint, got 'adjoint'"):
        encode(tiny(), images, solver="ab2", gradient="adjoint")
    with pytest.raises(FloatingPointError, match=r"infinite or NaN at tau = 0\.5 .*ab2"):
        encode(lambda tau, x: x / 0 if tau > 0.2 else x, images, steps=4, solver="ab2")


def test_ab2__without_a_way_to_go(tiny, images) -> None:
    assert torch.equal(encode(tiny(), images, tau_end=0.0, solver="ab2"), images)


def test_quadratic_grid__is_the_same_both_ways_and_for_every_solver(tiny, images) -> None:
    network = tiny()
    for solver in ("euler", "rk4", "ab2", "reversible_midpoint", "dopri5"):
        up = encode(network, images, steps=4, solver=solver, grid="quadratic", return_trajectory=True)
        assert up.tau.tolist() == [0, 1 / 16, 1 / 4, 9 / 16, 1]
        down = decode(network, images, steps=4, solver=solver, grid="quadratic", return_trajectory=True)
        assert down.tau.tolist() == [1, 9 / 16, 1 / 4, 1 / 16, 0]
    network.path = VariancePreservingPath()
    start = network.path.tau_min
    tau = encode(network, images, steps=4, solver="ddim", grid="quadratic", return_trajectory=True).tau
    assert tau[0].item() == start
    torch.testing.assert_close(
        tau.sqrt(), torch.linspace(math.sqrt(start), 1, 5, dtype=torch.float64), rtol=0, atol=1e-12
    )
