from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.features import PRGEncoder, activation
from lightly_prg.flow import (
    LinearPath,
    Path,
    PathRange,
    SchedulerPath,
    TrigonometricPath,
    VariancePreservingPath,
    decode,
    encode,
)
from lightly_prg.models.pretrained import from_edm, from_sit, from_torchcfm
from lightly_prg.models.velocity_adapter import time_then_x, velocity_from
from lightly_prg.recipe import FeatureSpec, OdeSpec

LEVELS = tuple(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50, dtype=torch.float64), 0).tolist())
PATHS = [LinearPath(), TrigonometricPath(), VariancePreservingPath(), SchedulerPath(LEVELS)]
STD = 0.5


def variance(path: Path, tau: Tensor) -> Tensor:
    return path.alpha(tau) ** 2 * STD**2 + path.sigma(tau) ** 2


class Gaussian(nn.Module):
    """What a perfect network predicts for images that are N(0, STD^2); it takes the path's own tau for time."""

    def __init__(self, prediction: str, path: Path) -> None:
        super().__init__()
        self.prediction, self.path = prediction, path

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        tau = tau.reshape(-1, 1, 1, 1)
        alpha, sigma, total = self.path.alpha(tau), self.path.sigma(tau), variance(self.path, tau)
        denoised, noise = alpha * STD**2 / total, sigma / total
        factor: Tensor = {
            "denoised": denoised,
            "noise": noise,
            "score": -1 / total,
            "v": alpha * noise - sigma * denoised,
            "velocity": self.path.alpha_prime(tau) * denoised + self.path.sigma_prime(tau) * noise,
        }[self.prediction]
        return factor * x


def states() -> Tensor:
    return torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("prediction", ["noise", "denoised", "velocity", "score", "v"])
def test_every_prediction__gives_the_velocity_of_gaussian_images(prediction: str, path: Path) -> None:
    network = velocity_from(Gaussian(prediction, path), prediction, path)
    x, tau = states(), torch.tensor([0.02, 0.3, 0.7, 0.98], dtype=torch.float64)
    exact = Gaussian("velocity", path)(x, tau)
    torch.testing.assert_close(network(tau, x), exact, rtol=1e-8, atol=1e-8)
    for index, position in enumerate(tau.tolist()):
        for same in (position, tau[index]):
            torch.testing.assert_close(network(same, x)[index], exact[index], rtol=1e-8, atol=1e-8)
    assert network(tau.float(), x.float()).dtype == torch.float32

    start, end = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    z = encode(network, x, tau_start=0.1, tau_end=0.9, steps=40, solver="rk4")
    torch.testing.assert_close(z, x * (variance(path, end) / variance(path, start)).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()], ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("prediction", "ends"),
    [
        ("noise", (0.0, 0.999)),
        ("denoised", (0.001, 1.0)),
        ("score", (0.001, 0.999)),
        ("velocity", (0.0, 1.0)),
        ("v", (0.0, 1.0)),
    ],
)
def test_the_path__ends_where_the_velocity_is_known(prediction: str, ends: tuple[float, float], path: Path) -> None:
    network = velocity_from(Gaussian(prediction, path), prediction, path)
    assert (network.path.tau_min, network.path.tau_max) == ends
    exact = velocity_from(Gaussian("velocity", path), "velocity", path)
    x = states().float()
    for end in ends:
        torch.testing.assert_close(network(end, x), exact(end, x), rtol=1e-3, atol=1e-3)
    # Default ends of a solve are those of the path, there and back.
    back = decode(network, encode(network, x, steps=20, solver="heun2"), steps=20, solver="heun2")
    torch.testing.assert_close(back, x, rtol=0.02, atol=0.02)
    chosen = velocity_from(Gaussian(prediction, path), prediction, path, tau_min=0.2, tau_max=0.8).path
    assert (chosen.tau_min, chosen.tau_max) == (0.2, 0.8)
    if prediction != "velocity":
        with pytest.raises(ValueError, match="tau must lie in"):
            network(-0.01, x)


def test_paths_without_such_ends__stay_whole() -> None:
    for path in (VariancePreservingPath(), SchedulerPath(LEVELS)):
        assert velocity_from(nn.Identity(), "noise", path).path is path
    assert velocity_from(nn.Identity(), "denoised", SchedulerPath(LEVELS)).path.tau_min == 0.001
    assert velocity_from(nn.Identity(), "denoised", SchedulerPath(LEVELS, set_alpha_to_one=False)).path.tau_min == 0.02


