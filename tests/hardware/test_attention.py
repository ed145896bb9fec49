from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightly_prg.evaluation import Evaluation
from lightly_prg.hardware.attention import use_fast_attention
from lightly_prg.models import DiT
from lightly_prg.models.resnet import ResNet
from lightly_prg.models.vit import ViT
from lightly_prg.recipe import load_recipe
from lightly_prg.run import Run
from lightly_prg.train import train

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def small(image_size: int = 8) -> ViT:
    torch.manual_seed(0)
    return ViT(image_size=image_size, patch_size=2, width=24, depth=2, heads=3)


def fused(module: nn.Module) -> set[bool]:
    return {part.fused_attn for part in module.modules() if hasattr(part, "fused_attn")}


@pytest.mark.parametrize(
    ("image_size", "device", "precision", "expected"),
    [
        (8, CPU, "bf16", False),
        (8, CPU, "16", False),
        (8, CPU, "32", True),
        (8, GPU, "bf16", True),
        (64, CPU, "bf16", True),  # 1,024 tokens: a million pairs a head
    ],
)
def test_attention__is_spelt_out_for_few_tokens_in_half_precision_on_a_cpu(
    image_size: int, device: torch.device, precision: str, expected: bool
) -> None:
    network = small(image_size)
    use_fast_attention(network, device, precision)
    assert fused(network) == {expected}


@pytest.mark.parametrize("name", ["vit", "dit"])
def test_both_forms__give_the_same_outputs_and_gradients(name: str) -> None:
    images = torch.rand(2, 3, 8, 8)
    if name == "vit":
        network: nn.Module = small()
        inputs = (images,)
    else:
        torch.manual_seed(0)
        network = DiT(image_size=8, in_channels=3, patch_size=2, width=24, depth=2, heads=3)
        inputs = (torch.rand(2), images)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    found = []
    for precision in ("32", "bf16"):
        use_fast_attention(network, CPU, precision)
        network.zero_grad()
        output = network(*inputs)
        output.square().mean().backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        found.append((fused(network), output.detach(), gradients))
    assert [forms for forms, *_ in found] == [{True}, {False}]
    torch.testing.assert_close(found[0][1:], found[1][1:])


def test_networks_without_attention__are_left_alone() -> None:
    network = ResNet(depth=18, width=0.125)
    use_fast_attention(network, CPU, "bf16")
    assert fused(network) == set()


class Forms(pl.Callback):
    seen: set[bool]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen = fused(pl_module)


def test_training_and_judging__use_it(tmp_path: Path) -> None:
    forms = Forms()
    overrides = [
        "data={name: digits, validation_fraction: 0.1}",
        "method.backbone={patch_size: 2, width: 24, depth: 1, heads: 3}",
        "method.decoder={width: 24, depth: 1, heads: 3}",
        *("train.max_steps=1", "train.accelerator=cpu", "train.precision=bf16"),
    ]  # fmt: skip
    train(load_recipe("fashion_mnist_mae_cpu", overrides), out=tmp_path / "run", callbacks=[forms])
    assert forms.seen == {False}  # the decoder's and the averaged network's as well
    evaluation = Evaluation(Run(tmp_path / "run"), device="cpu")
    expected = {evaluation.precision == "32"}
    assert fused(evaluation.trained) == fused(evaluation.encoder("random_network")) == expected
