"""The log-likelihood of a flow, by the instantaneous change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightly_prg.flow.paths import Path, Velocity, path_of
from lightly_prg.flow.prediction import check_prediction
from lightly_prg.flow.solver import SOLVERS, CountedVelocity, data_end, integrate, noise_end
from lightly_prg.full_precision import full_precision

DIVERGENCES = ("hutchinson", "exact")
PROBES = ("rademacher", "gaussian")


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-likelihoods of N states, in nats.

    Attributes:
        per_probe: ``(N, P)`` float64 on the CPU, a column for each probe; one column where the divergence is exact.
        exact: Whether the divergence is exact, up to the solver.
        dims: Numbers in one state, D.
        nfe: Network evaluations for one state; an average where an adaptive solver varies. The vector-Jacobian
            products come on top: one for each probe, or D, with every evaluation.
    """

    per_probe: Tensor
    exact: bool
    dims: int
    nfe: float

    @property
    def per_image(self) -> Tensor:
        """Mean over the probes, ``(N,)``."""
        return self.per_probe.mean(1)

    @property
    def probe_error(self) -> Tensor | None:
        """Standard error over the probes of each value, ``(N,)``: 0 if exact, None for a single probe."""
        if self.exact:
            return torch.zeros(len(self.per_probe), dtype=torch.float64)
        probes = self.per_probe.shape[1]
        return self.per_probe.std(1) / math.sqrt(probes) if probes > 1 else None

    @property
    def mean(self) -> float:
        """Mean over the states."""
        return float(self.per_image.mean())

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over the states, the probes' share included; None for one state."""
        count = len(self.per_probe)
        return float(self.per_image.std()) / math.sqrt(count) if count > 1 else None

    @property
    def probe_standard_error(self) -> float | None:
        """What the probes alone add to the error of the mean: 0 if exact, None for a single probe."""
        error = self.probe_error
        return None if error is None else float(error.square().sum().sqrt()) / len(error)


