from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lightly_prg.evaluation
from lightly_prg.claims import better_pretraining, corruption, inverted_path, pretraining_helps, reversibility, solvers
from lightly_prg.claims.findings import verdict
from lightly_prg.claims.recipe import ClaimRecipe, load_claim
from lightly_prg.claims.runner import run_claim
from lightly_prg.claims.study import Cells, Measured
from lightly_prg.errors import UserError
from lightly_prg.features.cells import Row
from lightly_prg.features.grid import GridEncoder
from lightly_prg.measurements.round_trips import round_trip_curve
from lightly_prg.run import Run
from lightly_prg.scan.features import read_group

MakeClaim = Callable[..., ClaimRecipe]
BEYOND = "Fréchet distance of samples beyond that of real images"
SAMPLES = BEYOND + ", at most 10 times, fine-tuned with beta {} against pretrained"


@pytest.fixture(autouse=True)
def short_curves() -> Iterator[None]:
    """Round trips at one price, and scans of two positions."""
    short: Any = partial(round_trip_curve, budgets=(4,), tolerances=(1e-1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightly_prg.evaluation, "round_trip_curve", short)
        patch.setattr(reversibility, "round_trip_curve", short)
        patch.setattr(inverted_path, "SCANNED_TAUS", (0.0, 0.5))
        patch.setattr("lightly_prg.claims.result.plot_findings", lambda *arguments: None)
        yield


def cells_of(folder: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text())["result"] for file in folder.glob("cells/digits-seed0/*.json")}


def found(content: dict[str, Any]) -> dict[str, Any]:
    return {finding["name"]: finding for finding in content["findings"]}


