"""A map of embeddings: high-dimensional points laid out in the plane."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lightly_prg.plotting.style import Array, Theme, new_figure, write_figure

_MAX_POINTS = 2000
_MAX_LEGEND = 20
_MAX_NAMES = 12
_NAMES_APART = 0.08  # of the map's width
_MARKERS = "osD^vP*X<>"
_SEED = 0  # of the draw and the layout


def plot_embedding_map(
    features: Array,
    labels: Array,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Draws embeddings as points in the plane, coloured by class.

    Args:
        features: ``(N, D)`` embeddings, of which at most 2,000, drawn at random, are shown. Rows
            that are not finite are left out.
        labels: ``(N,)`` integers into ``class_names``; -1 is no label.
        class_names: Names for the legend.
        path: Where to write the PNG.

    Raises:
        ValueError: If the shapes do not fit.
    """
    features, labels = np.asarray(features), np.asarray(labels).astype(int)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        given = f"{features.shape} and {labels.shape}"
        raise ValueError(f"Features (N, D) and labels (N,) are needed, got {given}.")
    chosen = np.flatnonzero(np.isfinite(features).all(axis=1))
    if len(chosen) > _MAX_POINTS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, _MAX_POINTS, replace=False))
    points, name = _project(features[chosen].astype(np.float64))
    kinds = sorted(set(labels[chosen].tolist()))
    clouds = [points[labels[chosen] == kind] for kind in kinds]
    names_inside = _are_islands(clouds)
    size = float(np.clip(9000 / max(len(chosen), 1), 9, 60))

    def draw(theme: Theme) -> Figure:
        figure = new_figure(500, 450)
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_aspect("equal", adjustable="datalim")
        names = []
        handles = []
        for kind, cloud in zip(kinds, clouds, strict=True):
            x, y = cloud.T
            handles.append(axes.scatter(x, y, s=size, lw=0, **_style(kind, theme)))
            names.append(_short(_name(kind, class_names)))
            if names_inside:
                halo = withStroke(linewidth=3.5, foreground=theme.background)
                axes.annotate(
                    names[-1], tuple(_middle(cloud)), ha="center", va="center", color=theme.text,
                    fontsize=11.5, fontweight="bold", path_effects=[halo],
                )  # fmt: skip
        if len(names) > _MAX_LEGEND:
            rest = len(names) - _MAX_LEGEND + 1
            names[_MAX_LEGEND - 1 :] = [f"… and {rest} more"]
            handles[_MAX_LEGEND - 1 :] = [axes.scatter([], [], s=0)]
        if names:
            figure.legend(
                handles, names, loc="outside right center", frameon=False, labelcolor=theme.text,
                fontsize=10.5, markerscale=max(1.0, (36 / size) ** 0.5), handletextpad=0.2,
                labelspacing=0.45,
            )  # fmt: skip
        figure.supxlabel(_remark(name, points), color=theme.muted, fontsize=10.5)
        return figure

    write_figure(path, draw)


def _project(features: Array) -> tuple[Array, str]:
    """Lays ``(N, D)`` features out in the plane; returns ``(N, 2)`` and the method's name."""
    from sklearn.decomposition import PCA

    count = len(features)
    # Squares of very large or very small features would leave the range of floats.
    features = features / (np.abs(features).max(initial=0.0) or 1.0)
    if count < 2 or not np.ptp(features, axis=0).any():
        return np.zeros((count, 2)), "map"
    components = min(50, *features.shape)
    features = PCA(components, random_state=_SEED).fit_transform(features)
    planar = np.pad(features[:, :2], ((0, 0), (0, max(0, 2 - components))))
    if count < 5:
        return planar, "PCA"
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    # What `init="pca"` does, which fails where there is but one component.
    start = (1e-4 * planar / planar[:, 0].std()).astype(np.float32)
    layout = TSNE(perplexity=min(30.0, (count - 1) / 3), init=start, random_state=_SEED)
    # Its threads wait for each other in each of a thousand iterations: on a busy machine several
    # take five times as long as one.
    with threadpool_limits(1):
        return np.asarray(layout.fit_transform(features)), "t-SNE"


def _middle(cloud: Array) -> Array:
    """The member of a class that is nearest to its middle."""
    middle = cloud[np.square(cloud - np.median(cloud, axis=0)).sum(axis=1).argmin()]
    return np.asarray(middle)


def _are_islands(clouds: Sequence[Array]) -> bool:
    """Whether few enough classes lie far enough apart that names on the map cover little."""
    count = sum(map(len, clouds))
    if not 1 < len(clouds) <= _MAX_NAMES or count < 10 * len(clouds):
        return False
    apart = _NAMES_APART * np.ptp(np.concatenate(clouds), axis=0).max()
    middles = [_middle(cloud) for cloud in clouds]
    return all(np.linalg.norm(a - b) > apart for a, b in itertools.combinations(middles, 2))


def _style(kind: int, theme: Theme) -> dict[str, Any]:
    if kind < 0:
        return {"color": theme.muted, "marker": ".", "alpha": 0.45}
    # Shapes differ too, for readers who cannot tell the colours; a hundred pairs are unique.
    turn, colour = divmod(kind, len(theme.colours))
    marker = _MARKERS[(kind + turn) % len(_MARKERS)]
    return {"color": theme.colours[colour], "marker": marker, "alpha": 0.85}


def _name(kind: int, class_names: Sequence[str]) -> str:
    if kind < 0:
        return "no label"
    return str(class_names[kind]) if kind < len(class_names) else str(kind)


def _short(name: str, length: int = 18) -> str:
    name = name if len(name) <= length else name[: length - 1] + "…"
    return name


def _remark(name: str, points: Array) -> str:
    if len(points) == 0:
        return "no finite embeddings"
    text = f"{name} of {len(points):,} embedding{'s' * (len(points) > 1)}"
    same = len(points) > 1 and not np.ptp(points, axis=0).any()
    return f"{text}: all are the same" if same else text
