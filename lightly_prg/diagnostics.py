"""PRG's own measurements on a trained network: samples, the path of one image and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightly_prg.features import PRGEncoder
from lightly_prg.flow import CountedVelocity, Trajectory, decode, encode
from lightly_prg.module_state import in_evaluation_mode


@dataclass(frozen=True)
class RoundTrip:
    """An image carried to noise and back.

    Attributes:
        forward: States from data to noise, ``(K + 1, B, C, H, W)``, with their tau.
        backward: States from that noise back to the data.
        rmse: Root mean square difference between start and end, in units of the [0, 1] image range.
    """

    forward: Trajectory
    backward: Trajectory
    rmse: float


@in_evaluation_mode
@torch.no_grad()
def sample(
    encoder: PRGEncoder,
    count: int,
    *,
    steps: int = 50,
    solver: str = "heun2",
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    clip: bool = True,
) -> Tensor:
    """Generates images by integrating from noise to data.

    Args:
        encoder: Its network and path are used, not its feature.
        count: How many.
        steps: Of the solver.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        generator: Where the noise is drawn from, on the CPU.
        batch_size: Images at once.
        clip: To [0, 1]; False for what is no image, such as the latents of an autoencoder.

    Returns:
        ``(count, C, H, W)``, on the CPU.
    """
    assert encoder.input_shape is not None
    # Drawn on the CPU whatever the device, so that a seed means the same pictures everywhere.
    noise = encoder.path.noise_std * torch.randn(count, *encoder.input_shape, generator=generator)
    images = []
    velocity = CountedVelocity(encoder.velocity, encoder.path)
    for part in torch.split(noise, batch_size):
        x = decode(
            velocity,
            part.to(encoder.mean.device),
            tau_start=encoder.path.tau_max,
            tau_end=encoder.path.tau_min,
            steps=steps,
            solver=solver,
        )
        images.append(encoder.denormalize(x, clip=clip).cpu())
    return torch.cat(images)


@in_evaluation_mode
@torch.no_grad()
def round_trip(encoder: PRGEncoder, images: Tensor, *, steps: int = 50, solver: str = "heun2") -> RoundTrip:
    """Carries images to the noise end of the path and back.

    Args:
        encoder: Its network and path are used, not its feature.
        images: ``(B, C, H, W)`` in [0, 1].
        steps: Steps each way.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
    """
    path = encoder.path
    velocity = CountedVelocity(encoder.velocity, path)
    x = encoder.normalize(images.to(encoder.mean.device))
    forward = encode(
        velocity,
        x,
        tau_start=path.tau_min,
        tau_end=path.tau_max,
        steps=steps,
        solver=solver,
        return_trajectory=True,
    )
    backward = decode(
        velocity,
        forward.states[-1],
        tau_start=path.tau_max,
        tau_end=path.tau_min,
        steps=steps,
        solver=solver,
        return_trajectory=True,
    )
    difference = (backward.states[-1] - x) * encoder.std
    return RoundTrip(forward, backward, float(difference.square().mean().sqrt()))