class TestSolvers:
    def test_study__judges_each_model_in_every_way(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        content = run_claim(make_claim("solvers", seeds=[0], margin=100), out=tmp_path / "c06")
        (cell,) = cells_of(tmp_path / "c06").values()
        assert (cell["finetuned"]["nfe"], cell["finetuned"]["num_train"], cell["own"]["num_test"]) == (2, 20, 30)
        assert cell["own"]["top1"] == pytest.approx(cell["finetuned"]["top1"], abs=1e-3)
        assert [cell["judged"][name]["nfe"] for name in ("euler 2", "euler 4")] == [2, 4]
        assert cell["judged"]["euler 2"]["agreement"] == 100
        assert cell["judged"]["dopri5"]["ode"]["rtol"] == 1e-4
        findings = found(content)
        assert set(findings) == {f"{name} less euler 2 as trained" for name in ("euler 4", "dopri5")}
        assert findings["euler 4 less euler 2 as trained"]["side"] == "within"
        assert findings["dopri5 less euler 2 as trained"]["side"] is None
        difference = cell["judged"]["euler 4"]["top1"] - cell["own"]["top1"]
        assert findings["euler 4 less euler 2 as trained"]["mean"] == pytest.approx(difference, abs=1e-3)

    def test_solver_that_breaks_down__classifies_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def judge(evaluation: Any, model: Any, changes: Any, *, split: str) -> Any:
            if {"steps": 9} in changes:
                raise FloatingPointError
            return [{"top1": 50.0, "num_test": 2}, *({"top1": 50.0, "ode": change} for change in changes)]

        monkeypatch.setattr(solvers, "judge_with", judge)
        evaluation: Any = None
        own, first, second, third = solvers._judged(evaluation, evaluation, [{"steps": 1}, {"steps": 9}, {"steps": 2}])
        assert own["num_test"] == 2
        assert [part["top1"] for part in (first, second, third)] == [50.0, 0.0, 50.0]
        assert second["ode"] == {"steps": 9}


class TestReversibility:
    def test_study__looks_at_the_flow_before_and_after(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        content = run_claim(make_claim("reversibility", seeds=[0]), out=tmp_path / "c14")
        cells = cells_of(tmp_path / "c14")
        assert set(cells) == {"pretrained", "beta-0", "beta-1"}
        assert "finetuned" not in cells["pretrained"]
        assert len({cell["floor"] for cell in cells.values()}) == 1
        assert len({cell["round_trip"] for cell in cells.values()}) == 3
        findings = found(content)
        change = findings["round-trip error, fine-tuned with beta 0 less pretrained"]
        assert (change["side"], change["unit"]) == ("below", "grey levels")
        errors = [cells[kind]["round_trip"] for kind in ("beta-0", "pretrained")]
        assert change["mean"] == pytest.approx(255 * (errors[0] - errors[1]), rel=1e-3, abs=1e-6)
        assert findings["round-trip error, fine-tuned with beta 1 less pretrained"]["side"] is None
        samples = findings[SAMPLES.format(0)]
        assert (samples["side"], samples["unit"], samples["margin"]) == ("below", "doublings", 1.0)
        assert findings[SAMPLES.format(1)]["side"] is None
        assert "accuracy, beta 1 less beta 0" in findings
        assert (tmp_path / "c14/figures/samples-digits-seed0-beta0/samples_before_after-dark.png").is_file()

    @pytest.mark.parametrize(
        ("distances", "word"),
        [
            ((2.2, 2.4, 2.0), "holds"),  # of 2 before and 1 of real images: 1.2, 1.4 and 1 times the excess
            ((9.0, 7.0, 8.0), "does not hold"),
            ((9.0, None, 8.0), "does not hold"),  # a sampler that broke down is no seed less
            ((None, None, None), "does not hold"),
        ],
    )
    def test_verdict__falls_with_the_samples_though_the_round_trip_is_as_it_was(
        self, make_claim: MakeClaim, distances: tuple[float | None, ...], word: str
    ) -> None:
        options: Any = make_claim("reversibility").study
        cells = []
        for seed, distance in enumerate(distances):
            before = {"round_trip": 1e-4, "distance": 2.0, "floor": 1.0}
            cells.append(Measured("digits", seed, "pretrained", before))
            for beta in options.betas:
                after = {"round_trip": 1.1e-4 + 1e-6 * seed, "distance": distance, "floor": 1.0}
                cells.append(Measured("digits", seed, f"beta-{beta:g}", {**after, "finetuned": {"top1": 50.0}}))
        found_ = reversibility.outcome(Cells(cells, 1.0), options)
        assert verdict(found_.findings).word == word
        broken = {reading.name: reading.mean for reading in found_.readings if "broke down" in reading.name}
        lost = 100 * distances.count(None) / 3
        expected = {f"samplers that broke down, fine-tuned with beta {beta}": pytest.approx(lost) for beta in (0, 1)}
        assert broken == (expected if lost else {})

    def test_doublings__are_of_what_lies_beyond_real_images(self) -> None:
        def cell(kind: str, distance: float | None, seed: int) -> Measured:
            return Measured("digits", seed, kind, {"distance": distance, "floor": 1.0})

        pairs = [(2.0, 5.0), (2.0, 1.5), (2.0, 0.5), (2.0, None), (None, 3.0), (2.0, 1e9)]
        cells = [
            cell(kind, distance, seed)
            for seed, pair in enumerate(pairs)
            for kind, distance in zip(("pretrained", "beta-0"), pair, strict=True)
        ]
        most = math.log2(reversibility.WORST)
        assert reversibility._doublings(Cells(cells), "digits", "beta-0") == pytest.approx(
            {0: 2.0, 1: -1.0, 2: -most, 3: most, 5: most}
        ), "of a flow that generated nothing nothing can be lost"

    def test_flow_that_leaves_all_bounds__has_lost_the_whole_range(self) -> None:
        assert reversibility._grey_levels({"round_trip": None}) == 255
        assert reversibility._grey_levels_of_a_flow({"round_trip": None}) is None, "nothing can be lost of it"
        assert reversibility._grey_levels_of_a_flow({"round_trip": 0.2}) == 51
        assert reversibility._grey_levels({"round_trip": 3.0}) == 255
        assert reversibility._grey_levels({"round_trip": 0.2}) == 51


class TestPretrainingHelps:
    def test_study__compares_starts_at_every_number_of_labels(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        claim = make_claim("pretraining_helps", seeds=[0])
        study = claim.study.model_copy(update={"gradients": ("full", "adjoint"), "features": ("state",)})
        content = run_claim(claim.model_copy(update={"study": study}), out=tmp_path / "c02")
        cells = cells_of(tmp_path / "c02")
        assert set(cells) == {f"{start}-state-{n}" for start in ("pretrained", "scratch", "adjoint") for n in (2, 1)}
        assert [(cells[f"scratch-state-{n}"]["num_train"], cells[f"scratch-state-{n}"]["epochs"]) for n in (2, 1)] == [
            (20, 2),
            (10, 4),
        ]
        assert [cells[f"pretrained-state-{n}"]["epochs"] for n in (2, 1)] == [1, 2]
        curve = cells["scratch-state-1"]["curve"]
        assert [point["validation_top1"] is not None for point in curve] == [True, True, True, True]
        gain = curve[-1]["validation_top1"] - curve[2]["validation_top1"]
        beside = {reading["name"]: reading["mean"] for reading in content["readings"]}
        title = "scratch, state through the ODE, 1 labels of each class"
        assert beside[f"validation accuracy, gained in the last quarter of the epochs, {title}"] == pytest.approx(gain)
        notes = {note["name"]: note["text"] for note in content["notes"]}
        assert notes[f"learning rates chosen, {title}"] == "0.01 (lowest and highest of 1)"
        findings = found(content)
        name = "pretrained less scratch, state through the ODE, 1 labels of each class"
        assert findings[name]["side"] == "above"
        assert findings[name]["mean"] == pytest.approx(
            cells["pretrained-state-1"]["top1"] - cells["scratch-state-1"]["top1"], abs=1e-3
        )
        assert sum(finding["side"] is not None for finding in content["findings"]) == 2

    def test_block__stands_beside(self, make_claim: MakeClaim) -> None:
        options: Any = make_claim("pretraining_helps").study
        recipe: Any = None
        kinds = pretraining_helps.kinds(options, recipe)
        assert len(kinds) == 2 * 2 * 2
        assert all(what["gradient"] == "full" for what in kinds.values())

    def test_verdict__falls_where_scratch_is_as_good(self) -> None:
        claim = load_claim("claims/c02")
        options: Any = claim.study
        kinds = pretraining_helps.kinds(options, claim.recipe_of("cifar10", 0))

        def told(lead: float) -> str:
            cells = []
            for seed in (0, 1, 2):
                for kind, what in kinds.items():
                    top1 = 50.0 + 0.1 * seed * (what["start"] == "scratch") + lead * (what["start"] == "pretrained")
                    trials = [{"learning_rate": rate} for rate in options.learning_rates]
                    result = {"top1": top1, "epochs": 1, "curve": [], "learning_rate": 1e-3}
                    cells.append(Measured("cifar10", seed, kind, {**result, "per_learning_rate": trials}))
            return verdict(pretraining_helps.outcome(Cells(cells, claim.margin), options).findings).word

        assert (told(20.0), told(5.1), told(2.7), told(0.0)) == (
            "holds",
            "cannot be told at this size",
            "does not hold",
            "does not hold",
        )


class TestBetterPretraining:
    def test_study__measures_and_trains_every_snapshot(
        self, make_claim: MakeClaim, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, measured = better_pretraining.measure_all, {}

        def measure(evaluation: Any, **options: Any) -> dict[str, float]:
            """In earnest for the first snapshot alone: it takes seconds."""
            measured[evaluation.run.folder.name] = options
            if len(measured) == 1:
                monkeypatch.setattr(better_pretraining, "first", whole(evaluation, **options), raising=False)
            return dict(better_pretraining.first)  # type: ignore[attr-defined]

        monkeypatch.setattr(better_pretraining, "measure_all", measure)
        content = run_claim(make_claim("better_pretraining", seeds=[0]), out=tmp_path / "c03")
        cells = cells_of(tmp_path / "c03")
        shares = (0, 0.25, 0.5, 1)
        assert [cells[f"snapshot-{share:g}"]["share"] for share in shares] == list(shares)
        assert [cells[f"snapshot-{share:g}"]["steps"] for share in shares] == [0, 1, 2, 4]
        assert all(set(better_pretraining.BETTER) <= set(cell["measurements"]) for cell in cells.values())
        asked = {"split": "validation", "max_images": 8, "solvers": ("heun2",)}
        assert measured == {f"step-00000{step}": asked for step in (0, 1, 2, 4)}
        curves = json.loads(next((runs / "digits-seed0").rglob("round_trip.json")).read_text())["curves"]
        assert list(curves) == ["heun2"]
        # The state through the ODE, by as many steps as are asked for, not the block that the recipe reads.
        assert {cell["finetuned"]["nfe"] for cell in cells.values()} == {2}
        assert {cell["finetuned"]["embedding_dim"] for cell in cells.values()} == {16 * 16}
        assert {cell["probed"]["embedding_dim"] for cell in cells.values()} != {16 * 16}
        findings = found(content)
        deciding = {name for name, finding in findings.items() if finding["side"] is not None}
        assert deciding == {
            "rank correlation of lower held-out loss with fine-tuned accuracy",
            "fine-tuned accuracy, after 100 % of the training less after 25 % of the training",
        }
        assert "rank correlation of fewer bits per dimension with fine-tuned accuracy" in findings

    def test_snapshot__is_found_by_its_step(self, runs: Path, make_claim: MakeClaim) -> None:
        def part(*shares: float) -> Any:
            claim = make_claim("better_pretraining", seeds=[0])
            overrides = (*claim.overrides, f"train.snapshots={list(shares)}")
            recipe = claim.model_copy(update={"overrides": overrides}).recipe_of("digits", 0)
            return SimpleNamespace(run=Run(runs / "digits-seed0"), recipe=recipe)

        names = [better_pretraining._snapshot(part(0.25, 1), share).folder.name for share in (0.25, 1)]
        assert names == ["step-000001", "step-000004"], "a run with more snapshots serves"
        with pytest.raises(UserError, match=r"step-000003, the snapshot at 0\.75 of the training, is not there"):
            better_pretraining._snapshot(part(0, 0.75, 1), 0.75)
        with pytest.raises(UserError, match=r"0\.25 and 0\.26 of 4 steps are both step 1"):
            better_pretraining._snapshot(part(0.25, 0.26, 1), 0.25)

    @pytest.mark.parametrize(
        ("accuracies", "word"),
        [
            ((20, 30, 31, 40, 45, 50), "holds"),
            ((20, 30, 31, 50.0, 50.1, 50.2), "does not hold"),  # it ranks as the loss does, and is flat
            ((50, 45, 40, 40, 45, 50), "cannot be told at this size"),
            ((60, 55, 50, 30, 35, 36), "does not hold"),  # it rises at the end, and ranks the other way round
        ],
    )
    def test_verdict__falls_where_accuracy_is_flat_or_ranks_otherwise(
        self, accuracies: tuple[float, ...], word: str
    ) -> None:
        claim = load_claim("claims/c03")
        options: Any = claim.study
        kinds = better_pretraining.kinds(options, claim.recipe_of("cifar10", 0))
        cells = [
            Measured(
                "cifar10",
                seed,
                kind,
                {
                    "share": what["share"],
                    "steps": 100 * what["share"],
                    "measurements": {"loss": 1.0 - what["share"] + 0.01 * (seed == 0) * (what["share"] == 0.5)},
                    "finetuned": {"top1": top1 + 0.1 * seed * what["share"]},
                    "probed": {"linear": top1},
                },
            )
            for seed in (0, 1, 2)
            for (kind, what), top1 in zip(kinds.items(), accuracies, strict=True)
        ]
        assert verdict(better_pretraining.outcome(Cells(cells, claim.margin), options).findings).word == word

    def test_share_to_rise_from__is_an_earlier_snapshot(self) -> None:
        for share in (0.3, 1.0):
            claim = load_claim("claims/c03", [f"study.rise_from={share}"])
            with pytest.raises(UserError, match=r"has to be one of the earlier snapshots, 0, 0\.01, 0\.05, 0\.2, 0\.5"):
                better_pretraining.kinds(claim.study, claim.recipe_of("cifar10", 0))  # type: ignore[arg-type]

    def test_outcome__ranks_snapshots_and_turns_what_is_better_when_less(self, make_claim: MakeClaim) -> None:
        study: Any = make_claim("better_pretraining").study
        options: Any = study.model_copy(update={"rise_from": 0.5})
        # The first, of an untrained network, is not ranked.
        accuracies = {0: (90, 10, 20, 30), 1: (90, 10, 30, 20), 2: (90, 10, 10, 10)}
        cells = [
            Measured(
                "digits",
                seed,
                f"snapshot-{index / 4:g}",
                {
                    "share": index / 4,
                    "steps": index,
                    "measurements": {"loss": 3.0 - index, "label_bits_noise": 1.0 + index},
                    "finetuned": {"top1": top1},
                    "probed": {"linear": top1},
                },
            )
            for seed, values in accuracies.items()
            for index, top1 in enumerate(values)
        ]
        outcome = better_pretraining.outcome(Cells(cells), options)
        findings = {finding.name: finding for finding in outcome.findings}
        (steps,) = [reading for reading in outcome.readings if "number of training steps" in reading.name]
        assert steps.mean == pytest.approx(0.5)
        for title in ("lower held-out loss", "more label information at the noise end"):
            by_seed = findings[f"rank correlation of {title} with fine-tuned accuracy"].difference.by_seed
            assert by_seed == pytest.approx({0: 1.0, 1: 0.5, 2: 0.0})

    def test_run_without_its_snapshots__is_told(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        claim = make_claim("better_pretraining", seeds=[0])
        overrides = (*claim.overrides, "train.snapshots=[0,0.25,0.75,1]")
        with pytest.raises(UserError, match=r"has no snapshot at 0\.75 of its training"):
            run_claim(claim.model_copy(update={"overrides": overrides}), out=tmp_path / "c03")


class TestInvertedPath:
    def test_study__judges_what_was_chosen_with_the_same_choice_for_all(
        self, make_claim: MakeClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, Any]] = []
        whole = inverted_path.scan

        def scan(evaluation: Any, **options: Any) -> Any:
            asked.append(options)
            return whole(evaluation, **options)

        monkeypatch.setattr(inverted_path, "scan", scan)
        content = run_claim(make_claim("inverted_path", seeds=[0]), out=tmp_path / "c04b")
        cells = cells_of(tmp_path / "c04b")
        assert set(cells) == {"path", "noised", "middle", "random", "clean", "pixels"}
        assert cells["noised"]["chosen"]["tau"] == [0.5], "noised images are no clean ones"
        assert cells["middle"]["chosen"]["block"] == "middle"
        assert (cells["pixels"]["embedding_dim"], cells["pixels"]["nfe"]) == (16 * 16, 0)
        # The path, noised images, the block in the middle, random weights, the clean image.
        assert [list(one["blocks"]) for one in asked] == [[], [], ["middle"], [], []]
        assert [list(one["taus"]) for one in asked] == [[0.5], [0.5], [0.5], [0.5], [0.0]]
        assert [one["encoder"] for one in asked] == ["run", "run", "run", "random_network", "run"]
        assert [one["noised"] for one in asked] == [False, True, False, False, False]
        notes = {note["name"]: note["text"] for note in content["notes"]}
        assert notes["chosen, best block at noised images"] == f"{cells['noised']['chosen']['block']} at tau 0.5"
        assert len(notes) == 5
        deciding = {name for name, finding in found(content).items() if finding["side"] == "above"}
        assert deciding == {
            "linear probe, best block on the path less best block at noised images",
            "linear probe, best block on the path less best block on the path of random weights",
        }

    @pytest.mark.parametrize(
        ("noised", "random", "word"),
        [(40.0, 40.0, "holds"), (45.0, 40.0, "does not hold"), (40.0, 44.5, "does not hold")],
    )
    def test_verdict__falls_where_a_control_is_as_good(self, noised: float, random: float, word: str) -> None:
        claim = load_claim("claims/c04b")
        options: Any = claim.study
        accuracies = {"path": 45.0, "noised": noised, "middle": 44.0, "random": random, "clean": 46.0, "pixels": 30.0}
        cells = [
            Measured(
                "cifar10",
                seed,
                kind,
                {"linear": top1 + 0.1 * seed * (kind == "path"), "knn": 30.0, "nfe": 2, "chosen": chosen},
            )
            for seed in (0, 1, 2)
            for kind, top1 in accuracies.items()
            for chosen in ({"block": "up.1", "tau": [0.2]},)
        ]
        outcome = inverted_path.outcome(Cells(cells, claim.margin), options)
        assert verdict(outcome.findings).word == word
        (note,) = [note for note in outcome.notes if note.name == "chosen, best block on the path"]
        assert note.text == "up.1 at tau 0.2; up.1 at tau 0.2; up.1 at tau 0.2"

    def test_feature__is_judged_by_the_steps_that_chose_it(
        self, make_claim: MakeClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """tau 0.5 of a path that is scanned at 0.1, 0.2 and 0.5 is five steps away, the recipe's own are two."""
        taus = (0.1, 0.2, 0.5)
        scanned: list[Any] = []
        read: list[Any] = []
        scanned_with: list[Any] = []

        def scan(evaluation: Any, **options: Any) -> Any:
            assert evaluation.prg.ode.steps == 2
            result = real_scan(evaluation, **{**options, "taus": taus, "blocks": ["up.1"]})
            cell = next(cell for cell in result.cells if cell.tau == (0.5,))
            encoder = evaluation.encoder(options["encoder"])
            row = Row("block", cell.block, cell.pool)
            scanned.append((GridEncoder(encoder, (row,), taus=taus), cell))
            return SimpleNamespace(chosen=cell)

        def read_block(*arguments: Any, **options: Any) -> Any:
            scanned_with[:] = arguments[:2]
            read.append((arguments[2], whole(*arguments, **options)))
            return read[-1][1]

        real_scan, whole = inverted_path.scan, inverted_path.read_block
        monkeypatch.setattr(inverted_path, "scan", scan)
        monkeypatch.setattr(inverted_path, "read_block", read_block)
        run_claim(make_claim("inverted_path", seeds=[0]), out=tmp_path / "c04b")
        assert len(scanned) == len(read) == 5
        for kind, (grid, cell), (images, (bank, judged)) in zip(
            ("path", "noised", "middle", "random"), scanned[:4], read[:4], strict=True
        ):
            if kind == "noised":
                continue  # nothing is solved
            assert cell.steps == 5
            *_, last = [each for each in read_group(grid, grid.rows, images, batch_size=64) if each.cell.taus == (0.5,)]
            np.testing.assert_allclose(bank.features, last.bank.features, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(judged.features, last.judged.features, rtol=1e-4, atol=1e-5)
            assert bank.nfe == cell.nfe == 6
            if kind == "random":  # a flow that was hardly trained hardly moves, and says nothing of steps
                fewer, _ = whole(*scanned_with, images, block=cell.block, pool=cell.pool, taus=cell.tau)
                assert np.abs(fewer.features - bank.features).max() > 1e-3


class TestCorruption:
    def test_study__judges_both_on_the_same_images(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        content = run_claim(make_claim("corruption", seeds=[0]), out=tmp_path / "c08")
        cells = cells_of(tmp_path / "c08")
        assert set(cells) == {"prg", "resnet", "scratch"}
        for cell in cells.values():
            assert (cell["finetuned"]["num_train"], cell["finetuned"]["num_test"]) == (20, 30)
            assert cell["clean"] == pytest.approx(cell["finetuned"]["top1"], abs=1e-3)
            assert len(cell["error"]) == 15
            chance = 10.0
            kept = (cell["corrupted"] - chance) / (cell["clean"] - chance) if cell["clean"] > chance else 0.0
            assert cell["share"] == pytest.approx(100 * kept, abs=1e-3)
        assert [cells[kind]["finetuned"]["nfe"] for kind in ("prg", "resnet", "scratch")] == [2, 1, 2]
        assert cells["prg"]["multiply_adds"] == cells["scratch"]["multiply_adds"]
        # Both were trained for as many multiply-adds, whose epochs are whole ones.
        prg, resnet = cells["prg"], cells["resnet"]
        epochs = prg["finetuned"]["epochs"] * prg["multiply_adds"] / resnet["multiply_adds"]
        assert epochs > 2.5, "more than the least"
        assert resnet["finetuned"]["epochs"] == round(epochs)
        assert (prg["finetuned"]["epochs"], cells["scratch"]["finetuned"]["epochs"]) == (1, 2)
        deciding = {name for name, finding in found(content).items() if finding["side"] == "above"}
        assert deciding == {
            "accuracy under corruption, PRG less ResNet",
            "share of the clean accuracy above chance that is left, PRG less ResNet",
        }
        margins = {finding["name"]: finding["margin"] for finding in content["findings"] if finding["side"]}
        assert margins == {"accuracy under corruption, PRG less ResNet": 0, max(deciding): 2}
        beside = {reading["name"] for reading in content["readings"]}
        for number in ("parameters", "network evaluations", "multiply-adds of an image", "epochs"):
            assert {f"{number}, PRG", f"{number}, ResNet"} <= beside

    @pytest.mark.parametrize(
        ("clean", "left", "share"), [(90, 50, 50.0), (30, 20, 50.0), (10, 9, 0.0), (8, 9, 0.0), (50, 50, 100.0)]
    )
    def test_share__is_of_what_lies_above_chance(self, clean: float, left: float, share: float) -> None:
        """Half of what is above chance is half for a good and for a bad classifier: 56 % and 67 % of all."""
        assert corruption.share_above_chance(clean, left, chance=10.0) == pytest.approx(share)

    @pytest.mark.parametrize(
        ("lead", "word"), [(9.0, "holds"), (0.0, "does not hold"), (0.5, "does not hold"), (-9.0, "does not hold")]
    )
    def test_verdict__falls_where_the_resnet_is_as_robust(self, lead: float, word: str) -> None:
        claim = load_claim("claims/c08")
        options: Any = claim.study
        cells = []
        for seed in (0, 1, 2):
            for kind in ("prg", "resnet"):
                left = 40.0 + 0.01 * seed * (kind == "prg") + lead * (kind == "prg")
                share = corruption.share_above_chance(60.0, left, chance=10.0)
                trained = {"top1": 60.0, "epochs": 1, "curve": [], "learning_rate": 1e-3, "nfe": 1}
                trained["per_learning_rate"] = [{"learning_rate": 1e-3}]
                result = {"clean": 60.0, "corrupted": left, "share": share, "parameters": 1, "multiply_adds": 1}
                cells.append(Measured("cifar10", seed, kind, {**result, "finetuned": trained}))
        assert verdict(corruption.outcome(Cells(cells, claim.margin), options).findings).word == word

    def test_scratch__may_be_left_out(self, make_claim: MakeClaim) -> None:
        options: Any = make_claim("corruption").study.model_copy(update={"scratch": False})
        recipe: Any = None
        assert list(corruption.kinds(options, recipe)) == ["prg", "resnet"]
