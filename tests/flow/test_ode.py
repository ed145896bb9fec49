from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from lightly_prg.flow import (
    GRADIENTS,
    SOLVERS,
    CountedVelocity,
    LinearPath,
    Trajectory,
    VariancePreservingPath,
    decode,
    encode,
)

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
EVALUATIONS_PER_STEP = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def test_every_fixed_solver_is_covered():
    assert set(ORDERS) == set(EVALUATIONS_PER_STEP) == set(SOLVERS) - {"dopri5"}


def orders(exact, steps, solve):
    """Observed orders of convergence between neighbouring numbers of steps."""
    errors = [(solve(n) - exact).abs().max().item() for n in steps]
    return [math.log2(a / b) / math.log2(n / m) for (a, m), (b, n) in pairwise(zip(errors, steps, strict=True))]


@pytest.mark.parametrize("knots", [(1.0,), (0.3, 0.35, 1.0)], ids=["even", "uneven"])
@pytest.mark.parametrize("solver", ORDERS)
def test_encode_converges_to_the_closed_form(path, solver, knots, gaussian, images):
    # std 1 would leave the variance-preserving flow standing still
    velocity = gaussian(path, 0.5)
    exact = velocity.encoded(images, path.tau_min, 1.0)
    (order,) = orders(
        exact,
        (20, 40) if solver == "rk4" else (40, 80),
        lambda steps: encode(velocity, images, steps=steps, solver=solver, tau_end=knots)[-1],
    )
    # The linear path is so symmetric that midpoint gains an order on it: at least the nominal one.
    assert order > ORDERS[solver] - 0.3
    z = encode(velocity, images, steps=80, solver=solver)
    assert (z - exact).abs().max() < {1: 0.1, 2: 2e-3, 3: 2e-5, 4: 1e-6}[ORDERS[solver]]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("solver", ORDERS)
def test_the_order_is_the_nominal_one_for_a_network(solver, direction, tiny, images):
    network = tiny()

    @torch.no_grad()
    def solve(steps, solver=solver):
        if direction == "down":
            return decode(network, images, steps=steps, solver=solver)
        return encode(network, images, tau_end=(0.3, 0.35, 1.0), steps=steps, solver=solver)[-1]

    for order in orders(solve(200, "rk4"), (20, 40, 80), solve):
        assert order == pytest.approx(ORDERS[solver], abs=0.3)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_dopri5_meets_its_tolerance(path, direction, gaussian, images):
    velocity = gaussian(path, 0.5)
    ends = (path.tau_min, 1.0) if direction == "encode" else (1.0, path.tau_min)
    exact = velocity.encoded(images, *ends)
    solve = {"encode": encode, "decode": decode}[direction]
    errors = [
        (solve(velocity, images, solver="dopri5", rtol=tol, atol=tol) - exact).abs().max().item()
        for tol in (1e-4, 1e-9)
    ]
    assert errors[0] < 1e-2
    assert errors[1] < 1e-7


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_positions_in_the_order_asked(path, solver, gaussian, images):
    velocity = gaussian(path, 0.5)
    taus = [0.7, path.tau_min, 0.1, 0.7, 0.25]
    states = encode(velocity, images, tau_end=taus, steps=64, solver=solver, rtol=1e-8, atol=1e-8)
    assert states.shape == (5, *images.shape)
    assert torch.equal(states[1], images)
    assert torch.equal(states[0], states[3])
    for tau, state in zip(taus, states, strict=True):
        exact = velocity.encoded(images, path.tau_min, tau)
        torch.testing.assert_close(state, exact, rtol=0.05 if solver == "euler" else 2e-3, atol=0)
    # one position as a sequence keeps the leading axis
    assert encode(velocity, images, tau_end=[0.5], steps=4).shape == (1, *images.shape)
    assert torch.equal(encode(velocity, images, tau_end=[path.tau_min])[0], images)


