from __future__ import annotations

import pytest

from lightly_prg.recipe.yaml_text import read_yaml


def test_yaml__is_read_as_ever() -> None:
    assert read_yaml("base: &b {x: 1}\nmine: {<<: *b, y: [2, 1.0e-3]}\n") == {
        "base": {"x": 1},
        "mine": {"x": 1, "y": [2, 1e-3]},
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {epochs: 1}\nseed: 0\ntrain: {lr: 1}\n", "the key 'train' stands there twice, again in line 3"),
        ("train: {epochs: 1, epochs: 2}", "'epochs' stands there twice"),
        ("2024-13-45", "month"),
        ("!!float abc", "abc"),
        ("!!bool maybe", "maybe"),
        ("[" * 5000, "nested too deeply"),
        ("a: [1", "line 1"),
    ],
)
def test_what_cannot_be_meant__is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        read_yaml(text)
    assert "\n" not in str(error.value)
