from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import halves

from lightly_prg import load
from lightly_prg.classifier import (
    classifier_of,
    default_target,
    finetune_encoder,
    finetune_run,
    load_classifier,
    robustness,
)
from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.recipe import FinetuneRecipe, finetune_settings, parse_recipe
from lightly_prg.recipe.comparison import check_choice
from lightly_prg.run import Run
from lightly_prg.train import train

METHODS = {
    "prg": """
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], patch_size: 2}
  ode: {steps: 1}
  feature: {source: block, block: middle, tau: 0.3}""",
    "simclr": """
  backbone: {depth: 9, width: 0.125}""",
    "mae": """
  backbone: {patch_size: 4, width: 24, depth: 1, heads: 2}
  decoder: {width: 24, depth: 1, heads: 2}""",
}
QUICK = FinetuneRecipe(epochs=2, learning_rates=(1e-3,), batch_size=8)


def splits() -> Splits:
    return halves(16)


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = parse_recipe(
        f"name: tiny\ndata: {{name: digits}}\nmethod:\n  name: {request.param}{METHODS[request.param]}\n"
        "train: {epochs: 2, batch_size: 16, lr: 1.0e-3, ema_decay: 0.0, precision: 32, accelerator: cpu}\n"
        "eval: {split: test, few_shot: null}\n"
    )
    folder = tmp_path_factory.mktemp(request.param) / "run"
    train(recipe, out=folder, data=splits())
    return folder


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightly_prg.classifier.flow_comparison.STEPS", 2)


@pytest.fixture
def evaluation(trained: Path, tmp_path: Path) -> Evaluation:
    shutil.copytree(trained, tmp_path / "run")
    return Evaluation(Run.open(tmp_path / "run"), data=splits(), device="cpu")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load(folder).state_dict().items()}


class TestFinetunedRun:
    def test_folder__is_a_run_that_loads_and_is_evaluated_like_any_other(self, evaluation: Evaluation) -> None:
        source = evaluation.run.folder
        before = weights(source)
        run, result = finetune_run(evaluation, QUICK)
        assert run.folder == source.with_name("run-finetuned")
        after = weights(run.folder)
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[key], after[key]) for key in before)
        assert all(torch.equal(value, before[key]) for key, value in weights(source).items())
        assert json.loads((run.folder / "eval/finetune.json").read_text())["top1"] == result["top1"]
        again = Evaluation(run, data=splits(), device="cpu")
        assert 0 <= again.knn()["top1"] <= 100
        assert again.run.recipe.init_from == str(source)

    def test_classifier__classifies_as_reported(self, evaluation: Evaluation) -> None:
        run, result = finetune_run(evaluation, QUICK)
        images, labels, _ = next(iter(splits().test.loader(batch_size=20)))
        with torch.no_grad():
            hits = load_classifier(run.folder)(images.float() / 255).argmax(1) == labels
        assert 100 * hits.float().mean().item() == pytest.approx(result["top1"])

    def test_head_only__leaves_the_encoder_as_it_was(self, evaluation: Evaluation) -> None:
        settings = finetune_settings(parse_recipe(evaluation.run.recipe.to_yaml()), mode="head", epochs=2)
        run, _ = finetune_run(evaluation, settings)
        before, after = weights(evaluation.run.folder), weights(run.folder)
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_one_block__changes_nothing_else(self, evaluation: Evaluation) -> None:
        encoder: Any = load(evaluation.run.folder)
        # A PRG feature at `middle` never sees the blocks behind it.
        block = next(name for name in encoder.blocks if "middle" in name or "layer3" in name or "blocks.0" in name)
        settings = QUICK.model_copy(update={"mode": "partial", "blocks": (block,)})
        run, _ = finetune_run(evaluation, settings)
        before, after = weights(evaluation.run.folder), weights(run.folder)
        changed = [key for key in before if not torch.equal(before[key], after[key])]
        assert changed
        assert all(key.startswith(f"{block}.") for key in changed)

    def test_scratch__starts_from_other_weights(self, evaluation: Evaluation) -> None:
        run, result = finetune_run(evaluation, QUICK, encoder="random_network")
        assert run.folder.name == "run-scratch"
        assert result["encoder"] == "random_network"
        assert run.recipe.init_from is None

    def test_folder__that_is_taken_is_left_alone(self, evaluation: Evaluation) -> None:
        run, _ = finetune_run(evaluation, QUICK)
        before = (run.folder / "encoder.safetensors").read_bytes()
        with pytest.raises(UserError, match="--overwrite"):
            finetune_run(evaluation, QUICK)
        with pytest.raises(UserError, match="folder of its own"):
            finetune_run(evaluation, QUICK, out=evaluation.run.folder, overwrite=True)
        assert (run.folder / "encoder.safetensors").read_bytes() == before
        finetune_run(evaluation, QUICK.model_copy(update={"epochs": 1}), overwrite=True)

    def test_beta__belongs_to_the_flow(self, evaluation: Evaluation) -> None:
        settings = QUICK.model_copy(update={"beta": 1.0})
        if evaluation.description["method"] != "prg":
            with pytest.raises(UserError, match="flow-matching"):
                finetune_run(evaluation, settings)
            return
        plain, _ = finetune_run(evaluation, QUICK, out=evaluation.run.folder.with_name("plain"))
        kept, _ = finetune_run(evaluation, settings, out=evaluation.run.folder.with_name("kept"))
        expanding = "velocity.out"  # behind the feature: only the flow-matching loss reaches it
        one, other = weights(plain.folder), weights(kept.folder)
        behind = [key for key in one if key.startswith(expanding)]
        assert behind
        assert any(not torch.equal(one[key], other[key]) for key in behind)


