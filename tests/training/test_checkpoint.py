from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightly_prg.training.checkpoint import LastCheckpoint


class Process:
    """What the callback asks of a Trainer, in the process of one rank: only the first one writes, as in Lightning."""

    world_size = 2

    def __init__(self, rank: int) -> None:
        self.global_rank = rank
        self.saves = 0
        self.strategy = SimpleNamespace(reduce_boolean_decision=lambda flag, all: flag)

    def save_checkpoint(self, path: Path) -> None:
        self.saves += 1
        if self.global_rank == 0:
            path.write_text("the whole state")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_only_the_first_process_touches_the_file(tmp_path: Path, order: tuple[int, int]) -> None:
    """The processes may come to it in any order; saving is collective, so all of them have to call it."""
    path = tmp_path / "last.ckpt"
    module: Any = torch.nn.Linear(1, 1)
    for rank in order:
        process: Any = Process(rank)
        LastCheckpoint(path, recipe_sha256="x", every=1, accumulate=1, total=4).on_train_batch_end(
            process, module, None, None, 0
        )
        assert process.saves == 1
    assert path.read_text() == "the whole state"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
