"""Which frozen feature of a flow is worth what: states along the path, blocks on it, blocks at noised images, controls.

    python eval/experiments/frozen_features.py runs/a runs/b runs/c --out eval/results/frozen_features

For every run, the block and tau are chosen on validation images (``lightly_prg.scan``). Then everything is judged once
on test images: k-NN (k = 20), the same on standardised and on whitened features, and linear probe, on the same
stratified draw of training images. A run that is there is not computed again, and one that was made of other weights or
with other options is refused. The summary takes mean and standard deviation over the runs of each data set; states.png
draws it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from lightly_prg.console import Console
from lightly_prg.eval import Embeddings, embed, evaluate_knn
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.evaluation.kept_results import KeptResult, check_neighbours, identity_of, missing_results, told
from lightly_prg.features.grid import GridEncoder
from lightly_prg.files import write_text
from lightly_prg.plotting.style import Theme, new_axes, new_figure, write_figure
from lightly_prg.run import Run, versions
from lightly_prg.scan import scan
from lightly_prg.scan.features import ScanImages, drawn_by_class, read_group, rows_of
from lightly_prg.scan.frozen_judging import judge_frozen, read_block
from lightly_prg.scan.scores import ScannedCell

TAUS = tuple(tenth / 10 for tenth in range(11))
SEVERAL = (0.0, 0.1, 0.2, 0.4)
COLUMNS = {
    "knn": "k-NN",
    "knn_standardise": "k-NN, standardised",
    "knn_whiten": "k-NN, whitened",
    "linear": "linear probe",
}
CONTROLS: tuple[EncoderName, ...] = ("raw_pixels", "pca")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, measures what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="trained PRG runs, one for each seed and data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--train", type=int, default=10000, help="training images, drawn by class")
    parser.add_argument("--test", type=int, default=5000, help="test images, drawn by class")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps from data to noise")
    parser.add_argument("--root", help="where the data lie, if not where the recipes say")
    options = parser.parse_args(arguments)
    check_neighbours(options.out, _options(options))
    asked = {folder: result_of(folder, options) for folder in options.runs}
    for folder in missing_results(asked):
        asked[folder].write(measure(folder, options))
    summarise(options.out, " ".join(["python eval/experiments/frozen_features.py", *sys.argv[1:]]))


def result_of(folder: Path, options: argparse.Namespace) -> KeptResult:
    """Where the rows of a run lie, and what decides over them."""
    run = Run.open(folder)
    about, seed = run.description, run.recipe.seed
    older = {
        "data": run.recipe.data.title,
        "seed": seed,
        "training": about["training"],
        "num_train": min(options.train, about["data"]["num_train"]),
        "num_test": min(options.test, about["data"]["num_test"]),
    }
    return KeptResult(options.out / f"{folder.name}.json", {**identity_of(run), **_options(options)}, older)


def _options(options: argparse.Namespace) -> dict[str, Any]:
    return {"train": options.train, "test": options.test, "steps": options.steps}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of one run."""
    evaluation = Evaluation(Run.open(folder), root=options.root, console=Console())
    chosen = {noised: scan(evaluation, sources=("block",), noised=noised).chosen for noised in (False, True)}
    bank, judged = (
        drawn_by_class(evaluation.images(split), count, evaluation.run.recipe.seed)
        for split, count in (("train", options.train), ("test", options.test))
    )
    rows = []
    images = ScanImages(bank, judged, "test")
    for name, feature, train, test in _features(evaluation, chosen, images, options.steps):
        judged_so = judge_frozen(evaluation, train, test)
        classes = evaluation.splits.train.num_classes
        for kind in ("standardise", "whiten"):
            judged_so[f"knn_{kind}"] = evaluate_knn(train, test, num_classes=classes, transform=kind).top1
        rows.append({"row": name, "feature": feature, **judged_so})
        evaluation.console.say(f"{name}: k-NN {rows[-1]['knn']:.1f}, linear {rows[-1]['linear']:.1f}")
    return {
        "run": folder.name,
        "data": evaluation.run.recipe.data.title,
        "seed": evaluation.run.recipe.seed,
        "split": "test",
        "num_train": len(bank),
        "num_test": len(judged),
        "training": evaluation.description["training"],
        "rows": rows,
        "versions": versions(),
    }


