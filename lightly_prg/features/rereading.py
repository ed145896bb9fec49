"""The same trained network, its embedding read elsewhere or its ODE solved otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.recipe import FeatureSpec, NetworkFeature, OdeSpec
from lightly_prg.recipe.reading import checked
from lightly_prg.recipe.yaml_text import read_yaml

SpecT = TypeVar("SpecT", FeatureSpec, NetworkFeature, OdeSpec)


def reread(
    encoder: PRGEncoder | NetworkEncoder,
    *,
    feature: Mapping[str, Any] | None = None,
    ode: Mapping[str, Any] | None = None,
) -> PRGEncoder | NetworkEncoder:
    """An encoder with the same network, which is shared, and another feature or solver.

    Args:
        encoder: A trained encoder; it stays as it is.
        feature: Keys of its ``FeatureSpec`` or ``NetworkFeature`` that change. With another ``source`` the ``pool`` is
            ``mean`` for a block and ``flatten`` otherwise, where it is not given: the mean of a state is but a colour.
        ode: Keys of its ``OdeSpec`` that change.

    Returns:
        ``encoder`` itself where nothing is asked for.

    Raises:
        UserError: If a key or value is not allowed, the network has no such block, or there is no ODE.

    Example:
        >>> encoder = PRGEncoder(lambda tau, x: -x, input_shape=(1, 4, 4))
        >>> reread(encoder, feature={"tau": [0.5, 1.0]}, ode={"steps": 4}).nfe
        4
    """
    if not feature and not ode:
        return encoder
    normalisation = {"mean": encoder.mean.flatten().tolist(), "std": encoder.std.flatten().tolist()}
    changed: PRGEncoder | NetworkEncoder
    if isinstance(encoder, PRGEncoder):
        changed = PRGEncoder(
            encoder.velocity,
            encoder.path,
            _changed(encoder.ode, ode or {}, "ode"),
            _changed(encoder.feature, _with_defaults(encoder.feature, feature or {}), "feature"),
            input_shape=encoder.input_shape,
            **normalisation,
        )
    elif ode:
        raise UserError("The encoder is a network that is run once: it has no ODE whose solver could be changed.")
    else:
        changed = NetworkEncoder(
            encoder.network,
            _changed(encoder.feature, feature or {}, "feature"),
            input_shape=encoder.input_shape,
            resize=encoder.resize,
            **normalisation,
        )
    changed = changed.to(encoder.mean.device).train(encoder.training)
    try:
        _ = changed.embedding_dim
    except ValueError as error:  # a block or a solver that is not there
        raise UserError(str(error)) from None
    return changed


def solver_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Reads ``ode.steps=8`` and the like, of which only the ODE's keys may change when a head is trained already.

    Raises:
        UserError: If it is no such override.
    """
    found = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        section, _, name = key.strip().partition(".")
        if not separator or section != "ode" or not name:
            raise UserError(
                f"{override!r} is not an option of the solver: write ode.steps=8, ode.solver=heun2, ode.rtol=1e-6 or "
                "ode.atol=1e-6. The feature belongs to the trained head and cannot change."
            )
        try:
            found[name] = read_yaml(value)
        except ValueError:
            raise UserError(f"The value of {key} cannot be read as YAML: {value!r}.") from None
    return found


def _with_defaults(own: FeatureSpec, choice: Mapping[str, Any]) -> dict[str, Any]:
    source = choice.get("source", own.source)
    if source == own.source:
        return dict(choice)
    return {"block": None, "pool": "mean" if source == "block" else "flatten", **choice}


def _changed(own: SpecT, choice: Mapping[str, Any], section: str) -> SpecT:
    return checked(type(own), {**own.model_dump(), **choice}, origin=section)
