"""What is wrong with a recipe, in words: the dotted key, what was given, what is allowed, the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explained(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> str:
    """What is wrong with the content of a section, in one sentence without its end."""
    details = error.errors(include_url=False)
    # A list of which every item is wrong is not too short as well.
    places = [detail["loc"] for detail in details]
    details = [
        detail
        for detail in details
        if detail["type"] != "too_short" or not any(place[:-1] == detail["loc"] for place in places)
    ]
    return "; ".join(dict.fromkeys(_explain(detail, raw, model) for detail in details))


def nearest(key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """``; did you mean 'epochs'?``, or nothing where nothing is near."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _explain(detail: Any, raw: dict[str, Any], root: type[BaseModel]) -> str:
    """One clause for one pydantic error: key, given, allowed, nearest."""
    kind, given = detail["type"], detail["input"]
    location = _strip_tags(detail["loc"], raw, keep_last=kind in ("missing", "extra_forbidden"))
    key = ".".join(location) or "the recipe"
    if kind == "extra_forbidden":
        known = _keys_at(location[:-1], raw, root)
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {'.'.join((*location[:-1], close[0]))!r}?" if close else "."
        where = f"under {'.'.join(location[:-1])}" if location[:-1] else "here"
        return f"unknown key {key!r} (given: {given!r}){hint} Known {where}: {', '.join(known)}"
    if kind == "missing":
        return f"the key {key!r} is missing"
    if kind == "union_tag_not_found":
        return (
            f"the key {key + '.name'!r} is missing; allowed are {detail['ctx'].get('expected_tags', 'the known names')}"
        )
    if kind == "union_tag_invalid":
        allowed = detail["ctx"]["expected_tags"]
        tag = detail["ctx"]["tag"]
        return f"{key}.name is {tag!r}; allowed are {allowed}{nearest(tag, allowed.replace(chr(39), '').split(', '))}"
    if kind == "literal_error":
        expected = detail["ctx"]["expected"]
        names = expected.replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key} is {given!r}; allowed are {expected}{nearest(str(given), names)}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(given, dict | BaseModel):
        return f"{key}: {message}"
    return f"{key} is {given!r}: {message[0].lower()}{message[1:]}"


def _strip_tags(location: Sequence[int | str], raw: Any, *, keep_last: bool) -> tuple[str, ...]:
    """Drops the names of union members, which pydantic puts between the keys."""
    kept: list[str] = []
    node = raw
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, dict) and part in node and (last or part != node.get("name")):
            node = node[part]
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif not (keep_last and last):
            continue
        kept.append(str(part))
    return tuple(kept)


def _keys_at(location: Sequence[str], raw: Any, root: type[BaseModel]) -> list[str]:
    """The known keys of the section at ``location`` below ``root``."""
    model = root
    node = raw
    for part in location:
        node = node.get(part) if isinstance(node, dict) else None
        if part not in model.model_fields:
            continue  # the place in a list, or the name in a mapping, of sections
        candidates = models_in(model.model_fields[part].annotation)
        tag = node.get("name") if isinstance(node, dict) else None
        model = next(
            (c for c in candidates if "name" in c.model_fields and tag in get_args(c.model_fields["name"].annotation)),
            candidates[0],
        )
    return list(model.model_fields)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation admits, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None:
        return []
    return [model for argument in get_args(annotation) for model in models_in(argument)]
