"""One network evaluation at one position of the path, and everything that is read from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lightly_prg.eval.embed import evaluation_mode
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.flow import CountedVelocity, Path, Velocity
from lightly_prg.models import VelocityNetwork
from lightly_prg.models.activations import called_plainly, hooked_outputs, names_activations, without_compiler
from lightly_prg.models.velocity_adapter import VelocityFrom

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read of a batch at one position.

    Attributes:
        sources: ``{source: tensor}`` for what is no block.
        blocks: ``{block: tensor}``.
    """

    sources: Mapping[str, Tensor]
    blocks: Mapping[str, Tensor]

    def of(self, source: str, block: str | None) -> Tensor:
        """One of them."""
        return self.sources[source] if block is None else self.blocks[block]


def read_position(
    counted: CountedVelocity, tau: float, state: Tensor, path: Path, sources: Collection[str], blocks: Sequence[str]
) -> Reading:
    """State, velocity, denoised image and blocks at one tau, from one evaluation of the network at most.

    Args:
        counted: The velocity network, with a counter to which the evaluation is added.
        tau: Position on the path.
        state: ``(B, C, H, W)``.
        path: The path of the network.
        sources: Some of ``state``, ``velocity``, ``denoised``.
        blocks: Names of blocks.

    Returns:
        Each as ``extract_features`` reads it alone.
    """
    wanted = {"velocity", "denoised"} & set(sources)
    if not wanted and not blocks:
        return Reading({"state": state} if "state" in sources else {}, {})
    position = torch.tensor(tau, dtype=state.dtype, device=state.device)
    counted.evaluations += 1
    velocity, activations = velocity_and_blocks(counted.velocity, position, state, blocks, whole=bool(wanted))
    return _reading(position, state, velocity, activations, path, sources)


def _reading(
    tau: Tensor,
    state: Tensor,
    velocity: Tensor,
    activations: Mapping[str, Tensor],
    path: Path,
    sources: Collection[str],
) -> Reading:
    found = {"state": state} if "state" in sources else {}
    if "velocity" in sources:
        found["velocity"] = velocity
    if "denoised" in sources:
        found["denoised"] = path.convert(state, velocity.to(state.dtype), tau, source="velocity", target="denoised")
    return Reading(found, activations)


@dataclass(eq=False)
class ReadOnTheWay(Generic[T]):
    """A velocity network that is read where the solver evaluates it anyway.

    Most steps begin with the velocity at the very state where they start, so that reading there costs nothing more.

    Attributes:
        velocity: The network.
        path: Its path.
        sources: What is read, as in ``read_position``.
        blocks: Likewise.
        places: Where on the path.
        convert: What is kept of a reading; all of them together may be too large.
        found: For each place the state at which the network was evaluated there last, and what was kept.
    """

    velocity: Velocity
    path: Path
    sources: Collection[str]
    blocks: Sequence[str]
    places: Sequence[float]
    convert: Callable[[Reading], T]
    found: dict[float, tuple[Tensor, T]] = field(default_factory=dict)

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        """Evaluates the network."""
        # The solver counts in the dtype of the state, the places are Python's numbers.
        place = next((p for p in self.places if torch.tensor(p, dtype=tau.dtype).item() == tau.item()), None)
        if place is None:
            return self.velocity(tau, x)
        velocity, activations = velocity_and_blocks(self.velocity, tau, x, self.blocks, whole=True)
        reading = _reading(tau, x, velocity, activations, self.path, self.sources)
        self.found[place] = x, self.convert(reading)
        return velocity

    def at(self, place: float, state: Tensor) -> T | None:
        """What was kept at a place; None where the network was not evaluated at just this state."""
        x, kept = self.found.get(place, (None, None))
        return kept if x is not None and torch.equal(x, state) else None


