"""Embedding one set of images by several processes: every image once, and by the first process into the cache."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightly_prg.eval.cache import CacheEntry
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.divisible import DivisibleDataset
from lightly_prg.eval.embed import PRECISIONS, Progress, cache_entry, embedded, evaluation_mode
from lightly_prg.eval.embeddings import Features

_ROWS_A_MESSAGE = 4096


def embed_shared(
    encoder: nn.Module,
    dataset: DivisibleDataset,
    *,
    cache_dir: Path,
    batch_size: int = 250,
    device: str | torch.device = "auto",
    precision: str = "32",
    cache_key: str | None = None,
    progress: Progress | None = None,
    num_workers: int = 0,
) -> None:
    """Fills the cache that ``embed`` looks into, by all processes of ``torch.distributed``.

    Each process embeds a run of whole batches, so that the result is that of one process to the last bit, and none is
    filled up with images that others have. The first process writes; it holds one batch at a time. Every process has
    to call this with the same arguments.

    Args:
        encoder: As in ``embed``; the same in every process.
        dataset: The images; the same in every process.
        cache_dir: The cache of the first process.
        batch_size: Images at a time.
        device: That of this process.
        precision: As in ``embed``.
        cache_key: As in ``embed``.
        progress: As in ``embed``, of this process's part; called by the first process alone.
        num_workers: Processes that read images, for each.
    """
    rank, processes = dist.get_rank(), dist.get_world_size()
    place = resolve_device(device)
    wire = place if dist.get_backend() == "nccl" else torch.device("cpu")
    entry = cache_entry(encoder, dataset, Path(cache_dir), cache_key, precision) if rank == 0 else None
    known = torch.tensor([entry is not None and entry.read() is not None], dtype=torch.uint8, device=wire)
    dist.broadcast(known, src=0)
    if bool(known):
        return
    begin, end = parts(len(dataset), batch_size, processes)[rank]
    mine = dataset.subset(torch.arange(begin, end))
    start = time.perf_counter()
    with (
        evaluation_mode(encoder, place),
        closing(
            embedded(
                encoder,
                mine.loader(batch_size=batch_size, num_workers=num_workers),
                tuple(mine.names),
                place,
                PRECISIONS[precision],
                progress if rank == 0 else None,
            )
        ) as batches,
    ):
        if entry is None:
            _send(batches, wire)
            return
        others = (_received(other, wire) for other in range(1, processes))
        checksum = entry.write_features(chain(batches, chain.from_iterable(others)))
    _complete(entry, checksum, encoder, time.perf_counter() - start)


def parts(rows: int, batch_size: int, processes: int) -> list[tuple[int, int]]:
    """First row of each process and the one behind its last: whole batches, as evenly as they go.

    Example:
        >>> parts(7, 2, 3)
        [(0, 4), (4, 6), (6, 7)]
    """
    batches = -(-rows // batch_size)
    ends = [min(rows, -(-batches * process // processes) * batch_size) for process in range(processes + 1)]
    return list(pairwise(ends))


def _complete(entry: CacheEntry, checksum: int, encoder: nn.Module, seconds: float) -> None:
    entry.write_facts(checksum=checksum, nfe=getattr(encoder, "nfe", 1), seconds=seconds)


def _send(batches: Iterator[Features], wire: torch.device) -> None:
    """Hands everything to the first process, which takes it when it is done with those before."""
    mine = list(batches)
    features = torch.from_numpy(np.concatenate(mine)) if mine else torch.zeros(0, 0)
    dist.send(torch.tensor(features.shape, dtype=torch.int64, device=wire), dst=0)
    for message in torch.split(features, _ROWS_A_MESSAGE):
        if message.numel():
            dist.send(message.contiguous().to(wire), dst=0)


def _received(rank: int, wire: torch.device) -> Generator[Features, None, None]:
    shape = torch.zeros(2, dtype=torch.int64, device=wire)
    dist.recv(shape, src=rank)
    rows, columns = shape.tolist()
    for first in range(0, rows, _ROWS_A_MESSAGE):
        message: Tensor = torch.empty(min(_ROWS_A_MESSAGE, rows - first), columns, device=wire)
        dist.recv(message, src=rank)
        yield message.cpu().numpy()
