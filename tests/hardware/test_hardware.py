from __future__ import annotations

from typing import Any

import pytest
import torch

from lightly_prg import hardware
from lightly_prg.hardware import has_amx, pick_precision


@pytest.mark.parametrize(("amx", "expected"), [(True, "bf16"), (False, "32")])
def test_auto_on_a_cpu__is_bf16_with_tiles_alone(amx: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_amx", lambda: amx)
    monkeypatch.setattr(hardware, "has_fast_dot_products", lambda: False)
    choice = pick_precision("auto", torch.device("cpu"))
    assert choice.precision == expected
    assert "AMX" in choice.reason


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16"),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, "32"),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, "32"),
        ({}, "32"),
    ],
)
def test_auto_on_a_cpu_with_dot_products__is_bf16_where_they_gain(
    capabilities: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pick_precision("auto", torch.device("cpu")).precision == expected


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16"), (False, "16")])
def test_auto_on_a_gpu__is_bf16_where_it_computes_so(
    bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return bf16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_precision("auto", torch.device("cuda")).precision == expected
    assert asked == [False]  # emulated bf16 is slower than fp16


def test_auto_elsewhere__is_fp32() -> None:
    assert pick_precision("auto", torch.device("mps")).precision == "32"


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_what_is_asked_for__is_taken(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_amx", lambda: precision == "32")
    assert pick_precision(precision, torch.device("cpu")).precision == precision


@pytest.mark.parametrize("capabilities", [{"amx_tile": True}, {"amx_tile": False}, {"avx512_bf16": True}])
def test_has_amx__is_what_torch_finds(capabilities: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_amx() is capabilities.get("amx_tile", False)
