"""Commands that do a whole job: train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightly_prg.cli.app import JOB, app
from lightly_prg.cli.common import TrustOption, evaluation_of, print_results, refuse


@app.command(rich_help_panel=JOB)
def train(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe (lightly-prg recipes list).")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example train.epochs=5 data.root=/data")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was cut off, bit for bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and what it will cost; write nothing.")
    ] = False,
    trust: TrustOption = False,
) -> None:
    """Do the whole job: pretrain, export the encoder, evaluate it beside its controls, write report.html.

    Examples:
      lightly-prg train quickstart

      lightly-prg train fashion_mnist_prg_cpu data.root=/data train.epochs=5 --out runs/try

      lightly-prg train my_recipe.yaml --dry-run
    """
    from lightly_prg.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    if dry_run:
        _print_estimate(resolved, trust=trust)
        return
    # All of it now: what cannot be imported should not be found out after an hour of training.
    from lightly_prg.console import Console
    from lightly_prg.evaluation import Evaluation
    from lightly_prg.hardware import is_first_process
    from lightly_prg.train import train as run_training

    first = is_first_process()
    console = Console(quiet=not first)
    run = run_training(resolved, out=out, resume=resume, overwrite=overwrite, trust=trust, console=console)
    if not first:
        return
    report = Evaluation(run, console=console, trust=trust).all()
    print_results(run.folder)
    console.say(f"Report: {report}")


@app.command(rich_help_panel=JOB)
def evaluate(
    source: Annotated[
        str,
        typer.Argument(metavar="RUN|timm:NAME|torchvision:NAME", help="A run folder, or a network trained elsewhere."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="For example data.name=cifar10 data.root=/data"),
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="default: the library's own; none: random; or a file.")
    ] = "default",
    resize: Annotated[int | None, typer.Option("--resize", min=1, help="Enlarge images to this side first.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<name>.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")] = False,
    trust: TrustOption = False,
) -> None:
    """Judge a run, or any timm or torchvision checkpoint, by everything its recipe asks for.

    Examples:
      lightly-prg evaluate runs/quickstart

      lightly-prg evaluate timm:resnet18.a1_in1k data.name=cifar10 data.root=/data eval.split=test --resize 64
    """
    from lightly_prg.recipe import pretrained_recipe

    if not source.startswith(("timm:", "torchvision:")):
        refuse(bool(overrides), "A run has its recipe already; KEY=VALUE goes with timm:NAME and torchvision:NAME.")
        evaluation = evaluation_of(Path(source), trust=trust)
    else:
        recipe = pretrained_recipe(source, overrides or [], weights=weights, resize=resize)
        from lightly_prg.console import Console
        from lightly_prg.evaluation import Evaluation
        from lightly_prg.train import train as run_training

        console = Console()
        evaluation = Evaluation(run_training(recipe, out=out, overwrite=overwrite, console=console), console=console)
    report = evaluation.all()
    print_results(evaluation.run.folder)
    evaluation.console.say(f"Report: {report}")


def _print_estimate(recipe: Any, *, trust: bool) -> None:
    from lightly_prg.cost import estimate
    from lightly_prg.data import describe_data

    info = describe_data(recipe.data)
    cost = estimate(recipe, info, trust=trust)
    typer.echo(recipe.to_yaml())

    def large(value: float | None, unit: str = "") -> str:
        if value is None:
            return "not known before the data are read"
        for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{value / size:.2f} {letter}{unit}"
        return f"{value:.0f} {unit}"

    typer.echo(f"images              {info.num_train or '?'} x {info.channels} x {info.image_size} x {info.image_size}")
    typer.echo(f"parameters          {cost.parameters:,} ({large(cost.parameters)})")
    typer.echo(f"forward             {large(cost.forward_macs, 'MAC')} an image")
    typer.echo(f"steps               {cost.steps if cost.steps is not None else large(None)}")
    typer.echo(f"training            {large(cost.training_macs, 'MAC')} (forward and backward)")
    typer.echo(f"NFE                 {cost.nfe} an embedding, at most {large(cost.embedding_macs, 'MAC')}")
    typer.echo(f"memory              about {large(cost.memory_bytes, 'B')} in training, fp32")
