"""Commands that draw what a run learnt."""

from __future__ import annotations

from typing import Annotated

import typer

from lightly_prg.cli.app import RUN, app
from lightly_prg.cli.common import (
    DeviceOption,
    RootOption,
    RunArgument,
    SolverOption,
    SplitOption,
    TrustOption,
    evaluation_of,
    print_results,
    solver_name,
)


@app.command(rich_help_panel=RUN)
def sample(
    run: RunArgument,
    count: Annotated[int, typer.Option("--count", min=1, help="How many images.")] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps from noise to data.")] = 50,
    solver: SolverOption = "heun2",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the noise. Default: the recipe's.")] = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Generate images: integrate from noise to data and draw figures/samples.png."""
    evaluation = evaluation_of(run, device=device, trust=trust)
    evaluation.console.say(str(evaluation.samples(count, steps=steps, solver=solver_name(solver), seed=seed)))


@app.command(rich_help_panel=RUN)
def trajectory(
    run: RunArgument,
    index: Annotated[int, typer.Option("--index", min=0, help="Which image of the split.")] = 0,
    split: SplitOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps each way.")] = 50,
    solver: SolverOption = "heun2",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Carry one image to noise and back; draw figures/trajectory.png and print the round-trip error."""
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    path, error = evaluation.trajectory(index, split=split, steps=steps, solver=solver_name(solver))
    evaluation.console.say(f"{path}: round-trip error {error:.2e} (root mean square, images in [0, 1])")


@app.command(rich_help_panel=RUN)
def report(run: RunArgument) -> None:
    """Render report.html again from what the run folder holds."""
    evaluation = evaluation_of(run)
    path = evaluation.report()
    print_results(run)
    evaluation.console.say(f"Report: {path}")
