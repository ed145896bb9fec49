"""Retrieval: every image asks for others of its class, and the bank is ranked by cosine similarity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.device import float64_device, resolve_device
from lightly_prg.eval.embeddings import Embeddings, check_same_encoder, overall_speed
from lightly_prg.eval.label_checks import count_classes
from lightly_prg.eval.neighbours import unit_rows
from lightly_prg.full_precision import full_float32
from lightly_prg.randomness import generator_for

RANKS = (1, 5, 10)
_CHUNK_ELEMENTS = 1 << 24  # of a block of similarities


@dataclass(frozen=True)
class RetrievalResult:
    """How well images of the same class are found.

    Attributes:
        mean_average_precision: Percent; the mean over queries of the precision at each image of the class, over the
            whole ranking. Queries whose class the bank lacks count as 0.
        chance: What a bank in random order gives on average.
        recall_at: Percent of the queries of which one of the first k images has the class, by k.
        num_train: Images of the bank.
        num_test: Queries.
        num_classes: Classes.
        embedding_dim: D.
        nfe: Network evaluations that one embedding cost.
        seconds: Duration of the search.
        images_per_second: Speed of the embedding.
        options: What was asked for.
    """

    mean_average_precision: float
    chance: float
    recall_at: dict[int, float]
    num_train: int
    num_test: int
    num_classes: int
    embedding_dim: int
    nfe: float
    seconds: float
    images_per_second: float
    options: dict[str, Any]


def evaluate_retrieval(
    bank: Embeddings,
    query: Embeddings,
    *,
    ks: Sequence[int] = RANKS,
    num_classes: int | None = None,
    device: str | torch.device = "auto",
) -> RetrievalResult:
    """Ranks the whole bank for every query.

    Args:
        bank: Embeddings with labels; those of label -1 are left out.
        query: Embeddings of the same encoder; those of label -1 are left out.
        ks: Ranks of the recall; those beyond the size of the bank are set to it.
        num_classes: Number of classes; default the highest label and one.
        device: Where the similarities are computed.

    Raises:
        UserError: If labels are missing, or an option is not allowed.
        ValueError: If bank and query come from different encoders.
    """
    if not ks or min(ks) < 1:
        raise UserError(f"The ranks are {list(ks)}; at least one is needed, all from 1 on.")
    check_same_encoder((bank, query))
    speed = overall_speed((bank, query))
    bank, query = bank.labelled(), query.labelled()
    num_classes = count_classes(bank, None, query, num_classes, evaluator="retrieval")
    # Of equal similarities the lower row comes first, and folders are sorted by class.
    bank = bank.select(torch.randperm(len(bank), generator=generator_for(0, "retrieval")).numpy())
    place = resolve_device(device)
    exact = float64_device(place)
    start = time.perf_counter()
    labels, truth = torch.tensor(bank.labels, device=place), torch.tensor(query.labels, device=place)
    used = sorted({min(k, len(bank)) for k in ks})
    precisions, found = [], []
    rows = unit_rows(bank.features).to(place)
    size = max(1, _CHUNK_ELEMENTS // len(bank))
    with full_float32():
        for first in range(0, len(query), size):
            queries = unit_rows(query.features[first : first + size]).to(place)
            order = (queries @ rows.T).argsort(dim=1, descending=True, stable=True)
            relevant = (labels[order] == truth[first : first + size, None]).to(exact)
            precisions.append(average_precision(relevant))
            found.append(torch.stack([relevant[:, :k].any(dim=1) for k in used], dim=1))
    chances = _chances(torch.bincount(labels.to(exact), minlength=num_classes).double(), len(bank))
    recall = torch.cat(found).double().mean(dim=0)
    return RetrievalResult(
        mean_average_precision=100.0 * float(torch.cat(precisions).mean()),
        chance=100.0 * float(chances[truth.to(exact)].mean()),
        recall_at={k: 100.0 * float(value) for k, value in zip(used, recall, strict=True)},
        num_train=len(bank),
        num_test=len(query),
        num_classes=num_classes,
        embedding_dim=bank.embedding_dim,
        nfe=bank.nfe,
        seconds=time.perf_counter() - start,
        images_per_second=speed,
        options={"ks": sorted(set(ks))},
    )


def _chances(relevant: Tensor, size: int) -> Tensor:
    """The expected average precision of a bank in random order, for so many relevant images of each class.

    ``(H_N + (R - 1) / (N - 1) (N - H_N)) / N`` with the harmonic number ``H_N``; 0 where nothing is relevant.
    """
    harmonic = float((1.0 / torch.arange(1, size + 1, dtype=torch.float64)).sum())
    expected = (harmonic + (relevant - 1) / max(size - 1, 1) * (size - harmonic)) / size
    return torch.where(relevant > 0, expected, 0.0)


def average_precision(relevant: Tensor) -> Tensor:
    """The average precision of rankings.

    Args:
        relevant: ``(M, N)`` bool, whether the image at each rank has the class that was asked for.

    Returns:
        ``(M,)`` float64 in [0, 1]; 0 where nothing is relevant.
    """
    ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    # Counts in int32: in float32 the sums of a large bank would round.
    precision = relevant.cumsum(dim=1, dtype=torch.int32) / ranks
    wanted = torch.where(relevant, precision, 0.0).sum(dim=1, dtype=torch.float64)
    return wanted / relevant.sum(dim=1).clamp_min(1)
