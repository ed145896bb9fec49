"""Where a module lies, and in which mode its parts are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def device_of(network: Any) -> torch.device:
    """Where a network's weights lie; the CPU for what has none, such as a function."""
    if not isinstance(network, nn.Module):
        return torch.device("cpu")
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def state_to_save(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module for a file that knows no sharing: of weights that have two names each gets a copy."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict().items():
        value = value.detach().contiguous().cpu()
        place = value.untyped_storage().data_ptr()
        state[name] = value.clone() if place in seen else value
        seen.add(place)
    return state


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode for a while; afterwards every part of it is in the mode that it had.

    ``module.train(was_training)`` would put all parts into one mode, also those that are kept in evaluation mode.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
