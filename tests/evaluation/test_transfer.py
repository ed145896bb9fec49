from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import call
from PIL import Image
from tiny_images import halves

from lightly_prg import load
from lightly_prg.errors import UserError
from lightly_prg.eval import evaluate_clustering, evaluate_retrieval
from lightly_prg.evaluation import Evaluation
from lightly_prg.evaluation.transfer import transfer
from lightly_prg.recipe import DataRecipe, parse_recipe
from lightly_prg.train import train

RECIPE = """
name: flow
data: {name: digits}
method:
  name: prg
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: []}
  ode: {solver: euler, steps: 1}
  feature: {source: block, block: middle, tau: 0.2, pool: mean}
train: {epochs: 1, batch_size: 16, lr: 1.0e-3, precision: "32", accelerator: cpu}
eval: {split: test, controls: [raw_pixels]}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "flow"
    train(parse_recipe(RECIPE), out=folder, data=halves(8))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Evaluation:
    from lightly_prg.run import Run

    copy = tmp_path / "flow"
    shutil.copytree(trained, copy)
    return Evaluation(Run.open(copy), data=halves(8), device="cpu")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Colour images of another size: left or right half bright."""
    for split, count in (("train", 20), ("test", 8)):
        for side in ("left", "right"):
            for index in range(count):
                image = torch.randint(0, 60, (12, 12, 3), generator=torch.Generator().manual_seed(index))
                image[:, : 6 if side == "left" else None][:, -6:] += 190
                file = tmp_path / "other" / split / side / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.byte().numpy()).save(file)
    return tmp_path / "other"


def test_other_images__are_brought_to_the_encoder(run: Evaluation, other: Path) -> None:
    before = load(run.run.folder).network.state_dict()
    result = transfer(run, DataRecipe(name="folder", root=str(other), image_size=8))
    assert (result["data"]["image_size"], result["data"]["channels"]) == (8, 1)
    assert (result["num_train"], result["num_validation"], result["num_test"]) == (36, 4, 16)
    assert set(result["encoders"]) == {"run", "raw_pixels"}
    assert result["encoders"]["raw_pixels"]["linear"] == 100.0  # which half is bright is plain to see
    assert result["encoders"]["run"]["embedding_dim"] == 16
    assert json.loads((run.run.folder / "eval" / "transfer-other.json").read_text()) == {
        "evaluator": "transfer",
        **result,
    }
    after = load(run.run.folder).network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    run.report()
    assert "Transfer to other: linear" in (run.run.folder / "report.html").read_text()


def test_another_question__leaves_the_answer_to_the_first(
    run: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lightly_prg.evaluation.transfer.load_splits", lambda recipe, console: halves(8))

    def written(data: DataRecipe, split: str) -> set[str]:
        transfer(run, data, encoders=["run"], split=split)
        return {file.name for file in (run.run.folder / "eval").glob("transfer-*.json")}

    first = written(DataRecipe(name="digits"), "test")
    assert first == {"transfer-digits.json"}
    content = (run.run.folder / "eval/transfer-digits.json").read_text()
    second = written(DataRecipe(name="digits"), "validation")
    third = written(DataRecipe(name="digits", validation_fraction=0.2), "test")
    assert len(second) == 2
    assert len(third) == 3
    assert (run.run.folder / "eval/transfer-digits.json").read_text() == content
    # The same question is answered in its own file, wherever a named set lies.
    assert written(DataRecipe(name="digits"), "validation") == third
    assert written(DataRecipe(name="digits", root="elsewhere"), "test") == third


def test_same_images__give_the_accuracies_of_the_run(run: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightly_prg.evaluation.transfer.load_splits", lambda recipe, console: halves(8))
    result = transfer(run, DataRecipe(name="digits"), encoders=["run"])
    assert result["encoders"]["run"]["knn"] == run.knn()["top1"]
    assert result["encoders"]["run"]["linear"] == pytest.approx(run.linear()["top1"], abs=1e-4)


def test_another_size__is_refused(run: Evaluation) -> None:
    with pytest.raises(UserError, match="takes images of 1 x 8 x 8"):
        transfer(run, DataRecipe(name="digits", image_size=16))


def test_images_without_labels__are_refused(run: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for index in range(12):
        Image.new("L", (8, 8), index).save(tmp_path / "flat" / f"{index}.png")
    with pytest.raises(UserError, match="labels"):
        transfer(run, DataRecipe(name="folder", root=str(tmp_path / "flat"), image_size=8))


def test_retrieval_and_clustering__see_the_protocol_of_knn(run: Evaluation) -> None:
    found, clusters = run.retrieval(), run.clustering()
    nearest = run.knn()
    assert (found["num_train"], found["num_test"]) == (nearest["num_train"], nearest["num_test"]) == (60, 20)
    expected = evaluate_retrieval(run._bank("run", "test"), run.embeddings("run", "test"), num_classes=2)
    assert found["mean_average_precision"] == pytest.approx(expected.mean_average_precision, rel=1e-5)
    assert clusters["num_test"] == 20
    alone = evaluate_clustering(run.embeddings("run", "test"), num_classes=2)
    assert clusters["adjusted_rand_index"] == pytest.approx(alone.adjusted_rand_index, rel=1e-5)
    for name in ("retrieval", "clustering"):
        assert (run.run.folder / "eval" / f"{name}.json").is_file()
    run.retrieval("raw_pixels")
    page = run.report().read_text()
    assert "Retrieval: mean average precision" in page
    assert "of raw pixels" in page


@pytest.mark.usefixtures("other")
def test_commands__print_one_line_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    size = ["data.train_size=100", "train.epochs=1", "train.batch_size=64", "method.backbone.channels=8"]
    size += ["eval.few_shot=null", "eval.controls=[raw_pixels]"]
    code, _, err = call(monkeypatch, capsys, "train", "quickstart", *size, "--out", str(folder))
    assert code == 0, err
    code, out, err = call(monkeypatch, capsys, "evaluate", str(folder), "--all")
    assert code == 0, err
    assert "Robustness is left out: The images have 8 x 8 pixels" in out
    for name in ("retrieval", "clustering"):
        assert (folder / "eval" / f"{name}.json").is_file()
        code, out, err = call(monkeypatch, capsys, name, str(folder))
        assert (code, "on test" in out) == (0, True), err
    data = [f"data.root={tmp_path / 'other'}", "data.name=folder"]
    code, out, err = call(monkeypatch, capsys, "transfer", str(folder), *data)
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines() if "k-NN" in line] == ["run", "raw pixels"]
    code, _, err = call(monkeypatch, capsys, "transfer", str(folder), "data.nam=digits")
    assert (code, "data.nam" in err) == (2, True)
    code, _, err = call(monkeypatch, capsys, "transfer", str(folder), "train.epochs=2")
    assert (code, "train" in err) == (2, True)
