"""Every key of a recipe with what it takes, its default and what it does, read from the models that check recipes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lightly_prg.errors import UserError
from lightly_prg.recipe.mistakes import models_in, nearest
from lightly_prg.recipe.recipe import Recipe


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: Its path, such as ``train.lr``.
        takes: What values it may have, in words.
        default: As YAML writes it; empty where it has to be given.
        meaning: One sentence or more.
    """

    name: str
    takes: str
    default: str
    meaning: str


@dataclass(frozen=True)
class KeySection:
    """The keys of one section, of which there may be several kinds: each method has keys of its own.

    Attributes:
        name: Its path; empty for the recipe itself.
        kind: The names by which it is told from others in the same place, such as ``name: prg``; empty without any.
        meaning: What it is.
        keys: In the order of the model.
    """

    name: str
    kind: str
    meaning: str
    keys: tuple[Key, ...]

    @property
    def title(self) -> str:
        """``method with name: prg``."""
        name = self.name or "The recipe"
        return f"{name} with {self.kind}" if self.kind else name


def recipe_keys(model: type[BaseModel] = Recipe) -> list[KeySection]:
    """All sections of a recipe, each before those within it.

    Args:
        model: What checks the recipe.
    """
    return list(_sections(model, "", ""))


def keys_below(prefix: str, sections: Sequence[KeySection]) -> list[KeySection]:
    """The sections and keys whose path is ``prefix`` or begins with it.

    Raises:
        UserError: If there is none; the nearest key is named.
    """
    found = []
    for section in sections:
        inside = section.name == prefix or section.name.startswith(f"{prefix}.")
        keys = tuple(key for key in section.keys if inside or key.name == prefix)
        if keys:
            found.append(KeySection(section.name, section.kind, section.meaning, keys))
    if not found:
        names = sorted({key.name for section in sections for key in section.keys})
        raise UserError(f"There is no key {prefix!r} in a recipe{nearest(prefix, names) or '.'}")
    return found


def to_markdown(sections: Sequence[KeySection]) -> str:
    """A heading and a table for each section."""
    lines: list[str] = []
    for section in sections:
        lines += [f"## {section.title}", "", section.meaning, "", "| key | takes | default | |", "|---|---|---|---|"]
        for key in section.keys:
            cells = (f"`{key.name}`", key.takes, f"`{key.default}`" if key.default else "", key.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _sections(model: type[BaseModel], path: str, kind: str) -> Iterator[KeySection]:
    meanings = _attributes(model)
    keys, inner = [], []
    for name, field in model.model_fields.items():
        full = f"{path}.{name}" if path else name
        models = models_in(field.annotation)
        inner += [(full, one, _kind(full, one, kind) if len(models) > 1 else kind) for one in models]
        takes = "a section, see below" if models else _in_words(field.annotation, field.metadata)
        if models and type(None) in get_args(field.annotation):
            takes += ", or null"
        keys.append(Key(full, takes, _default(field), meanings.get(name, "")))
    yield KeySection(path, kind, _first_paragraph(model), tuple(keys))
    for full, one, its_kind in inner:
        yield from _sections(one, full, its_kind)


def _kind(path: str, model: type[BaseModel], outer: str) -> str:
    (name,) = get_args(model.model_fields["name"].annotation)
    return f"{outer}, {path}.name: {name}" if outer else f"{path}.name: {name}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        named = getattr(value, "name", None)
        return f"name: {named}" if named is not None else ""
    return json.dumps(value)


def _in_words(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """What an annotation admits. Not by pydantic's JSON schema: validators that come first hide its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _in_words(arguments[0], (*constraints, *arguments[1:]))
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_in_words(argument, constraints) for argument in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list, each {_in_words(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(map(_in_words, arguments)) + "]"
    words = {int: "integer", float: "number", bool: "true, false", str: "text", type(None): "null"}
    word = words.get(annotation, "keys and values")
    bounds = ", ".join(_bounds(constraints)) if annotation in (int, float) else ""
    return f"{word} {bounds}" if bounds else word


def _bounds(constraints: Sequence[Any]) -> Iterator[str]:
    signs = {"ge": "\N{GREATER-THAN OR EQUAL TO}", "gt": ">", "le": "\N{LESS-THAN OR EQUAL TO}", "lt": "<"}
    for constraint in constraints:
        for one in (constraint, *getattr(constraint, "metadata", ())):
            for name, sign in signs.items():
                bound = getattr(one, name, None)
                if bound is not None:
                    yield f"{sign} {bound:g}"


def _first_paragraph(model: type[BaseModel]) -> str:
    return _plain(inspect.getdoc(model) or "").split("\n\n")[0].replace("\n", " ")


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """The section ``Attributes:`` of a docstring."""
    found: dict[str, str] = {}
    _, _, section = (inspect.getdoc(model) or "").partition("\nAttributes:\n")
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        start = re.match(r"    (\w+): (.*)", line)
        if start:
            name, text = start.groups()
            found[name] = text
        elif line.strip():
            found[name] += f" {line.strip()}"
    return {name: _plain(text) for name, text in found.items()}


def _plain(text: str) -> str:
    """Markdown in place of reStructuredText, and YAML's word for nothing."""
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))
