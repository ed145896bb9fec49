from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.cache import encoder_sha256
from lightly_prg.features import PRGEncoder
from lightly_prg.models import DiT, LoRA, UNet, redraw_zero_weights
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import FeatureSpec, OdeSpec

UPDATES = (".inward", ".outward")


def unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention=(), heads=2)
    redraw_zero_weights(network, generator_for(0, "test"))
    return network


def dit() -> DiT:
    torch.manual_seed(0)
    network = DiT(image_size=8, in_channels=1, patch_size=4, width=16, depth=1, heads=2)
    redraw_zero_weights(network, generator_for(0, "test"))
    return network


def states() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, generator=generator), torch.randn(3, 1, 8, 8, generator=generator)


def drawn(network: nn.Module) -> nn.Module:
    """Gives every update a value, as training would."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if name.endswith(".outward"):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def originals(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for name, p in network.named_parameters() if not name.endswith(UPDATES)]


@pytest.mark.parametrize("build", [unet, dit])
def test_start__is_the_network_itself(build: Callable[[], nn.Module]) -> None:
    network = build()
    before = network(*states())
    names = LoRA(rank=3).add(network)
    assert torch.equal(network(*states()), before)
    assert names == tuple(name for name, p in network.named_parameters() if p.requires_grad)
    assert all(name.endswith(UPDATES) for name in names)
    layers = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules())
    assert len(names) == 2 * layers


@pytest.mark.parametrize("build", [unet, dit])
def test_merged__computes_the_same_under_the_old_names(build: Callable[[], nn.Module]) -> None:
    network = build()
    keys, order = list(network.state_dict()), [name for name, _ in network.named_parameters()]
    plain = network(*states())
    lora = LoRA(rank=2, alpha=4.0)
    lora.add(network)
    adapted = drawn(network)(*states())
    assert not torch.allclose(adapted, plain)
    lora.merge(network)
    assert torch.equal(network(*states()), adapted)
    assert list(network.state_dict()) == keys
    assert [name for name, _ in network.named_parameters()] == order
    fresh = build()
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(*states()), adapted)
    assert type(network) is type(fresh)


def test_update__is_alpha_over_rank_times_the_product() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False))
    weight = network[0].weight.detach().clone()
    lora = LoRA(rank=2, alpha=3.0)
    lora.add(network)
    names = dict(drawn(network).named_parameters())
    outward, inward = (names[f"0.parametrizations.weight.0.{part}"] for part in ("outward", "inward"))
    assert (outward.shape, inward.shape) == ((3, 2), (2, 18))
    expected = weight.flatten(1) + 1.5 * outward @ inward
    torch.testing.assert_close(network[0].weight.flatten(1), expected)
    assert torch.linalg.matrix_rank(network[0].weight.flatten(1) - weight.flatten(1)) == 2


def test_training__leaves_every_bit_of_the_base() -> None:
    network = unet()
    lora = LoRA(rank=2)
    before = encoder_sha256(network)
    names = lora.add(network)
    base = originals(network)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.01, weight_decay=0.5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (network(*states()) - 1.0).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(one, other) for one, other in zip(base, originals(network), strict=True))
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name not in names), name
        if name.endswith(".outward"):
            parameter.data.zero_()
    lora.merge(network)  # without the updates it is the network of before
    assert encoder_sha256(network) == before


def test_norms__are_trained_where_asked() -> None:
    names = LoRA(rank=1, norms=True).add(network := unet())
    groups = [name for name, layer in network.named_modules() if isinstance(layer, nn.GroupNorm)]
    assert {name for name in names if not name.endswith(UPDATES)} == {
        f"{group}.{part}" for group in groups for part in ("weight", "bias")
    }


def test_rank__is_at_most_that_of_the_weight_and_draws_depend_on_the_seed() -> None:
    first, again, other = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)
    for layer, seed in ((first, 0), (again, 0), (other, 1)):
        state = torch.get_rng_state()
        LoRA(rank=64, seed=seed).add(layer)
        assert torch.equal(torch.get_rng_state(), state)
    inward = [dict(layer.named_parameters())["parametrizations.weight.0.inward"] for layer in (first, again, other)]
    assert inward[0].shape == (3, 4)
    assert torch.equal(inward[0], inward[1])
    assert not torch.equal(inward[0], inward[2])


def test_copy_and_state_dict__carry_the_updates() -> None:
    network = unet()
    LoRA(rank=2).add(network)
    drawn(network)
    expected = network(*states())
    copied = copy.deepcopy(network)
    assert torch.equal(copied(*states()), expected)
    for name, parameter in copied.named_parameters():
        if name.endswith(UPDATES):
            parameter.data.zero_()
    assert torch.equal(network(*states()), expected)
    other = unet()
    LoRA(rank=2, seed=5).add(other)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(*states()), expected)


def test_autocast__adds_the_update_in_full_precision() -> None:
    network = unet()
    lora = LoRA(rank=2)
    lora.add(network)
    drawn(network)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        adapted = network(*states())
        lora.merge(network)
        merged = network(*states())
    assert torch.equal(adapted, merged)


def test_network_without_layers__is_told() -> None:
    with pytest.raises(UserError, match="convolutions and linear layers"):
        LoRA().add(nn.GroupNorm(1, 4))


@pytest.mark.parametrize("feature", [{"source": "state", "tau": 1.0, "pool": "flatten"}, {"block": "middle"}])
def test_every_gradient_mode__reaches_the_updates_alone(feature: dict[str, object]) -> None:
    gradients = {}
    for mode in ("full", "checkpoint", "adjoint"):
        network = unet()
        names = LoRA(rank=2).add(network)
        drawn(network)
        encoder = PRGEncoder(network, ode=OdeSpec(steps=3, gradient=mode), feature=FeatureSpec.model_validate(feature))
        generator = torch.Generator().manual_seed(3)
        torch.autograd.backward(encoder(torch.rand(2, 1, 8, 8, generator=generator)).square().sum())
        gradients[mode] = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        assert set(gradients[mode]) <= set(names)
    full, recomputed, adjoint = gradients.values()
    assert full.keys() == recomputed.keys()
    assert all(torch.equal(full[name], recomputed[name]) for name in full)
    flat = [
        torch.cat([part.get(name, torch.zeros_like(full[name])).flatten() for name in full]) for part in (full, adjoint)
    ]
    assert 0.0 < float((flat[1] - flat[0]).norm() / flat[0].norm()) < 1.0
