from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lightly_prg.comparison.judging as judging
from lightly_prg.comparison import compare, compare_runs
from lightly_prg.comparison.budget import StepCost, affordable_steps, step_costs, with_steps
from lightly_prg.comparison.images import Images
from lightly_prg.comparison.judging import Judge
from lightly_prg.console import Console
from lightly_prg.cost.step_timing import StepTime
from lightly_prg.cost.training_cost import training_cost
from lightly_prg.data import DataInfo, Splits
from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.files import read_comparison
from lightly_prg.evaluation import Evaluation
from lightly_prg.methods.method import Method
from lightly_prg.recipe import parse_recipe
from lightly_prg.recipe.comparison import BudgetRecipe, ComparisonRecipe, EvaluatorsRecipe, parse_comparison
from lightly_prg.run import Run, load

PRG = """
name: p
data: {name: digits}
method:
  name: prg
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false}
  ode: {steps: 1}
  feature: {source: block, block: middle, tau: 0.3}
  augment: {horizontal_flip: false}
train: {epochs: 9, batch_size: 8, lr: 1.0e-2, warmup_epochs: 3, ema_decay: 0.9, precision: 32, accelerator: cpu}
"""
MAE = """
name: m
data: {name: digits}
method:
  name: mae
  backbone: {patch_size: 4, width: 16, depth: 2, heads: 2}
  decoder: {width: 8, depth: 1, heads: 2}
  augment: {horizontal_flip: false}
train: {epochs: 5, batch_size: 8, lr: 1.0e-3, warmup_epochs: 1, precision: 32, accelerator: cpu}
"""
# 44 images in batches of 8: 5 batches an epoch; a budget of 1.4 epochs is 7 batches.
EVALUATORS = {"knn": {"k": 5, "ks": [5]}, "linear": {"max_iterations": 20}, "few_shot": {"labels": 2, "draws": 2}}