def test_what_is_wrong__is_told() -> None:
    with pytest.raises(ValueError, match="'epsilon': use one of noise"):
        velocity_from(nn.Identity(), "epsilon")
    with pytest.raises(ValueError, match="linear path lies in"):
        velocity_from(nn.Identity(), tau_min=0.9, tau_max=0.1)
    halved = velocity_from(nn.Identity(), call=lambda module, time, x: x[:, :, :1])
    with pytest.raises(ValueError, match=r"\(4, 1, 2, 2\), got \(4, 1, 1, 2\)"):
        halved(0.5, states())


def test_time_and_call__are_the_modules_own() -> None:
    seen: list[Any] = []

    def call(module: nn.Module, time: Tensor, x: Tensor) -> Tensor:
        seen.append((module, time))
        return x

    module = nn.Identity()
    network = velocity_from(module, call=call, time=lambda tau: 1000 * tau, velocity_scale=-2)
    x = states().float()
    assert network(0.25, x).equal(-2 * x)
    assert network(torch.linspace(0, 1, 4), x).equal(-2 * x)
    assert seen[0][0] is module
    assert seen[0][1].tolist() == [250] * 4
    torch.testing.assert_close(seen[1][1], torch.tensor([0.0, 1000 / 3, 2000 / 3, 1000]))


class Deep(nn.Module):
    """Counts its runs; gives tuples, tokens and images on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 1)
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)])
        self.act = nn.SiLU()
        self.out = nn.Conv2d(5, 1, 1)
        self.unused = nn.Conv2d(1, 1, 1)
        self.finished = 0

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        x = self.out(self.act(x)) * time.reshape(-1, 1, 1, 1)
        self.finished += 1
        return x


def test_blocks__are_read_by_the_modules_own_names() -> None:
    module = Deep()
    network = velocity_from(module, call=time_then_x)
    assert network.block_names == ("stem", "layers.0", "layers.1", "out", "unused")
    x = states().float()
    found = network.activations(0.5, x, ("layers.1", "stem"))
    torch.testing.assert_close(found["stem"], module.stem(x))
    torch.testing.assert_close(found["layers.1"], module.layers[1](module.layers[0](module.stem(x))))
    assert module.finished == 0  # nothing was run behind the last block
    assert activation(network, torch.tensor(0.5), x, "act").shape == (4, 5, 2, 2)
    assert network(0.5, x).shape == x.shape
    with pytest.raises(ValueError, match="no block 'middle'; it has stem"):
        network.activations(0.5, x, ("middle",))
    with pytest.raises(ValueError, match="'unused' gave no tensor"):
        network.activations(0.5, x, ("unused",))
    # the hooks are gone, whatever happened
    assert all(not part._forward_hooks for part in module.modules())


def test_an_encoder__takes_such_a_network() -> None:
    module = Deep()
    encoder = PRGEncoder(
        velocity_from(module, call=time_then_x),
        ode=OdeSpec(solver="ddim", steps=2),
        feature=FeatureSpec(source="block", block="layers.0", tau=0.4),
        input_shape=(1, 2, 2),
    )
    features = encoder(torch.rand(3, 1, 2, 2))
    assert features.shape == (3, 4)
    assert encoder.nfe == 3
    features.square().sum().backward()
    assert module.stem.weight.grad is not None
    names = [name for name, _ in encoder.named_parameters()]
    assert all(any(name.startswith(f"{block}.") for name in names) for block in encoder.blocks)


class StraightLine(nn.Module):
    """A network of torchcfm or SiT that knows the one image and the one noise: ``t = 0`` noise, ``t = 1`` data."""

    def __init__(self, x0: Tensor, x1: Tensor, *, time_first: bool) -> None:
        super().__init__()
        self.x0, self.x1, self.time_first = x0, x1, time_first
        self.seen: list[Tensor] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        t, x = inputs[:2] if self.time_first else (inputs[1], inputs[0])
        self.seen = [t, x, *inputs[2:]]
        on_the_line = t.reshape(-1, 1, 1, 1) * self.x1 + (1 - t.reshape(-1, 1, 1, 1)) * self.x0
        torch.testing.assert_close(x, on_the_line)
        return self.x1 - self.x0


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 1, 2, 2, generator=generator), torch.randn(2, 1, 2, 2, generator=generator)


def test_torchcfm__runs_from_noise_to_data() -> None:
    noise, image = pair()
    network = from_torchcfm(StraightLine(noise, image, time_first=True))
    # its state is asserted to lie on torchcfm's own line at every evaluation
    torch.testing.assert_close(encode(network, image, steps=4), noise)
    torch.testing.assert_close(decode(network, noise, steps=4), image)


@pytest.mark.skipif(importlib.util.find_spec("torchcfm") is None, reason="torchcfm is not installed")
def test_torchcfm__itself_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("ot") is None:  # its optimal transport, which is not needed here
        monkeypatch.setitem(sys.modules, "ot", ModuleType("ot"))
    before = set(sys.modules)
    try:
        torchcfm = importlib.import_module("torchcfm.conditional_flow_matching")
    except ImportError as error:
        pytest.skip(str(error))
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("torchcfm"):
                del sys.modules[name]
    noise, image = pair()
    for matcher, path in (
        (torchcfm.ConditionalFlowMatcher(sigma=0.0), LinearPath()),
        (torchcfm.VariancePreservingConditionalFlowMatcher(sigma=0.0), TrigonometricPath()),
    ):
        t = torch.tensor([0.3, 0.8])
        _, x_t, u_t = matcher.sample_location_and_conditional_flow(noise, image, t=t)
        network = from_torchcfm(velocity_constant(u_t), path=path)
        torch.testing.assert_close(path.interpolate(image, noise, 1 - t), x_t)
        torch.testing.assert_close(network(1 - t, x_t), path.velocity(image, noise, 1 - t))


def velocity_constant(value: Tensor) -> nn.Module:
    class Constant(nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return value

    return Constant()


@pytest.mark.parametrize("label", [None, 7])
def test_sit__runs_from_noise_to_data(label: int | None) -> None:
    noise, image = pair()
    module = StraightLine(noise, image, time_first=False)
    network = from_sit(module, label=label)
    torch.testing.assert_close(encode(network, image, steps=4), noise)
    assert [part.tolist() for part in module.seen[2:]] == ([] if label is None else [[7, 7]])


@pytest.mark.parametrize(
    ("name", "ours"), [("Linear", LinearPath()), ("GVP", TrigonometricPath()), ("VP", VariancePreservingPath())]
)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_sit__has_our_paths_with_time_turned_round(name: str, ours: Path, prediction: str) -> None:
    class SiT(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            # In its own time the velocity points from noise to data.
            value: Tensor = Gaussian(prediction, ours)(x, 1 - t)
            return -value if prediction == "velocity" else value

    network = from_sit(SiT(), path=name, prediction=prediction, label=1000)
    x, tau = states(), torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=torch.float64)
    torch.testing.assert_close(network(tau, x), Gaussian("velocity", ours)(x, tau), rtol=1e-8, atol=1e-8)


def test_sit__names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'linear' of SiT: use one of Linear, GVP, VP"):
        from_sit(nn.Identity(), path="linear")
    with pytest.raises(ValueError, match="'epsilon' of SiT"):
        from_sit(nn.Identity(), prediction="epsilon")


class EDM(nn.Module):
    """The perfect denoiser ``D(x; sigma)`` of N(0, STD^2) images, as EDM's networks are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.seen.append((x, sigma, class_labels))
        return x * (STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1) ** 2))


