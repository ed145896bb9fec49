"""What fine-tuning can be told: feature and solver, low-rank updates, an average; and what its runs tell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import halves

from lightly_prg import load
from lightly_prg.classifier import finetune_run, load_classifier
from lightly_prg.classifier.changed_solver import classify_with
from lightly_prg.classifier.flow_comparison import round_trip_error, samples_of
from lightly_prg.cost.training_cost import training_cost
from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.recipe import FinetuneRecipe, finetune_settings, load_recipe, parse_recipe
from lightly_prg.recipe.recipe import _without_unused
from lightly_prg.run import Run
from lightly_prg.train import train

RECIPE = """
name: tiny
data: {name: digits}
train: {epochs: 1, batch_size: 16, lr: 1.0e-3, ema_decay: 0.0, precision: 32, accelerator: cpu}
eval: {split: test, few_shot: null}
method:
  name: """
PRG = """prg
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], patch_size: 2}
  ode: {steps: 1}
  feature: {source: block, block: middle, tau: 0.3}"""
MAE = """mae
  backbone: {patch_size: 4, width: 24, depth: 2, heads: 2}
  decoder: {width: 24, depth: 1, heads: 2}"""
QUICK: dict[str, Any] = {"epochs": 1, "learning_rates": (1e-2,), "batch_size": 16}


def splits() -> Splits:
    return halves(8)


def trained(method: str, folder: Path) -> Path:
    train(parse_recipe(RECIPE + method), out=folder, data=splits())
    return folder


@pytest.fixture(scope="module")
def prg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(PRG, tmp_path_factory.mktemp("prg") / "run")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightly_prg.classifier.flow_comparison.STEPS", 4)


@pytest.fixture
def evaluation(prg: Path, tmp_path: Path) -> Evaluation:
    shutil.copytree(prg, tmp_path / "run")
    return opened(tmp_path / "run")


def opened(folder: Path) -> Evaluation:
    return Evaluation(Run.open(folder), data=splits(), device="cpu")


def settings(evaluation: Evaluation, *overrides: str, **options: Any) -> FinetuneRecipe:
    return finetune_settings(evaluation.run.recipe, overrides, **{**QUICK, **options})


class TestFeature:
    def test_state__is_trained_through_and_exported(self, evaluation: Evaluation) -> None:
        chosen = settings(evaluation, "feature.source=state", "feature.tau=[0.5,1.0]", "ode.steps=4")
        run, result = finetune_run(evaluation, chosen)
        assert (result["nfe"], result["embedding_dim"]) == (4, 128)
        encoder: Any = load(run.folder)
        assert encoder.feature.source == "state"
        assert encoder.feature.taus == (0.5, 1.0)
        assert encoder.ode.steps == 4
        before = load(evaluation.run.folder).state_dict()
        # All of the network lies before the state, and the former feature was its middle.
        moved = [key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])]
        assert any(key.startswith("velocity.output") for key in moved)
        recipe = load_recipe(run.folder)
        assert recipe.method.feature == encoder.feature  # type: ignore[union-attr]
        assert recipe.method.ode.steps == 4  # type: ignore[union-attr]
        assert recipe.eval.finetune == chosen
        again = opened(run.folder)
        assert again.knn()["nfe"] == 4
        assert classify_with(again)["own"]["top1"] == pytest.approx(result["top1"])
        # A run of it goes on from there.
        assert finetune_run(again, settings(again), out=run.folder.with_name("more"))[1]["nfe"] == 4

    def test_results__of_other_features_and_modes_lie_beside_each_other(self, evaluation: Evaluation) -> None:
        for number, overrides in enumerate((["mode=head"], ["mode=lora"], ["mode=head", "feature.tau=0.0"])):
            finetune_run(evaluation, settings(evaluation, *overrides), out=evaluation.run.folder.with_name(f"{number}"))
        assert len(list(evaluation.run.folder.glob("eval/finetune*.json"))) == 3

    def test_network__is_read_at_another_block(self, tmp_path: Path) -> None:
        source = opened(trained(MAE, tmp_path / "mae"))
        encoder: Any = source.trained
        block = next(name for name in encoder.blocks if name.endswith("blocks.0")).removeprefix("network.")
        run, result = finetune_run(source, settings(source, f"feature.block={block}", "feature.pool=flatten"))
        assert load(run.folder).description()["feature"] == {"block": block, "pool": "flatten"}
        assert load_recipe(run.folder).method.feature.block == block
        assert "round_trip_before" not in result
        assert not (run.folder / "figures").exists()
        with pytest.raises(UserError, match="no ODE"):
            finetune_run(source, settings(source, "ode.steps=2"), overwrite=True)

    def test_mistakes__leave_no_run(self, evaluation: Evaluation) -> None:
        for override, message in (("feature.block=midle", "middle"), ("ode.solver=eular", "euler")):
            with pytest.raises(UserError, match=message):
                finetune_run(evaluation, settings(evaluation, override))
        with pytest.raises(UserError, match="judged on validation or test"):
            finetune_run(evaluation, settings(evaluation), split="train")
        assert not list((evaluation.run.folder / "eval").glob("finetune*"))
        assert not evaluation.run.folder.with_name("run-finetuned").exists()


class TestLoRA:
    def test_run__loads_like_any_other(self, evaluation: Evaluation) -> None:
        run, result = finetune_run(
            evaluation,
            settings(evaluation, "lora.rank=2", "feature.source=state", mode="lora", beta=0.5, ema_decay=0.5),
        )
        before, after = load(evaluation.run.folder).state_dict(), load(run.folder).state_dict()
        assert before.keys() == after.keys()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed == {key for key in before if before[key].ndim > 1}
        for key in changed:
            update = (after[key] - before[key]).flatten(1).double()
            assert torch.linalg.matrix_rank(update, rtol=1e-4) <= 2, key
        whole = sum(p.numel() for p in load(run.folder).parameters())
        assert result["trainable_parameters"] < whole
        images, labels, _ = next(iter(splits().test.loader(batch_size=20)))
        with torch.no_grad():
            hits = load_classifier(run.folder)(images.float() / 255).argmax(1) == labels
        assert 100 * hits.float().mean().item() == pytest.approx(result["top1"])


class TestFlow:
    def test_round_trip__stands_in_the_result_and_samples_in_a_figure(self, evaluation: Evaluation) -> None:
        run, result = finetune_run(evaluation, settings(evaluation, "feature.source=state", "feature.tau=1.0"))
        shown = torch.stack([splits().test[index][0] for index in range(20)]).float() / 255
        trained_encoder: Any = load(run.folder)
        assert result["round_trip_before"] == pytest.approx(round_trip_error(evaluation.prg, shown), rel=1e-3)
        assert result["round_trip_after"] == pytest.approx(round_trip_error(trained_encoder, shown), rel=1e-3)
        assert result["round_trip_after"] != result["round_trip_before"]
        written = json.loads((run.folder / "eval/finetune.json").read_text())
        assert written["round_trip_after"] == result["round_trip_after"]
        for name in ("samples", "samples-dark", "samples_before_after", "samples_before_after-dark"):
            assert (run.folder / f"figures/{name}.png").stat().st_size > 0

    def test_scratch__has_no_flow_to_keep(self, evaluation: Evaluation) -> None:
        run, result = finetune_run(evaluation, settings(evaluation), encoder="random_network")
        assert "round_trip_after" not in result
        assert not run.figures.exists()

    def test_cost__is_that_of_all_that_made_the_weights(self, evaluation: Evaluation, tmp_path: Path) -> None:
        """A network from scratch owes nothing to the run beside it; a fine-tuned one owes it its pretraining."""
        before = evaluation.description["training"]
        tuned, result = finetune_run(evaluation, settings(evaluation), out=tmp_path / "tuned")
        scratch, alone = finetune_run(
            evaluation, settings(evaluation), encoder="random_network", out=tmp_path / "scratch"
        )
        spent = training_cost(tuned, trust=False)
        assert spent.training["steps"] == before["steps"] + result["steps"]
        assert spent.training["cpu_seconds"] == pytest.approx(before["cpu_seconds"] + result["cpu_seconds"], abs=0.11)
        assert spent.macs is None
        assert training_cost(scratch, trust=False).training["steps"] == alone["steps"]

    def test_flow_that_leaves_all_bounds__is_none(self, evaluation: Evaluation) -> None:
        encoder = evaluation.prg
        with torch.no_grad():
            encoder.network.output.weight.fill_(float("inf"))  # type: ignore[union-attr, operator]
        assert round_trip_error(encoder, torch.rand(2, 1, 8, 8)) is None
        assert samples_of(encoder, 0) is None


class TestOtherSolver:
    @pytest.fixture(scope="class")
    def folder(self, prg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        source = opened(prg)
        chosen = settings(source, "feature.source=state", "feature.tau=1.0", "ode.steps=4")
        return finetune_run(source, chosen, out=tmp_path_factory.mktemp("other") / "run")[0].folder

    def test_same_solver__agrees_with_itself(self, folder: Path) -> None:
        result = classify_with(opened(folder), {"steps": 4})
        assert result["changed"]["agreement"] == 100.0
        assert result["changed"]["feature_cosine"] == pytest.approx(1.0)
        assert result["changed"]["top1"] == result["own"]["top1"]

    def test_other_solver__is_what_the_encoder_gives(self, folder: Path) -> None:
        evaluation = opened(folder)
        result = classify_with(evaluation, {"steps": 2, "solver": "heun2"}, split="validation")
        assert (result["own"]["nfe"], result["changed"]["nfe"]) == (4, 4)
        assert result["changed"]["ode"]["solver"] == "heun2"
        assert result["num_test"] == 12
        model, own = load_classifier(folder), load_classifier(folder)
        encoder: Any = model.encoder
        encoder.ode = encoder.ode.model_copy(update={"steps": 2, "solver": "heun2"})
        images, labels, _ = next(iter(splits().validation.loader(batch_size=12)))
        with torch.no_grad():
            features = [part.encoder(images.float() / 255) for part in (own, model)]
            cosine = torch.nn.functional.cosine_similarity(*features).mean().item()
            predictions = model.head(features[1]).argmax(1)
        assert result["changed"]["feature_cosine"] == pytest.approx(cosine, abs=1e-6)
        assert cosine < 1.0
        assert result["changed"]["top1"] == pytest.approx(100 * (predictions == labels).float().mean().item())
        files = list(folder.glob("eval/classify-*.json"))
        assert json.loads(files[-1].read_text())["evaluator"] == "classify"

    def test_own_solver__has_the_plain_name(self, folder: Path) -> None:
        assert classify_with(opened(folder))["changed"] is None
        assert (folder / "eval/classify.json").is_file()

    def test_run_without_head__is_told(self, evaluation: Evaluation) -> None:
        with pytest.raises(UserError, match=r"head\.json"):
            classify_with(evaluation)


class TestSettings:
    def test_overrides__are_those_of_the_section(self, evaluation: Evaluation) -> None:
        chosen = finetune_settings(
            evaluation.run.recipe, ["mode=lora", "lora.rank=4", "ode.gradient=full", "epochs=7"], epochs=3
        )
        assert (chosen.mode, chosen.lora.rank, chosen.ode, chosen.epochs) == ("lora", 4, {"gradient": "full"}, 3)
        recipe = evaluation.run.recipe.model_copy(
            update={"eval": evaluation.run.recipe.eval.model_copy(update={"finetune": chosen})}
        )
        assert parse_recipe(recipe.to_yaml()).eval.finetune == chosen
        # Another mode than that of the recipe leaves its updates behind; updates asked for are not dropped in silence.
        assert finetune_settings(recipe, mode="full").lora == FinetuneRecipe().lora
        assert finetune_settings(recipe, ["ema_decay=0.5"], mode="lora").lora.rank == 4
        with pytest.raises(UserError, match="lora describes the updates of mode 'lora'; the mode is 'full'"):
            finetune_settings(recipe, ["lora.rank=2"], mode="full")

    def test_hash__changes_with_what_decides_the_result_alone(self) -> None:
        plain = parse_recipe(RECIPE + PRG, overrides=["eval.finetune.mode=full"])
        hashes = [
            parse_recipe(RECIPE + PRG, overrides=["eval.finetune.mode=full", *more]).sha256()
            for more in (
                ["eval.finetune.ema_decay=0.9"],
                ["eval.finetune.feature.tau=0.5"],
                ["eval.finetune.ode.steps=3"],
                ["eval.finetune.mode=lora"],
                ["eval.finetune.mode=lora", "eval.finetune.lora.rank=4"],
            )
        ]
        assert len({plain.sha256(), *hashes}) == 6
        # As it was before these options were there.
        assert set(_without_unused(plain.model_dump()["eval"]["finetune"])) == {
            "mode", "blocks", "preset", "labels", "epochs", "batch_size", "learning_rates", "beta",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("lora.rnk=4", r"unknown key 'lora\.rnk'.*did you mean 'lora\.rank'"),
            ("epoch=4", r"unknown key 'epoch'.*did you mean 'epochs'.*Known here: mode"),
            ("mode=laura", "allowed are 'head', 'partial', 'lora' or 'full'"),
            ("ema_decay=1", "ema_decay is 1"),
            ("epochs", "is not an override"),
        ],
    )
    def test_mistakes__end_in_a_sentence(self, evaluation: Evaluation, override: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            finetune_settings(evaluation.run.recipe, [override])
