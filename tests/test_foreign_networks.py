"""Networks of strangers: odd in what they return, how often they run a block, in which layout and by which compiler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.activations import hooked_outputs
from lightly_prg.eval.cache import encoder_sha256
from lightly_prg.feature_reading import readable_blocks
from lightly_prg.features import PRGEncoder, activation
from lightly_prg.methods.block_reading import ReadVelocity
from lightly_prg.models import from_edm, from_sit, velocity_from
from lightly_prg.network_encoder import NetworkEncoder
from lightly_prg.recipe import FeatureSpec, NetworkFeature, OdeSpec

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
