"""Exact search for the nearest neighbours by cosine similarity, with faiss or with torch.

``search`` works in float32, in which the two backends round differently in the last bits.
``rank_exactly`` repeats in float64 what such a difference could decide, ties going to the lower
row of the bank; it is the same whatever the backend. It looks at what was found alone, where that
is sure to hold the nearest, and else, by ``search_exactly``, at the whole bank.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.device import float64_device
from lightly_prg.eval.embeddings import Features
from lightly_prg.eval.faiss_import import import_faiss
from lightly_prg.full_precision import full_float32

Backend = Literal["faiss", "torch"]

ROUNDING = 3e-6
"""Bound on the float32 error of a difference of two similarities; one is off by 7e-7 at most
(measured for up to 12,288 dimensions)."""

_CHUNK_ELEMENTS = 1 << 25  # of a part of the bank, of a block of similarities, and of queries that are kept
_EXACT_SHARE = 4  # of that, for float64: its numbers are twice as long and are copied
_QUERIES = 1 << 12
_GRID = 2**30  # similarities closer than 1e-9 are equal in the exact search
_ROW_BITS = 32


def unit_rows(features: Features, dtype: torch.dtype = torch.float32) -> Tensor:
    """L2-normalises rows ``(N, D)``; a row of zeros stays one.

    Raises:
        FloatingPointError: If a feature is not finite.
    """
    rows = torch.tensor(features, dtype=dtype)  # a copy: memory maps are read-only
    tiny = torch.finfo(dtype).tiny
    # The largest entry comes first: the square of 1e30 is not a float32.
    # Of its two halves each is several times faster than the largest of absolute values.
    largest = torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_())
    if not largest.isfinite().all():
        raise FloatingPointError("The features hold NaN or infinity.")
    # In place: the rows may be half of the memory that a search has.
    rows /= largest.clamp_min_(tiny)
    rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(tiny)
    return rows


def pick_backend(backend: str, device: torch.device) -> Backend:
    """Resolves ``auto``: faiss on the CPU, torch on other devices and where faiss is not safe.

    Raises:
        UserError: If the backend is not known or not installed.
    """
    if backend == "auto":
        # On macOS faiss and torch each bring an OpenMP runtime, which can end the process.
        if device.type != "cpu" or sys.platform == "darwin":
            return "torch"
        try:
            import_faiss()
        except ImportError:
            return "torch"
        return "faiss"
    if backend == "torch":
        return "torch"
    if backend != "faiss":
        raise UserError(f"The backend is {backend!r}; allowed are auto, faiss and torch.")
    try:
        import_faiss()
    except ImportError:
        raise UserError("faiss is not installed: pip install faiss-cpu, or take the backend torch.") from None
    return "faiss"


def search(bank: Features, query: Features, k: int, *, backend: Backend, device: torch.device) -> tuple[Tensor, Tensor]:
    """Finds the k nearest rows of the bank for each query.

    Args:
        bank: ``(N, D)`` float32, N >= k.
        query: ``(M, D)`` float32.
        k: Neighbours of each query.
        backend: ``faiss``, which searches on the CPU, or ``torch``, which searches on ``device``.
        device: Where torch searches.

    Returns:
        Similarities ``(M, k)`` float32 in descending order and rows ``(M, k)`` int64, on the CPU.
    """
    if backend == "faiss":
        device, nearest = torch.device("cpu"), _faiss_nearest
    else:
        nearest = _torch_nearest

    def part(queries: Tensor, rows: Tensor, start: int) -> tuple[Tensor, Tensor]:
        similarities, indices = nearest(queries, rows, min(k, len(rows)))
        return similarities, indices + start

    similarities = torch.empty(len(query), 0)
    rows = torch.empty(len(query), 0, dtype=torch.int64)
    with full_float32():
        queries = _Queries(query, torch.float32, device, _CHUNK_ELEMENTS)
        for start, bank_part in _bank_parts(bank, torch.float32, device, _CHUNK_ELEMENTS):
            found = [part(some, bank_part, start) for some in queries.parts(len(bank_part))]
            similarities = torch.cat([similarities, torch.cat([s.cpu() for s, _ in found])], dim=1)
            rows = torch.cat([rows, torch.cat([r.cpu() for _, r in found])], dim=1)
            similarities, order = similarities.topk(min(k, similarities.shape[1]), dim=1)
            rows = rows.gather(1, order)
    return similarities, rows


def search_exactly(bank: Features, query: Features, k: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Finds the k nearest rows in float64; of equal ones the lower row comes first.

    Args and returns are those of ``search``; similarities are float64 on a grid of 1e-9.
    """
    device = float64_device(device)
    keys = torch.empty(len(query), 0, dtype=torch.int64)
    elements = _CHUNK_ELEMENTS // _EXACT_SHARE
    queries = _Queries(query, torch.float64, device, elements)
    for start, bank_part in _bank_parts(bank, torch.float64, device, elements):
        numbers = torch.arange(start, start + len(bank_part), device=device)
        found = []
        for some in queries.parts(len(bank_part)):
            part = _as_keys(some @ bank_part.T, numbers)
            found.append(part.topk(min(k, len(bank_part)), dim=1).values.cpu())
        keys = torch.cat([keys, torch.cat(found)], dim=1)
        keys = keys.topk(min(k, keys.shape[1]), dim=1).values
    return _from_keys(keys)


