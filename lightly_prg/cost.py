"""What a recipe will cost, told before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightly_prg.data import DataInfo
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import path_from_name
from lightly_prg.methods import build_velocity
from lightly_prg.recipe import FeatureSpec, Recipe


@dataclass(frozen=True)
class Estimate:
    """Sizes and costs of a training run.

    Attributes:
        parameters: Of the velocity network.
        forward_macs: Multiply-adds of one forward for one image.
        steps: Optimiser steps and gradient-accumulation steps together; None where the number of images is unknown.
        training_macs: Multiply-adds of the whole training: a forward, and twice that for the gradient.
        nfe: Network evaluations for one embedding.
        embedding_macs: Multiply-adds of one embedding, at most: a block feature stops early.
        memory_bytes: Weights, gradients, Adam's moments, averaged weights and one batch of activations.
    """

    parameters: int
    forward_macs: int
    steps: int | None
    training_macs: int | None
    nfe: float
    embedding_macs: int
    memory_bytes: int


def estimate(recipe: Recipe, info: DataInfo, *, trust: bool = False) -> Estimate:
    """Counts on the meta device: nothing is computed and no memory is taken."""
    shape = (info.channels, info.image_size, info.image_size)
    with torch.device("meta"):
        network = build_velocity(recipe.method.backbone, shape, trust=trust)
        x = torch.zeros(1, *shape)
        tau = torch.zeros(1)
    saved: dict[int, int] = {}

    def weigh(tensor: torch.Tensor) -> torch.Tensor:
        saved[id(tensor.untyped_storage())] = tensor.numel() * tensor.element_size()
        keep.append(tensor)
        return tensor

    keep: list[torch.Tensor] = []
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        network(tau, x)
    parameters = sum(p.numel() for p in network.parameters())
    weights = {id(p.untyped_storage()) for p in network.parameters()}
    activations = sum(size for storage, size in saved.items() if storage not in weights)
    macs = counter.get_total_flops() // 2
    settings = recipe.train
    nfe = _count_evaluations(recipe)
    steps = None if info.num_train is None else info.num_train // settings.batch_size * settings.epochs
    return Estimate(
        parameters=parameters,
        forward_macs=macs,
        steps=steps,
        training_macs=None if steps is None else 3 * macs * steps * settings.batch_size,
        nfe=nfe,
        embedding_macs=round(macs * nfe),
        memory_bytes=20 * parameters + activations * settings.batch_size,
    )


def _count_evaluations(recipe: Recipe) -> float:
    """NFE, by running the encoder on a network that does nothing."""
    method = recipe.method
    feature = method.feature
    if feature.source == "block":
        feature = FeatureSpec(source="velocity", tau=feature.tau)  # one evaluation as well

    def nothing(tau: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    return PRGEncoder(nothing, path_from_name(method.path), method.ode, feature, input_shape=(1, 2, 2)).nfe
