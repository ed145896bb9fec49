from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from lightly_prg.data.image_set import ImageSet
from lightly_prg.data.pixels import FilePixels
from lightly_prg.errors import UserError

MakeFolder = Callable[[Mapping[str, int]], Path]


def numbered(count: int = 10, channels: int = 1) -> ImageSet:
    """Image i is filled with the value i, has the label i % 3 and the name "i"."""
    values = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(
        values.repeat(1, channels, 4, 4),
        labels=torch.arange(count) % 3,
        names=[str(index) for index in range(count)],
        class_names=("zero", "one", "two"),
    )


def on_disk(root: Path, count: int, *, image_size: int = 4, channels: int = 1) -> ImageSet:
    names = [f"a/{index}.png" for index in range(count)]
    files = FilePixels(root, names, image_size=image_size, channels=channels)
    return ImageSet(files, labels=torch.zeros(count).long(), names=names, class_names=("a",))


class TestItems:
    def test_attributes(self) -> None:
        images = numbered(channels=3)
        assert (images.channels, images.image_size, len(images)) == (3, 4, 10)
        assert (images.num_classes, images.labelled, images.grey_levels) == (3, True, 256)

    def test_item(self) -> None:
        image, label, name = numbered()[7]
        assert image.shape == (1, 4, 4)
        assert image.dtype == torch.uint8
        assert image.unique().tolist() == [7]
        assert (label, name) == (1, "7")
        assert type(label) is int

    def test_negative_and_outside_indices(self) -> None:
        images = numbered()
        assert images[-1][2] == "9"
        for index in (10, -11):
            with pytest.raises(IndexError):
                images[index]
        assert [name for _, _, name in images] == [str(index) for index in range(10)]

    @pytest.mark.parametrize("as_tensor", [False, True])
    def test_batch(self, as_tensor: bool) -> None:
        indices = [4, 0, 4]
        images, labels, names = numbered().__getitems__(torch.tensor(indices) if as_tensor else indices)
        assert images.shape == (3, 1, 4, 4)
        assert images[:, 0, 0, 0].tolist() == indices
        assert labels.tolist() == [1, 0, 1]
        assert labels.dtype == torch.int64
        assert names == ["4", "0", "4"]

    def test_a_batch_is_a_copy(self) -> None:
        images = numbered()
        images.__getitems__([3])[0].zero_()
        images[3][0].zero_()
        assert images[3][0].unique().tolist() == [3]

    def test_labelled(self) -> None:
        pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        unknown = ImageSet(pixels, labels=None, names=["a", "b"])
        assert unknown.labels.tolist() == [-1, -1]
        assert not unknown.labelled
        partly = ImageSet(pixels, labels=torch.tensor([0, -1]), names=["a", "b"], class_names=("x",))
        assert not partly.labelled
        assert partly.subset([0]).labelled

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixels": torch.zeros(2, 1, 4, 4)}, r"torch\.float32"),
            ({"pixels": torch.zeros(2, 1, 4, 5, dtype=torch.uint8)}, r"\(2, 1, 4, 5\)"),
            ({"pixels": torch.zeros(2, 2, 4, 4, dtype=torch.uint8)}, r"\(2, 2, 4, 4\)"),
            ({"names": ["a"], "labels": torch.tensor([0])}, "2 images and 1 names"),
            ({"labels": torch.tensor([0])}, "2 names"),
            ({"labels": torch.tensor([0.0, 0.0])}, r"torch\.float32"),
            ({"labels": torch.tensor([0, 1])}, r"\[0, 1\]; with 1 class names"),
            ({"labels": torch.tensor([0, -2])}, r"\[-2, 0\]"),
            ({"labels": torch.tensor([0, -1]), "class_names": ()}, r"\[-1, 0\]; with 0 class"),
        ],
    )
    def test_misfits_are_refused(self, change: dict[str, object], message: str) -> None:
        options: dict[str, object] = {
            "pixels": torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            "labels": torch.tensor([0, 0]),
            "names": ["a", "b"],
            "class_names": ("x",),
        }
        with pytest.raises(ValueError, match=message):
            ImageSet(**(options | change))  # type: ignore[arg-type]


class TestSubset:
    def test_of_a_subset(self) -> None:
        images = numbered().subset([9, 5, 2, 0]).subset(torch.tensor([2, 0]))
        pixels, labels, names = images.__getitems__([0, 1])
        assert pixels[:, 0, 0, 0].tolist() == [2, 9]
        assert labels.tolist() == [2, 0]
        assert names == ["2", "9"]
        assert images.class_names == ("zero", "one", "two")

    def test_memory_is_shared(self) -> None:
        pixels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
        subset = ImageSet(pixels, labels=None, names=["a", "b", "c"]).subset([1])
        pixels[1] = 77
        assert subset[0][0].unique().tolist() == [77]

    def test_empty(self) -> None:
        empty = numbered().subset([])
        assert len(empty) == 0
        assert empty.labelled
        assert list(empty.loader(batch_size=4)) == []
        assert len(empty.fingerprint) == 64

    @pytest.mark.parametrize("indices", [[True, False], torch.tensor([True, False]), [0.5]])
    def test_masks_and_fractions_are_refused(self, indices: list[int]) -> None:
        with pytest.raises(ValueError, match="whole numbers"):
            numbered().subset(indices)

    def test_outside(self) -> None:
        with pytest.raises(IndexError):
            numbered().subset([10])


