"""What a tested claim leaves: result.json, a summary and a figure."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightly_prg.claims.findings import Finding, Outcome, verdict
from lightly_prg.claims.plot_findings import plot_findings
from lightly_prg.claims.recipe import ClaimRecipe
from lightly_prg.claims.study import Measured
from lightly_prg.claims.text import summary
from lightly_prg.eval.result import plain
from lightly_prg.files import write_json, write_text
from lightly_prg.hardware import cpu_model
from lightly_prg.run import versions

FIGURE = "findings.png"
_OF_THE_MACHINE = {"runs", "existing", "out"}
_ROOT = re.compile(r"data\.root=[^,\]}]+")


def write_result(
    folder: Path,
    claim: ClaimRecipe,
    outcome: Outcome,
    measured: Sequence[Measured],
    *,
    training: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Writes all three into the folder of a claim; returns the content of result.json.

    Args:
        folder: Of the claim.
        claim: What was tested.
        outcome: What the study says.
        measured: The cells, for what they cost.
        training: What each pretraining cost.
        command: What made it.
    """
    word = verdict(outcome.findings)
    recipe = claim.model_dump(mode="json", exclude=_OF_THE_MACHINE)
    for chosen in (recipe, *recipe["data"].values()):
        chosen.pop("root", None)
        chosen["overrides"] = [text for text in chosen["overrides"] if not text.startswith("data.root=")]
    content: dict[str, Any] = plain(
        {
            "id": claim.id,
            "title": claim.title,
            "claim": claim.claim,
            "falsified_by": claim.falsified_by,
            "controls": list(claim.controls),
            "margin": claim.margin,
            "verdict": word.word,
            "sentence": word.sentence,
            "findings": [finding.to_dict() for finding in outcome.findings],
            "readings": [vars(reading) for reading in outcome.readings],
            "notes": [vars(note) for note in outcome.notes],
            "seeds": list(claim.seeds),
            "command": command,
            "recipe": recipe,
            "training": dict(training),
            "cpu_minutes": sum(cell.result["cost"]["cpu_seconds"] for cell in measured) / 60,
            "cells": len(measured),
            "versions": versions(),
            "versions_of_cells": _versions_of(measured),
            "machine": machine(),
            "figure": FIGURE,
        }
    )
    write_json(folder / "result.json", content)
    write_text(folder / "summary.md", summary(content))
    plot_findings([Finding.from_dict(finding) for finding in content["findings"]], folder / FIGURE)
    return content


def _versions_of(measured: Sequence[Measured]) -> dict[str, list[str]]:
    """All versions of each package that a cell was measured with: a claim may be finished after an update."""
    found: dict[str, set[str]] = {}
    for cell in measured:
        for package, version in cell.result["versions"].items():
            found.setdefault(package, set()).add(version)
    return {package: sorted(several) for package, several in found.items()}


def machine() -> dict[str, Any]:
    """What a duration or the last digits of an accuracy may depend on."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def shown_command(source: str, overrides: Sequence[str]) -> str:
    """The command that tests a claim again, without the folders of the machine that it was given on.

    Args:
        source: What claim.
        overrides: ``key=value``, as they were given.
    """
    parts = ["lightly-prg", "compare", source]
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OF_THE_MACHINE:
            continue
        shown = (
            f"{key}=DATA"
            if key.startswith("data.") and key.endswith(".root")
            else _ROOT.sub("data.root=DATA", override)
        )
        parts.append(shown)
    return " ".join(map(_quoted, parts))


def _quoted(part: str) -> str:
    """One word of a command; what holds single quotes, as YAML's strings do, is read more easily in double ones."""
    return f'"{part}"' if "'" in part and not set(part) & set('"$`\\!') else shlex.quote(part)
