"""Reading the outputs of named modules while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from lightly_prg.pooling import channels_first


def hooked_output(network: nn.Module, block: str, *inputs: Any) -> Tensor:
    """Runs a network whole and returns what one of its modules gave; see ``hooked_outputs``."""
    return hooked_outputs(network, (block,), *inputs)[1][block]


def hooked_outputs(
    network: nn.Module, blocks: Sequence[str], *inputs: Any, missing_ok: bool = False
) -> tuple[Any, dict[str, Tensor]]:
    """Runs a network whole, once, and returns its output and what some of its modules gave.

    Args:
        network: Any module.
        blocks: Names in ``network.named_modules()``.
        inputs: What the network takes, images last.
        missing_ok: Whether modules that gave no tensor are left out instead of refused.

    Returns:
        The output, and ``{name: tensor}``: of several tensors the first, of several runs the last; ``(B, C, h, w)``
        where the network has ``(B, h, w, C)``.

    Raises:
        ValueError: If there is no module of such a name, or it gave no tensor.
    """
    modules, plain_call = dict(network.named_modules()), cast(Any, network)._call_impl
    for block in blocks:
        if not block or block not in modules:
            names = ", ".join(name for name in modules if name)
            raise ValueError(f"The network has no block {block!r}; its blocks are: {names}.")
    seen: dict[str, Any] = {}

    def keep(block: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output
            while isinstance(first, tuple | list) and first:
                first = first[0]
            seen[block] = first

        return hook

    handles = [modules[block].register_forward_hook(keep(block)) for block in blocks]
    try:
        # A compiled network that ran before does not know the hooks: its plain call does.
        output = plain_call(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {block: channels_first(seen[block], inputs[-1]) for block in blocks if isinstance(seen.get(block), Tensor)}
    for block in blocks:
        if block not in found and not missing_ok:
            raise ValueError(f"Block {block!r} gave no tensor when the network ran.")
    return output, found
