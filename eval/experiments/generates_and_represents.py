"""What a network that is to represent pays for it as a generator: bits per dimension and samples beside accuracies.

    lightly-prg compare joint_fashion_mnist
    lightly-prg finetune comparisons/joint_fashion_mnist/runs/simclr-seed0 --scratch --out runs/judge
    python eval/experiments/generates_and_represents.py comparisons/joint_fashion_mnist --judge runs/judge \
        --out eval/results/joint/fashion_mnist

Reads the accuracies of a comparison and measures every run of it that has a flow, on the comparison's split: bits per
dimension (the same images and probes for all methods of a seed) and the Fréchet distance of samples in the features of
the judge, a classifier that was trained on the same set. What was measured is not measured again, and what was measured
of other weights, by another judge or with other options is refused. Writes one JSON for each run, summary.md and
tradeoff.png.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightly_prg.console import Console
from lightly_prg.errors import FlowBrokeDown
from lightly_prg.eval.comparison.files import Comparison, read_comparison
from lightly_prg.eval.comparison.plot import LEAST_POINTS, draw_front
from lightly_prg.eval.comparison.statistics import Mean, mean_of, paired_difference
from lightly_prg.eval.comparison.table import shown_difference, shown_score
from lightly_prg.evaluation import Evaluation
from lightly_prg.evaluation.kept_results import KeptResult, identity_of, missing_results, told
from lightly_prg.features import PRGEncoder
from lightly_prg.files import read_json, write_text
from lightly_prg.measurements.of_run import measure_likelihood
from lightly_prg.measurements.sample_distance import measure_sample_distance
from lightly_prg.plotting.style import Theme, method_colours, new_axes, new_figure, widen, write_figure
from lightly_prg.run import Run

GENERATIVE = {"bits": "bits per dimension", "frechet": "Fréchet distance"}
OUT_OF_BOUNDS = 3.0  # times the reference: off the picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, measures what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of a finished comparison")
    parser.add_argument("--judge", type=Path, required=True, help="run whose encoder gives the features of samples")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--reference", default="PRG", help="the plain flow, to which differences are taken")
    parser.add_argument("--images", type=int, default=256, help="images of the likelihood")
    parser.add_argument("--samples", type=int, default=2000, help="images of the Fréchet distance")
    parser.add_argument("--root", help="where the data lie, if not where the recipes say")
    options = parser.parse_args(arguments)
    about = read_json(options.comparison / "comparison.json")
    asked = {cell["key"]: result_of(cell, about["split"], options) for cell in about["cells"]}
    missing = missing_results(asked)
    for cell in about["cells"]:
        if cell["key"] in missing:
            found = measure(options.comparison / "runs" / cell["key"], about["split"], options)
            asked[cell["key"]].write({"label": cell["label"], "seed": cell["seed"], **found})
    command = " ".join(["python eval/experiments/generates_and_represents.py", *sys.argv[1:]])
    files = [result.path for result in asked.values()]
    summarise(options.out, files, read_comparison(options.comparison), options.reference, command)


def result_of(cell: Mapping[str, Any], split: str, options: argparse.Namespace) -> KeptResult:
    """Where the measurements of a run lie, and what decides over them."""
    run = Run.open(options.comparison / "runs" / cell["key"])
    of_cell = {"label": cell["label"], "seed": cell["seed"]}
    older = {
        **of_cell,
        "split": split,
        "samples": options.samples,
        "num_images": min(options.images, run.description["data"][f"num_{split}"]),
    }
    made_with = {
        **of_cell,
        **identity_of(run),
        "judge": identity_of(Run.open(options.judge)),
        "split": split,
        "images": options.images,
        "samples": options.samples,
    }
    return KeptResult(options.out / f"{cell['key']}.json", made_with, older)


def measure(folder: Path, split: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both measurements of one run; empty where there is no flow."""
    evaluation = Evaluation(Run.open(folder), root=options.root, console=Console())
    evaluation.console.say(str(folder))
    if not isinstance(evaluation.trained, PRGEncoder):
        return {}
    found: dict[str, Any] = {"samples": options.samples, "split": split, "bits": None, "frechet": None}
    try:
        likelihood = measure_likelihood(evaluation, split=split, max_images=options.images, solver="heun2", steps=12)
        found["bits"] = likelihood["bits_per_dim"]
        found["bits_standard_error"] = likelihood["standard_error"]
        found["num_images"] = likelihood["num_images"]
    except FlowBrokeDown as error:  # a flow that leaves all bounds has neither; the others are told nevertheless
        evaluation.console.say(f"no likelihood: {error}")
    try:
        distance = measure_sample_distance(evaluation, options.judge, count=options.samples, split=split)
        found["frechet"], found["floor"] = distance["distance"], distance["floor"]
    except FloatingPointError as error:
        evaluation.console.say(f"no samples: {error}")
    return found


