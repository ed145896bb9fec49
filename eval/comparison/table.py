"""The table of a comparison: its rows, and the same in Markdown, CSV, JSON and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import harmonic_mean
from typing import Any

from lightly_prg.eval.comparison.files import CellResults, Column, Comparison
from lightly_prg.eval.comparison.statistics import Mean, PairedDifference, mean_of, paired_difference
from lightly_prg.eval.result_files import feature_text, number
from lightly_prg.eval.result_table import count

NOTHING = "\N{EN DASH}"
_TOLD_APART = {
    "above": " \N{BLACK UP-POINTING TRIANGLE}",
    "below": " \N{BLACK DOWN-POINTING TRIANGLE}",
}


@dataclass(frozen=True)
class Cost:
    """A column of what a method is and costs.

    Attributes:
        key: Its name in files.
        title: For readers.
        unit: Below the title.
    """

    key: str
    title: str
    unit: str = ""

    @property
    def full(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


COSTS = (
    Cost("nfe", "NFE", "an image"),
    Cost("parameters", "parameters"),
    Cost("embedding_dim", "dimension"),
    Cost("embedding_macs", "multiply-adds", "an image, at most"),
    Cost("steps", "training", "steps"),
    Cost("training_macs", "training", "multiply-adds"),
    Cost("cpu_seconds", "training", "CPU seconds"),
    Cost("wall_seconds", "training", "seconds"),
    Cost("images_per_second", "embedding", "images/s"),
)


@dataclass(frozen=True)
class TableRow:
    """One method.

    Attributes:
        label: Its name.
        scores: Mean and deviation by column.
        differences: To the reference, by column; empty for the reference itself.
        by_seed: ``{column: {seed: top-1}}``.
        costs: Means over the seeds by cost; None where it is not known.
    """

    label: str
    scores: Mapping[str, Mean]
    differences: Mapping[str, PairedDifference]
    by_seed: Mapping[str, Mapping[int, float]]
    costs: Mapping[str, float | None]


def table_rows(comparison: Comparison) -> list[TableRow]:
    """A row for each method, in the order of the recipe."""
    rows = []
    reference = comparison.reference
    for label in comparison.labels:
        by_seed = {column.key: comparison.by_seed(label, column.key) for column in comparison.columns}
        by_seed = {key: values for key, values in by_seed.items() if values}
        differences = {}
        for key, values in by_seed.items() if label != reference else ():
            difference = paired_difference(values, comparison.by_seed(reference, key), step=comparison.step(key))
            if difference is not None:
                differences[key] = difference
        rows.append(
            TableRow(
                label=label,
                scores={key: mean_of(list(values.values())) for key, values in by_seed.items()},
                differences=differences,
                by_seed=by_seed,
                costs={cost.key: _mean_cost(comparison.of(label), cost.key) for cost in COSTS},
            )
        )
    return rows


def _mean_cost(cells: Sequence[CellResults], key: str) -> float | None:
    values = [_cost(cell, key) for cell in cells]
    known = [value for value in values if value is not None]
    if not known:
        return None
    # Of rates, the one at which the images of all seeds pass.
    return harmonic_mean(known) if key == "images_per_second" else mean_of(known).mean


def _cost(cell: CellResults, key: str) -> float | None:
    if key == "images_per_second":
        return cell.images_per_second
    return cell.fact(key) if key in cell.facts else cell.fact("training", key)


def best_of(rows: Sequence[TableRow], key: str) -> str:
    """The best mean of a column as it is shown; empty for a single method."""
    shown = [row.scores[key].mean for row in rows if key in row.scores]
    return f"{max(shown):.1f}" if len(shown) > 1 else ""


def shown_score(mean: Mean | None) -> str:
    """``92.4 ± 0.3``."""
    if mean is None:
        return NOTHING
    return f"{mean.mean:.1f}" + (f" ± {mean.deviation:.1f}" if mean.deviation is not None else "")


def shown_difference(difference: PairedDifference | None, *, marked: bool = True) -> str:
    """``+1.2 ± 0.4 ▲``, with half of the 95 % interval and, if it is to be marked, on which side of zero that lies."""
    if difference is None:
        return NOTHING
    width = difference.half_width
    shown = f"{difference.mean:+.1f}".replace("-", "\N{MINUS SIGN}") + (f" ± {width:.1f}" if width is not None else "")
    return shown + (_TOLD_APART.get(difference.verdict, "") if marked else "")


def shown_cost(value: float | None) -> str:
    """``5,123``; from a million on ``1.2 M``."""
    if value is None:
        return NOTHING
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return count(value)


def known_costs(rows: Sequence[TableRow]) -> list[Cost]:
    """The costs of which something is known."""
    return [cost for cost in COSTS if any(row.costs[cost.key] is not None for row in rows)]


def to_markdown(comparison: Comparison, rows: Sequence[TableRow]) -> str:
    """Accuracies and costs in one table, paired differences in another, then the values of each seed."""
    columns, costs = comparison.columns, known_costs(rows)
    best = {column.key: best_of(rows, column.key) for column in columns}
    accuracies = [
        [
            row.label,
            *(_bold(row, column, best, "**{}**") for column in columns),
            *(shown_cost(row.costs[cost.key]) for cost in costs),
        ]
        for row in rows
    ]
    parts = [
        _caption(comparison),
        _markdown_table(["method", *(column.full for column in columns), *(cost.full for cost in costs)], accuracies),
    ]
    others = [row for row in rows if row.label != comparison.reference]
    if others:
        parts += [
            f"Differences to {_markdown(comparison.reference)} in points, {explained_differences(rows)}",
            _markdown_table(
                ["method", *(column.full for column in columns)],
                [[row.label, *(shown_difference(row.differences.get(c.key)) for c in columns)] for row in others],
            ),
        ]
    seeds = [
        [cell.label, str(cell.seed), *(_percent(cell.scores.get(column.key)) for column in columns)]
        for cell in comparison.cells
    ]
    parts += ["Every seed:", _markdown_table(["method", "seed", *(column.full for column in columns)], seeds)]
    parts += ["\n".join(f"* {_markdown(note)}" for note in (*finetuned_notes(comparison), *comparison.notes))]
    return "\n\n".join(parts) + "\n"


def explained_differences(rows: Sequence[TableRow]) -> str:
    """What stands beside every table of differences, as the end of a sentence."""
    differences = [difference for row in rows for difference in row.differences.values()]
    if all(difference.half_width is None for difference in differences):
        return "seed by seed; of one seed no interval is known."
    above, below = (_TOLD_APART[side].strip() for side in ("above", "below"))
    return (
        f"seed by seed: mean ± half of its 95 % interval (Student's t); {above} and {below} where that does not hold "
        f"zero, as by chance one in twenty of these {len(differences)} would."
    )


def finetuned_notes(comparison: Comparison) -> list[str]:
    """What a fine-tuned model is read at and costs, which its frozen feature in the table does not say."""
    notes = []
    for label in comparison.labels:
        results = [cell.results["finetune"] for cell in comparison.of(label) if "finetune" in cell.results]
        told = dict.fromkeys(
            ", ".join(
                part
                for part in (
                    feature_text(result.get("feature")),
                    f"{count(number(result.get('embedding_dim')))} numbers",
                    f"NFE {count(number(result.get('nfe')))}",
                    f"learning rate {number(result.get('learning_rate')) or 0.0:g}",
                )
                if part
            )
            for result in results
        )
        if told:
            notes.append(f"{label}, fine-tuned: {'; '.join(told)}.")
    return notes


def _caption(comparison: Comparison) -> str:
    about = comparison.about
    seeds = len({cell.seed for cell in comparison.cells})
    spread = f", mean ± standard deviation of {seeds} seeds" if seeds > 1 else ""
    return f"Top-1 accuracy in % on the {about.get('split')} split{spread}."


def _bold(row: TableRow, column: Column, best: Mapping[str, str], bold: str) -> str:
    mean = row.scores.get(column.key)
    text = shown_score(mean)
    return bold.format(text) if mean is not None and f"{mean.mean:.1f}" == best[column.key] else text


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(_markdown, line)) + " |" for line in lines)


def _markdown(text: str) -> str:
    """Text of a cell: a bar would end it, a line break the row."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split("\n"))


