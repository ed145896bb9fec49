"""The page of all claims, made from the results that were committed: docs/claims.md."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightly_prg.claims.recipe import parse_claim, shipped_claims
from lightly_prg.claims.text import heading, short_id, stated, tested
from lightly_prg.errors import UserError
from lightly_prg.files import read_json, write_text

_NOTES = "notes.md"
_TAKEN = ("result.json", "summary.md", "findings.png", "findings-dark.png", "figures", "cells")
_PICTURES = "samples_before_after*.png"
_EARLIER = {"ode": "finetune_through_ode", "frozen": "frozen_features"}

_HEAD = """# Claims and their tests

What is claimed of Pretrained Reversible Generation (PRG, [arXiv 2412.01787](https://arxiv.org/abs/2412.01787)), in our
words, and what became of it at a small size: small images, minutes of training on a CPU, a few labels. A verdict says
nothing of networks a hundred times larger that were trained a thousand times longer.

Every claim says beforehand what would falsify it, which differences decide and the margin of each: the smallest effect
that counts. A claim **holds** if the 95 % interval of every deciding difference (paired over the seeds, Student's t)
lies on the claimed side of its margin on every data set; it **does not hold** if one lies wholly on the other side;
else it **cannot be told at this size**. The intervals are not widened for being several. To hold takes all of them, so
that many make it harder; one is enough to fall, and each that lies exactly at its margin falls by luck in one of forty
tests. Each claim says how many decide.

Learning rates, blocks and positions are chosen on validation images; test images choose nothing. The claims are not
blind, though: the networks of seeds 0 to 2 had been judged on test images of these sets before, in two studies,
[{ode}]({ode_link}) and
[{frozen}]({frozen_link}),
and what these found went into what is asked here, its controls and its margins.

Each needs Fashion-MNIST and CIFAR-10 (`data.fashion_mnist.root`, `data.cifar10.root`; `data.cifar10=null` leaves one
out; `lightly-prg train fashion_mnist_prg_cpu data.download=true` fetches one) and takes half an hour to an hour of a
core. Images that are not quite the set are named so by `data.cifar10.title=TITLE`.
"""


def write_page(results: Path, page: Path) -> None:
    """Renders the page of a folder of results.

    Args:
        results: With a folder for each claim that was tested, which holds its result.json and figure; and notes.md,
            if there is one, which is put at the end.
        page: The Markdown file to write.

    Raises:
        UserError: If a result cannot be read.
    """
    write_text(page, render(results, seen_from=page.parent))


def take(folder: Path, results: Path) -> None:
    """Copies what belongs into a repository from the folder of a tested claim: no path of the machine, no lock.

    Of the pictures of samples those of the first seed are taken.

    Args:
        folder: Of a claim, with its result.json.
        results: Where results are kept; what is kept of that claim is replaced.

    Raises:
        UserError: If there is no result, or the folder is what is kept already.
    """
    content = read_json(folder / "result.json")
    kept = results / str(content["id"])
    if kept.resolve() == folder.resolve():
        raise UserError(f"{folder} is where results are kept: name the folder that the claim was tested in.")
    shutil.rmtree(kept, ignore_errors=True)
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder)
        drawn = place.parts[0] == "figures"
        if drawn and not (place.match(_PICTURES) and f"-seed{content['seeds'][0]}-" in place.parent.name):
            continue
        if file.is_file() and place.parts[0] in _TAKEN:
            (kept / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, kept / place)


def render(results: Path, *, seen_from: Path) -> str:
    """The page as text; the same for the same files.

    Args:
        results: As in ``write_page``.
        seen_from: The folder that links are relative to.
    """
    claims: dict[str, Mapping[str, Any]] = {}
    for name, text in shipped_claims().items():
        claim = parse_claim(text, origin=name)
        claims[claim.id] = claim.model_dump(mode="json")
    measured = {file.parent.name: read_json(file) for file in sorted(results.glob("*/result.json"))}
    claims = dict(sorted({**claims, **measured}.items()))
    earlier = {f"{key}_link": _link(results.parent / name / "README.md", seen_from) for key, name in _EARLIER.items()}
    lines = [_HEAD.format(**_EARLIER, **earlier), "| claim | verdict |", "|---|---|"]
    for name, about in claims.items():
        link = f"[{heading(about)}](#{short_id(name).lower()})"
        lines.append(f"| {link} | {about.get('verdict', 'not measured yet')} |")
    for name, about in claims.items():
        lines += ["", f'<a id="{short_id(name).lower()}"></a>', "", f"## {heading(about)}", ""]
        if name in measured:
            pictures = sorted((results / name / "figures").glob("*/samples_before_after.png"))
            lines += tested(
                about,
                figure=_link(results / name / str(about["figure"]), seen_from),
                pictures={picture.parent.name: _link(picture, seen_from) for picture in pictures},
            )
        else:
            lines += [
                "**Not measured yet.**",
                "",
                *stated(about),
                "```",
                f"lightly-prg compare claims/{name}",
                "```",
                "",
            ]
    notes = results / _NOTES
    if notes.is_file():
        lines += ["", notes.read_text(encoding="utf-8").strip(), ""]
    return "\n".join(lines).rstrip() + "\n"


def _link(file: Path, seen_from: Path) -> str:
    return os.path.relpath(file, seen_from).replace(os.sep, "/")
