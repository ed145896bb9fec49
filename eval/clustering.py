"""Clustering: k-means that sees no label, and how far its clusters are the classes."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightly_prg.errors import UserError
from lightly_prg.eval.embeddings import Embeddings, Labels
from lightly_prg.eval.label_checks import count_classes
from lightly_prg.eval.neighbours import unit_rows

STARTS = 10


@dataclass(frozen=True)
class ClusteringResult:
    """How far clusters agree with classes.

    Attributes:
        normalised_mutual_information: Percent, by the arithmetic mean of the two entropies; 0 for independent ones.
        adjusted_rand_index: Percent; 0 is chance, 100 the same partition.
        accuracy: Percent of the images in the cluster that stands for their class, under the best assignment of
            clusters to classes.
        num_clusters: K of k-means.
        num_test: Images that were clustered.
        num_classes: Classes.
        embedding_dim: D.
        nfe: Network evaluations that one embedding cost.
        seconds: Duration of k-means.
        images_per_second: Speed of the embedding.
        seed: Of the starts.
        options: What was asked for.
    """

    normalised_mutual_information: float
    adjusted_rand_index: float
    accuracy: float
    num_clusters: int
    num_test: int
    num_classes: int
    embedding_dim: int
    nfe: float
    seconds: float
    images_per_second: float
    seed: int
    options: dict[str, Any]


def evaluate_clustering(
    embeddings: Embeddings,
    *,
    clusters: int | None = None,
    starts: int = STARTS,
    num_classes: int | None = None,
    seed: int = 0,
) -> ClusteringResult:
    """Clusters embeddings on the unit sphere by scikit-learn's k-means and compares with the classes.

    Of several starts the one of the least distance to its centres counts, which needs no label.

    Args:
        embeddings: Those of label -1 are left out.
        clusters: K; default the number of classes that the images have.
        starts: Of k-means, by k-means++.
        num_classes: Number of classes; default the highest label and one.
        seed: Of the starts.

    Raises:
        UserError: If labels are missing, there are fewer images than clusters, or an option is not allowed.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    given = embeddings.labelled()
    num_classes = count_classes(given, None, given, num_classes, evaluator="clustering")
    count = clusters if clusters is not None else len(np.unique(given.labels))
    for name, value in (("clusters", count), ("starts", starts)):
        if value < 1:
            raise UserError(f"{name} is {value}; at least 1 is needed.")
    if len(given) < count:
        raise UserError(f"There are {len(given)} labelled images for {count} clusters.")
    start = time.perf_counter()
    rows = unit_rows(given.features).numpy()
    with warnings.catch_warnings():
        # Fewer distinct embeddings than clusters: the scores say what that is worth.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(n_clusters=count, n_init=starts, random_state=seed).fit(rows).labels_.astype(np.int64)
    return ClusteringResult(
        normalised_mutual_information=100.0 * float(normalized_mutual_info_score(given.labels, found)),
        adjusted_rand_index=100.0 * float(adjusted_rand_score(given.labels, found)),
        accuracy=clustering_accuracy(given.labels, found),
        num_clusters=count,
        num_test=len(given),
        num_classes=num_classes,
        embedding_dim=given.embedding_dim,
        nfe=given.nfe,
        seconds=time.perf_counter() - start,
        images_per_second=embeddings.images_per_second,
        seed=seed,
        options={"clusters": clusters, "starts": starts},
    )


def clustering_accuracy(labels: Labels, clusters: Labels) -> float:
    """Percent of the images whose cluster stands for their class, under the best one-to-one assignment.

    Args:
        labels: ``(N,)`` from 0.
        clusters: ``(N,)`` from 0.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((clusters.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return float(100.0 * counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))
