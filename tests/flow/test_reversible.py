from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.flow import (
    REVERSIBLE_GRADIENTS,
    REVERSIBLE_SOLVERS,
    CountedVelocity,
    LinearPath,
    ReversibleState,
    VariancePreservingPath,
    decode,
    decode_reversible,
    encode,
    encode_reversible,
    generate_reversible,
)
from lightly_prg.flow.coupled_steps import BASES, CoupledSteps

ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


def test_every_method_is_covered() -> None:
    assert set(ORDERS) == set(STAGES) == set(BASES)
    assert set(REVERSIBLE_SOLVERS) == {f"reversible_{base}" for base in ORDERS}


def orders(exact: Tensor, steps: tuple[int, ...], solve: Callable[[int], Tensor]) -> list[float]:
    errors = [(solve(n) - exact).abs().max().item() for n in steps]
    return [math.log2(a / b) / math.log2(n / m) for (a, m), (b, n) in pairwise(zip(errors, steps, strict=True))]


# ---------------------------------------------------------------------------------------------- what is computed


def test_one_step_by_hand() -> None:
    # dx/dtau = x from 1, one Euler step of 1/2, l = 1/2: y = 1 + 1/2 = 3/2; z = 1 - (-1/2 * 3/2) = 7/4.
    # The next: y = 7/4 + (3/2 - 7/4) / 2 + 7/8 = 5/2; z = 7/4 + 5/4 = 3.
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    state = encode_reversible(lambda tau, x: x, x, steps=2, base="euler", coupling=0.5, gradient="full")
    assert (state.y.item(), state.z.item(), state.tau) == (2.5, 3.0, 1.0)
    assert state.grid.tolist() == [0, 0.5, 1]
    back = decode_reversible(lambda tau, x: x, state, return_trajectory=True)
    assert back.states.flatten().tolist() == [2.5, 1.5, 1]
    assert back.tau.tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("base", ORDERS)
def test_increments_are_those_of_torchdiffeq(base: str, tiny: Any, images: Tensor) -> None:
    network = tiny()
    steps = CoupledSteps((0.2, 0.7), BASES[base], 1.0)
    with torch.no_grad():
        up, down = steps.increment(network, 0, images), steps.increment(network, 0, images, back=True)
        torch.testing.assert_close(
            images + up, encode(network, images, tau_start=0.2, tau_end=0.7, steps=1, solver=base), rtol=0, atol=1e-14
        )
        torch.testing.assert_close(
            images + down, decode(network, images, tau_start=0.7, tau_end=0.2, steps=1, solver=base), rtol=0, atol=1e-14
        )


@pytest.mark.parametrize("coupling", [1.0, 0.5])
@pytest.mark.parametrize("base", ORDERS)
def test_the_order_is_that_of_the_method_on_a_closed_form(base: str, coupling: float, images: Tensor) -> None:
    # Where coupling^steps passes from 1 to 0, as with 0.99 here, the error turns from that of the explicit method to
    # that of its adjoint, of the opposite sign for odd orders, and so passes through 0: couplings on both sides of it.
    def velocity(tau: Tensor, x: Tensor) -> Tensor:
        return torch.cos(4 * tau) * x

    def solve(steps: int) -> Tensor:
        return encode_reversible(velocity, images, steps=steps, base=base, coupling=coupling, gradient="full").y

    exact = images * math.exp(math.sin(4.0) / 4)
    (order,) = orders(exact, (80, 160), solve)
    assert order == pytest.approx(ORDERS[base], abs=0.35)


