from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from typer.testing import CliRunner

from lightly_prg import load
from lightly_prg.cli import app
from lightly_prg.data import Splits
from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.eval import embed, evaluate_knn, evaluate_linear
from lightly_prg.eval.label_free import alpha_req, rankme
from lightly_prg.evaluation import Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.features.cells import Row
from lightly_prg.features.grid import GridEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.hardware import pick_precision
from lightly_prg.models import UNet
from lightly_prg.plotting.scan import plot_scan
from lightly_prg.recipe import FeatureSpec, load_recipe, parse_recipe
from lightly_prg.recipe.comparison import check_choice
from lightly_prg.run import Run
from lightly_prg.scan import ScanResult, scan
from lightly_prg.scan import write as scan_write
from lightly_prg.scan.features import CellFeatures, groups_of, images_of, rows_of
from lightly_prg.scan.scores import ScannedCell, finalists_of, identity, judge, rank_correlations, ranking, verdict
from lightly_prg.train import train

METHODS = {
    "prg": """
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], patch_size: 2}
  ode: {steps: 2}
  feature: {source: block, block: middle, tau: 0.25}""",
    "simclr": """
  backbone: {depth: 9, width: 0.125}""",
    "mae": """
  backbone: {patch_size: 4, width: 24, depth: 2, heads: 2}
  decoder: {width: 24, depth: 1, heads: 2}""",
}
QUICK: dict[str, Any] = {"taus": (0.0, 0.25, 0.5), "blocks": ("stem", "middle"), "sources": ("state", "block")}


