"""The gradients of fine-tuning through the ODE, on a real U-Net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightly_prg.features import PRGEncoder, activation
from lightly_prg.flow import encode
from lightly_prg.models import UNet, redraw_zero_weights
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import FeatureSpec, OdeSpec


def unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), heads=2)
    redraw_zero_weights(network, generator_for(0, "test"))
    return network


def gradients(mode: str, *, steps: int = 3, solver: str = "euler", **feature: Any) -> dict[str, Tensor]:
    """Of a classifier's loss, in float32."""
    network = unet()
    ode = OdeSpec.model_validate({"steps": steps, "solver": solver, "gradient": mode})
    encoder = PRGEncoder(network, ode=ode, feature=FeatureSpec.model_validate(feature))
    generator = torch.Generator().manual_seed(1)
    features = encoder(torch.rand(4, 1, 8, 8, generator=generator))
    head = torch.randn(features.shape[1], 3, generator=generator)
    torch.autograd.backward(F.cross_entropy(features @ head, torch.tensor([0, 1, 2, 0])))
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


FEATURES: list[dict[str, Any]] = [
    {"source": "state", "tau": 1.0, "pool": "flatten"},
    {"source": "state", "tau": (0.4, 1.0), "pool": "flatten"},
    {"source": "block", "block": "middle", "tau": 0.5},
    {"source": "block", "block": "up.1", "tau": 0.0},
]


@pytest.mark.parametrize("solver", ["euler", "heun2"])
@pytest.mark.parametrize("feature", FEATURES)
def test_checkpoint__is_full_to_the_last_bit(feature: dict[str, Any], solver: str) -> None:
    full = gradients("full", solver=solver, **feature)
    checkpoint = gradients("checkpoint", solver=solver, **feature)
    assert len(full) > 10
    assert full.keys() == checkpoint.keys()
    assert all(torch.equal(full[name], checkpoint[name]) for name in full)


def difference(steps: int, **feature: Any) -> float:
    full, adjoint = gradients("full", steps=steps, **feature), gradients("adjoint", steps=steps, **feature)
    flat = [torch.cat([g.get(name, torch.zeros_like(full[name])).flatten() for name in full]) for g in (full, adjoint)]
    return float((flat[1] - flat[0]).norm() / flat[0].norm())


def test_adjoint__is_off_by_the_order_of_the_step() -> None:
    errors = [difference(steps, **FEATURES[0]) for steps in (3, 6, 12)]
    assert errors[0] > 0.01
    # Euler's adjoint is of first order: half the step, half the error.
    assert 1.4 < errors[0] / errors[1] < 2.8
    assert 1.4 < errors[1] / errors[2] < 2.8
    assert 0.0 < difference(3, **FEATURES[2]) < 1.0


@pytest.mark.parametrize("mode", ["full", "checkpoint"])
@pytest.mark.parametrize("block", [None, "middle"])
def test_gradient__is_that_of_finite_differences(mode: str, block: str | None) -> None:
    network = unet().double()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64)
    parameters = [p for p in network.parameters() if p.requires_grad]
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def loss() -> Tensor:
        state = encode(network, x, tau_end=0.8, steps=3, solver="euler", gradient=mode)
        read = state if block is None else activation(network, torch.tensor(0.8, dtype=torch.float64), state, block)
        return read.sin().sum()

    torch.autograd.backward(loss())
    exact = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True) if p.grad is not None)
    eps, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):  # to + eps, and from there to - eps
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * eps * direction
            values.append(float(loss()))
    assert exact == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-6)
    assert abs(exact) > 1e-3