class TestFingerprint:
    def test_tells_what_differs(self) -> None:
        pixels = torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4)
        labels = torch.tensor([0, 1])

        def made(pixels: torch.Tensor = pixels, labels: torch.Tensor = labels) -> ImageSet:
            names = [str(index) for index in range(len(pixels))]
            return ImageSet(pixels, labels=labels, names=names, class_names=("a", "b"))

        changed = pixels.clone()
        changed[1, 0, 3, 3] += 1
        prints = [
            made().fingerprint,
            made(pixels=changed).fingerprint,
            made(pixels=pixels.flip(0)).fingerprint,
            made(labels=labels.flip(0)).fingerprint,
            made(pixels=pixels.repeat(1, 3, 1, 1)).fingerprint,
            made(pixels=pixels[:1], labels=labels[:1]).fingerprint,
            made(pixels=pixels.view(8, 1, 2, 2), labels=labels.repeat(4)).fingerprint,
        ]
        assert len(set(prints)) == len(prints)
        assert made().fingerprint == prints[0]

    def test_a_subset_equals_the_same_images_alone(self) -> None:
        whole = numbered()
        alone = ImageSet(
            whole.__getitems__([3, 1])[0],
            labels=whole.labels[[3, 1]],
            names=["3", "1"],
            class_names=whole.class_names,
        )
        assert whole.subset([3, 1]).fingerprint == alone.fingerprint

    def test_chunks_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = numbered().fingerprint
        monkeypatch.setattr("lightly_prg.data.pixels._IMAGES_A_CHUNK", 3)
        assert numbered().fingerprint == expected

    def test_of_files(self, image_folder: MakeFolder, tmp_path: Path) -> None:
        root = image_folder({"a": 3})
        before = on_disk(root, 3).fingerprint
        moved = root.rename(tmp_path / "moved")
        assert on_disk(moved, 3).fingerprint == before
        assert on_disk(moved, 3).subset([1, 0, 2]).fingerprint != before
        assert on_disk(moved, 3, image_size=8).fingerprint != before
        assert on_disk(moved, 3, channels=3).fingerprint != before
        stamp = (moved / "a" / "1.png").stat().st_mtime_ns + 10**9
        os.utime(moved / "a" / "1.png", ns=(stamp, stamp))
        assert on_disk(moved, 3).fingerprint != before


class TestLoader:
    def test_batches_in_order(self) -> None:
        batches = list(numbered().loader(batch_size=4))
        assert [len(labels) for _, labels, _ in batches] == [4, 4, 2]
        images = torch.cat([images for images, _, _ in batches])
        assert images.dtype == torch.uint8
        assert images[:, 0, 0, 0].tolist() == list(range(10))
        assert [name for _, _, names in batches for name in names] == [str(i) for i in range(10)]

    def test_batch_sampler(self) -> None:
        class Fixed(BatchSampler):
            def __init__(self) -> None:
                super().__init__(SequentialSampler(range(4)), 2, False)

            def __iter__(self) -> Iterator[list[int]]:
                yield [9, 1]
                yield [4]

        loader = numbered().loader(batch_sampler=Fixed())
        for _ in range(2):
            assert [names for _, _, names in loader] == [["9", "1"], ["4"]]

    def test_needs_one_of_both(self) -> None:
        with pytest.raises(ValueError, match="only one"):
            numbered().loader()

    def test_draws_nothing_from_the_global_generator(self) -> None:
        state = torch.get_rng_state()
        assert len(list(numbered().loader(batch_size=4))) == 3
        assert torch.equal(torch.get_rng_state(), state)

    def test_workers_only_where_files_are_decoded(self, image_folder: MakeFolder) -> None:
        assert numbered().loader(batch_size=4, num_workers=2).num_workers == 0
        images = on_disk(image_folder({"a": 5}), 5)
        assert not images.in_memory
        loader = images.loader(batch_size=2, num_workers=1)
        assert loader.num_workers == 1
        for _ in range(2):
            batches = list(loader)
            pixels = torch.cat([images for images, _, _ in batches])
            assert pixels[:, 0, 0, 0].tolist() == list(range(5))
            assert batches[-1][2] == ["a/4.png"]

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_corrupt_file_is_one_sentence(self, image_folder: MakeFolder, num_workers: int) -> None:
        root = image_folder({"a": 5})
        (root / "a" / "3.png").write_bytes(b"broken")
        loader = on_disk(root, 5).loader(batch_size=2, num_workers=num_workers)
        with pytest.raises(UserError, match=r"^Cannot read the image .*3\.png: it is no image.*$"):
            list(loader)

    def test_pickles(self) -> None:
        copy = pickle.loads(pickle.dumps(numbered().subset([8])))
        assert copy[0][2] == "8"
        assert copy[0][0].unique().tolist() == [8]
