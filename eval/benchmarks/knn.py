"""Weighted k-NN for four numbers of neighbours beside Lightly's ``knn_predict`` and scikit-learn's brute force.

50,000 embeddings, 10,000 queries, k of 10, 20, 100 and 200, of 512 and of 3,072 dimensions. Ours is ``evaluate_knn``,
with normalisation and vote. Lightly's function is called once for each k, on 500 normalised queries at a time.
scikit-learn's ``NearestNeighbors(algorithm="brute")`` searches the 200 nearest of normalised embeddings once and votes
on nothing. Both are timed on a part of the queries (``--timed``), which they go through in batches, and the seconds are
multiplied; ours is timed on all of them.

The votes of ours and of Lightly's are compared on 500 queries, of which one may be classified otherwise, where
similarities tie but for rounding.

Memory: what a search takes beyond the bank and the queries, at its peak in a fresh process. A bank on the disk is read
through a memory map; the cost of a row is compared between a bank and a quarter of it, of 2,048 dimensions.

    python eval/benchmarks/knn.py --threads 1
    python eval/benchmarks/knn.py --device cuda
    python eval/benchmarks/knn.py --threads 1 --only streamed --rows 1280000  # ImageNet's training images: 10.5 GB

The search is exact and in fp32 on every device: a first selection in bf16 pays only where bf16 matrix products are
several times faster. After four minutes (``--limit``) no further round is begun; it takes up to 1.4 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightly.utils.benchmarking import knn_predict
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from lightly_prg.eval import Embeddings, KNNResult, evaluate_knn
from lightly_prg.eval.benchmarks import memory, timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.eval.embeddings import Features, Labels
from lightly_prg.eval.faiss_import import import_faiss

KS = (10, 20, 100, 200)
CLASSES = 10
TEMPERATURE = 0.1
LIGHTLY_BATCH = 500


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    import_faiss()  # so that it is among the libraries whose threads are set
    turns = timing.begin(options)
    if options.measure_memory:
        print(json.dumps({"megabytes": memory_of_a_search(options, options.measure_memory)}))
        return 0
    return timing.report(cases(options, turns))


def parser() -> argparse.ArgumentParser:
    found = timing.parser(__doc__, repeats=3)
    found.add_argument("--queries", type=int, default=10_000, help="to be classified")
    found.add_argument("--timed", type=int, default=1000, help="of them, by the alternatives")
    found.add_argument("--rows", type=int, default=160_000, help="of the bank on the disk, 8 kB each")
    found.add_argument("--only", choices=("memory", "streamed", "search"), help="one part of it")
    found.add_argument("--measure-memory", type=int, default=0, help=argparse.SUPPRESS)
    return found


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    dimensions = (16, 32) if options.quick else (512, 3072)
    for dimension in dimensions if options.only in (None, "memory") else ():
        given = [f"--measure-memory={dimension}", f"--device={options.device}", f"--threads={options.threads}"]
        megabytes = memory.in_fresh_process(__file__, given + ["--quick"] * options.quick)
        yield timing.value_at_most(f"extra MB of a search, D = {dimension}", megabytes, 512 * 1.048576)
    if options.only in (None, "streamed"):
        yield from streamed(options, turns)
    for dimension in dimensions if options.only in (None, "search") else ():
        yield from compared(options, turns, dimension)


def compared(options: argparse.Namespace, turns: timing.Turns, dimension: int) -> Iterator[Case]:
    rows, queries, timed = (2000, 100, 50) if options.quick else (50_000, options.queries, options.timed)
    bank, query = embeddings(rows, dimension, seed=0), embeddings(queries, dimension, seed=1)
    few = query.select(np.arange(min(timed, LIGHTLY_BATCH)))
    ours = search(bank, few, options.device)
    place = torch.device(options.device)
    unit_bank, unit_query = (
        F.normalize(torch.from_numpy(part), dim=1).to(place) for part in (bank.features, query.features[:timed])
    )
    labels = torch.from_numpy(bank.labels).to(place)
    transposed = unit_bank.T.contiguous()

    def lightly(part: Tensor, k: int) -> Tensor:
        chosen = [
            knn_predict(batch, transposed, labels, num_classes=CLASSES, knn_k=k, knn_t=TEMPERATURE)[:, 0]
            for batch in torch.split(part, LIGHTLY_BATCH)
        ]
        return torch.cat(chosen).cpu()

    truth = torch.from_numpy(few.labels)
    apart = [abs(ours.by_k[k] - 100 * float((lightly(unit_query[: len(few)], k) == truth).float().mean())) for k in KS]
    yield timing.value_at_most(f"points apart from Lightly, worst of four k, D = {dimension}", max(apart), 0.21)

    searcher = NearestNeighbors(n_neighbors=KS[-1], algorithm="brute").fit(unit_bank.cpu().numpy())
    seconds = turns(
        {
            "ours": lambda: search(bank, query, options.device),
            "Lightly": lambda: [lightly(unit_query, k) for k in KS],
            "scikit-learn": lambda: searcher.kneighbors(unit_query.cpu().numpy()),
        },
        warm_up=False,
    )
    name = f"seconds of {queries} queries in {rows}, four k, D = {dimension}"
    for other, goal in (("Lightly", 3.0), ("scikit-learn", 1.5)):
        scaled = queries / timed * seconds[other]
        yield timing.faster(f"{name}, {other} (timed {timed})", seconds["ours"], scaled, goal)


def streamed(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    """The cost of a row of a bank on the disk, beside that of a bank of a quarter of the rows."""
    rows, dimension, queries = (4000, 16, 20) if options.quick else (options.rows, 2048, 200)
    query = embeddings(queries, dimension, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bank.npy"
        features = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, dimension))
        labels = fill(features, seed=0)
        features.flush()
        mapped = np.load(file, mmap_mode="r")
        banks = {part: of_classes(mapped[:part], labels[:part]) for part in (rows // 4, rows)}
        seconds = turns({str(part): partial(search, bank, query, options.device) for part, bank in banks.items()})
        del features, mapped, banks
    ours, quarter = (1e6 * seconds[str(part)] / part for part in (rows, rows // 4))
    name = f"microseconds a row, bank of {rows} x {dimension} on the disk, a quarter of it"
    yield timing.at_most(name, ours, quarter, 1.2)


def memory_of_a_search(options: argparse.Namespace, dimension: int) -> float:
    """Runs in a fresh process."""
    rows, queries = (2000, 50) if options.quick else (50_000, 2000)
    bank, query = embeddings(rows, dimension, seed=0), embeddings(queries, dimension, seed=1)
    search(bank.select(np.arange(500)), query.select(np.arange(20)), options.device)
    return memory.megabytes_of(lambda: search(bank, query, options.device), options.device)


def search(bank: Embeddings, query: Embeddings, device: str) -> KNNResult:
    return evaluate_knn(bank, query, ks=KS, temperature=TEMPERATURE, num_classes=CLASSES, device=device)


def embeddings(rows: int, dimension: int, *, seed: int) -> Embeddings:
    """Clouds around the centres of ten classes, so far apart that neighbours are mostly right."""
    features = np.empty((rows, dimension), dtype=np.float32)
    return of_classes(features, fill(features, seed=seed))


def fill(features: Features, *, seed: int) -> Labels:
    """Draws the features in place, some rows at a time; returns the classes."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, features.shape[1]), dtype=np.float32)
    draws = np.random.default_rng(seed)
    labels = draws.integers(CLASSES, size=len(features))
    for start in range(0, len(features), 4096):
        part = slice(start, min(start + 4096, len(features)))
        noise = draws.standard_normal(features[part].shape, dtype=np.float32)
        features[part] = 0.2 * centres[labels[part]] + noise
    return labels


def of_classes(features: Features, labels: Labels) -> Embeddings:
    return Embeddings(features, labels, tuple(map(str, range(len(features)))), 1, 0.0)


if __name__ == "__main__":
    sys.exit(main())
