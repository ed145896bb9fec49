"""Reading the folder of a comparison: what was measured of every method with every seed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.errors import UserError
from lightly_prg.eval.result_files import lookup, number
from lightly_prg.files import read_json

_SPACE = "\N{NO-BREAK SPACE}"
_SPENT = {"cpu_seconds": ("cpu_seconds", "CPU seconds"), "gpu_seconds": ("wall_seconds", "GPU seconds")}
_BUDGET_TOLERANCE = 0.05
_TOLD = {
    "converged": (False, "the fit of {} was stopped before it converged"),
    "penalty_at_edge": (True, "the penalty of {} that was chosen ends its grid"),
    "learning_rate_at_edge": (True, "the learning rate of {} that was chosen ends its grid"),
}
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Column:
    """One accuracy of the table.

    Attributes:
        key: Its name in files, ``knn``.
        title: Its title for readers.
        detail: What has to be known beside the title.
    """

    key: str
    title: str
    detail: str = ""

    @property
    def full(self) -> str:
        """Title and detail."""
        return f"{self.title} ({self.detail})" if self.detail else self.title


@dataclass(frozen=True)
class CellResults:
    """What was measured of one method with one seed.

    Attributes:
        label: The method's.
        seed: Of everything.
        scores: Top-1 in percent by the key of the column.
        steps: What each changes by with one image more, in points.
        facts: What its encoder is and cost, as ``facts.json`` has it.
        results: The results by evaluator.
        losses: The training curve, ``(share of the training, loss)``; empty where it is not there.
        candidates: Of how many features a scan chose; None where there was none.
    """

    label: str
    seed: int
    scores: Mapping[str, float]
    steps: Mapping[str, float]
    facts: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Any]]
    losses: Curve
    candidates: int | None = None

    def fact(self, *keys: str) -> float | None:
        """A number deep in the facts; None where it is not known."""
        return number(lookup(self.facts, *keys))

    @property
    def images_per_second(self) -> float | None:
        """Embedding speed."""
        values = (number(result.get("images_per_second")) for result in self.results.values())
        return next((value for value in values if value), None)


@dataclass(frozen=True)
class Comparison:
    """The folder of a comparison.

    Attributes:
        about: ``comparison.json``: names, seeds, budget, split.
        columns: The accuracies that were measured, in order.
        cells: By method in the order of the recipe, then by seed.
        notes: What readers should know of missing parts.
        recipe_text: The comparison's recipe; empty where runs were listed.
    """

    about: Mapping[str, Any]
    columns: tuple[Column, ...]
    cells: tuple[CellResults, ...]
    notes: tuple[str, ...]
    recipe_text: str

    @property
    def labels(self) -> list[str]:
        """The methods of which there is something."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def controls(self) -> list[str]:
        """Those of the methods that need no training."""
        return list(dict.fromkeys(entry["label"] for entry in self.about.get("controls", ())))

    @property
    def reference(self) -> str:
        """The method that differences are taken to."""
        wanted = str(self.about.get("reference"))
        return wanted if wanted in self.labels else self.labels[0]

    def of(self, label: str) -> list[CellResults]:
        """The cells of a method by seed."""
        return sorted((cell for cell in self.cells if cell.label == label), key=lambda cell: cell.seed)

    def by_seed(self, label: str, key: str) -> dict[int, float]:
        """The accuracies of a method in a column."""
        return {cell.seed: cell.scores[key] for cell in self.of(label) if key in cell.scores}

    def step(self, key: str) -> float:
        """What an accuracy of a column changes by with one image more, in points."""
        return max((cell.steps[key] for cell in self.cells if key in cell.steps), default=0.0)


def read_comparison(folder: Path) -> Comparison:
    """Reads what ``lightly_prg.comparison`` writes.

    Raises:
        UserError: If there is no comparison, nothing was measured yet, or methods were measured on different numbers of
            images.
    """
    folder = Path(folder)
    about = read_json(folder / "comparison.json")
    columns: dict[str, Column] = {}
    cells = []
    for entry in (*about.get("cells", ()), *about.get("controls", ())):
        files = folder / "results" / str(entry["key"])
        results = {
            name: read_json(files / f"{name}.json")["result"]
            for name in about["evaluators"]
            if (files / f"{name}.json").is_file()
        }
        facts = read_json(files / "facts.json")["result"] if (files / "facts.json").is_file() else {}
        scores, steps = {}, {}
        for column, top1, images in _scores(results):
            columns.setdefault(column.key, column)
            scores[column.key], steps[column.key] = top1, 100.0 / images
        losses = _read_losses(_path(folder, entry["run"]) / "metrics.csv") if "run" in entry else []
        scan = read_json(files / "scan.json")["result"] if (files / "scan.json").is_file() else {}
        cells.append(
            CellResults(entry["label"], int(entry["seed"]), scores, steps, facts, results, losses, scan.get("cells"))
        )
    if not cells:
        raise UserError(f"{folder} holds no results yet.")
    order = {label: index for index, label in enumerate(about["methods"])}  # controls come last
    cells.sort(key=lambda cell: (order.get(cell.label, len(order)), cell.seed))
    _check_counts(cells)
    recipe = folder / "comparison.yaml"
    return Comparison(
        about=about,
        columns=tuple(columns.values()),
        cells=tuple(cells),
        notes=tuple(_notes(about, cells)),
        recipe_text=recipe.read_text("utf-8") if recipe.is_file() else "",
    )


