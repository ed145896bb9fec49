"""The path of a diffusion model in discrete time: a table of levels, continued between its timesteps."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from lightly_prg.flow.paths import Path

SPACINGS = ("leading", "trailing", "linspace")
"""How diffusers spreads sampling steps over the timesteps of training; https://arxiv.org/abs/2305.08891, table 2."""


@dataclass(frozen=True, repr=False)
class SchedulerPath(Path):
    """The levels of a DDPM: ``alpha^2 = alphas_cumprod[t]``, ``sigma^2 = 1 - alpha^2`` at timestep ``t = 0 ... N - 1``.

    Timestep ``t`` lies at ``tau = (t + 1) / N``, where alpha and sigma are the table's own values; ``tau = 0`` is the
    clean image, one step before the first. In between, both are cubic, with a continuous derivative and without
    turning back (harmonic means of the neighbouring slopes [0]), so the velocity is continuous and ``alpha`` and
    ``sigma`` stay monotone.

    - [0] Monotone piecewise cubic interpolation, 1980, Fritsch and Carlson, with Brodlie's slopes

    Attributes:
        alphas_cumprod: The N levels, in [0, 1) and falling.
        set_alpha_to_one: Whether the path goes on to the clean image at ``tau = 0``; otherwise it starts at timestep 0,
            at ``tau = 1 / N``. As diffusers' setting of that name.
        spacing: One of `SPACINGS`; used by `positions` alone.
        steps_offset: Is added to the timesteps of ``leading``; used by `positions` alone.

    Raises:
        ValueError: If the levels are no such table, or the spacing is unknown.

    Example:
        >>> path = SchedulerPath((0.9, 0.5, 0.1))
        >>> path.position(1)
        0.6666666666666666
    """

    name: ClassVar[str] = "scheduler"

    alphas_cumprod: tuple[float, ...]
    set_alpha_to_one: bool = True
    spacing: str = "leading"
    steps_offset: int = 0

    def __post_init__(self) -> None:
        levels = (1.0, *self.alphas_cumprod)
        if len(levels) < 3 or levels[-1] < 0 or not all(a > b for a, b in pairwise(levels)):
            raise ValueError("alphas_cumprod must hold two levels or more, which fall from below 1 to no less than 0.")
        if self.spacing not in SPACINGS:
            raise ValueError(f"Unknown timestep spacing {self.spacing!r}: use one of {', '.join(SPACINGS)}.")
        # On the CPU whatever the default device, which may be `meta`.
        squares = torch.tensor(levels, dtype=torch.float64, device="cpu")
        rows = []
        for values in (squares.sqrt(), (1 - squares).sqrt()):
            slopes = values.diff()  # in units of a timestep
            total = slopes[1:] + slopes[:-1]  # 0 where levels are too near to 0 to move sigma
            between = torch.where(total == 0, 0.0, 2 * slopes[1:] * slopes[:-1] / total.where(total != 0, 1.0))
            rows += [values, torch.cat([slopes[:1], between, slopes[-1:]])]
        tables = {(torch.device("cpu"), torch.float64): torch.stack(rows)}
        object.__setattr__(self, "_tables", tables)

    def __repr__(self) -> str:
        """Names the levels by their hash: evaluators key their caches by it."""
        packed = struct.pack(f"<{len(self.alphas_cumprod)}d", *self.alphas_cumprod)
        return (
            f"SchedulerPath({len(self.alphas_cumprod)} levels {hashlib.sha256(packed).hexdigest()[:16]}, "
            f"set_alpha_to_one={self.set_alpha_to_one})"
        )

    @property
    def tau_min(self) -> float:
        """0, or the position of timestep 0 where the path starts there."""
        return 0.0 if self.set_alpha_to_one else self.position(0)

    def alpha(self, tau: Tensor) -> Tensor:
        """``sqrt(alphas_cumprod)``."""
        return self._interpolate(tau, 0)

    def sigma(self, tau: Tensor) -> Tensor:
        """``sqrt(1 - alphas_cumprod)``."""
        return self._interpolate(tau, 1)

    def alpha_prime(self, tau: Tensor) -> Tensor:
        """Derivative of the interpolation."""
        return self._derivative(tau, 0)

    def sigma_prime(self, tau: Tensor) -> Tensor:
        """Derivative of the interpolation."""
        return self._derivative(tau, 1)

    def position(self, timestep: float) -> float:
        """Where a timestep lies on the path; -1 is the clean image."""
        return (timestep + 1) / len(self.alphas_cumprod)

    def timestep(self, tau: Tensor) -> Tensor:
        """The timestep at ``tau``, fractional between two; before the first the network is asked at the first."""
        return (self._place(tau) - 1).clamp(min=0)

    def positions(self, steps: int) -> tuple[float, ...]:
        """The positions between which diffusers' DDIM goes in ``steps`` steps, from the data end upward.

        ``encode(velocity, x, tau_start=p[0], tau_end=p[1:], steps=1, solver="ddim")`` is its DDIMInverseScheduler, and
        ``decode(velocity, x, tau_start=p[-1], tau_end=p[-2::-1], steps=1, solver="ddim")`` its DDIMScheduler.

        There, a step always spans ``N // steps`` timesteps. Where the chosen timesteps lie otherwise (``linspace``, and
        ``trailing`` if ``steps`` does not divide N), its steps do not meet: one ends at a level and the next takes the
        state for that of another. Here every step leads to the next position.

        Raises:
            ValueError: If there are not so many timesteps.
        """
        count = len(self.alphas_cumprod)
        if not 1 <= steps <= count:
            raise ValueError(f"The scheduler has {count} timesteps, so steps must lie in [1, {count}], got {steps}.")
        if self.spacing == "leading":
            timesteps = [k * (count // steps) + self.steps_offset for k in range(steps)]
        elif self.spacing == "trailing":
            timesteps = [round(count - k * count / steps) - 1 for k in reversed(range(steps))]
        else:
            timesteps = [round(k * (count - 1) / max(steps - 1, 1)) for k in range(steps)]
        if timesteps[-1] >= count:
            raise ValueError(f"With steps_offset={self.steps_offset}, {steps} steps lead beyond timestep {count - 1}.")
        found = [self.tau_min, *(self.position(t) for t in timesteps)]
        return tuple(dict.fromkeys(found))  # a path that starts at timestep 0 has it twice

    def _place(self, tau: Tensor) -> Tensor:
        """Position in units of a timestep, 0 = clean; whole at the timesteps."""
        place = tau * len(self.alphas_cumprod)
        nearest = place.round()
        # (t + 1) / N is rarely a binary fraction: what rounding alone sets apart is a timestep.
        tolerance = 2 * len(self.alphas_cumprod) * torch.finfo(place.dtype).eps
        return torch.where((place - nearest).abs() <= tolerance, nearest, place)

    def _pieces(self, tau: Tensor, row: int) -> tuple[Tensor, ...]:
        """Share of the piece that is passed, the values at its ends and the slopes there."""
        place = self._place(tau)
        left = place.floor().clamp(0, len(self.alphas_cumprod) - 1)
        index = left.long()
        values, slopes = self._table(tau)[2 * row : 2 * row + 2]
        return place - left, values[index], values[index + 1], slopes[index], slopes[index + 1]

    def _interpolate(self, tau: Tensor, row: int) -> Tensor:
        u, start, end, first, last = self._pieces(tau, row)
        w = 1 - u
        return w * w * ((1 + 2 * u) * start + u * first) + u * u * ((3 - 2 * u) * end - w * last)

    def _derivative(self, tau: Tensor, row: int) -> Tensor:
        u, start, end, first, last = self._pieces(tau, row)
        slope = 6 * u * (1 - u) * (end - start) + (1 - u) * (1 - 3 * u) * first + u * (3 * u - 2) * last
        return slope * len(self.alphas_cumprod)

    def _table(self, tau: Tensor) -> Tensor:
        """alpha, its slopes, sigma, its slopes: (4, N + 1), where and as exact as ``tau`` is."""
        tables: dict[tuple[torch.device, torch.dtype], Tensor] = self.__dict__["_tables"]
        key = (tau.device, tau.dtype)
        if key not in tables:
            tables[key] = tables[torch.device("cpu"), torch.float64].to(tau.dtype).to(tau.device)
        return tables[key]
