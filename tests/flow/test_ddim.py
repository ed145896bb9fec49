from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lightly_prg.flow import (
    CountedVelocity,
    LinearPath,
    Path,
    PathRange,
    SchedulerPath,
    TrigonometricPath,
    VariancePreservingPath,
    decode,
    encode,
)

LEVELS = tuple(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).tolist())
COARSE = tuple(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50, dtype=torch.float64), 0).tolist())


def test_scheduler_path__has_the_tables_values_at_every_timestep() -> None:
    path = SchedulerPath(LEVELS)
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 6e-8)):
        tau = torch.tensor([path.position(t) for t in range(1000)], dtype=dtype)
        levels = torch.tensor(LEVELS, dtype=torch.float64)
        torch.testing.assert_close(path.alpha(tau).double(), levels.sqrt(), rtol=tolerance, atol=0)
        torch.testing.assert_close(path.sigma(tau).double(), (1 - levels).sqrt(), rtol=tolerance, atol=0)
        assert path.timestep(tau).tolist() == list(range(1000))
    ends = torch.tensor([0.0, 1.0])
    assert path.alpha(ends)[0] == 1
    assert path.sigma(ends)[0] == 0
    assert path.timestep(ends).tolist() == [0, 999]
    assert path.position(-1) == path.tau_min == 0
    assert path.position(999) == path.tau_max == 1


def test_scheduler_path__between_the_timesteps_is_smooth_and_monotone() -> None:
    path = SchedulerPath(COARSE)
    tau = torch.linspace(0, 1, 5001, dtype=torch.float64)
    assert (path.alpha(tau).diff() < 0).all()
    assert (path.sigma(tau).diff() > 0).all()
    inside = tau[1:-1]
    for value, derivative in ((path.alpha, path.alpha_prime), (path.sigma, path.sigma_prime)):
        numeric = (value(inside + 1e-6) - value(inside - 1e-6)) / 2e-6
        # at a timestep the second derivative jumps: half a step of it is left in the difference
        torch.testing.assert_close(derivative(inside), numeric, rtol=2e-4, atol=2e-4)
    # half way between two timesteps the level lies between theirs, near what a straight line gives
    middle = path.alpha(torch.tensor(10.5 / 50, dtype=torch.float64)).item()
    assert middle == pytest.approx((math.sqrt(COARSE[9]) + math.sqrt(COARSE[10])) / 2, rel=1e-3)


def test_scheduler_path__starts_where_its_scheduler_ends() -> None:
    path = SchedulerPath(COARSE, set_alpha_to_one=False)
    assert path.tau_min == 1 / 50
    with pytest.raises(ValueError, match=r"\[0.02, 1\]"):
        path.convert(torch.zeros(1), torch.zeros(1), 0.0, source="noise", target="denoised")


def test_positions__are_the_schedulers() -> None:
    def timesteps(steps: int, **options: Any) -> list[int]:
        path = SchedulerPath(LEVELS, **options)
        return [round(tau * 1000) - 1 for tau in path.positions(steps)]

    assert timesteps(4) == [-1, 0, 250, 500, 750]
    assert timesteps(4, steps_offset=1) == [-1, 1, 251, 501, 751]
    assert timesteps(4, set_alpha_to_one=False) == [0, 250, 500, 750]
    assert timesteps(4, spacing="trailing") == [-1, 249, 499, 749, 999]
    assert timesteps(4, spacing="linspace") == [-1, 0, 333, 666, 999]
    with pytest.raises(ValueError, match=r"\[1, 1000\], got 1001"):
        timesteps(1001)
    with pytest.raises(ValueError, match="beyond timestep 999"):
        timesteps(1000, steps_offset=1)


def test_scheduler_path__names_what_is_wrong() -> None:
    for levels in ((0.5,), (0.5, 0.5), (1.0, 0.5), (0.5, -0.1), (0.5, math.nan)):
        with pytest.raises(ValueError, match="must hold two levels"):
            SchedulerPath(levels)
    with pytest.raises(ValueError, match="'middle': use one of leading, trailing, linspace"):
        SchedulerPath(COARSE, spacing="middle")
    assert repr(SchedulerPath(COARSE)) != repr(SchedulerPath((*COARSE[:-1], COARSE[-1] / 2)))
    assert len(repr(SchedulerPath(LEVELS))) < 100


def test_path_range__is_the_path_between_its_ends() -> None:
    part = PathRange(TrigonometricPath(), 0.1, 0.8)
    tau = torch.tensor([0.1, 0.5])
    for name in ("alpha", "sigma", "alpha_prime", "sigma_prime", "loss_weight"):
        assert getattr(part, name)(tau).equal(getattr(part.path, name)(tau))
    assert (part.tau_min, part.tau_max) == (0.1, 0.8)
    assert part != PathRange(TrigonometricPath(), 0.1, 0.9)
    for low, high in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)):
        with pytest.raises(ValueError, match="trigonometric path lies in"):
            PathRange(TrigonometricPath(), low, high)
    with pytest.raises(ValueError, match=r"\[0.1, 0.8\]"):
        part.convert(torch.zeros(1), torch.zeros(1), 0.9, source="noise", target="velocity")


class Known:
    """A network that knows the one image and the one noise of the state, or is told what it predicts."""

    def __init__(self, path: Path, x: Tensor, noise: Tensor) -> None:
        self.path, self.x, self.noise = path, x, noise

    def __call__(self, tau: Tensor, state: Tensor) -> Tensor:
        return self.path.velocity(self.x, self.noise, tau)


