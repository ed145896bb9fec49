"""A Trainer of one's own: length, warm-up and clipping come out as ``TrainRecipe`` says, whatever it iterates over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightly_prg import PRG, PRGEncoder
from lightly_prg.errors import UserError
from lightly_prg.features import FeatureSpec
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.recipe import TrainRecipe

pytestmark = pytest.mark.filterwarnings("ignore")
Batch = tuple[list[Tensor], Tensor, list[str]]


class Velocity(nn.Module):
    """With the two layers whose results depend on the mode."""

    input_shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1)
        )

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Stream(IterableDataset[Batch]):
    """Without a length."""

    def __iter__(self) -> Iterator[Batch]:
        for index in range(6):
            yield [torch.full((4, 1, 4, 4), 0.1 * index)], torch.zeros(4, dtype=torch.int64), [""] * 4


def module(**settings: Any) -> PRG:
    torch.manual_seed(0)
    feature = FeatureSpec(source="velocity", tau=0.5)
    options = {"lr": 1e-3, "epochs": 200, **settings}
    return PRG(4, 2, input_shape=(1, 4, 4), backbone=Velocity(), feature=feature, optimization=TrainRecipe(**options))


class Watch(pl.Callback):
    """Learning rates, gradient norms as the optimiser gets them, and positions."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []
        self.positions: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.positions.append(model.position(batch_idx))  # type: ignore[operator]

    def on_before_zero_grad(self, trainer: pl.Trainer, model: pl.LightningModule, optimizer: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(model: PRG, *, stream: bool = False, **options: Any) -> Watch:
    watch = Watch()
    quiet = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[watch], **quiet, **options)
    batches: Any = DataLoader(Stream() if stream else list(Stream()), batch_size=None)
    trainer.fit(model, batches)
    return watch


def test_warm_up__is_as_many_passes_as_it_says() -> None:
    rates = fit(module(warmup_epochs=2), max_epochs=5).rates
    assert rates.index(max(rates)) + 1 == pytest.approx(12, abs=1), "two passes over six batches, not 2 / 200 of all"
    rates = fit(module(warmup_epochs=2, schedule="constant"), max_steps=30).rates
    assert rates.index(max(rates)) + 1 == pytest.approx(12, abs=1)


def test_clip__is_applied_where_the_trainer_names_none() -> None:
    assert max(fit(module(clip=1e-3), max_epochs=1).norms) <= 1e-3 * 1.01
    assert max(fit(module(clip=None), max_epochs=1).norms) > 0.1
    assert max(fit(module(clip=1e-3), max_epochs=1, gradient_clip_val=1e-2).norms) == pytest.approx(1e-2, rel=0.01)


def test_rounded_weights__are_refused() -> None:
    with pytest.raises(UserError, match=r"weights are bfloat16, too coarse.*bf16-mixed"):
        fit(module(), max_epochs=1, precision="bf16-true")
    assert fit(module(), max_epochs=1, precision="bf16-mixed").positions


def test_stream__has_positions_and_needs_an_end() -> None:
    assert fit(module(warmup_epochs=100), stream=True, max_steps=9).positions == list(range(9))
    with pytest.raises(UserError, match="has no end: give the Trainer max_steps"):
        fit(module(), stream=True, max_epochs=2)
    endless = fit(module(schedule="constant"), stream=True, max_epochs=2)
    assert endless.positions == list(range(12))
    assert endless.rates == [1e-3] * 12


def test_average__stays_in_evaluation_mode() -> None:
    model = module()
    assert not any(part.training for part in model.ema.module.modules())
    fit(model, max_epochs=1)
    assert model.encoder().embedding_dim == 1
    assert not any(part.training for part in model.ema.module.modules())
    held_out = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    before = {name: value.clone() for name, value in model.ema.module.state_dict().items()}
    losses = {float(model.held_out_loss(held_out, 0)) for _ in range(3)}
    assert len(losses) == 1, "dropout draws"
    for name, value in model.ema.module.state_dict().items():
        assert torch.equal(value, before[name]), f"held-out images moved {name}"


def test_encoder__takes_a_network_where_it_lies() -> None:
    velocity = Velocity().to("meta")
    assert PRGEncoder(velocity).mean.device.type == "meta"
    assert NetworkEncoder(velocity, input_shape=(1, 4, 4)).std.device.type == "meta"
    assert PRGEncoder(lambda tau, x: -x).mean.device.type == "cpu"


def test_dimension_of_a_network_in_training__leaves_every_part_in_its_mode() -> None:
    velocity = Velocity().train()
    velocity.layers[1].eval()  # as who fine-tunes with frozen statistics has it
    assert PRGEncoder(velocity, feature=FeatureSpec(source="velocity", tau=0.5)).embedding_dim == 1
    assert [part.training for part in velocity.layers] == [True, False, True, True]