class TestRobustness:
    def test_probe_and_finetuned__are_judged_alike(self, evaluation: Evaluation) -> None:
        result, figures = robustness(evaluation, max_images=8)
        assert len(result["error"]) == 15
        assert all(figure.is_file() for figure in figures)
        run, _ = finetune_run(evaluation, QUICK)
        assert type(classifier_of(Evaluation(run, data=splits(), device="cpu"), split="test")).__name__ == "FineTuned"

    def test_probe__is_not_fitted_on_the_images_that_it_is_judged_by(self, evaluation: Evaluation) -> None:
        read: list[str] = []
        embeddings = evaluation.embeddings

        def noted(name: Any, split: str) -> Any:
            read.append(split)
            return embeddings(name, split)

        evaluation.embeddings = noted  # type: ignore[assignment]
        classifier_of(evaluation, split="validation")
        assert read == ["train"]
        classifier_of(evaluation, split="test")
        assert read == ["train", "train", "validation"]

    def test_official_files__are_of_the_test_images(self, evaluation: Evaluation, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="corrupted test images"):
            robustness(evaluation, split="validation", folder=tmp_path)


def test_folder_without_a_name__is_fine_tuned_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "eval").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert default_target(Run(Path("."))).folder == tmp_path / "mine-finetuned"
    monkeypatch.chdir(tmp_path / "mine" / "eval")
    assert default_target(Run(Path(".."))).folder == tmp_path / "mine-finetuned"


class TestChoices:
    @pytest.mark.parametrize(("rates", "refused"), [((1e-3,), False), ((1e-3, 1e-2), True)])
    def test_learning_rate__is_not_judged_by_what_chose_it(
        self, evaluation: Evaluation, rates: tuple[float, ...], refused: bool
    ) -> None:
        run, _ = finetune_run(evaluation, QUICK.model_copy(update={"learning_rates": rates}), split="test")
        check_choice(run, "test")
        if refused:
            with pytest.raises(UserError, match="learning rate was chosen on the validation images"):
                check_choice(run, "validation")
        else:
            check_choice(run, "validation")

    def test_digits__are_not_mirrored(self, evaluation: Evaluation) -> None:
        recipe = evaluation.run.recipe
        augment = recipe.method.augment.model_copy(update={"horizontal_flip": False})  # type: ignore[union-attr]
        for changed, mirrors in ((recipe, True), (recipe.model_copy(
            update={"method": recipe.method.model_copy(update={"augment": augment})}
        ), False)):  # fmt: skip
            vars(evaluation.run)["recipe"] = changed
            result, _ = finetune_encoder(evaluation, evaluation.trained, QUICK, split="test")
            assert result.options["preset"]["horizontal_flip"] is mirrors

    def test_labels__are_a_whole_number_or_a_share(self) -> None:
        for labels in (None, 0.5, 1, 2.0):
            assert FinetuneRecipe(labels=labels).labels == labels
        with pytest.raises(ValueError, match="whole number of each class"):
            FinetuneRecipe(labels=1.5)


class TestControls:
    def test_pca__is_scikit_learns_up_to_sign(self, evaluation: Evaluation) -> None:
        from sklearn.decomposition import PCA

        pixels = torch.stack([splits().train[i][0] for i in range(48)]).flatten(1).float().numpy() / 255
        expected = PCA(48).fit_transform(pixels)
        found = evaluation.embeddings("pca", "train").features
        assert found.shape == (48, 48)
        torch.testing.assert_close(
            torch.tensor(abs(found[:, :20])), torch.tensor(abs(expected[:, :20])), atol=1e-3, rtol=0
        )

    def test_report__of_every_method(self, evaluation: Evaluation) -> None:
        controls = ("raw_pixels", "pca")
        settings = evaluation.run.recipe.eval.model_copy(update={"controls": controls})
        evaluation.run.__dict__["recipe"] = evaluation.run.recipe.model_copy(update={"eval": settings})
        page = evaluation.all().read_text()
        assert "PCA" in page
        samples = (evaluation.run.figures / "samples.png").is_file()
        assert samples == (evaluation.description["method"] == "prg")

    def test_augmented_probe__is_written_beside(self, evaluation: Evaluation) -> None:
        result = evaluation.linear_augmented(epochs=2)
        assert result["num_train"] + result["num_validation"] == 60
        assert list(evaluation.run.folder.glob("eval/linear_augmented-*.json"))


def test_classifier__of_a_run_without_head_is_told(trained: Path) -> None:
    with pytest.raises(UserError, match=r"head\.json"):
        load_classifier(trained)


def test_damaged_head__is_told(evaluation: Evaluation) -> None:
    run, _ = finetune_run(evaluation, QUICK)
    head = run.folder / "head.safetensors"
    whole = head.read_bytes()
    for place in (len(whole) - 3, len(whole) // 2 - 1):
        # A bit of a number: every reader would take it for a weight.
        head.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"head\.safetensors is damaged: its checksum"):
            load_classifier(run.folder)
    described = json.loads((run.folder / "head.json").read_text())
    del described["weights_crc32"]  # as older versions wrote it
    (run.folder / "head.json").write_text(json.dumps(described))
    head.write_bytes(whole)
    load_classifier(run.folder)
    (run.folder / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        load_classifier(run.folder)
    head.unlink()
    with pytest.raises(UserError, match=r"head\.safetensors is missing"):
        load_classifier(run.folder)
    for lost in ("head", "num_classes"):
        (run.folder / "head.json").write_text(json.dumps({key: described[key] for key in described if key != lost}))
        with pytest.raises(UserError, match=r"head\.json is damaged: it does not say which head"):
            load_classifier(run.folder)
