"""A part of a path: for networks whose prediction cannot be turned into a velocity at its ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lightly_prg.flow.paths import LinearPath, Path


@dataclass(frozen=True)
class PathRange(Path):
    """Another path between two of its positions; ``tau`` keeps its meaning.

    A noise prediction says nothing about the data where ``alpha = 0``, a denoiser nothing about the noise where
    ``sigma = 0``, so the velocity they stand for is known between those ends only.

    Attributes:
        path: The whole path.
        tau_min: Nearest position to the data.
        tau_max: Farthest position from it.

    Raises:
        ValueError: If the positions are not two in order on the path.
    """

    name: ClassVar[str] = "restricted"

    path: Path = field(default_factory=LinearPath)
    tau_min: float = 0.0
    tau_max: float = 1.0

    def __post_init__(self) -> None:
        if not self.path.tau_min <= self.tau_min < self.tau_max <= self.path.tau_max:
            raise ValueError(
                f"A part of the {self.path.name} path lies in [{self.path.tau_min:g}, {self.path.tau_max:g}], "
                f"got tau_min={self.tau_min} and tau_max={self.tau_max}."
            )

    def alpha(self, tau: Tensor) -> Tensor:
        """The whole path's."""
        return self.path.alpha(tau)

    def sigma(self, tau: Tensor) -> Tensor:
        """The whole path's."""
        return self.path.sigma(tau)

    def alpha_prime(self, tau: Tensor) -> Tensor:
        """The whole path's."""
        return self.path.alpha_prime(tau)

    def sigma_prime(self, tau: Tensor) -> Tensor:
        """The whole path's."""
        return self.path.sigma_prime(tau)

    def loss_weight(self, tau: Tensor) -> Tensor:
        """The whole path's."""
        return self.path.loss_weight(tau)