def log_likelihood(
    velocity: Velocity,
    x: Tensor,
    *,
    tau_start: float | None = None,
    tau_end: float | None = None,
    steps: int = 16,
    solver: str = "rk4",
    grid: str = "quadratic",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: str = "hutchinson",
    probes: int = 4,
    probe: str = "rademacher",
    noise_std: float = 1.0,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """Computes ``log p(x)`` under the model that starts from noise and decodes.

    Along ``dx/dtau = v`` the density changes by ``d log p(x_tau) / dtau = -div v`` [0], so that, from the data at
    ``tau_start`` to the noise ``z`` at ``tau_end``,

        log p(x) = log N(z; 0, noise_std^2 I) + int div v dtau.

    State and integral are solved together, as one state of `encode`. The divergence is the trace of the
    Jacobian: exact, by D vector-Jacobian products, or ``e^T J e`` with random ``e`` of mean 0 and covariance I, whose
    mean it is (Hutchinson). A probe stays the same along the whole solve, as in FFJORD [1], so the integrand is smooth
    and the adaptive solver works. Signs (Rademacher) have the smaller variance of the two probes, and none at all
    where the Jacobian is diagonal.

    Which base density: the package's samples start from a standard normal at ``tau_max``, so 1 gives the density
    of exactly the model that is sampled, whatever the path. On the linear and trigonometric path the states there
    are standard normal for perfect training too. On the variance-preserving path ``alpha(tau_max) = 0.0066``: perfect
    training would end in data blurred by noise, which is no Gaussian, and the mismatch (of the order of ``alpha^2`` a
    dimension) rightly counts as an error of the model. A path of your own with ``sigma(tau_max) != 1`` needs
    ``noise_std``: what its samples start from, near ``sqrt(alpha^2 E[x^2] + sigma^2)``.

    Where ``tau_start > 0``, as ``tau_min`` of the variance-preserving path, ``x`` is taken as a state there: the value
    is the density of the model that stops decoding at ``tau_start``, a density like any other, which is smoother than
    the one at 0 by the noise ``sigma(tau_start)``.

    Computed in float32 (float64 for a float64 state) even under autocast; no gradient flows. The network must treat
    the images of a batch independently, as in evaluation mode.

    - [0] Neural Ordinary Differential Equations, 2018, https://arxiv.org/abs/1806.07366
    - [1] FFJORD, 2018, https://arxiv.org/abs/1810.01367

    Args:
        velocity: The network, see `encode`.
        x: States at ``tau_start``, ``(N, ...)``, in the range that the network was trained on.
        tau_start: Where ``x`` lies; by default the path's ``tau_min``, or 0.
        tau_end: The noise end; by default the path's ``tau_max``, or 1.
        steps: Steps between them.
        solver: One of `SOLVERS`.
        grid: One of `GRIDS`. ``"quadratic"`` has its short steps near the data (see `time_grid`): there the
            divergence of a trained network changes fastest, and even steps are wrong by a tenth of a bit per dimension
            where these have converged. An adaptive solver chooses its own.
        rtol: Relative tolerance of an adaptive solver.
        atol: Absolute tolerance of an adaptive solver.
        divergence: One of `DIVERGENCES`. ``"exact"`` is for small inputs: D vector-Jacobian products an evaluation.
        probes: Probes for each image.
        probe: One of `PROBES`.
        noise_std: Standard deviation of the base density.
        batch_size: States at once. A fixed-grid solver gives the same for every size, up to rounding.
        generator: Where the probes are drawn from, image by image; torch's own if None.

    Returns:
        The log-likelihoods in nats, with their standard errors.

    Raises:
        ValueError: If an argument is outside what is allowed, or the network changes the shape.
        FloatingPointError: If the state became infinite or NaN, or an adaptive step vanished.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"Unknown divergence {divergence!r}: use one of {', '.join(DIVERGENCES)}.")
    if solver not in SOLVERS:
        raise ValueError(f"The likelihood takes the solvers {', '.join(SOLVERS)}, got {solver!r}.")
    if probe not in PROBES:
        raise ValueError(f"Unknown probe {probe!r}: use one of {', '.join(PROBES)}.")
    if probes < 1 or batch_size < 1:
        raise ValueError(f"probes and batch_size must be at least 1, got {probes} and {batch_size}.")
    if not 0 < noise_std < math.inf:
        raise ValueError(f"noise_std must be positive, got {noise_std}.")
    if x.ndim < 2 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(f"x must be a non-empty float batch (N, ...), got {x.dtype} of shape {tuple(x.shape)}.")
    start = data_end(velocity) if tau_start is None else float(tau_start)
    end = noise_end(velocity) if tau_end is None else float(tau_end)
    if not start < end:
        raise ValueError(f"The noise end must lie above the data end, got tau_start = {start} and tau_end = {end}.")

    exact = divergence == "exact"
    values, evaluations = [], 0
    # Derivatives are taken inside, which inference mode would forbid.
    with torch.inference_mode(False), torch.no_grad(), full_precision(x.device):
        for part in torch.split(x.to(torch.promote_types(x.dtype, torch.float32)), batch_size):
            part = part.clone()
            drawn = None if exact else _draw(part, probes, probe, generator)
            counted = CountedVelocity(_Augmented(velocity, part.shape[1:], drawn))
            columns = 1 if exact else probes
            trajectory = integrate(
                counted,
                torch.cat([part.flatten(1), part.new_zeros(len(part), columns)], dim=1),
                start,
                [end],
                steps=steps,
                solver=solver,
                gradient="full",
                every_step=False,
                rtol=rtol,
                atol=atol,
                grid=grid,
            )
            # On the CPU, as MPS has no float64.
            last = trajectory.states[-1].cpu().double()
            z, integral = last[:, :-columns], last[:, -columns:]
            values.append(_log_normal(z, noise_std)[:, None] + integral)
            evaluations += counted.evaluations * len(part)
    return Likelihood(torch.cat(values), exact, x[0].numel(), evaluations / len(x))


class _Augmented:
    """The velocity of ``(x, int div v)``, a state of ``(B, D + P)``."""

    def __init__(self, velocity: Velocity, shape: torch.Size, probes: Tensor | None) -> None:
        self.velocity = velocity
        self.shape = shape
        self.probes = probes

    @property
    def path(self) -> Path | None:
        return path_of(self.velocity)

    def __call__(self, tau: Tensor, state: Tensor) -> Tensor:
        x = state[:, : self.shape.numel()].reshape(len(state), *self.shape).detach()
        with torch.enable_grad():
            x.requires_grad_()
            value = self.velocity(tau, x)
            check_prediction(value, x)
            value = value.to(x.dtype)
        divergence = _exact_divergence(value, x) if self.probes is None else _estimated(value, x, self.probes)
        return torch.cat([value.detach().flatten(1), divergence], dim=1)


def _estimated(value: Tensor, x: Tensor, probes: Tensor) -> Tensor:
    """``e^T J e`` for each probe, ``(B, P)``; the probes are (P, B, ...)."""
    product = _products(value, x)
    return torch.stack([(product(e) * e).flatten(1).sum(1) for e in probes], dim=1)


def _exact_divergence(value: Tensor, x: Tensor) -> Tensor:
    """The trace of the Jacobian of each state, ``(B, 1)``."""
    product = _products(value, x)
    trace = x.new_zeros(len(x))
    direction = torch.zeros_like(x).flatten(1)
    for index in range(direction.shape[1]):
        direction.zero_()[:, index] = 1
        trace += product(direction.view_as(x)).flatten(1)[:, index]
    return trace[:, None]


def _products(value: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """``e -> J^T e``, 0 where the velocity does not depend on the state."""

    def product(e: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(value, x, e, retain_graph=True, allow_unused=True)
        return torch.zeros_like(x) if gradient is None else gradient

    return product


def _draw(x: Tensor, probes: int, kind: str, generator: torch.Generator | None) -> Tensor:
    """Probes (P, B, ...): drawn image by image, so that they do not depend on the size of the batch."""
    shape = (probes, *x.shape[1:])
    device = x.device if generator is None else generator.device
    if kind == "gaussian":
        drawn = [torch.randn(shape, generator=generator, device=device, dtype=torch.float32) for _ in x]
    else:
        drawn = [2.0 * torch.randint(2, shape, generator=generator, device=device) - 1.0 for _ in x]
    return torch.stack(drawn, dim=1).to(x)


def _log_normal(z: Tensor, std: float) -> Tensor:
    """``log N(z; 0, std^2 I)`` of (N, D)."""
    return -0.5 * (z / std).square().sum(1) - z.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
