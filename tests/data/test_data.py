from __future__ import annotations

import pickle
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lightly_prg.data import Splits, describe_data, load_data
from lightly_prg.errors import UserError
from lightly_prg.recipe import DataRecipe

MakeFolder = Callable[[Mapping[str, int]], Path]


def check_described(recipe: DataRecipe, splits: Splits) -> None:
    info = describe_data(recipe)
    assert (info.num_train, info.num_validation, info.num_test) == (
        len(splits.train),
        len(splits.validation),
        len(splits.test),
    )
    for part in (splits.train, splits.validation, splits.test):
        assert (info.channels, info.image_size) == (part.channels, part.image_size)
        assert info.num_classes == part.num_classes


def check_disjoint(splits: Splits) -> None:
    names = [*splits.train.names, *splits.validation.names, *splits.test.names]
    assert len(set(names)) == len(names)


class TestDigits:
    def test_everything_known_about_it(self) -> None:
        from sklearn.datasets import load_digits

        recipe = DataRecipe(name="digits")
        splits = load_data(recipe, seed=0)
        check_described(recipe, splits)
        check_disjoint(splits)
        table = load_digits()
        for part in (splits.train, splits.validation, splits.test):
            assert part.grey_levels == 17
            assert part.labelled
            rows = [int(name[-4:]) for name in part.names]
            images, labels, _ = part.__getitems__(range(len(part)))
            assert labels.tolist() == table.target[rows].tolist()
            levels = (images[:, 0].double() / 255 * 16).round()
            assert np.array_equal(levels.numpy(), table.images[rows])
        assert splits.test.labels.bincount().tolist() == [59, 61, 59, 61, 60, 61, 60, 60, 58, 60]
        assert splits.train.class_names == tuple("0123456789")

    def test_test_images_do_not_depend_on_the_seed(self) -> None:
        first, second = (load_data(DataRecipe(name="digits"), seed=seed) for seed in (0, 1))
        assert first.test.fingerprint == second.test.fingerprint
        assert first.validation.fingerprint != second.validation.fingerprint
        assert load_data(DataRecipe(name="digits"), seed=0).train.fingerprint == first.train.fingerprint

    def test_size_and_channels(self) -> None:
        recipe = DataRecipe(name="digits", image_size=16, channels=3, train_size=100)
        splits = load_data(recipe, seed=0)
        check_described(recipe, splits)
        image = splits.train[0][0]
        assert image.shape == (3, 16, 16)
        assert torch.equal(image[0], image[2])
        assert splits.train.grey_levels == 256
        assert load_data(DataRecipe(name="digits", channels=3), seed=0).test.grey_levels == 17

    def test_without_validation(self) -> None:
        recipe = DataRecipe(name="digits", validation_fraction=0.0)
        splits = load_data(recipe, seed=0)
        check_described(recipe, splits)
        assert len(splits.validation) == 0
        assert len(splits.train) == 1198

    def test_too_many_training_images(self) -> None:
        recipe = DataRecipe(name="digits", train_size=1079)
        for call in (lambda: describe_data(recipe), lambda: load_data(recipe, seed=0)):
            with pytest.raises(UserError, match=r"train_size=1079 is more than the 1078"):
                call()


def write_fashion_mnist(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, *images.shape) + images.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + labels.tobytes())


