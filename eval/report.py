"""The report of a run: one self-contained page, made from the files of its folder alone.

So it can be written for every method, in the middle of training, and again after an evaluation.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lightly_prg.eval.measurement_rows import measurement_rows
from lightly_prg.eval.page import environment, read_figures
from lightly_prg.eval.result_files import (
    choice_remark,
    feature_text,
    lookup,
    method_name,
    number,
    own_split,
    read_evaluations,
    read_mapping,
)
from lightly_prg.eval.result_table import (
    ResultRow,
    best_scores,
    build_rows,
    column_details,
    count,
    format_table,
    result_rows,
    verdict,
)
from lightly_prg.files import write_text

__all__ = ["ResultRow", "format_table", "result_rows", "verdict", "write_report"]

_TIMES = "\N{MULTIPLICATION SIGN}"


def write_report(run_dir: Path) -> Path:
    """Writes ``report.html`` into a run folder.

    The figures that follow from its tables are drawn on the way: the accuracies, and the training
    curves where they are missing or older than ``metrics.csv``. What a run does not have is left
    out of the page; a file that cannot be read is named on it.

    Args:
        run_dir: A run folder, finished or not.

    Returns:
        The path of the page.

    Raises:
        UserError: If there is no such folder.
    """
    run_dir, notes = Path(run_dir), list[str]()
    files = read_evaluations(run_dir, notes)
    recipe, encoder = (read_mapping(run_dir / name, notes) for name in ("recipe.yaml", "encoder.json"))
    method = method_name(recipe, encoder)
    rows = build_rows(files, method=method, own_split=own_split(recipe), notes=notes)
    splits = list(dict.fromkeys(row.split for row in rows))
    tables = [[row for row in rows if row.split == split] for split in splits]
    _draw_accuracies(run_dir, tables[0] if tables else [])
    _draw_curves(run_dir, notes)

    page = (
        environment()
        .get_template("report.html")
        .render(
            name=str(encoder.get("name") or recipe.get("name") or run_dir.resolve().name),
            description=str(recipe.get("description") or ""),
            method=method,
            data=str(lookup(recipe, "data", "name") or lookup(encoder, "data", "name") or ""),
            date=_date(run_dir),
            verdict=verdict(tables[0]) if tables else "",
            tables=[
                (table, column_details(table), best_scores(table), choice_remark(encoder, table[0].split))
                for table in tables
            ],
            files=[(file, _details(file.data)) for file in files],
            figures=read_figures(run_dir, notes),
            feature=feature_text(encoder.get("feature") or lookup(recipe, "method", "feature")),
            measurements=measurement_rows(run_dir, notes),
            facts=_facts(recipe, encoder),
            recipe_text=_text(run_dir / "recipe.yaml"),
            notes=list(dict.fromkeys(notes)),
            count=count,
        )
    )
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def _draw_accuracies(run_dir: Path, rows: Sequence[ResultRow]) -> None:
    # Matplotlib takes long to import; who only prints the table does without it.
    from lightly_prg.plotting import plot_accuracy_bars

    if rows:
        groups = {
            column: {
                row.name: (row.scores[column].top1, row.scores[column].deviation)
                for row in rows
                if column in row.scores
            }
            for column in column_details(rows)
        }
        plot_accuracy_bars(groups, run_dir / "figures" / "accuracy.png")


def _draw_curves(run_dir: Path, notes: list[str]) -> None:
    from lightly_prg.plotting import plot_curves

    metrics, curves = run_dir / "metrics.csv", run_dir / "figures" / "curves.png"
    if not metrics.is_file():
        return
    if curves.is_file() and curves.stat().st_mtime >= metrics.stat().st_mtime:
        return
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            rows = [{key: _parsed(text) for key, text in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        notes.append("metrics.csv could not be read and was left out.")
        return
    if rows:
        plot_curves(rows, curves)


def _parsed(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _facts(recipe: Mapping[str, Any], encoder: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a run was made, as terms and descriptions; what is unknown is left out."""

    def trained(key: str) -> Any:
        return lookup(encoder, "training", key)

    shape, versions = encoder.get("input_shape"), encoder.get("versions")
    ode = encoder.get("ode") or lookup(recipe, "method", "ode")
    facts = {
        "Images": _joined(
            (lookup(recipe, "data", "name"), ""),
            (f" {_TIMES} ".join(map(str, shape)) if isinstance(shape, list) else None, ""),
            (lookup(encoder, "data", "num_train"), "for training"),
        ),
        "Network": _joined(
            (lookup(recipe, "method", "backbone", "name"), ""),
            (encoder.get("parameters"), "parameters"),
        ),
        "Path": _joined(
            (encoder.get("path") or lookup(recipe, "method", "path"), ""),
            (lookup(recipe, "method", "coupling"), "coupling"),
        ),
        "Embedding": _joined((feature_text(encoder.get("feature")), ""), (encoder.get("embedding_dim"), "dimensions")),
        "Solver": _joined(
            (lookup(ode, "solver"), ""),
            (lookup(ode, "steps"), "steps"),
            (encoder.get("nfe"), "network evaluations an image"),
        ),
        "Training": _joined(
            (trained("epochs"), "epochs"),
            (trained("steps"), "steps"),
            (trained("images"), "images"),
        ),
        "Time": _joined(
            (_duration(trained("wall_seconds")), "wall clock"),
            (_duration(trained("cpu_seconds")), "processor"),
            (trained("images_per_second"), "images/s"),
        ),
        "Device": _joined((trained("device"), ""), (trained("precision"), "precision")),
        "Final loss": _joined(
            (_loss(trained("final_train_loss")), "training"),
            (_loss(trained("final_validation_loss")), "validation"),
        ),
        "Seed": _joined((recipe.get("seed"), "")),
        "Versions": ", ".join(f"{key} {value}" for key, value in versions.items())
        if isinstance(versions, Mapping)
        else "",
        "Recipe hash": _joined((encoder.get("recipe_sha256"), "")),
    }
    return [(term, text) for term, text in facts.items() if text]


