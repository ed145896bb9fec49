"""PRG with an auxiliary loss: one network that generates and represents."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from lightly_prg.errors import UserError
from lightly_prg.methods import PRG
from lightly_prg.methods.alignment import Alignment, Teacher
from lightly_prg.methods.block_reading import ReadVelocity
from lightly_prg.methods.dispersive import dispersive_loss
from lightly_prg.methods.view_losses import ViewLoss
from lightly_prg.models import UNet, velocity_from
from lightly_prg.models.pooling import pool
from lightly_prg.models.pretrained_network import PretrainedNetwork
from lightly_prg.models.velocity_network import VelocityNetwork
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import AuxiliaryRecipe, FeatureSpec, OdeSpec, TrainRecipe, parse_recipe

SMALL: dict[str, Any] = {"projection": {"hidden": 16, "output": 8}}
ON_VIEWS = ("ntxent", "vicreg", "barlow_twins", "dino", "lejepa")
ALIGN: dict[str, Any] = {"teacher": "timm:resnet10t", "teacher_weights": "none", "teacher_resize": 64}


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


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("loss", [*ON_VIEWS, "dispersive", "align"])
def test_every_loss__trains_network_and_head_in_one_step(loss: str, mixed: bool) -> None:
    prg = model({"loss": loss, **(ALIGN if loss == "align" else {})})
    parts = views(prg)
    assert len(parts) == (3 if loss in ON_VIEWS else 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        value = prg.loss(parts, position=0)
    assert value.dtype == torch.float32
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


def test_dispersive__is_exact_for_near_points_far_away_and_for_twins() -> None:
    z = 100 + 0.1 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    z[3] = z[5]
    wanted, exact = z.double().requires_grad_(), z.clone().requires_grad_()
    pairs = torch.pdist(wanted).square() / 64
    expected = torch.logsumexp(-pairs / 0.05, dim=0) - math.log(28)
    expected.backward()  # type: ignore[no-untyped-call]
    with torch.autocast("cpu", torch.bfloat16):
        found = dispersive_loss(exact, temperature=0.05)
    found.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert exact.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(exact.grad.double(), wanted.grad, rtol=1e-4, atol=1e-6)


class Sizes(TorchDispatchMode):
    """Keeps the operations, and the size of the largest tensor that one gave."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operations.add(func.__name__)
        for value in output if isinstance(output, tuple | list) else (output,):
            self.largest = max(self.largest, value.numel() if isinstance(value, Tensor) else 0)
        return output


def test_dispersive__takes_no_more_than_the_products_of_a_batch() -> None:
    z = torch.randn(16, 8, 4, 4, requires_grad=True)
    with Sizes() as sizes:
        dispersive_loss(z).backward()  # type: ignore[no-untyped-call]
    assert sizes.largest == z.numel() > 16 * 16
    assert not [name for name in sizes.operations if "pdist" in name], "its gradient on a GPU takes B^2 D"


