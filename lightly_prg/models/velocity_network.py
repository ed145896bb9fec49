"""What every velocity network here shares: checked inputs, activations as outputs, early exit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import torch
from torch import Tensor, nn

from lightly_prg.models.blocks import checked_names, collect


class VelocityNetwork(nn.Module):
    """A network ``v(tau, x) -> dx/dtau`` whose blocks can be read without hooks.

    Hooks fire a second time when a checkpointed evaluation is recomputed, so activations are
    returned as outputs. A subclass sets ``block_names`` and writes ``_steps``.

    Args:
        image_size: Side of the square image, in pixels.
        in_channels: Channels of the image.

    Attributes:
        block_names: Names of the readable blocks in execution order, as in ``named_modules()``.
    """

    block_names: tuple[str, ...]

    def __init__(self, *, image_size: int, in_channels: int) -> None:
        super().__init__()
        self._input_shape = (in_channels, image_size, image_size)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The one image shape the network takes: (C, H, W)."""
        return self._input_shape

    @overload
    def forward(self, tau: float | Tensor, x: Tensor) -> Tensor: ...

    @overload
    def forward(
        self, tau: float | Tensor, x: Tensor, return_blocks: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def forward(
        self, tau: float | Tensor, x: Tensor, return_blocks: Sequence[str] = ()
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Returns the velocity and, if blocks are named, their activations.

        Args:
            tau: Position on the path, 0 = data and 1 = noise: (B,), or a number or 0-d tensor,
                whose conditioning is computed once for the batch. Under ``torch.compile`` give a
                tensor: each new Python number would compile anew.
            x: States, (B, C, H, W).
            return_blocks: Names from ``block_names``.

        Returns:
            The velocity, (B, C, H, W) in the dtype of ``x``; with ``return_blocks`` a pair of it
            and ``{name: activation}``, each (B, c, h, w) in the dtype it was computed in.

        Raises:
            ValueError: If the shape of ``x`` or ``tau`` does not fit or a block is unknown.
        """
        names = checked_names(return_blocks, self.block_names)
        found: dict[str, Tensor] = {}
        output = x
        for name, output in self._steps(self._check_inputs(tau, x), x):
            if name in names:
                found[name] = output
        velocity = output.to(x.dtype)
        return (velocity, {name: found[name] for name in names}) if names else velocity

    def activations(self, tau: float | Tensor, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """Returns activations of named blocks, running the network only as far as the last of them.

        Args:
            tau: As in ``forward``.
            x: States, (B, C, H, W).
            blocks: Names from ``block_names``.

        Returns:
            ``{name: activation}`` in the order of ``blocks``, equal to what ``forward`` returns.

        Raises:
            ValueError: As ``forward``, and if ``blocks`` is empty.
        """
        return collect(self._steps(self._check_inputs(tau, x), x), blocks, self.block_names)

    def _steps(self, tau: Tensor, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields every block's name and activation in execution order, and the velocity last.

        Being lazy, it computes only as far as it is read. ``tau`` is (1,) or (B,).
        """
        raise NotImplementedError

    def _check_inputs(self, tau: float | Tensor, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1:] != self._input_shape:
            expected = ", ".join(map(str, self._input_shape))
            raise ValueError(f"x has shape {tuple(x.shape)}; this network takes (B, {expected}).")
        if not isinstance(tau, Tensor):
            return torch.full((1,), float(tau), device=x.device)
        if tau.ndim == 0:
            return tau.to(x.device).reshape(1)
        if tau.shape != x.shape[:1]:
            raise ValueError(
                f"tau has shape {tuple(tau.shape)}; for this x it is a number or has shape ({x.shape[0]},)."
            )
        return tau.to(x.device)