def _joined(*parts: tuple[Any, str]) -> str:
    """``unet, 612,345 parameters``: values with their units, those that are missing left out."""
    texts = []
    for value, unit in parts:
        text = count(value) if number(value) is not None else value
        if isinstance(text, str) and text:
            texts.append(f"{text} {unit}".strip())
    return " · ".join(texts)


def _loss(value: Any) -> str:
    numeric = number(value)
    return "" if numeric is None else f"{numeric:.4g}"


def _duration(value: Any) -> str:
    """``92.4 s`` or ``5,400.0 s (1 h 30 min)``."""
    seconds = number(value)
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    clock = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{seconds:,.1f} s ({clock})" if seconds >= 120 else f"{seconds:,.1f} s"


def _details(data: Mapping[str, Any]) -> str:
    """What the table does not show of a result, in the file's own words."""
    by_k, options = (data.get(key) for key in ("by_k", "options"))
    values = {f"k = {k}": value for k, value in by_k.items()} if isinstance(by_k, Mapping) else {}
    percents = {**values, "top-5": data.get("top5"), "validation": data.get("validation_top1")}
    texts = [f"{name}: {value:.2f} %" for name, value in percents.items() if number(value) is not None]
    names = ("num_train", "num_test", "draws", "seed", "nfe", "seconds")
    texts += [f"{name} {count(data[name])}" for name in names if number(data.get(name)) is not None]
    if isinstance(options, Mapping):
        texts += [f"{name} {option}" for name, option in options.items() if option is not None]
    return " · ".join(texts)


def _date(run_dir: Path) -> str:
    """The day the encoder was exported, or else of what is there."""
    candidates = (run_dir / "encoder.json", run_dir / "recipe.yaml", run_dir)
    newest = next(path for path in candidates if path.exists())
    return datetime.fromtimestamp(newest.stat().st_mtime).astimezone().date().isoformat()


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""
