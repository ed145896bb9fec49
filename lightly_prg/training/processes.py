"""Training by several processes: how many of them there are, and what they have to wait for."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import distributed as dist

from lightly_prg.errors import UserError

ON_ONE_DEVICE = {"devices": 1, "strategy": "auto"}
"""Keys of ``train`` for what one process does alone: others would be started with its whole command."""


def is_first_process() -> bool:
    """Whether this is the process that writes; launchers tell the others their rank by these variables."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)


def process_count(asked: Literal["auto"] | int, device: torch.device, batch_size: int) -> Literal["auto"] | int:
    """How many devices train: as many as were asked for, ``auto`` being the most that share a batch evenly.

    Where a launcher (torchrun, srun) has started the processes it is for it to say, and ``auto`` stays.

    Args:
        asked: The recipe's ``train.devices``.
        device: Of one process.
        batch_size: Of all of them together.

    Raises:
        UserError: If a batch cannot be shared evenly by as many as were asked for.
    """
    if asked != "auto":
        check_shares(batch_size, asked)
        return asked
    if device.type != "cuda":
        return 1
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return "auto"
    return max(count for count in range(1, max(1, torch.cuda.device_count()) + 1) if batch_size % count == 0)


def check_shares(batch_size: int, processes: int) -> None:
    """Refuses a batch that the processes cannot share evenly.

    Raises:
        UserError: With both numbers.
    """
    if batch_size % processes:
        raise UserError(f"train.batch_size is {batch_size}: it must be a multiple of {processes} devices.")


def wait_for_all() -> None:
    """Waits until every process that trains together has come here; at once where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def part_company() -> None:
    """Ends the group of processes once nothing is left to do together.

    Ending it takes all of them, and happens at the exit of each otherwise: the others would wait, and hold their GPUs,
    while the first one goes on alone.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
