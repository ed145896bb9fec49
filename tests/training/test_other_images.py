"""A run belongs to its images: others neither continue its training nor judge it. What is none of it stays."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from commands import call
from PIL import Image
from safetensors.torch import save_file

from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.files import replacing
from lightly_prg.recipe import Recipe, parse_recipe
from lightly_prg.run import Run
from lightly_prg.train import train

RECIPE = """
name: flow
data: {name: folder, image_size: 8, channels: 1}
method:
  name: prg
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: []}
  ode: {solver: euler, steps: 1}
train: {epochs: 3, batch_size: 8, lr: 1.0e-3, precision: "32", accelerator: cpu}
eval: {split: test, controls: [], few_shot: null}
"""


def add(root: Path, split: str, first: int, last: int) -> None:
    for label in ("a", "b"):
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(first, last):
            pixels = torch.randint(0, 256, (8, 8), generator=torch.Generator().manual_seed(index + ord(label)))
            Image.fromarray(pixels.byte().numpy()).save(folder / f"{index}.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    add(tmp_path / "images", "train", 0, 10)
    add(tmp_path / "images", "test", 10, 14)
    return tmp_path / "images"


def recipe(images: Path) -> Recipe:
    return parse_recipe(RECIPE, overrides=[f"data.root={images}"])


def test_folder_that_changed__does_not_judge_what_was_trained_on_it(images: Path, tmp_path: Path) -> None:
    run = train(recipe(images), out=tmp_path / "run")
    assert Evaluation(run).knn() is not None
    moved = images.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="--root says where its images lie now"):
        Evaluation(run).knn()
    assert Evaluation(run, root=str(moved)).knn() is not None, "the same images, moved"
    before = (run.folder / "eval/knn.json").read_bytes()
    add(moved, "train", 20, 30)
    with pytest.raises(UserError, match=r"trained on other images than .*elsewhere holds now.*lightly-prg transfer"):
        Evaluation(run, root=str(moved)).knn()
    assert (run.folder / "eval/knn.json").read_bytes() == before


@pytest.mark.parametrize(
    ("before", "after"),
    [("seed: 0", "seed: 1"), ("validation_fraction: 0.1", "validation_fraction: 0.3")],
)
def test_recipe_edited_after_training__does_not_judge_by_images_trained_on(
    tmp_path: Path, before: str, after: str
) -> None:
    changes = ["data={name: digits, train_size: 100}", "train.epochs=1", "train.max_steps=2"]
    run = train(parse_recipe(RECIPE, overrides=changes), out=tmp_path / "run")
    text = run.recipe_file.read_text(encoding="utf-8")
    assert before in text
    run.recipe_file.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"recipe\.yaml was changed after the training"):
        Evaluation(Run.open(run.folder)).images("test")


def test_run_trained_anew_meanwhile__does_not_get_the_result_of_the_former(images: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(train(recipe(images), out=tmp_path / "run"))
    evaluation.embeddings("run", "test")
    longer = recipe(images)
    longer = longer.model_copy(update={"train": longer.train.model_copy(update={"epochs": 4})})
    train(longer, out=tmp_path / "run", overwrite=True)
    with pytest.raises(UserError, match="was trained anew while it was measured"):
        evaluation.knn()
    assert not (tmp_path / "run/eval/knn.json").exists()


def test_training__is_not_continued_on_other_images(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        """In place of a power failure."""

    def fail(*arguments: object, **options: object) -> None:
        raise Stop

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "export", fail)
        with pytest.raises(Stop):
            train(recipe(images), out=out)
    written = (out / "recipe.yaml").read_bytes()
    other = tmp_path / "other"
    add(other, "train", 100, 110)
    add(other, "test", 110, 114)
    with pytest.raises(UserError, match="begun with other images"):
        train(recipe(other), out=out, resume=True)
    assert (out / "recipe.yaml").read_bytes() == written
    assert train(recipe(images), out=out, resume=True).is_trained


def test_overwrite__leaves_what_is_no_part_of_a_run(images: Path, tmp_path: Path) -> None:
    run = train(recipe(images), out=tmp_path / "run")
    (run.folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    scratch = tmp_path / "scratch"
    (run.folder / "checkpoints").rename(scratch)
    (run.folder / "checkpoints").symlink_to(scratch)
    (run.folder / "eval").mkdir(exist_ok=True)
    (run.folder / "eval/old.json").write_text("{}", encoding="utf-8")
    train(recipe(images), out=run.folder, overwrite=True)
    assert (run.folder / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert not (run.folder / "eval/old.json").exists()
    assert not (run.folder / "checkpoints").is_symlink()
    assert list(scratch.iterdir()), "what a link leads to is not ours"


def test_weights__are_readable_by_whoever_can_read_the_rest(tmp_path: Path) -> None:
    for name in ("weights.safetensors", "plain.txt"):
        with replacing(tmp_path / name) as temporary:
            if name == "plain.txt":
                temporary.write_text("x", encoding="utf-8")
            else:
                save_file({"x": torch.zeros(1)}, temporary)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("weights.safetensors", "plain.txt")}
    (tmp_path / "usual").touch()
    assert modes == {stat.S_IMODE((tmp_path / "usual").stat().st_mode)}


def test_transfer__does_not_judge_training_images(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(recipe(images), out=tmp_path / "run")
    options = ("data.name=folder", f"data.root={images}")
    code, _, err = call(monkeypatch, capsys, "transfer", str(run.folder), "--split", "train", *options)
    assert (code, "take validation or test" in err) == (2, True)


def test_memory_of_a_cpu__ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:128] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("lightly_prg.recipe.load_recipe", exhausted)
    code, _, err = call(monkeypatch, capsys, "train", "quickstart")
    assert (code, err.startswith("Error: out of memory.")) == (2, True)


def test_evaluate__finds_images_that_were_moved(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(recipe(images), out=tmp_path / "run")
    moved = images.rename(tmp_path / "elsewhere")
    code, _, err = call(monkeypatch, capsys, "evaluate", str(run.folder), "--root", str(moved))
    assert code == 0, err
    assert (run.folder / "eval/linear.json").is_file()
    code, _, err = call(monkeypatch, capsys, "evaluate", "timm:resnet18", "--root", str(moved))
    assert (code, "it is data.root=FOLDER" in err) == (2, True)


def test_ctrl_c_outside_of_training__ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightly_prg.recipe.load_recipe", stopped)
    code, _, err = call(monkeypatch, capsys, "train", "quickstart")
    assert (code, err) == (130, "Interrupted: what was finished is kept.\n")
