"""A generator that was trained elsewhere as an encoder: its velocity, its path, a feature on the way to noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightly_prg.diffusers_folder import image_shape, open_diffusers_folder
from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.models.diffusers_unet import DiffusersVelocity, build_diffusers, load_diffusers
from lightly_prg.recipe import FeatureSpec, GeneratorRecipe, OdeSpec


def generator_encoder(method: GeneratorRecipe, input_shape: Sequence[int]) -> PRGEncoder:
    """The encoder that a recipe takes from a library, with its weights.

    Args:
        method: Names the generator and the feature.
        input_shape: ``(C, H, W)`` of the images, which has to be the generator's own.

    Raises:
        UserError: If it cannot be had, does not take such images, or has no such block.
    """
    velocity = load_diffusers(_location(method), label=method.label)
    _check_shape(method.source, velocity.origin["unet"], input_shape)
    encoder = PRGEncoder(velocity, velocity.path, method.ode, method.feature, input_shape=input_shape).eval()
    try:
        _ = encoder.embedding_dim
    except (ValueError, RuntimeError, FloatingPointError) as error:
        raise UserError(f"{method.source}: {str(error).splitlines()[0]}") from None
    return encoder


def build_generator(method: GeneratorRecipe) -> DiffusersVelocity:
    """The network that a recipe names, with fresh weights; its folder has to be there.

    Raises:
        UserError: If it is not, or diffusers is not installed.
    """
    folder = open_diffusers_folder(_location(method))
    return build_diffusers(
        {"unet": folder.unet_config, "scheduler": folder.scheduler_config, "label": method.label},
    )


def saved_generator_encoder(description: Mapping[str, Any]) -> PRGEncoder:
    """The encoder of encoder.json with fresh weights; the generator's own folder is not needed any more."""
    velocity = build_diffusers(description["generator"])
    return PRGEncoder(
        velocity,
        velocity.path,
        OdeSpec(**description["ode"]),
        FeatureSpec(**description["feature"]),
        input_shape=description["input_shape"],
        **description["normalize"],
    )


def _location(method: GeneratorRecipe) -> str:
    return method.source.removeprefix("diffusers:")


def _check_shape(source: str, unet_config: Mapping[str, Any], given: Sequence[int]) -> None:
    channels, side = image_shape(unet_config)
    wanted = (channels, side if side is not None else given[1], side if side is not None else given[2])
    if wanted != tuple(given):
        changes = [f"data.channels={channels}"] if channels != given[0] and channels in (1, 3) else []
        changes += [f"data.image_size={side} (or --resize {side})"] if wanted[1:] != tuple(given[1:]) else []
        hint = f": {' '.join(changes)} makes them so." if changes else "."
        raise UserError(
            f"{source} takes images of {' x '.join(map(str, wanted))}; these have {' x '.join(map(str, given))}{hint}"
        )