def test_the_flow_of_a_gaussian(path: Any, gaussian: Any, images: Tensor) -> None:
    velocity = gaussian(path, 0.5)
    with torch.no_grad():
        state = encode_reversible(velocity, images, steps=60)
        torch.testing.assert_close(state.y, velocity.encoded(images, path.tau_min, 1.0), rtol=1e-2, atol=0)
        torch.testing.assert_close(decode_reversible(velocity, state), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("base", ORDERS)
def test_generation_is_of_the_same_order_for_a_network(base: str, tiny: Any, images: Tensor) -> None:
    network = tiny()
    with torch.no_grad():
        exact = decode(network, images, steps=100, solver="rk4")
        for order in orders(exact, (20, 40), lambda n: generate_reversible(network, images, steps=n, base=base).y):
            assert order > ORDERS[base] - 0.35


# ---------------------------------------------------------------------------------------------- stability


def matrix(base: str, coupling: float, c: complex) -> Tensor:
    """What one step of length 1 on dx/dtau = c x does to (y, z)."""
    steps = CoupledSteps((0.0, 1.0), BASES[base], coupling)
    columns = []
    for y, z in ((1.0, 0.0), (0.0, 1.0)):
        start = torch.tensor(y, dtype=torch.complex128), torch.tensor(z, dtype=torch.complex128)
        columns.append(torch.stack([*steps.advance(lambda tau, x: c * x, *start)][-1]))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("base", ORDERS)
def test_eigenvalues_of_a_step_are_as_documented(base: str) -> None:
    for coupling in (1.0, 0.9):
        for c in (-0.3, 0.2 + 0.7j):

            def growth(c: complex) -> complex:
                return sum(c**k / math.factorial(k) for k in range(ORDERS[base] + 1))

            found = matrix(base, coupling, c)
            trace = 1 + coupling - (1 - coupling) * (growth(-c) - 1) - (growth(c) - 1) * (growth(-c) - 1)
            assert complex(torch.linalg.det(found)) == pytest.approx(coupling, abs=1e-12)
            assert complex(found.trace()) == pytest.approx(trace, abs=1e-12)


@pytest.mark.parametrize(
    ("base", "coupling", "inside", "outside"),
    [
        ("euler", 1.0, 1.99j, 2.01j),
        ("euler", 0.999, -0.0008, -0.0013),
        ("euler", 0.999, 1.1j, 1.12j),
        ("midpoint", 1.0, 1.57j, 1.58j),
        ("midpoint", 0.999, 1.19j, 1.22j),
        ("midpoint", 0.5, -2.15, -2.17),
        ("heun3", 0.999, 1.83j, 1.84j),
        ("rk4", 0.999, 2.87j, 2.88j),
        ("rk4", 0.9, -0.1, -0.11),
    ],
)
def test_region_of_stability(base: str, coupling: float, inside: complex, outside: complex) -> None:
    def radius(c: complex) -> float:
        return torch.linalg.eigvals(matrix(base, coupling, c)).abs().max().item()

    assert radius(inside) <= 1 + 1e-4
    assert radius(outside) > 1 + 1e-4


def test_what_separates_the_states_grows_no_faster_than_the_flow_contracts() -> None:
    # On dx/dtau = -4 x the two Euler states part, but by at most exp(4) times their first difference.
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for steps in (50, 100, 200):
        state = encode_reversible(lambda tau, x: -4 * x, x, steps=steps, base="euler", gradient="full")
        first = encode_reversible(lambda tau, x: -4 * x, x, tau_end=1 / steps, steps=1, base="euler", gradient="full")
        assert (state.y - state.z).abs() < math.exp(4) * steps * (first.y - first.z).abs()
        assert abs(state.y.item() - math.exp(-4)) < 150 / steps


# ---------------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize("base", ORDERS)
@pytest.mark.parametrize("solve", [encode_reversible, generate_reversible])
def test_undone_to_rounding(solve: Any, base: str, tiny: Any, images: Tensor) -> None:
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        network, x = tiny().to(dtype), images.to(dtype)
        with torch.no_grad():
            state = solve(network, x, steps=50, base=base)
            back = decode_reversible(network, state)
            ordinary = decode(network, encode(network, x, steps=50, solver="euler"), steps=50, solver="euler")
        assert back.dtype == dtype
        torch.testing.assert_close(back, x, rtol=0, atol=atol)
        assert (state.y - x).abs().max() > 0.1
        assert (ordinary - x).abs().max() > 1e-3


def test_a_rounding_error_of_the_end_grows_as_the_coupling_to_the_minus_steps(images: Tensor) -> None:
    # A still flow leaves the coupling alone: an error in y - z is divided by l in every step back.
    for coupling, steps in ((0.999, 50), (0.9, 50), (0.9, 20)):
        state = encode_reversible(
            lambda tau, x: 0 * x, images, steps=steps, base="euler", coupling=coupling, gradient="full"
        )
        wrong = ReversibleState(state.y + 1e-6, state.z, state.grid, state.base, state.coupling)
        error = decode_reversible(lambda tau, x: 0 * x, wrong) - images
        torch.testing.assert_close(error, torch.full_like(error, 1e-6 * coupling**-steps), rtol=1e-6, atol=0)


def test_inversion_error_with_steps_and_coupling(tiny: Any, images: Tensor) -> None:
    network, x = tiny().float(), images.float()

    @torch.no_grad()
    def error(steps: int, coupling: float) -> float:
        return (
            (decode_reversible(network, encode_reversible(network, x, steps=steps, coupling=coupling)) - x)
            .abs()
            .max()
            .item()
        )

    assert error(10, 0.999) < 3e-6
    assert error(200, 0.999) < 3e-5
    assert error(100, 0.9) > 30 * error(100, 0.999)


def test_autocast_inverts_to_its_own_precision() -> None:
    torch.manual_seed(0)
    network, x = ConvVelocity(), torch.randn(2, 1, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        state = encode_reversible(network, x, steps=50)
        back = decode_reversible(network, state)
    assert state.y.dtype == state.z.dtype == torch.float32
    assert 0 < (back - x).abs().max() < 2e-3


def test_half_precision_is_raised(images: Tensor, tiny: Any) -> None:
    network = tiny().float()
    for dtype in (torch.float16, torch.bfloat16):
        with torch.no_grad():
            state = encode_reversible(network, images.to(dtype), steps=3)
            assert encode(network, images.to(dtype), steps=3, solver="reversible_rk4").dtype == torch.float32
            assert encode_reversible(network, images.to(dtype), tau_end=0.0).y.dtype == torch.float32
        assert state.y.dtype == torch.float32
        torch.testing.assert_close(decode_reversible(network, state), images.to(dtype).float(), rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------- encode and decode


@pytest.mark.parametrize("base", ORDERS)
@pytest.mark.parametrize("gradient", REVERSIBLE_GRADIENTS)
def test_encode_is_the_same_solve(gradient: str, base: str, tiny: Any, images: Tensor) -> None:
    network, solver = tiny(LinearPath()), f"reversible_{base}"
    counted = CountedVelocity(network)
    z = encode(counted, images, steps=7, solver=solver, gradient=gradient)
    assert counted.evaluations == 2 * 7 * STAGES[base]
    z.sum().backward()
    assert counted.evaluations == 2 * 7 * STAGES[base]
    assert torch.equal(z, encode_reversible(network, images, steps=7, base=base).y)
    generated = decode(network, images, steps=7, solver=solver, gradient=gradient)
    assert torch.equal(generated, generate_reversible(network, images, steps=7, base=base).y)


@pytest.mark.parametrize("gradient", REVERSIBLE_GRADIENTS)
def test_several_positions_in_the_order_asked(gradient: str, gaussian: Any, tiny: Any, images: Tensor) -> None:
    network = tiny(LinearPath())
    taus = [0.7, 0.0, 0.1, 0.7, 0.25]
    kwargs: dict[str, Any] = {"steps": 32, "solver": "reversible_midpoint", "gradient": gradient}
    states = encode(network, images, tau_end=taus, **kwargs)
    assert states.shape == (5, *images.shape)
    assert torch.equal(states[1], images)
    assert torch.equal(states[0], states[3])
    with torch.no_grad():
        exact = encode(network, images, tau_end=taus, steps=32, solver="rk4")
    torch.testing.assert_close(states, exact, rtol=0, atol=5e-3)
    assert encode(network, images, tau_end=[0.5], **kwargs).shape == (1, *images.shape)
    assert torch.equal(encode(network, images, tau_end=0.0, **kwargs), images)
    trajectory = encode(network, images, tau_end=[0.2, 0.9], return_trajectory=True, **kwargs)
    assert trajectory.states.shape == (33, *images.shape)
    assert (trajectory.tau[0], trajectory.tau[-1]) == (0, 0.9)
    knot = trajectory.tau.tolist().index(0.2)
    assert torch.equal(trajectory.states[[knot, -1]], encode(network, images, tau_end=[0.2, 0.9], **kwargs))


def test_no_position_lies_off_the_path(images: Tensor) -> None:
    path = VariancePreservingPath(tau_min=0.1)

    class Velocity:
        def __init__(self) -> None:
            self.path, self.taus = path, []

        def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
            assert (tau.ndim, tau.dtype) == (0, x.dtype)
            self.taus.append(tau.item())
            return -x

    for base in ORDERS:
        for dtype in (torch.float32, torch.float64):
            velocity = Velocity()
            with torch.no_grad():
                state = encode_reversible(velocity, images.to(dtype), steps=7, base=base)
                decode_reversible(velocity, state)
            low, high = torch.tensor([0.1, 1.0], dtype=dtype).tolist()
            assert low <= min(velocity.taus) < max(velocity.taus) <= high


# ---------------------------------------------------------------------------------------------- gradients


class ConvVelocity(nn.Module):
    """A convolutional network with as much as can go wrong: dropout, a frozen weight, one that is not used."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.frozen, self.unused = nn.Conv2d(8, 8, 1).requires_grad_(False), nn.Linear(2, 2)
        self.dropout = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(self.dropout(torch.tanh(self.frozen(self.first(x)) + tau)))


def gradients(network: nn.Module, x: Tensor, solve: Any, **kwargs: Any) -> list[Tensor]:
    network.zero_grad()
    x = x.clone().requires_grad_()
    solve(network, x, **kwargs).sin().sum().backward()
    return [t.grad for t in (x, *network.parameters()) if t.grad is not None]


@pytest.mark.parametrize("solve", [encode, decode])
@pytest.mark.parametrize("base", ORDERS)
def test_gradient_is_that_of_plain_backpropagation(base: str, solve: Any, tiny: Any, images: Tensor) -> None:
    network = tiny()
    kwargs: dict[str, Any] = {"steps": 9, "solver": f"reversible_{base}"}
    if solve is encode:
        kwargs["tau_end"] = [0.9, 0.3, 0.0]
    full = gradients(network, images, solve, gradient="full", **kwargs)
    assert len(full) == 4
    for gradient in ("checkpoint", "reversible"):
        for a, b in zip(full, gradients(network, images, solve, gradient=gradient, **kwargs), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9 * a.abs().max().item())
            assert a.abs().max() > 1e-3


def test_gradient_against_finite_differences(tiny: Any, images: Tensor) -> None:
    network, x = tiny(), images.clone().requires_grad_()

    def loss() -> Tensor:
        state = encode_reversible(network, x, steps=6, coupling=0.9)
        return state.y.sin().sum() + state.z.cos().sum()

    loss().backward()
    for tensor in (x, *network.parameters()):
        index, values = (0,) * tensor.ndim, []
        with torch.no_grad():
            for sign in (1, -1):
                tensor[index] += sign * 1e-6
                values.append(loss().item())
                tensor[index] -= sign * 1e-6
        assert tensor.grad is not None
        assert tensor.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_frozen_and_unused_parameters_get_no_gradient() -> None:
    torch.manual_seed(1)
    network, x = ConvVelocity().double(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    kwargs: dict[str, Any] = {"steps": 5, "solver": "reversible_heun2"}
    full = gradients(network, x, encode, gradient="full", **kwargs)
    reversible = gradients(network, x, encode, gradient="reversible", **kwargs)
    assert len(full) == 5  # the images, two weights and two biases
    for a, b in zip(full, reversible, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)
    assert network.frozen.weight.grad is None
    assert network.unused.weight.grad is None
    # all frozen: the gradient still reaches the images; images without gradient: it still reaches the weights
    network.zero_grad()
    encode(network, x, gradient="reversible", **kwargs).sin().sum().backward()
    assert network.first.weight.grad is not None
    torch.testing.assert_close(network.first.weight.grad, full[1], rtol=1e-9, atol=1e-12)
    (of_images,) = gradients(network.requires_grad_(False), x, encode, gradient="reversible", **kwargs)
    torch.testing.assert_close(of_images, full[0], rtol=1e-9, atol=1e-12)


def test_dropout_is_drawn_again_as_it_was() -> None:
    torch.manual_seed(2)
    network, x = ConvVelocity(0.5).double(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    found = []
    for gradient in ("full", "reversible"):
        torch.manual_seed(7)
        found.append(gradients(network, x, encode, gradient=gradient, steps=4, solver="reversible_midpoint"))
        found[-1].append(torch.rand(3, dtype=torch.float64))  # and the generator stands where it stood
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)
    torch.manual_seed(8)
    other = gradients(network, x, encode, gradient="reversible", steps=4, solver="reversible_midpoint")
    assert (other[1] - found[0][1]).abs().max() > 1e-3


def test_autocast_is_entered_again_on_the_way_back() -> None:
    torch.manual_seed(3)
    network, x = ConvVelocity(), torch.randn(2, 1, 8, 8)

    def found(gradient: str) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = encode(network, x, steps=4, solver="reversible_midpoint", gradient=gradient)
            # Used again in the same region: a cache filled without gradients would cut the weights off here.
            again = network(torch.tensor(1.0), z.detach())
        dtypes = []
        hook = network.first.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
        (z.sin().sum() + again.float().sin().sum()).backward()
        hook.remove()
        assert set(dtypes) <= {torch.bfloat16}
        assert bool(dtypes) == (gradient != "full")
        assert network.first.weight.grad is not None
        return network.first.weight.grad.clone()

    full, reversible = found("full"), found("reversible")
    assert (reversible - full).norm() < 0.02 * full.norm()


@pytest.mark.parametrize("base", ["euler", "rk4"])
def test_memory_does_not_grow_with_the_steps(base: str, tiny: Any, images: Tensor) -> None:
    def saved(gradient: str, steps: int) -> int:
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encode(tiny(), images.clone().requires_grad_(), steps=steps, solver=f"reversible_{base}", gradient=gradient)
        return count

    assert saved("reversible", 2) == saved("reversible", 64) == 2 * images.numel()
    assert saved("full", 64) > 20 * saved("full", 2)


class Meter:
    """Counts the graphs that are alive at once on the way back, one for each evaluation that keeps its activations."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def __enter__(self) -> Meter:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda token: token.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.__exit__()

    def pack(self, tensor: Tensor) -> Any:
        return Token(self, tensor)


class Token:
    def __init__(self, meter: Meter, tensor: Tensor) -> None:
        self.meter, self.tensor = meter, tensor
        meter.alive += tensor.numel()
        meter.most = max(meter.most, meter.alive)

    def __del__(self) -> None:
        self.meter.alive -= self.tensor.numel()


def test_the_way_back_holds_one_graph_at_a_time(tiny: Any, images: Tensor) -> None:
    def most(base: str, steps: int) -> int:
        z = encode(
            tiny(), images.clone().requires_grad_(), steps=steps, solver=f"reversible_{base}", gradient="reversible"
        )
        with Meter() as meter:
            z.sum().backward()
        assert meter.alive == 0
        return meter.most

    assert most("rk4", 2) == most("rk4", 30)
    assert most("rk4", 2) < 1.5 * most("euler", 2)


def test_a_gradient_at_states_that_are_lost_to_rounding_is_refused(tiny: Any, images: Tensor) -> None:
    z = encode_reversible(tiny(), images, steps=80, coupling=0.5).y
    with pytest.raises(FloatingPointError, match=r"lost to rounding.*coupling 0\.5, 80 steps"):
        z.sum().backward()


def test_grey_images_are_not_taken_for_lost_states(tiny: Any, images: Tensor) -> None:
    """States of zero: rounding is to be judged by the states on the way."""
    gradients = []
    for gradient in ("reversible", "full"):
        network = tiny()
        grey = torch.zeros_like(images)
        encode(network, grey, steps=8, solver="reversible_euler", gradient=gradient).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert any(bool(one.abs().max() > 1e-3) for one in gradients[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_a_parameter_changed_in_between_is_refused(tiny: Any, images: Tensor) -> None:
    network = tiny()
    z = encode(network, images, steps=2, solver="reversible_euler", gradient="reversible")
    with torch.no_grad():
        network.inner.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()


def test_backward_twice(tiny: Any, images: Tensor) -> None:
    network = tiny()
    z = encode(network, images, steps=2, solver="reversible_euler", gradient="reversible")
    (first,) = torch.autograd.grad(z.sum(), network.inner, retain_graph=True)
    (second,) = torch.autograd.grad(z.sum(), network.inner, retain_graph=True)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad(z.square().sum(), network.inner, create_graph=True)[0].sum().backward()


def test_without_gradients_nothing_is_kept_and_any_function_will_do(images: Tensor) -> None:
    with torch.no_grad():
        z = encode(lambda tau, x: -x, images, steps=3, solver="reversible_rk4", gradient="reversible")
    assert not z.requires_grad
    assert z.untyped_storage().nbytes() == images.untyped_storage().nbytes()
    with pytest.raises(ValueError, match=r"nn\.Module.*function: use torch.no_grad"):
        encode(lambda tau, x: -x, images, steps=3, solver="reversible_rk4", gradient="reversible")


def test_a_still_network_is_the_identity(images: Tensor) -> None:
    class Still(nn.Module):
        def forward(self, tau: Tensor, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    for gradient in REVERSIBLE_GRADIENTS:
        x = images.clone().requires_grad_()
        z = encode(Still(), x, solver="reversible_rk4", gradient=gradient, steps=4)
        assert torch.equal(z, images)
        z.sum().backward()
        torch.testing.assert_close(x.grad, torch.ones_like(images), rtol=1e-13, atol=0)


def test_gradient_through_the_way_back(tiny: Any, images: Tensor) -> None:
    # Encoding and undoing is the identity, whatever the weights: so is its derivative.
    network, x = tiny(), images.clone().requires_grad_()
    decode_reversible(network, encode_reversible(network, x, steps=5)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * images, rtol=1e-9, atol=1e-9)
    assert network.inner.grad.abs().max() < 1e-9


# ---------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def nothing() -> Iterator[Callable[..., Tensor]]:
    with torch.no_grad():
        yield lambda tau, x: x


def test_errors_name_what_is_allowed(nothing: Any, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"'heun'.*euler, midpoint, heun2, heun3, rk4"):
        encode_reversible(nothing, images, base="heun")
    for coupling in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"coupling must lie above 0"):
            encode_reversible(nothing, images, coupling=coupling)
    for gradient in ("adjoint", "exact"):
        for kwargs in ({}, {"tau_end": 0.0}):
            with pytest.raises(ValueError, match=rf"'{gradient}'.*full, checkpoint, reversible"):
                encode(nothing, images, solver="reversible_rk4", gradient=gradient, **kwargs)
            with pytest.raises(ValueError, match=rf"'{gradient}'.*full, checkpoint, reversible"):
                encode_reversible(nothing, images, gradient=gradient, **kwargs)
    with pytest.raises(ValueError, match=r"needs a reversible solver, reversible_euler.*got 'euler'"):
        encode(nothing, images, gradient="reversible")
    with pytest.raises(ValueError, match=r"'eular'.*dopri5.*reversible_euler"):
        encode(nothing, images, solver="eular")
    with pytest.raises(ValueError, match=r"at least 1, got 0"):
        encode_reversible(nothing, images, steps=0)
    with pytest.raises(ValueError, match=r"floating-point.*int64"):
        encode_reversible(nothing, images.long())
    with pytest.raises(ValueError, match=r"upward.*0.5, got 0.4"):
        encode_reversible(nothing, images, tau_start=0.5, tau_end=0.4)
    with pytest.raises(ValueError, match=r"downward.*0.5, got 0.6"):
        generate_reversible(nothing, images, tau_start=0.5, tau_end=0.6)
    with pytest.raises(ValueError, match=r"too fine for torch.float32"):
        encode_reversible(nothing, images.float(), tau_start=0.5, tau_end=0.5 + 1e-7, steps=4)
    with pytest.raises(ValueError, match=r"\(3, 1, 2, 2\), got \(3, 1, 1, 1\)"):
        encode_reversible(lambda tau, x: x.mean((2, 3), keepdim=True), images)
    with pytest.raises(ValueError, match="must be alike"):
        ReversibleState(images, images[:1], torch.tensor([0.0, 1.0]), "euler", 0.9)


def test_positions_off_the_path_and_non_finite_states(images: Tensor) -> None:
    def velocity(tau: Tensor, x: Tensor) -> Tensor:
        return x / (tau < 0.5)

    with torch.no_grad():
        with pytest.raises(FloatingPointError, match=r"tau = 0\.5 \(step 5 of 10, solver reversible_rk4"):
            encode(velocity, images, steps=10, solver="reversible_rk4", return_trajectory=True)
        with pytest.raises(FloatingPointError, match=r"before or at tau = 1 "):
            encode_reversible(velocity, images, steps=10)
        state = encode_reversible(lambda tau, x: x, images, steps=4)
        with pytest.raises(FloatingPointError, match="back"):
            decode_reversible(velocity, state)


def test_ends_come_from_the_path(tiny: Any, images: Tensor) -> None:
    network = tiny(VariancePreservingPath(tau_min=0.02))
    with torch.no_grad():
        assert encode_reversible(network, images, steps=2).grid.tolist() == [0.02, 0.51, 1]
        assert generate_reversible(CountedVelocity(network), images, steps=2).grid.tolist() == [1, 0.51, 0.02]
        with pytest.raises(ValueError, match=r"\[0.02, 1\]"):
            encode_reversible(network, images, tau_start=0.0)
        still = encode_reversible(network, images, tau_end=0.02)
    assert torch.equal(decode_reversible(network, still), images)
