"""Paths between data and noise: ``x_tau = alpha(tau) x + sigma(tau) eps``.

One time axis everywhere: ``tau = 0`` is data, ``tau = 1`` is noise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A velocity network ``velocity(tau, x) -> dx/dtau``: ``tau`` 0-d or (B,), ``x`` (B, C, H, W)."""

QUANTITIES = ("noise", "velocity", "denoised", "score", "v")
"""What a network may predict at ``(x_tau, tau)``; see `Path.convert`."""


@dataclass(frozen=True)
class Path(ABC):
    """A Gaussian probability path ``x_tau = alpha(tau) x + sigma(tau) eps``.

    ``alpha``, ``sigma`` and their derivatives map a tensor of positions to a tensor of the same
    shape. Every other method takes ``tau`` as a float, a 0-d tensor or one position per sample,
    (B,), and broadcasts it over the trailing dimensions of ``x`` (B, ...). Coefficients are
    computed in float32 or better; results have the dtype of ``x``.

    Attributes:
        name: The word by which recipes and saved encoders know the path.
        tau_min: Nearest position to the data at which the velocity is finite.
        tau_max: Farthest position, pure (or nearly pure) noise.
    """

    name: ClassVar[str]

    @property
    def tau_min(self) -> float:
        """Nearest position to the data at which the velocity is finite."""
        return 0.0

    @property
    def tau_max(self) -> float:
        """Farthest position from the data."""
        return 1.0

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise at ``tau_max``, where generation starts."""
        return float(self.sigma(torch.tensor(self.tau_max, dtype=torch.float64, device="cpu")))

    @abstractmethod
    def alpha(self, tau: Tensor) -> Tensor:
        """Weight of the data at ``tau``."""

    @abstractmethod
    def sigma(self, tau: Tensor) -> Tensor:
        """Weight of the noise at ``tau``."""

    @abstractmethod
    def alpha_prime(self, tau: Tensor) -> Tensor:
        """Derivative of ``alpha`` in ``tau``."""

    @abstractmethod
    def sigma_prime(self, tau: Tensor) -> Tensor:
        """Derivative of ``sigma`` in ``tau``."""

    def loss_weight(self, tau: Tensor) -> Tensor:
        """Weight of the regression loss at ``tau``: 1 unless the velocity diverges somewhere."""
        return torch.ones_like(tau)

    def interpolate(self, x: Tensor, noise: Tensor, tau: float | Tensor) -> Tensor:
        """Returns ``x_tau = alpha x + sigma noise``, shaped as ``x`` (B, ...)."""
        tau = _position(tau, x)
        return self.alpha(tau).to(x) * x + self.sigma(tau).to(x) * noise

    def velocity(self, x: Tensor, noise: Tensor, tau: float | Tensor) -> Tensor:
        """Returns ``u = alpha' x + sigma' noise``, the target of flow matching, shaped as ``x``."""
        tau = _position(tau, x)
        return self.alpha_prime(tau).to(x) * x + self.sigma_prime(tau).to(x) * noise

    def convert(
        self,
        x_tau: Tensor,
        value: Tensor,
        tau: float | Tensor,
        *,
        source: str,
        target: str,
    ) -> Tensor:
        """Turns one prediction at ``(x_tau, tau)`` into another.

        ``denoised`` is E[x | x_tau], ``noise`` is E[eps | x_tau], ``velocity`` is
        ``alpha' denoised + sigma' noise``, ``score`` is grad log p(x_tau) = -noise / sigma and ``v``
        is ``alpha noise - sigma denoised`` (https://arxiv.org/abs/2202.00512, there for paths with
        ``alpha^2 + sigma^2 = 1``, here for all).

        A velocity or v converts to noise and denoised everywhere from ``tau_min`` to ``tau_max``.
        ``sigma > 0`` is needed from denoised, from score and to score; ``alpha > 0`` is needed
        from noise or score to velocity, denoised or v.

        Args:
            x_tau: State, (B, ...).
            value: The known prediction, shaped as ``x_tau``.
            tau: Position in [tau_min, tau_max]: float, 0-d or (B,).
            source: What ``value`` is, one of `QUANTITIES`.
            target: What to return, one of `QUANTITIES`.

        Returns:
            The ``target`` quantity, shaped as ``x_tau``.

        Raises:
            ValueError: If a name is unknown, a shape differs, ``tau`` lies off the path, or the
                conversion would divide by zero there.
        """
        for given in (source, target):
            if given not in QUANTITIES:
                raise ValueError(f"Unknown quantity {given!r}: use one of {', '.join(QUANTITIES)}.")
        if value.shape != x_tau.shape:
            raise ValueError(
                f"The {source} must have the shape of the state {tuple(x_tau.shape)}, got {tuple(value.shape)}."
            )
        if not self.contains(tau):
            raise ValueError(
                f"tau must lie in [{self.tau_min:g}, {self.tau_max:g}] on the {self.name} path, "
                f"got {tau.tolist() if isinstance(tau, Tensor) else tau}."
            )
        tau = _position(tau, x_tau)
        if source == target:
            return value
        alpha, sigma = self.alpha(tau), self.sigma(tau)
        if ("score" in (source, target) or source == "denoised") and bool((sigma == 0).any()):
            raise ValueError(
                f"Converting {source} to {target} needs noise in the state: "
                f"sigma is 0 at tau = {self.tau_min:g} of the {self.name} path."
            )
        needs_data = source in ("noise", "score") and target in ("velocity", "denoised", "v")
        if needs_data and bool((alpha == 0).any()):
            raise ValueError(
                f"Converting {source} to {target} needs data in the state: "
                f"alpha is 0 at tau = {self.tau_max:g} of the {self.name} path."
            )

        alpha_prime, sigma_prime = self.alpha_prime(tau).to(x_tau), self.sigma_prime(tau).to(x_tau)
        alpha, sigma = alpha.to(x_tau), sigma.to(x_tau)
        denoised: Tensor | None = None
        if source == "velocity":
            # Two equations (state and velocity) for data and noise; positive on every path here.
            determinant = alpha * sigma_prime - alpha_prime * sigma
            denoised = (sigma_prime * x_tau - sigma * value) / determinant
            noise = (alpha * value - alpha_prime * x_tau) / determinant
        elif source == "v":
            square = alpha.square() + sigma.square()
            denoised = (alpha * x_tau - sigma * value) / square
            noise = (sigma * x_tau + alpha * value) / square
        elif source == "denoised":
            denoised, noise = value, (x_tau - alpha * value) / sigma
        else:
            noise = value if source == "noise" else -sigma * value
        if target == "noise":
            return noise
        if target == "score":
            return -noise / sigma
        if denoised is None:
            denoised = (x_tau - sigma * noise) / alpha
        if target == "denoised":
            return denoised
        if target == "v":
            return alpha * noise - sigma * denoised
        return alpha_prime * denoised + sigma_prime * noise

    def contains(self, tau: float | Tensor) -> bool:
        """Whether all positions lie between ``tau_min`` and ``tau_max``."""
        if not isinstance(tau, Tensor):
            return self.tau_min <= tau <= self.tau_max
        # In tau's own precision: float32(tau_min) may lie just below tau_min.
        dtype = tau.dtype if tau.is_floating_point() else torch.float32
        low, high = torch.tensor([self.tau_min, self.tau_max], dtype=dtype, device=tau.device)
        return bool(((tau >= low) & (tau <= high)).all())


@dataclass(frozen=True)
class LinearPath(Path):
    """``x_tau = (1 - tau) x + tau eps``: rectified flow, conditional flow matching.

    References:
        - Flow Matching for Generative Modeling, 2022, https://arxiv.org/abs/2210.02747
        - Flow Straight and Fast, 2022, https://arxiv.org/abs/2209.03003
    """

    name: ClassVar[str] = "linear"

    def alpha(self, tau: Tensor) -> Tensor:
        """``1 - tau``."""
        return 1 - tau

    def sigma(self, tau: Tensor) -> Tensor:
        """``tau``."""
        return tau

    def alpha_prime(self, tau: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(tau)

    def sigma_prime(self, tau: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(tau)


@dataclass(frozen=True)
class TrigonometricPath(Path):
    """``x_tau = cos(pi tau / 2) x + sin(pi tau / 2) eps``: "GVP" in PRG.

    References:
        - Stochastic Interpolants, 2023, https://arxiv.org/abs/2303.08797
        - Pretrained Reversible Generation, 2024, https://arxiv.org/abs/2412.01787
    """

    name: ClassVar[str] = "trigonometric"

    def alpha(self, tau: Tensor) -> Tensor:
        """``cos(pi tau / 2)``."""
        # As a sine of the complement it is exactly 0 at tau = 1, where cos(pi / 2) is 6e-17.
        return torch.sin(0.5 * math.pi * (1 - tau))

    def sigma(self, tau: Tensor) -> Tensor:
        """``sin(pi tau / 2)``."""
        return torch.sin(0.5 * math.pi * tau)

    def alpha_prime(self, tau: Tensor) -> Tensor:
        """``-pi/2 sin(pi tau / 2)``."""
        return -0.5 * math.pi * self.sigma(tau)

    def sigma_prime(self, tau: Tensor) -> Tensor:
        """``pi/2 cos(pi tau / 2)``."""
        return 0.5 * math.pi * self.alpha(tau)


@dataclass(frozen=True)
class VariancePreservingPath(Path):
    """DDPM's diffusion in continuous time: ``alpha = exp(-B/2)``, ``sigma^2 = 1 - alpha^2``.

    ``B(tau) = beta_min tau + (beta_max - beta_min) tau^2 / 2`` integrates the linear
    ``beta(tau)``. With the defaults ``alpha(1) = 0.0066``: a trace of the data is left.
    ``sigma'`` grows like ``tau^(-1/2)`` towards the data; hence ``tau_min`` and the loss weight.

    Attributes:
        beta_min: Noise rate at ``tau = 0``, positive.
        beta_max: Noise rate at ``tau = 1``, at least ``beta_min``.
        tau_min: Where the path starts, in (0, 1).

    References:
        - Score-Based Generative Modeling through SDEs, 2020, https://arxiv.org/abs/2011.13456

    Raises:
        ValueError: If a rate or ``tau_min`` is out of range.
    """

    name: ClassVar[str] = "variance_preserving"

    beta_min: float = 0.1
    beta_max: float = 20.0
    tau_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(
                "The variance-preserving path needs 0 < beta_min <= beta_max, "
                f"got beta_min={self.beta_min} and beta_max={self.beta_max}."
            )
        if not 0 < self.tau_min < 1:
            raise ValueError(f"tau_min must lie strictly between 0 and 1, got {self.tau_min}.")

    def alpha(self, tau: Tensor) -> Tensor:
        """``exp(-B(tau) / 2)``."""
        return torch.exp(-0.5 * self._integrated_beta(tau))

    def sigma(self, tau: Tensor) -> Tensor:
        """``sqrt(1 - exp(-B(tau)))``."""
        # expm1: near the data 1 - exp(-B) would lose every digit in float32.
        return torch.sqrt(-torch.expm1(-self._integrated_beta(tau)))

    def alpha_prime(self, tau: Tensor) -> Tensor:
        """``-beta alpha / 2``."""
        return -0.5 * self._beta(tau) * self.alpha(tau)

    def sigma_prime(self, tau: Tensor) -> Tensor:
        """``beta alpha^2 / (2 sigma)``: infinite at ``tau = 0``."""
        return 0.5 * self._beta(tau) * self.alpha(tau).square() / self.sigma(tau)

    def loss_weight(self, tau: Tensor) -> Tensor:
        """``sigma^2``: keeps the loss bounded where ``sigma'`` diverges."""
        return self.sigma(tau).square()

    def _beta(self, tau: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * tau

    def _integrated_beta(self, tau: Tensor) -> Tensor:
        return self.beta_min * tau + 0.5 * (self.beta_max - self.beta_min) * tau.square()


PATHS: dict[str, type[Path]] = {path.name: path for path in (LinearPath, TrigonometricPath, VariancePreservingPath)}


def path_from_name(name: str) -> Path:
    """Returns the path called ``name``, with its default constants.

    Raises:
        ValueError: If no path has that name.
    """
    if name not in PATHS:
        raise ValueError(f"Unknown path {name!r}: use one of {', '.join(PATHS)}.")
    return PATHS[name]()


def _position(tau: float | Tensor, x: Tensor) -> Tensor:
    """Shapes ``tau`` so that it broadcasts over (B, ...); float32 or better, on x's device."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if not isinstance(tau, Tensor):
        return torch.tensor(tau, dtype=dtype, device=x.device)
    if tau.ndim == 0:
        return tau.to(device=x.device, dtype=dtype)
    if x.ndim == 0 or tau.shape != x.shape[:1]:
        raise ValueError(
            "tau must be a float, a 0-d tensor or one position per sample (B,), "
            f"got shape {tuple(tau.shape)} for x of shape {tuple(x.shape)}."
        )
    return tau.to(device=x.device, dtype=dtype).reshape(-1, *[1] * (x.ndim - 1))


def path_of(velocity: Velocity) -> Path | None:
    """Returns the path that a velocity network declares by its attribute ``path``, or None."""
    path = getattr(velocity, "path", None)
    return path if isinstance(path, Path) else None