def to_csv(comparison: Comparison, rows: Sequence[TableRow]) -> str:
    """A line for each method; numbers unrounded, empty where there is none."""
    seeds = sorted({cell.seed for cell in comparison.cells})
    header = ["method"]
    for column in comparison.columns:
        header += [column.key, f"{column.key}_std", f"{column.key}_difference", f"{column.key}_difference_se"]
        header += [f"{column.key}_seed{seed}" for seed in seeds]
    header += [cost.key for cost in COSTS]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        line: list[Any] = [_harmless(row.label)]
        for column in comparison.columns:
            mean, difference = row.scores.get(column.key), row.differences.get(column.key)
            line += [mean.mean, mean.deviation] if mean is not None else [None, None]
            line += [difference.mean, difference.standard_error] if difference is not None else [None, None]
            line += [row.by_seed.get(column.key, {}).get(seed) for seed in seeds]
        line += [row.costs[cost.key] for cost in COSTS]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in line])
    return buffer.getvalue()


def _harmless(text: str) -> str:
    """A label that a spreadsheet would take for a formula is quoted."""
    return f"'{text}" if text[:1] in "=+-@" else text


def to_json(comparison: Comparison, rows: Sequence[TableRow]) -> str:
    """Everything of the table, with what was asked for."""
    content = {
        "name": comparison.about.get("name"),
        "split": comparison.about.get("split"),
        "reference": comparison.reference,
        "seeds": comparison.about.get("seeds"),
        "budget": comparison.about.get("budget"),
        "costs": comparison.about.get("costs"),
        "columns": [asdict(column) for column in comparison.columns],
        "methods": [
            {
                **asdict(row),
                "differences": {key: {**asdict(d), "verdict": d.verdict} for key, d in row.differences.items()},
                "features": [cell.facts.get("feature") for cell in comparison.of(row.label)],
            }
            for row in rows
        ],
        "notes": list(comparison.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    NOTHING: "--",
    "\N{NO-BREAK SPACE}": "~",
    "\N{BLACK UP-POINTING TRIANGLE}": r"$\blacktriangle$",
    "\N{BLACK DOWN-POINTING TRIANGLE}": r"$\blacktriangledown$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex_text(text: str) -> str:
    """Text in which LaTeX sees no command."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(comparison: Comparison, rows: Sequence[TableRow]) -> str:
    """A ``tabular`` of accuracies and costs, and one of paired differences; they need ``booktabs`` and ``amssymb``."""
    columns, costs = comparison.columns, known_costs(rows)
    best = {column.key: best_of(rows, column.key) for column in columns}

    def score(row: TableRow, column: Column) -> str:
        text = latex_text(shown_score(row.scores.get(column.key)))
        is_best = column.key in row.scores and f"{row.scores[column.key].mean:.1f}" == best[column.key]
        return rf"\textbf{{{text}}}" if is_best else text

    def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
        body = [" & ".join(line) + r" \\" for line in lines]
        head = " & ".join(map(latex_text, header)) + r" \\"
        inner = ["\\toprule", head, "\\midrule", *body, "\\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", *inner, r"\end{tabular}"])

    parts = [
        f"% {' '.join(_caption(comparison).split())} Needs \\usepackage{{booktabs,amssymb}}.",
        table(
            ["method", *(column.full for column in columns), *(cost.full for cost in costs)],
            [
                [
                    latex_text(row.label),
                    *(score(row, column) for column in columns),
                    *(latex_text(shown_cost(row.costs[cost.key])) for cost in costs),
                ]
                for row in rows
            ],
        ),
    ]
    others = [row for row in rows if row.label != comparison.reference]
    if others:
        reference = " ".join(comparison.reference.split())
        parts += [
            f"% Differences to {reference} in points, {explained_differences(rows)}",
            table(
                ["method", *(column.full for column in columns)],
                [
                    [
                        latex_text(row.label),
                        *(latex_text(shown_difference(row.differences.get(c.key))) for c in columns),
                    ]
                    for row in others
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"