def test_dispersive__spreads_the_images_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    prg = model({"loss": "dispersive", "temperature": 0.3})
    assert prg.auxiliary is not None
    z = torch.randn(6, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr("lightly.utils.dist.world_size", lambda: 2)
    monkeypatch.setattr("lightly.utils.dist.gather", lambda mine: (mine, z[4:].flatten(1)))
    found = prg.auxiliary.read_flow(z[:4], torch.zeros(4, 3, 8, 8))
    torch.testing.assert_close(found, dispersive_loss(z, temperature=0.3))


def teacher_of(network: nn.Module, size: int, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    found = PretrainedNetwork(network, mean=(0.5,) * 3, std=(0.5,) * 3)
    monkeypatch.setattr("lightly_prg.methods.alignment.build_pretrained", lambda *_, **__: found)
    return Teacher(AuxiliaryRecipe(loss="align", teacher="timm:tiny"), (3, size, size))


def test_teacher__with_channels_last_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm.models.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=12, depths=(1,), num_heads=(1,), window_size=4, num_classes=0
    )
    teacher, x = teacher_of(network, 32, monkeypatch), torch.rand(2, 3, 32, 32)
    assert teacher.dimension == 12
    expected = network.forward_features(2 * x - 1)
    assert expected.shape == (2, 8, 8, 12)
    torch.testing.assert_close(teacher(x)[:, :, 1, 2], expected[:, 1, 2])


@pytest.mark.parametrize(("registers", "side"), [(4, 2), (8, 4), (0, 3)])
def test_teacher__with_registers_is_read_behind_them(
    registers: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class token, four registers and four patches are nine tokens, which are no grid of three."""
    network = timm.models.VisionTransformer(
        img_size=4 * side, patch_size=4, embed_dim=12, depth=1, num_heads=1, reg_tokens=registers, num_classes=0
    )
    teacher, x = teacher_of(network, 4 * side, monkeypatch), torch.rand(2, 3, 4 * side, 4 * side)
    grid = teacher(x)
    assert grid.shape == (2, 12, side, side)
    torch.testing.assert_close(grid[:, :, 1, 0], network.forward_features(2 * x - 1)[:, 1 + registers + side])


def test_alignment__is_the_mean_cosine_of_patches() -> None:
    align = Alignment(2, 4, 2)
    align.layers = torch.nn.Sequential(torch.nn.Identity())
    activation = torch.zeros(1, 2, 2, 2)
    activation[:, 0] = 3.0
    target = torch.zeros(1, 2, 2, 2)
    target[0, 0, 0], target[0, 1, 1] = 1.0, 1.0  # upper patches alike, lower ones orthogonal
    assert float(align(activation, target)) == pytest.approx(-0.5)
    assert float(align(activation, target[:, :, :1, :1])) == pytest.approx(-1.0), "brought to the same grid"


@pytest.mark.parametrize("loss", ON_VIEWS)
def test_losses_of_views__are_computed_in_full_precision(loss: str) -> None:
    """Lightning trains under autocast, which would round what the products inside a loss get."""
    projections = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for mixed in (False, True):
        torch.manual_seed(0)  # of the directions that LeJEPA draws
        criterion = ViewLoss(AuxiliaryRecipe(loss=loss, **SMALL))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found.append(criterion(projections[0], projections[1] if criterion.needs_teacher else None))
    assert torch.equal(*found)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x))
        return out


def test_own_network__with_batch_norm_of_vectors_is_read_of_one_image() -> None:
    class Timed(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4))

        def forward(self, tau: Tensor, x: Tensor) -> Tensor:
            scale = self.time(tau.expand(len(x))[:, None])[..., None, None]
            out: Tensor = self.last(self.first(x) * scale)
            return out

    network = Timed()
    prg = PRG(
        input_shape=(3, 8, 8),
        backbone=network,
        feature=FeatureSpec(block="first"),
        auxiliary=AuxiliaryRecipe(block="first", **SMALL),
    )
    assert network.training
    prg.loss(views(prg), 0).backward()  # type: ignore[no-untyped-call]


def test_dino__needs_an_average_to_learn_from() -> None:
    with pytest.raises(UserError, match="ema_decay"):
        PRG(
            input_shape=(3, 8, 8),
            backbone=Plain(),
            feature=FeatureSpec(block="first"),
            auxiliary=AuxiliaryRecipe(loss="dino", block="first", **SMALL),
            optimization=TrainRecipe(ema_decay=0.0),
        )


class Named(Plain):
    block_names = ("first", "last")


@pytest.mark.parametrize("loss", ["ntxent", "dispersive", "align"])
@pytest.mark.parametrize("kind", ["plain", "named", "adapted"])
def test_own_network__is_read_by_a_hook(kind: str, loss: str) -> None:
    torch.manual_seed(0)
    plain = Named() if kind == "named" else Plain()
    prg = PRG(
        input_shape=(3, 8, 8),
        backbone=velocity_from(plain, call=lambda module, time, x: module(time, x)) if kind == "adapted" else plain,
        feature=FeatureSpec(block="first"),
        auxiliary=AuxiliaryRecipe(loss=loss, block="first", **SMALL, **(ALIGN if loss == "align" else {})),
    )
    assert not plain.get_buffer("first.1.running_mean").any(), "the dry run leaves the network as it is"
    assert plain.training
    prg.loss(views(prg), 0).backward()  # type: ignore[no-untyped-call]
    assert len(reached(prg)) >= 4
    x, tau = torch.randn(2, 3, 8, 8), torch.full((2,), 0.5)
    read = ReadVelocity(prg.velocity, "first")
    assert torch.equal(read(tau, x), plain(tau, x))
    assert read.activation is not None
    assert torch.equal(read.activation, plain.first(x))


class Own(VelocityNetwork):
    block_names = ("first", "last")

    def __init__(self) -> None:
        super().__init__(image_size=8, in_channels=3)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def _steps(self, tau: Tensor, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = self.first(x)
        yield "first", x
        yield "last", self.last(x)


def test_compiled__views_too_and_nothing_that_is_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"input_shape": (3, 8, 8), "feature": FeatureSpec(block="first"), "ode": OdeSpec(steps=1)}
    prg = PRG(backbone=Own(), auxiliary=AuxiliaryRecipe(loss="dino", block="first", **SMALL), **options)
    assert prg.auxiliary is not None
    keys, parts = list(prg.state_dict()), views(prg)
    x, tau = torch.cat(parts[1:]).contiguous(memory_format=torch.channels_last), torch.zeros(12)
    plain = prg.auxiliary.project(prg.velocity, tau, x)
    compile_as, counter = torch.compile, CompileCounter()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(torch, "compile", lambda call: compile_as(call, backend=counter, fullgraph=True))
    prg.compile_network()
    torch.testing.assert_close(prg.auxiliary.project(prg.velocity, tau, x), plain)
    assert counter.frame_count == 1, "the views as far as the block"
    for position in range(2):
        assert prg.loss(parts, position).isfinite()
        assert counter.frame_count == 2, "and the flow, but not the teacher"
    prg.encoder()(torch.rand(2, 3, 8, 8))
    for taken in (copy.deepcopy(prg.auxiliary.read), pickle.loads(pickle.dumps(prg.auxiliary.read))):
        assert torch.equal(taken(prg.ema.module, tau, x), prg.ema.module.first(x))
    assert counter.frame_count == 2
    assert list(prg.state_dict()) == keys


def test_network_of_others__is_not_compiled_as_far_as_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its evaluation is ended by an exception."""
    prg = PRG(
        input_shape=(3, 8, 8),
        backbone=velocity_from(Plain(), call=lambda module, time, x: module(time, x)),
        feature=FeatureSpec(block="first"),
        auxiliary=AuxiliaryRecipe(block="first", **SMALL),
    )
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call.__self__) or call)
    prg.compile_network()
    assert compiled == [prg.velocity]


@pytest.mark.parametrize(("text", "tau"), [("[0, 1e-1]", (0.0, 0.1)), ("[5e-2, 1e-1]", (0.05, 0.1))])
def test_tau__takes_numbers_that_yaml_reads_as_text(text: str, tau: tuple[float, float]) -> None:
    method: Any = parse_recipe(JOINT, overrides=[f"method.auxiliary.tau={text}"]).method
    assert method.auxiliary.tau == tau


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
        ("method.auxiliary.tau=[1e-1, 5e-2]", "lower end comes first"),
        ("method.auxiliary.tau=[null, 0.1]", "tau"),
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
