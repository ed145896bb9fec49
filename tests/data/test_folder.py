from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lightly_prg.data.folder import list_folder
from lightly_prg.errors import UserError

MakeFolder = Callable[[Mapping[str, int]], Path]


class TestTrainAndTest:
    @pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Test"])
    def test_names_and_labels(self, image_folder: MakeFolder, test: str) -> None:
        root = image_folder({"train/b": 1, "train/a": 2, f"{test}/b": 1, f"{test}/a": 1})
        listing = list_folder(root)
        assert listing.class_names == ("a", "b")
        assert listing.train_names == ("train/a/0.png", "train/a/1.png", "train/b/0.png")
        assert listing.train_labels == (0, 0, 1)
        assert listing.test_names == (f"{test}/a/0.png", f"{test}/b/0.png")
        assert listing.test_labels == (0, 1)

    def test_test_goes_before_val(self, image_folder: MakeFolder) -> None:
        root = image_folder({"train/a": 1, "val/a": 2, "test/a": 3})
        assert len(list_folder(root).test_names) == 3

    def test_class_may_be_absent_from_test(self, image_folder: MakeFolder) -> None:
        root = image_folder({"train/a": 1, "train/b": 1, "train/c": 1, "test/b": 1, "test/c": 0})
        listing = list_folder(root)
        assert listing.class_names == ("a", "b", "c")
        assert listing.test_labels == (1,)

    def test_class_absent_from_train_is_refused(self, image_folder: MakeFolder) -> None:
        root = image_folder({"train/a": 1, "test/a": 1, "test/zebra": 1})
        with pytest.raises(UserError, match=r"test holds classes that .*train does not: 'zebra'"):
            list_folder(root)

    def test_unlabelled(self, image_folder: MakeFolder) -> None:
        listing = list_folder(image_folder({"train": 2, "test": 1}))
        assert listing.class_names == ()
        assert listing.train_labels == (-1, -1)
        assert listing.test_labels == (-1,)

    def test_unlabelled_test_images_of_labelled_training_images(self, image_folder: MakeFolder) -> None:
        listing = list_folder(image_folder({"train/a": 1, "test": 2}))
        assert listing.class_names == ("a",)
        assert listing.test_labels == (-1, -1)

    def test_train_may_be_a_class(self, image_folder: MakeFolder) -> None:
        assert list_folder(image_folder({"bus": 2, "train": 2})).class_names == ("bus", "train")


class TestOneTree:
    def test_a_fifth_of_every_class_tests(self, image_folder: MakeFolder) -> None:
        counts = {"a": 2, "b": 5, "c": 12, "d": 43}
        listing = list_folder(image_folder(counts))
        for label, expected in enumerate([1, 1, 2, 9]):
            assert listing.test_labels.count(label) == expected
        names = listing.train_names + listing.test_names
        assert sorted(names) == sorted(
            f"{name}/{index}.png" for name, count in counts.items() for index in range(count)
        )
        assert list(listing.train_labels) == sorted(listing.train_labels)

    def test_the_split_is_known_by_heart(self, image_folder: MakeFolder) -> None:
        # A change would move test images of existing runs into training.
        assert list_folder(image_folder({"a": 10})).test_names == ("a/0.png", "a/8.png")

    def test_added_images_leave_the_split_nearly_as_it_was(self, image_folder: MakeFolder) -> None:
        before = list_folder(image_folder({"a": 100}))
        after = list_folder(image_folder({"a": 110}))
        assert len(set(before.test_names) & set(after.test_names)) >= 17

    def test_train_alone(self, image_folder: MakeFolder) -> None:
        listing = list_folder(image_folder({"train/a": 5, "train/b": 5}))
        assert listing.class_names == ("a", "b")
        assert len(listing.train_names) == 8
        assert all(name.startswith("train/") for name in listing.train_names)

    def test_flat_folder_is_unlabelled(self, image_folder: MakeFolder) -> None:
        listing = list_folder(image_folder({".": 10}))
        assert listing.class_names == ()
        assert len(listing.test_names) == 2
        assert listing.train_labels == (-1,) * 8

    @pytest.mark.parametrize("counts", [{"a": 5, "b": 1}, {".": 1}])
    def test_single_image_is_refused(self, image_folder: MakeFolder, counts: dict[str, int]) -> None:
        with pytest.raises(UserError, match="one image only"):
            list_folder(image_folder(counts))


