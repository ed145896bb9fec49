"""The images that a measurement looks at, and their states along the path."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightly_prg.data import ImageSet
from lightly_prg.eval import Embeddings
from lightly_prg.evaluation import Evaluation
from lightly_prg.flow import CountedVelocity, Velocity, encode


def in_network_range(evaluation: Evaluation, images: ImageSet) -> Tensor:
    """All images of a set as the network sees them, ``(N, C, H, W)``, on the device."""
    encoder = evaluation.prg
    return encoder.normalize(images.pixels().to(encoder.mean.device).float() / 255)


@torch.no_grad()
def encoded(evaluation: Evaluation, images: ImageSet, *, steps: int, solver: str) -> Tensor:
    """The states of a set at the noise end, ``(N, C, H, W)`` on the CPU."""
    encoder = evaluation.prg
    states = _solved(encoder.velocity, evaluation, images, [encoder.path.tau_max], steps, solver)
    return states[0]


@torch.no_grad()
def states_at(
    evaluation: Evaluation, images: ImageSet, taus: Sequence[float], *, steps: int = 8, solver: str = "heun2"
) -> list[Embeddings]:
    """The flattened states of a set at several positions, from one solve."""
    start, counted = time.perf_counter(), CountedVelocity(evaluation.prg.velocity)
    states = _solved(counted, evaluation, images, taus, steps, solver)
    batches = -(-len(images) // evaluation.run.recipe.eval.batch_size)
    seconds = time.perf_counter() - start
    return [_embeddings(state.flatten(1), images, counted.evaluations / batches, seconds) for state in states]


@torch.no_grad()
def embedded(evaluation: Evaluation, images: ImageSet) -> Embeddings:
    """The run's own embeddings of a set."""
    encoder, start = evaluation.prg, time.perf_counter()
    parts = torch.split(images.pixels(), evaluation.run.recipe.eval.batch_size)
    features = torch.cat([encoder(part.to(encoder.mean.device).float() / 255).cpu() for part in parts])
    return _embeddings(features, images, encoder.nfe, time.perf_counter() - start)


def _solved(
    velocity: Velocity, evaluation: Evaluation, images: ImageSet, taus: Sequence[float], steps: int, solver: str
) -> Tensor:
    """The states at ``taus``, ``(len(taus), N, C, H, W)`` on the CPU."""
    start = evaluation.prg.path.tau_min
    parts = torch.split(in_network_range(evaluation, images), evaluation.run.recipe.eval.batch_size)
    states = [encode(velocity, x, tau_start=start, tau_end=list(taus), steps=steps, solver=solver).cpu() for x in parts]
    return torch.cat(states, dim=1)


def _embeddings(features: Tensor, images: ImageSet, nfe: float, seconds: float) -> Embeddings:
    return Embeddings(
        features=features.float().contiguous().numpy().astype(np.float32),
        labels=images.labels.numpy(),
        names=tuple(images.names),
        nfe=nfe,
        seconds=seconds,
    )
