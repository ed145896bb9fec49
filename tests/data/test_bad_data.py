"""Data that cannot be used: told in one sentence before any training, with exit code 2 and nothing written."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightly_prg.cli import main
from lightly_prg.data import decoding, load_data
from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.export import write_embeddings
from lightly_prg.recipe import DataRecipe, load_recipe
from lightly_prg.train import train as train_recipe

MakeFolder = Callable[[Mapping[str, int]], Path]
FOLDER = ("quickstart", "data.name=folder", "data.image_size=8", "train.batch_size=2", "train.epochs=1")


def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["lightly-prg", "train", *FOLDER, *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


def corrupt(root: Path) -> None:
    image = root / "cats" / "3.png"
    image.write_bytes(image.read_bytes()[:40])


def empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def single(root: Path) -> None:
    for file in list(root.rglob("*.png"))[1:]:
        file.unlink()
    for folder in root.iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()


def one_class(root: Path) -> None:
    shutil.rmtree(root / "dogs")


def huge(root: Path) -> None:
    Image.new("1", (20000, 20000)).save(root / "cats" / "3.png")


def nothing_in_it(root: Path) -> None:
    (root / "cats" / "3.png").write_bytes(b"")


def no_image(root: Path) -> None:
    (root / "cats" / "3.png").write_text("<html>404 Not Found</html>")


def endless_text(root: Path) -> None:
    """A few kilobytes that unpack to 64 MiB before the first pixel."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "a" * 2**26, zip=True)
    Image.new("L", (4, 4)).save(root / "cats" / "3.png", pnginfo=info)


