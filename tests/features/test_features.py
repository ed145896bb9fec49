from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.features import PRGEncoder, activation, extract_features
from lightly_prg.flow import LinearPath, VariancePreservingPath, encode
from lightly_prg.models.pooling import pool
from lightly_prg.recipe import FeatureSpec, OdeSpec


def gaussian_velocity(tau: Tensor, x: Tensor) -> Tensor:
    """Exact velocity of the linear path for data N(0, 4 I)."""
    return x * (tau - (1 - tau) * 4) / ((1 - tau) ** 2 * 4 + tau**2)


class Tower(nn.Module):
    """A user's own network: no `activations`, no `input_shape`, a tuple somewhere inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 1, 3, padding=1)
        self.calls = 0

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.second(torch.tanh(self.first(x) + tau))
        return out


def test_state__closed_form_on_gaussian_data() -> None:
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    ode = OdeSpec(solver="rk4", steps=40)
    for tau in (0.0, 0.5, 1.0):
        feature = FeatureSpec(source="state", tau=tau, pool="flatten")
        values, _ = extract_features(gaussian_velocity, x, path=LinearPath(), ode=ode, feature=feature)
        scale = (((1 - tau) ** 2 * 4 + tau**2) / 4) ** 0.5
        torch.testing.assert_close(values, (x * scale).flatten(1).float(), rtol=1e-5, atol=1e-6)


def test_denoised__is_the_posterior_mean_on_gaussian_data() -> None:
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    ode = OdeSpec(solver="rk4", steps=40)
    tau = 0.4
    feature = FeatureSpec(source="denoised", tau=tau, pool="flatten")
    values, _ = extract_features(gaussian_velocity, x, path=LinearPath(), ode=ode, feature=feature)
    state = x * (((1 - tau) ** 2 * 4 + tau**2) / 4) ** 0.5
    expected = state * (1 - tau) * 4 / ((1 - tau) ** 2 * 4 + tau**2)  # E[x | x_tau] for x ~ N(0, 4)
    torch.testing.assert_close(values, expected.flatten(1).float(), rtol=1e-5, atol=1e-6)


def test_several_tau__are_concatenated_in_the_order_asked() -> None:
    x = torch.randn(2, 1, 4, 4)
    ode = OdeSpec(steps=6)
    both, _ = extract_features(
        gaussian_velocity,
        x,
        path=LinearPath(),
        ode=ode,
        feature=FeatureSpec(source="state", tau=[0.9, 0.3], pool="flatten"),
    )
    last, _ = extract_features(
        gaussian_velocity, x, path=LinearPath(), ode=ode, feature=FeatureSpec(source="state", tau=0.9, pool="flatten")
    )
    torch.testing.assert_close(both[:, :16], last)
    torch.testing.assert_close(
        both[:, 16:], encode(gaussian_velocity, x, tau_end=0.3, steps=2).flatten(1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("source", "solver", "steps", "tau", "nfe"),
    [
        ("state", "euler", 5, 0.5, 5),
        ("velocity", "euler", 5, 0.5, 6),
        ("block", "euler", 5, 0.5, 6),
        ("block", "midpoint", 5, 0.5, 11),
        ("block", "rk4", 3, [0.2, 0.6], 14),
        ("block", "euler", 5, 0.0, 1),
        ("state", "euler", 5, 0.0, 0),
    ],
)
def test_nfe__is_what_the_network_saw(source: str, solver: str, steps: int, tau: object, nfe: int) -> None:
    network = Tower()
    feature = FeatureSpec.model_validate(
        {"source": source, "tau": tau, "block": "first" if source == "block" else None}
    )
    encoder = PRGEncoder(network, ode=OdeSpec(solver=solver, steps=steps), feature=feature, input_shape=(1, 4, 4))
    with torch.no_grad():
        encoder(torch.rand(2, 1, 4, 4))
    assert network.calls == nfe
    assert encoder.nfe == nfe


def test_state__is_solved_on_the_grid_that_was_asked_for() -> None:
    network, images = Tower(), torch.rand(2, 1, 4, 4)
    feature = FeatureSpec(source="state", tau=1.0, pool="flatten")
    for grid in ("even", "quadratic"):
        encoder = PRGEncoder(network, ode=OdeSpec(solver="ab2", steps=3, grid=grid), feature=feature)
        expected = encode(network, encoder.normalize(images), steps=3, solver="ab2", grid=grid)
        assert torch.equal(encoder(images), expected.flatten(1))


def test_checkpointing__recomputes_but_does_not_count() -> None:
    network = Tower()
    encoder = PRGEncoder(
        network,
        ode=OdeSpec(steps=4, gradient="checkpoint"),
        feature=FeatureSpec(source="block", block="first", tau=0.5),
        input_shape=(1, 4, 4),
    )
    encoder(torch.rand(2, 1, 4, 4)).sum().backward()
    assert network.calls == 5 + 4  # all but the last, whose gradient is needed at once
    assert encoder.nfe == 5


def test_gradient__checkpoint_equals_full() -> None:
    torch.manual_seed(0)
    network = Tower().double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    gradients = []
    for mode in ("full", "checkpoint"):
        network.zero_grad()
        feature = FeatureSpec(source="block", block="first", tau=[0.2, 0.7], pool="grid:2")
        ode = OdeSpec(steps=4, gradient=mode)  # type: ignore[arg-type]
        values, _ = extract_features(network, x, path=LinearPath(), ode=ode, feature=feature)
        values.square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == 4
    for full, recomputed in zip(*gradients, strict=True):
        assert torch.equal(full, recomputed)


def test_activation__by_hook_is_the_module_output() -> None:
    network = Tower()
    x = torch.rand(2, 1, 4, 4)
    seen = activation(network, torch.tensor(0.3), x, "first")
    assert torch.equal(seen, network.first(x))
    assert not network.first._forward_hooks


def test_activation__unknown_block_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'third'.*first, second"):
        activation(Tower(), torch.tensor(0.3), torch.rand(1, 1, 4, 4), "third")
    with pytest.raises(ValueError, match=r"nn\.Module"):
        activation(gaussian_velocity, torch.tensor(0.3), torch.rand(1, 1, 4, 4), "third")


def test_pool__by_hand() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pool(image, "mean").tolist() == [[7.5]]
    assert pool(image, "grid:2").tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert pool(image, "flatten").tolist() == [list(range(16))]
    tokens = torch.arange(16.0).reshape(1, 4, 4)  # 4 tokens of 4 channels
    assert pool(tokens, "mean").tolist() == [[6.0, 7.0, 8.0, 9.0]]
    assert pool(tokens, "grid:2").tolist() == [[0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]]
    assert pool(torch.ones(2, 5), "mean").shape == (2, 5)


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 5, 3), "grid:2"), ((1, 2, 2, 2), "grid:3"), ((1, 1, 1, 1, 1), "mean")]
)
def test_pool__refuses_what_does_not_fit(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(ValueError, match=r"pool|square"):
        pool(torch.zeros(shape), kind)


def test_encoder__normalises_and_checks_its_input() -> None:
    encoder = PRGEncoder(
        lambda tau, x: torch.zeros_like(x),
        feature=FeatureSpec(source="state", tau=1.0, pool="flatten"),
        input_shape=(1, 2, 2),
    )
    images = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 2, 2)
    assert encoder(images).tolist() == [[-1.0, -0.5, 0.0, 1.0]]
    torch.testing.assert_close(encoder.denormalize(encoder.normalize(images)), images)
    assert encoder.embedding_dim == 4
    with pytest.raises(ValueError, match=r"\(B, 1, 2, 2\).*\(1, 1, 3, 3\)"):
        encoder(torch.rand(1, 1, 3, 3))
    with pytest.raises(ValueError, match="Divide bytes by 255"):
        encoder(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="input_shape"):
        _ = PRGEncoder(lambda tau, x: x).embedding_dim


def test_encoder__vp_path_starts_at_its_tau_min() -> None:
    seen: list[float] = []

    def watch(tau: Tensor, x: Tensor) -> Tensor:
        seen.append(float(tau))
        return torch.zeros_like(x)

    path = VariancePreservingPath()
    encoder = PRGEncoder(watch, path, OdeSpec(steps=2), FeatureSpec(source="velocity", tau=0.0), input_shape=(1, 2, 2))
    encoder(torch.rand(1, 1, 2, 2))
    assert seen == pytest.approx([path.tau_min])


def test_random_state__of_the_caller_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    PRGEncoder(Tower(), feature=FeatureSpec(source="block", block="first"), input_shape=(1, 4, 4))  # builds weights
    torch.random.set_rng_state(before)
    encoder = PRGEncoder(gaussian_velocity, input_shape=(1, 4, 4))
    encoder(torch.zeros(1, 1, 4, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
