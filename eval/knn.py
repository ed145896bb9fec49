"""Weighted k-nearest-neighbour classification of frozen embeddings (DINO's and Lightly's protocol)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.embeddings import Embeddings, check_same_encoder, overall_speed
from lightly_prg.eval.feature_transform import check_transform, transform_features
from lightly_prg.eval.grids import several
from lightly_prg.eval.label_checks import count_classes
from lightly_prg.eval.neighbours import ROUNDING, pick_backend, rank_exactly, search

PRESETS: dict[str, dict[str, Any]] = {"lightly": {"k": 200, "ks": (200,), "temperature": 0.1}}

_SPARE = 8  # neighbours beyond those that vote: they show near ties, and hold whatever float64 may put among the first
_QUERIES = 1 << 12
_VOTE_GRID = 1e9  # shares of the vote closer than 1e-9 are equal, and below that they are none


@dataclass(frozen=True)
class KNNResult:
    """Accuracy of weighted k-nearest neighbours.

    Attributes:
        top1: Percent of the test images whose class got the most votes, with ``k`` neighbours.
        top5: Percent whose class is among the five with the most votes, classes without votes left
            out; None for fewer than five classes.
        by_k: Top-1 in percent for every number of neighbours, all from one search.
        k: Neighbours of the headline.
        temperature: T of the vote.
        num_train: Labelled images in the bank.
        num_test: Labelled images that were classified.
        num_classes: Classes that were told apart.
        embedding_dim: D.
        nfe: Network evaluations that one embedding cost.
        seconds: Duration of transformation, search and vote.
        images_per_second: Speed of the embedding.
        backend: What searched, ``faiss`` or ``torch``.
        clamped: Numbers of neighbours that were asked for and exceed the bank; its size took their
            place.
        options: What was asked for.
    """

    top1: float
    top5: float | None
    by_k: dict[int, float]
    k: int
    temperature: float
    num_train: int
    num_test: int
    num_classes: int
    embedding_dim: int
    nfe: float
    seconds: float
    images_per_second: float
    backend: str
    clamped: tuple[int, ...]
    options: dict[str, Any]


def evaluate_knn(
    bank: Embeddings,
    query: Embeddings,
    *,
    k: int = 20,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    transform: str = "none",
    num_classes: int | None = None,
    preset: str | None = None,
    backend: str = "auto",
    device: str | torch.device = "auto",
) -> KNNResult:
    """Classifies queries by a vote of their nearest neighbours in a bank of labelled embeddings.

    The similarity is the cosine, the search exact. A neighbour of similarity s votes for its class
    with the weight exp(s / T): with softmax over the neighbours, as in DINOv2, which is the same
    winner as without normalisation, as in Lightly (arXiv 1805.01978, section 3.4).

    What float32 leaves open, a near tie between two classes, or between the k-th neighbour and the
    next where that could change the winner, is computed again in float64. Ties go to the lower row
    of the bank and to the lower class. So the backends agree, but where similarities or shares of
    the vote differ by 1e-9.

    Args:
        bank: Embeddings with labels; those of label -1 are left out.
        query: Embeddings of the same encoder; those of label -1 are left out.
        k: Neighbours of the headline; joins ``ks``.
        ks: Numbers of neighbours; those beyond the size of the bank are set to it.
        temperature: T; small values let the nearest decide.
        transform: What is done to the features before similarities are taken, by the statistics of the bank alone:
            ``none``; ``standardise``, each feature to mean 0 and variance 1; ``whiten``, uncorrelated as well, by the
            eigen-decomposition of the bank's covariance with a ridge of 1e-4 times the mean variance.
        num_classes: Number of classes; default the highest label and one.
        preset: ``lightly`` for k 200, T 0.1 as in Lightly's benchmarks, in place of the three.
        backend: ``faiss``, ``torch``, or ``auto``: faiss on the CPU, torch elsewhere.
        device: Where torch searches.

    Raises:
        UserError: If labels are missing, or an option is not allowed.
        ValueError: If bank and query come from different encoders.
    """
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"The preset is {preset!r}; allowed is {', '.join(PRESETS)}.")
        k, ks, temperature = (PRESETS[preset][name] for name in ("k", "ks", "temperature"))
    ks = several(ks)
    if min(k, *ks, k) < 1:
        raise UserError(f"k is {min(k, *ks, k)}; at least 1 is needed.")
    if not temperature > 0:
        raise UserError(f"The temperature is {temperature}; a number above 0 is needed.")
    check_transform(transform)
    check_same_encoder((bank, query))
    speed = overall_speed((bank, query))
    bank, query = bank.labelled(), query.labelled()
    num_classes = count_classes(bank, None, query, num_classes, evaluator="k-NN")
    place = resolve_device(device)
    chosen = pick_backend(backend, place)
    asked = sorted({k, *ks})
    used = sorted({min(number, len(bank)) for number in asked})
    k_used = min(k, len(bank))

    start = time.perf_counter()
    features, queries = transform_features(transform, bank.features, query.features)
    similarities, rows = search(features, queries, min(used[-1] + _SPARE, len(bank)), backend=chosen, device=place)
    labels, truth = torch.tensor(bank.labels), torch.tensor(query.labels)
    ballot = _Ballot(used, k_used, temperature, num_classes)
    hits, top5, decided = ballot.count(similarities, labels[rows], truth)
    open_queries = (~decided).nonzero().flatten()
    if len(open_queries):
        found = similarities[open_queries], rows[open_queries]
        similarities, rows = rank_exactly(features, queries[open_queries.numpy()], found, used[-1], device=place)
        hits[open_queries], top5[open_queries], _ = ballot.count(similarities, labels[rows], truth[open_queries])
    seconds = time.perf_counter() - start

    by_k = {number: _percent(hits[:, place]) for place, number in enumerate(used)}
    return KNNResult(
        top1=by_k[k_used],
        top5=_percent(top5) if num_classes >= 5 else None,
        by_k=by_k,
        k=k_used,
        temperature=temperature,
        num_train=len(bank),
        num_test=len(query),
        num_classes=num_classes,
        embedding_dim=bank.embedding_dim,
        nfe=bank.nfe,
        seconds=seconds,
        images_per_second=speed,
        backend=chosen,
        clamped=tuple(number for number in asked if number > len(bank)),
        # Only where there is one: results from before there was a choice stay comparable.
        options={"k": k, "ks": asked, "temperature": temperature}
        | ({} if transform == "none" else {"transform": transform}),
    )


def _percent(hits: Tensor) -> float:
    return 100.0 * int(hits.sum()) / len(hits)


@dataclass(frozen=True)
class _Ballot:
    """The vote: ``ks`` in ascending order, of which ``headline`` gives the top-5."""

    ks: Sequence[int]
    headline: int
    temperature: float
    num_classes: int

    def count(self, similarities: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts the votes of neighbours that are sorted by similarity.

        Args:
            similarities: ``(M, K)`` with K at least the last of ``ks``.
            labels: ``(M, K)``, the classes of the neighbours.
            truth: ``(M,)``, the classes of the queries.

        Returns:
            Whether the first class is right, ``(M, len(ks))``; whether one of the first five is,
            ``(M,)``; and whether both would be the same if similarities were off by ``ROUNDING``,
            ``(M,)``.
        """
        parts = zip(*(torch.split(t, _QUERIES) for t in (similarities, labels, truth)), strict=True)
        hits, top5, decided = zip(*(self._count(*part) for part in parts), strict=True)
        return torch.cat(hits), torch.cat(top5), torch.cat(decided)

    def _count(self, similarities: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        most = self.ks[-1]
        # Subtracts the maximum: exp(1 / T) alone overflows for T = 0.01.
        weights = torch.softmax(similarities[:, :most] / self.temperature, dim=1)
        # A shift of s by r changes a share of the vote by r / T of itself; its sum rounds, too.
        margin = ROUNDING / self.temperature + 1e-5
        decided = torch.ones(len(truth), dtype=torch.bool)
        hits = torch.empty(len(truth), len(self.ks), dtype=torch.bool)
        top5 = torch.empty_like(decided)
        for place, k in enumerate(self.ks):
            votes = weights.new_zeros(len(truth), self.num_classes)
            votes.scatter_add_(1, labels[:, :k], weights[:, :k])
            shares = (votes / votes.sum(dim=1, keepdim=True)).mul_(_VOTE_GRID).round_()
            ranked, classes = shares.sort(dim=1, descending=True, stable=True)
            ranked /= _VOTE_GRID
            hits[:, place] = classes[:, 0] == truth
            moved = self._movable(similarities, weights, k) * (1 + margin)
            decided &= _apart(ranked[:, 0], ranked[:, 1], margin, moved)
            if k == self.headline:
                top5 = ((classes[:, :5] == truth[:, None]) & (ranked[:, :5] > 0)).any(dim=1)
                if self.num_classes > 5:
                    decided &= _apart(ranked[:, 4], ranked[:, 5], margin, moved) | ((ranked[:, 5] == 0) & (moved == 0))
        return hits, top5, decided

    @staticmethod
    def _movable(similarities: Tensor, weights: Tensor, k: int) -> Tensor:
        """By how much two shares may approach each other ``(M,)``, were others among the first k, of near ties."""
        if k >= similarities.shape[1]:
            return weights.new_zeros(len(weights))  # all of the bank: there is no other
        weights = weights[:, :k]
        replaceable = similarities[:, :k] - similarities[:, k : k + 1] <= ROUNDING
        # One class loses such a neighbour's share and another gets it.
        return 2 * (replaceable * weights).sum(dim=1) / weights.sum(dim=1)


def _apart(larger: Tensor, smaller: Tensor, margin: float, moved: Tensor) -> Tensor:
    return larger - smaller > margin * (larger + smaller) + moved
