"""What a recipe will cost, told before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightly_prg.data import DataInfo
from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.flow import LinearPath, Path, path_from_name
from lightly_prg.flow.paths import path_of
from lightly_prg.methods import build_method, build_network
from lightly_prg.methods.auxiliary import Auxiliary
from lightly_prg.methods.block_reading import ReadVelocity
from lightly_prg.recipe import (
    AuxiliaryRecipe,
    FeatureSpec,
    GeneratorRecipe,
    MAERecipe,
    MethodRecipe,
    PretrainedRecipe,
    PRGRecipe,
    Recipe,
    SimCLRRecipe,
    TrainRecipe,
)
from lightly_prg.training.batches import count_steps


@dataclass(frozen=True)
class Estimate:
    """Sizes and costs of a training run.

    Attributes:
        parameters: Of the encoder's network.
        forward_macs: Multiply-adds of one forward for one image.
        steps: Optimiser steps and gradient-accumulation steps together; None where the number of images is unknown.
        training_macs: Multiply-adds of the whole training: the forward of its loss, heads included, and twice that for
            the gradient; networks that only teach run forward alone.
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
    """Counts on the meta device: nothing is computed and no memory is taken.

    Args:
        recipe: What is trained.
        info: Of its images; none to train on stands for a number that is not known.
        trust: Whether the recipe's code may run.
    """
    shape = (info.channels, info.image_size, info.image_size)
    settings = recipe.train
    with torch.device("meta"):
        try:
            network, passes, trained = _training_forward(recipe.method, shape, trust=trust)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"method: {error}") from None
        network.eval()  # batch normalisation refuses a single image in training
        forward = multiply_adds(lambda: _run_once(recipe.method, network, torch.zeros(1, *shape)))
        network.train(isinstance(recipe.method, SimCLRRecipe | MAERecipe))
        measured = [(one, *_count_and_weigh(one.work, trained)) for one in passes]
    learning = sum(one.runs * one.share * macs for one, macs, _ in measured)
    activations = sum(one.share * size for one, _, size in measured)
    steps: int | None = 0
    if recipe.is_trained_here and info.num_train == 0:
        steps = None
    elif recipe.is_trained_here:
        steps = count_steps(
            info.num_train,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            max_steps=settings.max_steps,
        )
    nfe = _count_evaluations(recipe.method)
    return Estimate(
        parameters=sum(p.numel() for p in network.parameters()),
        forward_macs=forward,
        steps=steps,
        training_macs=None if steps is None else round(learning * steps * settings.batch_size),
        nfe=nfe,
        embedding_macs=round(forward * nfe),
        memory_bytes=20 * sum(p.numel() for p in trained) + round(activations * settings.batch_size),
    )


def _count_and_weigh(work: Callable[[], object], trained: list[nn.Parameter]) -> tuple[int, int]:
    """Multiply-adds of a forward, and the bytes that its backward needs beside the weights."""
    saved: dict[int, int] = {}
    keep: list[torch.Tensor] = []

    def weigh(tensor: torch.Tensor) -> torch.Tensor:
        saved[id(tensor.untyped_storage())] = tensor.numel() * tensor.element_size()
        keep.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        macs = multiply_adds(work)
    weights = {id(p.untyped_storage()) for p in trained}
    return macs, sum(size for storage, size in saved.items() if storage not in weights)


@dataclass(frozen=True)
class _Pass:
    """A part of what a training step does for one image.

    Attributes:
        work: Runs it forward.
        share: Of the images for which it is done.
        runs: What it costs in forwards: 3 with its gradient, 1 of a teacher.
    """

    work: Callable[[], object]
    share: float = 1.0
    runs: int = 3


def _training_forward(
    method: MethodRecipe, shape: tuple[int, int, int], *, trust: bool
) -> tuple[nn.Module, list[_Pass], list[nn.Parameter]]:
    """The encoder's network; what a training step does for one image; what is trained."""
    if isinstance(method, PRGRecipe) and method.auxiliary is not None and method.auxiliary.is_active:
        return _joint_forward(method, method.auxiliary, shape, trust=trust)
    if isinstance(method, PRGRecipe | PretrainedRecipe | GeneratorRecipe):
        network = build_network(method, shape, trust=trust)
        return network, [_Pass(lambda: _run_once(method, network, torch.zeros(1, *shape)))], list(network.parameters())
    module: Any = build_method(
        method, input_shape=shape, num_classes=2, optimization=TrainRecipe(ema_decay=0.0), seed=0, trust=trust
    )
    trained = [p for part in module.trained_modules() for p in part.parameters()]
    if isinstance(method, SimCLRRecipe):  # two views of the image
        return module.network, [_Pass(lambda: module.projection_head(module.backbone(torch.zeros(2, *shape))))], trained
    return module.network, [_Pass(lambda: module.predict(torch.zeros(1, *shape), *_first_tokens(module)))], trained


