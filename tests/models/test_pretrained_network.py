from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lightly_prg.errors import UserError
from lightly_prg.methods import pretrained_encoder
from lightly_prg.models.pretrained_network import build_pretrained
from lightly_prg.recipe import NetworkFeature, PretrainedRecipe


@pytest.mark.parametrize(
    ("source", "size", "dim"),
    [("timm:resnet10t", 32, 512), ("timm:test_vit", 32, 64), ("torchvision:shufflenet_v2_x0_5", 64, 1024)],
)
def test_library_networks__become_encoders(source: str, size: int, dim: int) -> None:
    recipe = PretrainedRecipe(name="pretrained", source=source, weights="none")
    encoder = pretrained_encoder(recipe, (1, size, size))
    assert encoder(torch.rand(2, 1, size, size)).shape == (2, dim)
    assert encoder.nfe == 1


def test_normalisation__is_the_librarys() -> None:
    assert build_pretrained("timm:resnet10t", weights="none", image_size=32).mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "checkpoint.pth"])
def test_weights__of_a_file_are_loaded_without_the_classifier(tmp_path: Path, suffix: str) -> None:
    import timm

    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=7)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
    elif suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3, "arch": "test_resnet"}, path)
    loaded = build_pretrained("timm:test_resnet", weights=str(path), image_size=32).network
    model.reset_classifier(0)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch should-not-exist",)


def test_code_in_a_file__is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": {"a": Malicious()}}, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        build_pretrained("timm:test_resnet", weights=str(path), image_size=32)
    assert not (tmp_path / "should-not-exist").exists()


def test_weights__that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="lacks"):
        build_pretrained("timm:test_resnet", weights=str(path), image_size=32)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no weights"):
        build_pretrained("timm:test_resnet", weights=str(path), image_size=32)
    with pytest.raises(UserError, match="no file of weights"):
        build_pretrained("timm:test_resnet", weights=str(tmp_path / "missing.pth"), image_size=32)


def test_unknown_names__are_told() -> None:
    with pytest.raises(UserError, match="resnet19"):
        build_pretrained("timm:resnet19", weights="none", image_size=32)
    with pytest.raises(UserError, match="nothing_like_it"):
        build_pretrained("torchvision:nothing_like_it", weights="none", image_size=32)
    with pytest.raises(UserError, match="no classifier 'fasterrcnn_resnet50_fpn'"):  # it gives boxes
        build_pretrained("torchvision:fasterrcnn_resnet50_fpn", weights="none", image_size=32)


def test_wrong_images__are_told() -> None:
    recipe = PretrainedRecipe(name="pretrained", source="torchvision:vit_b_32", weights="none")
    with pytest.raises(UserError, match="resize"):
        pretrained_encoder(recipe, (3, 32, 32))
    with pytest.raises(UserError, match="1 or 3 channels"):
        pretrained_encoder(recipe, (2, 224, 224))


def test_block__is_read_where_it_is_named() -> None:
    recipe = PretrainedRecipe(
        name="pretrained", source="timm:resnet10t", weights="none", feature=NetworkFeature(block="layer2")
    )
    assert pretrained_encoder(recipe, (3, 32, 32)).embedding_dim == 128
