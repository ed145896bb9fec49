"""Fine-tuning with low-rank updates, and with an average of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_finetune import BUFFERS, Encoder, changed, run
from torch import Tensor, nn

from lightly_prg.ema import EMA
from lightly_prg.models import LoRA

LAYERS = {"network.stem.weight", "network.layers.1.weight"}


def updates(encoder: nn.Module) -> list[str]:
    return [name for name, p in encoder.named_parameters() if p.requires_grad]


class TestLoRA:
    def test_result__is_merged_and_changes_the_layers_alone(self) -> None:
        encoder = Encoder()
        result, model = run(encoder, mode="lora", adapter=LoRA(rank=2))
        assert list(model.encoder.state_dict()) == list(encoder.state_dict())
        assert changed(encoder, model) == LAYERS
        head = sum(p.numel() for p in model.head.parameters())
        # The stem is the matrix 4 x 9, the last layer 1 x 4, whose rank is 1.
        assert result.trainable_parameters == head + 2 * (4 + 9) + (1 + 4)
        assert result.mode == "lora"
        assert result.options["adapter"] == "LoRA(rank=2, alpha=16.0, norms=False, seed=0)"
        assert not model.training

    def test_norms__are_trained_and_their_statistics_are_not(self) -> None:
        encoder = Encoder()
        _, model = run(encoder, mode="lora", adapter=LoRA(rank=1, norms=True))
        assert changed(encoder, model) == LAYERS | {"network.layers.0.0.weight", "network.layers.0.0.bias"}
        assert not changed(encoder, model) & BUFFERS

    def test_base__is_bit_for_bit_that_of_the_encoder_in_every_step(self) -> None:
        encoder = Encoder()
        base = {name: p.detach().clone() for name, p in encoder.named_parameters()}
        seen: list[float] = []

        def watch(inner: nn.Module, inputs: Tensor, step: int) -> Tensor:
            assert all(not module.training for module in inner.modules())
            kept = {
                name.replace("parametrizations.weight.original", "weight"): p for name, p in inner.named_parameters()
            }
            assert all(torch.equal(kept[name], value) and not kept[name].requires_grad for name, value in base.items())
            trained = [p for p in inner.parameters() if p.requires_grad]
            assert len(trained) == 4
            seen.append(float(sum(p.detach().abs().sum() for p in trained)))
            return inputs.new_zeros(())

        result, _ = run(encoder, mode="lora", adapter=LoRA(), extra_loss=watch)
        assert len(set(seen)) == result.steps > 2

    def test_learning_rate_of_nothing__leaves_the_predictions_of_the_base(self) -> None:
        encoder = Encoder().eval()
        _, model = run(encoder, mode="lora", adapter=LoRA(), learning_rates=[1e-12])
        inputs = torch.rand(3, 1, 8, 8)
        torch.testing.assert_close(model.encoder(inputs), encoder(inputs))

    def test_layers__have_their_learning_rates(self) -> None:
        result, model = run(Encoder(), mode="lora", adapter=LoRA(rank=1), preset="mae", learning_rates=[1e-2])
        assert changed(Encoder(), model) == LAYERS
        assert result.preset == "mae"

    def test_average__of_the_updates_is_merged(self) -> None:
        options: dict[str, Any] = {"mode": "lora", "adapter": LoRA(rank=2)}
        encoder = Encoder()
        _, plain = run(encoder, **options)
        _, averaged = run(encoder, **options, ema_decay=0.5)
        assert changed(encoder, averaged) == LAYERS
        assert not torch.equal(plain.encoder.network["stem"].weight, averaged.encoder.network["stem"].weight)


class TestAverage:
    def test_decay_of_zero__is_no_average(self) -> None:
        plain, first = run()
        copied, second = run(ema_decay=0.0)
        assert plain.curve == copied.curve
        assert plain.top1 == copied.top1
        one, other = first.state_dict(), second.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert plain.options["preset"]["ema_decay"] is None
        assert copied.options["preset"]["ema_decay"] == 0.0

    def test_weights__are_the_average_over_the_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[dict[str, Tensor]] = []
        original = EMA.update

        def update(self: EMA, source: nn.Module) -> None:
            seen.append({name: p.detach().clone() for name, p in source.named_parameters()})
            original(self, source)

        monkeypatch.setattr(EMA, "update", update)
        encoder = Encoder()
        result, model = run(encoder, ema_decay=0.3)
        assert len(seen) == result.steps == 4
        expected = {f"encoder.{name}": p.detach().clone() for name, p in encoder.named_parameters()}
        for step, weights in enumerate(seen):
            decay = min(0.3, (1 + step) / (10 + step))
            expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
        found = dict(model.named_parameters())
        for name, value in expected.items():
            torch.testing.assert_close(found[name].detach(), value)
        assert not torch.equal(found["encoder.network.stem.weight"], seen[-1]["encoder.network.stem.weight"])
