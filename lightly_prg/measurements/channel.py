"""How much of an image survives noise on its code: a bound on the information of a code of finite precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightly_prg.features import PRGEncoder
from lightly_prg.flow import CountedVelocity, decode, encode
from lightly_prg.module_state import in_evaluation_mode

SIGMAS = (0.0, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class ChannelCurve:
    """What decoding recovers from ``z + sigma eps``.

    Attributes:
        sigma: Standard deviations of the noise that was added to the code.
        mse: Mean squared error of the decoded image, in units of the [0, 1] range squared.
        standard_error: Of ``mse``, over the images; None for a single one.
        missing_bits: Bits per dimension that the code leaves open, at most (see `channel_curve`).
        pixels_mse: ``mse`` where the code is the image itself, scaled to variance 1, and the decoder the best linear
            one; None where no spectrum was given.
        pixels_missing_bits: ``missing_bits`` likewise.
        num_images: Images.
        nfe: Network evaluations of one way.
    """

    sigma: tuple[float, ...]
    mse: tuple[float, ...]
    standard_error: tuple[float, ...] | None
    missing_bits: tuple[float, ...]
    pixels_mse: tuple[float, ...] | None
    pixels_missing_bits: tuple[float, ...] | None
    num_images: int
    nfe: float


@in_evaluation_mode
@torch.no_grad()
def channel_curve(
    encoder: PRGEncoder,
    images: Tensor,
    *,
    sigmas: Sequence[float] = SIGMAS,
    grey_levels: int = 256,
    steps: int = 16,
    solver: str = "heun2",
    batch_size: int = 64,
    spectrum: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ChannelCurve:
    """Adds noise to the codes of images, decodes, and bounds the information that is left.

    An exact flow is a bijection: noiseless, its code holds all of an image, ``I(X; Z) = H(X)``, trained or not. Only
    at finite precision is there something to compare (Barber and Agakov's bound, with the decoded image as the mean of
    a Gaussian ``q``):

        I(X; Z + sigma eps) >= H(X) + E[log q(X | Z + sigma eps)] = H(X) - D missing_bits,
        missing_bits = 1/2 log2(2 pi e (mse (G - 1)^2 + 1/12)).

    ``H(X)`` is the same for every encoder and left out. One twelfth is the variance of the uniform noise that turns
    the density of ``q`` into a bound on G grey levels; so even a perfect decoder leaves 0.25 bits.

    The reference adds the same noise to the pixels themselves, less the mean image and scaled as a whole to a mean
    variance of 1, and decodes by the linear map that is best for their covariance: ``lambda sigma^2 / (lambda +
    sigma^2)`` in each direction.

    Args:
        encoder: Its network and path are used, not its feature.
        images: ``(N, C, H, W)`` floats in [0, 1].
        sigmas: Noise levels.
        grey_levels: G.
        steps: Steps each way.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        batch_size: Images at once.
        spectrum: Eigenvalues of the covariance of images of the set in [0, 1], ``(D,)``, for the reference.
        generator: Where the noise is drawn from, on the CPU; the same noise for every sigma.

    Raises:
        ValueError: If there is no image, they are not floats, or a sigma is negative.
    """
    if len(images) == 0 or not all(0 <= sigma < math.inf for sigma in sigmas) or batch_size < 1:
        raise ValueError(f"Images, a batch size and sigmas of at least 0 are needed, got {len(images)} and {sigmas}.")
    noise = torch.randn(images.shape, generator=generator)
    path, counted = encoder.path, CountedVelocity(encoder.velocity, encoder.path)
    errors, evaluations = [], 0.0
    for part, eps in zip(torch.split(images, batch_size), torch.split(noise, batch_size), strict=True):
        x = encoder.normalize(part.to(encoder.mean.device))
        counted.evaluations = 0
        z = encode(counted, x, tau_start=path.tau_min, tau_end=path.tau_max, steps=steps, solver=solver)
        evaluations += counted.evaluations * len(part)
        columns = []
        for sigma in sigmas:
            noisy = z + sigma * eps.to(z)
            back = decode(counted, noisy, tau_start=path.tau_max, tau_end=path.tau_min, steps=steps, solver=solver)
            columns.append(((back - x) * encoder.std).square().flatten(1).mean(1).cpu().double())
        errors.append(torch.stack(columns, dim=1))
    table = torch.cat(errors)
    mse = table.mean(0).tolist()
    pixels = None if spectrum is None else _linear(spectrum.double(), sigmas)
    return ChannelCurve(
        sigma=tuple(float(sigma) for sigma in sigmas),
        mse=tuple(mse),
        standard_error=tuple((table.std(0) / math.sqrt(len(table))).tolist()) if len(table) > 1 else None,
        missing_bits=tuple(missing_bits(error, grey_levels) for error in mse),
        pixels_mse=pixels,
        pixels_missing_bits=None if pixels is None else tuple(missing_bits(error, grey_levels) for error in pixels),
        num_images=len(table),
        nfe=evaluations / len(table),
    )


def missing_bits(mse: float, grey_levels: int) -> float:
    """``1/2 log2(2 pi e (mse (G - 1)^2 + 1/12))``, with ``mse`` for images in [0, 1]."""
    return 0.5 * math.log2(2 * math.pi * math.e * (mse * (grey_levels - 1) ** 2 + 1 / 12))


def _linear(spectrum: Tensor, sigmas: Sequence[float]) -> tuple[float, ...]:
    scale = float(spectrum.mean())
    standard = spectrum / max(scale, 1e-300)
    return tuple(
        scale * float((standard * sigma**2 / (standard + sigma**2)).nan_to_num(0.0).mean()) for sigma in sigmas
    )
