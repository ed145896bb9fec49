"""What the weights of a run cost, with those of the runs that it started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.cost import estimate
from lightly_prg.data import DataInfo
from lightly_prg.run import Run

_ADD_UP = ("steps", "images", "wall_seconds", "cpu_seconds")


@dataclass(frozen=True)
class TrainingCost:
    """The price of a run's weights.

    Attributes:
        training: As in encoder.json, with steps, images and seconds of all stages, and their number as ``stages``
            where there are several. None stands for what is not known.
        macs: Multiply-adds of all stages; None where they are not known.
    """

    training: dict[str, Any]
    macs: int | None


def training_cost(run: Run, *, trust: bool) -> TrainingCost:
    """Adds up the stages of a training that started with the weights of another run (``init_from``).

    A fine-tuned run costs its pretraining and its fine-tuning; of the latter multiply-adds are not known.

    Args:
        run: A finished run.
        trust: Whether the code that recipes name may run.

    Raises:
        UserError: If a recipe of a stage is wrong, or its code is not trusted.
    """
    tuned = run.description.get("finetuned")
    if tuned is not None:
        return TrainingCost(_with_finetuning(run, tuned), None)
    stages, whole = _stages(run)
    macs = [estimate(stage.recipe, _info(stage), trust=trust).training_macs for stage in stages]
    training = dict(run.description["training"])
    if len(stages) == 1 and whole:
        return TrainingCost(training, macs[0])
    for key in _ADD_UP:
        training[key] = _sum([_spent(stage, key) for stage in stages]) if whole else None
    if whole:
        training["stages"] = len(stages)
    total = _sum(macs) if whole else None
    return TrainingCost(training, None if total is None else round(total))


def _stages(run: Run) -> tuple[list[Run], bool]:
    """The run and those that it started from, the last first; and whether all of them are still there."""
    stages, folders, last = [run], {run.folder.resolve()}, run
    while last.recipe.init_from is not None:
        start = _found(last)
        if start is None or start.folder.resolve() in folders:  # gone, or overwritten by what started from it
            return stages, False
        folders.add(start.folder.resolve())
        stages.append(start)
        last = start
    return stages, True


def _with_finetuning(run: Run, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Pretraining and fine-tuning of a run, whose encoder.json tells both; the fine-tuning's images are not counted."""
    total = {key: value for key, value in run.description["training"].items() if key != "images"}
    for key, name in (("steps", "steps"), ("wall_seconds", "seconds"), ("cpu_seconds", "cpu_seconds")):
        total[key] = _sum([_spent(run, key), tuned.get(name)])
    return total


def _found(run: Run) -> Run | None:
    """Where a run started from; beside it where both were moved together."""
    given = Path(str(run.recipe.init_from))
    for folder in (given, run.folder.parent / given.name):
        if Run(folder).recipe_file.is_file() and Run(folder).encoder_file.is_file():
            return Run(folder)
    return None


def _info(run: Run) -> DataInfo:
    data = run.description["data"]
    counts = (data[f"num_{part}"] for part in ("train", "validation", "test"))
    return DataInfo(data["channels"], data["image_size"], len(data["class_names"]), *counts)


def _spent(run: Run, key: str) -> float | None:
    training = run.description["training"]
    nothing = 0 if training.get("steps") == 0 else None  # trained elsewhere: nothing of it was spent here
    found: float | None = training.get(key, nothing)
    return found


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None
