"""Does what the paper maximises predict anything? Measurements of a flow over its training, against accuracy.

    lightly-prg train cifar10_prg_cpu 'train.snapshots=[0, 0.01, 0.05, 0.2, 0.5, 1]' --out runs/a
    python eval/experiments/information.py runs/a --out eval/results/information

Every snapshot is measured (``measurements.suite.measure_all``) and judged by k-NN and linear probe: by the
block that the recipe reads, and by the state at the noise end. A snapshot that is there is not measured again. The
summary ranks the snapshots of a run by each measurement and gives the mean over runs of its correlation with each
accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lightly_prg.claims.finetuning import STATE
from lightly_prg.console import Console
from lightly_prg.evaluation import Evaluation
from lightly_prg.evaluation.kept_results import KeptResult, check_neighbours, identity_of, missing_results, told
from lightly_prg.features.rereading import reread
from lightly_prg.files import write_text
from lightly_prg.measurements.suite import measure_all
from lightly_prg.run import Run, versions
from lightly_prg.scan.features import drawn_by_class
from lightly_prg.scan.frozen_judging import judge_encoder
from lightly_prg.scan.rank_correlation import rank_correlation

ACCURACIES = ("knn, block", "linear, block", "knn, state", "linear, state")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, measures what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="PRG runs that were trained with train.snapshots")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--train", type=int, default=5000, help="training images, drawn by class")
    parser.add_argument("--images", type=int, default=256, help="images of each measurement")
    parser.add_argument("--steps", type=int, default=8, help="Euler steps to the noise end, for the state")
    parser.add_argument("--root", help="where the data lie, if not where the recipes say")
    options = parser.parse_args(arguments)
    check_neighbours(options.out, _options(options))
    asked = {
        snapshot: result_of(folder, snapshot, options)
        for folder in options.runs
        for snapshot in Run.open(folder).snapshots
    }
    for snapshot in missing_results(asked):
        asked[snapshot].write({"run": snapshot.parent.parent.name, **measure(snapshot, options)})
    summarise(options.out, " ".join(["python eval/experiments/information.py", *sys.argv[1:]]))


def result_of(folder: Path, snapshot: Path, options: argparse.Namespace) -> KeptResult:
    """Where the result of a snapshot lies, and what decides over it."""
    run = Run.open(snapshot)
    about = run.description
    older = {
        "steps": about["training"]["steps"],
        "num_train": min(options.train, about["data"]["num_train"]),
    }
    made_with = {**identity_of(run), **_options(options)}
    return KeptResult(options.out / f"{folder.name}-{snapshot.name}.json", made_with, older)


def _options(options: argparse.Namespace) -> dict[str, Any]:
    return {"train": options.train, "images": options.images, "state_steps": options.steps}


def measure(snapshot: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one snapshot, on validation images."""
    evaluation = Evaluation(Run.open(snapshot), root=options.root, console=Console())
    evaluation.console.say(str(snapshot))
    accuracies: dict[str, float] = {}
    state = reread(evaluation.prg, feature=STATE, ode={"solver": "euler", "steps": options.steps})
    bank, judged = drawn_by_class(evaluation.images("train"), options.train, seed=0), evaluation.images("validation")
    for name, encoder in (("block", evaluation.prg), ("state", state)):
        found = judge_encoder(evaluation, encoder, bank=bank, judged=judged)
        accuracies |= {f"{probe}, {name}": found[probe] for probe in ("knn", "linear")}
    return {
        "steps": evaluation.description["training"]["steps"],
        "split": "validation",
        "accuracies": accuracies,
        "measurements": measure_all(evaluation, split="validation", max_images=options.images),
        "num_train": len(bank),
        "num_judged": len(judged),
        "versions": versions(),
    }


def summarise(out: Path, command: str) -> None:
    """Writes ``summary.md``: every snapshot, and the rank correlations."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*.json")):
        result = json.loads(path.read_text())
        runs.setdefault(result["run"], []).append(result)
    lines = [f"Made by `{command}`.", ""]
    measured = {name: None for found in runs.values() for result in found for name in result["measurements"]}
    names = [name for name in measured if not name.endswith("_error") or name == "spectrum_error"]
    for run, found in runs.items():
        found.sort(key=lambda result: result["steps"])
        lines += [f"## {run}", "", f"| steps | {' | '.join((*ACCURACIES, *names))} |"]
        lines.append("|---" * (1 + len(ACCURACIES) + len(names)) + "|")
        for result in found:
            shown = [f"{result['accuracies'][name]:.1f}" for name in ACCURACIES]
            values = [result["measurements"].get(name) for name in names]
            shown += ["" if value is None else f"{value:.3g}" for value in values]
            lines.append(f"| {result['steps']} | {' | '.join(shown)} |")
        lines.append("")
    lines += ["## Spearman's rank correlation over the snapshots of a run, mean over runs", ""]
    lines += [f"| measurement | {' | '.join(ACCURACIES)} |", "|---" * (1 + len(ACCURACIES)) + "|"]
    for name in names:
        cells = []
        for accuracy in ACCURACIES:
            values = [
                rank_correlation((result["measurements"].get(name), result["accuracies"][accuracy]) for result in found)
                for found in runs.values()
            ]
            known = [value for value in values if value is not None]
            cells.append(f"{mean(known):+.2f}" if known else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    write_text(out / "summary.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(told(main))