def _path(folder: Path, run: str) -> Path:
    """A run of the comparison itself, or one that lies elsewhere."""
    inside = folder / "runs" / Path(run).name
    return inside if inside.is_dir() else Path(run)


def _scores(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Column, float, int]]:
    """Every accuracy, and the number of times that an image was judged for it."""
    for name, result in results.items():
        if name == "knn":
            yield Column("knn", "k-NN", _SPACE.join(("k", "=", f"{result['k']}"))), result["top1"], result["num_test"]
        elif name == "linear":
            yield Column("linear", "linear"), result["top1"], result["num_test"]
        elif name == "few_shot":
            labels = int(result["labels"])
            column = Column("few_shot", "linear, few labels", f"{labels} per class")
            yield column, result["top1"], result["num_test"] * result["draws"]
        elif name == "finetune":
            yield (
                Column("finetune", "fine-tuned", f"{result['num_train']:,} labels"),
                result["top1"],
                result["num_test"],
            )
        elif name == "robustness":
            of = "fine-tuned" if result.get("of") == "finetuned" else "linear probe"
            images, kinds = result["num_corrupted"], sum(map(len, result["error"].values()))
            column = Column("robustness", "corrupted images", of)
            yield column, round(100.0 - result["mean_corruption_error"], 4), images * kinds
            if (clean := number(result.get("clean_top1"))) is not None:
                # A draw of images has an accuracy of its own, which the corruptions have to be seen beside.
                yield Column("clean", "the same, clean", f"{result['num_test']:,} images"), clean, result["num_test"]
        elif name == "common_dimension":
            detail = f"PCA to {result['dimension']}"
            nearest, probe = result["knn"], result["linear"]
            yield Column("pca_knn", "k-NN", detail), nearest["top1"], nearest["num_test"]
            yield Column("pca_linear", "linear", detail), probe["top1"], probe["num_test"]


def _check_counts(cells: list[CellResults]) -> None:
    """Refuses accuracies on different numbers of images."""
    first: dict[tuple[str, int], CellResults] = {}
    for cell in cells:
        for name in cell.results:
            other = first.setdefault((name, cell.seed), cell)
            counts = [number(each.results[name].get("num_test")) for each in (other, cell)]
            if counts[0] != counts[1]:
                raise UserError(
                    f"{other.label} and {cell.label} cannot be compared: {name} was measured on {counts[0]:g} images "
                    f"for {other.label}, {counts[1]:g} for {cell.label}."
                )


def _notes(about: Mapping[str, Any], cells: list[CellResults]) -> Iterator[str]:
    seeds = about.get("seeds", [])
    for label in about["methods"]:
        own = [cell for cell in cells if cell.label == label]
        if len(own) < len(seeds):
            yield f"{label}: {len(own)} of {len(seeds)} seeds so far."
        for name in dict.fromkeys(name for cell in own for name in cell.results):
            there = [cell.seed for cell in own if name in cell.results]
            if len(there) < len(own):
                yield f"{label}: {name} of {_seeds(there)} alone so far."
    yield from _budget_notes(about, cells)
    common = number(lookup(about, "settings", "common_dimension"))
    for cell in cells:
        length = number(cell.facts.get("embedding_dim"))
        if common is not None and length is not None and length < common:
            yield f"{cell.label}, seed {cell.seed}: no accuracies after PCA to {common:g}: its feature has {length:g}."
    yield from _fit_notes(about, cells)


def _parts(cell: CellResults) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every result by what it is called, the probe after PCA on its own."""
    for name, result in cell.results.items():
        yield name, result
        if name == "common_dimension":
            yield f"linear after PCA to {result['dimension']}", result["linear"]


def _fit_notes(about: Mapping[str, Any], cells: list[CellResults]) -> Iterator[str]:
    """Fits that were stopped, and what was chosen at the end of its grid, beyond which a better choice may lie."""
    for label in about["methods"]:
        own = [cell for cell in cells if cell.label == label]
        for name in dict.fromkeys(name for cell in own for name, _ in _parts(cell)):
            for key, (value, said) in _TOLD.items():
                seeds = [cell.seed for cell in own if dict(_parts(cell)).get(name, {}).get(key) is value]
                if seeds:
                    yield f"{label}, {_seeds(seeds)}: {said.format(name)}."


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _budget_notes(about: Mapping[str, Any], cells: list[CellResults]) -> Iterator[str]:
    """The methods whose training took more or fewer seconds than they had: steps are fixed before it begins."""
    kind = (about.get("budget") or {}).get("kind")
    if kind not in _SPENT:
        return
    key, unit = _SPENT[kind]
    for label, promised in about.get("promised", {}).items():
        spent = [cell.fact("training", key) for cell in cells if cell.label == label]
        known = [value for value in spent if value is not None]
        if promised and known and abs(sum(known) / len(known) / promised - 1) > _BUDGET_TOLERANCE:
            yield f"{label}: its training took {sum(known) / len(known):,.0f} of {promised:,.0f} {unit}."


def _read_losses(metrics: Path) -> Curve:
    """Training losses over the share of the training; a line that cannot be read ends the curve."""
    points: Curve = []
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                points.append((float(row["step"]), float(row["train_loss"])))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        pass
    total = points[-1][0] if points and points[-1][0] > 0 else 1.0
    return [(step / total, loss) for step, loss in points]