def test_edm__lies_on_the_linear_path_with_its_state_scaled() -> None:
    module = EDM()
    network = from_edm(module, class_labels=torch.tensor([0.0, 1.0, 0.0]))
    assert isinstance(network.path, PathRange)
    assert network.path.tau_min == pytest.approx(0.002 / 1.002)
    assert network.path.tau_max == pytest.approx(80 / 81)
    image, noise = states(), states().flip(0)
    sigma = torch.tensor([0.002, 0.5, 3.0, 80.0], dtype=torch.float64)
    theirs = image + sigma.reshape(-1, 1, 1, 1) * noise
    tau = sigma / (1 + sigma)
    ours = network.path.interpolate(image, noise, tau)
    torch.testing.assert_close(ours, theirs / (1 + sigma.reshape(-1, 1, 1, 1)), rtol=1e-12, atol=1e-12)
    velocity = network(tau, ours)
    seen_x, seen_sigma, labels = module.seen[-1]
    torch.testing.assert_close(seen_x, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen_sigma, sigma, rtol=1e-10, atol=0)
    assert labels.tolist() == [[0, 1, 0]] * 4
    torch.testing.assert_close(velocity, Gaussian("velocity", LinearPath())(ours, tau), rtol=1e-8, atol=1e-8)


def test_edm__has_the_same_noise_at_the_end_of_its_own_ode() -> None:
    # EDM's flow of Gaussian data is x(sigma) = x(s) sqrt((STD^2 + sigma^2) / (STD^2 + s^2)).
    network = from_edm(EDM(), sigma_min=0.01, sigma_max=10.0)
    x = states()
    z = encode(network, x / 1.01, steps=60, solver="rk4")
    exact = x * ((STD**2 + 10.0**2) / (STD**2 + 0.01**2)) ** 0.5
    torch.testing.assert_close(z * 11, exact, rtol=1e-4, atol=1e-5)
    for low, high in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
            from_edm(EDM(), sigma_min=low, sigma_max=high)
