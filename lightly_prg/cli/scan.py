"""The command that chooses the feature of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lightly_prg.cli.app import RUN, app
from lightly_prg.cli.common import DeviceOption, RootOption, RunArgument, TrustOption, evaluation_of


@app.command(rich_help_panel=RUN)
def scan(
    run: RunArgument,
    block: Annotated[
        list[str] | None, typer.Option("--block", help="A block to read; may be repeated. Default: all of them.")
    ] = None,
    tau: Annotated[
        list[float] | None,
        typer.Option(
            "--tau",
            min=0.0,
            max=1.0,
            help="A position on the path, 0 = image, 1 = noise; may be repeated. Default: seven from 0 to 1.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="state, velocity, denoised or block; block or output where there is no flow. May be repeated. "
            "Default: all, or block where blocks are named.",
        ),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            "--pool", help="How activations are pooled: mean, grid:N, flatten. May be repeated. Default: the recipe's."
        ),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            "--criterion",
            help="What ranks: linear, knn, both (their mean), or without labels rankme, alpha_req. Default: linear if "
            "labels are known, else rankme.",
        ),
    ] = None,
    max_images: Annotated[
        int, typer.Option("--max-images", min=1, help="At most so many training and so many validation images.")
    ] = 2000,
    finalists: Annotated[
        int, typer.Option("--finalists", min=0, help="So many of the best are judged again on more images.")
    ] = 0,
    final_images: Annotated[
        int, typer.Option("--final-images", min=1, help="At most so many of each kind for the finalists.")
    ] = 10_000,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="Solver steps to the last tau. Default: the fewest even ones that meet every tau."
        ),
    ] = None,
    noised: Annotated[
        bool,
        typer.Option(
            "--noised", help="Read at randomly noised images in place of the states of the ODE, as DDAE does."
        ),
    ] = False,
    together: Annotated[
        bool,
        typer.Option(
            "--together/--alone",
            help="Whether all positions together are a feature as well, which is as many times as long.",
        ),
    ] = True,
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Make the best the run's feature; results of the former one move to RUN/eval/former."
        ),
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the table.")] = 10,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Find where to read the embedding: every block at every tau, ranked on validation images.

    One pass over the path serves all. RankMe and alpha-ReQ rank where no labels are known, and the scan tells how well
    they agree with the accuracies where labels are. The test images are never seen.

    Examples:
      lightly-prg scan runs/quickstart

      lightly-prg scan runs/quickstart --block middle --block up.0 --pool mean --pool grid:2 --write
    """
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.scan import scan as run_scan

    result = run_scan(
        evaluation,
        blocks=tuple(block or ()),
        taus=tuple(tau) if tau else None,
        sources=tuple(source or ()),
        pools=tuple(pool or ()),
        criterion=criterion,
        max_images=max_images,
        finalists=finalists,
        final_images=final_images,
        steps=steps,
        noised=noised,
        together=together,
        write=write,
    )
    _print(evaluation, result, top)


def _table(cells: Sequence[Any]) -> Any:
    from rich.table import Table

    has_tau = any(cell.tau for cell in cells)
    titles = ["feature", *(["tau"] if has_tau else []), "pool", "D", "NFE"]
    table = Table(*titles, "k-NN", "linear", "RankMe", "alpha-ReQ", box=None, pad_edge=False)
    for column in table.columns[len(titles) - 2 :]:
        column.justify = "right"

    def number(value: float | None, digits: int = 1) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for cell in cells:
        table.add_row(
            cell.name,
            *([cell.position] if has_tau else []),
            cell.pool,
            f"{cell.embedding_dim:,}",
            f"{cell.nfe:g}",
            number(cell.knn),
            number(cell.linear),
            number(cell.rankme),
            number(cell.alpha_req, 2),
        )
    return table


def _print(evaluation: Any, result: Any, top: int) -> None:
    say = evaluation.console.say
    judged = f", {result.num_judged} images of {result.judged_on} judged" if result.judged_on else ", without labels"
    features = "1 feature" if len(result.cells) == 1 else f"{len(result.cells)} features"
    say(
        f"{features} by {result.criterion}: bank of {result.num_train} training images{judged}; "
        f"{result.nfe:g} NFE an image for all of them, {result.seconds_reading:.0f} s to read, "
        f"{result.seconds_judging:.0f} s to judge"
    )
    say(_table(result.cells[:top]))
    if result.finals:
        say(f"The best of them, judged again on at most {result.options['final_images']:,} images of each kind:")
        say(_table(result.finals))
    if result.standard_error is not None:
        error = f"{result.standard_error:.1f} points"
        if len(result.cells) == 1:
            say(f"Standard error of the accuracy {error}.")
        else:
            say(f"Standard error of the best accuracy {error}: closer features are not told apart by so few images.")
    for reason in result.skipped:
        say(f"Left out: {reason}")
    if result.verdict is not None:
        say(result.verdict)
    if result.written is not None:
        _print_written(evaluation, result)
    say(str(evaluation.run.figures / "scan.png"))


def _print_written(evaluation: Any, result: Any) -> None:
    written, chosen = result.written, result.chosen
    steps = "" if written["ode_steps"] is None else f", {written['ode_steps']} solver steps"
    measured = "" if written["linear"] is None else f", k-NN {written['knn']:.1f}, linear {written['linear']:.1f}"
    evaluation.console.say(
        f"Written: {chosen.name} {chosen.position} {chosen.pool}{steps}. Measured anew as it is stored: "
        f"{written['nfe']:g} NFE{measured}; features differ from the scanned by {written['largest_difference']:.1e} "
        "at most, of their largest."
    )
    if written["moved"]:
        evaluation.console.say(
            f"{len(written['moved'])} files of the former feature were moved to {evaluation.run.folder}/eval/former. "
            f"Measure the new one: lightly-prg evaluate {evaluation.run.folder}"
        )
