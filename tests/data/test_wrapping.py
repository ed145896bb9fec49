from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightly.data import LightlyDataset
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from lightly_prg.data import wrap_dataset
from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.transforms import PRGTransform

MakeFolder = Callable[[Mapping[str, int]], Path]


def pixels_of(images: ImageSet) -> list[int]:
    return images.__getitems__(range(len(images)))[0][:, 0, 0, 0].tolist()


@pytest.fixture(params=["in memory", "read when asked for"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "in memory":
        monkeypatch.setattr("lightly_prg.data.pixels.MEMORY_LIMIT", 0)
    return str(request.param)


class TestLightly:
    def test_folder_of_classes(self, image_folder: MakeFolder, limit: str) -> None:
        images = wrap_dataset(LightlyDataset(str(image_folder({"cat": 2, "dog": 1}))))
        assert images.in_memory == (limit == "in memory")
        assert list(images.names) == ["cat/0.png", "cat/1.png", "dog/0.png"]
        assert images.labels.tolist() == [0, 0, 1]
        assert images.class_names == ("cat", "dog")
        # Lightly's loader makes every image RGB.
        assert (images.channels, images.image_size) == (3, 4)
        assert pixels_of(images) == [0, 1, 2]

    def test_flat_folder_is_unlabelled(self, image_folder: MakeFolder, limit: str) -> None:
        images = wrap_dataset(LightlyDataset(str(image_folder({".": 2}))))
        assert images.labels.tolist() == [-1, -1]
        assert images.num_classes == 0
        assert list(images.names) == ["0.png", "1.png"]

    def test_from_torch_dataset(self, image_folder: MakeFolder) -> None:
        dataset = LightlyDataset.from_torch_dataset(ImageFolder(str(image_folder({"a": 2}))))
        assert wrap_dataset(dataset, channels=1).class_names == ("a",)

    def test_view_of_a_lightly_transform(self, image_folder: MakeFolder) -> None:
        transform = PRGTransform(input_size=4, hf_prob=0.0, normalize=None)
        dataset = LightlyDataset(str(image_folder({"a": 3})), transform=transform)
        assert pixels_of(wrap_dataset(dataset)) == [0, 1, 2]

    def test_normalised_views_are_refused(self, image_folder: MakeFolder) -> None:
        dataset = LightlyDataset(str(image_folder({"a": 1})), transform=PRGTransform(4))
        with pytest.raises(UserError, match=r"Item 0 of the data set 'mine': .*normalisation"):
            wrap_dataset(dataset, name="mine")


class TestTorch:
    def test_float_tensors(self, limit: str) -> None:
        values = torch.tensor([0, 100, 255]).view(3, 1, 1, 1) / 255
        dataset = TensorDataset(values.expand(3, 1, 6, 6), torch.tensor([2, 0, 1]))
        images = wrap_dataset(dataset, name="mine")
        assert pixels_of(images) == [0, 100, 255]
        assert images.labels.tolist() == [2, 0, 1]
        assert images.class_names == ("0", "1", "2")
        assert list(images.names) == ["mine/0", "mine/1", "mine/2"]

    @pytest.mark.parametrize("shape", [(6, 6), (1, 6, 6), (3, 6, 6), (3, 6, 9)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        images = wrap_dataset([torch.zeros(shape, dtype=torch.uint8)])
        assert (images.channels, images.image_size) == (3 if len(shape) == 3 == shape[0] else 1, 6)

    def test_size_and_channels_as_asked_for(self) -> None:
        images = wrap_dataset([(Image.new("RGB", (20, 10), "white"), 0)], image_size=5, channels=1)
        assert images[0][0].shape == (1, 5, 5)

    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("1", 1), ("P", 3)])
    def test_channels_of_pillow_images(self, mode: str, channels: int) -> None:
        assert wrap_dataset([Image.new(mode, (4, 4))]).channels == channels

    def test_images_of_different_sizes(self) -> None:
        images = wrap_dataset([Image.new("L", size) for size in ((8, 6), (30, 20), (3, 3))])
        assert images.__getitems__([0, 1, 2])[0].shape == (3, 1, 6, 6)

    def test_subset_keeps_its_order(self, image_folder: MakeFolder, limit: str) -> None:
        dataset = Subset(ImageFolder(str(image_folder({"a": 1, "b": 1}))), [1, 0])
        images = wrap_dataset(dataset)
        assert pixels_of(images) == [1, 0]
        assert images.labels.tolist() == [1, 0]
        assert images.class_names == ("a", "b")

    def test_target_transform_is_heeded(self, image_folder: MakeFolder, limit: str) -> None:
        folder = str(image_folder({"a": 1, "b": 1}))
        dataset = ImageFolder(folder, target_transform=lambda target: 1 - target)
        assert wrap_dataset(dataset).labels.tolist() == [1, 0]

    def test_known_targets_spare_the_decoding(self, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lightly_prg.data.pixels.MEMORY_LIMIT", 0)
        dataset = ImageFolder(str(image_folder({"a": 3, "b": 3})))
        opened = []
        loader = dataset.loader
        dataset.loader = lambda path: opened.append(path) or loader(path)  # type: ignore[func-returns-value]
        images = wrap_dataset(LightlyDataset.from_torch_dataset(dataset))
        assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert len(opened) == 1  # the first, for the size

    def test_bare_images_are_unlabelled(self, limit: str) -> None:
        images = wrap_dataset([Image.new("L", (4, 4), value) for value in (5, 6)])
        assert images.labels.tolist() == [-1, -1]
        assert not images.labelled
        assert pixels_of(images) == [5, 6]

    def test_targets_of_many_kinds(self) -> None:
        image = Image.new("L", (4, 4))
        targets = [0, np.int64(1), torch.tensor(2), None, -1, True]
        images = wrap_dataset([(image, target) for target in targets])
        assert images.labels.tolist() == [0, 1, 2, -1, -1, 1]

    def test_images_of_the_caller_stay_as_they_are(self) -> None:
        image = Image.new("RGB", (8, 4))
        exif = image.getexif()
        exif[0x0112] = 6
        wrap_dataset([image], image_size=2, channels=1)
        assert (image.size, image.mode, image.getexif()[0x0112]) == ((8, 4), "RGB", 6)

    def test_order_and_rows_show_in_the_fingerprint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lightly_prg.data.pixels.MEMORY_LIMIT", 0)
        images = wrap_dataset([Image.new("L", (4, 4), value) for value in (5, 6)])
        assert images.fingerprint != images.subset([1, 0]).fingerprint


class TestRefusals:
    @pytest.mark.parametrize(
        ("item", "message"),
        [
            (torch.zeros(2, 4, 4, dtype=torch.uint8), r"shape \(2, 4, 4\)"),
            (torch.zeros(4, 4, dtype=torch.int32), r"torch\.int32"),
            (np.zeros((4, 4)), "not ndarray"),
            ((Image.new("L", (4, 4)), 0.5), "'float'"),
            ({"image": Image.new("L", (4, 4))}, "not dict"),
            ((Image.new("F", (4, 4)), 0), "floating-point"),
        ],
    )
    def test_item(self, item: Any, message: str) -> None:
        with pytest.raises(UserError, match=f"Item 1 of the data set 'custom': .*{message}"):
            wrap_dataset([Image.new("L", (4, 4)), item])
        with pytest.raises(UserError, match=f"Item 0 of the data set 'custom': .*{message}"):
            wrap_dataset([item])

    def test_empty(self) -> None:
        with pytest.raises(UserError, match="'custom' is empty"):
            wrap_dataset([])

    def test_iterable(self) -> None:
        class Stream(IterableDataset[int]):
            def __iter__(self) -> Iterator[int]:
                yield 0

        with pytest.raises(UserError, match="map-style"):
            wrap_dataset(Stream())
