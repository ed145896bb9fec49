"""``key.sub=value``: what commands change in a recipe."""

from __future__ import annotations

from typing import Any

from lightly_prg.errors import UserError
from lightly_prg.recipe.yaml_text import read_yaml


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets ``key.sub=value`` in the raw content of a recipe.

    Raises:
        UserError: If it is no override, or does not fit the content.
    """
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"{override!r} is not an override: write key.sub=value, for example train.epochs=5.")
    try:
        value = read_yaml(text)
    except ValueError:
        raise UserError(f"The value of {key} cannot be read as YAML: {text!r}.") from None
    section = raw
    for depth, part in enumerate(parts[:-1]):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise UserError(f"{'.'.join(parts[: depth + 1])} is a value, not a section: {override!r} does not fit.")
    if parts in (["method", "name"], ["method", "backbone", "name"]) and section.get("name") != value:
        # Another kind of section has other keys: those of the old kind would only be refused.
        section.clear()
    section[parts[-1]] = value