class TestTorchvision:
    def test_fashion_mnist(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        train = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8)
        labels = np.arange(100, dtype=np.uint8) % 10
        write_fashion_mnist(tmp_path, "train", train, labels)
        write_fashion_mnist(tmp_path, "t10k", train[:20], labels[:20])
        recipe = DataRecipe(name="fashion_mnist", root=str(tmp_path))
        splits = load_data(recipe, seed=0)
        check_disjoint(splits)
        assert splits.validation.labels.bincount().tolist() == [1] * 10
        assert splits.train.class_names[9] == "Ankle boot"
        image, label, name = splits.train[17]
        row = int(name.removeprefix("train/"))
        assert np.array_equal(image[0].numpy(), train[row])
        assert label == row % 10

    @pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
    def test_cifar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: int) -> None:
        kind = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        rng = np.random.default_rng(0)
        key = "labels" if classes == 10 else "fine_labels"
        files = [file for file, _ in kind.train_list + kind.test_list]
        batches = {}
        for file in files:
            pixels = rng.integers(0, 256, (2 * classes, 3072), dtype=np.uint8)
            batches[file] = pixels
            content = {"data": pixels, key: [row % classes for row in range(2 * classes)]}
            (folder / file).write_bytes(pickle.dumps(content))
        meta = {kind.meta["key"]: [f"class {label}" for label in range(classes)]}
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
        monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
        recipe = DataRecipe(name=name, root=str(tmp_path), validation_fraction=0.5)  # type: ignore[arg-type]
        splits = load_data(recipe, seed=0)
        check_disjoint(splits)
        assert splits.train.class_names[3] == "class 3"
        image, label, image_name = splits.train[5]
        row = int(image_name.removeprefix("train/"))
        expected = batches[files[row // (2 * classes)]][row % (2 * classes)].reshape(3, 32, 32)
        assert np.array_equal(image.numpy(), expected)
        assert label == row % classes

    def test_stl10(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "stl10_binary"
        folder.mkdir()
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (20, 3, 96, 96), dtype=np.uint8)
        labels = np.arange(20, dtype=np.uint8) % 10 + 1
        for part in ("train", "test"):
            # The files hold every image transposed.
            (folder / f"{part}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
            (folder / f"{part}_y.bin").write_bytes(labels.tobytes())
        (folder / "class_names.txt").write_text("\n".join(f"class {k}" for k in range(10)))
        monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
        recipe = DataRecipe(name="stl10", root=str(tmp_path), validation_fraction=0.0)
        splits = load_data(recipe, seed=0)
        assert np.array_equal(splits.train[3][0].numpy(), pixels[3])
        assert splits.test.labels.tolist() == [row % 10 for row in range(20)]
        assert splits.test.class_names[9] == "class 9"

    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("fashion_mnist", "FashionMNIST/raw"),
            ("cifar10", "cifar-10-batches-py"),
            ("cifar100", "cifar-100-python"),
            ("stl10", "stl10_binary"),
        ],
    )
    def test_missing_files(self, tmp_path: Path, name: Any, folder: str) -> None:
        recipe = DataRecipe(name=name, root=str(tmp_path))
        with pytest.raises(UserError) as caught:
            load_data(recipe, seed=0)
        for part in (str(tmp_path / folder), "data.root=...", "data.download=true", name):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_damaged_files(self, tmp_path: Path) -> None:
        images = np.zeros((2, 28, 28), np.uint8)
        for part in ("train", "t10k"):
            write_fashion_mnist(tmp_path, part, images, np.zeros(2, np.uint8))
        file = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(UserError, match="Cannot read fashion_mnist"):
            load_data(DataRecipe(name="fashion_mnist", root=str(tmp_path)), seed=0)

    def test_failed_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
        recipe = DataRecipe(name="cifar10", root=str(tmp_path), download=True)
        with pytest.raises(UserError, match=r"the download failed.*no route to host"):
            load_data(recipe, seed=0)

    def test_description_touches_no_file(self, tmp_path: Path) -> None:
        recipe = DataRecipe(name="cifar100", root=str(tmp_path / "nowhere"), train_size=1000)
        info = describe_data(recipe)
        assert (info.channels, info.image_size, info.num_classes) == (3, 32, 100)
        assert (info.num_train, info.num_validation, info.num_test) == (1000, 5000, 10_000)


class TestFolder:
    def test_everything(self, image_folder: MakeFolder) -> None:
        root = image_folder({"train/a": 20, "train/b": 10, "test/a": 2, "test/b": 3})
        recipe = DataRecipe(name="folder", root=str(root), image_size=4, train_size=9)
        calls: list[tuple[int, int]] = []
        splits = load_data(recipe, seed=0, progress=lambda *call: calls.append(call))
        check_described(recipe, splits)
        check_disjoint(splits)
        # Only what is used is decoded.
        assert calls[-1] == (9 + 3 + 5, 9 + 3 + 5)
        assert splits.train.labels.bincount().tolist() == [6, 3]
        assert splits.validation.labels.bincount().tolist() == [2, 1]
        assert splits.test.labels.tolist() == [0, 0, 1, 1, 1]
        for part in (splits.train, splits.validation, splits.test):
            assert part.in_memory
            assert part.channels == 3
            images, labels, names = part.__getitems__(range(len(part)))
            for image, label, name in zip(images, labels.tolist(), names, strict=True):
                expected = np.asarray(Image.open(root / name))[0, 0]
                assert image.unique().tolist() == [expected]
                assert part.class_names[label] == Path(name).parent.name

    def test_beyond_memory_gives_the_same(self, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        root = image_folder({"a": 20, "b": 10})
        recipe = DataRecipe(name="folder", root=str(root), image_size=4, channels=1)
        held = load_data(recipe, seed=1)
        # 30 images of 16 bytes
        monkeypatch.setattr("lightly_prg.data.pixels.MEMORY_LIMIT", 480)
        assert load_data(recipe, seed=1).train.in_memory
        monkeypatch.setattr("lightly_prg.data.pixels.MEMORY_LIMIT", 479)
        monkeypatch.setattr("lightly_prg.data.read_images", None)
        read = load_data(recipe, seed=1)
        for name in ("train", "validation", "test"):
            one, other = getattr(held, name), getattr(read, name)
            assert not other.in_memory
            assert list(one.names) == list(other.names)
            rows = range(len(one))
            assert torch.equal(one.__getitems__(rows)[0], other.__getitems__(rows)[0])
            assert torch.equal(one.labels, other.labels)

    def test_test_images_do_not_depend_on_the_seed(self, image_folder: MakeFolder) -> None:
        root = image_folder({"a": 20, "b": 20})
        recipe = DataRecipe(name="folder", root=str(root), image_size=4)
        first, second = (load_data(recipe, seed=seed) for seed in (0, 1))
        assert first.test.fingerprint == second.test.fingerprint
        assert first.validation.names != second.validation.names

    def test_unlabelled(self, image_folder: MakeFolder) -> None:
        recipe = DataRecipe(name="folder", root=str(image_folder({".": 20})), image_size=4)
        splits = load_data(recipe, seed=0)
        check_described(recipe, splits)
        check_disjoint(splits)
        assert [len(splits.train), len(splits.validation), len(splits.test)] == [14, 2, 4]
        assert not splits.train.labelled

    def test_mixture_of_images(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            folder = tmp_path / name / "things"
            folder.mkdir(parents=True)
            Image.new("RGB", (30, 20), "red").save(folder / "a.jpg")
            Image.new("RGBA", (7, 9), (255, 0, 0, 255)).save(folder / "b.png")
            Image.new("P", (64, 64)).save(folder / "c.gif")
            Image.new("I;16", (5, 5), 65535).save(folder / "d.tiff")
            Image.new("L", (8, 8), 9).save(folder / "e.webp", lossless=True)
        recipe = DataRecipe(name="folder", root=str(tmp_path), image_size=8, validation_fraction=0.0)
        splits = load_data(recipe, seed=0)
        images = splits.test.__getitems__(range(5))[0]
        assert images.shape == (5, 3, 8, 8)
        centres = images[:, :, 4, 4].int()
        expected = torch.tensor([[254, 0, 0], [255, 0, 0], [0, 0, 0], [255] * 3, [9] * 3])
        assert (centres - expected).abs().max() <= 1

    def test_corrupt_image_is_named(self, image_folder: MakeFolder) -> None:
        root = image_folder({"a": 10})
        (root / "a" / "7.png").write_bytes((root / "a" / "7.png").read_bytes()[:40])
        recipe = DataRecipe(name="folder", root=str(root), image_size=4)
        with pytest.raises(UserError, match=r"Cannot read the image .*a/7\.png"):
            load_data(recipe, seed=0)

    def test_description_finds_what_loading_would(self, image_folder: MakeFolder) -> None:
        root = image_folder({"train/a": 20, "train/rare": 1, "test/a": 1})
        recipe = DataRecipe(name="folder", root=str(root), image_size=4)
        for call in (lambda: describe_data(recipe), lambda: load_data(recipe, seed=0)):
            with pytest.raises(UserError, match="class 'rare' has 1"):
                call()


class TestRealData:
    def test_fashion_mnist(self, real_data: Path) -> None:
        recipe = DataRecipe(name="fashion_mnist", root=str(real_data))
        start = time.process_time()
        splits = load_data(recipe, seed=0)
        assert time.process_time() - start < 5
        check_described(recipe, splits)
        check_disjoint(splits)
        assert splits.train.labels.bincount().tolist() == [5400] * 10
        assert splits.validation.labels.bincount().tolist() == [600] * 10
        # Published statistics of the training pixels.
        images = splits.train.__getitems__(range(54_000))[0]
        assert abs(float(images.float().mean()) / 255 - 0.286) < 0.002

    def test_cifar10_folder(self, real_data: Path) -> None:
        recipe = DataRecipe(name="folder", root=str(real_data / "cifar10-jpeg"), image_size=32, train_size=100)
        info = describe_data(recipe)
        assert (info.num_train, info.num_validation, info.num_test) == (100, 5000, 10_000)
        assert info.num_classes == 10
