"""The dispersive loss: representations of a batch are spread, without a second view (arXiv 2506.09027)."""

from __future__ import annotations

import math

import torch
from lightly.utils import dist
from torch import Tensor


def dispersive_loss(activations: Tensor, *, temperature: float = 0.5, gather_distributed: bool = False) -> Tensor:
    """The InfoNCE variant with squared distances, ``log mean_{i < j} exp(-||z_i - z_j||^2 / temperature)``.

    The distance is divided by the dimension, so that one temperature serves activations of every size. Contrastive
    learning without positives: the flow-matching loss takes their place (Wang and He, Diffuse and Disperse, 2025,
    https://arxiv.org/abs/2506.09027, equation 6 and algorithm 1).

    Args:
        activations: ``(B, ...)``, one for each image, B at least 2.
        temperature: Smaller values look at near neighbours alone.
        gather_distributed: Whether the images of all processes are spread together, as in Lightly's losses.

    Returns:
        A scalar, at most 0; it falls as the batch spreads.

    Raises:
        ValueError: If there are fewer than two images.
    """
    z = activations.flatten(1).float()
    if gather_distributed and dist.world_size() > 1:
        z = torch.cat(dist.gather(z.contiguous()))
    count = len(z)
    if count < 2:
        raise ValueError("The dispersive loss compares the images of a batch; it needs two.")
    # Differences of large numbers lose the small distances; a common shift changes none of them.
    z = z - z.detach().mean(dim=0)
    # By products, of which there are B^2 numbers: the gradient of torch.pdist takes B^2 D on a GPU. Mixed precision
    # would round them.
    with torch.autocast(z.device.type, enabled=False):
        products = z @ z.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0) / z.shape[1]
    # Each pair stands there twice, which the mean does not notice.
    logits = (-distances / temperature).masked_fill(torch.eye(count, dtype=torch.bool, device=z.device), -math.inf)
    # logsumexp: the exponentials of a well-spread batch underflow.
    return torch.logsumexp(logits, dim=(0, 1)) - math.log(count * (count - 1))
