"""What a comparison takes over from earlier work, and what it must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import halves

import lightly_prg.comparison.judging as judging
from lightly_prg.comparison import compare, compare_runs
from lightly_prg.comparison.cells import Cell, check_run, first_difference, trained
from lightly_prg.comparison.images import Images
from lightly_prg.comparison.judging import Judge
from lightly_prg.comparison.records import Records
from lightly_prg.comparison.runs import _cells_of
from lightly_prg.console import Console
from lightly_prg.data import Splits
from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval.comparison.files import read_comparison
from lightly_prg.eval.linear import PENALTIES
from lightly_prg.evaluation import Evaluation
from lightly_prg.files import read_json
from lightly_prg.methods.method import Method
from lightly_prg.recipe import EvalRecipe, Recipe, parse_recipe
from lightly_prg.recipe.comparison import EvaluatorsRecipe, parse_comparison
from lightly_prg.run import Run
from lightly_prg.train import build_module, describe_splits

TINY = """
name: x
data: {name: digits}
method:
  name: mae
  backbone: {patch_size: 4, width: 16, depth: 1, heads: 2}
  decoder: {width: 8, depth: 1, heads: 2}
  augment: {horizontal_flip: false}
train: {epochs: 2, batch_size: 8, lr: 1.0e-3, precision: 32, accelerator: cpu}
"""
KNN: dict[str, Any] = {"knn": {"k": 5, "ks": [5]}, "linear": None, "few_shot": None}
QUIET = Console(quiet=True)


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightly_prg.eval.comparison.compare._draw", lambda *arguments: None)


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(TINY, overrides=overrides)


def export(
    folder: Path,
    *overrides: str,
    splits: Splits,
    weights: int = 0,
    finetuned: str | None = None,
) -> Path:
    """A finished run without a training: its weights are as they were drawn."""
    wanted, run = recipe(*overrides), Run(folder)
    drawn = wanted.model_copy(update={"seed": 100 + weights, "init_from": None})
    run.create(wanted)
    if finetuned is not None:
        (folder / "head.json").write_text("{}", encoding="utf-8")
    run.export(
        build_module(drawn, splits, trust=False).encoder(),
        data=describe_splits(wanted, splits),
        training={"epochs": 0, "steps": 0},
        extra=None if finetuned is None else {"finetuned": {"encoder": finetuned}},
    )
    return folder


def swapped(splits: Splits) -> Splits:
    """The same shapes, names and counts of other images."""

    def other(images: ImageSet) -> ImageSet:
        pixels, labels, names = images.__getitems__(range(len(images)))
        pixels = 255 - pixels.flip(2)
        pixels[::3] = 128
        return ImageSet(pixels, labels=labels, names=names, class_names=images.class_names)

    return Splits(*(other(part) for part in (splits.train, splits.validation, splits.test)))


def numbers(page: Path) -> dict[str, Any]:
    content = json.loads((page.parent / "table.json").read_text(encoding="utf-8"))
    return {row["label"]: row["by_seed"] for row in content["methods"]}


def evaluators(**options: Any) -> EvaluatorsRecipe:
    return EvaluatorsRecipe.model_validate({**KNN, "common_dimension": None, **options})


class TestResults:
    def test_other_images__are_judged_anew(self, tmp_path: Path) -> None:
        cats = halves(8)
        dogs = swapped(cats)
        runs = [
            export(tmp_path / name, f"name={name}", f"train.lr={rate}", splits=cats)
            for name, rate in (("alpha", 0.1), ("beta", 0.2))
        ]
        before = numbers(compare_runs(runs, evaluators=evaluators(), out=tmp_path / "out", data=cats))
        after = numbers(compare_runs(runs, evaluators=evaluators(), out=tmp_path / "out", data=dogs))
        fresh = numbers(compare_runs(runs, evaluators=evaluators(), out=tmp_path / "fresh", data=dogs))
        assert after == fresh
        assert after != before

    def test_network_trained_anew__is_judged_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        whole = Evaluation.knn

        def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            asked.append(self.run.folder.name)
            return whole(self, *arguments, **options)

        monkeypatch.setattr(Evaluation, "knn", counted)
        splits = halves(8)
        runs = [
            export(tmp_path / name, f"name={name}", f"train.lr={rate}", splits=splits)
            for name, rate in (("alpha", 0.1), ("beta", 0.2))
        ]
        compare_runs(runs, evaluators=evaluators(), out=tmp_path / "out", data=splits)
        export(runs[1], "name=beta", "train.lr=0.2", splits=splits, weights=1)
        compare_runs(runs, evaluators=evaluators(), out=tmp_path / "out", data=splits)
        assert asked == ["alpha", "beta", "beta"]

    def test_page__is_there_before_the_common_dimension(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        splits = halves(8, num_train=10)
        runs = [
            export(tmp_path / f"w{width}", f"name=w{width}", f"method.backbone.width={width}", splits=splits)
            for width in (16, 24)
        ]
        options: dict[str, Any] = {"out": tmp_path / "out", "data": splits}

        def stop(*arguments: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Judge, "judge_at", stop)
            with pytest.raises(Killed):
                compare_runs(runs, evaluators=evaluators(common_dimension="auto"), **options)
        assert (tmp_path / "out" / "comparison.html").is_file()
        # 10 training images span 9 directions, fewer than either encoder has.
        compare_runs(runs, evaluators=evaluators(common_dimension="auto"), **options)
        table = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))
        assert [column["detail"] for column in table["columns"][1:]] == ["PCA to 9"] * 2

    def test_common_dimension_above_that_of_an_encoder__leaves_it_out(self, tmp_path: Path) -> None:
        splits = halves(8, num_train=60)
        runs = [
            export(tmp_path / f"w{width}", f"name=w{width}", f"method.backbone.width={width}", splits=splits)
            for width in (16, 24)
        ]
        options: dict[str, Any] = {"out": tmp_path / "out", "data": splits}
        compare_runs(runs, evaluators=evaluators(common_dimension=16), **options)
        page = compare_runs(runs, evaluators=evaluators(common_dimension=20), **options)
        measured = {name: [key for key, by_seed in scores.items() if by_seed] for name, scores in numbers(page).items()}
        assert measured == {"w16": ["knn"], "w24": ["knn", "pca_knn", "pca_linear"]}
        assert read_comparison(tmp_path / "out").notes == (
            "w16, seed 0: no accuracies after PCA to 20: its feature has 16.",
        )


class TestMethods:
    def test_names_of_the_same_files__get_labels_of_their_own(self, tmp_path: Path) -> None:
        splits = halves(8)
        runs = [
            Run(export(tmp_path / f"{number}", f"name={name}", f"train.lr=0.{number}", splits=splits))
            for number, name in enumerate(("Net", "net", "net.", "net-2"), 1)
        ]
        cells = _cells_of(runs, None, evaluators())
        assert len({cell.key for cell in cells}) == len({cell.label for cell in cells}) == 4
        assert [cell.label for cell in cells[:2]] == ["Net", "net 2"]

    def test_finetuned__is_a_method_beside_pretrained_and_scratch(self, tmp_path: Path) -> None:
        splits = halves(8)
        made: list[Path] = []

        def add(name: str, *overrides: str, finetuned: str | None = None) -> Run:
            made.append(export(tmp_path / name, f"name={name}", *overrides, splits=splits, finetuned=finetuned))
            return Run(made[-1])

        settings = "eval.finetune={epochs: 3}"
        runs = [
            add("q-seed0", "seed=0"),
            add("q-seed1", "seed=1"),
            *(add(f"q-seed{seed}-finetuned", f"seed={seed}", f"init_from=runs/q-seed{seed}", settings,
                  finetuned="run") for seed in (0, 1)),
            *(add(f"q-seed{seed}-scratch", f"seed={seed}", settings, finetuned="random_network") for seed in (0, 1)),
            add("q-longer", "init_from=runs/q-seed0", "eval.finetune={epochs: 4}", finetuned="run"),
            add("q-after", "init_from=runs/first"),
        ]  # fmt: skip
        cells = _cells_of(runs, None, evaluators())
        seeds: dict[str, list[int]] = {}
        for cell in cells:
            seeds.setdefault(cell.label, []).append(cell.seed)
        assert seeds == {"q": [0, 1], "q-finetuned": [0, 1], "q-scratch": [0, 1], "q-longer": [0], "q-after": [0]}

    def test_robustness__is_of_the_very_model_that_was_fine_tuned(self, tmp_path: Path) -> None:
        splits, folder = halves(8), tmp_path / "finetuned"
        (cell,) = _cells_of([Run(export(tmp_path / "run", splits=splits))], None, evaluators())
        options = {"finetune": {"epochs": 1}, "robustness": {"of": "finetuned"}}

        def asked(options: dict[str, Any]) -> Any:
            judge = Judge(evaluators(**options), EvalRecipe(), Images(splits, Console()), False, Console())
            return dict(judge._requests(cell, folder))["robustness"]

        assert asked(options)["model"] is None
        export(folder, splits=splits, finetuned="run")
        first = asked(options)
        export(folder, splits=splits, finetuned="run", weights=1)
        assert asked(options) != first
        assert asked({"robustness": {"of": "probe"}})["penalties"] == list(PENALTIES)

    def test_finetuned__is_no_recipe_of_a_comparison(self, tmp_path: Path) -> None:
        folder = export(tmp_path / "a-finetuned", "init_from=runs/a", splits=halves(8), finetuned="run")
        for named in (folder, folder / "recipe.yaml"):
            wanted = parse_comparison(json.dumps({"name": "c", "methods": [{"label": "A", "recipe": str(named)}]}))
            with pytest.raises(UserError, match=r"Method 'A': .*a-finetuned is a fine-tuned run"):
                wanted.recipe_of(wanted.methods[0], 1)


class TestFolder:
    """A folder of images is its place, or what it holds."""

    @pytest.fixture
    def cats(self, tmp_path: Path) -> Path:
        return self.draw(tmp_path / "cats", seed=0)

    def draw(self, root: Path, *, seed: int) -> Path:
        from PIL import Image

        generator = torch.Generator().manual_seed(seed)
        for part, count in (("train", 12), ("test", 6)):
            for index in range(count):
                path = root / part / "ab"[index % 2] / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(path)
        return root

    def cell(self, folder: Path, root: Path, source: Path | None = None) -> Cell:
        overrides = (f"data={{name: folder, root: '{root}', image_size: 8, validation_fraction: 0.34}}",)
        return Cell("A", 0, "a-seed0", recipe(*overrides), folder, source=source)

    def made(self, folder: Path, root: Path) -> Path:
        wanted = self.cell(folder, root).recipe
        return export(
            folder, f"data={json.dumps(wanted.data.model_dump(mode='json'))}", splits=Images(None, QUIET).of(wanted)
        )

    def test_place__tells_folders_apart_and_no_named_sets(self, cats: Path, tmp_path: Path) -> None:
        here, there = (self.cell(tmp_path, root).recipe for root in (cats, tmp_path / "dogs"))
        difference = first_difference(here, there, scanned=False)
        assert difference == ("data.root", str(cats.resolve()), str((tmp_path / "dogs").resolve()))
        assert first_difference(here, here, scanned=False) is None
        assert first_difference(recipe("data.root=a"), recipe("data.root=b"), scanned=False) is None

    def test_moved_folder__serves_and_another_is_refused(self, cats: Path, tmp_path: Path) -> None:
        run = self.made(tmp_path / "run", cats)
        moved, dogs = tmp_path / "moved", self.draw(tmp_path / "dogs", seed=1)
        shutil.move(cats, moved)
        options: dict[str, Any] = {"scanned": False, "data": None, "trust": False, "console": QUIET}
        assert trained(self.cell(run, moved), images=Images(None, QUIET), **options).folder == run
        with pytest.raises(UserError, match=r"holds a run of another recipe: data.root is"):
            check_run(self.cell(run, dogs), scanned=False, images=Images(None, QUIET))
        # Where nobody can tell, the path decides.
        with pytest.raises(UserError, match=r"holds a run of another recipe: data.root is"):
            check_run(self.cell(run, moved), scanned=False)

    def test_other_images_in_the_same_place__are_noticed(
        self, cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = self.made(tmp_path / "run", cats)
        self.draw(cats, seed=1)
        options: dict[str, Any] = {"scanned": False, "data": None, "trust": False, "console": QUIET}
        with pytest.raises(UserError, match=r"run was trained on other images than .*cats holds now"):
            trained(self.cell(run, cats), images=Images(None, QUIET), **options)

        def stop(*arguments: Any, **options: Any) -> None:
            raise Killed

        monkeypatch.setattr("lightly_prg.comparison.cells.train", stop)
        with pytest.raises(Killed):  # the run is not taken for one of these images
            trained(self.cell(tmp_path / "new", cats, source=run), images=Images(None, QUIET), **options)

    def test_finished_runs__are_not_judged_by_images_that_they_may_have_seen(self, cats: Path, tmp_path: Path) -> None:
        run = self.made(tmp_path / "run", cats)
        self.draw(cats, seed=1)
        with pytest.raises(UserError, match=r"run was trained on other images than .*cats holds now: some"):
            compare_runs([run], evaluators=evaluators(), out=tmp_path / "out")

    def test_comparison__goes_on_with_the_moved_images(
        self, cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.made(tmp_path / "out" / "runs" / "a-seed0", cats)
        (tmp_path / "recipe.yaml").write_text(self.cell(tmp_path, cats).recipe.to_yaml(), encoding="utf-8")
        content = {
            "name": "c",
            "methods": [{"label": "A", "recipe": str(tmp_path / "recipe.yaml")}],
            "seeds": [0],
            "evaluators": KNN,
            "overrides": [f"data.root={tmp_path / 'moved'}"],
        }
        shutil.move(cats, tmp_path / "moved")
        page = compare(parse_comparison(json.dumps(content)), out=tmp_path / "out")
        assert numbers(page)["A"]["knn"].keys() == {"0"}


def test_moved_comparison__goes_on_in_the_middle_of_a_second_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = halves(8, num_train=24)  # 3 batches an epoch
    (tmp_path / "recipe.yaml").write_text(recipe().to_yaml(), encoding="utf-8")
    methods = [
        {"label": "first", "recipe": str(tmp_path / "recipe.yaml")},
        {"label": "second", "recipe": str(tmp_path / "recipe.yaml"), "start_from": "first"},
    ]
    wanted = parse_comparison(json.dumps({"name": "j", "methods": methods, "seeds": [0], "evaluators": KNN}))
    step, steps = Method.training_step, [0]

    def dies(self: Method, batch: Any, batch_idx: int) -> Any:
        steps[0] += 1
        if steps[0] == 6 + 5:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", dies)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        compare(wanted, out="j", data=splits)
    (tmp_path / "j").rename(tmp_path / "k")
    compare(wanted, out=tmp_path / "k", data=splits)
    assert steps[0] == 11 + 3  # from behind the first epoch of the second
    assert (tmp_path / "k" / "comparison.html").is_file()
    # A run that started elsewhere is still none of this comparison.
    other = wanted.model_copy(update={"methods": (wanted.methods[0].model_copy(update={"label": "second"}),)})
    with pytest.raises(UserError, match="init_from is j/runs/first-seed0 there, None in the comparison"):
        compare(other, out=tmp_path / "k", data=splits)


def test_second_training__is_not_taken_for_one_of_other_first_weights(tmp_path: Path) -> None:
    splits = halves(8)
    (tmp_path / "recipe.yaml").write_text(recipe("train.epochs=1").to_yaml(), encoding="utf-8")
    methods = [
        {"label": "first", "recipe": str(tmp_path / "recipe.yaml")},
        {"label": "second", "recipe": str(tmp_path / "recipe.yaml"), "start_from": "first"},
    ]
    common = {"name": "j", "seeds": [0], "evaluators": KNN}
    wanted = parse_comparison(json.dumps({**common, "methods": methods}))
    compare(wanted, out=tmp_path / "out", data=splits)
    compare(wanted, out=tmp_path / "out", data=splits)  # nothing has changed
    shutil.rmtree(tmp_path / "out" / "runs" / "first-seed0")
    changed = methods[0] | {"overrides": ["train.lr=0.01"]}
    other = parse_comparison(json.dumps({**common, "methods": [changed, methods[1]]}))
    with pytest.raises(UserError, match=r"second-seed0 started from weights that .*first-seed0 does not hold any more"):
        compare(other, out=tmp_path / "out", data=splits)


def test_scan__starts_from_the_recipe_and_reads_every_method_alike(tmp_path: Path) -> None:
    splits = halves(8)
    (tmp_path / "recipe.yaml").write_text(recipe("train.epochs=1").to_yaml(), encoding="utf-8")

    def scanned(*overrides: str, **keys: Any) -> Any:
        method = {"label": "A", "recipe": str(tmp_path / "recipe.yaml"), "overrides": overrides}
        content = {"name": "s", "methods": [method], "seeds": [0], "evaluators": KNN, "scan": True, "split": "test"}
        compare(parse_comparison(json.dumps(content | keys)), out=tmp_path / "out", data=splits)
        return read_json(tmp_path / "out" / "results" / "a-seed0" / "scan.json")["request"]

    first = scanned()
    cells = read_json(tmp_path / "out" / "runs" / "a-seed0" / "eval" / "scan.json")
    assert {row["pool"] for row in cells["rows"] if row["source"] == "block"} == {"mean", "grid:2"}
    assert cells["criterion"] == first["criterion"] == "both"
    # The run is the same, but its recipe has another feature now: what was scanned before does not answer for it.
    second = scanned("method.feature.pool=grid:2")
    assert first["feature"]["pool"] == "mean"
    assert second["feature"]["pool"] == "grid:2"
    together = scanned("method.feature.pool=grid:2", scan_together=True)
    assert (second["together"], together["together"]) == (False, True)


def test_backup_of_a_scan__is_dropped_with_the_network_it_was_of(tmp_path: Path) -> None:
    splits, backup = halves(8), tmp_path / "results" / "unscanned.json"
    folder = export(tmp_path / "run", splits=splits)
    before = Run(folder).description
    judging._undo_scan(Run(folder), backup)
    chosen = {**before, "feature": "chosen"}
    Run(folder).encoder_file.write_text(json.dumps(chosen), encoding="utf-8")
    judging._undo_scan(Run(folder), backup)
    assert Run(folder).description == before  # cut off: back to what was trained
    export(folder, splits=splits, weights=1)
    again = Run(folder).description
    assert again["weights_crc32"] != before["weights_crc32"]
    judging._undo_scan(Run(folder), backup)
    assert Run(folder).description == again
    assert read_json(backup)["encoder"] == again


def test_training__is_on_one_device(tmp_path: Path) -> None:
    """Lightning would start the others with the whole command, which holds the folder already."""
    splits = halves(8)
    cell = Cell("A", 0, "a-seed0", recipe("train.max_steps=1"), tmp_path / "one")
    options: dict[str, Any] = {"scanned": False, "data": splits, "trust": False, "console": QUIET}
    settings = trained(cell, **options).recipe.train
    assert (settings.devices, settings.strategy) == (1, "auto")
    cell = Cell("A", 0, "a-seed0", recipe("train.devices=2"), tmp_path / "two")
    with pytest.raises(UserError, match=r"A: train\.devices is 2; a comparison trains on one device"):
        trained(cell, **options)
    assert not (tmp_path / "two").exists()


def test_results__of_older_versions_did_not_note_the_penalties(tmp_path: Path) -> None:
    records = Records(tmp_path)
    asked: dict[str, Any] = {"recipe_sha256": "a", "made_of": None}
    records.measured("linear", lambda: {"top1": 1.0}, request={"linear": 1}, **asked)
    new = {"linear": 1, "penalties": list(PENALTIES)}
    assert records.known("linear", request=new, **asked) == {"top1": 1.0}
    assert records.known("linear", request={"linear": 1, "penalties": [1.0]}, **asked) is None
    # A scan had others then.
    records.measured("scan", lambda: {"chosen": 1}, request={"pools": []}, **asked)
    assert records.known("scan", request={"pools": [], "penalties": list(PENALTIES)}, **asked) is None
