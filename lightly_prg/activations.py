"""Reading the output of one named module while a network runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def hooked_output(network: nn.Module, block: str, *inputs: Any) -> Tensor:
    """Runs a network whole and returns what one of its modules gave; of several tensors the first.

    Args:
        network: Any module.
        block: A name in ``network.named_modules()``.
        inputs: What the network takes.

    Raises:
        ValueError: If there is no module of that name, or it gave no tensor.
    """
    modules = dict(network.named_modules())
    if not block or block not in modules:
        names = ", ".join(name for name in modules if name)
        raise ValueError(f"The network has no block {block!r}; its blocks are: {names}.")
    seen: list[Any] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output
        while isinstance(first, tuple | list):
            first = first[0]
        seen.append(first)

    handle = modules[block].register_forward_hook(keep)
    try:
        network(*inputs)
    finally:
        handle.remove()
    if not seen or not isinstance(seen[-1], Tensor):
        raise ValueError(f"Block {block!r} gave no tensor when the network ran.")
    return seen[-1]
