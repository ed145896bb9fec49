from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.layer_decay import check_groups, in_block, layer_groups
from lightly_prg.eval.finetuning.loop import warmup_cosine


class Transformer(nn.Module):
    """Position, three blocks, a last normalisation that is in no block."""

    blocks = ("stem", "layers.0", "layers.1", "layers.1.inner")

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 2))
        self.stem = nn.Linear(2, 2)
        self.layers = nn.ModuleList(
            [nn.Linear(2, 2), nn.ModuleDict({"outer": nn.Linear(2, 2), "inner": nn.Linear(2, 2)})]
        )
        self.norm = nn.LayerNorm(2)


def rates(groups: list[dict[str, Any]], module: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
        if id(parameter) in names
    }


def test_learning_rates__by_hand() -> None:
    encoder, head = Transformer(), nn.Linear(2, 3)
    groups = layer_groups(encoder, head, lr=32.0, decay=0.5, weight_decay=0.1)
    assert rates(groups, encoder) == {
        "position": (1.0, 0.1),
        "stem.weight": (2.0, 0.1),
        "stem.bias": (2.0, 0.0),
        "layers.0.weight": (4.0, 0.1),
        "layers.0.bias": (4.0, 0.0),
        "layers.1.outer.weight": (8.0, 0.1),
        "layers.1.outer.bias": (8.0, 0.0),
        "layers.1.inner.weight": (16.0, 0.1),  # the longer name wins
        "layers.1.inner.bias": (16.0, 0.0),
        "norm.weight": (16.0, 0.0),  # with the block before it
        "norm.bias": (16.0, 0.0),
    }
    assert rates(groups, head) == {"weight": (32.0, 0.1), "bias": (32.0, 0.0)}
    assert [group["lr"] for group in groups] == sorted(group["lr"] for group in groups)
    assert all(set(group) == {"params", "lr", "weight_decay"} for group in groups)
    check_groups(groups, nn.ModuleList([encoder, head]))


def test_no_decay__is_one_learning_rate_and_needs_no_blocks() -> None:
    encoder, head = nn.Linear(2, 2), nn.Linear(2, 3)
    groups = layer_groups(encoder, head, lr=3.0, decay=1.0, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {3.0}
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.1]
    (group,) = layer_groups(encoder, head, lr=3.0, decay=1.0, weight_decay=0.1, decay_one_dimensional=True)
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == 4


def test_frozen_parameters__are_in_no_group() -> None:
    encoder, head = Transformer(), nn.Linear(2, 3)
    encoder.layers[0].requires_grad_(False)
    groups = layer_groups(encoder, head, lr=32.0, decay=0.5, weight_decay=0.1)
    assert not [name for name in rates(groups, encoder) if name.startswith("layers.0")]
    assert rates(groups, encoder)["stem.weight"] == (2.0, 0.1)  # the depth is that of the whole encoder


@pytest.mark.parametrize("step", [0, 1, 4, 5, 50, 99])
def test_schedule__keeps_the_ratios(step: int) -> None:
    encoder, head = Transformer(), nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer_groups(encoder, head, lr=32.0, decay=0.5, weight_decay=0.1), lr=7.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, steps=100, warmup_steps=5, final_share=0.01)
    )
    for _ in range(step):
        optimizer.step()
        scheduler.step()
    factor = warmup_cosine(step, steps=100, warmup_steps=5, final_share=0.01)
    assert 0.01 <= factor <= 1.0
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor * peak for peak in peaks])


def test_schedule__by_hand() -> None:
    factors = [warmup_cosine(step, steps=8, warmup_steps=4, final_share=0.2) for step in range(8)]
    cosine = 0.4 * 2**-0.5
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.6 + cosine, 0.6, 0.6 - cosine])
    assert warmup_cosine(0, steps=1, warmup_steps=0, final_share=0.0) == 1.0


def test_encoder_without_order__is_refused() -> None:
    options = {"lr": 1.0, "decay": 0.65, "weight_decay": 0.0}
    with pytest.raises(UserError, match="Linear does not name its `blocks`"):
        layer_groups(nn.Linear(2, 2), nn.Linear(2, 3), **options)
    encoder = Transformer()
    encoder.blocks = ("stem", "layer.0")
    with pytest.raises(UserError, match=r"'layer\.0'"):
        layer_groups(encoder, nn.Linear(2, 3), **options)
    with pytest.raises(UserError, match=r"1\.5"):
        layer_groups(encoder, nn.Linear(2, 3), lr=1.0, decay=1.5, weight_decay=0.0)
    # Where nothing of the encoder is trained, its order is not needed.
    assert layer_groups(nn.Flatten(), nn.Linear(2, 3), **options)[0]["lr"] == 1.0


def test_blocks__are_whole_parts_of_names() -> None:
    assert in_block("blocks.1.weight", "blocks.1")
    assert in_block("position", "position")
    assert not in_block("blocks.10.weight", "blocks.1")


def test_groups__have_to_be_complete() -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(ValueError, match="'bias' is in 0"):
        check_groups([{"params": [model.weight]}], model)
    with pytest.raises(ValueError, match="'weight' is in 2"):
        check_groups([{"params": [model.weight, model.bias]}, {"params": [model.weight]}], model)
    with pytest.raises(ValueError, match="1 parameters that the model does not have"):
        check_groups([{"params": [model.weight, model.bias, nn.Parameter(torch.ones(1))]}], model)
    model.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen parameter 'weight' is in 1"):
        check_groups([{"params": [model.weight, model.bias]}], model)
