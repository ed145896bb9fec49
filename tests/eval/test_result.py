from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightly_prg.eval import evaluate_knn, evaluate_linear, result_to_dict


@dataclass(frozen=True)
class Inner:
    value: float


@dataclass(frozen=True)
class Outer:
    content: Any


def plain(value: Any) -> Any:
    return result_to_dict(Outer(value))["content"]


def test_numbers__have_six_digits() -> None:
    assert plain(200 / 3) == 66.6667
    assert plain(1e-6) == 1e-6
    assert plain(123456.789) == 123457.0
    assert plain(0.0) == 0.0
    assert plain(54000) == 54000
    assert plain(1234567) == 1234567  # a count is no measurement
    assert plain(True) is True
    assert plain(None) is None
    assert plain("text") == "text"


def test_what_is_not_finite__is_none() -> None:
    assert plain([float("nan"), float("inf"), np.float32("nan")]) == [None, None, None]


def test_containers__are_those_of_json() -> None:
    assert plain((1, (2.5, "a"))) == [1, [2.5, "a"]]
    assert plain({10: 1.0, "a": (1,)}) == {"10": 1.0, "a": [1]}
    assert plain((Inner(1 / 3),)) == [{"value": 0.333333}]
    assert plain(np.int64(3)) == 3
    assert isinstance(plain(np.float32(0.5)), float)


def test_results__survive_json(make_blobs) -> None:
    train, test = make_blobs(20, spread=2.0), make_blobs(10, spread=2.0, seed=1)
    for result in (
        evaluate_knn(train, test, device="cpu"),
        evaluate_linear(train, test, labels=3, draws=2, device="cpu"),
    ):
        content = result_to_dict(result)
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert content["top1"] == float(f"{result.top1:.6g}")
