"""The dispersive loss: representations of a batch are spread, without a second view (arXiv 2506.09027)."""

from __future__ import annotations

import torch
from torch import Tensor


def dispersive_loss(activations: Tensor, *, temperature: float = 0.5) -> Tensor:
    """The InfoNCE variant with squared distances, ``log mean_{i < j} exp(-||z_i - z_j||^2 / temperature)``.

    The distance is divided by the dimension, so that one temperature serves activations of every size. Contrastive
    learning without positives: the flow-matching loss takes their place (Wang and He, Diffuse and Disperse, 2025,
    https://arxiv.org/abs/2506.09027, equation 6 and algorithm 1).

    Args:
        activations: ``(B, ...)``, one for each image, B at least 2.
        temperature: Smaller values look at near neighbours alone.

    Returns:
        A scalar, at most 0; it falls as the batch spreads.

    Raises:
        ValueError: If there are fewer than two images.
    """
    if len(activations) < 2:
        raise ValueError("The dispersive loss compares the images of a batch; it needs two.")
    z = activations.flatten(1).float()
    distances = torch.pdist(z).square() / z.shape[1]
    # logsumexp: the exponentials of a well-spread batch underflow.
    return torch.logsumexp(-distances / temperature, dim=0) - torch.log(torch.tensor(float(len(distances))))
