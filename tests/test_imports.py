from __future__ import annotations

import subprocess
import sys

import pytest

import lightly_prg


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("module", ["cli", "run", "recipe", "recipe.keys", "recipe.comparison", "claims.recipe"])
def test_what_a_mistyped_command_needs__imports_no_torch(module: str) -> None:
    assert run(f"import sys, lightly_prg.{module}; print('torch' in sys.modules)") == "False"


def loaded(package: str, *others: str) -> set[str]:
    """What all modules of a package load, but for its scripts."""
    code = (
        f"import importlib, pkgutil, sys, {package} as p\n"
        "for found in pkgutil.walk_packages(p.__path__, f'{p.__name__}.'):\n"
        "    if 'benchmarks' not in found.name: importlib.import_module(found.name)\n"
        f"print(*[m for m in sys.modules if m.startswith({others!r})])"
    )
    return set(run(code).split())


@pytest.mark.parametrize("name", lightly_prg.__all__)
def test_public_names__exist(name: str) -> None:
    assert getattr(lightly_prg, name) is not None
    assert name in dir(lightly_prg)


def test_unknown_name__is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lightly_prg.nonsense


def test_flow__stands_on_torch_and_torchdiffeq_alone() -> None:
    others = ("pytorch_lightning", "lightly.", "timm", "faiss", "matplotlib", "lightly_prg.")
    found = {name for name in loaded("lightly_prg.flow", *others) if not name.startswith("lightly_prg.flow")}
    assert found <= {"lightly_prg.full_precision"}


def test_evaluators__never_see_a_method() -> None:
    others = ("methods", "models", "flow", "features", "train", "recipe", "run", "evaluation")
    assert loaded("lightly_prg.eval", *(f"lightly_prg.{name}" for name in others)) == set()