@pytest.mark.parametrize(
    "path",
    [LinearPath(), TrigonometricPath(), VariancePreservingPath(), SchedulerPath(LEVELS), SchedulerPath(COARSE)],
    ids=lambda path: path.name,
)
def test_a_constant_prediction__makes_one_step_exact(path: Path, images: Tensor) -> None:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    velocity = Known(path, images, noise)
    top = path.interpolate(images, noise, 0.95)
    middle = decode(velocity, top, tau_start=0.95, tau_end=0.3, steps=1, solver="ddim")
    torch.testing.assert_close(middle, path.interpolate(images, noise, 0.3), rtol=1e-9, atol=1e-9)
    # Euler's method is not exact there, unless the path is straight.
    euler = decode(velocity, top, tau_start=0.95, tau_end=0.3, steps=1, solver="euler")
    assert euler.allclose(middle) == isinstance(path, LinearPath)


def test_downward_on_the_linear_path__it_is_euler(tiny: Callable[..., Any], images: Tensor) -> None:
    network = tiny(LinearPath())
    ddim = decode(network, images, steps=5, solver="ddim", return_trajectory=True)
    euler = decode(network, images, steps=5, solver="euler", return_trajectory=True)
    torch.testing.assert_close(ddim.states, euler.states)
    assert ddim.tau.equal(euler.tau)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(
    "path", [LinearPath(), TrigonometricPath(), VariancePreservingPath(), SchedulerPath(LEVELS)], ids=lambda p: p.name
)
def test_it_converges_to_the_closed_form_with_order_one(
    path: Path, direction: str, gaussian: Callable[..., Any], images: Tensor
) -> None:
    velocity = gaussian(path, 0.5)
    low, high = max(path.tau_min, 0.02), 1.0
    solve, start, end = (encode, low, high) if direction == "up" else (decode, high, low)
    exact = velocity.encoded(images, start, end)
    errors = [
        (solve(velocity, images, tau_start=start, tau_end=end, steps=n, solver="ddim") - exact).abs().max().item()
        for n in (25, 50, 100)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.3)
    assert errors[-1] < 0.1


@pytest.mark.parametrize(
    ("solver", "coarse", "fine", "factor"),
    [("euler", 40, 80, 1.8), ("heun2", 40, 80, 2), ("dopri5", 1e-4, 1e-7, 50), ("ddim", 40, 80, 1.8)],
)
def test_the_general_solvers_share_its_limit(
    solver: str, coarse: float, fine: float, factor: float, gaussian: Callable[..., Any], images: Tensor
) -> None:
    velocity = gaussian(SchedulerPath(LEVELS), 0.5)
    exact = velocity.encoded(images, 1.0, 0.0)
    errors = []
    for effort in (coarse, fine):
        options = {"rtol": effort, "atol": effort} if solver == "dopri5" else {"steps": int(effort)}
        errors.append((decode(velocity, images, solver=solver, **options) - exact).abs().max().item())
    assert errors[0] < 0.2
    assert errors[1] < errors[0] / factor


@pytest.mark.parametrize("direction", [encode, decode])
def test_gradients__are_those_of_what_was_computed(direction: Any, tiny: Callable[..., Any], images: Tensor) -> None:
    network = tiny(SchedulerPath(COARSE))
    counted = CountedVelocity(network)
    gradients = []
    for gradient in ("full", "checkpoint"):
        network.zero_grad()
        direction(counted, images, steps=4, solver="ddim", gradient=gradient).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert counted.evaluations == 8
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))
    weight = network.inner
    step = torch.zeros_like(weight)
    step[1, 2] = 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight += sign * step
            values.append(direction(network, images, steps=4, solver="ddim").square().sum().item())
            weight -= sign * step
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradients[0][0][1, 2].item(), rel=1e-5)


@pytest.mark.parametrize("direction", [encode, decode])
@pytest.mark.parametrize("solver", ["ddim", "heun2"])
def test_several_ends__are_states_of_one_solve(
    direction: Any, solver: str, tiny: Callable[..., Any], images: Tensor
) -> None:
    network = tiny(SchedulerPath(COARSE))
    start = 0.2 if direction is encode else 0.9
    with torch.no_grad():
        states = direction(network, images, tau_start=start, tau_end=[0.6, start, 0.5], steps=7, solver=solver)
        ordered = direction(
            network, images, tau_start=start, tau_end=0.6 if direction is encode else 0.5, steps=7, solver=solver
        )
    assert states.shape == (3, *images.shape)
    assert states[1].equal(images)
    # the far end is the same solve, with a knot at the near one
    far = states[0] if direction is encode else states[2]
    torch.testing.assert_close(far, ordered, rtol=0.05, atol=0.05)


def test_bad_arguments__are_told(tiny: Callable[..., Any], images: Tensor) -> None:
    with pytest.raises(ValueError, match="needs the path"):
        encode(tiny(), images, solver="ddim")
    assert encode(CountedVelocity(tiny(), LinearPath()), images, steps=1, solver="ddim").shape == images.shape
    for gradient in ("adjoint", "reversible"):
        with pytest.raises(ValueError, match=f"got '{gradient}'"):
            encode(tiny(LinearPath()), images, solver="ddim", gradient=gradient)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        encode(tiny(LinearPath()), images, solver="ddim", tau_end=1.5)
    with pytest.raises(ValueError, match=r"Unknown solver 'ddmi': use one of .*ddim"):
        encode(tiny(LinearPath()), images, solver="ddmi")

    class Infinite:
        path = LinearPath()

        def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
            return x / 0 if tau > 0.5 else x

    with pytest.raises(FloatingPointError, match=r"at tau = 0.75 \(position 3 of 4, solver ddim\)"):
        encode(Infinite(), images, steps=4, solver="ddim")
