"""The table and the page of a comparison, made from the files of its folder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lightly_prg.eval.comparison.files import CellResults, Comparison, read_comparison
from lightly_prg.eval.comparison.table import (
    TableRow,
    best_of,
    explained_differences,
    finetuned_notes,
    known_costs,
    shown_cost,
    shown_difference,
    shown_score,
    table_rows,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
)
from lightly_prg.eval.page import environment, read_figures
from lightly_prg.eval.result_files import NAMES, feature_text, lookup
from lightly_prg.eval.result_table import listed
from lightly_prg.files import write_text

_UNITS = {
    "cpu_seconds": "CPU seconds",
    "gpu_seconds": "GPU seconds",
    "epochs": "epochs",
    "macs": "multiply-adds",
}


def write_comparison(folder: Path) -> Path:
    """Writes ``table.md``, ``.csv``, ``.json``, ``.tex``, the figures and ``comparison.html``.

    Args:
        folder: Of a comparison, finished or not.

    Returns:
        The path of the page.

    Raises:
        UserError: If there is no comparison, or nothing was measured yet.
    """
    folder = Path(folder)
    comparison = read_comparison(folder)
    rows = table_rows(comparison)
    for suffix, render in (("md", to_markdown), ("csv", to_csv), ("json", to_json), ("tex", to_latex)):
        write_text(folder / f"table.{suffix}", render(comparison, rows))
    _draw(comparison, rows, folder / "figures")
    notes = list(comparison.notes)
    about = comparison.about
    page = (
        environment()
        .get_template("compare.html")
        .render(
            name=str(about.get("name")),
            description=str(about.get("description") or ""),
            data=_data_of(comparison),
            split=str(about.get("split")),
            seeds=list(about.get("seeds", [])),
            date=datetime.fromtimestamp((folder / "comparison.json").stat().st_mtime).astimezone().date().isoformat(),
            verdicts=verdicts(comparison, rows),
            notes=notes,
            columns=comparison.columns,
            rows=rows,
            num_methods=len(rows) - len(comparison.controls),
            costs=known_costs(rows),
            best={column.key: best_of(rows, column.key) for column in comparison.columns},
            reference=comparison.reference,
            cells=comparison.cells,
            figures=read_figures(folder, notes),
            facts=_facts(comparison),
            features=_features(comparison),
            recipe_text=comparison.recipe_text,
            budgeted=about.get("budget") is not None,
            explained=explained_differences(rows),
            finetuned=finetuned_notes(comparison),
            shown_score=shown_score,
            shown_difference=shown_difference,
            shown_cost=shown_cost,
        )
    )
    write_text(folder / "comparison.html", page)
    return folder / "comparison.html"


def verdicts(comparison: Comparison, rows: Sequence[TableRow]) -> list[str]:
    """Says of every method where it is above the reference, where below, and where that cannot be told.

    Two methods are told apart where the 95 % interval of their paired difference does not hold zero.
    One seed gives no interval, which one sentence says for all.
    """
    differences = [difference for row in rows for difference in row.differences.values()]
    if differences and all(difference.half_width is None for difference in differences):
        return [f"With one seed no difference to {comparison.reference} can be told from chance; the table has them."]
    sentences = []
    words = {"above": "is above", "below": "is below", "open": "cannot be told from"}
    for row in rows:
        if row.label == comparison.reference or row.label in comparison.controls:
            continue
        said: dict[str, list[str]] = {}
        for column in comparison.columns:
            difference = row.differences.get(column.key)
            if difference is not None:
                text = f"{column.full} ({shown_difference(difference, marked=False)})"
                said.setdefault(difference.verdict, []).append(text)
        parts = [
            f"{words[verdict]} {comparison.reference} in {listed(said[verdict])}"
            for verdict in words
            if verdict in said
        ]
        if parts:
            sentences.append(f"{row.label} {listed(parts)}.")
    return sentences


def _draw(comparison: Comparison, rows: Sequence[TableRow], figures: Path) -> None:
    # Matplotlib takes long to import; who only reads the table does without it.
    from lightly_prg.eval.comparison.plot import plot_accuracy_against_cost, plot_learning_curves, plot_robustness_of
    from lightly_prg.plotting import dark_twin, plot_accuracy_bars

    bars: dict[str, dict[str, tuple[float, float | None]]] = {}
    for column in comparison.columns:
        bars[column.full] = {
            row.label: (row.scores[column.key].mean, row.scores[column.key].deviation)
            for row in rows
            if column.key in row.scores
        }
    if bars:
        plot_accuracy_bars(bars, figures / "accuracy.png")
        plot_accuracy_against_cost(comparison, rows, "training", figures / "training_cost.png")
        plot_accuracy_against_cost(comparison, rows, "embedding", figures / "embedding_cost.png")
    if any(cell.losses for cell in comparison.cells):
        plot_learning_curves(comparison, figures / "learning_curves.png")
    robust = figures / "robustness.png"
    if not plot_robustness_of(comparison, robust):
        for stale in (robust, dark_twin(robust)):
            stale.unlink(missing_ok=True)


def _data_of(comparison: Comparison) -> str:
    """The images: the named set, or the folder that they lie in."""
    return str(comparison.about.get("data") or lookup(comparison.cells[0].facts, "data", "name") or "")


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """How the comparison was made, as terms and descriptions; what is unknown is left out."""
    about, first = comparison.about, comparison.cells[0].facts
    data: Mapping[str, Any] = first.get("data") or {}
    budget = about.get("budget")
    facts = {
        "Images": _joined(
            _data_of(comparison),
            " \N{MULTIPLICATION SIGN} ".join(map(str, first.get("input_shape") or ())),
            f"{data['num_train']:,} for training" if "num_train" in data else None,
            f"{data['num_validation']:,} for validation" if "num_validation" in data else None,
            f"{data['num_test']:,} for testing" if "num_test" in data else None,
        ),
        "Judged on": str(about.get("split")),
        "Seeds": ", ".join(map(str, about.get("seeds", []))),
        "Budget": f"{budget['amount']:g} {_UNITS[budget['kind']]} of training for every method"
        if budget
        else "as long as each recipe says",
        "Feature": _chosen(about),
        "May differ": ", ".join(about.get("may_differ", [])),
        "Reference": comparison.reference,
        "Device": _distinct(comparison, _device),
        "Versions": _distinct(comparison, _versions),
    }
    return [(term, text) for term, text in facts.items() if text]


def _chosen(about: Mapping[str, Any]) -> str:
    """How the features came about."""
    if not about.get("scan"):
        return "as each recipe says"
    taus = about.get("scan_taus")
    together = ", or all together" if about.get("scan_together") else ""
    where = f", of a flow at tau {' or '.join(f'{tau:g}' for tau in taus)}{together}" if taus else ""
    return f"chosen for every method by a scan on validation images{where}"


def _joined(*parts: Any) -> str:
    return " · ".join(str(part) for part in parts if part)


def _distinct(comparison: Comparison, tell: Callable[[Mapping[str, Any]], str]) -> str:
    """What is true of all cells or, where they differ, all that is true of some."""
    return "; ".join(dict.fromkeys(text for cell in comparison.cells if (text := tell(cell.facts))))


def _device(facts: Mapping[str, Any]) -> str:
    """What a cell was trained on, and the machine that judged it."""
    python = f"Python {facts['python']}" if "python" in facts else None
    cores = f"{facts['cpu_count']} CPU cores" if facts.get("cpu_count") else None
    training = (lookup(facts, "training", key) for key in ("device", "precision"))
    return _joined(*training, facts.get("cpu") or facts.get("machine"), cores, python)


def _versions(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in (facts.get("versions") or {}).items())


def _features(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Method, its kind, and the feature that each seed was read at."""
    lines = []
    for label in comparison.labels:
        cells = comparison.of(label)
        method = str(cells[0].facts.get("method") or "")
        texts = list(dict.fromkeys(_feature_of(cell) for cell in cells))
        lines.append((label, NAMES.get(method, method), "; ".join(filter(None, texts))))
    return lines


def _feature_of(cell: CellResults) -> str:
    text = feature_text(cell.facts.get("feature"))
    return f"{text}, one of {cell.candidates} features" if text and cell.candidates is not None else text
