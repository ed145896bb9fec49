from __future__ import annotations

import pytest
import torch

from lightly_prg.errors import UserError
from lightly_prg.methods import MAE
from lightly_prg.methods.mae import build_vit
from lightly_prg.models.vit import ViT
from lightly_prg.recipe import DecoderRecipe, MAERecipe, ViTRecipe


def tiny(**settings: object) -> MAE:
    torch.manual_seed(0)
    recipe = MAERecipe(name="mae", decoder=DecoderRecipe(width=24, depth=1, heads=2), **settings)  # type: ignore[arg-type]
    return MAE(8, 2, backbone=ViT(patch_size=8, width=24, depth=2, heads=2), settings=recipe)


def test_mask__keeps_a_quarter_and_covers_every_token_once() -> None:
    keep, masked = tiny().draw_mask(5, torch.Generator().manual_seed(0))
    assert keep.shape == (5, 1 + 4)
    assert masked.shape == (5, 12)
    assert (keep[:, 0] == 0).all()  # the class token stays
    assert torch.equal(torch.cat([keep, masked], 1).sort(1).values, torch.arange(17).expand(5, -1))
    assert len({tuple(row.tolist()) for row in keep}) > 1


def test_loss__looks_at_masked_patches_only_and_encoding_at_kept_ones_only() -> None:
    model = tiny().eval()
    keep, masked = model.draw_mask(1, torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 32, 32)
    changed = images.clone()
    row, column = divmod(int(masked[0, 0]) - 1, 4)
    changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 0
    torch.testing.assert_close(model.predict(images, keep, masked), model.predict(changed, keep, masked))
    row, column = divmod(int(keep[0, 1]) - 1, 4)
    changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 0
    assert not torch.allclose(model.predict(images, keep, masked), model.predict(changed, keep, masked))


def test_target__is_normalised_for_each_patch() -> None:
    """Predicting nothing then costs the variance of the target, which is one whatever the image's contrast is."""
    model = tiny().eval()
    torch.nn.init.zeros_(model.prediction_head.weight)
    for contrast in (0.1, 1.0):
        loss = model.loss([contrast * torch.rand(4, 3, 32, 32)], 0).item()
        assert loss == pytest.approx(1.0, abs=0.02)  # N - 1 in the variance
    raw = tiny(normalize_target=False).eval()
    torch.nn.init.zeros_(raw.prediction_head.weight)
    images = torch.full((2, 3, 32, 32), 0.5)
    assert raw.loss([images], 0).item() == pytest.approx(0.25)


def test_gradient__reaches_every_trained_weight() -> None:
    model = tiny()
    model.loss([torch.rand(4, 3, 32, 32)], 0).backward()
    for part in model.trained_modules():
        for name, parameter in part.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


def test_vit__activations_are_the_blocks_without_class_token() -> None:
    network = ViT(patch_size=8, width=24, depth=2, heads=2).eval()
    x = torch.randn(2, 3, 32, 32)
    found = network.activations(x, network.block_names)
    assert [tuple(value.shape) for value in found.values()] == [(2, 16, 24)] * 2
    torch.testing.assert_close(network.masked.vit.norm(found["masked.vit.blocks.1"]), network(x))
    with pytest.raises(ValueError, match=r"blocks\.7"):
        network.activations(x, ("blocks.7",))


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"patch_size": 5}, "does not divide"), ({"width": 30, "heads": 3}, "multiple of 4"), ({"heads": 5}, "heads")],
)
def test_backbone__that_does_not_fit(settings: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_vit(MAERecipe(name="mae", backbone=ViTRecipe(**settings)), (3, 32, 32))


def test_mask_ratio__that_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        tiny(mask_ratio=0.01)
