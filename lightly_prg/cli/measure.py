"""Commands that measure a flow beside its embeddings."""

from __future__ import annotations

from pathlib import Path
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
    refuse,
    solver_name,
)


@app.command(rich_help_panel=RUN)
def likelihood(
    run: RunArgument,
    split: SplitOption = None,
    max_images: Annotated[
        int, typer.Option("--max-images", min=1, help="At most this many, drawn by the run's seed.")
    ] = 128,
    steps: Annotated[
        int,
        typer.Option(
            "--steps", min=1, help="Steps from data to noise, short near the data; more until the number stays."
        ),
    ] = 12,
    solver: Annotated[str, typer.Option("--solver", help="euler, midpoint, heun2, heun3, rk4 or dopri5.")] = "rk4",
    probes: Annotated[
        int | None,
        typer.Option(
            "--probes", min=1, help="Random probes of the divergence for each image; more, less noise. Default: 2."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="The exact divergence; costs a backward pass for each number of an image.")
    ] = False,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Measure bits per dimension: how many bits the model needs to write down an image, for each of its numbers.

    Fewer are better; a model that knows nothing needs log2 of the grey levels (8 for ordinary images).

    Examples:
      lightly-prg likelihood runs/quickstart

      lightly-prg likelihood runs/quickstart --exact --max-images 16 --steps 20
    """
    refuse(exact and probes is not None, "--exact draws no probes; leave --probes out.")
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.measurements.of_run import measure_likelihood

    result = measure_likelihood(
        evaluation,
        split=split,
        max_images=max_images,
        steps=steps,
        solver=solver_name(solver),
        probes=probes if probes is not None else 2,
        exact=exact,
    )
    errors = [
        f"{result[key]:.2g} {words}"
        for key, words in (("standard_error", "over images"), ("probe_standard_error", "by the probes"))
        if result[key] is not None
    ]
    spread = f" (standard error {', '.join(errors)})" if errors else ""
    evaluation.console.say(
        f"{result['bits_per_dim']:.3f} bits per dimension{spread} on {result['num_images']} {result['split']} images "
        f"of {result['grey_levels']} grey levels; knowing nothing costs {result['uniform_bits']:.3f}; "
        f"{result['nfe']:g} NFE"
    )
    evaluation.report()


@app.command(rich_help_panel=RUN)
def measure(
    run: RunArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="loss_by_tau, gaussianity, round_trip, information or label_information; may be repeated. "
            "Default: all of them.",
        ),
    ] = None,
    split: SplitOption = None,
    max_images: Annotated[
        int | None,
        typer.Option("--max-images", min=2, help="At most this many for each measurement. Default: its own number."),
    ] = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Measure the flow: loss along the path, Gaussianity of the noise end, round trip by solver, information.

    Each writes eval/NAME.json and figures/NAME.png, and stands in report.html.

    Examples:
      lightly-prg measure runs/quickstart

      lightly-prg measure runs/quickstart --only round_trip --only gaussianity
    """
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.measurements.suite import measure_several

    for line in measure_several(evaluation, only, split=split, max_images=max_images):
        evaluation.console.say(line)
    evaluation.console.say(f"Report: {evaluation.report()}")


@app.command(rich_help_panel=RUN)
def frechet(
    run: RunArgument,
    judge: Annotated[
        Path, typer.Option("--judge", help="The run whose encoder gives the features, such as a fine-tuned one.")
    ],
    count: Annotated[int, typer.Option("--count", min=2, help="Images of each kind; compare equal numbers.")] = 1000,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps from noise to data.")] = 16,
    solver: SolverOption = "heun2",
    split: SplitOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Measure how far samples are from real images, in the features of a classifier of the same images.

    Examples:
      lightly-prg finetune runs/cifar10_simclr_cpu --scratch --out runs/judge

      lightly-prg frechet runs/cifar10_prg_cpu --judge runs/judge
    """
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.measurements.sample_distance import measure_sample_distance

    result = measure_sample_distance(
        evaluation, judge, count=count, steps=steps, solver=solver_name(solver), split=split, trust=trust
    )
    evaluation.console.say(
        f"Fréchet distance {result['distance']:.2f}; real {result['split']} images {result['floor']:.2f} "
        f"({count} images each, {result['dimensions']} features of {result['judge']})"
    )
