"""Multinomial logistic regression by preconditioned L-BFGS, along a path of penalties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

_MEMORY = 20  # pairs of steps that L-BFGS keeps
# Stop where an iteration lowers the loss by less: what float32 resolves, or float64 needs.
_LOSS_TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-15}
_CHOOSING_TOLERANCE = 2e-6
_SCORES = 1 << 25  # samples times classes at a time: of a million images in a thousand classes all would take gigabytes
_GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}


@dataclass(frozen=True)
class LogisticFit:
    """A fitted classifier, ``scores = features @ weight.T + bias``.

    Attributes:
        penalty: The L2 penalty it was fitted with.
        weight: ``(C, D)`` float64.
        bias: ``(C,)`` float64.
        loss: The objective at the end.
        gradient_norm: Largest entry of the gradient there, by absolute value.
        iterations: Of L-BFGS.
        converged: Whether it stopped because nothing was left to gain.
    """

    penalty: float
    weight: Tensor
    bias: Tensor
    loss: float
    gradient_norm: float
    iterations: int
    converged: bool

    def scores(self, features: Tensor) -> Tensor:
        """Maps standardised features ``(N, D)`` to scores ``(N, C)`` in their type."""
        weight, bias = (t.to(features.device, features.dtype) for t in (self.weight, self.bias))
        return F.linear(features, weight, bias)


def fit_penalties(
    features: Tensor,
    targets: Tensor,
    penalties: Sequence[float],
    *,
    num_classes: int,
    max_iterations: int,
    start: LogisticFit | None = None,
    choosing: bool = False,
) -> Iterator[LogisticFit]:
    """Fits one classifier for each penalty, each starting where the one before ended.

    The objective is the mean cross-entropy plus ``penalty / 2`` times the sum of the squared
    weights; biases are free. It is scikit-learn's with ``C = 1 / (N * penalty)``.

    L-BFGS works on ``A = W L``, where ``L L^T`` is the covariance of the features times the mean
    of p (1 - p), plus the penalty: an estimate of the Hessian, which makes the problem round. On
    images this takes a fifth of the iterations of plain L-BFGS.

    Args:
        features: ``(N, D)``, standardised; their type is that of the matrix products. They are copied unless they lie
            in memory feature by feature.
        targets: ``(N,)`` int64 in ``[0, num_classes)``, every class at least once.
        penalties: All above 0, best from strong to weak.
        num_classes: C.
        max_iterations: Of L-BFGS for each penalty.
        start: Where the first fit starts. Default: zero.
        choosing: Whether the fits only serve to choose a penalty. They then stop where an
            iteration lowers the loss by less than 2e-6, which decides hardly an image.
    """
    problem = _Problem(features, targets, num_classes, loss_tolerance=_CHOOSING_TOLERANCE if choosing else 0.0)
    weight = features.new_zeros(num_classes, features.shape[1], dtype=torch.float64)
    bias = weight.new_zeros(num_classes)
    if start is not None:
        weight, bias = start.weight.to(weight), start.bias.to(bias)
    weight = problem.reduce(weight)
    for penalty in penalties:
        weight, bias, fit = problem.fit(weight, bias, penalty, max_iterations)
        yield fit


class _Problem:
    """The data of a fit, and what all penalties share."""

    def __init__(self, features: Tensor, targets: Tensor, num_classes: int, *, loss_tolerance: float = 0.0) -> None:
        self.loss_tolerance = max(_LOSS_TOLERANCE[features.dtype], loss_tolerance)
        self.directions: Tensor | None = None
        count, dimension = features.shape
        if count < dimension:
            # The weights are combinations of the N samples: N coordinates say all.
            self.directions, coordinates = _span(features)
            features = coordinates.to(features.dtype)
        # With the samples side by side, softmax and the products with the few classes are twice as fast.
        self.columns = features.T.contiguous()
        self.targets = targets[None]
        self.num_classes = num_classes
        self.covariance = (self.columns @ self.columns.T).double() / count

    def reduce(self, weight: Tensor) -> Tensor:
        return weight if self.directions is None else weight @ self.directions

    def expand(self, weight: Tensor) -> Tensor:
        return weight if self.directions is None else weight @ self.directions.T

    def fit(
        self, weight: Tensor, bias: Tensor, penalty: float, max_iterations: int
    ) -> tuple[Tensor, Tensor, LogisticFit]:
        """Minimises from a start on; returns the weights as they are here, and the fit."""
        curvature = self.curvature(weight, bias)
        factor = _factor(self.covariance, curvature, penalty)
        bias_scale = curvature**-0.5
        split = weight.numel()

        def unpack(values: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
            vector = torch.tensor(values, device=weight.device)
            scaled = vector[:split].view_as(weight)
            # W = A L^-1
            solved = torch.linalg.solve_triangular(factor, scaled, upper=False, left=False)
            return solved, vector[split:] * bias_scale

        def objective(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            loss, weight_gradient, bias_gradient = self.loss(*unpack(values), penalty)
            scaled = torch.linalg.solve_triangular(factor.T, weight_gradient, upper=True, left=False)
            gradient = torch.cat([scaled.flatten(), bias_gradient * bias_scale])
            return loss, gradient.cpu().numpy()

        start = torch.cat([(weight @ factor).flatten(), bias / bias_scale])
        found = minimize(
            objective,
            start.cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": max_iterations,
                "maxfun": 3 * max_iterations + 20,
                "maxcor": _MEMORY,
                "maxls": 10,
                "ftol": self.loss_tolerance,
                "gtol": _GRADIENT_TOLERANCE[self.columns.dtype],
            },
        )
        weight, bias = unpack(found.x)
        loss, *gradients = self.loss(weight, bias, penalty)
        # Where the line search finds nothing better (status 2), rounding has the last word. In
        # these coordinates g^2 / 2 is about what is left to gain.
        converged = found.status == 0 or (found.status == 2 and np.abs(found.jac).max() < 1e-3)
        fit = LogisticFit(
            penalty=penalty,
            weight=self.expand(weight),
            bias=bias,
            loss=loss,
            gradient_norm=max(float(gradient.abs().max()) for gradient in gradients),
            iterations=int(found.nit),
            converged=bool(converged),
        )
        return weight, bias, fit

    def loss(self, weight: Tensor, bias: Tensor, penalty: float) -> tuple[float, Tensor, Tensor]:
        """The objective and its gradients; sums over samples and classes are in float64."""
        count = self.targets.numel()
        loss = penalty / 2 * weight.square().sum()
        weight_gradient, bias_gradient = penalty * weight, torch.zeros_like(bias)
        for columns, targets in self.parts():
            errors = self.log_probabilities(weight, bias, columns)
            chosen = errors.gather(0, targets)
            loss -= chosen.sum(dtype=torch.float64) / count
            errors = errors.exp_()  # d loss / d scores: probabilities less the one-hot targets
            errors.scatter_add_(0, targets, torch.full_like(chosen, -1.0))
            weight_gradient += (columns @ errors.T.contiguous()).T.double() / count
            bias_gradient += errors.sum(dim=1, dtype=torch.float64) / count
        return float(loss), weight_gradient, bias_gradient

    def curvature(self, weight: Tensor, bias: Tensor) -> float:
        """Mean of p (1 - p) over samples and classes."""
        total = 0.0
        for columns, targets in self.parts():
            p = self.log_probabilities(weight, bias, columns).exp_()
            total += float((p * (1 - p)).mean()) * targets.numel()
        return max(total / self.targets.numel(), 1e-8)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features ``(D, n)`` and targets ``(1, n)`` of so many samples that their scores fit into memory."""
        size = max(1, _SCORES // self.num_classes)
        return zip(torch.split(self.columns, size, dim=1), torch.split(self.targets, size, dim=1), strict=True)

    @staticmethod
    def log_probabilities(weight: Tensor, bias: Tensor, columns: Tensor) -> Tensor:
        """Of every class for every sample: ``(C, n)``."""
        dtype = columns.dtype
        return torch.addmm(bias.to(dtype)[:, None], weight.to(dtype), columns).log_softmax(dim=0)


def _span(features: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal directions ``(D, R)`` that span the N samples, R <= N, and the samples' coordinates ``(N, R)`` there.

    Where the samples but one are independent, the Cholesky factor of their products holds their coordinates, in a fifth
    of the time of an eigendecomposition. Standardised samples sum to zero up to rounding, so that the last adds hardly
    anything: what it adds is a direction of its own.
    """
    samples = features.double()
    others, last = samples[:-1], samples[-1:]
    factor, failed = torch.linalg.cholesky_ex(others @ others.T)
    if not failed and len(others):
        directions = torch.linalg.solve_triangular(factor, others, upper=False).T
        rest = last - (last @ directions) @ directions.T
        rest = rest - (rest @ directions) @ directions.T  # once more for what rounding left
        length = rest.norm()
        if length > 1e-12 * last.norm():
            directions = torch.cat([directions, rest.T / length], dim=1)
        if _is_orthonormal(directions):
            of_others = torch.cat([factor, factor.new_zeros(len(others), directions.shape[1] - len(others))], dim=1)
            return directions, torch.cat([of_others, last @ directions])
    values, vectors = torch.linalg.eigh(samples @ samples.T)
    kept = values > values[-1] * len(samples) * torch.finfo(torch.float64).eps
    directions = (samples.T @ vectors[:, kept]) / values[kept].sqrt()
    return directions, samples @ directions


def _is_orthonormal(directions: Tensor) -> bool:
    """Told by what two products with the directions leave of a few vectors: repeated samples leave large errors."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(directions.shape[1], 4, generator=generator, dtype=directions.dtype).to(directions.device)
    error = directions.T @ (directions @ vectors) - vectors
    return bool(error.norm() <= 1e-6 * vectors.norm())


def _factor(covariance: Tensor, curvature: float, penalty: float) -> Tensor:
    """Cholesky factor of the estimated Hessian."""
    hessian = curvature * covariance
    diagonal = hessian.diagonal()
    diagonal += penalty
    # The covariance was summed in float32, so its smallest eigenvalues may be slightly negative.
    shift = 1e-6 * curvature
    while True:
        diagonal += shift
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            lower: Tensor = factor
            return lower
        shift *= 10