def image_set(count: int, seed: int, *, labelled: bool = True) -> ImageSet:
    """Two classes of 16 x 16 images that differ in their upper half."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    pixels[labels == 1, :, :8] //= 4
    names = [f"{seed}-{i}" for i in range(count)]
    if not labelled:
        return ImageSet(pixels, labels=None, names=names)
    return ImageSet(pixels, labels=labels, names=names, class_names=["a", "b"])


class NoTest(ImageSet):
    """Test images that nobody may look at."""

    def __len__(self) -> int:
        return 20

    def loader(self, **options: Any) -> Any:
        raise AssertionError("the test images were read")


def splits(*, labelled: bool = True, validation: int = 12) -> Splits:
    hidden = image_set(20, 2)
    test = NoTest(
        torch.zeros(20, 1, 16, 16, dtype=torch.uint8), labels=hidden.labels, names=hidden.names, class_names="ab"
    )
    return Splits(image_set(48, 0, labelled=labelled), image_set(validation, 1, labelled=labelled), test)


@pytest.fixture(scope="module", params=METHODS)
def any_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def prg_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("prg", tmp_path_factory)


def trained(method: str, factory: pytest.TempPathFactory) -> Path:
    recipe = parse_recipe(
        f"name: tiny\ndata: {{name: digits}}\nmethod:\n  name: {method}{METHODS[method]}\n"
        "train: {epochs: 1, batch_size: 16, lr: 1.0e-3, ema_decay: 0.0, precision: 32, accelerator: cpu}\n"
        "eval: {split: validation, few_shot: null, batch_size: 20}\n"
    )
    folder = factory.mktemp(method) / "run"
    train(recipe, out=folder, data=Splits(image_set(48, 0), image_set(12, 1), image_set(20, 2)))
    return folder


def evaluation_of(folder: Path, tmp_path: Path, **options: Any) -> Evaluation:
    shutil.copytree(folder, tmp_path / "run")
    return Evaluation(Run.open(tmp_path / "run"), data=splits(**options), device="cpu")


@pytest.fixture
def evaluation(prg_run: Path, tmp_path: Path) -> Evaluation:
    return evaluation_of(prg_run, tmp_path)


def stored(evaluation: Evaluation) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((evaluation.run.folder / "eval/scan.json").read_text())
    return content


class TestScan:
    def test_every_method__is_scanned_and_drawn(self, any_run: Path, tmp_path: Path) -> None:
        evaluation = evaluation_of(any_run, tmp_path)
        result = scan(evaluation, taus=(0.0, 0.5) if "prg" in str(any_run) else None)
        encoder = load(any_run)
        names = {cell.name for cell in result.cells}
        assert isinstance(encoder, PRGEncoder) or "output" in names
        assert len(names) == len(rows_of(encoder))
        assert [cell.linear for cell in result.cells] == sorted((cell.linear for cell in result.cells), reverse=True)  # type: ignore[type-var]
        assert result.chosen == result.cells[0]
        assert (result.num_train, result.num_judged, result.judged_on, result.passes) == (48, 12, "validation", 1)
        content = stored(evaluation)
        assert content["chosen"] == content["cells"][0]
        assert content["recipe_sha256"] == evaluation.description["recipe_sha256"]
        for name in ("scan.png", "scan-dark.png"):
            assert (evaluation.run.figures / name).stat().st_size > 5000
        assert result.written is None
        assert evaluation.run.recipe_file.read_text() == (any_run / "recipe.yaml").read_text()

    def test_scores__are_those_of_the_evaluators_on_the_feature_read_alone(self, evaluation: Evaluation) -> None:
        result = scan(evaluation, **QUICK)
        encoder: Any = evaluation.trained
        assert len(result.cells) == 3 * 4  # state, stem, middle at three taus and at all
        for cell in result.cells[::5]:
            feature = {"source": cell.source, "block": cell.block, "tau": cell.tau, "pool": cell.pool}
            ode = encoder.ode.model_copy(update={"steps": max(cell.steps, 1)})
            reader = PRGEncoder(
                encoder.velocity, encoder.path, ode, type(encoder.feature)(**feature), input_shape=(1, 16, 16)
            )
            precision = pick_precision("auto", torch.device("cpu")).precision
            bank, judged = (
                embed(reader, part, device="cpu", precision=precision) for part in (splits().train, splits().validation)
            )
            assert cell.knn == evaluate_knn(bank, judged, k=20, ks=(20,), device="cpu").top1
            linear = evaluate_linear(bank, judged, max_iterations=50, device="cpu")
            assert cell.linear == linear.top1
            assert cell.rankme == pytest.approx(rankme(bank.features))
            assert cell.alpha_req == (
                None if alpha_req(bank.features) is None else pytest.approx(alpha_req(bank.features))
            )
            assert (cell.embedding_dim, cell.nfe) == (reader.embedding_dim, reader.nfe)

    def test_alone__offers_every_tau_but_not_all_of_them_together(self, evaluation: Evaluation) -> None:
        usual = scan(evaluation, **QUICK)
        options: dict[str, Any] = {"finalists": 2, "final_images": 40, "memory_budget": 4 * 60 * 3 * 256}
        alone = scan(evaluation, **QUICK, together=False, **options)
        assert alone.cells == tuple(cell for cell in usual.cells if len(cell.tau) == 1)
        assert len(alone.cells) == 3 * 3
        assert len(alone.finals) == 2
        assert stored(evaluation)["options"]["together"] is False

    def test_short_memory__only_costs_passes(self, evaluation: Evaluation) -> None:
        usual = scan(evaluation, **QUICK)
        row = 4 * 60 * 3 * 256  # the state, the widest: 256 numbers at three taus of 60 images
        short = scan(evaluation, **QUICK, memory_budget=row)
        assert (usual.passes, short.passes) == (1, 2)
        assert short.cells == usual.cells
        with pytest.raises(UserError, match="coarser pool"):
            scan(evaluation, **QUICK, memory_budget=row - 1)

    def test_chosen__is_the_best_with_many_images(
        self, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def judged(features: CellFeatures, **options: Any) -> ScannedCell:
            """Short features lead with few images, long ones with many."""
            cell = judge(features, **options)
            accuracy = 50.0 + (1 if len(features.bank.labels) > 8 else -1) * cell.embedding_dim / 100
            return replace(cell, knn=accuracy, linear=accuracy)

        monkeypatch.setattr("lightly_prg.scan.judge", judged)
        options: dict[str, Any] = {"blocks": ["stem", "middle"], "pools": ["mean", "grid:2", "grid:4"], "taus": [0.1]}
        few = scan(evaluation, **options, max_images=8, quick=True)
        found = scan(evaluation, **options, max_images=8, finalists=3, final_images=40, quick=True, write=True)
        assert few.chosen == few.cells[0] == found.cells[0]
        assert [cell.embedding_dim for cell in found.finals] == sorted(
            (cell.embedding_dim for cell in few.cells[:3]), reverse=True
        )
        assert found.chosen == found.finals[0] != found.cells[0]
        feature = load_recipe(evaluation.run.recipe_file).method.feature
        assert (feature.block, feature.pool) == (found.chosen.block, found.chosen.pool)

    def test_finalists__are_different_features(self) -> None:
        def cell(name: str, score: float) -> ScannedCell:
            return ScannedCell("block", name, "mean", (), 0, True, 4, 1, score, score, None, None)

        cells = [cell("last", 90.0), cell("output", 89.0), cell("early", 80.0), cell("first", 70.0)]
        values = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).numpy()
        samples = {identity(each): values + number for number, each in enumerate(cells)}
        samples[identity(cells[1])] = values * (1 + 2**-9)  # the last block, pooled by the network itself, in bf16
        assert finalists_of(cells, 2, ranking("both"), samples) == {identity(cells[0]), identity(cells[2])}
        # What all images share, such as the offset of a network as it was drawn, makes no two features the same.
        generator = torch.Generator().manual_seed(0)
        samples = {identity(each): 10 + 0.1 * torch.randn(8, 4, generator=generator).numpy() for each in cells}
        assert len(finalists_of(cells, 4, ranking("both"), samples)) == 4

    def test_finalists__are_the_best_judged_again_on_more_images(self, evaluation: Evaluation) -> None:
        options: dict[str, Any] = {"taus": [0.1, 0.3], "criterion": "both", "quick": True}
        first = scan(evaluation, **options, max_images=8)
        more = scan(evaluation, **options, max_images=40)
        found = scan(evaluation, **options, max_images=8, finalists=3, final_images=40)
        assert found.cells == first.cells
        assert {identity(cell) for cell in found.finals} == {identity(cell) for cell in first.cells[:3]}
        by_name = {identity(cell): cell for cell in more.cells}
        assert all(cell == by_name[identity(cell)] for cell in found.finals)
        scores = [cell.both for cell in found.finals]
        assert scores == sorted(scores, reverse=True)
        assert first.finals == ()
        assert (first.num_train, first.num_final_train, found.num_train, found.num_final_train) == (8, 0, 8, 40)
        assert found.num_final_judged == 12 >= found.num_judged
        with pytest.raises(UserError, match="finalists is -1; at least 0"):
            scan(evaluation, **options, finalists=-1)

    def test_criteria_without_labels__may_be_left_out_where_they_rank_nothing(self, evaluation: Evaluation) -> None:
        options: dict[str, Any] = {"taus": [0.1], "blocks": ["middle", "up.0"], "criterion": "both"}
        whole, quick = scan(evaluation, **options), scan(evaluation, **options, quick=True)
        assert [(cell.name, cell.knn, cell.linear) for cell in quick.cells] == [
            (cell.name, cell.knn, cell.linear) for cell in whole.cells
        ]
        assert {(cell.rankme, cell.alpha_req) for cell in quick.cells} == {(None, None)}
        assert (quick.label_free_choice, quick.verdict) == ({}, None)
        assert whole.chosen.rankme is not None
        assert scan(evaluation, **{**options, "criterion": "rankme"}, quick=True).chosen.rankme is not None
        written = scan(evaluation, **options, quick=True, write=True).written
        assert written is not None
        assert "knn" not in written

    def test_no_labels__are_ranked_by_rankme(self, prg_run: Path, tmp_path: Path) -> None:
        evaluation = evaluation_of(prg_run, tmp_path, labelled=False)
        result = scan(evaluation, **QUICK)
        ranks = [cell.rankme for cell in result.cells]
        assert ranks == sorted(ranks, reverse=True)
        assert all(cell.knn is cell.linear is None for cell in result.cells)
        assert (result.criterion, result.judged_on, result.verdict, result.standard_error) == (
            "rankme",
            None,
            None,
            None,
        )
        alpha = scan(evaluation, **QUICK, criterion="alpha_req")
        distances = [abs(cell.alpha_req - 1) for cell in alpha.cells if cell.alpha_req is not None]
        assert distances == sorted(distances)
        assert len(distances) > 2
        with pytest.raises(UserError, match="'knn' needs"):
            scan(evaluation, criterion="knn")

    def test_no_validation_images__a_tenth_of_the_training_images_serves(self, prg_run: Path, tmp_path: Path) -> None:
        evaluation = evaluation_of(prg_run, tmp_path, validation=0)
        result = scan(evaluation, **QUICK)
        assert (result.judged_on, result.num_train, result.num_judged) == ("train", 44, 4)

    def test_noised__differs_and_cannot_be_stored(self, evaluation: Evaluation) -> None:
        result = scan(evaluation, **QUICK, noised=True)
        assert not any(cell.reproducible for cell in result.cells)
        assert {cell.nfe for cell in result.cells if cell.source == "block"} == {1, 3}
        assert stored(evaluation)["options"]["noised"] is True
        with pytest.raises(UserError, match="noised image"):
            scan(evaluation, noised=True, write=True)

    def test_random_network__is_scanned_beside_the_run(self, evaluation: Evaluation) -> None:
        own = scan(evaluation, **QUICK)
        kept = stored(evaluation)
        other = scan(evaluation, **QUICK, encoder="random_network")
        assert [cell.rankme for cell in other.cells] != [cell.rankme for cell in own.cells]
        assert stored(evaluation) == kept
        (file,) = evaluation.run.folder.glob("eval/scan-*.json")
        assert json.loads(file.read_text())["encoder"] == "random_network"
        scan(evaluation, **{**QUICK, "blocks": ("stem",)}, encoder="random_network")
        assert len(list(file.parent.glob("scan-*.json"))) == 2  # another question
        with pytest.raises(UserError, match="chosen for random_network is not stored"):
            scan(evaluation, **QUICK, encoder="random_network", write=True)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sources": ("output",)}, r"'output'.*state, velocity, denoised, block"),
            ({"blocks": ("nowhere",)}, r"'nowhere'.*middle"),
            ({"blocks": ("stem",), "sources": ("state",)}, "source 'block'"),
            ({"taus": (0.5, 1.5)}, r"0\.5, 1\.5"),
            ({"pools": ("max",)}, r"'max'.*grid:2"),
            ({"criterion": "accuracy"}, r"'accuracy'.*linear, knn, both, rankme, alpha_req"),
            ({"max_images": 0}, "max_images is 0"),
            ({"max_images": 1}, "2 classes"),
        ],
    )
    def test_options__are_checked(self, evaluation: Evaluation, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            scan(evaluation, **options)
        assert not (evaluation.run.folder / "eval/scan.json").exists()


class TestWrite:
    def test_choice__is_what_the_run_now_is(self, any_run: Path, tmp_path: Path) -> None:
        evaluation = evaluation_of(any_run, tmp_path)
        former = evaluation.description
        block = "down.1" if "prg" in str(any_run) else "layer2" if "simclr" in str(any_run) else "masked.vit.blocks.0"
        taus = (0.25, 0.5) if "prg" in str(any_run) else None
        result = scan(evaluation, blocks=(block,), pools=("grid:2",), taus=taus, write=True)
        written = result.written
        assert written is not None
        assert written["largest_difference"] == 0.0
        assert (written["knn"], written["linear"]) == (result.chosen.knn, result.chosen.linear)
        run = Run.open(evaluation.run.folder)
        encoder = load(run.folder)
        assert (encoder.feature.block, encoder.feature.pool) == (block, "grid:2")
        assert run.recipe.method.feature == encoder.feature
        assert run.description["recipe_sha256"] == run.recipe.sha256() != former["recipe_sha256"]
        assert run.description["architecture"] == run.recipe.method.model_dump(mode="json")
        assert (run.description["embedding_dim"], run.description["nfe"]) == (encoder.embedding_dim, encoder.nfe)
        assert encoder.embedding_dim == result.chosen.embedding_dim
        assert {key: run.description[key] for key in ("data", "training", "versions")} == {
            key: former[key] for key in ("data", "training", "versions")
        }
        if isinstance(encoder, PRGEncoder):
            assert encoder.ode.steps == result.chosen.steps
            assert encoder.nfe == result.chosen.nfe
        assert stored(evaluation)["recipe_sha256"] == run.recipe.sha256()

    def test_results_of_the_former_feature__are_moved_aside(self, evaluation: Evaluation) -> None:
        evaluation.data = Splits(image_set(48, 0), image_set(12, 1), image_set(20, 2))
        old = evaluation.run.recipe.sha256()
        for name in ("run", "random_network", "raw_pixels"):
            evaluation.knn(name)  # type: ignore[arg-type]
        evaluation.knn(k=3)
        evaluation.linear()
        evaluation.retrieval()
        evaluation.clustering()
        evaluation.run.write_result("transfer", {"split": "test", "options": {}}, own_options=True)
        flow = {"encoder": "run", "split": "validation", "options": {}, "rmse": 0.1}  # says nothing of a feature
        evaluation.run.write_result("round_trip", flow, own_options=True)
        evaluation.map()
        before = {file.name for file in evaluation.run.folder.glob("eval/*.json")}
        assert len(before) == 9
        result = scan(evaluation, blocks=("stem",), taus=(0.5,), write=True)
        former = evaluation.run.folder / "eval" / "former" / old[:8]
        left = {file.name: json.loads(file.read_text()) for file in evaluation.run.folder.glob("eval/*.json")}
        assert {content.get("encoder") for name, content in left.items() if name.startswith("knn")} == {"raw_pixels"}
        assert "round_trip.json" in left
        moved = {file.name for file in former.iterdir()}
        assert moved >= {"knn.json", "linear.json", "embedding_map.png", "embedding_map-dark.png"}
        assert moved >= {"retrieval.json", "clustering.json", "transfer.json"}
        assert len(moved) == 9
        assert not (evaluation.run.figures / "embedding_map.png").exists()
        assert result.written is not None
        assert set(result.written["moved"]) == moved
        again = Evaluation(Run.open(evaluation.run.folder), data=evaluation.data, device="cpu")
        assert again.knn()["recipe_sha256"] == again.run.recipe.sha256()

    def test_choice__is_remembered_beyond_a_later_scan(self, evaluation: Evaluation) -> None:
        scan(evaluation, blocks=("stem",), taus=(0.5,), write=True)
        fresh = Evaluation(Run.open(evaluation.run.folder), data=splits(), device="cpu")
        scan(fresh, blocks=("middle",), taus=(0.1,))
        run = Run.open(evaluation.run.folder)
        check_choice(run, "test")
        with pytest.raises(UserError, match="its feature was chosen on the validation images"):
            check_choice(run, "validation")

    def test_accuracy_on_images_that_chose_the_feature__is_said_to_flatter(self, evaluation: Evaluation) -> None:
        scan(evaluation, blocks=("stem",), taus=(0.5,), write=True)
        judged = Splits(image_set(48, 0), image_set(12, 1), image_set(20, 2))
        fresh = Evaluation(Run.open(evaluation.run.folder), data=judged, device="cpu")
        said: list[object] = []
        fresh.console.say = said.append  # type: ignore[method-assign]
        fresh.knn(split="test")
        assert not said
        fresh.knn(split="validation")
        (remark,) = said
        assert remark == (
            "The feature of this run was chosen on validation images, which flatters it on them; test images judge it "
            "fairly."
        )
        page = fresh.report().read_text(encoding="utf-8")
        assert page.count(str(remark)) == 1, "beside the table of validation images alone"

    def test_full_disk__leaves_results_and_feature_as_they_were(
        self, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluation.knn()
        files = [
            file for file in evaluation.run.folder.rglob("*") if file.is_file() and file.suffix in (".json", ".yaml")
        ]
        before = {file: file.read_text(encoding="utf-8") for file in files}
        write, calls = scan_write.write_json, iter(range(1))

        def full(path: Path, content: Any) -> None:
            if next(calls, None) is not None:
                raise UserError("The disk is full.")
            write(path, content)

        monkeypatch.setattr(scan_write, "write_json", full)
        with pytest.raises(UserError, match="disk is full"):
            scan(evaluation, blocks=("stem",), taus=(0.5,), write=True)
        assert {file: file.read_text(encoding="utf-8") for file in files} == before

    def test_same_choice_again__moves_nothing(self, evaluation: Evaluation) -> None:
        scan(evaluation, blocks=("stem",), taus=(0.5,), write=True)
        fresh = Evaluation(Run.open(evaluation.run.folder), data=splits(), device="cpu")
        fresh.knn(split="validation")
        result = scan(fresh, blocks=("stem",), taus=(0.5,), write=True)
        assert result.written is not None
        assert result.written["moved"] == []
        assert (fresh.run.folder / "eval/knn.json").is_file()

    def test_several_taus__are_stored_and_read_by_the_same_steps(self, evaluation: Evaluation) -> None:
        result = scan(evaluation, blocks=("middle",), taus=(0.1, 0.25), steps=3, criterion="rankme", write=True)
        assert result.chosen.tau == (0.1, 0.25)
        assert result.written is not None
        assert result.written["largest_difference"] == 0.0
        assert result.written["ode_steps"] == 3
        assert result.written["nfe"] == 5

    def test_uneven_steps__are_measured_anew_and_told(self, evaluation: Evaluation) -> None:
        # Three steps through 0.1 and 0.7: those to 0.7 are 0.1, 0.4, 0.7; alone they would be even.
        result = scan(evaluation, blocks=("middle",), taus=(0.1, 0.7), steps=3)
        (uneven,) = [cell for cell in result.cells if cell.tau == (0.7,)]
        assert (uneven.steps, uneven.reproducible) == (3, False)
        state = scan(evaluation, sources=("velocity",), taus=(0.1, 0.7), steps=3, criterion="alpha_req", write=True)
        assert state.written is not None
        assert (state.written["largest_difference"] == 0.0) == state.chosen.reproducible

    def test_fine_tuned_run__is_refused(self, evaluation: Evaluation) -> None:
        (evaluation.run.folder / "head.json").write_text("{}")
        with pytest.raises(UserError, match="fine-tuned"):
            scan(evaluation, write=True)

    def test_locked_run__is_left_alone(self, evaluation: Evaluation) -> None:
        before = evaluation.run.encoder_file.read_text()
        with evaluation.run.lock(), pytest.raises(UserError, match="Another process"):
            scan(evaluation, blocks=("stem",), taus=(0.5,), write=True)
        assert evaluation.run.encoder_file.read_text() == before


def cell(**values: Any) -> ScannedCell:
    content: dict[str, Any] = {"source": "block", "block": "middle", "pool": "mean", "tau": (0.1,), "steps": 1}
    content |= {"reproducible": True, "embedding_dim": 8, "nfe": 2, "knn": 50.0, "linear": 50.0, "rankme": 4.0}
    return ScannedCell(**{**content, "alpha_req": 1.0, **values})


def test_ranking__of_equal_cells_takes_the_other_accuracy_then_the_cheaper() -> None:
    cells = [cell(nfe=9), cell(linear=60.0), cell(nfe=3), cell(knn=51.0), cell(nfe=3, embedding_dim=4)]
    ranked = sorted(cells, key=ranking("linear"))
    assert [cells.index(each) for each in ranked] == [1, 3, 4, 2, 0]
    assert min(cells, key=ranking("knn")) == cells[3]
    # The mean of both: neither the best probe nor the best k-NN.
    cells = [cell(linear=70.0, knn=40.0), cell(linear=40.0, knn=70.0), cell(linear=60.0, knn=60.0)]
    assert min(cells, key=ranking("both")) == cells[2]
    assert cell(knn=None).both is None
    unknown = [cell(alpha_req=None), cell(alpha_req=1.4), cell(alpha_req=0.7)]
    assert sorted(unknown, key=ranking("alpha_req")) == [unknown[2], unknown[1], unknown[0]]


def test_rank_correlation__by_hand() -> None:
    # Ranks of RankMe 1 2 3 4 against 2 1 4 3: 1 - 6 (1 + 1 + 1 + 1) / (4 * 15) = 0.6; of alpha-ReQ by closeness to 1.
    cells = [
        cell(rankme=rank, linear=linear, knn=10.0, alpha_req=alpha, embedding_dim=width)
        for rank, linear, alpha, width in [(1, 20, 1.4, 8), (2, 10, 0.5, 4), (3, 40, 1.0, 32), (4, 30, 0.9, 16)]
    ]
    found = rank_correlations(cells)
    assert found["rankme"]["linear"] == pytest.approx(0.6)
    assert found["alpha_req"]["linear"] == pytest.approx(1.0)
    assert found["embedding_dim"]["linear"] == pytest.approx(1.0)
    assert found["rankme"]["knn"] is None  # all equal
    assert rank_correlations(cells[:2])["rankme"]["linear"] is None


def test_images__are_drawn_by_class_and_by_the_seed_alone() -> None:
    images = images_of(splits(), 10, seed=0)
    assert images.judged is not None
    assert images.bank.labels.bincount().tolist() == images.judged.labels.bincount().tolist() == [5, 5]
    assert images.bank.names == images_of(splits(), 10, seed=0).bank.names
    assert images.bank.names != images_of(splits(), 10, seed=1).bank.names
    assert images_of(splits(), 1000, seed=0).count == 60


def test_rows__of_an_image_are_never_one_colour() -> None:
    small = PRGEncoder(lambda tau, x: x, input_shape=(1, 8, 8))
    large = PRGEncoder(lambda tau, x: x, input_shape=(3, 32, 32))
    assert rows_of(small, pools=("mean",))[0] == Row("state", pool="flatten")
    assert rows_of(large, pools=("mean",))[0] == Row("state", pool="grid:16")
    assert rows_of(large, pools=("grid:2",))[0] == Row("state", pool="grid:2")
    assert [row.source for row in rows_of(large)] == ["state", "velocity", "denoised"]  # a function has no blocks
    of_block = PRGEncoder(
        UNet(image_size=8, in_channels=1, channels=32, multipliers=(1,), blocks=1, attention=()),
        feature=FeatureSpec(source="block", block="middle", pool="grid:2"),
        input_shape=(1, 8, 8),
    )
    by_source = {row.source: row.pool for row in rows_of(of_block)}
    assert by_source == {"state": "flatten", "velocity": "flatten", "denoised": "flatten", "block": "grid:2"}
    network = NetworkEncoder(torch.nn.Conv2d(1, 2, 3), input_shape=(1, 8, 8))
    assert rows_of(network) == (Row("output"),)


def test_groups__hold_what_fits() -> None:
    grid = GridEncoder(
        PRGEncoder(lambda tau, x: x, input_shape=(1, 4, 4)),
        [Row("state", pool=pool) for pool in ("flatten", "mean", "grid:2")],
        taus=(0.5, 1.0),
    )
    sizes = [4 * 10 * 2 * width for width in (16, 1, 4)]
    assert [len(group) for group in groups_of(grid, 10, sum(sizes))] == [3]
    assert [len(group) for group in groups_of(grid, 10, sizes[0])] == [1, 2]


def test_figure__is_of_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    write = Axes.text

    def watch(axes: Axes, x: float, y: float, text: str, **options: Any) -> Any:
        shown.append(text)
        return write(axes, x, y, text, **options)

    monkeypatch.setattr(Axes, "text", watch)
    cells = [{**vars(cell(tau=(tau,), linear=50 + 10 * tau, knn=40.0)), "tau": [tau]} for tau in (0.1, 0.9)]
    cells.append({**vars(cell(source="state", block=None)), "linear": 12.34, "tau": [0.1]})
    rows = [{"name": "state", "source": "state", "pool": "mean"}, {"name": "middle", "source": "block", "pool": "mean"}]
    plot_scan({"cells": cells, "rows": rows, "chosen": cells[0], "options": {}}, tmp_path / "scan.png")
    assert {"51.0", "59.0", "12.3", "40.0", "\N{EN DASH}"} <= set(shown)
    assert (tmp_path / "scan-dark.png").is_file()
    with pytest.raises(ValueError, match="At least one cell"):
        plot_scan({"cells": [], "rows": [], "options": {}}, tmp_path / "none.png")


class TestCommand:
    def invoke(self, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> str:
        from lightly_prg.cli import scan as command

        def evaluation_of(run: Path, **options: Any) -> Evaluation:
            from lightly_prg.console import Console

            return Evaluation(Run.open(run), data=splits(), console=Console(), **options)

        monkeypatch.setattr(command, "evaluation_of", evaluation_of)
        outcome = CliRunner().invoke(app, ["scan", *arguments], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    def test_table__is_ranked_and_says_what_was_done(
        self, prg_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = str(shutil.copytree(prg_run, tmp_path / "run"))
        options = ["--block", "middle", "--block", "stem", "--tau", "0.25", "--tau", "0.5", "--pool", "mean"]
        options += ["--top", "3", "--device", "cpu", "--write", "--finalists", "2", "--final-images", "40"]
        text = self.invoke(monkeypatch, [folder, *options])
        assert "6 features by linear: bank of 48 training images, 12 images of validation judged" in text
        assert "Without labels: the rank correlation with linear accuracy over 6 cells" in text
        assert "Written:" in text
        table = [line for line in text.splitlines() if line.startswith(("middle ", "stem "))]
        assert len(table) == 3 + 2
        assert "judged again on at most 40 images of each kind" in text
        assert json.loads((Path(folder) / "eval/scan.json").read_text())["written"]["feature"]["pool"] == "mean"

    def test_single_feature__is_not_compared_with_itself(
        self, prg_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = str(shutil.copytree(prg_run, tmp_path / "run"))
        options = ["--block", "middle", "--tau", "0.25", "--pool", "mean", "--device", "cpu"]
        text = self.invoke(monkeypatch, [folder, *options])
        assert "1 feature by linear" in text
        assert "Standard error of the accuracy" in text
        assert "closer features" not in text
        assert "Without labels" not in text

    def test_alone__leaves_the_taus_apart(self, prg_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = str(shutil.copytree(prg_run, tmp_path / "run"))
        options = [folder, "--block", "middle", "--tau", "0.25", "--tau", "0.5", "--pool", "mean", "--device", "cpu"]
        assert "3 features by linear" in self.invoke(monkeypatch, options)
        assert "2 features by linear" in self.invoke(monkeypatch, [*options, "--alone"])


def test_result__is_frozen_and_of_plain_values(evaluation: Evaluation) -> None:
    result = scan(evaluation, blocks=("stem",), taus=(0.5,))
    assert isinstance(result, ScanResult)
    assert result.standard_error == pytest.approx(
        np.sqrt(result.chosen.linear * (100 - result.chosen.linear) / 12)  # type: ignore[operator]
    )
    with pytest.raises(AttributeError):
        result.criterion = "knn"  # type: ignore[misc]


def test_verdict__says_what_the_correlations_say() -> None:
    best, other = cell(linear=60.0), cell(linear=52.5)
    choices = {"rankme": best, "alpha_req": other}

    def told(rank: float, alpha: float | None, dimensions: float) -> str:
        values = {"rankme": rank, "alpha_req": alpha, "embedding_dim": dimensions}
        return verdict({name: {"linear": value} for name, value in values.items()}, choices, best, "linear", 7)

    assert "predict it well here" in told(0.9, -0.1, 0.2)
    assert "predict it in part, no better than counting dimensions does, here" in told(0.4, 0.5, 0.5)
    assert "hardly predict it here" in told(0.3, None, -0.5)
    assert "over 7 cells is RankMe +0.30, alpha-ReQ has none, the number of dimensions alone -0.50" in told(
        0.3, None, -0.5
    )
    assert "RankMe's choice loses 0.0 points and alpha-ReQ's choice loses 7.5 points" in told(0.9, 0.1, 0.2)


def test_block_that_is_called_output__is_not_the_output() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = torch.nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * torch.as_tensor(self.output(x))

    grid = GridEncoder(
        NetworkEncoder(Network(), input_shape=(1, 8, 8)),
        [Row("block", "output", "flatten"), Row("output", None, "flatten")],
    )
    with torch.no_grad():
        values = grid(torch.rand(2, 1, 8, 8))
    block, output = grid.cells
    torch.testing.assert_close(3 * values[:, grid.columns(block)], values[:, grid.columns(output)])


def test_knn__of_transformed_features_is_a_result_of_its_own(evaluation: Evaluation) -> None:
    plain = evaluation.knn(split="validation")
    white = evaluation.knn(split="validation", transform="whiten")
    assert "transform" not in plain["options"]
    assert white["options"]["transform"] == "whiten"
    files = [json.loads(file.read_text()) for file in evaluation.run.folder.glob("eval/knn*.json")]
    assert len(files) == 2
    assert json.loads((evaluation.run.folder / "eval/knn.json").read_text()) == {"evaluator": "knn", **plain}
