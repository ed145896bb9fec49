from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lightly_prg.evaluation
from lightly_prg.claims import better_pretraining, corruption, inverted_path, pretraining_helps, reversibility, solvers
from lightly_prg.claims.recipe import ClaimRecipe
from lightly_prg.claims.runner import run_claim
from lightly_prg.claims.study import Cells, Measured
from lightly_prg.errors import UserError
from lightly_prg.measurements.round_trips import round_trip_curve
from lightly_prg.run import Run

MakeClaim = Callable[..., ClaimRecipe]


@pytest.fixture(autouse=True)
def short_curves() -> Iterator[None]:
    """Round trips at one price, and scans of two positions."""
    short: Any = partial(round_trip_curve, budgets=(4,), tolerances=(1e-1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightly_prg.evaluation, "round_trip_curve", short)
        patch.setattr(reversibility, "round_trip_curve", short)
        patch.setattr(inverted_path, "scan", partial(inverted_path.scan, taus=(0.0, 0.5)))
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
        assert "accuracy, beta 1 less beta 0" in findings
        assert (tmp_path / "c14/figures/samples-digits-seed0-beta0/samples_before_after-dark.png").is_file()

    def test_flow_that_leaves_all_bounds__has_lost_the_whole_range(self) -> None:
        assert reversibility._grey_levels({"round_trip": None}) == 255
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
            (20, 1),
            (10, 2),
        ]
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


class TestBetterPretraining:
    def test_study__measures_and_trains_every_snapshot(
        self, make_claim: MakeClaim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        assert [cells[f"snapshot-{index}"]["share"] for index in range(3)] == [0, 0.34, 1]
        assert [cells[f"snapshot-{index}"]["steps"] for index in range(3)] == [0, 1, 3]
        assert all(set(better_pretraining.BETTER) <= set(cell["measurements"]) for cell in cells.values())
        assert measured == {f"step-00000{step}": {"split": "validation", "max_images": 8} for step in (0, 1, 3)}
        findings = found(content)
        deciding = {name for name, finding in findings.items() if finding["side"] is not None}
        assert deciding == {
            "rank correlation of lower held-out loss with fine-tuned accuracy",
            "rank correlation of fewer bits per dimension with fine-tuned accuracy",
        }
        assert "fine-tuned accuracy, after 100 % of the training less after 34 % of the training" in findings

    def test_snapshot__is_found_by_its_step(self, runs: Path, make_claim: MakeClaim) -> None:
        def part(*shares: float) -> Any:
            claim = make_claim("better_pretraining", seeds=[0])
            overrides = (*claim.overrides, f"train.snapshots={list(shares)}")
            recipe = claim.model_copy(update={"overrides": overrides}).recipe_of("digits", 0)
            return SimpleNamespace(run=Run(runs / "digits-seed0"), recipe=recipe)

        names = [better_pretraining._snapshot(part(0.34, 1), share).folder.name for share in (0.34, 1)]
        assert names == ["step-000001", "step-000003"], "a run with more snapshots serves"
        with pytest.raises(UserError, match=r"step-000002, the snapshot at 0\.67 of the training, is not there"):
            better_pretraining._snapshot(part(0, 0.67, 1), 0.67)
        with pytest.raises(UserError, match=r"0\.34 and 0\.35 of 3 steps are both step 1"):
            better_pretraining._snapshot(part(0.34, 0.35, 1), 0.34)

    def test_outcome__ranks_snapshots_and_turns_what_is_better_when_less(self, make_claim: MakeClaim) -> None:
        options: Any = make_claim("better_pretraining").study
        accuracies = {0: (10, 20, 30), 1: (10, 30, 20), 2: (10, 10, 10)}
        cells = [
            Measured(
                "digits",
                seed,
                f"snapshot-{index}",
                {
                    "share": index / 2,
                    "measurements": {"loss": 3.0 - index, "label_bits_noise": 1.0 + index},
                    "finetuned": {"top1": top1},
                    "probed": {"linear": top1},
                },
            )
            for seed, values in accuracies.items()
            for index, top1 in enumerate(values)
        ]
        findings = {finding.name: finding for finding in better_pretraining.outcome(Cells(cells), options).findings}
        for title in ("lower held-out loss", "more label information at the noise end"):
            by_seed = findings[f"rank correlation of {title} with fine-tuned accuracy"].difference.by_seed
            assert by_seed == pytest.approx({0: 1.0, 1: 0.5, 2: 0.0})

    def test_run_without_its_snapshots__is_told(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        claim = make_claim("better_pretraining", seeds=[0])
        overrides = (*claim.overrides, "train.snapshots=[0,0.34,0.67,1]")
        with pytest.raises(UserError, match=r"has no snapshot at 0\.67 of its training"):
            run_claim(claim.model_copy(update={"overrides": overrides}), out=tmp_path / "c03")


class TestInvertedPath:
    def test_study__judges_what_was_chosen(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        content = run_claim(make_claim("inverted_path", seeds=[0]), out=tmp_path / "c04b")
        cells = cells_of(tmp_path / "c04b")
        assert set(cells) == {"path", "noised", "middle", "random"}
        assert cells["noised"]["chosen"]["block"] == cells["path"]["chosen"]["block"]
        assert cells["middle"]["chosen"]["block"] == "middle"
        assert cells["random"]["chosen"] == cells["path"]["chosen"]
        assert len({cells[kind]["embedding_dim"] for kind in ("path", "random")}) == 1
        deciding = {name for name, finding in found(content).items() if finding["side"] == "above"}
        assert deciding == {
            "linear probe, best block on the path less the same block at noised images",
            "linear probe, best block on the path less the same feature of random weights",
        }


class TestCorruption:
    def test_study__judges_both_on_the_same_images(self, make_claim: MakeClaim, tmp_path: Path) -> None:
        content = run_claim(make_claim("corruption", seeds=[0]), out=tmp_path / "c08")
        cells = cells_of(tmp_path / "c08")
        assert set(cells) == {"prg", "resnet"}
        for cell in cells.values():
            assert (cell["finetuned"]["num_train"], cell["finetuned"]["num_test"]) == (20, 30)
            assert cell["clean"] == pytest.approx(cell["finetuned"]["top1"], abs=1e-3)
            assert len(cell["error"]) == 15
        assert (cells["prg"]["finetuned"]["nfe"], cells["resnet"]["finetuned"]["nfe"]) == (2, 1)
        deciding = {name for name, finding in found(content).items() if finding["side"] == "above"}
        assert deciding == {
            "accuracy under corruption, PRG less ResNet",
            "share of the clean accuracy that is left, PRG less ResNet",
        }

    def test_scratch__is_a_third(self, make_claim: MakeClaim) -> None:
        options: Any = make_claim("corruption").study.model_copy(update={"scratch": True})
        recipe: Any = None
        assert list(corruption.kinds(options, recipe)) == ["prg", "resnet", "scratch"]
