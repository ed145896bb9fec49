"""Options that several commands share, and what stands between an option and a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lightly_prg.evaluation import Evaluation

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/quickstart.")]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="train, validation or test. Default: the recipe's eval.split.")
]
JudgedSplitOption = Annotated[
    str | None, typer.Option("--split", help="validation or test. Default: the recipe's eval.split.")
]
RootOption = Annotated[
    str | None, typer.Option("--root", help="Where the data lie on this machine, if not where the recipe says.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Allow a recipe with `backbone: {name: import}` to run its code.")
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the run that is in the folder; it is kept in RUN/.replaced until the new one is finished.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]
EncoderOption = Annotated[str, typer.Option("--encoder", help="run, or a control: raw_pixels, pca, random_network.")]
SolverOption = Annotated[
    str,
    typer.Option(
        "--solver", help="euler, midpoint, heun2, heun3, rk4, dopri5, ab2, ddim; or reversible_midpoint and its like."
    ),
]


def refuse(wrong: bool, sentence: str) -> None:
    """Raises a UserError with the sentence if something is wrong."""
    from lightly_prg.errors import UserError

    if wrong:
        raise UserError(sentence)


def split_sources(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is named, and what of it is changed by ``key=value``; a file may have a name with an equals sign."""
    changes = [source for source in sources if "=" in source and not is_there(source)]
    return [source for source in sources if source not in changes], changes


def is_there(path: str) -> bool:
    """Whether there is such a file or folder; an override may be longer than a name can be."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def encoder_name(name: str) -> Any:
    """The name of an encoder of a run, checked."""
    from lightly_prg.errors import UserError
    from lightly_prg.evaluation import ENCODERS

    if name not in ENCODERS:
        raise UserError(f"There is no encoder {name!r}; allowed are {', '.join(ENCODERS)}.")
    return name


def solver_name(name: str) -> str:
    """The name of a solver, checked."""
    from lightly_prg.flow.solver import ALL_SOLVERS

    refuse(name not in ALL_SOLVERS, f"There is no solver {name!r}; allowed are {', '.join(ALL_SOLVERS)}.")
    return name


def evaluation_of(run: Path, **options: Any) -> Any:
    """The evaluators of a run folder."""
    from lightly_prg.console import Console
    from lightly_prg.run import Run

    opened = Run.open(run)  # before torch is imported: a mistyped folder is told at once
    from lightly_prg.evaluation import Evaluation

    return Evaluation(opened, console=Console(), **options)


def print_results(run: Path) -> None:
    """Prints the table of a run's results."""
    from rich.console import Console

    from lightly_prg.eval import format_table, result_rows

    Console().print(format_table(result_rows(run)))


def say_finetuned(evaluation: Evaluation, result: Mapping[str, Any]) -> None:
    """Prints what a fine-tuning came to."""
    evaluation.console.say(
        f"fine-tuned top-1 {result['top1']:.2f} % on {result['split']} ({result['num_test']} images, "
        f"{result['num_train']} labels, learning rate {result['learning_rate']:g} of "
        f"{len(result['per_learning_rate'])}, {result['trainable_parameters']:,} numbers trained, "
        f"{result['nfe']} NFE, {result['seconds']:.0f} s)"
    )
    if "round_trip_after" in result:
        before, after = (result[f"round_trip_{time}"] for time in ("before", "after"))
        shown = ["out of bounds" if error is None else f"{error:.2e}" for error in (before, after)]
        evaluation.console.say(f"round-trip error of the flow: {shown[0]} before, {shown[1]} after")
