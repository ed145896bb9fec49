"""Networks of strangers: odd in what they return, how often they run a block, in which layout and by which compiler."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny_images import halves
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightly_prg.errors import UserError
from lightly_prg.eval.cache import encoder_sha256
from lightly_prg.evaluation import Evaluation
from lightly_prg.features import PRGEncoder, activation
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.reading import readable_blocks
from lightly_prg.flow import PathRange
from lightly_prg.methods import PRG, SimCLR
from lightly_prg.methods.block_reading import ReadVelocity
from lightly_prg.models import from_edm, from_sit, velocity_from
from lightly_prg.models.activations import hooked_outputs
from lightly_prg.recipe import FeatureSpec, NetworkFeature, OdeSpec, TrainRecipe, parse_recipe
from lightly_prg.run import load
from lightly_prg.train import train

TAU = torch.tensor(0.3)


def images(count: int = 3, side: int = 6) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """Runs a block twice and works in place behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(1, 1, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.end = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, tau: Tensor, x: Tensor) -> Tensor:
        del tau
        output: Tensor = self.end(self.act(self.body(self.act(self.body(x)))))
        return output


def adapted(network: nn.Module, **options: Any) -> Any:
    return velocity_from(network, call=lambda module, time, x: module(time, x), **options)


