"""Reading one block of a velocity network in training: beside its velocity, or alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightly_prg.features import activation
from lightly_prg.models.activations import hooked_outputs
from lightly_prg.models.velocity_network import VelocityNetwork


class ReadVelocity:
    """A velocity network that keeps one block's activation of its last evaluation, at no further cost.

    Attributes:
        activation: The block's output.
    """

    def __init__(self, velocity: nn.Module, block: str) -> None:
        self.velocity, self.block = velocity, block
        self.activation: Tensor | None = None

    def __call__(self, tau: Tensor, x: Tensor) -> Tensor:
        """Evaluates the network."""
        output: Any
        # That a network names its blocks does not mean that it returns them: adapted generators do not.
        if isinstance(self.velocity, VelocityNetwork):
            output, found = self.velocity(tau, x, return_blocks=(self.block,))
            self.activation = found[self.block]
        else:
            name = f"{getattr(self.velocity, 'block_prefix', '')}{self.block}"
            output, found = hooked_outputs(self.velocity, (name,), tau, x)
            self.activation = found[name]
        velocity: Tensor = output
        return velocity


class ReadBlock(nn.Module):
    """A block's activation by an evaluation that stops there.

    A module without weights, so that it can be compiled as one: the ``compile()`` of the network replaces its call, and
    an evaluation that stops early is not made by that. What is compiled is left behind by copies and pickles.

    Args:
        block: The name of the block.
    """

    def __init__(self, block: str) -> None:
        super().__init__()
        self.block = block

    def forward(self, velocity: nn.Module, tau: Tensor, x: Tensor) -> Tensor:
        """The activation at ``x``, ``(B, ...)``."""
        return activation(velocity, tau, x, self.block)

    def compile_for(self, velocity: nn.Module) -> None:
        """Compiles the evaluation, where a compiler can follow it: others are read by hooks and ended by exceptions."""
        if isinstance(velocity, VelocityNetwork):
            self.compile()
