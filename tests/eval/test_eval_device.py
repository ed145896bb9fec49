from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.device import resolve_device, threads_for
from lightly_prg.full_precision import full_float32


def test_auto__prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert resolve_device("auto") == torch.device(expected)


def test_device__is_taken_by_name_or_as_it_is() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta"])
def test_missing_device__is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"'{device}' is not available"):
        resolve_device(device)


@pytest.fixture
def medium() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def precisions() -> list[str]:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    return [backend.fp32_precision for backend in backends]


@pytest.mark.usefixtures("medium")
def test_full_float32__holds_inside_alone() -> None:
    outside = precisions()
    with full_float32():
        assert precisions() == ["ieee", "ieee", "ieee"] != outside
    assert precisions() == outside
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("medium")
def test_full_float32__ends_with_an_error() -> None:
    outside = precisions()
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert precisions() == outside


def test_threads__are_one_for_little_work_and_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(1000):
            assert torch.get_num_threads() == 1
        with threads_for(1 << 30):
            assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="inside"), threads_for(1000):
            raise ValueError("inside")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
