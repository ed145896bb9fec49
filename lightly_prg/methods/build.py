"""From the ``method`` section of a recipe, or from encoder.json, to modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.flow import path_from_name
from lightly_prg.methods.generator import build_generator, generator_encoder, saved_generator_encoder
from lightly_prg.methods.mae import MAE, build_vit
from lightly_prg.methods.method import Method
from lightly_prg.methods.prg import PRG, build_velocity
from lightly_prg.methods.simclr import SimCLR, build_resnet
from lightly_prg.models import redraw_fixed_weights, redraw_zero_weights
from lightly_prg.models.pretrained_network import build_pretrained
from lightly_prg.randomness import generator_for, global_draws
from lightly_prg.recipe import (
    FeatureSpec,
    GeneratorRecipe,
    MAERecipe,
    MethodRecipe,
    NetworkFeature,
    OdeSpec,
    PretrainedRecipe,
    PRGRecipe,
    SimCLRRecipe,
    TrainRecipe,
)

Encoder = PRGEncoder | NetworkEncoder


def build_method(
    method: MethodRecipe,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    optimization: TrainRecipe,
    seed: int,
    trust: bool = False,
) -> Method:
    """Builds the module that a recipe describes, with weights from torch's global random state.

    Raises:
        UserError: If its settings do not fit the images, or it names foreign code that is not trusted.
        ValueError: If a block or pooling does not exist.
    """
    common: dict[str, Any] = {
        "batch_size_per_device": optimization.batch_size,
        "num_classes": max(2, num_classes),
        "input_shape": input_shape,
        "optimization": optimization,
        "seed": seed,
    }
    if isinstance(method, PRGRecipe):
        return PRG(
            backbone=build_velocity(method.backbone, input_shape, trust=trust),
            path=method.path,
            coupling=method.coupling,
            tau_sampling=method.tau_sampling,
            ode=method.ode,
            feature=method.feature,
            augment=method.augment,
            auxiliary=method.auxiliary,
            **common,
        )
    if isinstance(method, SimCLRRecipe):
        return SimCLR(backbone=build_resnet(method, input_shape), settings=method, **common)
    if isinstance(method, MAERecipe):
        return MAE(backbone=build_vit(method, input_shape), settings=method, **common)
    raise UserError(f"A method of the kind {method.name!r} has nothing to train.")


def build_network(method: MethodRecipe, input_shape: Sequence[int], *, trust: bool = False) -> nn.Module:
    """The network that a method's encoder keeps, with fresh weights."""
    if isinstance(method, PRGRecipe):
        return build_velocity(method.backbone, input_shape, trust=trust)
    if isinstance(method, SimCLRRecipe):
        return build_resnet(method, input_shape)
    if isinstance(method, MAERecipe):
        return build_vit(method, input_shape)
    if isinstance(method, GeneratorRecipe):
        return build_generator(method)
    size = method.resize if method.resize is not None else input_shape[-1]
    return build_pretrained(method.source, weights="none", image_size=size).network


def adopted_encoder(method: PretrainedRecipe | GeneratorRecipe, input_shape: Sequence[int]) -> Encoder:
    """The encoder of what was trained elsewhere; see ``pretrained_encoder`` and ``generator_encoder``."""
    if isinstance(method, GeneratorRecipe):
        return generator_encoder(method, input_shape)
    return pretrained_encoder(method, input_shape)


def pretrained_encoder(method: PretrainedRecipe, input_shape: Sequence[int]) -> NetworkEncoder:
    """The encoder that a recipe takes from a library, with its weights.

    Raises:
        UserError: If it cannot be had, or does not take such images.
    """
    if input_shape[0] not in (1, 3):
        raise UserError(f"{method.source} takes images of 1 or 3 channels; these have {input_shape[0]}.")
    size = method.resize if method.resize is not None else input_shape[-1]
    found = build_pretrained(method.source, weights=method.weights, image_size=size)
    encoder = NetworkEncoder(
        found.network, method.feature, input_shape=input_shape, mean=found.mean, std=found.std, resize=method.resize
    ).eval()
    try:
        _ = encoder.embedding_dim
    except Exception as error:  # other people's networks refuse in many ways, by assertions too
        reason = str(error).splitlines()[0].rstrip(".!")
        raise UserError(
            f"{method.source} does not take images of {' x '.join(map(str, input_shape))}: {reason}. "
            "method.resize enlarges them first."
        ) from None
    return encoder


def untrained_encoder(description: Mapping[str, Any], *, seed: int, trust: bool = False) -> Encoder:
    """An encoder of the kind in encoder.json that nothing was learned by, as a control.

    The code of a network of your own may load a checkpoint: such weights are drawn anew. What starts at zero would make
    the flow the identity, and is drawn as well.
    """
    with global_draws(seed, "random network"):
        encoder = build_encoder(description, trust=trust)
        if description["architecture"].get("backbone", {}).get("name") == "import":
            with global_draws(seed, "another random network"):
                twin = build_encoder(description, trust=trust).network
            redraw_fixed_weights(encoder.network, twin)
    redraw_zero_weights(encoder.network, generator_for(seed, "random network, zero weights"))
    return encoder.eval()


def build_encoder(description: Mapping[str, Any], *, trust: bool = False) -> Encoder:
    """An encoder of the kind in encoder.json with fresh weights."""
    method: Any = TypeAdapter(MethodRecipe).validate_python(description["architecture"])
    input_shape = description["input_shape"]
    if isinstance(method, GeneratorRecipe):
        return saved_generator_encoder(description)
    network = build_network(method, input_shape, trust=trust)
    if isinstance(method, PRGRecipe):
        return PRGEncoder(
            network,
            None if description["path"] == "own" else path_from_name(description["path"]),
            OdeSpec(**description["ode"]),
            FeatureSpec(**description["feature"]),
            input_shape=input_shape,
            **description["normalize"],
        )
    return NetworkEncoder(
        network,
        NetworkFeature(**description["feature"]),
        input_shape=input_shape,
        resize=description["resize"],
        **description["normalize"],
    )
