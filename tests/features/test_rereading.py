from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.rereading import reread, solver_settings
from lightly_prg.flow import TrigonometricPath
from lightly_prg.recipe import FeatureSpec, NetworkFeature, OdeSpec


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 1)
        self.second = nn.Conv2d(3, 1, 1)

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).tanh())
        return out


def prg(**options: Any) -> PRGEncoder:
    feature = FeatureSpec(source="block", block="first", tau=0.2, pool="grid:2")
    return PRGEncoder(
        Velocity(),
        TrigonometricPath(),
        OdeSpec(steps=3),
        feature,
        input_shape=(1, 4, 4),
        mean=0.3,
        std=[0.7],
        **options,
    ).eval()


def test_nothing__is_the_encoder_itself() -> None:
    encoder = prg()
    assert reread(encoder) is encoder
    assert reread(encoder, feature={}, ode={}) is encoder


@pytest.mark.parametrize(
    ("feature", "ode", "dimension", "nfe"),
    [
        ({"source": "state", "tau": 1.0}, None, 16, 3),  # flat unless said otherwise
        ({"source": "state", "tau": 1.0, "pool": "mean"}, {"steps": 5}, 1, 5),
        ({"source": "velocity"}, {"steps": 1, "solver": "midpoint"}, 16, 3),
        ({"block": "second"}, None, 4, 4),
        ({"tau": [0.2, 0.6]}, {"steps": 4}, 24, 6),
        (None, {"gradient": "full"}, 12, 4),
    ],
)
def test_feature_and_solver__change_what_is_named(feature: Any, ode: Any, dimension: int, nfe: int) -> None:
    encoder = prg()
    changed: Any = reread(encoder, feature=feature, ode=ode)
    images = torch.rand(2, 1, 4, 4)
    assert changed(images).shape == (2, dimension)
    assert changed.nfe == nfe
    assert changed.velocity is encoder.velocity
    assert changed.path is encoder.path
    assert torch.equal(changed.normalize(images), encoder.normalize(images))
    assert not changed.training
    assert encoder.feature.block == "first"
    assert encoder(images).shape == (2, 12)
    for key, value in (feature or {}).items():
        assert (
            list(changed.feature.taus) == [*value]
            if isinstance(value, list)
            else getattr(changed.feature, key) == value
        )


def test_network__is_read_at_another_block() -> None:
    network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Conv2d(5, 2, 1))
    encoder = NetworkEncoder(network, NetworkFeature(block="0"), input_shape=(1, 8, 8), resize=6)
    images = torch.rand(2, 1, 8, 8)
    whole = reread(encoder, feature={"block": None, "pool": "flatten"})
    assert whole(images).shape == (2, 2 * 4 * 4)
    assert reread(encoder, feature={"pool": "grid:2"})(images).shape == (2, 20)


@pytest.mark.parametrize(
    ("feature", "ode", "message"),
    [
        ({"sauce": "state"}, None, r"feature: unknown key 'sauce'.*did you mean 'source'"),
        ({"source": "stat"}, None, "feature: source is 'stat'; allowed are .*did you mean 'state'"),
        ({"tau": 2.0}, None, "tau runs from 0"),
        ({"source": "state", "block": "first"}, None, "goes with source 'block'"),
        ({"block": "third"}, None, "'third'.*first, second"),
        (None, {"steps": 0}, "ode: steps is 0"),
        (None, {"solver": "eular"}, "Unknown solver 'eular'"),
    ],
)
def test_mistakes__end_in_a_sentence(feature: Any, ode: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reread(prg(), feature=feature, ode=ode)


def test_network__has_no_solver() -> None:
    encoder = NetworkEncoder(nn.Conv2d(1, 4, 3), input_shape=(1, 8, 8))
    with pytest.raises(UserError, match="no ODE"):
        reread(encoder, ode={"steps": 2})
    with pytest.raises(UserError, match="Known here: block, pool"):
        reread(encoder, feature={"tau": 0.5})


def test_solver_settings__are_the_ode_alone() -> None:
    assert solver_settings(["ode.steps=16", "ode.solver=heun2"]) == {"steps": 16, "solver": "heun2"}
    for wrong in ("feature.tau=1", "steps=4", "ode.steps", "ode.=4", "ode.steps=["):
        with pytest.raises(UserError, match=r"ode\.steps"):
            solver_settings([wrong])
