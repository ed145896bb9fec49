from __future__ import annotations

import pytest
import torch
from lightly.loss import NTXentLoss

from lightly_prg.methods import SimCLR
from lightly_prg.models.resnet import ResNet
from lightly_prg.recipe import NetworkFeature, SimCLRRecipe


def tiny(**settings: object) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(
        8,
        2,
        backbone=ResNet(depth=9, width=0.125),
        settings=SimCLRRecipe(name="simclr", **settings),  # type: ignore[arg-type]
    )


def test_loss__is_lightlys_on_one_joint_forward() -> None:
    model = tiny(temperature=0.3)
    first, second = torch.rand(2, 4, 3, 32, 32)
    twin = tiny(temperature=0.3)
    projections = twin.projection_head(twin.backbone(torch.cat([first, second])))
    expected = NTXentLoss(temperature=0.3)(*projections.chunk(2))
    torch.testing.assert_close(model.loss([first, second], 0), expected)


def test_mixed_precision__ends_before_the_loss() -> None:
    model, twin = tiny(), tiny()
    first, second = torch.rand(2, 4, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.loss([first, second], 0)
        projections = twin.projection_head(twin.backbone(torch.cat([first, second])))
    assert projections.dtype == torch.bfloat16
    assert torch.equal(found, NTXentLoss()(*projections.float().chunk(2)))


def test_held_out_loss__waits_for_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    alone, keys = model.held_out_loss(images, 0), list(model.state_dict())

    def gather(_: torch.Tensor) -> None:
        raise AssertionError("the other processes are not there")

    monkeypatch.setattr("lightly.utils.dist.world_size", lambda: 2)
    monkeypatch.setattr("lightly.utils.dist.gather", gather)
    assert torch.equal(model.held_out_loss(images, 0), alone)
    assert list(model.state_dict()) == keys
    assert model.training


def test_one_view__is_refused() -> None:
    with pytest.raises(ValueError, match="two views"):
        tiny().loss([torch.rand(4, 3, 32, 32)], 0)


def test_encoder__has_no_projection_head() -> None:
    model = tiny()
    names = {name for name, _ in model.encoder().named_parameters()}
    assert names == {f"network.{name}" for name, _ in model.backbone.named_parameters()}


def test_resnet__keeps_the_relu_behind_the_stem() -> None:
    network = ResNet(depth=9, width=0.25).eval()
    x = torch.randn(2, 3, 32, 32)
    stem = network.activations(x, ("stem",))["stem"]
    assert stem.min() == 0
    assert stem.shape == (2, 16, 32, 32)


def test_resnet__activations_lead_to_the_output() -> None:
    network = ResNet(in_channels=1, depth=18, width=0.125, stem_stride=2).eval()
    x = torch.randn(2, 1, 28, 28)
    found = network.activations(x, network.block_names)
    assert [value.shape[-1] for value in found.values()] == [14, 14, 7, 4, 2]
    torch.testing.assert_close(found["layer4"].mean((2, 3)), network(x))
    with pytest.raises(ValueError, match="layer5"):
        network.activations(x, ("layer5",))


def test_feature__of_a_stage_is_read_there() -> None:
    model = tiny(feature=NetworkFeature(block="layer2", pool="grid:2"))
    assert model.encoder().embedding_dim == 16 * 4
