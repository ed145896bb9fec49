from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import call

from lightly_prg import load
from lightly_prg.recipe import load_recipe
from lightly_prg.train import train

QUICK = ["--labels", "2", "--epochs", "1", "--lr", "1e-3", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = ["train.epochs=1", "method.backbone.channels=8", "data.train_size=200", "train.accelerator=cpu"]
    folder = tmp_path_factory.mktemp("cli") / "run"
    train(load_recipe("quickstart", [*overrides, "train.precision=32", "train.ema_decay=0"]), out=folder)
    return folder


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightly_prg.classifier.flow_comparison.STEPS", 2)
    monkeypatch.setenv("COLUMNS", "200")


def test_keys_and_options__reach_the_fine_tuning(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    keys = ["feature.source=state", "feature.tau=[0.5,1.0]", "ode.steps=4", "lora.rank=1"]
    options = ["--mode", "lora", "--ema-decay", "0.9", "--beta", "0.1", *QUICK, "--out", str(out)]
    code, printed, error = call(monkeypatch, capsys, "finetune", str(run), *keys, *options)
    assert code == 0, error
    assert "4 NFE" in printed
    assert "round-trip error of the flow" in printed
    encoder: Any = load(out)
    assert encoder.feature.taus == (0.5, 1.0)
    chosen: Any = load_recipe(out).eval.finetune
    assert (chosen.mode, chosen.lora.rank, chosen.ema_decay, chosen.beta) == ("lora", 1, 0.9, 0.1)

    code, printed, error = call(monkeypatch, capsys, "classify", str(out), "ode.steps=8", "ode.solver=heun2")
    assert code == 0, error
    assert "4 NFE" in printed
    assert "16 NFE" in printed
    assert "cosine of the features" in printed
    (file,) = out.glob("eval/classify-*.json")
    assert json.loads(file.read_text())["changed"]["ode"]["steps"] == 8


def test_recipe_with_a_fine_tuning__is_fine_tuned_by_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    small = ["train.epochs=1", "train.max_steps=1", "method.backbone.channels=8", "data.train_size=200"]
    judged = ["eval.knn=null", "eval.linear=null", "eval.few_shot=null", "eval.controls=[]", "train.precision=32"]
    asked = "eval.finetune={labels: 2, epochs: 1, learning_rates: [0.001]}"
    command = ["train", "quickstart", *small, *judged, "train.accelerator=cpu", asked, "--out", str(out)]
    code, printed, error = call(monkeypatch, capsys, *command)
    assert code == 0, error
    assert "fine-tuned top-1" in printed
    result = json.loads((out / "eval" / "finetune.json").read_text(encoding="utf-8"))
    assert result["num_train"] == 20
    assert f"{result['top1']:.2f}" in printed
    assert load_recipe(tmp_path / "run-finetuned").init_from == str(out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{result['top1']:.1f}" in page

    weights = (tmp_path / "run-finetuned" / "encoder.safetensors").stat().st_mtime_ns
    code, printed, error = call(monkeypatch, capsys, "evaluate", str(out))
    assert code == 0, error
    assert "run-finetuned is there already" in printed.replace("\n", "")
    assert (tmp_path / "run-finetuned" / "encoder.safetensors").stat().st_mtime_ns == weights


def test_images_too_small_for_corruptions__are_told_before_a_probe_is_fitted(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightly_prg.classifier.classifier_of", lambda *_: pytest.fail("a probe was fitted"))
    code, _, error = call(monkeypatch, capsys, "robustness", str(run), "--device", "cpu")
    assert code == 2
    assert "The images have 8 x 8 pixels; corruptions need square ones of at least 16." in error


def test_folder_that_cannot_be_written__is_told_before_the_training(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightly_prg.classifier.finetune_encoder", lambda *_, **__: pytest.fail("it was trained"))
    (tmp_path / "file").touch()
    code, _, error = call(monkeypatch, capsys, "finetune", str(run), *QUICK, "--out", str(tmp_path / "file" / "tuned"))
    assert code == 2
    assert error.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "RUN", "feature.sauce=state", *QUICK], "did you mean 'source'"),
        (["finetune", "RUN", "loar.rank=4", *QUICK], "did you mean 'lora'"),
        (["classify", "RUN"], "holds no fine-tuned model"),
        (["classify", "RUN", "feature.tau=0.5"], "The feature belongs to the trained head"),
    ],
)
def test_mistakes__end_in_a_sentence(
    arguments: list[str],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, error = call(monkeypatch, capsys, *(str(run) if part == "RUN" else part for part in arguments))
    assert code != 0
    assert message in " ".join(error.split())
    assert "Traceback" not in error
