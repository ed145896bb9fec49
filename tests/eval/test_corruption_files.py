from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.corruptions.files import read_corrupted


def published(folder: Path, rows: int = 15, **files: npt.NDArray[Any]) -> Path:
    """Files of ``rows`` images; image ``i`` has the levels i, 100 + i and, in its first row, 200 + i."""
    images = np.zeros((rows, 32, 32, 3), dtype=np.uint8)
    images[..., 0] = np.arange(rows)[:, None, None]
    images[..., 1] = 100 + np.arange(rows)[:, None, None]
    images[:, 0, :, 2] = 200 + np.arange(rows)[:, None]
    labels = np.tile(np.arange(rows // 5), 5).astype(np.uint8)
    for name, array in {"fog": images, "labels": labels, **files}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize(("severity", "rows"), [(1, [0, 1, 2]), (3, [6, 7, 8]), (5, [12, 13, 14])])
def test_severity__is_a_fifth_of_the_rows(tmp_path: Path, severity: int, rows: list[int]) -> None:
    images, labels = read_corrupted(published(tmp_path), "fog", severity)
    assert (images.shape, images.dtype) == ((3, 3, 32, 32), torch.uint8)
    assert images[:, 0].flatten(1).unique(dim=1).flatten().tolist() == rows
    assert images[:, 1, 5, 7].tolist() == [100 + row for row in rows]
    assert images[:, 2, 0].unique(dim=1).flatten().tolist() == [200 + row for row in rows]
    assert int(images[:, 2, 1:].max()) == 0
    assert (labels.tolist(), labels.dtype) == ([0, 1, 2], torch.int64)
    images += 1  # a copy: the file stays as it was
    assert read_corrupted(tmp_path, "fog", severity)[0][0, 0, 0, 0] == rows[0]


def test_missing__is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*snow\.npy"):
        read_corrupted(published(tmp_path), "snow", 1)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"There is no file .*labels\.npy"):
        read_corrupted(tmp_path, "fog", 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((10, 3, 32, 32), np.uint8), r"uint8 of shape \(10, 3, 32, 32\)"),
        (np.zeros((10, 28, 28, 3), np.uint8), r"\(rows, 32, 32, 3\) is needed"),
        (np.zeros((10, 32, 32, 3), np.float32), "holds float32"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"\(0, 32, 32, 3\)"),
        (np.zeros((11, 32, 32, 3), np.uint8), "has 11 rows, which five severities"),
    ],
)
def test_images__are_checked(tmp_path: Path, images: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_corrupted(published(tmp_path, fog=images), "fog", 1)


@pytest.mark.parametrize("labels", [np.zeros(3, np.int64), np.zeros(15, np.float64), np.zeros((15, 1), np.uint8)])
def test_labels__are_checked(tmp_path: Path, labels: npt.NDArray[Any]) -> None:
    with pytest.raises(UserError, match="a whole number for each of the 15 images"):
        read_corrupted(published(tmp_path, labels=labels), "fog", 1)


def test_pickled__is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "sprung").touch, ())

    published(tmp_path)
    np.save(tmp_path / "fog.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="without pickle"):
        read_corrupted(tmp_path, "fog", 1)
    import pickle

    (tmp_path / "fog.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="without pickle"):
        read_corrupted(tmp_path, "fog", 1)
    assert not (tmp_path / "sprung").exists()


def test_damaged__is_refused(tmp_path: Path) -> None:
    file = published(tmp_path) / "fog.npy"
    whole = file.read_bytes()
    for content in (b"", whole[:50], whole[:-1]):
        file.write_bytes(content)
        with pytest.raises(UserError, match="cut off"):
            read_corrupted(tmp_path, "fog", 1)
    archive = io.BytesIO()
    np.savez(archive, images=np.zeros(3))
    file.write_bytes(archive.getvalue())
    with pytest.raises(UserError, match="is an archive"):
        read_corrupted(tmp_path, "fog", 1)


def test_condition__is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no corruption 'labels'"):
        read_corrupted(published(tmp_path), "labels", 1)
    with pytest.raises(UserError, match="severity is 7"):
        read_corrupted(tmp_path, "fog", 7)
