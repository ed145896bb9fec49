"""Commands that do a whole job: train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightly_prg.cli.app import JOB, app
from lightly_prg.cli.common import (
    OverwriteOption,
    RootOption,
    TrustOption,
    evaluation_of,
    is_there,
    print_results,
    refuse,
    say_finetuned,
)

if TYPE_CHECKING:
    from lightly_prg.evaluation import Evaluation


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
    overwrite: OverwriteOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the resolved recipe and what it will cost, from a few steps; write nothing."
        ),
    ] = False,
    trust: TrustOption = False,
) -> None:
    """Do the whole job: pretrain, export the encoder, evaluate it beside its controls, write report.html.

    With eval.finetune in the recipe the encoder is fine-tuned as well, into RUN-finetuned.

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
    from lightly_prg.evaluation.by_several_processes import embed_by_all
    from lightly_prg.train import train as run_training
    from lightly_prg.training.processes import is_first_process, part_company

    first = is_first_process()
    console = Console(quiet=not first)
    run = run_training(resolved, out=out, resume=resume, overwrite=overwrite, trust=trust, console=console)
    evaluation = Evaluation(run, console=console, trust=trust)
    embed_by_all(evaluation)
    part_company()
    if not first:
        return
    report = evaluation.all()
    if _finetune_as_asked(evaluation, overwrite=overwrite):
        report = evaluation.report()
    print_results(run.folder)
    console.say(f"Report: {report}")


def _finetune_as_asked(evaluation: Evaluation, *, overwrite: bool) -> bool:
    """Does what a recipe says in ``eval.finetune``; tells whether there is a new result of it."""
    from lightly_prg.classifier import default_target, finetune_run

    run = evaluation.run
    settings = run.recipe.eval.finetune
    if settings is None or run.is_finetuned:
        return False
    target = default_target(run)
    if target.is_taken() and not overwrite:
        evaluation.console.say(f"{target.folder} is there already; `lightly-prg finetune {run.folder} --overwrite`.")
        return False
    _, result = finetune_run(evaluation, settings, overwrite=overwrite)
    say_finetuned(evaluation, result)
    return True


@app.command(rich_help_panel=JOB)
def evaluate(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|timm:NAME|torchvision:NAME|diffusers:FOLDER]",
            help="A run folder, or a network or generator trained elsewhere.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="For example data.name=cifar10 data.root=/data"),
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--from", metavar="SOURCE", help="The same as the first argument, by name.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="default: the library's own; none: random; or a file.")
    ] = "default",
    resize: Annotated[
        int | None,
        typer.Option("--resize", min=1, help="Bring images to this side first, which the network was made for."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Retrieval, clustering and robustness (1,000 images) as well."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder. Default: runs/<name>.")] = None,
    root: RootOption = None,
    overwrite: OverwriteOption = False,
    trust: TrustOption = False,
) -> None:
    """Judge a run, any timm or torchvision checkpoint, or a generator of diffusers, by everything its recipe asks for.

    Examples:
      lightly-prg evaluate runs/quickstart --all

      lightly-prg evaluate timm:resnet18.a1_in1k data.name=cifar10 data.root=/data eval.split=test --resize 64

      lightly-prg evaluate --from diffusers:ddpm-cifar10-32 data.name=cifar10 data.root=/data
    """
    from lightly_prg.recipe import pretrained_recipe

    source, changes = _what_to_evaluate(origin, [part for part in (source, *(overrides or [])) if part is not None])
    if not source.startswith(("timm:", "torchvision:", "diffusers:")):
        refuse(
            bool(changes),
            "A run has its recipe already; KEY=VALUE goes with timm:NAME, torchvision:NAME and diffusers:FOLDER.",
        )
        refuse(
            (weights, resize, out) != ("default", None, None),
            f"{source} is a run, which is judged as it is and where it lies; --weights, --resize and --out go with "
            "timm:NAME, torchvision:NAME and diffusers:FOLDER.",
        )
        evaluation = evaluation_of(Path(source), trust=trust, root=root)
    else:
        refuse(root is not None, "--root goes with a run; of networks and generators it is data.root=FOLDER.")
        generator = source.startswith("diffusers:")
        refuse(
            generator and weights != "default",
            "A generator of diffusers lies in one folder with its weights; --weights goes with timm and torchvision.",
        )
        recipe = pretrained_recipe(source, changes, weights=weights, resize=resize)
        from lightly_prg.console import Console
        from lightly_prg.evaluation import Evaluation
        from lightly_prg.train import train as run_training

        console = Console()
        if not any(change.startswith(("data.name=", "data=")) for change in changes):
            console.say("No data.name is given: what is judged on are the 8 x 8 digits of scikit-learn.")
        evaluation = Evaluation(run_training(recipe, out=out, overwrite=overwrite, console=console), console=console)
    report = evaluation.all(every=every)
    if every:
        from lightly_prg.classifier import robustness
        from lightly_prg.errors import UserError

        try:
            robustness(evaluation, max_images=1000)
        except UserError as error:  # too small for the corruptions, or without labels
            evaluation.console.say(f"Robustness is left out: {error}")
        report = evaluation.report()
    if _finetune_as_asked(evaluation, overwrite=overwrite):
        report = evaluation.report()
    print_results(evaluation.run.folder)
    evaluation.console.say(f"Report: {report}")