def test_euler_by_hand():
    # dx/dtau = tau x from x = 1, steps of 1/2: 1 -> 1 -> 1 + 1/4; back: 1 -> 1/2 -> 1/2 - 1/8
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)

    def velocity(tau, x):
        return tau * x

    assert encode(velocity, x, steps=2).item() == 1.25
    assert decode(velocity, x, steps=2).item() == 0.375
    trajectory = encode(velocity, x, steps=2, return_trajectory=True)
    assert isinstance(trajectory, Trajectory)
    assert trajectory.states.flatten().tolist() == [1, 1, 1.25]
    assert trajectory.tau.tolist() == [0, 0.5, 1]
    assert decode(velocity, x, steps=2, return_trajectory=True).tau.tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_trajectory(path, solver, gaussian, images):
    velocity = gaussian(path, 0.5)
    kwargs = {"steps": 40, "solver": solver, "tau_end": [0.2, 0.9]}
    trajectory = encode(velocity, images, return_trajectory=True, **kwargs)
    assert trajectory.states.shape == (41, *images.shape)
    assert trajectory.tau.shape == (41,)
    assert (trajectory.tau[0], trajectory.tau[-1]) == (path.tau_min, 0.9)
    assert torch.equal(trajectory.states[0], images)
    knot = trajectory.tau.tolist().index(0.2)
    torch.testing.assert_close(trajectory.states[[knot, -1]], encode(velocity, images, **kwargs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        trajectory.states,
        torch.stack([velocity.encoded(images, path.tau_min, t) for t in trajectory.tau.tolist()]),
        rtol=0.1 if solver == "euler" else 5e-3,
        atol=0,
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_zero_network_encodes_to_the_identity(solver, gradient, images):
    network = nn.Conv2d(1, 1, 1, bias=False).double()
    nn.init.zeros_(network.weight)

    class Velocity(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, tau, x):
            return self.network(x)

    images = images.requires_grad_()
    z = encode(Velocity(), images, solver=solver, gradient=gradient, steps=4)
    # dopri5 evaluates a polynomial at the end: exact up to rounding
    torch.testing.assert_close(z, images, rtol=0, atol=1e-13 if solver == "dopri5" else 0)
    z.sum().backward()
    torch.testing.assert_close(images.grad, torch.ones_like(images), rtol=1e-13, atol=0)
    assert network.weight.grad.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_round_trip_converges(path, solver, gaussian, tiny, images):
    for velocity in (gaussian(path, 0.5), tiny(path)):
        errors = []
        for steps, tol in ((8, 1e-3), (32, 1e-7)):
            kwargs = {"steps": steps, "solver": solver, "rtol": tol, "atol": tol}
            back = decode(velocity, encode(velocity, images, **kwargs), **kwargs)
            errors.append((back - images).abs().max().item())
        assert errors[1] < (0.4 if solver == "euler" else 0.08) * errors[0]
        assert errors[1] < (0.2 if solver == "euler" else 2e-3)


def test_ends_come_from_the_path_of_the_velocity(tiny, images):
    path = VariancePreservingPath(tau_min=0.02)
    for velocity in (tiny(path), CountedVelocity(tiny(path))):
        up = encode(velocity, images, steps=2, return_trajectory=True)
        assert up.tau.tolist() == [0.02, 0.51, 1]
        down = decode(velocity, images, steps=2, return_trajectory=True)
        assert down.tau.tolist() == [1, 0.51, 0.02]
        with pytest.raises(ValueError, match=r"\[0.02, 1\] on the variance_preserving path"):
            encode(velocity, images, tau_start=0.0)
        with pytest.raises(ValueError, match=r"\[0.02, 1\]"):
            decode(velocity, images, tau_end=0.01)
    assert encode(tiny(), images, steps=2, return_trajectory=True).tau.tolist() == [0, 0.5, 1]
    # without a path nothing is known about where the velocity ends
    assert encode(tiny(), images, steps=2, tau_end=1.5).isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_no_solver_leaves_the_interval(solver, gradient, tiny, images):
    taus = []
    network = tiny()

    class Velocity(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, tau, x):
            assert tau.ndim == 0
            assert tau.dtype == x.dtype == torch.float64
            taus.append(tau.item())
            # still at first, so that an adaptive solver would like a huge step
            return 1e-3 * self.network(tau, x)

    for solve, ends in (
        (encode, {"tau_start": 0.25, "tau_end": 0.75}),
        (decode, {"tau_start": 0.75, "tau_end": 0.25}),
    ):
        z = solve(
            Velocity(),
            images.clone().requires_grad_(),
            solver=solver,
            gradient=gradient,
            steps=5,
            **ends,
        )
        z.sum().backward()
    assert min(taus) >= 0.25 - 1e-15
    assert max(taus) <= 0.75 + 1e-15


@pytest.mark.parametrize("solver", SOLVERS)
def test_checkpoint_is_exactly_full(solver, tiny, images):
    results = {}
    for gradient in ("full", "checkpoint"):
        network, x = tiny(), images.clone().requires_grad_()
        z = encode(network, x, tau_end=[0.3, 1.0], steps=5, solver=solver, gradient=gradient)
        (z[0].square().sum() + z[1].sin().sum()).backward()
        results[gradient] = [z, x.grad, *(p.grad for p in network.parameters())]
    assert len(results["full"]) == 5
    for full, checkpointed in zip(*results.values(), strict=True):
        assert torch.equal(full, checkpointed)
        assert full.abs().max() > 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("solve", [encode, decode])
def test_full_gradient_against_finite_differences(solve, solver, tiny, images):
    network, x = tiny(), images.clone().requires_grad_()
    kwargs = {"steps": 6, "solver": solver, "gradient": "full", "rtol": 1e-9, "atol": 1e-9}
    solve(network, x, **kwargs).sin().sum().backward()
    step = 1e-6
    for tensor in (x, *network.parameters()):
        index = (0,) * tensor.ndim
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                tensor[index] += sign * step
                values.append(solve(network, x, **kwargs).sin().sum().item())
                tensor[index] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert tensor.grad[index].item() == pytest.approx(difference, rel=1e-6, abs=1e-7)


def gradients(solve, make_network, images, **kwargs):
    network, x = make_network(), images.clone().requires_grad_()
    solve(network, x, **kwargs).sin().sum().backward()
    return torch.cat([t.grad.flatten() for t in (x, *network.parameters())])


@pytest.mark.parametrize("solve", [encode, decode])
def test_adjoint_is_close_for_fine_steps_and_biased_for_euler(solve, tiny, images):
    def error(**kwargs):
        full = gradients(solve, tiny, images, gradient="full", **kwargs)
        adjoint = gradients(solve, tiny, images, gradient="adjoint", **kwargs)
        return ((adjoint - full).norm() / full.norm()).item()

    assert error(steps=40, solver="rk4") < 1e-6
    assert error(solver="dopri5", rtol=1e-9, atol=1e-9) < 1e-6
    coarse, fine = error(steps=8, solver="euler"), error(steps=32, solver="euler")
    assert coarse > 1e-2
    assert 3 < coarse / fine < 5  # of the order of the step


def test_adjoint_of_a_frozen_network_reaches_the_images(tiny, images):
    def frozen():
        return tiny().requires_grad_(False)

    x, y = images.clone().requires_grad_(), images.clone().requires_grad_()
    for state, gradient in ((x, "full"), (y, "adjoint")):
        encode(frozen(), state, steps=40, solver="rk4", gradient=gradient).sin().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-6)


def test_adjoint_needs_a_module(tiny, images):
    network = tiny()
    for velocity in (network.forward, lambda tau, x: x, CountedVelocity(network.forward)):
        with pytest.raises(ValueError, match=r"nn\.Module"):
            encode(velocity, images, gradient="adjoint")
    counted = CountedVelocity(network)
    encode(counted, images, steps=3, gradient="adjoint").sum().backward()
    assert network.inner.grad.abs().max() > 0


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted_once(solver, gradient, tiny, images):
    calls = []
    network = tiny()
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    counted = CountedVelocity(network)
    z = encode(counted, images.requires_grad_(), steps=7, solver=solver, gradient=gradient)
    forward = len(calls)
    assert counted.evaluations == forward
    if solver in EVALUATIONS_PER_STEP:
        assert forward == 7 * EVALUATIONS_PER_STEP[solver]
    else:
        assert forward % 6 == 1  # first same as last: one at the start, six for each step
    z.sum().backward()
    assert counted.evaluations == forward
    assert (len(calls) > forward) == (gradient != "full")
    counted(torch.tensor(0.5, dtype=torch.float64), images)
    assert counted.evaluations == forward + 1
    # a counter in a counter counts too
    outer = CountedVelocity(counted)
    encode(outer, images, steps=2, gradient=gradient)
    assert outer.evaluations == 2
    assert counted.evaluations == forward + 3


def test_no_gradient_no_recomputation(tiny, images):
    with torch.no_grad():
        z = encode(tiny(), images, steps=2)
    assert not z.requires_grad
    assert z.untyped_storage().nbytes() == images.untyped_storage().nbytes()  # not the whole solve


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision(solver, dtype, images):
    state = torch.promote_types(dtype, torch.float32)
    seen = set()

    def velocity(tau, x):
        seen.add((tau.dtype, x.dtype, tau.ndim))
        return (-x).to(torch.bfloat16)

    z = encode(velocity, images.to(dtype), steps=3, solver=solver, rtol=1e-2, atol=1e-2)
    assert z.dtype == state
    assert seen == {(state, state, 0)}
    assert encode(velocity, images.to(dtype), tau_end=0.0).dtype == state


def test_steps_are_taken_in_the_precision_of_the_state(images):
    def velocity(tau, x):
        return torch.sin(x).to(torch.bfloat16)

    expected = images.float()
    for _ in range(4):
        expected = expected + 0.3 / 4 * torch.sin(expected).to(torch.bfloat16).float()
    z = encode(velocity, images.float(), tau_end=0.3, steps=4)
    torch.testing.assert_close(z, expected, rtol=1e-6, atol=1e-6)


def test_a_network_under_autocast(images):
    network = nn.Conv2d(1, 1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for solver in SOLVERS:
            assert encode(lambda tau, x: network(x), images.float(), steps=2, solver=solver).dtype == torch.float32


def test_dropout_is_the_same_when_recomputed(images):
    # the recomputed evaluation must see the same mask, or the gradient belongs to another function
    def velocity(tau, x):
        return nn.functional.dropout(x, 0.5)

    grads = []
    for gradient in ("full", "checkpoint"):
        x = images.clone().requires_grad_()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encode(velocity, x, steps=4, gradient=gradient).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_nothing_random_is_drawn(tiny, images):
    before = torch.random.get_rng_state()
    encode(tiny(), images.requires_grad_(), steps=2).sum().backward()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("solver", sorted(ORDERS))
def test_non_finite_states_say_where(solver, images):
    def velocity(tau, x):
        return x / (tau < 0.5)

    with pytest.raises(FloatingPointError, match=r"tau = 0\.(5|6) .*solver " + solver):
        encode(velocity, images, steps=10, solver=solver)
    with pytest.raises(FloatingPointError, match=r"tau = 0 \(position 0 of 10"):
        encode(lambda tau, x: x, images * math.nan, steps=10, solver=solver)


def test_dopri5_that_cannot_go_on_says_where(images):
    def velocity(tau, x):
        return x / (tau < 0.5)

    with pytest.raises(FloatingPointError, match=r"dopri5 gave up near tau = 0\.[5-9]"):
        encode(velocity, images, solver="dopri5")
    with pytest.raises(FloatingPointError, match=r"dopri5 gave up near tau = (0\.9|1:)"):
        decode(velocity, images, solver="dopri5")
    with pytest.raises(FloatingPointError, match="dopri5 gave up"):
        encode(lambda tau, x: x, images * math.nan, solver="dopri5")

    def failing(tau, x):
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        encode(failing, images, solver="dopri5")


def test_errors_name_what_is_allowed(images):
    def velocity(tau, x):
        return x

    for solve in (encode, decode):
        with pytest.raises(ValueError, match=r"'heun'.*euler, midpoint, heun2, heun3, rk4, dopri5"):
            solve(velocity, images, solver="heun")
        with pytest.raises(ValueError, match=r"'exact'.*full, checkpoint, adjoint"):
            solve(velocity, images, gradient="exact")
        with pytest.raises(ValueError, match=r"at least 1, got 0"):
            solve(velocity, images, steps=0)
        with pytest.raises(ValueError, match=r"floating-point.*int64"):
            solve(velocity, images.long())
        with pytest.raises(ValueError, match=r"\(3, 1, 2, 2\), got \(3, 1, 1, 1\)"):
            solve(lambda tau, x: x.mean((2, 3), keepdim=True), images)
    with pytest.raises(ValueError, match=r"encode integrates upward.*0.5, got \[0.4\]"):
        encode(velocity, images, tau_start=0.5, tau_end=0.4)
    with pytest.raises(ValueError, match=r"encode integrates upward.*got \[\]"):
        encode(velocity, images, tau_end=[])
    with pytest.raises(ValueError, match=r"encode integrates upward.*nan"):
        encode(velocity, images, tau_end=[0.5, math.nan])
    with pytest.raises(ValueError, match=r"decode integrates downward.*0.5, got 0.6"):
        decode(velocity, images, tau_start=0.5, tau_end=0.6)
    with pytest.raises(ValueError, match=r"too fine for torch.float32"):
        encode(velocity, images.float(), tau_start=0.5, tau_end=0.5 + 1e-7, steps=4)


def test_where_the_ends_meet_the_state_is_returned(images):
    path = LinearPath()
    for solve in (encode, decode):
        assert torch.equal(solve(path.interpolate, images, tau_start=0.3, tau_end=0.3), images)
    trajectory = encode(path.interpolate, images, tau_end=0.0, return_trajectory=True)
    assert trajectory.states.shape == (1, *images.shape)
    assert trajectory.tau.tolist() == [0]