class TestOneReading:
    def test_block_that_runs_twice_before_one_in_place__is_the_same_to_every_reader(self) -> None:
        network, x = Twice(), images()
        wanted = network.body(x)  # the first run, before what follows overwrites it
        assert wanted.min() < 0
        velocity = adapted(network)
        read = ReadVelocity(network, "body")
        read(TAU, x)
        assert read.activation is not None
        for found in (
            activation(network, TAU, x, "body"),
            activation(velocity, TAU, x, "body"),
            velocity.activations(TAU, x, ("body", "end"))["body"],
            hooked_outputs(network, ("body", "end"), TAU, x)[1]["body"],
            read.activation,
        ):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)

    def test_gradient__reaches_what_lies_before_a_layer_in_place(self) -> None:
        network = Twice()
        activation(network, TAU, images(), "body").sum().backward()
        assert network.body.weight.grad is not None
        assert network.body.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize("wrap", [lambda network: network, adapted], ids=["plain", "adapted"])
    def test_channels_last_activation__is_averaged_over_space(self, wrap: Any) -> None:
        class Swin(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stage = nn.Linear(1, 4)
                self.out = nn.Linear(4, 1)

            def forward(self, tau: Tensor, x: Tensor) -> Tensor:
                output: Tensor = self.out(self.stage(x.permute(0, 2, 3, 1)))
                return output.permute(0, 3, 1, 2)

        network = Swin()
        feature = FeatureSpec(source="block", block="stage", tau=0.0, pool="mean")
        encoder = PRGEncoder(wrap(network), ode=OdeSpec(steps=1), feature=feature, input_shape=(1, 6, 6), mean=0, std=1)
        wanted = network.stage(images().permute(0, 2, 3, 1)).mean((1, 2))
        torch.testing.assert_close(encoder(images()), wanted)

    @pytest.mark.parametrize("compile_it", [torch.compile, None], ids=["torch.compile", "compile()"])
    def test_compiled_network__is_read_as_it_was(self, compile_it: Any) -> None:
        network, x = Twice(), images()
        wanted = activation(network, TAU, x, "body")
        if compile_it is None:
            network.compile(backend="eager")
            network(TAU, x)
            compiled: Any = network
        else:
            compiled = compile_it(network, backend="eager")
            compiled(TAU, x)
        assert torch.equal(activation(compiled, TAU, x, "body"), wanted)
        velocity = adapted(compiled)
        assert velocity.block_names == ("body", "end")
        assert torch.equal(activation(velocity, TAU, x, "body"), wanted)


class TestRefusals:
    def test_tokens_before_the_batch__are_no_embeddings(self) -> None:
        class Sequence(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.TransformerEncoderLayer(4, 1, 8)  # takes (N, B, C)

            def forward(self, x: Tensor) -> Tensor:
                tokens: Tensor = self.layer(
                    x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).flatten(2, 3)[:, 0].transpose(0, 1)
                )
                return tokens.transpose(0, 1)

        encoder = NetworkEncoder(Sequence().eval(), NetworkFeature(block="layer"), input_shape=(1, 6, 6))
        with pytest.raises(ValueError, match="the batch has to come first"):
            _ = encoder.embedding_dim

    def test_prediction_in_a_container__is_taken_out_or_explained(self) -> None:
        x = images()
        for wrapped in (lambda value: (value, None), lambda value: SimpleNamespace(sample=value)):
            velocity = velocity_from(nn.Identity(), call=lambda module, time, x, wrapped=wrapped: wrapped(module(x)))
            assert torch.equal(velocity(TAU, x), x)
        with pytest.raises(ValueError, match="must predict a tensor, got dict"):
            velocity_from(nn.Identity(), call=lambda module, time, x: {"out": x})(TAU, x)
        with pytest.raises(ValueError, match="learned variance, leave it out"):
            velocity_from(nn.Identity(), call=lambda module, time, x: torch.cat([x, x], 1))(TAU, x)

    def test_names_of_ours__may_mean_something_else_in_a_network(self) -> None:
        network: Any = Twice()
        network.activations = nn.ModuleList([nn.SiLU()])
        network.input_shape = (6, 6)
        feature = FeatureSpec(source="block", block="body", tau=0.0, pool="flatten")
        encoder = PRGEncoder(network, ode=OdeSpec(steps=1), feature=feature, mean=0, std=1)
        torch.testing.assert_close(encoder(images()), network.body(images()).flatten(1))


class Sit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(3, 1)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        output: Tensor = x + self.labels(y)[:, :, None, None]
        return output


class Edm(nn.Module):
    """A preconditioner around what is trained, which has a list, a dictionary and a part that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.map_noise = nn.Linear(1, 1)
        self.model.enc = nn.ModuleDict({"a": nn.Conv2d(1, 1, 3, padding=1), "b": nn.Conv2d(1, 1, 3, padding=1)})
        self.model.unused = nn.Linear(1, 1)
        self.model.forward = self._inner  # type: ignore[method-assign]

    def _inner(self, x: Tensor, sigma: Tensor) -> Tensor:
        inner: Any = self.model
        output: Tensor = inner.enc["b"](inner.enc["a"](x)) + inner.map_noise(sigma.log()[:, None])[:, :, None, None]
        return output

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        output: Tensor = self.model(x, sigma)
        return output if labels is None else output + labels.sum()


def test_label_and_sign__key_the_cache_of_embeddings() -> None:
    sit, edm = Sit(), Edm()
    rows = [None, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    networks = [
        *(from_sit(sit, label=label) for label in (0, 1)),
        *(from_edm(edm, class_labels=row) for row in rows),
        *(velocity_from(sit, velocity_scale=scale) for scale in (1.0, -1.0)),
    ]
    keys = [encoder_sha256(PRGEncoder(network, input_shape=(1, 6, 6))) for network in networks]
    assert len(set(keys)) == len(keys)
    again = encoder_sha256(PRGEncoder(from_sit(sit, label=1), input_shape=(1, 6, 6)))
    assert again == keys[1], "another process finds it again"


def test_blocks_of_an_adapted_network__are_those_that_run_and_see_the_image() -> None:
    encoder = PRGEncoder(from_edm(Edm()), ode=OdeSpec(steps=1), input_shape=(1, 6, 6))
    assert readable_blocks(encoder) == ("model.enc.a", "model.enc.b")
    named = PRGEncoder(from_edm(Edm(), block_names=("model",)), ode=OdeSpec(steps=1), input_shape=(1, 6, 6))
    assert readable_blocks(named) == ("model",), "what its owner names stays"


class TestControl:
    """A builder that loads a checkpoint gives it to every network that it builds."""

    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
        (tmp_path / "foreign.py").write_text(FOREIGN, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "foreign", raising=False)
        recipe = parse_recipe(RECIPE)
        run = train(recipe, out=tmp_path / "run", data=halves(8), trust=True)
        return Evaluation(run, data=halves(8), trust=True, device="cpu")

    def test_random_network__has_none_of_the_weights_that_are_loaded(self, run: Evaluation) -> None:
        own, control = (run.encoder(name) for name in ("run", "random_network"))
        assert isinstance(own, PRGEncoder)
        assert isinstance(control, PRGEncoder)
        trained, drawn = (dict(encoder.network.named_parameters()) for encoder in (own, control))
        assert trained.keys() == drawn.keys()
        assert not [name for name in trained if torch.equal(trained[name], drawn[name]) and trained[name].any()]
        again = run.encoder("random_network")
        assert isinstance(again, PRGEncoder)
        for name, weight in again.network.named_parameters():
            assert torch.equal(weight, drawn[name]), "the seed decides"
        scale = drawn["module.scale"]  # of no layer of torch's
        assert float(scale.detach().mean()) == pytest.approx(3.0, abs=1.0)

    def test_own_path__is_declared_by_the_network_and_found_again(self, run: Evaluation) -> None:
        path = run.prg.path
        assert isinstance(path, PathRange)
        assert run.description["path"] == "own"
        assert load(run.run.folder, trust=True).path == path  # type: ignore[union-attr]
        assert run.knn()["nfe"] == 2
        with pytest.raises(UserError, match="the backbone declares none"):
            PRG(8, 2, input_shape=(1, 8, 8), backbone=Twice(), path="own")


FOREIGN = """
import torch
from torch import nn
from lightly_prg.models import velocity_from

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(64))
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, time):
        return self.out(self.norm(self.body(x))) * self.scale.mean()

