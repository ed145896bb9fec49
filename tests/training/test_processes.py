"""How many processes train, and what they may be asked to share."""

from __future__ import annotations

import pytest
import torch

from lightly_prg.errors import UserError
from lightly_prg.training.processes import is_first_process, part_company, process_count, wait_for_all

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("gpus", "batch_size", "count"), [(8, 180, 6), (3, 128, 2), (8, 128, 8), (5, 7, 1), (1, 64, 1), (2, 64, 2)]
)
def test_auto__is_the_most_gpus_that_share_a_batch_evenly(
    gpus: int, batch_size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert process_count("auto", CUDA, batch_size) == count
    assert process_count("auto", CPU, batch_size) == 1


def test_launcher__says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("SLURM_NTASKS", "1")  # an interactive shell
    assert process_count("auto", CUDA, 128) == 8
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert process_count("auto", CUDA, 128) == "auto"
    monkeypatch.delenv("SLURM_NTASKS")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert process_count("auto", CUDA, 128) == "auto"


def test_asked_for__is_taken_if_a_batch_can_be_shared() -> None:
    assert process_count(4, CUDA, 128) == 4
    with pytest.raises(UserError, match=r"batch_size is 180: it must be a multiple of 8 devices"):
        process_count(8, CUDA, 180)


def test_first_process__is_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()


def test_one_process__waits_for_nobody() -> None:
    wait_for_all()
    part_company()