def _joint_forward(
    method: PRGRecipe, settings: AuxiliaryRecipe, shape: tuple[int, int, int], *, trust: bool
) -> tuple[nn.Module, list[_Pass], list[nn.Parameter]]:
    """The flow on a part of the images; two views as far as the block, or the teacher's run; and the head."""
    network = build_network(method, shape, trust=trust)
    auxiliary = Auxiliary(settings, network, _path_of(method, network), shape, seed=0, teacher_weights=False)
    teacher, share = auxiliary.teacher, 1 / settings.flow_every
    passes: list[_Pass] = []
    if teacher is not None:
        passes.append(_Pass(lambda: _align_once(network, auxiliary, torch.zeros(1, *shape)), share))
        passes.append(_Pass(lambda: teacher(torch.zeros(1, *shape)), share, runs=1))
    elif settings.flow_weight > 0.0:
        passes.append(_Pass(lambda: _run_once(method, network, torch.zeros(1, *shape)), share))
    if auxiliary.reads_views:
        tau, views = torch.zeros(2), torch.zeros(2, *shape)
        passes.append(_Pass(lambda: auxiliary.project(network, tau, views)))
        passes.append(_Pass(lambda: auxiliary.project_averaged(network, tau, views), runs=1))
    return network, passes, [*network.parameters(), *auxiliary.head.parameters()]


def _align_once(network: nn.Module, auxiliary: Auxiliary, x: torch.Tensor) -> object:
    read = ReadVelocity(network, auxiliary.settings.block)
    read(torch.zeros(1), x)
    assert read.activation is not None
    assert auxiliary.teacher is not None
    target = torch.zeros(1, auxiliary.teacher.dimension, *read.activation.shape[2:])
    return auxiliary.head(read.activation, target)


def _first_tokens(mae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(1, mae.backbone.num_patches + 1, dtype=torch.int64)
    return tokens[:, : mae.kept + 1], tokens[:, mae.kept + 1 :]


def _run_once(method: MethodRecipe, network: nn.Module, x: torch.Tensor) -> object:
    if isinstance(method, PRGRecipe):
        return network(torch.zeros(1), x)
    if isinstance(method, GeneratorRecipe):
        generator: Any = network
        return generator.predict(torch.zeros(1), x)
    if isinstance(method, PretrainedRecipe):
        side = method.resize if method.resize is not None else x.shape[-1]
        x = x.new_zeros(len(x), 3, side, side)
    return network(x)


def multiply_adds(work: Callable[[], object]) -> int:
    """Of whatever networks the work runs."""
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops() // 2


def _path_of(method: PRGRecipe, network: nn.Module | None) -> Path:
    """That of the recipe; where it is the network's own and there is no network, another counts the same."""
    if method.path != "own":
        return path_from_name(method.path)
    declared = path_of(network) if network is not None else None
    return declared if declared is not None else LinearPath()


def _count_evaluations(method: MethodRecipe) -> float:
    """NFE, by running the encoder on a network that does nothing."""
    if not isinstance(method, PRGRecipe | GeneratorRecipe):
        return 1
    # A block takes one evaluation, as the velocity does; how it is pooled takes none.
    source = "velocity" if method.feature.source == "block" else method.feature.source
    feature = FeatureSpec(source=source, tau=method.feature.tau)

    def nothing(tau: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    path = _path_of(method, None) if isinstance(method, PRGRecipe) else LinearPath()
    ode = method.ode.model_copy(update={"gradient": "full"})  # counts the same, and asks for no module
    try:
        return PRGEncoder(nothing, path, ode, feature, input_shape=(1, 2, 2)).nfe
    except UserError:
        raise
    except ValueError as error:  # a solver or a position that does not exist
        raise UserError(f"method: {error}") from None
