"""Reading the outputs of named modules while a network runs.

A module that runs several times is read the first time, by whatever reads it: some readers stop a network there.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from lightly_prg.models.pooling import channels_first


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
        The output, and ``{name: tensor}``: of several tensors the first, of several runs the first; ``(B, C, h, w)``
        where the network has ``(B, h, w, C)``.

    Raises:
        ValueError: If there is no module of such a name, or it gave no tensor.
    """
    network = without_compiler(network)
    modules = dict(network.named_modules())
    for block in blocks:
        if not block or block not in modules:
            names = ", ".join(name for name in modules if name)
            raise ValueError(f"The network has no block {block!r}; its blocks are: {names}.")
    seen: dict[str, Tensor] = {}
    handles = [modules[block].register_forward_hook(keep_first(block, seen)) for block in blocks]
    try:
        with called_plainly(network):
            output = network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {block: channels_first(seen[block], inputs[-1]) for block in blocks if block in seen}
    for block in blocks:
        if block not in found and not missing_ok:
            raise ValueError(f"Block {block!r} gave no tensor when the network ran.")
    return output, found


def keep_first(block: str, seen: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    """A forward hook that keeps what a module gives in its first run, as ``seen[block]``: of several tensors the first.

    It keeps a copy, since a layer behind it may work in place, as ``ReLU(inplace=True)`` does. What other threads run
    through the module meanwhile is theirs.
    """
    reader = threading.get_ident()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if threading.get_ident() != reader:
            return
        while isinstance(output, tuple | list) and output:
            output = output[0]
        if isinstance(output, Tensor) and block not in seen:
            seen[block] = output.clone()

    return hook


def without_compiler(network: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was given, whose blocks have the names they were given."""
    original: nn.Module = getattr(network, "_orig_mod", network)
    return original


@contextmanager
def called_plainly(network: nn.Module) -> Iterator[None]:
    """Runs a network without what its ``compile()`` made of it: compiled before, that does not know of later hooks."""
    module = cast(Any, network)
    compiled, module._compiled_call_impl = module._compiled_call_impl, None
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


def names_activations(network: Any) -> bool:
    """Whether a network has a method ``activations`` of its own, and not just layers of that name."""
    return inspect.isroutine(getattr(network, "activations", None))
