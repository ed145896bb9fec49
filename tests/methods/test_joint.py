"""PRG with an auxiliary loss: one network that generates and represents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.methods import PRG
from lightly_prg.methods.alignment import Alignment
from lightly_prg.methods.dispersive import dispersive_loss
from lightly_prg.models import UNet
from lightly_prg.pooling import pool
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import AuxiliaryRecipe, TrainRecipe, parse_recipe

SMALL: dict[str, Any] = {"projection": {"hidden": 16, "output": 8}}
ON_VIEWS = ("ntxent", "vicreg", "barlow_twins", "dino", "lejepa")


def model(settings: dict[str, Any] | None, **options: Any) -> PRG:
    torch.manual_seed(0)
    backbone = UNet(
        image_size=8, in_channels=3, channels=8, multipliers=(1, 2), blocks=1, attention=(), middle_attention=False
    )
    for parameter in backbone.parameters():  # what starts at zero would hide where gradients reach
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    auxiliary = None if settings is None else AuxiliaryRecipe(**{**SMALL, **settings})
    return PRG(
        input_shape=(3, 8, 8),
        backbone=backbone,
        auxiliary=auxiliary,
        optimization=TrainRecipe(ema_decay=0.9),
        **options,
    )


def images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def views(prg: PRG) -> list[Tensor]:
    return prg.make_views(images(), generator=generator_for(0, "augment", 0))


def reached(prg: PRG) -> set[str]:
    """The parameters of the network to which a gradient came."""
    return {n for n, p in prg.velocity.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("loss", [*ON_VIEWS, "dispersive", "align"])
def test_every_loss__trains_network_and_head_in_one_step(loss: str) -> None:
    settings: dict[str, Any] = {"loss": loss}
    if loss == "align":
        settings |= {"teacher": "timm:resnet10t", "teacher_weights": "none", "teacher_resize": 64}
    prg = model(settings)
    parts = views(prg)
    assert len(parts) == (3 if loss in ON_VIEWS else 1)
    value = prg.loss(parts, position=0)
    assert value.isfinite()
    value.backward()  # type: ignore[no-untyped-call]
    assert len(reached(prg)) == len(list(prg.velocity.named_parameters()))
    assert prg.auxiliary is not None
    head = list(prg.auxiliary.head.parameters())
    assert loss == "dispersive" or any(p.grad is not None and bool(p.grad.any()) for p in head)
    optimiser = torch.optim.SGD([p for m in prg.trained_modules() for p in m.parameters()], lr=1e-3)
    optimiser.step()
    prg.auxiliary.follow(0.5)
    assert prg.loss(parts, position=1).isfinite()


def test_averaged_head__warms_up_with_the_averaged_network() -> None:
    """After one step both are a tenth of what they were and nine tenths of what they are: one teacher."""
    prg = model({"loss": "dino"})
    assert prg.auxiliary is not None
    assert prg.auxiliary.averaged_head is not None
    pairs = [(prg.velocity, prg.ema.module), (prg.auxiliary.head, prg.auxiliary.averaged_head)]
    with torch.no_grad():
        for trained, _ in pairs:
            for parameter in trained.parameters():
                parameter.add_(1.0)
    for decay in (1 / 10, 2 / 11):
        before = [[p.clone() for p in averaged.parameters()] for _, averaged in pairs]
        prg.optimizer_step(0, 0, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
        for (trained, averaged), olds in zip(pairs, before, strict=True):
            for new, old, now in zip(averaged.parameters(), olds, trained.parameters(), strict=True):
                torch.testing.assert_close(new, decay * old + (1 - decay) * now)


def test_auxiliary_loss_alone__leaves_the_expanding_half_at_zero() -> None:
    prg = model({"flow_weight": 0.0})
    prg.loss(views(prg), position=0).backward()  # type: ignore[no-untyped-call]
    found = reached(prg)
    names = [name for name, _ in prg.velocity.named_parameters()]
    contracting = [n for n in names if not n.startswith(("up", "norm", "out"))]
    expanding = [n for n in names if n not in contracting]
    assert expanding, names
    assert found == set(contracting)


def test_views__run_no_further_than_the_block_and_give_what_a_whole_run_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    prg = model({"tau": (0.0, 0.0), "pool": "grid:2"})
    assert prg.auxiliary is not None
    parts = views(prg)
    taus = torch.full((12,), prg.path.tau_min)
    _, whole = prg.velocity(taus, torch.cat(parts[1:]), return_blocks=("middle",))
    projections = prg.auxiliary.head(pool(whole["middle"], "grid:2"))
    assert prg.auxiliary.criterion is not None
    expected = prg.auxiliary.criterion(projections)
    blocks: list[str] = []
    steps = type(prg.velocity)._steps

    def watched(self: Any, *arguments: Any) -> Any:
        for name, value in steps(self, *arguments):
            blocks.append(name)
            yield name, value

    monkeypatch.setattr(type(prg.velocity), "_steps", watched)
    got = prg.auxiliary.compare_views(prg.velocity, prg.ema.module, parts[1:], 0, (6, slice(0, 6)))
    torch.testing.assert_close(got, expected)
    assert blocks[-1] == "middle"
    assert blocks.count("middle") == 1


def test_tau__is_drawn_within_its_range_and_noise_follows_it() -> None:
    prg = model({"tau": (0.2, 0.4)})
    assert prg.auxiliary is not None
    x = torch.zeros(400, 3, 8, 8)
    carried, tau = prg.auxiliary._carry(x, 5, (200, slice(0, 200)))
    assert 0.2 <= float(tau.min()) < 0.21
    assert 0.39 < float(tau.max()) <= 0.4
    torch.testing.assert_close(carried.std(dim=(1, 2, 3)), tau, rtol=0.35, atol=0)
    assert not torch.equal(carried[:200], carried[200:])
    half, tau_half = prg.auxiliary._carry(x[:200], 5, (200, slice(100, 200)))
    assert torch.equal(half[:100], carried[100:200])
    assert torch.equal(tau_half[100:], tau[300:])


def test_flow_every__takes_a_part_of_the_batch() -> None:
    prg = model({"flow_every": 3, "weight": 1e-12})
    parts = views(prg)
    noise, tau = prg._draw(parts[0], 4)
    expected = prg.criterion(prg.velocity, parts[0][::3], noise=noise[::3], tau=tau[::3])
    torch.testing.assert_close(prg.loss(parts, position=4), expected)


def test_held_out_loss__is_that_of_the_flow() -> None:
    assert torch.equal(model({}).held_out_loss(images(), 0), model(None).held_out_loss(images(), 0))


def test_dispersive__by_hand() -> None:
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    # Squared distances 4, 4 and 8, divided by 2 dimensions.
    expected = math.log((2 * math.exp(-2 / 0.5) + math.exp(-4 / 0.5)) / 3)
    assert float(dispersive_loss(z, temperature=0.5)) == pytest.approx(expected, rel=1e-5)
    assert float(dispersive_loss(torch.ones(4, 2, 3))) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="needs two"):
        dispersive_loss(z[:1])


def test_alignment__is_the_mean_cosine_of_patches() -> None:
    align = Alignment(2, 4, 2)
    align.layers = torch.nn.Sequential(torch.nn.Identity())
    activation = torch.zeros(1, 2, 2, 2)
    activation[:, 0] = 3.0
    target = torch.zeros(1, 2, 2, 2)
    target[0, 0, 0], target[0, 1, 1] = 1.0, 1.0  # upper patches alike, lower ones orthogonal
    assert float(align(activation, target)) == pytest.approx(-0.5)
    assert float(align(activation, target[:, :, :1, :1])) == pytest.approx(-1.0), "brought to the same grid"


def test_own_network__is_read_by_a_hook() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.last = torch.nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, tau: Tensor, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x))
            return out

    for loss in ("ntxent", "dispersive"):
        prg = PRG(
            input_shape=(3, 8, 8),
            backbone=Plain(),
            feature=parse_recipe(JOINT).method.feature.model_copy(update={"block": "first"}),  # type: ignore[union-attr]
            auxiliary=AuxiliaryRecipe(loss=loss, block="first", **SMALL),
        )
        assert prg.loss(views(prg), 0).isfinite()


JOINT = """
name: joint
data: {name: digits}
method:
  name: prg
  backbone:
    {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false, dropout: 0.1}
  ode: {steps: 2}
  feature: {source: block, block: middle, tau: 0.1}
  auxiliary: {loss: ntxent, flow_every: 2, projection: {hidden: 8, output: 4}}
train: {epochs: 2, batch_size: 8, lr: 1.0e-2, warmup_epochs: 1, ema_decay: 0.9, precision: 32}
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("method.auxiliary.loss=ntxnt", "'ntxent'"),
        ("method.auxiliary.block=midle", "midle"),
        ("method.auxiliary.tau=[0.5, 0.1]", "lower end comes first"),
        ("method.auxiliary.loss=align", "needs a teacher"),
        ("method.auxiliary.teacher=timm:resnet18", "no other loss takes one"),
        ("method.auxiliary={loss: dispersive, flow_weight: 0}", "flow_weight has to be above 0"),
        ("method.auxiliary={loss: align, teacher: nowhere}", "nowhere"),
    ],
)
def test_mistakes__are_told(change: str, told: str, tmp_path: Path) -> None:
    from lightly_prg.train import train

    with pytest.raises(UserError, match="(?s)" + told.replace("'", ".")):
        train(parse_recipe(JOINT, overrides=[change]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