@pytest.fixture(scope="module")
def splits() -> Splits:
    def images(count: int, seed: int) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 2
        pixels[labels == 1, :, :4] //= 2
        return ImageSet(pixels, labels=labels, names=[f"{seed}-{i}" for i in range(count)], class_names=["up", "down"])

    return Splits(images(44, 0), images(12, 1), images(20, 2))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> ComparisonRecipe:
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in (("prg", PRG), ("mae", MAE)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    content = {
        "name": "tiny",
        "methods": [
            {"label": "PRG", "recipe": str(folder / "prg.yaml")},
            {"label": "MAE", "recipe": str(folder / "mae.yaml")},
        ],
        "seeds": [0, 1],
        "budget": {"kind": "epochs", "amount": 1.4},
        "evaluators": EVALUATORS,
        "scan": True,
        "scan_taus": [0.0, 0.3],
        "split": "test",
    }
    return parse_comparison(json.dumps(content))


@pytest.fixture(scope="module", autouse=True)
def no_map_of_a_scan() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightly_prg.scan.plot_scan", lambda *arguments: None)
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn once, by ``whole``, which is made before this."""
    monkeypatch.setattr("lightly_prg.eval.comparison.compare._draw", lambda *arguments: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, comparison: ComparisonRecipe, splits: Splits) -> Path:
    """The comparison as it goes without interruption."""
    return compare(comparison, out=tmp_path_factory.mktemp("whole") / "out", data=splits).parent


def accuracies(folder: Path) -> Any:
    content = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    return [(row["label"], row["by_seed"], row["differences"]) for row in content["methods"]]


class Killed(Exception):
    pass


def test_folder__has_tables_page_runs_and_results(whole: Path) -> None:
    table = json.loads((whole / "table.json").read_text(encoding="utf-8"))
    assert [column["key"] for column in table["columns"]] == ["knn", "linear", "few_shot", "pca_knn", "pca_linear"]
    assert [row["label"] for row in table["methods"]] == ["PRG", "MAE"]
    assert table["costs"]["PRG"]["steps"] == table["costs"]["MAE"]["steps"] == [7, 7]
    for row in table["methods"]:
        assert set(row["by_seed"]["linear"]) == {"0", "1"}
        assert row["costs"]["steps"] == 7
        assert all(row["costs"][key] > 0 for key in ("parameters", "embedding_macs", "training_macs", "nfe"))
    for seed in (0, 1):
        run = Run(whole / "runs" / f"prg-seed{seed}")
        scanned = json.loads((run.folder / "eval" / "scan.json").read_text(encoding="utf-8"))
        assert {tuple(cell["tau"]) for cell in scanned["cells"]} == {(0.0,), (0.3,)}
        assert run.recipe.train.max_steps == 7
        assert run.recipe.train.epochs == 2
        assert run.recipe.train.warmup_epochs == pytest.approx(2 / 3)
        assert run.description["training"]["epochs"] == 1.4
        assert run.metrics.read_text(encoding="utf-8").splitlines()[-1].startswith("7,1.4,")
    for name in ("table.md", "table.csv", "table.tex", "comparison.html", "figures/learning_curves-dark.png"):
        assert (whole / name).is_file()


def test_killed_anywhere__ends_with_the_same_accuracies(
    tmp_path: Path, whole: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    step, judge, scan = Method.training_step, Judge.judge, judging.scan

    def dies_in_training(self: Method, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 6:  # behind a checkpoint
            raise Killed
        return step(self, batch, batch_idx)

    def dies_before_judging(*arguments: Any) -> None:
        raise Killed

    def dies_behind_the_scan(*arguments: Any, **options: Any) -> Any:
        scan(*arguments, **options)
        raise Killed

    def dies_behind_the_first_cell(self: Judge, cell: Any, records: Any) -> None:
        if cell.label == "MAE":
            raise Killed
        judge(self, cell, records)

    for target, name, broken in (
        (Method, "training_step", dies_in_training),
        (judging, "scan", dies_behind_the_scan),
        (Judge, "judge", dies_before_judging),
        (Judge, "judge", dies_behind_the_first_cell),
        (Judge, "judge_at", dies_before_judging),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, broken)
            with pytest.raises(Killed):
                compare(comparison, out=out, data=splits)
        if broken is dies_behind_the_first_cell:
            assert [(cell.label, cell.seed) for cell in read_comparison(out).cells] == [("PRG", 0)]
        if name == "training_step":  # what a kill can leave of a run that had hardly begun
            (out / "runs" / "mae-seed1").mkdir(parents=True)
            (out / "runs" / "mae-seed1" / ".recipe.1.yaml").write_text("name: m", encoding="utf-8")
    compare(comparison, out=out, data=splits)
    assert accuracies(out) == accuracies(whole)
    for cell in ("prg-seed0", "mae-seed1"):
        weights = [(folder / "runs" / cell / "encoder.safetensors").read_bytes() for folder in (out, whole)]
        assert weights[0] == weights[1]


def test_finished__does_nothing_again(
    tmp_path: Path, whole: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("done again")

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = accuracies(out)
    monkeypatch.setattr(Method, "training_step", refuse)
    with monkeypatch.context() as patch:
        for name in ("scan", "finetune_run", "evaluate_knn", "Evaluation"):
            patch.setattr(judging, name, refuse)
        compare(comparison, out=out, data=splits)
    assert accuracies(out) == before
    # Another question is asked anew, of the same runs.
    evaluators = comparison.evaluators.model_dump() | {"few_shot": None, "common_dimension": 3}
    changed = comparison.model_copy(update={"evaluators": EvaluatorsRecipe.model_validate(evaluators)})
    compare(changed, out=out, data=splits)
    assert [column["detail"] for column in json.loads((out / "table.json").read_text())["columns"][2:]] == [
        "PCA to 3"
    ] * 2


def test_runs_without_weights__keep_their_results_and_are_trained_for_other_questions(
    tmp_path: Path, whole: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("done again")

    kept, out = tmp_path / "kept", tmp_path / "out"
    shutil.copytree(whole, kept)
    shutil.copytree(whole, out)
    before = accuracies(out)
    for run in (out / "runs").iterdir():
        for entry in list(run.iterdir()):
            if entry.name not in ("recipe.yaml", "encoder.json", "metrics.csv"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert {Run(run).state for run in (out / "runs").iterdir()} == {"trained, weights removed"}
    with monkeypatch.context() as patch:
        patch.setattr(Method, "training_step", refuse)
        patch.setattr(judging, "Evaluation", refuse)
        compare(comparison, out=out, data=splits)
    assert accuracies(out) == before
    with pytest.raises(UserError, match=r"mae-seed1 has no weights any more: encoder.safetensors was removed"):
        load(out / "runs" / "mae-seed1")
    # Another question needs the weights: they are made again, and what lay in the run of the former goes.
    stale = out / "runs/prg-seed0/snapshots/step-3"
    stale.mkdir(parents=True)
    evaluators = comparison.evaluators.model_dump() | {"few_shot": None, "knn": {"k": 3, "ks": [3]}}
    changed = comparison.model_copy(update={"evaluators": EvaluatorsRecipe.model_validate(evaluators)})
    for folder in (kept, out):
        compare(changed, out=folder, data=splits)
    assert accuracies(out) == accuracies(kept) != before
    assert all(Run(run).is_trained for run in (out / "runs").iterdir())
    assert not stale.exists()


def test_controls__stand_in_the_table_as_the_evaluators_have_them(
    tmp_path: Path, whole: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    controlled = comparison.model_copy(update={"controls": ("raw_pixels", "pca")})
    compare(controlled, out=out, data=splits)
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in table["methods"]] == ["PRG", "MAE", "raw pixels", "PCA"]
    pixels = table["methods"][2]
    assert (pixels["costs"]["nfe"], pixels["costs"]["embedding_dim"], pixels["costs"]["cpu_seconds"]) == (0, 64, 0)
    own = Evaluation(
        judging.JudgedRun(out / "runs/prg-seed1", comparison.evaluators.settings("test", 250)), data=splits
    )
    assert pixels["by_seed"]["knn"]["1"] == own.knn("raw_pixels")["top1"]
    assert pixels["by_seed"]["few_shot"]["1"] == own.linear("raw_pixels", labels=2)["top1"]
    assert accuracies(out)[:2] == accuracies(whole)
    assert "<b>2 methods</b>" in (out / "comparison.html").read_text(encoding="utf-8")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("done again")

    before = accuracies(out)
    monkeypatch.setattr(judging, "Evaluation", refuse)
    compare(controlled, out=out, data=splits)
    assert accuracies(out) == before


def test_other_recipe__is_refused_and_named(whole: Path, comparison: ComparisonRecipe, splits: Splits) -> None:
    changed = comparison.model_copy(update={"overrides": ("train.lr=0.5",)})
    with pytest.raises(UserError, match=r"prg-seed0 holds a run of another recipe: train.lr is 0.01 there, 0.5 in"):
        compare(changed, out=whole, data=splits)
    methods = tuple(
        method.model_copy(update={"overrides": ("data.validation_fraction=0.3",)}) if method.label == "MAE" else method
        for method in comparison.methods
    )
    with pytest.raises(
        UserError, match=r"PRG and MAE cannot be compared: data.validation_fraction is 0.1 for PRG, 0.3"
    ):
        compare(comparison.model_copy(update={"methods": methods}), out=whole, data=splits)


def test_finished_runs__are_compared_in_place_and_taken_over(
    tmp_path: Path, whole: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [whole / "runs" / f"{name}-seed{seed}" for name in ("prg", "mae") for seed in (0, 1)]
    before = [(run / "recipe.yaml").read_bytes() for run in runs]
    evaluators = comparison.evaluators.model_copy(update={"common_dimension": None})
    page = compare_runs(runs, evaluators=evaluators, out=tmp_path / "runs", data=splits)
    ours, theirs = accuracies(page.parent), accuracies(whole)
    assert [row[0] for row in ours] == ["prg", "mae"]
    for (_, mine, _), (_, others, _) in zip(ours, theirs, strict=True):
        assert mine == {key: others[key] for key in mine}
    assert [(run / "recipe.yaml").read_bytes() for run in runs] == before
    with pytest.raises(UserError, match="seeds, which decide over the split, are 0, 1 for prg, 0 for mae"):
        compare_runs(runs[:3], out=tmp_path / "unequal", data=splits)
    with pytest.raises(UserError, match="same recipe with the same seed"):
        compare_runs([runs[0], runs[0]], out=tmp_path / "twice", data=splits)

    # Another question than that of their recipes has a folder of its own.
    monkeypatch.chdir(tmp_path)
    assert compare_runs(runs[:1], data=splits).parent.name == "prg"
    unchosen = tmp_path / "unchosen"
    shutil.copytree(runs[0], unchosen, ignore=shutil.ignore_patterns("scan.json"))
    with pytest.raises(UserError, match="its feature was chosen on the validation images"):
        compare_runs([unchosen], data=splits, split="validation")
    described = json.loads((unchosen / "encoder.json").read_text(encoding="utf-8"))
    assert described.pop("chosen_on") == {"feature": "validation"}
    (unchosen / "encoder.json").write_text(json.dumps(described), encoding="utf-8")
    assert compare_runs([unchosen], data=splits, split="validation").parent.name == "prg-validation"

    # A run of the same recipe serves for its seed.
    one = comparison.methods[0].model_copy(update={"recipe": str(runs[0])})
    again = comparison.model_copy(update={"methods": (one,), "seeds": (0,), "reference": None})

    def refuse(*arguments: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Method, "training_step", refuse)
    out = compare(again, out=tmp_path / "taken", data=splits).parent
    assert (out / "runs" / "prg-seed0" / "encoder.safetensors").read_bytes() == (
        runs[0] / "encoder.safetensors"
    ).read_bytes()


class TestBudget:
    recipe = parse_recipe(PRG)

    def test_epochs_and_macs__are_exact(self) -> None:
        cost = StepCost(seconds=None, macs=1000.0, images=8)
        assert affordable_steps(self.recipe, BudgetRecipe(kind="epochs", amount=4), cost, num_train=44) == 20
        assert affordable_steps(self.recipe, BudgetRecipe(kind="macs", amount=12_999), cost, num_train=44) == 12
        whole = with_steps(self.recipe, 20, num_train=44)  # 4 epochs of 5
        assert (whole.train.epochs, whole.train.max_steps) == (4, None)
        assert whole.train.warmup_epochs == pytest.approx(4 / 3)  # a third, as before
        part = with_steps(self.recipe, 12, num_train=44)
        assert (part.train.epochs, part.train.max_steps) == (3, 12)
        assert part.train.warmup_epochs == pytest.approx(1.0)

    def test_seconds__are_divided_by_those_of_a_step(self) -> None:
        cost = StepCost(seconds=0.25, macs=1000.0, images=8)
        budget = BudgetRecipe(kind="cpu_seconds", amount=5.1)
        assert affordable_steps(self.recipe, budget, cost, num_train=44) == 20
        with pytest.raises(UserError, match=r"0.1 CPU seconds is less than one step of p, which takes 0.25"):
            affordable_steps(self.recipe, BudgetRecipe(kind="cpu_seconds", amount=0.1), cost, num_train=44)

    def test_probe__measures_steps_and_leaves_nothing(self, tmp_path: Path, splits: Splits) -> None:
        info = DataInfo(1, 8, 2, 44, 12, 20)
        quiet = Console(quiet=True)
        options: dict[str, Any] = {
            "folder": tmp_path, "images": Images(splits, quiet), "trust": False, "console": quiet,
        }  # fmt: skip
        budget = BudgetRecipe(kind="cpu_seconds", amount=1)
        cost = step_costs({"p": self.recipe}, budget, {"p": info}, **options)["p"]
        assert cost.seconds is not None
        assert 1e-4 < cost.seconds < 1.0
        assert cost.images == 8
        assert list(tmp_path.iterdir()) == []
        # Twice the batch, twice the multiply-adds.
        double = self.recipe.model_copy(update={"train": self.recipe.train.model_copy(update={"batch_size": 16})})
        counted = step_costs({"p": double}, BudgetRecipe(kind="macs", amount=1), {"p": info}, **options)["p"]
        assert counted.macs == pytest.approx(2 * cost.macs)
        assert counted.seconds is None
        with pytest.raises(UserError, match="in GPU seconds, but p trains on cpu"):
            step_costs({"p": self.recipe}, BudgetRecipe(kind="gpu_seconds", amount=1), {"p": info}, **options)

    def test_methods__take_turns_in_being_timed(
        self, tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # While the second of three rounds is measured, something else slows the machine down.
        clock = iter([1.0, 2.0, 9.0, 18.0, 1.2, 2.2])
        turns = []

        def measure(recipe: Any, **options: Any) -> StepTime:
            turns.append(recipe.name)
            return StepTime(wall_seconds=0.0, computing_seconds=next(clock), peak_bytes=0, steps=5)

        monkeypatch.setattr("lightly_prg.comparison.budget.time_steps", measure)
        other = self.recipe.model_copy(update={"name": "q"})
        info = DataInfo(1, 8, 2, 44, 12, 20)
        quiet = Console(quiet=True)
        costs = step_costs(
            {"p": self.recipe, "q": other},
            BudgetRecipe(kind="cpu_seconds", amount=60),
            {"p": info, "q": info},
            folder=tmp_path,
            images=Images(splits, quiet),
            trust=False,
            console=quiet,
        )
        assert turns == ["p", "q"] * 3
        assert (costs["p"].seconds, costs["q"].seconds) == (1.2, 2.2)

    def test_measured_cost__is_kept_for_a_resumption(
        self, tmp_path: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []

        def measure(recipes: Any, *arguments: Any, **options: Any) -> dict[str, StepCost]:
            costs = {}
            for key, recipe in recipes.items():
                calls.append(recipe.name)
                costs[key] = StepCost(0.5 / len(calls), 1.0, 8)
            return costs

        def stop(*arguments: Any, **options: Any) -> None:
            raise Killed

        monkeypatch.setattr("lightly_prg.comparison.kept_costs.step_costs", measure)
        monkeypatch.setattr("lightly_prg.comparison.trained", stop)
        timed = comparison.model_copy(update={"budget": BudgetRecipe(kind="cpu_seconds", amount=3)})
        for _ in range(2):
            with pytest.raises(Killed):
                compare(timed, out=tmp_path, data=splits)
        assert calls == ["prg-seed0", "mae-seed0"]
        stored = json.loads((tmp_path / "budget.json").read_text(encoding="utf-8"))
        assert [(cost["label"], cost["seconds_per_step"]) for cost in stored.values()] == [("PRG", 0.5), ("MAE", 0.25)]

    def test_new_method_on_a_slower_machine__gets_the_steps_that_it_would_have_had(
        self, tmp_path: Path, comparison: ComparisonRecipe, splits: Splits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seconds = {"prg-seed0": 0.5, "mae-seed0": 0.25}
        slower = 1.0
        timed: list[list[str]] = []

        def measure(recipes: Any, *arguments: Any, **options: Any) -> dict[str, StepCost]:
            timed.append([recipe.name for recipe in recipes.values()])
            return {key: StepCost(slower * seconds[recipe.name], 1.0, 8) for key, recipe in recipes.items()}

        def stop(*arguments: Any, **options: Any) -> None:
            raise Killed

        monkeypatch.setattr("lightly_prg.comparison.kept_costs.step_costs", measure)
        monkeypatch.setattr("lightly_prg.comparison.trained", stop)
        said: list[str] = []
        monkeypatch.setattr(Console, "say", lambda self, text="", **options: said.append(text))
        whole = comparison.model_copy(update={"budget": BudgetRecipe(kind="cpu_seconds", amount=3)})
        first = whole.model_copy(update={"methods": whole.methods[:1], "reference": None})
        for recipe, slower in ((first, 1.0), (whole, 4.0), (whole, 9.0)):  # noqa: B007, read by `measure`
            with pytest.raises(Killed):
                compare(recipe, out=tmp_path, data=splits)
        assert timed == [["prg-seed0"], ["mae-seed0", "prg-seed0"], []]
        stored = json.loads((tmp_path / "budget.json").read_text(encoding="utf-8"))
        assert [(cost["label"], cost["seconds_per_step"]) for cost in stored.values()] == [("PRG", 0.5), ("MAE", 0.25)]
        told = [text for text in said if text.startswith("A step of PRG took 0.5 seconds")]
        assert len(told) == 1
        assert "takes 2 now" in told[0]
        assert "multiplied by 0.25" in told[0]


def test_steps_of_another__are_exactly_its_steps(tmp_path: Path, comparison: ComparisonRecipe, splits: Splits) -> None:
    recipe = comparison.methods[0].recipe
    content: dict[str, Any] = {
        "name": "steps",
        "methods": [
            {"label": "whole", "recipe": recipe},
            {"label": "part", "recipe": recipe, "steps_of": "whole", "overrides": ["train.batch_size=4"]},
        ],
        "seeds": [0],
        "budget": {"kind": "epochs", "amount": 2},
        "evaluators": {"knn": {"k": 5, "ks": [5]}, "linear": None, "few_shot": None},
    }
    folder = compare(parse_comparison(json.dumps(content)), out=tmp_path / "out", data=splits).parent
    trainings = [Run(folder / "runs" / f"{name}-seed0").description["training"] for name in ("whole", "part")]
    assert [training["steps"] for training in trainings] == [10, 10]
    assert [training["images"] for training in trainings] == [80, 40]
    for change, reason in (
        ({"steps_of": "missing"}, "takes the steps of 'missing', which has to be a method above it"),
        ({"share": 0.5}, "has both `share` and `steps_of`"),
    ):
        wrong = {**content, "methods": [content["methods"][0], {**content["methods"][1], **change}]}
        with pytest.raises(UserError, match=reason):
            parse_comparison(json.dumps(wrong))
    with pytest.raises(UserError, match="has `steps_of`, and there is no budget"):
        parse_comparison(json.dumps({**content, "budget": None}))


def test_untrained_network__costs_nothing_and_has_no_steps_to_take(
    tmp_path: Path, comparison: ComparisonRecipe, splits: Splits
) -> None:
    recipe = comparison.methods[0].recipe
    drawn = {"label": "as drawn", "recipe": recipe, "overrides": ["train.epochs=0"]}
    content: dict[str, Any] = {
        "name": "untrained",
        "methods": [{"label": "trained", "recipe": recipe}, drawn],
        "seeds": [0],
        "budget": {"kind": "epochs", "amount": 1},
        "evaluators": {"knn": {"k": 5, "ks": [5]}, "linear": None, "few_shot": None},
    }
    folder = compare(parse_comparison(json.dumps(content)), out=tmp_path / "out", data=splits).parent
    trained_facts, facts = (
        json.loads((folder / f"results/{name}-seed0/facts.json").read_text(encoding="utf-8"))["result"]
        for name in ("trained", "as-drawn")
    )
    assert (trained_facts["training"]["steps"], facts["training"]["steps"]) == (5, 0)
    assert (trained_facts["training_macs"] > 0, facts["training_macs"]) == (True, 0)
    rows = json.loads((folder / "table.json").read_text(encoding="utf-8"))["methods"]
    assert [row["label"] for row in rows] == ["trained", "as drawn"]
    promised = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["promised"]
    assert promised == {"trained": 1.0, "as drawn": None}
    content["methods"] = [drawn, {"label": "part", "recipe": recipe, "steps_of": "as drawn"}]
    with pytest.raises(UserError, match="'part' takes the steps of 'as drawn', which is not trained here"):
        compare(parse_comparison(json.dumps(content)), out=tmp_path / "other", data=splits)


def test_one_after_the_other__starts_from_the_first_with_its_share(
    tmp_path: Path, comparison: ComparisonRecipe, splits: Splits
) -> None:
    recipe = comparison.methods[0].recipe
    content = {
        "name": "after",
        "methods": [
            {"label": "whole", "recipe": recipe},
            {"label": "first", "recipe": recipe, "share": 0.5},
            {"label": "second", "recipe": recipe, "share": 0.5, "start_from": "first", "overrides": ["train.lr=1e-30"]},
        ],
        "seeds": [0],
        "budget": {"kind": "epochs", "amount": 2},
        "evaluators": {"knn": {"k": 5, "ks": [5]}, "linear": None, "few_shot": None},
    }
    folder = compare(parse_comparison(json.dumps(content)), out=tmp_path / "out", data=splits).parent
    runs = {name: Run(folder / "runs" / f"{name}-seed0") for name in ("whole", "first", "second")}
    steps = {name: run.description["training"]["steps"] for name, run in runs.items()}
    assert steps == {"whole": 10, "first": 5, "second": 5}
    # With a learning rate of nothing the second ends where it started: with the averaged weights of the first.
    first, second = (load(runs[name].folder).network.state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    # Both stages made its weights: it costs what the whole budget buys.
    rows = {row["label"]: row["costs"] for row in json.loads((folder / "table.json").read_text())["methods"]}
    assert {label: costs["steps"] for label, costs in rows.items()} == {"whole": 10, "first": 5, "second": 10}
    assert rows["second"]["training_macs"] == rows["whole"]["training_macs"] == 2 * rows["first"]["training_macs"]
    for key in ("cpu_seconds", "wall_seconds"):
        spent = sum(runs[name].description["training"][key] for name in ("first", "second"))
        assert rows["second"][key] == pytest.approx(spent, abs=0.051)
    # A price of which a part is lost is not known.
    (folder / "runs/first-seed0/encoder.json").unlink()
    assert training_cost(runs["second"], trust=False).macs is None
    assert training_cost(runs["second"], trust=False).training["cpu_seconds"] is None
    assert training_cost(runs["whole"], trust=False).training == runs["whole"].description["training"]


def test_judged_run__leaves_the_runs_own_result_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.create(parse_recipe(PRG))
    content = {"encoder": "run", "split": "test", "options": {}}
    same, other = run.recipe.eval, run.recipe.eval.model_copy(update={"batch_size": 7})
    for settings, plain in ((other, False), (same, True)):
        judged = judging.JudgedRun(tmp_path, settings)
        assert judged.recipe == run.recipe.model_copy(update={"eval": settings})
        path = judged.write_result("knn", content, own_options=True)
        assert (path.name == "knn.json") is plain


class TestForeignFiles:
    def test_folder_of_something_else__is_left_alone(
        self, comparison: ComparisonRecipe, splits: Splits, tmp_path: Path
    ) -> None:
        (tmp_path / ".DS_Store").touch()  # nothing that anyone would miss
        (tmp_path / "table.csv").write_text("precious")
        with pytest.raises(UserError, match=r"holds table\.csv, which is of no comparison"):
            compare(comparison, out=tmp_path, data=splits)
        assert (tmp_path / "table.csv").read_text() == "precious"

    def test_tables_of_another_comparison__are_not_replaced(
        self, comparison: ComparisonRecipe, splits: Splits, tmp_path: Path
    ) -> None:
        (tmp_path / "comparison.yaml").write_text(comparison.model_copy(update={"name": "other"}).to_yaml())
        (tmp_path / "table.md").write_text("measured for hours")
        with pytest.raises(UserError, match=r"holds 'other', whose tables would be replaced"):
            compare(comparison, out=tmp_path, data=splits)
        assert (tmp_path / "table.md").read_text() == "measured for hours"

    def test_place_of_a_run__that_holds_something_else_is_left_alone(
        self, comparison: ComparisonRecipe, splits: Splits, tmp_path: Path
    ) -> None:
        mine = tmp_path / "runs" / "prg-seed0" / "report.html"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        with pytest.raises(UserError, match=r"holds report\.html and no recipe\.yaml"):
            compare(comparison.model_copy(update={"budget": None}), out=tmp_path, data=splits)
        assert mine.read_text() == "mine"