def rank_exactly(
    bank: Features, query: Features, found: tuple[Tensor, Tensor], k: int, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What ``search_exactly`` gives, from what ``search`` has found where that is enough.

    Args:
        bank: ``(N, D)`` float32, N >= k.
        query: ``(M, D)`` float32.
        found: Similarities and rows ``(M, K)`` that ``search`` gave for these queries, with K of at least k.
        k: Neighbours of each query.
        device: Where the whole bank is searched, if it has to be.
    """
    similarities, rows = found
    # What was not found is below the last; if that is well below the k-th, nothing else can be among the first k.
    sure = similarities[:, k - 1] - similarities[:, -1] > 2 * ROUNDING
    if rows.shape[1] == len(bank):
        sure = torch.ones_like(sure)
    keys = torch.empty(len(query), k, dtype=torch.int64)
    size = max(1, _CHUNK_ELEMENTS // _EXACT_SHARE // (rows.shape[1] * bank.shape[1]))
    for part in torch.split(sure.nonzero().flatten(), size):
        candidates = unit_rows(bank[rows[part].flatten().numpy()], torch.float64)
        queries = unit_rows(query[part.numpy()], torch.float64)
        exact = candidates.view(len(part), rows.shape[1], bank.shape[1]) @ queries[:, :, None]
        keys[part] = _as_keys(exact[:, :, 0], rows[part]).topk(k, dim=1).values
    similarities, rows = _from_keys(keys)
    if not sure.all():
        rest = (~sure).nonzero().flatten()
        similarities[rest], rows[rest] = search_exactly(bank, query[rest.numpy()], k, device=device)
    return similarities, rows


def _as_keys(similarities: Tensor, rows: Tensor) -> Tensor:
    """One integer for each similarity, which is overwritten, and below it the row: their order has no ties."""
    steps = similarities.mul_(_GRID).round_().long()
    return steps.bitwise_left_shift_(_ROW_BITS).sub_(rows)


def _from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    rows = -keys & (2**_ROW_BITS - 1)
    return ((keys + rows) >> _ROW_BITS).double() / _GRID, rows


def _bank_parts(
    bank: Features, dtype: torch.dtype, device: torch.device, elements: int
) -> Iterator[tuple[int, Tensor]]:
    size = max(1, elements // bank.shape[1])
    for start in range(0, len(bank), size):
        yield start, unit_rows(bank[start : start + size], dtype).to(device)


class _Queries:
    """Normalised queries in parts; few enough are normalised once, not anew for each part of the bank."""

    def __init__(self, query: Features, dtype: torch.dtype, device: torch.device, elements: int) -> None:
        self.query, self.dtype, self.device, self.elements = query, dtype, device, elements
        self.kept = unit_rows(query, dtype).to(device) if query.size <= elements else None

    def parts(self, bank_rows: int) -> Iterator[Tensor]:
        size = max(1, min(_QUERIES, self.elements // max(bank_rows, self.query.shape[1])))
        for start in range(0, len(self.query), size):
            part = slice(start, start + size)
            yield self._normalised(part) if self.kept is None else self.kept[part]

    def _normalised(self, part: slice) -> Tensor:
        return unit_rows(self.query[part], self.dtype).to(self.device)


def _torch_nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    similarities, indices = (queries @ rows.T).topk(k, dim=1)
    return similarities, indices


def _faiss_nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    faiss = import_faiss()
    metric = faiss.METRIC_INNER_PRODUCT
    similarities, indices = faiss.knn(queries.numpy(), rows.numpy(), k, metric=metric)
    return torch.from_numpy(similarities), torch.from_numpy(indices)
