from __future__ import annotations

import subprocess
import sys

import pytest

import lightly_prg


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_package__imports_no_torch() -> None:
    code = "import sys, lightly_prg, lightly_prg.cli, lightly_prg.recipe; print('torch' in sys.modules)"
    assert run(code) == "False"


@pytest.mark.parametrize("name", lightly_prg.__all__)
def test_public_names__exist(name: str) -> None:
    assert getattr(lightly_prg, name) is not None
    assert name in dir(lightly_prg)


def test_unknown_name__is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lightly_prg.nonsense


def test_flow__stands_on_torch_and_torchdiffeq_alone() -> None:
    code = (
        "import sys, lightly_prg.flow; "
        "print([m for m in ('pytorch_lightning', 'lightly', 'timm', 'faiss', 'matplotlib') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_evaluators__never_see_a_method() -> None:
    code = (
        "import sys, lightly_prg.eval; print([m for m in sys.modules if m.startswith(('lightly_prg.methods', "
        "'lightly_prg.models', 'lightly_prg.flow', 'lightly_prg.features', 'lightly_prg.train'))])"
    )
    assert run(code) == "[]"
