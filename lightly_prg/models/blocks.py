"""Reading named blocks of a network as it runs, and no further than needed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from torch import Tensor


def checked_names(requested: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """The names asked for, each once.

    Raises:
        ValueError: If one of them is no block, or a bare string was given.
    """
    if isinstance(requested, str):
        raise ValueError(f"Blocks are given as a sequence of names, not as {requested!r}.")
    for name in requested:
        if name not in available:
            near = difflib.get_close_matches(name, available, n=3, cutoff=0.4)
            hint = f"Near it: {', '.join(near)}." if near else "None is near it."
            raise ValueError(f"Unknown block {name!r}. {hint} The network has {', '.join(available)}.")
    return tuple(dict.fromkeys(requested))


def collect(steps: Iterable[tuple[str, Tensor]], blocks: Sequence[str], available: Sequence[str]) -> dict[str, Tensor]:
    """Takes activations from a lazy run of a network, which is stopped at the last block asked for.

    Args:
        steps: Every block's name and activation, in execution order.
        blocks: What is asked for.
        available: All names.

    Raises:
        ValueError: If a block is unknown, or none is asked for.
    """
    names = checked_names(blocks, available)
    if not names:
        raise ValueError(f"blocks is empty; it takes {', '.join(available)}.")
    found: dict[str, Tensor] = {}
    for name, activation in steps:
        if name in names:
            found[name] = activation
        if len(found) == len(names):
            break
    return {name: found[name] for name in names}
