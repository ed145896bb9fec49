from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightly_prg.data.image_set import ImageSet
from lightly_prg.eval import embed
from lightly_prg.eval.shared import embed_shared, parts

ROWS, BATCH = (23, 1), 4


class Encoder(nn.Module):
    embedding_dim = 5
    nfe = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 80).reshape(16, 5))
        self._seen = 0  # private, or it would be part of the key in the cache

    def forward(self, images: Tensor) -> Tensor:
        self._seen += len(images)
        return torch.tanh(images.flatten(1) @ self.weight)


def image_set(rows: int) -> ImageSet:
    pixels = torch.randint(0, 256, (rows, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, labels=None, names=[str(row) for row in range(rows)])


def process(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    for rows in ROWS:
        encoder, done = Encoder(), []
        for _ in range(2):  # the second time it is all there
            embed_shared(
                encoder,
                image_set(rows),
                cache_dir=folder / f"cache-{rows}",
                batch_size=BATCH,
                device="cpu",
                progress=lambda count, total, done=done: done.append(count),
            )
        (folder / f"{rows}-{rank}").write_text(f"{encoder._seen} {len(done)}")
    torch.distributed.destroy_process_group()


def test_two_processes__give_what_one_gives_and_see_each_image_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=process, args=(rank, 2, tmp_path)) for rank in (0, 1)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    for rows, shares in zip(ROWS, ([(12, 3), (11, 0)], [(1, 1), (0, 0)]), strict=True):
        told = [(tmp_path / f"{rows}-{rank}").read_text().split() for rank in (0, 1)]
        assert [(int(seen), int(calls)) for seen, calls in told] == shares
        encoder = Encoder()
        cached = embed(encoder, image_set(rows), batch_size=BATCH, device="cpu", cache_dir=tmp_path / f"cache-{rows}")
        assert encoder._seen == 0
        assert cached.nfe == 3
        alone = embed(encoder, image_set(rows), batch_size=BATCH, device="cpu")
        np.testing.assert_array_equal(cached.features, alone.features)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 20))
def test_parts__are_whole_batches_that_cover_every_image_once(rows: int, batch_size: int, processes: int) -> None:
    found = parts(rows, batch_size, processes)
    assert len(found) == processes
    assert [row for begin, end in found for row in range(begin, end)] == list(range(rows))
    sizes = [-(-(end - begin) // batch_size) for begin, end in found]
    assert max(sizes) - min(sizes) <= 1
    assert all(begin % batch_size == 0 for begin, end in found if begin < end)
    assert found[0][1] > 0, "the first process, which knows the dimension, always has some"
