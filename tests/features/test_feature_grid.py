from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.features import PRGEncoder
from lightly_prg.features.cells import Row, even_steps, ode_of
from lightly_prg.features.grid import GridEncoder
from lightly_prg.features.image_noise import noise_of_images
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.reading import readable_blocks
from lightly_prg.flow import LinearPath, TrigonometricPath, VariancePreservingPath
from lightly_prg.models import DiT, UNet
from lightly_prg.models.activations import hooked_outputs
from lightly_prg.models.pooling import fitting_pool
from lightly_prg.models.resnet import ResNet
from lightly_prg.models.vit import ViT
from lightly_prg.recipe import FeatureSpec, NetworkFeature, OdeSpec

TAUS = (0.0, 0.1, 0.2, 0.5)
STATE, VELOCITY, DENOISED = (Row(name, pool="grid:4") for name in ("state", "velocity", "denoised"))


class Tower(nn.Module):
    """A user's own velocity network: read by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.rest = nn.Sequential(nn.Tanh(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 3, padding=1))
        self.calls = 0

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.rest(self.first(x) + tau)
        return out


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "tower":
        return Tower()
    if kind == "dit":
        model: nn.Module = DiT(image_size=8, in_channels=1, patch_size=2, width=24, depth=2, heads=2)
    else:
        model = UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention=())
    for parameter in model.parameters():  # those that start at zero would make the flow the identity
        nn.init.normal_(parameter, std=0.1)
    return model


def prg(kind: str = "unet", **options: Any) -> PRGEncoder:
    ode = options.pop("ode", OdeSpec(steps=4))
    path = options.pop("path", LinearPath())
    feature = FeatureSpec(source="state", tau=0.5)
    return PRGEncoder(network(kind), path, ode, feature, input_shape=(1, 8, 8), mean=0.4, std=0.3).eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def alone(encoder: PRGEncoder, feature: FeatureSpec, ode: OdeSpec) -> PRGEncoder:
    return PRGEncoder(encoder.velocity, encoder.path, ode, feature, input_shape=(1, 8, 8), mean=0.4, std=0.3).eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["unet", "dit", "tower"])
# A scan takes even steps, and stores what it chose with them.
@pytest.mark.parametrize(("solver", "steps"), [("euler", "quadratic"), ("heun2", "even")])
@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()])
def test_cells__are_what_each_feature_gives_alone(kind: str, solver: str, steps: Any, path: Any) -> None:
    encoder = prg(kind, ode=OdeSpec(solver=solver, steps=4, grid=steps), path=path)
    blocks = [Row("block", block, pool) for block in readable_blocks(encoder) for pool in ("mean", "grid:2")]
    grid = GridEncoder(encoder, [STATE, VELOCITY, DENOISED, *blocks], taus=TAUS)
    values = grid(images())
    assert values.shape == (3, grid.embedding_dim)
    assert len(grid.cells) == len(grid.rows) * (len(TAUS) + 1)
    for cell in grid.cells:
        feature = cell.feature()
        assert isinstance(feature, FeatureSpec)
        assert feature.taus == cell.taus
        reader = alone(encoder, feature, ode_of(encoder.ode, cell))
        assert cell.reproducible
        assert torch.equal(values[:, grid.columns(cell)], reader(images())), cell
        assert grid.nfe_of(cell) == reader.nfe


@torch.no_grad()
def test_uneven_grid__is_told_and_several_taus_hold_all_the_same() -> None:
    encoder = prg(path=VariancePreservingPath())  # starts at 0.001: no few even steps reach 0.1 and 0.25
    grid = GridEncoder(encoder, [STATE, Row("block", "middle")], taus=(0.1, 0.25))
    values = grid(images())
    assert grid.steps == 4
    told = {cell.taus: cell.reproducible for cell in grid.cells}
    assert told == {(0.1,): True, (0.25,): False, (0.1, 0.25): True}
    for cell in grid.cells:
        feature = cell.feature()
        assert isinstance(feature, FeatureSpec)
        same = torch.equal(values[:, grid.columns(cell)], alone(encoder, feature, ode_of(encoder.ode, cell))(images()))
        assert same == cell.reproducible, cell


@torch.no_grad()
def test_one_pass__serves_all_cells() -> None:
    encoder = prg("tower")
    rows = [STATE, VELOCITY, DENOISED, Row("block", "first"), Row("block", "rest.1")]
    grid = GridEncoder(encoder, rows, taus=TAUS)
    tower: Any = encoder.velocity
    tower.calls = 0
    grid(images())
    assert tower.calls == grid.nfe == 5 + 1  # five steps of 0.1; but for the last, each tau is where a step begins
    assert not any(module._forward_hooks for module in tower.modules())
    state_alone = GridEncoder(encoder, [STATE], taus=TAUS)
    tower.calls = 0
    state_alone(images())
    assert tower.calls == 5


@torch.no_grad()
def test_adaptive_solver__costs_at_most_what_is_told() -> None:
    encoder = prg("tower", ode=OdeSpec(solver="dopri5", steps=4, rtol=1e-3, atol=1e-3))
    grid = GridEncoder(encoder, [STATE], taus=(0.3, 0.6))
    grid(images())
    first, second, both = grid.cells
    assert (first.reproducible, second.reproducible, both.reproducible) == (False, False, True)
    assert grid.nfe_of(first) == grid.nfe_of(second) == grid.nfe_of(both) == grid.nfe


@torch.no_grad()
def test_batches__do_not_matter() -> None:
    encoder = prg()
    for noised in (False, True):
        grid = GridEncoder(encoder, [STATE, Row("block", "middle")], taus=(0.2, 0.4), noised=noised)
        torch.testing.assert_close(torch.cat([grid(images(3)[:1]), grid(images(3)[1:])]), grid(images(3)))


@torch.no_grad()
def test_noised__reads_at_the_interpolated_image() -> None:
    encoder = prg(path=TrigonometricPath())
    grid = GridEncoder(
        encoder, [Row("state", pool="flatten"), Row("block", "middle")], taus=(0.3, 0.6), noised=True, seed=7
    )
    values, x = grid(images()), encoder.normalize(images())
    noise = noise_of_images(images(), 7)
    network: Any = encoder.velocity
    for cell in grid.cells:
        parts = []
        for tau in cell.taus:
            angle = torch.tensor(torch.pi * tau / 2)
            at = torch.cos(angle) * x + torch.sin(angle) * noise
            if cell.row.source == "state":
                parts.append(at.flatten(1))
            else:
                parts.append(network.activations(tau, at, ("middle",))["middle"].mean((2, 3)))
        torch.testing.assert_close(values[:, grid.columns(cell)], torch.cat(parts, dim=1))
        assert not cell.reproducible  # no encoder draws noise
    assert grid.nfe == 2
    assert [grid.nfe_of(cell) for cell in grid.cells] == [0, 0, 0, 1, 1, 2]


def test_noise__belongs_to_the_image_and_the_seed() -> None:
    noise = noise_of_images(images(), 0)
    assert torch.equal(noise.flip(0), noise_of_images(images().flip(0), 0))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, noise_of_images(images(), 1))
    many = noise_of_images(torch.rand(200, 1, 8, 8), 0)
    assert many.mean().abs() < 0.05
    assert (many.std() - 1).abs() < 0.05


@torch.no_grad()
@pytest.mark.parametrize("kind", ["resnet", "vit", "sequential"])
def test_network__gives_all_blocks_and_its_output(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "resnet":
        body: nn.Module = ResNet(in_channels=1, depth=9, width=0.125)
    elif kind == "vit":
        body = ViT(image_size=8, in_channels=1, patch_size=4, width=8, depth=2, heads=2)
    else:
        body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3))
    resize = None if kind != "sequential" else 12
    encoder = NetworkEncoder(body, input_shape=(1, 8, 8), mean=0.4, std=0.3, resize=resize).eval()
    blocks = readable_blocks(encoder)
    rows = [*(Row("block", block, "mean") for block in blocks), Row("block", blocks[0], "grid:2"), Row("output")]
    grid = GridEncoder(encoder, rows)
    assert len(rows) == len(grid.cells) == len(blocks) + 2
    values = grid(images())
    assert not any(module.training for module in body.modules())
    for cell in grid.cells:
        feature = cell.feature()
        assert isinstance(feature, NetworkFeature)
        reader = NetworkEncoder(body, feature, input_shape=(1, 8, 8), mean=0.4, std=0.3, resize=resize).eval()
        assert torch.equal(values[:, grid.columns(cell)], reader(images())), cell
        assert grid.nfe_of(cell) == 1


def test_readable_blocks__of_your_own_network() -> None:
    assert readable_blocks(prg("tower")) == ("first", "rest.1", "rest.2")  # a Tanh has no parameters
    assert "middle" in readable_blocks(prg("unet"))
    assert readable_blocks(PRGEncoder(lambda tau, x: x, input_shape=(1, 8, 8))) == ()


def test_grid__is_as_fine_as_the_activation_at_most() -> None:
    rows = [Row("block", "middle", "grid:5"), Row("block", "middle", "grid:4"), Row("block", "middle"), STATE]
    grid = GridEncoder(prg(), rows, taus=(0.5,))
    assert grid.rows == (*rows[1:],)
    assert grid.skipped == {}
    assert fitting_pool(torch.zeros(2, 3, 1, 1), "grid:4") == "mean"
    assert fitting_pool(torch.zeros(2, 9, 3), "grid:4") == "grid:3"  # tokens


def test_vector__is_read_once_however_it_is_pooled() -> None:
    encoder = NetworkEncoder(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), input_shape=(1, 8, 8))
    grid = GridEncoder(encoder, [Row("output"), Row("output", pool="grid:4"), Row("block", "1")])
    assert grid.rows == (Row("output"), Row("block", "1"))


def test_pool_that_does_not_fit__is_left_out_with_its_reason() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, 4, 4, 4)
            self.project = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.project(self.embed(x).flatten(2).transpose(1, 2)[:, :3]).mean(1)

    encoder = NetworkEncoder(Tokens(), input_shape=(1, 8, 8))
    grid = GridEncoder(encoder, [Row("block", "project", "grid:1"), Row("output")])
    assert grid.rows == (Row("output"),)
    (reason,) = grid.skipped.values()
    assert "3 tokens form no square" in reason
    with pytest.raises(ValueError, match="Nothing is left to read"):
        GridEncoder(encoder, [Row("block", "project", "grid:1")])
    with pytest.raises(ValueError, match="'nowhere'"):
        GridEncoder(prg(), [Row("block", "nowhere")], taus=(0.5,))
    with pytest.raises(ValueError, match="one tau or more"):
        GridEncoder(prg(), [STATE])


@pytest.mark.parametrize(
    ("start", "taus", "at_least", "steps"),
    [
        (0.0, (0.1, 0.2, 1.0), 8, 10),
        (0.0, (0.1, 0.2, 1.0), 11, 20),
        (0.0, (0.3,), 8, 8),
        (0.0, (0.0, 0.25, 0.5), 1, 2),
        (0.0, (0.0,), 8, 8),
        (0.0, (0.05, 1.0), 2, 20),
        (0.001, (0.001, 0.1, 0.2), 8, 8),  # 0.099 and 0.199 share but 0.001: 199 steps are too many
        (0.0, (0.123, 0.9), 1, 2),
        (0.001, (0.101, 0.201), 3, 4),
    ],
)
def test_even_steps__by_hand(start: float, taus: tuple[float, ...], at_least: int, steps: int) -> None:
    assert even_steps(start, taus, at_least) == steps


def test_hooked_outputs__run_once_and_refuse_what_gives_nothing() -> None:
    tower = Tower()
    tau, x = torch.tensor(0.3), images()
    output, found = hooked_outputs(tower, ("first", "rest.1"), tau, x)
    assert tower.calls == 1
    assert torch.equal(found["first"], tower.first(x))
    assert torch.equal(output, tower(tau, x))
    idle = nn.ModuleDict({"used": nn.Identity(), "idle": nn.Identity()})
    idle.forward = lambda x: idle["used"](x)  # type: ignore[method-assign]
    assert set(hooked_outputs(idle, ("used", "idle"), x, missing_ok=True)[1]) == {"used"}
    with pytest.raises(ValueError, match="'idle' gave no tensor"):
        hooked_outputs(idle, ("idle",), x)
