from __future__ import annotations

import pytest

from lightly_prg.comparison.comparable import check_comparable, check_same_seeds
from lightly_prg.errors import UserError
from lightly_prg.recipe import Recipe, parse_recipe

METHODS = {
    "prg": "{name: prg, augment: {horizontal_flip: false}}",
    "joint": "{name: prg, augment: {horizontal_flip: false}, auxiliary: {views: {horizontal_flip: false}}}",
    "simclr": "{name: simclr, augment: {horizontal_flip: false}}",
    "mae": "{name: mae, augment: {horizontal_flip: false}}",
}


def recipe(method: str = "prg", *overrides: str) -> Recipe:
    text = f"name: x\ndata: {{name: digits}}\nmethod: {METHODS[method]}"
    return parse_recipe(text, overrides=overrides)


def test_methods__with_their_own_augmentations_are_comparable() -> None:
    check_comparable({name: recipe(name) for name in METHODS})


def test_size__is_compared_as_it_is_resolved() -> None:
    check_comparable({"a": recipe(), "b": recipe("mae", "data.image_size=8")})


@pytest.mark.parametrize(
    ("method", "override", "difference"),
    [
        ("simclr", "data.name=cifar10", "data.name is digits for A, cifar10 for B"),
        ("simclr", "data.image_size=16", "data.image_size is 8 for A, 16 for B"),
        ("simclr", "data.channels=3", "data.channels is 1 for A, 3 for B"),
        ("simclr", "data.validation_fraction=0.2", "data.validation_fraction is 0.1 for A, 0.2 for B"),
        ("simclr", "data.train_size=500", "data.train_size is null for A, 500 for B"),
        ("simclr", "eval.split=test", "eval.split is validation for A, test for B"),
        ("simclr", "method.augment.horizontal_flip=true", "method.augment.horizontal_flip is false for A, true for B"),
        ("prg", "method.augment.crop_padding=2", "method.augment.crop_padding is 0 for A, 2 for B"),
    ],
)
def test_differences__are_named_in_one_sentence(method: str, override: str, difference: str) -> None:
    with pytest.raises(UserError) as caught:
        check_comparable({"A": recipe(), "B": recipe(method, override)})
    assert f"A and B cannot be compared: {difference}." in str(caught.value)


def test_views__of_simclr_and_joint_prg_are_the_same_kind() -> None:
    changed = recipe("joint", "method.auxiliary.views.crop_min=0.5")
    with pytest.raises(
        UserError, match=r"method.augment.crop_min is 0.08 for A, method.auxiliary.views.crop_min is 0.5"
    ):
        check_comparable({"A": recipe("simclr"), "B": changed})
    check_comparable({"A": recipe("mae"), "B": changed})


def test_untrained_network__has_no_augmentation_to_compare() -> None:
    changes = ("method.augment.crop_min=0.5", "method.augment.horizontal_flip=true")
    check_comparable({"A": recipe("simclr"), "B": recipe("simclr", *changes, "train.epochs=0")})
    with pytest.raises(UserError, match=r"data\.train_size"):
        check_comparable({"A": recipe(), "B": recipe("prg", "data.train_size=500", "train.epochs=0")})


def test_may_differ__allows_what_is_compared() -> None:
    different = {"A": recipe(), "B": recipe("prg", "data.train_size=500", "method.augment.crop_padding=2")}
    with pytest.raises(UserError, match="may_differ="):
        check_comparable(different, may_differ=("augment",))
    check_comparable(different, may_differ=("augment", "train_size"))


def test_seeds__have_to_be_the_same() -> None:
    check_same_seeds({"a": [0, 1], "b": [1, 0]})
    with pytest.raises(UserError, match="are 0, 1 for a, 0 for b"):
        check_same_seeds({"a": [0, 1], "b": [0]})
