"""Bits per dimension: the likelihood of quantised images under a flow, in a unit that models share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.flow.likelihood import Likelihood, log_likelihood
from lightly_prg.module_state import in_evaluation_mode


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Bits per dimension of N images: fewer are better.

    Attributes:
        likelihood: Log-likelihoods of the dequantised images as the network sees them, in nats.
        offset: What the change of unit adds: ``mean_c log2((grey_levels - 1) std_c)`` bits per dimension.
        uniform: ``log2(grey_levels)``: what a code costs that knows nothing about the images.
    """

    likelihood: Likelihood
    offset: float
    uniform: float

    @property
    def per_image(self) -> Tensor:
        """Bits per dimension of each image, ``(N,)`` float64."""
        return self.offset - self.likelihood.per_image / self._nats

    @property
    def mean(self) -> float:
        """Mean over the images."""
        return self.offset - self.likelihood.mean / self._nats

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over the images; None for one image."""
        error = self.likelihood.standard_error
        return None if error is None else error / self._nats

    @property
    def probe_standard_error(self) -> float | None:
        """What the probes alone add to it; 0 where the divergence is exact, None for a single probe."""
        error = self.likelihood.probe_standard_error
        return None if error is None else error / self._nats

    @property
    def _nats(self) -> float:
        return self.likelihood.dims * math.log(2)


def dequantise(images: Tensor, *, grey_levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    """Spreads every grey level evenly over its cell.

    Level ``k`` of G becomes ``(k + U - 1/2) / (G - 1)`` with U uniform on [0, 1): cells of width ``1 / (G - 1)``
    around the values ``k / (G - 1)`` that networks are trained on, so that the outermost reach over [0, 1] by half a
    cell. The mean of the log-density over U is a lower bound on the log-probability of the levels (Jensen).

    Args:
        images: ``(N, C, H, W)`` uint8; levels fewer than 256 are spread over 0 to 255, as in `ImageSet`.
        grey_levels: How many values a pixel can take, at least 2.
        generator: Where U is drawn from, image by image; torch's own if None.

    Returns:
        ``(N, C, H, W)`` float32 on the CPU.

    Raises:
        ValueError: If the images are not uint8, or there are fewer than 2 levels or more than 256.
        UserError: If the images hold values between the levels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"Images (N, C, H, W) of type uint8 are needed, got {images.dtype} of shape {tuple(images.shape)}."
        )
    if not 2 <= grey_levels <= 256:
        raise ValueError(f"grey_levels must lie between 2 and 256, got {grey_levels}.")
    pixels = images.cpu().float()
    levels = (pixels * (grey_levels - 1) / 255).round()
    if bool(((levels * 255 / (grey_levels - 1)).round() != pixels).any()):
        raise UserError(f"The images hold values that are none of {grey_levels} grey levels between 0 and 255.")
    noise = [torch.rand(image.shape, generator=generator, dtype=torch.float32) for image in pixels]
    return (levels + torch.stack(noise) - 0.5) / (grey_levels - 1)


@in_evaluation_mode
def bits_per_dim(
    encoder: PRGEncoder,
    images: Tensor,
    *,
    grey_levels: int = 256,
    steps: int = 12,
    solver: str = "rk4",
    divergence: str = "hutchinson",
    probes: int = 4,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> BitsPerDim:
    """Measures how many bits the model needs to write down an image, for each of its numbers.

    The images are dequantised once, at the true number of levels: with 256 assumed, the digits (17 levels) would look
    four bits better than they are. With ``x = (u - mean_c) / std_c`` of the dequantised ``u``,

        bits/dim = -log p(x) / (D ln 2) + mean_c log2((G - 1) std_c),

    a bound from above on the bits of a lossless code. Where the path starts at ``tau_min > 0``, it is that of the model
    that stops decoding there (see `log_likelihood`).

    Networks here are trained on the levels themselves, not on dequantised images: the better one has learnt that
    pixels take few values, such as a black background, the narrower its density around them, and what the
    cells spread beyond it costs many bits. So compare models that were trained alike.

    Args:
        encoder: Its network, path and normalisation are used, not its feature.
        images: ``(N, C, H, W)`` uint8.
        grey_levels: How many values a pixel can take.
        steps: Steps of the solve, which are short near the image.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        divergence: ``hutchinson`` or ``exact``.
        probes: Probes for each image.
        batch_size: Images at once.
        generator: Of the dequantisation, then of the probes; both on the CPU.

    Raises:
        ValueError: As `dequantise` and `log_likelihood` do.
        UserError: If the images hold values between the levels.
    """
    x = encoder.normalize(dequantise(images, grey_levels=grey_levels, generator=generator).to(encoder.mean.device))
    likelihood = log_likelihood(
        encoder.velocity,
        x,
        tau_start=encoder.path.tau_min,
        tau_end=encoder.path.tau_max,
        noise_std=encoder.path.noise_std,
        steps=steps,
        solver=solver,
        divergence=divergence,
        probes=probes,
        batch_size=batch_size,
        generator=generator,
    )
    offset = float(((grey_levels - 1) * encoder.std.cpu().double()).log2().mean())
    return BitsPerDim(likelihood, offset, math.log2(grey_levels))
