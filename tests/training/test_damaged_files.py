"""Files of a run with an end that is missing or a bit that is flipped, anywhere: found, or without consequence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run, load
from lightly_prg.train import train
from lightly_prg.training.checkpoint import read_checkpoint

PLACES = 60


@pytest.fixture
def run(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> Run:
    settings = tiny_recipe.train.model_copy(update={"epochs": 1})
    return train(tiny_recipe.model_copy(update={"train": settings}), out=tmp_path / "run", data=tiny_splits)


def damaged(file: Path, kind: str) -> Iterator[str]:
    """Damages the file at one place after the other, and mends it in the end."""
    whole = file.read_bytes()
    chance = Random(7)
    # Headers and directories are short, and the most delicate.
    ends = [*range(0, 40, 3), *range(len(whole) - 40, len(whole), 3)]
    for place in ends + [chance.randrange(len(whole)) for _ in range(PLACES)]:
        content = bytearray(whole[:place] if kind == "truncated" else whole)
        if kind == "flipped":
            content[place] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
        yield f"{kind} at byte {place} of {len(whole)}"
    file.write_bytes(whole)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def outcomes(file: Path, kind: str, read: Callable[[], Any]) -> tuple[int, int]:
    """How often the damage was found, and how often it was without consequence."""
    expected = read()
    found = harmless = 0
    for where in damaged(file, kind):
        content = told = None
        try:
            content = read()
        except UserError as error:
            told = str(error)
        if told is not None:
            assert str(file) in told, where
            assert "\n" not in told, where
            found += 1
        else:
            assert same(content, expected), where
            harmless += 1
    assert same(read(), expected)
    return found, harmless


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_checkpoint(run: Run, kind: str) -> None:
    found, harmless = outcomes(run.checkpoint, kind, lambda: read_checkpoint(run.checkpoint, run.recipe))
    # Padding between the tensors and the dates of the archive mean nothing.
    assert harmless == 0 if kind == "truncated" else found > harmless


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_encoder(run: Run, kind: str) -> None:
    _, harmless = outcomes(run.weights_file, kind, lambda: load(run.folder).network.state_dict())
    assert harmless == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", None),
        ("path", "spiral"),
        ("ode", None),
        ("normalize", {"mean": 0.5, "deviation": 0.5}),
        ("architecture", {"name": "prg", "unknown": 1}),
        ("feature", {"source": "block", "block": None}),
        ("input_shape", []),
    ],
)
def test_description__that_does_not_make_an_encoder_is_told(run: Run, key: str, value: Any) -> None:
    content = json.loads(run.encoder_file.read_text(encoding="utf-8"))
    if value is None:
        content.pop(key)
    else:
        content[key] = value
    run.encoder_file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"encoder\.json"):
        load(run.folder)