def velocity_and_blocks(
    velocity: Velocity, tau: Tensor, x: Tensor, blocks: Sequence[str], *, whole: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The velocity and named activations, from one run of the network.

    Args:
        velocity: The network ``(tau, x) -> dx/dtau``.
        tau: Position, 0-d.
        x: State, ``(B, C, H, W)``.
        blocks: Names of blocks.
        whole: Whether the velocity is needed; without it networks of ours stop at the last block, and what stands for
            the velocity means nothing.

    Raises:
        ValueError: If the network is no module or has no block of such a name.
    """
    if not blocks:
        return velocity(tau, x), {}
    reader: Any = velocity
    if names_activations(velocity) and not whole:
        return x, reader.activations(tau, x, tuple(blocks))
    if isinstance(velocity, VelocityNetwork):
        output, found = velocity(tau, x, tuple(blocks))
        return output, found
    if isinstance(velocity, VelocityFrom):  # whose own way to its blocks leads no farther than the last of them
        with called_plainly(velocity.module):
            output, found = hooked_outputs(velocity, [f"{velocity.block_prefix}{block}" for block in blocks], tau, x)
        return output, {name.removeprefix(velocity.block_prefix): value for name, value in found.items()}
    if names_activations(velocity):
        return velocity(tau, x), reader.activations(tau, x, tuple(blocks))
    if not isinstance(velocity, nn.Module):
        raise ValueError("A feature of source 'block' needs an nn.Module, whose named_modules() name the blocks.")
    return hooked_outputs(velocity, blocks, tau, x)


def read_network(encoder: NetworkEncoder, images: Tensor, blocks: Sequence[str], *, output: bool) -> Reading:
    """Blocks and, as the source ``output``, the output of a network that is run once.

    A network with ``activations`` of its own is run a second time for its output, since what those are to be read from
    is its own business.

    Args:
        encoder: The network with its normalisation.
        images: Floats in [0, 1], ``(B, C, H, W)``.
        blocks: Names of blocks.
        output: Whether the network's own output is wanted.
    """
    x = encoder.resized(encoder.normalize(images))
    network: Any = encoder.network
    if not blocks:
        return Reading({"output": network(x)}, {})
    if names_activations(network):
        return Reading({"output": network(x)} if output else {}, network.activations(x, tuple(blocks)))
    whole, found = hooked_outputs(network, blocks, x)
    return Reading({"output": whole} if output else {}, found)


def readable_blocks(encoder: PRGEncoder | NetworkEncoder) -> tuple[str, ...]:
    """Names of the blocks that are worth reading, from input to output.

    Those that the network names itself (``block_names``); of any other module its children with parameters, where a
    sequence or list stands for its elements, as far as they give a tensor of two to four dimensions that is not the
    same for all images, as that of an embedding of tau is.
    """
    network = encoder.velocity if isinstance(encoder, PRGEncoder) else encoder.network
    named = getattr(network, "block_names", None)
    guessed = bool(getattr(network, "blocks_are_guessed", False))
    if named is not None and not guessed:
        return tuple(named)
    if not isinstance(network, nn.Module):
        return ()
    network = without_compiler(network)
    prefix = str(getattr(network, "block_prefix", "")) if guessed else ""
    candidates = [f"{prefix}{name}" for name in named] if guessed and named else _children_of(network)
    assert encoder.input_shape is not None
    images = torch.zeros(2, *encoder.input_shape, device=encoder.mean.device)
    images[1] = torch.linspace(-1, 1, images[1].numel()).reshape(images[1].shape)
    with torch.no_grad(), evaluation_mode(encoder, images.device):
        if isinstance(encoder, PRGEncoder):
            inputs: tuple[Tensor, ...] = (torch.tensor(encoder.path.tau_max, device=images.device), images)
        else:
            inputs = (encoder.resized(images),)
        _, found = hooked_outputs(network, candidates, *inputs, missing_ok=True)
    return tuple(name.removeprefix(prefix) for name in candidates if name in found and _tells_images(found[name]))


def _children_of(network: nn.Module) -> list[str]:
    candidates = []
    for name, child in network.named_children():
        children = {f"{name}.{key}": value for key, value in child.named_children()}
        parts = children if isinstance(child, nn.Sequential | nn.ModuleList) and len(children) > 1 else {name: child}
        candidates += [key for key, part in parts.items() if any(True for _ in part.parameters())]
    return candidates


def _tells_images(found: Tensor) -> bool:
    """Whether what a block gave for two images is a row for each, and not the same."""
    return found.ndim in (2, 3, 4) and len(found) == 2 and not torch.equal(found[0], found[1])
