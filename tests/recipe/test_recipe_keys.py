from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import call
from pydantic import BaseModel

from lightly_prg.errors import UserError
from lightly_prg.recipe import Recipe, load_recipe
from lightly_prg.recipe.comparison import ComparisonRecipe
from lightly_prg.recipe.keys import keys_below, recipe_keys, to_markdown

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.mark.parametrize("model", [Recipe, ComparisonRecipe])
def test_every_key__says_what_it_does_as_the_page_has_it(model: type[BaseModel]) -> None:
    sections = recipe_keys(model)
    assert [key.name for section in sections for key in section.keys if not key.meaning] == []
    assert to_markdown(sections) in PAGE.read_text(encoding="utf-8"), (
        "docs/recipes.md is out of date: lightly-prg recipes keys --markdown, and the same with --comparison"
    )


def test_keys__are_those_of_a_resolved_recipe() -> None:
    def paths(content: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in content.items():
            found.add(prefix + name)
            if isinstance(value, dict):
                found |= paths(value, f"{prefix}{name}.")
        return found

    for name in ("quickstart", "cifar10_mae_cpu", "cifar10_prg_joint_cpu"):
        recipe = load_recipe(name)
        sections = [
            section
            for section in recipe_keys()
            if not section.kind or f"method.name: {recipe.method.name}" in section.kind.split(", ")
        ]
        missing = paths(recipe.model_dump()) - {key.name for section in sections for key in section.keys}
        assert missing == set()


def test_words__tell_values_bounds_and_defaults() -> None:
    keys = {(section.kind, key.name): key for section in recipe_keys() for key in section.keys}
    assert keys["", "train.lr"].takes == "number > 0, \N{LESS-THAN OR EQUAL TO} 1e+06"
    assert keys["", "train.ema_decay"].takes == "number \N{GREATER-THAN OR EQUAL TO} 0, < 1"
    assert keys["", "train.clip"].takes == "number > 0 or null"
    assert keys["", "eval.split"].takes == "validation, test"
    assert keys["", "train.betas"].default == "[0.9, 0.999]"
    assert keys["", "data.name"].default == ""
    unet = "method.name: prg, method.backbone.name: unet"
    assert keys[unet, "method.backbone.channels"].default == "128"


def test_prefix__chooses_section_or_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = [key.name for section in keys_below("eval.knn", recipe_keys()) for key in section.keys]
    assert names == ["eval.knn", "eval.knn.k", "eval.knn.ks", "eval.knn.temperature", "eval.knn.transform"]
    with pytest.raises(UserError, match=r"no key 'train\.epoch' in a recipe; did you mean 'train\.epochs'"):
        keys_below("train.epoch", recipe_keys())
    monkeypatch.setenv("COLUMNS", "200")
    code, printed, _ = call(monkeypatch, capsys, "recipes", "keys", "budget", "--comparison")
    assert code == 0
    assert "budget.amount" in printed
    assert "eval.split" not in printed
