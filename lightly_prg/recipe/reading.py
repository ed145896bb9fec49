"""How recipes of every kind are found and read: those of runs, of comparisons and of claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lightly_prg.errors import UserError
from lightly_prg.recipe.mistakes import explained, nearest
from lightly_prg.recipe.overrides import apply_override
from lightly_prg.recipe.yaml_text import read_yaml

_M = TypeVar("_M", bound=BaseModel)


def shipped_texts(package: str, *folders: str, prefix: str = "") -> dict[str, str]:
    """Maps the name of every YAML file in a folder of an installed package, after ``prefix``, to its text."""
    folder = resources.files(package).joinpath(*folders)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {prefix + file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def file_of(source: str | Path, name: str) -> Path | None:
    """The file that ``source`` is, or the one of this name in the folder that it is; None if there is none."""
    path = Path(source)
    if path.is_dir():
        path /= name
    return path if path.is_file() else None


def has_key(path: Path, key: str) -> bool:
    """Whether a file is a YAML mapping with this key, which tells kinds of recipes apart; a damaged one has none."""
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and key in content


def text_of(source: str | Path, path: Path | None, shipped: Mapping[str, str], *, kind: str, nor: str = "") -> str:
    """The text of a recipe.

    Args:
        source: As it was given.
        path: The file that it names, see ``file_of``.
        shipped: The texts of what is shipped, by name.
        kind: What the recipe is called in messages.
        nor: What else it could have been and is not, for example ``"no run folder, "``.

    Raises:
        UserError: If the file cannot be read, or there is neither a file nor anything shipped.
    """
    if path is not None:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the {kind} {path}: {error}.") from None
    if str(source) in shipped:
        return shipped[str(source)]
    raise UserError(
        f"There is no {kind} {str(source)!r}: no such file, {nor}and no shipped {kind} of that name"
        f"{nearest(str(source), shipped) or '.'} Shipped {kind}s: {', '.join(shipped)}."
    )


def mapping_of(text: str, *, origin: str, kind: str, keys: str) -> dict[str, Any]:
    """The content of a recipe, not checked yet.

    Args:
        text: YAML.
        origin: Where it comes from, for messages.
        kind: What it is called in them.
        keys: Which keys it needs at least, in words.

    Raises:
        UserError: If it is no YAML, or no mapping.
    """
    try:
        raw: Any = read_yaml(text)
    except ValueError as error:
        raise UserError(f"{origin} is not valid YAML: {error}.") from None
    if not isinstance(raw, dict):
        raise UserError(f"{origin} is not a {kind}: a YAML mapping with the keys {keys} is needed.")
    return raw


def checked(model: type[_M], raw: dict[str, Any], overrides: Sequence[str] = (), *, origin: str = "") -> _M:
    """A section from its content, which the overrides change.

    Raises:
        UserError: If an override does not fit, or a key, type or value is wrong.
    """
    for override in overrides:
        apply_override(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(
            f"{origin}: {explained(error, raw, model)}" if origin else explained(error, raw, model)
        ) from None