class TestFiles:
    def test_nested_hidden_and_other_files(self, image_folder: MakeFolder) -> None:
        root = image_folder({"a/deep/er": 2, "a": 1, "a/.hidden": 3, "b": 3, ".git": 4})
        (root / "a" / ".thumb.png").write_bytes(b"")
        (root / "a" / "notes.txt").write_text("no image")
        (root / "README.md").write_text("no image")
        (root / "b" / "0.png").rename(root / "b" / "LOUD.JPEG")
        listing = list_folder(root)
        assert sorted(listing.train_names + listing.test_names) == [
            "a/0.png",
            "a/deep/er/0.png",
            "a/deep/er/1.png",
            "b/1.png",
            "b/2.png",
            "b/LOUD.JPEG",
        ]

    def test_linked_folders_are_followed(self, image_folder: MakeFolder, tmp_path: Path) -> None:
        root = image_folder({"a": 2})
        (tmp_path / "elsewhere").symlink_to(root, target_is_directory=True)
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "b").symlink_to(root / "a", target_is_directory=True)
        assert list_folder(tmp_path / "elsewhere").class_names == ("a",)
        assert list_folder(tmp_path / "linked").class_names == ("b",)

    def test_link_to_a_folder_above_is_refused(self, image_folder: MakeFolder) -> None:
        root = image_folder({"a": 3, "b": 3})
        (root / "a" / "deep").mkdir()
        (root / "a" / "deep" / "loop").symlink_to(root, target_is_directory=True)
        with pytest.raises(UserError, match=r"deep/loop is a link to a folder that it lies in"):
            list_folder(root)

    def test_pipe_and_device_are_refused_unopened(self, image_folder: MakeFolder) -> None:
        root = image_folder({"a": 3, "b": 3})
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
            path = root / "b" / "7.png"
            make(path)
            with pytest.raises(UserError, match=r"b/7\.png has the name of an image, but is no file"):
                list_folder(root)
            path.unlink()
        (root / "b" / "7.png").symlink_to("nowhere.png")
        assert "b/7.png" in (*list_folder(root).train_names, *list_folder(root).test_names), "told when it is read"

    def test_name_that_is_no_text_is_told(self, image_folder: MakeFolder) -> None:
        root = image_folder({"a": 3, "b": 3})
        try:
            os.rename(os.fsencode(root / "b"), os.fsencode(root) + b"/caf\xe9")
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
        with pytest.raises(UserError, match=r"images/caf\\xe9 is no UTF-8 text: rename it") as told:
            list_folder(root)
        str(told.value).encode()

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere does not exist: set data\.root"):
            list_folder(tmp_path / "nowhere")

    def test_file_instead_of_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="file is not a folder"):
            list_folder(tmp_path / "file")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds no images \(\.bmp"):
            list_folder(tmp_path)

    @pytest.mark.parametrize("counts", [{"a": 2, "b": 0}, {"train/a": 1, "train/b": 0, "test": 1}])
    def test_empty_class(self, image_folder: MakeFolder, counts: dict[str, int]) -> None:
        with pytest.raises(UserError, match=r"class folder .*b holds no images"):
            list_folder(image_folder(counts))

    def test_images_beside_class_folders(self, image_folder: MakeFolder) -> None:
        with pytest.raises(UserError, match=r"images of its own, such as '0\.png'"):
            list_folder(image_folder({"a": 2, ".": 1}))
