from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lightly_prg.diagnostics import round_trip
from lightly_prg.eval.benchmarks.reversible_round_trip import reversible_round_trip
from lightly_prg.features import PRGEncoder, extract_features
from lightly_prg.flow import LinearPath, TrigonometricPath
from lightly_prg.models import UNet
from lightly_prg.recipe import FeatureSpec, OdeSpec


@pytest.fixture
def network() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(image_size=8, in_channels=1, channels=32, multipliers=(1, 2), blocks=1, attention=()).eval()
        for parameter in unet.parameters():  # the last convolution starts at zero: a network that stands still
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return unet


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_an_encoder_with_a_reversible_solver(network: UNet, images: Tensor) -> None:
    ode = OdeSpec(solver="reversible_midpoint", gradient="reversible", steps=3)
    feature = FeatureSpec(source="state", tau=[0.4, 1.0], pool="flatten")
    encoder = PRGEncoder(network, ode=ode, feature=feature)
    with torch.no_grad():
        embedded = encoder(images)
    assert embedded.shape == (3, 128)
    assert encoder.nfe == 2 * 2 * 3
    assert encoder.description()["ode"]["gradient"] == "reversible"
    usual = PRGEncoder(network, ode=OdeSpec(solver="rk4", steps=5), feature=feature)
    with torch.no_grad():
        assert (embedded - usual(images)).abs().max() < 0.1 * (embedded[:, :64] - embedded[:, 64:]).abs().max()


@pytest.mark.parametrize("source", ["state", "block"])
def test_the_gradient_of_a_feature(source: str, network: UNet, images: Tensor) -> None:
    network.double()
    feature = FeatureSpec.model_validate(
        {"source": source, "block": "middle" if source == "block" else None, "tau": [0.3, 0.8], "pool": "grid:2"}
    )
    found = []
    for gradient in ("full", "reversible"):
        ode = OdeSpec.model_validate({"solver": "reversible_heun2", "gradient": gradient, "steps": 2})
        network.zero_grad()
        values, _ = extract_features(network, images[:2].double(), path=LinearPath(), ode=ode, feature=feature)
        values.double().square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 20
    for full, reversible in zip(*found, strict=True):
        torch.testing.assert_close(reversible, full, rtol=1e-9, atol=1e-9 * full.abs().max().item())


def test_a_round_trip_leaves_rounding(network: UNet, images: Tensor) -> None:
    encoder = PRGEncoder(network, TrigonometricPath())
    for steps in (1, 6):
        trip = reversible_round_trip(encoder, images, steps=steps)
        assert trip.rmse < 1e-6
        assert trip.forward.states.shape == trip.backward.states.shape == (steps + 1, *images.shape)
        assert trip.forward.tau.tolist() == trip.backward.tau.flip(0).tolist()
        torch.testing.assert_close(trip.backward.states.flip(0), trip.forward.states, rtol=0, atol=1e-5)
    assert trip.rmse < 1e-3 * round_trip(encoder, images, steps=6, solver="midpoint").rmse


def test_a_round_trip_needs_a_reversible_solver(network: UNet, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"reversible_rk4; got 'rk4'"):
        reversible_round_trip(PRGEncoder(network), images, solver="rk4")


def test_gradient_and_solver_must_agree() -> None:
    with pytest.raises(ValidationError, match=r"reversible_midpoint, not 'euler'"):
        OdeSpec(gradient="reversible")
    with pytest.raises(ValidationError, match=r"reversible_rk4: take reversible, checkpoint or full"):
        OdeSpec(solver="reversible_rk4", gradient="adjoint")
