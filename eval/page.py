"""What the self-contained pages share: the environment of their templates, and figures as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure as data URIs, and its size in CSS pixels."""

    light: str
    dark: str | None
    width: int
    height: int


def environment() -> jinja2.Environment:
    """Where templates are rendered: values are escaped, unknown names are errors, other templates can be included."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> str | None:
    file = resources.files("lightly_prg.eval").joinpath(name)
    return file.read_text("utf-8") if file.is_file() else None


def read_figures(folder: Path, notes: list[str]) -> dict[str, Picture]:
    """The figures of a folder by name, each with its dark twin; what is no PNG leaves a note."""
    contents = {}
    for path in sorted(folder.glob("figures/[!.]*.png")):
        content = path.read_bytes() if path.is_file() else b""
        if content.startswith(_PNG) and len(content) >= 24:
            contents[path.stem] = content
        else:
            notes.append(f"{path.name} is no PNG and was left out.")
    pictures = {}
    for name, content in contents.items():
        if name.removesuffix("-dark") != name and name.removesuffix("-dark") in contents:
            continue
        # The header holds width and height; figures have two pixels for each of the page's.
        width, height = (int.from_bytes(content[at : at + 4], "big") // 2 for at in (16, 20))
        dark = contents.get(f"{name}-dark")
        pictures[name] = Picture(_uri(content), _uri(dark) if dark else None, width, height)
    return pictures


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