def declared(root: Path) -> None:
    """A JPEG of a few bytes that says it has 3.6 thousand million pixels."""
    (root / "cats" / "3.jpg").write_bytes(bomb())
    (root / "cats" / "3.png").unlink()


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG", progressive=True)
    content = file.getvalue()
    frame = content.index(b"\xff\xc2")
    return content[: frame + 5] + (60000).to_bytes(2) * 2 + content[frame + 9 :]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (corrupt, "3.png"),
        (empty, "images"),
        (single, "image"),
        (one_class, "one class, 'cats'"),
        (huge, "3.png"),
        (nothing_in_it, "3.png: it is empty"),
        (no_image, "3.png: it is no image"),
        (endless_text, "3.png"),
        (declared, "3.jpg"),
    ],
)
def test_folder__is_refused_in_one_sentence(
    image_folder: MakeFolder,
    tmp_path: Path,
    damage: Callable[[Path], None],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = image_folder({"cats": 30, "dogs": 30})
    damage(root)
    code, err = train(monkeypatch, capsys, f"data.root={root}", "--out", str(tmp_path / "run"))
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert last.startswith("Error: ")
    assert told in last
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_folder__with_fewer_images_than_the_few_labels_drawn(
    image_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder({"cats": 10, "dogs": 30})
    code, err = train(monkeypatch, capsys, f"data.root={root}", "--out", str(tmp_path / "run"))
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: eval.few_shot: 10 labels of each class were asked for, and class 0 has 7 images")
    assert not (tmp_path / "run").exists()


def test_images_without_labels__are_not_fine_tuned_on(
    image_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder({"": 60})
    asked = ["eval.finetune={labels: 2}", "--out", str(tmp_path / "run")]
    code, err = train(monkeypatch, capsys, f"data.root={root}", *asked)
    assert code == 2, err
    assert err.strip().splitlines()[-1].startswith("Error: eval.finetune needs labels")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("{labels: 2, mode: partial, blocks: [nowhere]}", "The encoder has no parameters in 'nowhere'"),
        ("{labels: 2, mode: partial}", "The mode 'partial' trains blocks that are named"),
        ("{labels: 900}", "900 labels of each class were asked for"),
        ("{labels: 2, preset: prg}", "The prg head pools an ODE state"),
        ("{labels: 2, feature: {block: nowhere}}", "nowhere"),
    ],
)
def test_fine_tuning_that_could_not_begin__is_told_before_the_training(
    image_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    told: str,
) -> None:
    root = image_folder({"cats": 30, "dogs": 30})
    changes = ["eval.few_shot=null", f"eval.finetune={asked}"]
    code, err = train(monkeypatch, capsys, f"data.root={root}", *changes, "--out", str(tmp_path / "run"))
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: eval.finetune: ")
    assert told in last
    assert not (tmp_path / "run").exists()


def test_jpeg_that_declares_a_huge_image__is_refused_before_room_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.jpg").write_bytes(bomb())
    assert (tmp_path / "bomb.jpg").stat().st_size < 1000
    decoded: list[object] = []
    monkeypatch.setattr(decoding, "decode_jpeg", decoded.append)
    with pytest.raises(UserError, match=r"bomb\.jpg.*decompression bomb"):
        decoding.read_image(str(tmp_path / "bomb.jpg"), image_size=64, channels=3)
    assert not decoded


def test_odd_images_among_good_ones__are_taken(tmp_path: Path) -> None:
    """CMYK, 16 bits, one bit, a palette, several frames: the first frame counts, and its tones."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animated = {"save_all": True, "append_images": frames[1:], "duration": 10}
    for part in ("train", "test"):
        folder = tmp_path / part / "things"
        folder.mkdir(parents=True)
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(folder / "a.jpg", quality=95)
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(folder / "b.tiff")
        Image.new("I;16", (8, 8), 257 * 99).save(folder / "c.png")
        Image.new("1", (8, 8), 1).save(folder / "d.png")
        frames[0].save(folder / "e.gif", **animated)
        frames[0].save(folder / "f.webp", lossless=True, **animated)
        frames[0].save(folder / "g.png", **animated)
        frames[0].save(folder / "h.tiff", save_all=True, append_images=frames[1:])
        frames[0].save(folder / "i.png")
    recipe = DataRecipe(name="folder", root=str(tmp_path), image_size=8, validation_fraction=0.0)
    images = load_data(recipe, seed=0).test.__getitems__(range(9))[0]
    red, grey, white = [255, 0, 0], [99] * 3, [255] * 3
    expected = torch.tensor([red, red, grey, white, red, red, red, red, red])
    # CMYK in JPEG is rounded twice.
    assert (images[:, :, 4, 4].int() - expected).abs().max() <= 4


@pytest.mark.filterwarnings("ignore:Glyph")  # the font of the figures does not know every script
def test_classes_with_odd_names__write_inside_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["x..", "$x_{$", "<script>alert(1)<\N{FRACTION SLASH}script>", "a b\n c", "-rf", "%s{}", "\\..\\up", "名前"]
    shown = tmp_path / "data"
    for tone, name in enumerate(names):
        (shown / name).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (8, 8), 30 * tone + index).save(shown / name / f"{index} $^.png")
    before = set(tmp_path.rglob("*"))
    monkeypatch.chdir(shown)
    small = ["data.channels=1", "method.backbone.channels=8", "train.batch_size=8", "train.epochs=1"]
    judged = ["eval.few_shot=null", "data.validation_fraction=0"]
    recipe = load_recipe("quickstart", [*FOLDER[1:], f"data.root={shown}", *small, *judged])
    run = train_recipe(recipe, out=tmp_path / "run")
    evaluation = Evaluation(run, device="cpu")
    evaluation.knn(k=2)
    evaluation.map()
    evaluation.clustering()
    assert run.description["data"]["class_names"] == sorted(names)
    assert "<script>alert" not in evaluation.report().read_text(encoding="utf-8")
    write_embeddings(run.folder / "there.npz", evaluation.embeddings("run", "test"), sorted(names))
    written = set(tmp_path.rglob("*")) - before
    assert all(path == run.folder or run.folder in path.parents for path in written)
