from __future__ import annotations

from pathlib import Path

import pytest

from lightly_prg.errors import UserError
from lightly_prg.recipe import load_recipe, shipped_recipes
from lightly_prg.recipe.comparison import (
    check_choice,
    folder_of,
    load_comparison,
    parse_comparison,
    shipped_comparisons,
)
from lightly_prg.run import Run

TWO = """
name: two
methods:
  - {label: PRG, recipe: quickstart}
  - label: Slow PRG
    recipe: quickstart
    overrides: [train.epochs=3]
    finetune: [feature.source=state, 'learning_rates=[0.01]']
seeds: [4, 5]
overrides: [train.epochs=2, train.lr=1e-2]
evaluators: {linear: null, finetune: {epochs: 7}}
split: test
"""

CHAIN = """methods=[{label: A, recipe: x, share: 0.5}, {label: B, recipe: x, share: 0.5, start_from: A},
{label: C, recipe: x, share: 0.25, start_from: B}]"""


@pytest.mark.parametrize("name", sorted(shipped_comparisons()))
def test_shipped__load_with_all_their_methods(name: str) -> None:
    comparison = load_comparison(name)
    assert comparison.description
    for method in comparison.methods:
        assert comparison.recipe_of(method, 0).eval.split == comparison.split
    assert parse_comparison(comparison.to_yaml()) == comparison


@pytest.mark.parametrize("name", sorted(shipped_comparisons()))
def test_shipped__fine_tune_the_whole_of_a_network_without_a_flow(name: str) -> None:
    """A scan may choose an early block, and the layers behind it would not be trained."""
    comparison = load_comparison(name)
    if comparison.evaluators.finetune is None:
        return
    for method in comparison.methods:
        settings = comparison.finetune_of(method)
        assert settings is not None
        assert settings.feature is not None
        if comparison.recipe_of(method, 0).method.name == "prg":
            assert settings.feature["block"] == "middle"
        else:
            assert settings.feature["block"] is None
        assert "pool" in settings.feature, "it would be the scan's, which chose it for another block"


def test_shipped__are_no_recipes_of_runs() -> None:
    assert "compare_quick" in shipped_comparisons()
    assert "compare_quick" not in shipped_recipes()


def test_cell__has_shared_overrides_before_its_own_and_the_comparisons_evaluators() -> None:
    comparison = parse_comparison(TWO)
    first, second = (comparison.recipe_of(method, 5) for method in comparison.methods)
    assert (first.train.epochs, second.train.epochs) == (2, 3)
    assert first.train.lr == second.train.lr == 1e-2
    assert (first.name, second.name) == ("prg-seed5", "slow-prg-seed5")
    assert first.seed == 5
    assert first.eval == second.eval
    assert first.eval.linear is None
    assert first.eval.controls == ()
    assert first.eval.split == "test"


def test_finetune__is_shared_but_for_what_belongs_to_the_method() -> None:
    comparison = parse_comparison(TWO)
    first, second = (comparison.finetune_of(method) for method in comparison.methods)
    assert first is not None
    assert second is not None
    assert second.feature == {"source": "state"}
    assert second.learning_rates == (0.01,)
    assert first == second.model_copy(update={"feature": None, "learning_rates": first.learning_rates})
    assert first.learning_rates != second.learning_rates
    assert first.epochs == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budget={kind: hours, amount: 1}", "budget.kind is 'hours'; allowed are 'cpu_seconds'"),
        ("budget={kind: macs, amount: 0}", "budget.amount is 0"),
        ("metods=[]", "did you mean 'methods'"),
        ("evaluators.knnn={}", "did you mean 'evaluators.knn'"),
        ("reference=MAE", "reference is 'MAE'; allowed are 'PRG', 'Slow PRG'"),
        ("seeds=[1, 1]", "each may stand there once"),
        ("evaluators={robustness: {of: finetuned}}", "needs `finetune`"),
        ("methods=[{label: A b, recipe: x}, {label: a-b, recipe: y}]", "the same folder 'a-b'"),
        ("methods=[{label: A, recipe: x, finetune: [epochs=9]}]", "the comparison over all else"),
        ("methods=[{label: A, recipe: x, start_from: B}, {label: B, recipe: x}]", "a method above it"),
        ("methods=[{label: A, recipe: x, share: 0.5}]", "there is no budget"),
        ("split=validation", "scan chooses features on the validation images"),
        ("scan_pools=[max]", "scan_pools"),
        ("methods=[{label: A, recipe: x, share: 2}]", "share is 2"),
        (CHAIN, "'A' and then 'B' and then 'C' take 1.25 of the budget, and a method gets it once"),
        (CHAIN.replace("share: 0.25, start_from: B", "start_from: B"), "take 2 of the budget"),
    ],
)
def test_mistakes__are_named(change: str, message: str) -> None:
    budget = ["budget={kind: epochs, amount: 2}"] if "start_from: A" in change else []
    budget += ["scan=true"] if "split" in change else []
    with pytest.raises(UserError) as caught:
        parse_comparison(TWO, overrides=[*budget, change])
    assert message in str(caught.value)


