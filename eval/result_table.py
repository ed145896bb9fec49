"""The results of a run beside its controls: picked, compared, laid out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lightly_prg.eval.result_files import (
    ENCODERS,
    NAMES,
    EvaluationFile,
    Score,
    method_name,
    number,
    own_split,
    rank,
    read_evaluations,
    read_mapping,
)

_NOTHING = "\N{EN DASH}"
_PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class ResultRow:
    """What one encoder reached on one split.

    Attributes:
        encoder: ``run``, ``raw_pixels``, ``pca`` or ``random_network``.
        name: The same for readers; for ``run`` the name of its method.
        split: What the accuracies were measured on.
        scores: Accuracies by title of the column.
        embedding_dim: Length of the embedding.
        nfe: Network evaluations that an embedding costs.
        images_per_second: Embedding speed.
    """

    encoder: str
    name: str
    split: str
    scores: Mapping[str, Score]
    embedding_dim: float | None = None
    nfe: float | None = None
    images_per_second: float | None = None


def result_rows(run_dir: Path) -> list[ResultRow]:
    """Reads the results of a run and its controls: the recipe's own split first, the run first.

    Raises:
        UserError: If there is no such folder.
    """
    notes: list[str] = []
    files = read_evaluations(run_dir, notes)
    recipe = read_mapping(Path(run_dir) / "recipe.yaml", notes)
    encoder = read_mapping(Path(run_dir) / "encoder.json", notes)
    return build_rows(files, method=method_name(recipe, encoder), own_split=own_split(recipe), notes=notes)


_COLUMNS_AT_MOST = 5
"""Scores that fit beside each other into a terminal of 80 characters."""


def format_table(rows: Sequence[ResultRow]) -> Table:
    """Lays rows out for the terminal, the best accuracy of each score and split in bold.

    An encoder is a row; a column where there are more scores than fit beside each other.
    """
    splits = list(dict.fromkeys(row.split for row in rows))
    scores = column_details(rows)
    table = Table(title=Text(f"Top-1 accuracy in %, {listed(splits)} split" if rows else "No results yet"))
    titles = [[row.name, row.split] if len(splits) > 1 else [row.name] for row in rows]
    cells = [_cells(row, scores, [other for other in rows if other.split == row.split]) for row in rows]
    names = [*(f"{score}\n{detail}".strip() for score, detail in scores.items()), "dim", "NFE", "images/s"]
    table.add_column("", no_wrap=len(scores) <= _COLUMNS_AT_MOST)
    if len(scores) <= _COLUMNS_AT_MOST:
        if len(splits) > 1:
            table.add_column("split", no_wrap=True)
        for name in names:
            table.add_column(Text(name), justify="right")
        for title, line in zip(titles, cells, strict=True):
            table.add_row(*map(Text, title), *line)
        return table
    for title in titles:
        table.add_column(Text("\n".join(title)), justify="right")
    for index, name in enumerate(names):
        table.add_row(Text(name.replace("\n", ", ")), *(line[index] for line in cells))
    return table


def _cells(row: ResultRow, scores: Iterable[str], others: Sequence[ResultRow]) -> list[Text]:
    best = best_scores(others)
    cells = []
    for name in scores:
        score = row.scores.get(name)
        style = "bold" if score is not None and score.percent == best[name] else ""
        cells.append(Text(_NOTHING if score is None else f"{score.percent} {score.spread}".strip(), style=style))
    return cells + [Text(count(value)) for value in (row.embedding_dim, row.nfe, row.images_per_second)]


def verdict(rows: Sequence[ResultRow]) -> str:
    """Says where a run is better than its controls, where worse, and where that cannot be told.

    Two accuracies are told apart if they differ by more than twice the standard error of their
    difference.

    Args:
        rows: Rows of one split.
    """
    run = next((row for row in rows if row.encoder == "run"), None)
    if run is None or not run.scores:
        return ""
    controls = [row for row in rows if row is not run and row.scores.keys() & run.scores.keys()]
    start = f"On the {run.split} split {run.name}"
    if not controls:
        reached = (f"{score.percent}{_PERCENT} in {column}" for column, score in run.scores.items())
        return f"{start} reaches {listed(reached)}; nothing to compare it with was evaluated."
    first, *others = controls
    sentences = [f"{start} {_comparison(run, first, numbers=True)}."]
    sentences += [f"It {_comparison(run, other, numbers=False)}." for other in others]
    return " ".join(sentences)


def _comparison(run: ResultRow, control: ResultRow, *, numbers: bool) -> str:
    """``beats raw pixels in ... and falls behind raw pixels in ...``."""
    beats, behind, close = "beats {}", "falls behind {}", "is too close to {} to call"
    verbs: dict[str, list[str]] = {beats: [], behind: [], close: []}
    shared = [column for column in run.scores if column in control.scores]
    for column in shared:
        ours, theirs = run.scores[column], control.scores[column]
        difference = ours.top1 - theirs.top1
        verb = beats if difference > 0 else behind
        if abs(difference) <= 2.0 * math.sqrt(ours.variance + theirs.variance):
            verb = close
        text = f"{column} ({ours.percent}{_PERCENT} against {theirs.percent}{_PERCENT})"
        verbs[verb].append(text if numbers else column)
    name = f"a {control.name}" if control.encoder == "random_network" else control.name
    said = {verb.format(name): columns for verb, columns in verbs.items() if columns}
    if len(said) == 1 and len(shared) == len(run.scores) and not numbers:
        return next(iter(said)) + (" throughout" if len(shared) > 1 else "")
    return listed(f"{text} in {listed(columns)}" for text, columns in said.items())


def build_rows(files: Sequence[EvaluationFile], *, method: str, own_split: str, notes: list[str]) -> list[ResultRow]:
    """Picks a result for each split, encoder and column; what the run was not judged by is out."""
    of_run = [file for file in files if file.encoder == "run"]
    shown = {(file.split, file.column) for file in of_run or files}
    rows = []
    for split in sorted({split for split, _ in shown}, key=lambda s: rank(s, (own_split, "test"))):
        here = [file for file in files if file.split == split and (split, file.column) in shown]
        references: dict[str, EvaluationFile] = {}
        for encoder in sorted({file.encoder for file in here}, key=lambda e: rank(e, ENCODERS)):
            picked: dict[str, EvaluationFile] = {}
            for file in (file for file in here if file.encoder == encoder):
                rivals, reference = (picked.get(file.column, file), file), references.get(file.column)
                picked[file.column] = max(rivals, key=lambda rival: rival.preference(reference))
            for column, file in picked.items():
                if file.conditions != references.setdefault(column, file).conditions:
                    notes.append(f"{file.file.name} is compared with a run measured differently.")
            rows.append(_row(encoder, method if encoder == "run" else encoder, split, picked))
    return rows


def _row(encoder: str, name: str, split: str, picked: Mapping[str, EvaluationFile]) -> ResultRow:
    def first(key: str) -> float | None:
        values = (number(file.data.get(key)) for file in picked.values())
        return next((value for value in values if value is not None), None)

    return ResultRow(
        encoder=encoder,
        name=NAMES.get(name, name),
        split=split,
        scores={column: file.score for column, file in picked.items()},
        embedding_dim=first("embedding_dim"),
        nfe=first("nfe"),
        images_per_second=first("images_per_second"),
    )


def column_details(rows: Sequence[ResultRow]) -> dict[str, str]:
    """Titles of the columns in order, each with the detail that stands below it."""
    details: dict[str, str] = {}
    for row in rows:
        for column, score in row.scores.items():
            details.setdefault(column, score.detail)
    return details


def best_scores(rows: Sequence[ResultRow]) -> dict[str, str]:
    """The best accuracy of each column as it is shown: what looks equal is equally good."""
    best: dict[str, Score] = {}
    for row in rows:
        for column, score in row.scores.items():
            best[column] = max(best.get(column, score), score, key=lambda score: score.top1)
    return {column: score.percent for column, score in best.items()}


def count(value: Any) -> str:
    """``5,123``, ``4.5``, or a dash."""
    numeric = number(value)
    if numeric is None:
        return _NOTHING
    whole = numeric >= 100 or numeric.is_integer()
    return f"{numeric:,.0f}" if whole else f"{numeric:.3g}"


def listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
