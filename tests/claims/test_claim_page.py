from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lightly_prg.claims.findings import Finding, Note, Outcome, Reading
from lightly_prg.claims.page import render, take, write_page
from lightly_prg.claims.recipe import load_claim, shipped_claims
from lightly_prg.claims.result import write_result
from lightly_prg.claims.study import Measured
from lightly_prg.claims.text import short_id
from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.statistics import paired_difference

SCRIPT = Path(__file__).parents[2] / "eval/claims/write_page.py"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of one claim of six."""
    folder = tmp_path / "eval/results/claims"
    difference = paired_difference({0: -3.0, 1: -4.0}, {0: 0.0, 1: 0.0})
    assert difference is not None
    outcome = Outcome(
        (Finding("euler 32 less euler 4", "cifar10", "points", difference, "within", 1.0),),
        (Reading("accuracy", "cifar10", "%", 51.25, 0.5), Reading("cosine", "fashion_mnist", "", 0.998, None)),
        (Note("learning rates chosen", "cifar10", "0.001; 0.003"),),
    )
    made_with = [{"torch": "2.1", "lightly-prg": "0.1"}, {"torch": "2.2", "lightly-prg": "0.1"}]
    cells = [
        Measured("cifar10", seed, "euler-4", {"cost": {"cpu_seconds": 90.0}, "versions": made_with[seed]})
        for seed in (0, 1)
    ]
    pretraining = {"parameters": 694284, "epochs": 3, "input_shape": [3, 16, 16], "cpu_seconds": 240}
    training = {f"cifar10-seed{seed}": {**pretraining, "steps": 1146 + seed} for seed in (0, 1)}
    command = "lightly-prg compare claims/c06"
    claim = load_claim("claims/c06", ["data.cifar10.root=/home/me"])
    content = write_result(folder / "c06", claim, outcome, cells, training=training, command=command)
    assert content["cpu_minutes"] == 3.0
    return folder


def test_page__is_the_same_for_the_same_files(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs/claims.md"
    write_page(results, page)
    first = page.read_bytes()
    write_page(results, page)
    assert page.read_bytes() == first
    assert first.decode() == render(results, seen_from=page.parent)


def test_page__tells_every_claim_and_what_is_not_measured(results: Path, tmp_path: Path) -> None:
    text = render(results, seen_from=tmp_path / "docs")
    for name in shipped_claims():
        claim = load_claim(name)
        assert text.count(f"## {short_id(claim.id)}: {claim.title}\n") == 1
        assert claim.claim in text
        assert claim.falsified_by in text
    assert text.count("**Not measured yet.**") == 5
    assert "| [C6: features do not depend on steps and solver](#c6) | cannot be told at this size |" in text
    assert (
        "| euler 32 less euler 4 | cifar10 | \N{MINUS SIGN}3.50 ± 6.35 points | "
        "\N{MINUS SIGN}3.00, \N{MINUS SIGN}4.00 | within ±1 | **open** |"
    ) in text
    assert "| accuracy | 51.2 ± 0.5 % |  |" in text
    assert "| cosine |  | 0.998 |" in text
    assert "| learning rates chosen | 0.001; 0.003 |  |" in text
    assert "1 difference decides, each by its own interval." in text
    assert "lightly-prg 0.1, torch 2.1 and 2.2" in text
    assert text.count("**Size:** ") == 6
    assert (
        "**Size:** 3,000 test images; fine-tuned on 100 labels of each class for 5 epochs; through 4 and 8 Euler "
        "steps; the learning rate one of 0.001, 0.003, chosen on 500 validation images; a network of 0.69 M "
        "parameters; pretrained for 3 epochs (1,146 and 1,147 steps) of 16 x 16 images in 4 CPU-minutes."
    ) in text
    assert "fine-tuned on 100 and 10 labels of each class for 7 and 25 epochs, fresh weights for 14 and 75;" in text
    assert "](../eval/results/finetune_through_ode/README.md)" in text
    assert 'srcset="../eval/results/claims/c06/findings-dark.png"' in text
    assert (results / "c06/findings-dark.png").is_file()
    assert "/home/me" not in text + (results / "c06/result.json").read_text()
    assert text.index("## C2:") < text.index("## C4b:") < text.index("## C14:")


def test_results__are_taken_without_what_is_of_the_machine(results: Path, tmp_path: Path) -> None:
    folder = results / "c06"
    first, second = "figures/samples-cifar10-seed0-beta0", "figures/samples-cifar10-seed1-beta0"
    drawn = [f"{first}/samples_before_after.png", f"{first}/samples_before_after-dark.png"]
    left = [f"{first}/samples.png", f"{second}/samples_before_after.png"]
    for name in ("claim.yaml", ".lock", "cells/cifar10-seed0/euler-4.json", *drawn, *left):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("root: /home/me")
    kept = tmp_path / "kept"
    (kept / "c06").mkdir(parents=True)
    (kept / "c06/older.json").write_text("{}")
    take(folder, kept)
    names = {str(file.relative_to(kept / "c06")) for file in kept.rglob("*") if file.is_file()}
    assert names == {
        "result.json",
        "summary.md",
        "findings.png",
        "findings-dark.png",
        "cells/cifar10-seed0/euler-4.json",
        *drawn,
    }
    page = render(kept, seen_from=kept.parent)
    assert f'srcset="kept/c06/{drawn[1]}"' in page
    assert f'src="kept/c06/{drawn[0]}"' in page
    with pytest.raises(UserError, match="is where results are kept"):
        take(kept / "c06", kept)
    assert (kept / "c06/result.json").is_file()


def test_notes__stand_at_the_end(results: Path, tmp_path: Path) -> None:
    (results / "notes.md").write_text("## What was tried\n\nThis and that.\n", encoding="utf-8")
    assert render(results, seen_from=tmp_path).endswith("## What was tried\n\nThis and that.\n")


def test_script__writes_the_page(results: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("write_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(results), "--out", str(tmp_path / "docs/claims.md")])
    assert (tmp_path / "docs/claims.md").read_text() == render(results, seen_from=tmp_path / "docs")


@pytest.mark.parametrize(("name", "shown"), [("c06", "C6"), ("c04b", "C4b"), ("c14", "C14"), ("mine", "mine")])
def test_ids__are_those_of_the_table(name: str, shown: str) -> None:
    assert short_id(name) == shown


def test_repository__has_the_page_that_its_results_give() -> None:
    root = SCRIPT.parents[2]
    assert (root / "docs/claims.md").read_text() == render(root / "eval/results/claims", seen_from=root / "docs")
