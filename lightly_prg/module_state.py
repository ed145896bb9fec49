"""Where a module lies, and in which mode its parts are."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

_P = ParamSpec("_P")
_R = TypeVar("_R")


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


def in_evaluation_mode(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets a function run with its first argument, a network or encoder, in evaluation mode (see ``evaluating``)."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def evaluated(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with evaluating(args[0] if args else kwargs[first]):
            return function(*args, **kwargs)

    return evaluated


@contextmanager
def not_missing() -> Iterator[None]:
    """Turns an AttributeError into a RuntimeError: torch takes one in a property of a module for a missing property."""
    try:
        yield
    except AttributeError as error:
        raise RuntimeError(f"The network failed on a black image: {error}") from error


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Puts a module into evaluation mode for a while; afterwards every part of it is in the mode that it had.

    ``module.train(was_training)`` would put all parts into one mode, also those that are kept in evaluation mode. What
    is no module, such as a function, has no modes.
    """
    modes = [(part, part.training) for part in network.modules()] if isinstance(network, nn.Module) else []
    if isinstance(network, nn.Module):
        network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
