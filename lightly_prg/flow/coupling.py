"""How a batch of noise is paired with a batch of images."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

COUPLINGS = ("independent", "optimal_transport")


def couple(
    x: Tensor,
    noise: Tensor | None,
    kind: str = "independent",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the noise in the order in which it belongs to the images.

    ``independent`` leaves the pairing as it is. ``optimal_transport`` finds the permutation of the
    noise with the least total squared distance to the images: exact inside the batch, and inside
    the batch of one device alone. Images keep their order, so labels stay right, and every
    noise sample is used exactly once.

    References:
        - Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
          Transport, 2023, https://arxiv.org/abs/2302.00482

    Args:
        x: Images, (B, ...).
        noise: Gaussian noise shaped as ``x``, or None to draw it here.
        kind: One of `COUPLINGS`.
        generator: Where the noise is drawn from if ``noise`` is None; torch's own if this is None
            too. It may live on another device than ``x``.

    Returns:
        Noise shaped as ``x``; element i belongs to ``x[i]``.

    Raises:
        ValueError: If ``kind`` is unknown, the shapes differ, or what optimal transport pairs is not finite.
    """
    if kind not in COUPLINGS:
        raise ValueError(f"Unknown coupling {kind!r}: use one of {', '.join(COUPLINGS)}.")
    if noise is None:
        # On the generator's device, so that a CPU generator gives the same noise everywhere.
        device = x.device if generator is None else generator.device
        noise = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype)
        noise = noise.to(x.device)
    if noise.shape != x.shape:
        raise ValueError(f"noise must have the shape of the images {tuple(x.shape)}, got {tuple(noise.shape)}.")
    if kind == "independent" or x.shape[0] < 2:
        return noise
    return noise[_assignment(x, noise)]


@torch.no_grad()
def _assignment(x: Tensor, noise: Tensor) -> Tensor:
    """The permutation (B,) that minimises sum_i ||x[i] - noise[permutation[i]]||^2."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    # Mixed precision would round the costs that the assignment compares.
    with torch.autocast(x.device.type, enabled=False):
        # ||x||^2 and ||noise||^2 are left out: whoever is paired with whom, each norm enters the
        # total once, so only -2 <x, noise> tells one permutation from another.
        cost = -(x.flatten(1).to(dtype) @ noise.flatten(1).to(dtype).T)
    if not bool(cost.isfinite().all()):
        raise ValueError("The images or the noise hold NaN or infinity, which cannot be paired.")
    _, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(columns, device=noise.device)
