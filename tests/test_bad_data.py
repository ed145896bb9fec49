"""Data that cannot be used: told in one sentence before any training, with exit code 2 and nothing written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from lightly_prg.cli import main

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


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (corrupt, "3.png"),
        (empty, "images"),
        (single, "image"),
        (one_class, "one class, 'cats'"),
        (huge, "3.png"),
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