def _features(
    evaluation: Evaluation, chosen: Mapping[bool, ScannedCell], images: ScanImages, steps: int
) -> Iterator[tuple[str, dict[str, Any], Embeddings, Embeddings]]:
    embedding: dict[str, Any] = {"batch_size": evaluation.run.recipe.eval.batch_size, "device": str(evaluation.target)}
    assert images.judged is not None
    for control in CONTROLS:
        encoder = evaluation.encoder(control)
        yield control, {}, embed(encoder, images.bank, **embedding), embed(encoder, images.judged, **embedding)
    block, at_noise = (chosen[noised] for noised in (False, True))
    random_network: Any = evaluation.encoder("random_network")
    cells = [
        ("best block", evaluation.trained, block, block.tau, block.steps, False),
        ("its block at several tau", evaluation.trained, block, SEVERAL, None, False),
        ("best block, noised image", evaluation.trained, at_noise, at_noise.tau, None, True),
        ("best block, random network", random_network, block, block.tau, block.steps, False),
    ]
    for name, encoder, cell, taus, taken, noised in cells:
        where: dict[str, Any] = {"block": cell.block, "pool": cell.pool}
        bank, judged = read_block(evaluation, encoder, images, taus=taus, steps=taken, noised=noised, **where)
        yield name, {**where, "tau": list(taus)}, bank, judged
    (state,) = rows_of(evaluation.trained, sources=("state",))
    grid = GridEncoder(evaluation.trained, (state,), taus=TAUS, steps=steps)
    for found in read_group(grid, grid.rows, images, **embedding):
        if len(found.cell.taus) == 1:
            assert found.judged is not None
            (tau,) = found.cell.taus
            yield f"state, tau {tau:g}", {"tau": tau, "pool": state.pool}, found.bank, found.judged


def summarise(out: Path, command: str) -> None:
    """Writes ``summary.md``: for every data set the mean and standard deviation over its runs."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    about: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(out.glob("*.json")):
        result = json.loads(path.read_text())
        about[result["data"]].append(result)
        for row in result["rows"]:
            cells[result["data"], row["row"]].append(row)
    lines = [f"Made by `{command}`.", ""]
    for data, results in about.items():
        seeds = ", ".join(str(result["seed"]) for result in results)
        lines += [
            f"## {data}",
            "",
            f"Seeds {seeds}; {results[0]['num_train']} training and {results[0]['num_test']} test images; mean ± "
            "standard deviation over the seeds.",
            "",
            f"| feature | {' | '.join(COLUMNS.values())} | dim | NFE |",
            "|---" * (len(COLUMNS) + 3) + "|",
        ]
        for (name, row), found in cells.items():
            if name == data:
                scores = " | ".join(_spread([cell[key] for cell in found]) for key in COLUMNS)
                lines.append(f"| {row} | {scores} | {found[0]['embedding_dim']} | {found[0]['nfe']:g} |")
        lines.append("")
    write_text(out / "summary.md", "\n".join(lines))
    plot_states(cells, list(about), out / "states.png")


def plot_states(cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], sets: Sequence[str], path: Path) -> None:
    """Draws the accuracy of the state along the path, with everything else as lines across.

    Args:
        cells: The results of each data set and row.
        sets: The data sets, a line of panels for each.
        path: Where to write the PNG.
    """
    shown = {key: title for key, title in COLUMNS.items() if key != "knn_standardise"}
    lines = ("raw_pixels", "pca", "best block", "best block, noised image", "best block, random network")

    def draw(theme: Theme) -> Figure:
        figure = new_figure(1100, 60 + 300 * len(sets))
        grid = figure.add_gridspec(len(sets), len(shown))
        for line, data in enumerate(sets):
            for column, (key, title) in enumerate(shown.items()):
                axes = new_axes(figure, theme, grid[line, column])
                states = [[cell[key] for cell in cells[data, f"state, tau {tau:g}"]] for tau in TAUS]
                middles = [mean(values) for values in states]
                spread = [stdev(values) if len(values) > 1 else 0.0 for values in states]
                axes.errorbar(
                    TAUS, middles, yerr=spread, color=theme.text, marker="o", ms=5, capsize=3, label="state at tau"
                )
                for name, colour in zip(lines, theme.colours, strict=False):
                    height = mean(cell[key] for cell in cells[data, name])
                    axes.axhline(height, color=colour, lw=1.6, ls="--", label=name.replace("_", " "))
                axes.set_title(f"{data}, {title}, %", color=theme.text, fontsize=11.5)
                if line == len(sets) - 1:
                    axes.set_xlabel(r"$\tau$  (0 = image, 1 = noise)")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=3, frameon=False, labelcolor=theme.text, fontsize=11
        )
        return figure

    write_figure(path, draw)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    raise SystemExit(told(main))
