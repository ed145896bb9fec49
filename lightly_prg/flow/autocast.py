"""Mixed precision inside a solve."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch


def own_autocast(device: str) -> Callable[[], AbstractContextManager[None]]:
    """Returns what enters the present autocast state again, in whatever thread.

    The cache of casted weights stays off: filled without gradients in the forward pass, it would cut the weights off
    from every later use in the same region.
    """
    if not torch.amp.autocast_mode.is_autocast_available(device):
        return nullcontext
    return partial(
        torch.autocast,
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    )
