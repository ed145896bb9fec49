from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightly_prg.data.splits import apportion, count_split, split_training
from lightly_prg.errors import UserError

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.arange(100) * 37 % 100]


class TestApportion:
    @pytest.mark.parametrize(
        ("counts", "total", "expected"),
        [
            ([50, 30, 20], 10, [5, 3, 2]),
            ([50, 30, 20], 7, [4, 2, 1]),  # shares 3.5, 2.1, 1.4
            ([10, 10, 10], 10, [4, 3, 3]),  # equal remainders: the first class
            ([1000, 1], 10, [9, 1]),  # a share of 0.01 still gets one
            ([1000, 1, 1], 3, [1, 1, 1]),
            ([3, 4], 7, [3, 4]),
        ],
    )
    def test_by_hand(self, counts: list[int], total: int, expected: list[int]) -> None:
        assert apportion(counts, total) == expected

    def test_leaves_one(self) -> None:
        assert apportion([2, 20], 18, leave_one=True) == [1, 17]

    @pytest.mark.parametrize(
        ("counts", "total", "leave_one"),
        [([5, 5], 1, False), ([5, 5], 9, True), ([5, 5], 11, False)],
    )
    def test_impossible(self, counts: list[int], total: int, leave_one: bool) -> None:
        with pytest.raises(ValueError, match=f"{total} draws"):
            apportion(counts, total, leave_one=leave_one)

    @given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40), st.floats(0, 1))
    def test_every_total(self, counts: list[int], fraction: float) -> None:
        total = len(counts) + round(fraction * (sum(counts) - len(counts)))
        quotas = apportion(counts, total)
        assert sum(quotas) == total
        for quota, count in zip(quotas, counts, strict=True):
            assert 1 <= quota <= count
            share = count * total / sum(counts)
            # Below the share by more than rounding only where others had to get their one image.
            assert quota <= max(1, share + 1)
            assert quota >= min(share, count) - len(counts)


class TestSplitTraining:
    def split(self, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        settings: dict[str, object] = {"validation_fraction": 0.1, "train_size": None, "seed": 0}
        return split_training(LABELS, **settings | options)  # type: ignore[arg-type]

    def test_exact_counts(self) -> None:
        train, validation = self.split(train_size=45)
        assert LABELS[validation].bincount().tolist() == [5, 3, 2]
        # 45 of 45 + 27 + 18: shares 22.5, 13.5, 9.
        assert LABELS[train].bincount().tolist() == [23, 13, 9]

    def test_parts_are_disjoint_sorted_and_complete(self) -> None:
        train, validation = self.split()
        assert torch.cat([train, validation]).sort().values.tolist() == list(range(100))
        for part in (train, validation):
            assert torch.equal(part, part.sort().values)
            assert part.dtype == torch.int64

    def test_same_seed_same_split_whatever_was_drawn_before(self) -> None:
        first = self.split(train_size=30, seed=3)
        state = torch.get_rng_state()
        torch.rand(7)
        second = self.split(train_size=30, seed=3)
        torch.set_rng_state(state)
        self.split(train_size=30, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def test_other_seed_other_split(self) -> None:
        for a, b in zip(self.split(train_size=30, seed=0), self.split(train_size=30, seed=1), strict=True):
            assert not torch.equal(a, b)
        first, second = (self.split(validation_fraction=0.0, train_size=30, seed=seed)[0] for seed in (0, 1))
        assert not torch.equal(first, second)

    def test_same_split_in_another_process(self) -> None:
        code = (
            "import torch; from lightly_prg.data.splits import split_training\n"
            f"labels = torch.tensor({LABELS.tolist()})\n"
            "train, validation = split_training("
            "labels, validation_fraction=0.1, train_size=30, seed=5)\n"
            "print(train.tolist(), validation.tolist())"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        train, validation = self.split(train_size=30, seed=5)
        assert result.stdout.strip() == f"{train.tolist()} {validation.tolist()}"

    def test_sizes_share_validation_images_and_nest(self) -> None:
        small, validation_of_small = self.split(train_size=20)
        large, validation_of_large = self.split(train_size=60)
        assert torch.equal(validation_of_small, validation_of_large)
        assert set(small.tolist()) < set(large.tolist())

    def test_without_validation(self) -> None:
        train, validation = self.split(validation_fraction=0.0)
        assert train.tolist() == list(range(100))
        assert validation.shape == (0,)
        assert validation.dtype == torch.int64

    def test_every_image_has_its_chance(self) -> None:
        drawn = torch.zeros(100)
        for seed in range(200):
            drawn[self.split(seed=seed)[1]] += 1
        # 200 draws with probability 0.1: mean 20, standard deviation 4.2.
        assert drawn.sum() == 2000
        assert 5 <= drawn.min() <= drawn.max() <= 38

    def test_unlabelled(self) -> None:
        train, validation = split_training(torch.full((50,), -1), validation_fraction=0.2, train_size=25, seed=0)
        assert len(validation) == 10
        assert len(train) == 25
        assert not set(train.tolist()) & set(validation.tolist())

    def test_class_with_one_image_is_named(self) -> None:
        labels = torch.tensor([0] * 20 + [1])
        with pytest.raises(UserError, match=r"at least 2 training images .* class 'rare' has 1"):
            split_training(
                labels,
                validation_fraction=0.1,
                train_size=None,
                seed=0,
                class_names=("common", "rare"),
            )

    def test_fewer_draws_than_classes(self) -> None:
        with pytest.raises(UserError, match=r"data\.train_size=2 draws 2 images, fewer than the 3"):
            self.split(train_size=2)
        with pytest.raises(UserError, match=r"validation_fraction=0\.02 draws 2 images"):
            self.split(validation_fraction=0.02)

    def test_validation_has_to_leave_every_class_one(self) -> None:
        with pytest.raises(UserError, match="leaves a class without any"):
            self.split(validation_fraction=0.98)


class TestCountSplit:
    def test_more_than_available_names_both_numbers(self) -> None:
        with pytest.raises(UserError, match=r"data\.train_size=91 is more than the 90 .* beside 10"):
            count_split(100, validation_fraction=0.1, train_size=91)
        assert count_split(100, validation_fraction=0.1, train_size=90) == (10, 90)

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_nothing_on_one_side(self, fraction: float) -> None:
        with pytest.raises(UserError, match="both parts need at least one"):
            count_split(100, validation_fraction=fraction, train_size=None)
