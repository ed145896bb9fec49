"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """A copy of a module whose weights follow it with the decay ``min(decay, (1 + n) / (10 + n))``.

    n counts the updates before this one, so the average forgets the first, random weights quickly.
    The count is a buffer: restored from its state dict, the average continues as if never stopped.

    Args:
        module: The network to follow; copied, not kept. The copy takes no gradients and stays in
            evaluation mode.
        decay: Largest decay, in [0, 1). 0 makes each update a copy.

    Attributes:
        module: The averaged network.
        decay: Largest decay.
        updates: Updates so far, int64.

    Raises:
        ValueError: If ``decay`` is outside [0, 1).
    """

    updates: Tensor

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}; it has to be at least 0 and below 1.")
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        # The same number as Python sees it: reading the buffer at each step would wait for the GPU.
        self._updates = 0
        self.register_load_state_dict_post_hook(_read_updates)  # type: ignore[no-untyped-call]

    @property
    def next_decay(self) -> float:
        """The decay of the update that comes next."""
        return min(self.decay, (1 + self._updates) / (10 + self._updates))

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Moves the average towards ``source``'s parameters and copies its buffers.

        Args:
            source: The trained network, of the same structure as the one copied; may be a compiled
                wrapper of it.

        Raises:
            ValueError: If it has another number of parameters or buffers.
        """
        averages: list[Tensor] = list(self.module.parameters())
        parameters: list[Tensor] = list(source.parameters())
        copies, buffers = list(self.module.buffers()), list(source.buffers())
        if len(averages) != len(parameters) or len(copies) != len(buffers):
            raise ValueError(
                f"The source has {len(parameters)} parameters and {len(buffers)} buffers, "
                f"the average {len(averages)} and {len(copies)}."
            )
        torch._foreach_lerp_(averages, parameters, 1.0 - self.next_decay)
        for average, buffer in zip(copies, buffers, strict=True):
            average.copy_(buffer)
        self.updates.add_(1)
        self._updates += 1

    @torch.no_grad()
    def start_at(self, source: nn.Module) -> None:
        """Takes over all weights where nothing was averaged yet: they may have been loaded since this copy was made."""
        if self._updates == 0:
            self.module.load_state_dict(source.state_dict())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the averaged network."""
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> EMA:
        """Leaves the averaged network in evaluation mode, whatever mode is asked for."""
        super().train(mode)
        self.module.eval()
        return self


def _read_updates(ema: nn.Module, _incompatible_keys: object) -> None:
    assert isinstance(ema, EMA)
    ema._updates = int(ema.updates)