def build():
    network = Net()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) + 3.0 * (weight.shape == (64,)))
    network.body.requires_grad_(False)
    return velocity_from(network, "denoised")
"""
RECIPE = """
name: foreign
data: {name: digits}
method:
  name: prg
  path: own
  backbone: {name: import, target: "foreign:build"}
  ode: {steps: 1}
  feature: {source: block, block: body, tau: 0.3, pool: "grid:2"}
train: {epochs: 0, batch_size: 8, precision: 32, accelerator: cpu}
eval: {split: test, few_shot: null, controls: []}
"""


class TestTraining:
    def test_simclr__takes_a_backbone_that_ends_in_maps_of_one_pixel(self) -> None:
        backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1))
        model = SimCLR(8, 2, input_shape=(1, 6, 6), backbone=backbone)
        assert model.loss([images(8), images(8).flip(3)], 0).isfinite()

    @pytest.mark.filterwarnings("ignore:.*eval mode:UserWarning", "ignore:.*num_workers:UserWarning")
    def test_shared_weight__is_stepped_once_and_norms_are_not_decayed(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
                self.second.weight = self.first.weight
                self.norm = nn.RMSNorm(6)

            def forward(self, tau: Tensor, x: Tensor) -> Tensor:
                output: Tensor = self.second(self.norm(self.first(x)))
                return output

        feature = FeatureSpec(source="state", tau=1.0, pool="flatten")
        settings = TrainRecipe(schedule="constant", weight_decay=0.1, precision="32")
        model = PRG(8, 2, input_shape=(1, 6, 6), backbone=Net(), feature=feature, optimization=settings)
        loader = DataLoader(images(16), batch_size=8)  # type: ignore[arg-type]  # of tensors alone, without targets
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.fit(model, loader, loader)
        (optimizer,) = trainer.optimizers
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        assert len(weights) == len(set(weights)) == 4
        assert {int(state["step"]) for state in optimizer.state.values()} == {2}
        decayed = [weight for group in optimizer.param_groups if group["weight_decay"] for weight in group["params"]]
        network: Any = model.network
        assert decayed == [network.first.weight]

    def test_checkpointed_solve__counts_the_statistics_of_a_batch_once(self) -> None:
        found = {}
        for gradient in ("full", "checkpoint"):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)).train()
            velocity = adapted(network, block_names=("0",))
            velocity.call = lambda module, time, x: module(x)
            feature = FeatureSpec(source="block", block="1", tau=[0.3, 0.6], pool="mean")
            encoder = PRGEncoder(velocity, ode=OdeSpec(steps=3, gradient=gradient), feature=feature).train()
            encoder(images()).sum().backward()
            found[gradient] = {**network.state_dict(), "gradient": network[0].weight.grad}
        assert int(found["full"]["1.num_batches_tracked"]) > 3
        for name, value in found["full"].items():
            assert torch.equal(found["checkpoint"][name], value), name
