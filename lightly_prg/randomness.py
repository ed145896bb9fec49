"""Counter-based randomness: every random draw is a function of (seed, counters), never of what ran before it.

That is what lets a run that was cut off anywhere continue bit for bit, and two processes agree with one.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_for(*counters: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator whose stream depends on ``counters`` alone.

    Args:
        counters: The seed, the purpose and the position of a draw, for example ``(seed, "noise", step)``. Tuples that
            differ in any place give independent streams: they are hashed, not added. Numbers are whole.
        device: Where the generator draws. Streams of different device types differ.

    Example:
        >>> a = torch.rand(2, generator=generator_for(0, "noise", 7))
        >>> b = torch.rand(2, generator=generator_for(0, "noise", 7))
        >>> bool((a == b).all())
        True
    """
    # Numbers of NumPy are printed in other ways than those of Python, and are the same seed.
    plain = tuple(counter if isinstance(counter, str) else operator.index(counter) for counter in counters)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    generator = torch.Generator(device=device)
    # 63 bits: torch takes negative seeds too, but not every device's generator does.
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return generator


@contextmanager
def global_draws(*counters: int | str) -> Iterator[None]:
    """Lets what takes no generator, layers and torchvision on the CPU, draw by ``counters``; the state comes back.

    Args:
        counters: As in ``generator_for``.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators as well, and they are not brought back.
        torch.default_generator.manual_seed(generator_for(*counters).initial_seed())
        yield
