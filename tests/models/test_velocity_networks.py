"""What every velocity network promises, on both of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightly_prg.models import DiT, UNet, VelocityNetwork, redraw_zero_weights

Build = Callable[[], VelocityNetwork]


def _unet() -> VelocityNetwork:
    return UNet(
        image_size=12,
        in_channels=2,
        channels=16,
        multipliers=(1, 2),
        blocks=2,
        attention=(3,),
        patch_size=2,
        heads=2,
    )


def _unet_unfolded() -> VelocityNetwork:
    return UNet(
        image_size=7,
        in_channels=1,
        channels=8,
        multipliers=(1,),
        blocks=1,
        attention=(),
    )


def _dit() -> VelocityNetwork:
    return DiT(image_size=12, in_channels=2, patch_size=4, width=32, depth=3, heads=2)


BUILDS = pytest.mark.parametrize("build", [_unet, _unet_unfolded, _dit])


@pytest.fixture(autouse=True)
def _weights() -> None:
    torch.manual_seed(0)


def _random(build: Build) -> VelocityNetwork:
    network = build()
    redraw_zero_weights(network, torch.Generator().manual_seed(1))
    return network


def _batch(network: VelocityNetwork, size: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size, *network.input_shape, generator=generator)
    return torch.rand(size, generator=generator), x


@BUILDS
def test_untrained_network_is_the_zero_velocity(build: Build) -> None:
    network = build()
    tau, x = _batch(network)
    velocity = network(tau, x)
    assert velocity.shape == x.shape
    assert torch.equal(velocity, torch.zeros_like(x))


@BUILDS
def test_one_tau_equals_the_same_tau_for_each_image(build: Build) -> None:
    network = _random(build)
    _, x = _batch(network)
    expected = network(torch.full((3,), 0.3), x)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(network(0.3, x), expected)
    torch.testing.assert_close(network(torch.tensor(0.3), x), expected)


@BUILDS
def test_each_image_is_conditioned_on_its_own_tau(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    together = network(tau, x)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], network(tau[i : i + 1], x[i : i + 1]))
    same_image = network(tau, x[:1].expand(3, -1, -1, -1))
    assert (same_image[0] - same_image[1]).abs().max() > 1e-3


@BUILDS
def test_block_names_are_modules_in_execution_order(build: Build) -> None:
    network = _random(build)
    modules = dict(network.named_modules())
    assert set(network.block_names) <= set(modules)
    tau, x = _batch(network)
    ran: list[str] = []
    outputs: dict[str, Tensor] = {}
    for name in network.block_names:

        def record(_m: object, _i: object, output: Tensor, name: str = name) -> None:
            ran.append(name)
            outputs[name] = output

        modules[name].register_forward_hook(record)
    _, found = network(tau, x, network.block_names)
    assert tuple(ran) == network.block_names
    for name in network.block_names:
        hooked = outputs[name]
        if hooked.ndim == 3:  # tokens
            hooked = hooked.transpose(1, 2).unflatten(2, found[name].shape[2:])
        assert torch.equal(found[name], hooked)


@BUILDS
def test_early_exit_equals_the_full_run_and_stops(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    velocity, full = network(tau, x, network.block_names)
    assert torch.equal(velocity, network(tau, x))
    modules = dict(network.named_modules())
    ran: list[str] = []
    for name in network.block_names:
        modules[name].register_forward_hook(lambda *_, name=name: ran.append(name))
    for i, name in enumerate(network.block_names):
        ran.clear()
        found = network.activations(tau, x, [name])
        assert list(found) == [name]
        assert torch.equal(found[name], full[name])
        assert tuple(ran) == network.block_names[: i + 1]


@BUILDS
def test_several_blocks_come_in_the_order_asked_for(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    names = [network.block_names[1], network.block_names[0]]
    found = network.activations(tau, x, names)
    assert list(found) == names
    velocity, beside = network(tau, x, names)
    assert velocity.shape == x.shape
    assert list(beside) == names
    assert all(torch.equal(found[name], beside[name]) for name in names)


@BUILDS
def test_every_parameter_gets_a_gradient(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    network(tau, x).square().sum().backward()
    dead = [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert dead == []


@BUILDS
def test_channels_last_equals_contiguous(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    expected = network(tau, x)
    expected.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    network.to(memory_format=torch.channels_last)
    velocity = network(tau, x.to(memory_format=torch.channels_last))
    velocity.square().sum().backward()
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-3, rtol=1e-3)


@BUILDS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_autocast_is_close(build: Build, layout: torch.memory_format) -> None:
    network = _random(build).to(memory_format=layout)
    tau, x = _batch(network)
    expected, expected_blocks = network(tau, x, network.block_names)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity, blocks = network(tau, x, network.block_names)
    assert velocity.dtype == torch.float32
    assert (velocity - expected).norm() < 0.03 * expected.norm()
    for name, activation in blocks.items():
        difference = activation.float() - expected_blocks[name]
        assert difference.norm() < 0.03 * expected_blocks[name].norm()
    velocity.square().sum().backward()


@BUILDS
def test_float64_runs_in_float64(build: Build) -> None:
    network = _random(build).double()
    tau, x = _batch(network)
    assert network(tau, x.double()).dtype == torch.float64


@BUILDS
def test_gradient_in_x_and_tau_agrees_with_finite_differences(build: Build) -> None:
    network = _random(build).double()
    tau, x = _batch(network, 1)
    tau, x = tau.double(), x.double()
    direction = torch.randn_like(x)

    def projected(tau: Tensor, x: Tensor) -> Tensor:
        return (network(tau, x) * direction).sum()

    tau.requires_grad_()
    x.requires_grad_()
    by_tau, by_x = torch.autograd.grad(projected(tau, x), (tau, x))
    step = 1e-6
    with torch.no_grad():
        slope_tau = (projected(tau + step, x) - projected(tau - step, x)) / (2 * step)
        slope_x = (projected(tau, x + step * direction) - projected(tau, x - step * direction)) / (2 * step)
    torch.testing.assert_close(by_tau.sum(), slope_tau, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((by_x * direction).sum(), slope_x, rtol=1e-5, atol=1e-5)


@BUILDS
def test_torch_func_agrees_with_autograd(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    parameters = dict(network.named_parameters())

    def loss(parameters: dict[str, Tensor], tau: Tensor, x: Tensor) -> Tensor:
        velocity = torch.func.functional_call(network, parameters, (tau, x[None]))
        return velocity.square().sum()

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        per_image = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, tau, x)
    network(tau, x).square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(per_image[name].sum(0), parameter.grad, atol=1e-3, rtol=1e-3)


@BUILDS
def test_divergence_by_forward_and_reverse_mode_agree(build: Build) -> None:
    network = _random(build).double()
    tau, x = _batch(network, 1)
    probe = torch.randn_like(x).double()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward mode
        _, forward_mode = torch.func.jvp(lambda x: network(tau, x), (x.double(),), (probe,))
    _, pull_back = torch.func.vjp(lambda x: network(tau, x), x.double())
    torch.testing.assert_close((forward_mode * probe).sum(), (pull_back(probe)[0] * probe).sum())


@pytest.mark.parametrize("build", [_unet, _dit])
def test_traces_into_one_graph(build: Build) -> None:
    network = _random(build)
    tau, x = _batch(network)
    names = network.block_names[1:2]
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    velocity, found = compiled(tau, x, names)
    expected, expected_found = network(tau, x, names)
    torch.testing.assert_close(velocity, expected)
    torch.testing.assert_close(found, expected_found)


def test_early_exit_traces_into_one_graph() -> None:
    network = _random(_unet_unfolded)
    tau, x = _batch(network)
    compiled = torch.compile(network.activations, backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compiled(tau[0], x, ["down.0"])
        torch.testing.assert_close(found, network.activations(tau[0], x, ["down.0"]))


@BUILDS
def test_meta_device_gives_shapes(build: Build) -> None:
    network = build()
    expected, blocks = network(*_batch(network), network.block_names)
    tau, x = _batch(network)
    network = network.to("meta")
    velocity, shapes = network(tau.to("meta"), x.to("meta"), network.block_names)
    assert velocity.shape == expected.shape
    assert all(shapes[name].shape == blocks[name].shape for name in blocks)


@BUILDS
def test_wrong_inputs_are_named(build: Build) -> None:
    network = build()
    tau, x = _batch(network)
    channels, side, _ = network.input_shape
    with pytest.raises(ValueError, match=rf"\(3, {channels}, {side}, {side + 1}\).*\(B, {channels}"):
        network(tau, torch.zeros(3, channels, side, side + 1))
    with pytest.raises(ValueError, match=r"takes \(B, "):
        network(tau, x[0])
    with pytest.raises(ValueError, match=r"tau has shape \(2,\).*\(3,\)"):
        network(tau[:2], x)
    with pytest.raises(ValueError, match=r"tau has shape \(3, 1\)"):
        network(tau[:, None], x)


@BUILDS
def test_unknown_blocks_name_their_neighbours(build: Build) -> None:
    network = build()
    tau, x = _batch(network)
    known = network.block_names[-1]
    for call in (network, network.activations):
        with pytest.raises(ValueError, match=rf"'{known}9'.*Near it: .*{known}"):
            call(tau, x, [f"{known}9"])
        with pytest.raises(ValueError, match="sequence of names"):
            call(tau, x, known)
    with pytest.raises(ValueError, match="blocks is empty"):
        network.activations(tau, x, ())
