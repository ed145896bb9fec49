"""Where a module lies, and in which mode its parts are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def device_of(network: Any) -> torch.device:
    """Where a network's weights lie; the CPU for what has none, such as a function."""
    if not isinstance(network, nn.Module):
        return torch.device("cpu")
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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