_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def _what_to_evaluate(origin: str | None, given: list[str]) -> tuple[str, list[str]]:
    """The source and the overrides: the source is the first argument unless it has been named by --from."""
    named = bool(given) and ("=" not in given[0] or is_there(given[0]))
    refuse(
        origin is None and not named,
        "Say what to evaluate: a run folder, timm:NAME, torchvision:NAME or diffusers:FOLDER.",
    )
    refuse(
        origin is not None and named, f"Both {origin} and {given[0] if given else ''} are to be evaluated; name one."
    )
    source, changes = (origin, given) if origin is not None else (given[0], given[1:])
    refuse(source.endswith(_WEIGHTS) and not is_there(source), f"There is no {source}.")
    refuse(
        source.endswith(_WEIGHTS) and not Path(source).is_dir(),
        f"{source} is a file of weights, which does not say what network they belong to: name it too, as in "
        f"`lightly-prg evaluate --from timm:resnet18 --weights {source}`.",
    )
    return source, changes


def _print_estimate(recipe: Any, *, trust: bool) -> None:
    from lightly_prg.cost import estimate
    from lightly_prg.data import DataInfo, describe_data, resolved_shape
    from lightly_prg.errors import UserError

    missing = None
    try:
        info = describe_data(recipe.data)
    except UserError as error:
        if recipe.data.name != "folder" or Path(recipe.data.root).is_dir():
            raise
        missing = error
        image_size, channels = resolved_shape(recipe.data)
        info = DataInfo(channels, image_size, 0, 0, 0, 0)
    cost = estimate(recipe, info, trust=trust)
    typer.echo(recipe.to_yaml())
    typer.echo(f"images              {info.num_train or '?'} x {info.channels} x {info.image_size} x {info.image_size}")
    typer.echo(f"parameters          {cost.parameters:,} ({_large(cost.parameters)})")
    typer.echo(f"forward             {_large(cost.forward_macs, 'MAC')} an image")
    typer.echo(f"steps               {cost.steps if cost.steps is not None else _large(None)}")
    typer.echo(f"training            {_large(cost.training_macs, 'MAC')} (forward and backward)")
    typer.echo(f"NFE                 {cost.nfe} an embedding, at most {_large(cost.embedding_macs, 'MAC')}")
    typer.echo(f"memory, counted     about {_large(cost.memory_bytes, 'B')} in training, fp32")
    if missing is not None:
        typer.echo(f"time                not measured. {missing}")
    elif cost.steps:
        _print_forecast(recipe, info, cost, trust=trust)


def _print_forecast(recipe: Any, info: Any, cost: Any, *, trust: bool) -> None:
    from lightly_prg.cost.forecast import forecast
    from lightly_prg.errors import MissingImages

    try:
        found = forecast(recipe, info, cost, trust=trust)
    except MissingImages as error:
        typer.echo(f"time                not measured. {error}")
        return
    sizes = " and ".join(map(str, found.batches))
    extended = f", in a straight line to {found.batch_size}" if len(found.batches) > 1 else ""
    where = f"{found.device}, precision {found.precision}, {sizes} images a batch{extended}"
    memory = "of the GPU" if found.device == "cuda" else "by the whole process"
    typer.echo(f"time                {_duration(found.seconds_per_epoch)} an epoch, {_duration(found.seconds)} in all")
    typer.echo(f"memory, measured    {_large(found.peak_bytes, 'B')} {memory}")
    typer.echo(f"                    time and memory from a few steps on this machine: {where}")
    if found.processes > 1:
        typer.echo(f"                    of one of {found.processes} devices, without what they tell each other")
    if found.compiled:
        typer.echo("                    without compiling, which makes it faster after the first minutes")


def _large(value: float | None, unit: str = "") -> str:
    if value is None:
        return "not known before the data are read"
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {letter}{unit}"
    return f"{value:.0f} {unit}"


def _duration(seconds: float) -> str:
    """Two digits and the unit that suits them."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