def summarise(out: Path, files: Sequence[Path], comparison: Comparison, reference: str, command: str) -> None:
    """Writes summary.md and tradeoff.png, of the results in ``files``."""
    measured: dict[str, dict[str, dict[int, float]]] = {key: {} for key in GENERATIVE}
    floors = []
    for file in files:
        content = read_json(file)
        floors += [content["floor"]] if "floor" in content else []
        for key in GENERATIVE:
            if content.get(key) is not None:
                measured[key].setdefault(content["label"], {})[content["seed"]] = content[key]
    columns = [(column.key, f"{column.title} {column.detail}".strip()) for column in comparison.columns]
    titles = ["method", *(title for _, title in columns), *GENERATIVE.values()]
    lines = [f"Made by `{command}`.", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for label in comparison.labels:
        cells = [label]
        for key, _ in columns:
            cells.append(_cell(comparison.by_seed(label, key), comparison.by_seed(reference, key), label == reference))
        cells += [
            _cell(values.get(label, {}), values.get(reference, {}), label == reference, digits=3)
            for values in measured.values()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    about = comparison.about
    lines += [
        "",
        f"Split {about['split']}, seeds {', '.join(map(str, about['seeds']))}; mean ± standard deviation over the "
        f"seeds, in brackets the paired difference to {reference} ± half of its 95 % interval. "
        f"Budget: {_budget(about)}. "
        + (f"Fréchet distance between real images: {mean_of(floors).mean:.3g}." if floors else ""),
        "",
    ]
    write_text(out / "summary.md", "\n".join(lines))
    methods = [label for label in comparison.labels if label not in comparison.controls]
    accuracies = {label: comparison.by_seed(label, "linear") for label in methods}
    plot_tradeoff(accuracies, measured, reference, out / "tradeoff.png")


def _budget(about: Mapping[str, Any]) -> str:
    budget = about.get("budget")
    return "as the recipes say" if not budget else f"{budget['amount']:g} {str(budget['kind']).replace('_', ' ')}"


def _cell(values: Mapping[int, float], reference: Mapping[int, float], own: bool, digits: int = 1) -> str:
    if not values:
        return ""
    if digits == 1:
        text = shown_score(mean_of(list(values.values())))
    else:
        mean = mean_of(list(values.values()))
        text = f"{mean.mean:.{digits}f}" + ("" if mean.deviation is None else f" ± {mean.deviation:.{digits}f}")
    difference = None if own else paired_difference(values, reference)
    if difference is None:
        return text
    if digits == 1:
        return f"{text} ({shown_difference(difference)})"
    width = "" if difference.half_width is None else f" ± {difference.half_width:.{digits}f}"
    return f"{text} ({difference.mean:+.{digits}f}{width})"


def plot_tradeoff(
    accuracies: Mapping[str, Mapping[int, float]],
    measured: Mapping[str, Mapping[str, Mapping[int, float]]],
    reference: str,
    path: Path,
) -> None:
    """Draws linear accuracy against bits per dimension and against the Fréchet distance, one point a method.

    The Pareto front is dashed. Methods without a flow are lines: they generate nothing. Worse than three times the
    reference is off the picture.

    Args:
        accuracies: Of the linear probe, by method and seed.
        measured: By measurement, method and seed.
        reference: The plain flow.
        path: Where to write the PNG.
    """

    def draw(theme: Theme) -> Figure:
        figure = new_figure(900, 420)
        grid = figure.add_gridspec(1, len(measured))
        for place, (key, by_label) in enumerate(measured.items()):
            axes = new_axes(figure, theme, grid[0, place])
            plain = mean_of(list(by_label[reference].values())).mean if by_label.get(reference) else math.inf
            shown: dict[str, tuple[float, float]] = {}
            for label, colour in method_colours(theme, accuracies).items():
                if not accuracies[label]:
                    continue
                reached = mean_of(list(accuracies[label].values()))
                if label not in by_label:
                    axes.axhline(reached.mean, color=colour, ls="--", lw=1.2, label=label)
                    continue
                price = mean_of(list(by_label[label].values()))
                if price.mean <= OUT_OF_BOUNDS * plain:
                    _point(axes, price, reached, colour, label)
                    shown[label] = (price.mean, reached.mean)
            draw_front(axes, theme, shown)
            widen(axes, LEAST_POINTS)
            axes.set_xlabel(f"{GENERATIVE[key]} (less is better)")
            if place == 0:
                axes.set_ylabel("linear probe, %")
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(
            list(handles.values()), list(handles), loc="outside upper left", ncols=4, frameon=False,
            labelcolor=theme.text, fontsize=11,
        )  # fmt: skip
        return figure

    write_figure(path, draw)


def _point(axes: Any, price: Mean, reached: Mean, colour: str, label: str) -> None:
    axes.errorbar(
        price.mean, reached.mean, xerr=price.deviation, yerr=reached.deviation, color=colour, marker="o", ms=8,
        capsize=3, lw=0, elinewidth=1.4, label=label,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(told(main))
