"""Reading the files of a run folder, whatever state they are in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightly_prg.errors import UserError

NAMES = {
    "prg": "PRG",
    "simclr": "SimCLR",
    "mae": "MAE",
    "pretrained": "pretrained",
    "raw_pixels": "raw pixels",
    "pca": "PCA",
    "random_network": "random network",
    "knn": "k-NN",
    "linear_augmented": "linear, augmented",
    "finetune": "fine-tuned",
}
_SPACE = "\N{NO-BREAK SPACE}"
ENCODERS = ("run", "raw_pixels", "pca", "random_network")
_EVALUATORS = ("knn", "linear", "linear_augmented", "finetune")


@dataclass(frozen=True)
class Score:
    """One accuracy of one encoder.

    Attributes:
        top1: Percent of the images whose class was found; the mean where labels were drawn several
            times.
        deviation: Standard deviation over the draws, None for a single one.
        draws: How often labels were drawn.
        num_test: Images it was measured on.
        detail: What has to be known beside the title of its column, such as ``k = 20``.
    """

    top1: float
    deviation: float | None = None
    draws: float | None = None
    num_test: float | None = None
    detail: str = ""

    @property
    def percent(self) -> str:
        """The accuracy with one decimal, ``98.6``."""
        return f"{self.top1:.1f}"

    @property
    def spread(self) -> str:
        """The deviation likewise, with its sign: ``± 0.8``, or nothing."""
        return "" if self.deviation is None else f"± {self.deviation:.1f}"

    @property
    def variance(self) -> float:
        """Squared standard error that the numbers of images and draws leave, as far as known."""
        of_images = self.top1 * (100.0 - self.top1) / self.num_test if self.num_test else 0.0
        of_draws = self.deviation**2 / self.draws if self.deviation and self.draws else 0.0
        return of_images + of_draws


@dataclass(frozen=True)
class EvaluationFile:
    """One file of ``eval/`` that holds an accuracy."""

    file: Path
    evaluator: str
    encoder: str
    split: str
    labels: int | float | None
    score: Score
    data: Mapping[str, Any]

    @property
    def column(self) -> str:
        """Title of the column it belongs to."""
        name = NAMES.get(self.evaluator, self.evaluator)
        if self.labels is None:
            return name
        if isinstance(self.labels, int):
            return f"{name} with {self.labels:,} label{'s' * (self.labels != 1)} per class"
        return f"{name} with {100 * self.labels:g} % of the labels"

    @property
    def order(self) -> tuple[Any, ...]:
        """Where it stands in lists: by evaluator, labels (all, per class, fraction), encoder."""
        labels = self.labels is not None, isinstance(self.labels, float), self.labels or 0
        return *rank(self.evaluator, _EVALUATORS), *labels, *rank(self.encoder, ENCODERS)

    @property
    def conditions(self) -> tuple[Any, ...]:
        """What has to be equal for two accuracies to be comparable."""
        return self.data.get("num_train"), self.data.get("num_test"), self.score.detail

    def preference(self, reference: EvaluationFile | None) -> tuple[Any, ...]:
        """Of several results for one cell of the table the one with the largest value is shown.

        Args:
            reference: What it will be compared with, the run's own result.
        """
        # The plain file name is that of the recipe's own options.
        age = self.file.stem == self.evaluator, self.file.stat().st_mtime_ns
        if reference is None:
            return age
        same_options = self.data.get("options") == reference.data.get("options")
        return self.conditions == reference.conditions, same_options, *age


def read_evaluations(run_dir: Path, notes: list[str]) -> list[EvaluationFile]:
    """Reads all accuracies of a run; what cannot be read leaves a note.

    Raises:
        UserError: If there is no such folder.
    """
    if not Path(run_dir).is_dir():
        raise UserError(f"There is no run folder {run_dir}.")
    files = (file for file in Path(run_dir).glob("eval/*.json") if not file.name.startswith("."))
    found = [_evaluation(file, notes) for file in sorted(files)]
    return sorted((result for result in found if result is not None), key=lambda file: file.order)


def _evaluation(file: Path, notes: list[str]) -> EvaluationFile | None:
    data = read_mapping(file, notes)
    if "top1" not in data:  # another measurement, which is no accuracy
        return None
    top1, evaluator = number(data["top1"]), data.get("evaluator")
    if top1 is None or not 0.0 <= top1 <= 100.0 or not isinstance(evaluator, str):
        notes.append(f"{file.name} holds no accuracy between 0 and 100 and was left out.")
        return None
    if data.get("converged") is False:
        notes.append(f"{file.name}: the fit was stopped before it converged.")
    labels, deviation, draws = (number(data.get(key)) for key in ("labels", "top1_std", "draws"))
    k = number(lookup(data, "options", "k"))
    detail = "" if k is None else _SPACE.join(("k", "=", f"{k:g}"))
    if draws == 1:
        deviation = None
    if deviation is not None:
        detail = f"mean ± std of {draws:g} draws" if draws else "mean ± std"
    return EvaluationFile(
        file=file,
        evaluator=evaluator,
        encoder=str(data.get("encoder", "run")),
        split=str(data.get("split", "unnamed")),
        # 1 is one label per class, 1.0 all labels.
        labels=int(labels) if labels is not None and isinstance(data["labels"], int) else labels,
        score=Score(top1, deviation, draws, number(data.get("num_test")), detail),
        data=data,
    )


def read_mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    """Reads a JSON or YAML mapping; an absent file is empty, an unreadable one too, with a note."""
    parse: Callable[[str], Any] = yaml.safe_load if path.suffix == ".yaml" else json.loads
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        content = None
    if isinstance(content, dict):
        return content
    notes.append(f"{path.name} could not be read and was left out.")
    return {}


def method_name(recipe: Mapping[str, Any], encoder: Mapping[str, Any]) -> str:
    """The method of a run for readers."""
    name = str(lookup(recipe, "method", "name") or encoder.get("method") or "run")
    return NAMES.get(name, name)


def own_split(recipe: Mapping[str, Any]) -> str:
    """The split that a recipe asks to be judged on."""
    return str(lookup(recipe, "eval", "split"))


def choice_remark(encoder: Mapping[str, Any], split: str) -> str:
    """What has to be said of a run's accuracy on images that chose something of it; else nothing.

    Args:
        encoder: The content of encoder.json.
        split: What judged.
    """
    noted = encoder.get("chosen_on")
    chosen = [what for what, by in noted.items() if by == split] if isinstance(noted, Mapping) else []
    if not chosen:
        return ""
    return (
        f"The {' and the '.join(chosen)} of this run was chosen on {split} images, which flatters it on them; "
        "test images judge it fairly."
    )


def feature_text(feature: Any) -> str:
    """Where an embedding is read, ``block middle at τ = 0.3, pooling grid:2``; of an ordinary network ``output``."""
    if not isinstance(feature, Mapping) or not feature:
        return ""
    block, tau, pool = (feature.get(key) for key in ("block", "tau", "pool"))
    source = feature.get("source") or ("output" if block is None else "block")
    taus = ", ".join(map(str, tau)) if isinstance(tau, list) else tau
    text = " ".join(str(part) for part in (source, block) if part is not None)
    text += "" if tau is None else f" at τ = {taus}"
    return text if pool is None else f"{text}, pooling {pool}"


def lookup(section: Any, *keys: str) -> Any:
    """A value deep in nested mappings, None where the way ends."""
    for key in keys:
        section = section.get(key) if isinstance(section, Mapping) else None
    return section


def number(value: Any) -> float | None:
    """A finite number, or None for everything else that JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def rank(name: str, known: Sequence[str]) -> tuple[int, str]:
    """Sorts known names first, in their order, and the others by the alphabet."""
    return (known.index(name) if name in known else len(known)), name