def test_list_of_wrong_items__is_not_too_short_as_well() -> None:
    with pytest.raises(UserError, match=r"seeds\.0 is -1: input should be greater than or equal to 0$"):
        parse_comparison(TWO, overrides=["seeds=[-1]"])
    with pytest.raises(UserError, match=r"seeds is .*at least 1 item"):
        parse_comparison(TWO, overrides=["seeds=[]"])


def test_shares_of_a_chain__add_up_to_the_budget() -> None:
    thirds = CHAIN.replace("0.5", f"{1 / 3}").replace("0.25", f"{1 / 3}")
    comparison = parse_comparison(TWO, overrides=["budget={kind: epochs, amount: 2}", thirds])
    assert sum(method.share for method in comparison.methods) == pytest.approx(1)
    without = thirds.replace(f"share: {1 / 3}, ", "").replace(f", share: {1 / 3}", "")
    assert len(parse_comparison(TWO, overrides=[without]).methods) == 3, "no budget, no shares"


def test_promised__is_what_all_stages_may_take() -> None:
    methods = """methods=[{label: A, recipe: x, share: 0.5}, {label: B, recipe: x, share: 0.5, start_from: A},
    {label: C, recipe: x}, {label: D, recipe: x, steps_of: C}, {label: E, recipe: x, share: 0.5, start_from: D}]"""
    comparison = parse_comparison(TWO, overrides=["budget={kind: cpu_seconds, amount: 60}", methods])
    assert [comparison.promised(method) for method in comparison.methods] == [30.0, 60.0, 60.0, None, None]
    free = parse_comparison(TWO)
    assert free.promised(free.methods[0]) is None


def test_folder_of__is_that_of_a_comparison_that_was_begun(tmp_path: Path) -> None:
    (tmp_path / "comparison.yaml").write_text(TWO, encoding="utf-8")
    assert folder_of(tmp_path / "comparison.yaml") is None  # a recipe that only has this name
    (tmp_path / "runs").mkdir()
    assert folder_of(tmp_path / "comparison.yaml") == folder_of(tmp_path) == tmp_path
    assert folder_of("compare_quick") is None


def test_unknown__names_the_nearest_and_the_method() -> None:
    with pytest.raises(UserError, match="'compare_quick'"):
        load_comparison("compare_quik")
    wrong = parse_comparison(TWO, overrides=["methods=[{label: A, recipe: quickstat}]"])
    with pytest.raises(UserError, match=r"Method 'A'.*'quickstart'"):
        wrong.recipe_of(wrong.methods[0], 0)


def test_hash__knows_max_steps_only_where_it_decides() -> None:
    base = load_recipe("quickstart")
    assert base.sha256() == load_recipe("quickstart", ["train.max_steps=null"]).sha256()
    assert base.sha256() != load_recipe("quickstart", ["train.max_steps=5"]).sha256()


@pytest.mark.parametrize(("split", "refused"), [("validation", True), ("test", False)])
def test_feature_chosen_by_a_scan__is_not_judged_by_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, refused: bool
) -> None:
    run = Run(tmp_path / "run")
    run.create(load_recipe("quickstart"))
    run.encoder_file.write_text("{}")
    monkeypatch.setattr(Run, "description", {"chosen_on": {"feature": "validation"}})
    comparison = load_comparison("compare_quick", [f"split={split}", "scan=false", "budget=null"])
    method = comparison.methods[0].model_copy(update={"recipe": str(run.folder), "overrides": ()})
    if refused:
        for ask in (lambda: comparison.recipe_of(method, 0), lambda: check_choice(run, split)):
            with pytest.raises(UserError, match="its feature was chosen on the validation images"):
                ask()
    else:
        assert comparison.recipe_of(method, 0).eval.split == split
        check_choice(run, split)
