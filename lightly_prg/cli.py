"""The command line: parse, call, print. No logic, and no torch before a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="lightly-prg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Pretrained Reversible Generation for Lightly.

Pretrain a flow-matching generator without labels, run its ODE backwards from image towards noise, take embeddings from
that path, and judge them beside raw pixels and a random network.

[bold]Start here:[/bold]  lightly-prg train quickstart
""",
)
recipes_app = typer.Typer(no_args_is_help=True, help="The recipes that come with the package.")
app.add_typer(recipes_app, name="recipes")

_JOB, _RUN, _HELP = "Train", "Look at a run", "Find out"

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/quickstart.")]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="train, validation or test. Default: the recipe's eval.split.")
]
RootOption = Annotated[
    str | None, typer.Option("--root", help="Where the data lie on this machine, if not where the recipe says.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Allow a recipe with `backbone: {name: import}` to run its code.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]
EncoderOption = Annotated[str, typer.Option("--encoder", help="run, or a control: raw_pixels, pca, random_network.")]
SolverOption = Annotated[str, typer.Option("--solver", help="euler, midpoint, heun2, heun3, rk4, dopri5, ...")]


@app.command(rich_help_panel=_JOB)
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
    _print_results(run.folder)
    console.say(f"Report: {report}")


@app.command(rich_help_panel=_RUN)
def embed(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", help="The file. Default: RUN/embeddings-SPLIT.npz")] = None,
    split: SplitOption = None,
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Write the embeddings of a split with file names and labels: .npz, or .parquet where pyarrow is installed."""
    from lightly_prg.export import write_embeddings

    evaluation = _evaluation(run, root=root, device=device, trust=trust)
    split = split or evaluation.run.recipe.eval.split
    path = out or run / f"embeddings-{split}.npz"
    embeddings = evaluation.embeddings(_encoder(encoder), split)
    write_embeddings(path, embeddings, evaluation.images(split).class_names)
    rows, columns = embeddings.features.shape
    evaluation.console.say(f"{path}: {rows} embeddings of {columns} numbers, {embeddings.nfe} NFE an image")


@app.command(rich_help_panel=_RUN)
def knn(
    run: RunArgument,
    split: SplitOption = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Neighbours of the headline. Default: the recipe's.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=1e-6, help="Of the vote. Default: the recipe's.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="lightly: k 200, T 0.1, as in its benchmarks.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="auto, faiss or torch; the result is the same.")] = "auto",
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Judge the embeddings by weighted k-nearest neighbours on cosine similarity."""
    evaluation = _evaluation(run, root=root, device=device, trust=trust)
    result = evaluation.knn(
        _encoder(encoder), split=split, k=k, temperature=temperature, preset=preset, backend=backend
    )
    by_k = ", ".join(f"k={k}: {value:.2f}" for k, value in result["by_k"].items())
    evaluation.console.say(
        f"k-NN top-1 {result['top1']:.2f} % on {result['split']} ({result['num_test']} images, bank of "
        f"{result['num_train']}, {result['nfe']} NFE)  {by_k}"
    )


@app.command(rich_help_panel=_RUN)
def linear(
    run: RunArgument,
    split: SplitOption = None,
    labels: Annotated[
        float | None, typer.Option("--labels", help="10 = ten of each class; 0.01 = one in a hundred. Default: all.")
    ] = None,
    draws: Annotated[int | None, typer.Option("--draws", min=1, help="Draws of few labels to average over.")] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="The classic protocol: SGD on augmented views, the encoder run each time.")
    ] = False,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Of --augment. Default: 20.")] = None,
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Judge the embeddings by logistic regression on frozen features."""
    evaluation = _evaluation(run, root=root, device=device, trust=trust)
    count = int(labels) if labels is not None and labels >= 1 else labels
    if augment:
        _refuse(labels is not None or draws is not None, "--labels and --draws do not go with --augment.")
        result = evaluation.linear_augmented(_encoder(encoder), split=split, epochs=epochs)
    else:
        _refuse(epochs is not None, "--epochs goes with --augment.")
        result = evaluation.linear(_encoder(encoder), split=split, labels=count, draws=draws)
    spread = f" ± {result['top1_std']:.2f}" if result.get("top1_std") is not None else ""
    evaluation.console.say(
        f"linear top-1 {result['top1']:.2f}{spread} % on {result['split']} ({result['num_test']} images, "
        f"{result['num_train']} labels, {result['nfe']} NFE)"
    )


@app.command(rich_help_panel=_RUN)
def finetune(
    run: RunArgument,
    mode: Annotated[str | None, typer.Option("--mode", help="head, partial or full.")] = None,
    block: Annotated[
        list[str] | None, typer.Option("--block", help="A block that --mode partial trains; may be repeated.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="shared (for comparisons), prg (the paper's) or mae.")
    ] = None,
    labels: Annotated[
        float | None, typer.Option("--labels", help="500 = of each class; 0.01 = one in a hundred. Default: all.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Default: the preset's.")] = None,
    lr: Annotated[
        list[float] | None, typer.Option("--lr", help="A learning rate of the grid; may be repeated.")
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", min=0.0, help="Weight of PRG's flow-matching loss that is kept.")
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="The same network from random weights: the supervised control.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The new run. Default: RUN-finetuned.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")] = False,
    split: SplitOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Train the encoder with a classification head; the result is a run of its own.

    Examples:
      lightly-prg finetune runs/quickstart --labels 10 --epochs 5

      lightly-prg finetune runs/quickstart --scratch
    """
    evaluation = _evaluation(run, root=root, device=device, trust=trust)
    from lightly_prg.classifier import finetune_run
    from lightly_prg.recipe import finetune_settings

    settings = finetune_settings(
        evaluation.run.recipe,
        mode=mode,
        blocks=tuple(block) if block else None,
        preset=preset,
        labels=labels,
        epochs=epochs,
        learning_rates=tuple(lr) if lr else None,
        beta=beta,
    )
    target, result = finetune_run(
        evaluation,
        settings,
        encoder="random_network" if scratch else "run",
        split=split,
        out=out,
        overwrite=overwrite,
    )
    evaluation.console.say(
        f"fine-tuned top-1 {result['top1']:.2f} % on {result['split']} ({result['num_test']} images, "
        f"{result['num_train']} labels, learning rate {result['learning_rate']:g} of "
        f"{len(result['per_learning_rate'])}, {result['seconds']:.0f} s)"
    )
    evaluation.console.say(f"Run: {target.folder}")


@app.command(rich_help_panel=_RUN)
def robustness(
    run: RunArgument,
    split: SplitOption = None,
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=1, help="Classify at most this many, drawn by class.")
    ] = None,
    files: Annotated[
        Path | None, typer.Option("--files", help="Official files such as CIFAR-10-C, in place of computed ones.")
    ] = None,
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Accuracy under 15 corruptions at five severities, of the fine-tuned model or of a linear probe."""
    evaluation = _evaluation(run, root=root, device=device, trust=trust)
    from lightly_prg.classifier import robustness as measure

    result, figures = measure(evaluation, _encoder(encoder), split=split, folder=files, max_images=max_images)
    evaluation.console.say(
        f"mean corruption error {result['mean_corruption_error']:.2f} % (not normalised), clean top-1 "
        f"{result['clean_top1']:.2f} % on {result['split']} ({result['num_corrupted']} images, {result['source']})"
    )
    for figure in figures:
        evaluation.console.say(str(figure))


@app.command(rich_help_panel=_JOB)
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
        _refuse(bool(overrides), "A run has its recipe already; KEY=VALUE goes with timm:NAME and torchvision:NAME.")
        evaluation = _evaluation(Path(source), trust=trust)
    else:
        recipe = pretrained_recipe(source, overrides or [], weights=weights, resize=resize)
        from lightly_prg.console import Console
        from lightly_prg.evaluation import Evaluation
        from lightly_prg.train import train as run_training

        console = Console()
        evaluation = Evaluation(run_training(recipe, out=out, overwrite=overwrite, console=console), console=console)
    report = evaluation.all()
    _print_results(evaluation.run.folder)
    evaluation.console.say(f"Report: {report}")


@app.command(rich_help_panel=_RUN)
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
    evaluation = _evaluation(run, device=device, trust=trust)
    evaluation.console.say(str(evaluation.samples(count, steps=steps, solver=solver, seed=seed)))


@app.command(rich_help_panel=_RUN)
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
    evaluation = _evaluation(run, root=root, device=device, trust=trust)
    path, error = evaluation.trajectory(index, split=split, steps=steps, solver=solver)
    evaluation.console.say(f"{path}: round-trip error {error:.2e} (root mean square, images in [0, 1])")


@app.command(rich_help_panel=_RUN)
def report(run: RunArgument) -> None:
    """Render report.html again from what the run folder holds."""
    evaluation = _evaluation(run)
    path = evaluation.report()
    _print_results(run)
    evaluation.console.say(f"Report: {path}")


@recipes_app.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    from rich.console import Console
    from rich.table import Table

    from lightly_prg.recipe import parse_recipe, shipped_recipes

    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for name, text in shipped_recipes().items():
        table.add_row(name, parse_recipe(text, origin=name).description)
    Console().print(table)


@recipes_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A shipped recipe, or a file.")],
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default filled in.")] = False,
) -> None:
    """Print a recipe; redirect it into a file to make your own."""
    from lightly_prg.recipe import load_recipe, shipped_recipes

    recipe = load_recipe(name)
    shipped = shipped_recipes()
    typer.echo(recipe.to_yaml() if resolved or name not in shipped else shipped[name], nl=False)


@app.command(rich_help_panel=_HELP)
def doctor() -> None:
    """Tell what this machine has: versions, devices, faiss, and the precision that auto picks and why."""
    from rich.console import Console
    from rich.table import Table

    from lightly_prg.doctor import examine

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, state in examine():
        table.add_row(name, state)
    Console().print(table)


def _version(asked: bool) -> None:
    if asked:
        from lightly_prg import __version__

        typer.echo(f"lightly-prg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Takes the options that stand before a command; the help text of the whole is the app's."""


def _refuse(wrong: bool, sentence: str) -> None:
    from lightly_prg.errors import UserError

    if wrong:
        raise UserError(sentence)


def _encoder(name: str) -> Any:
    from lightly_prg.errors import UserError
    from lightly_prg.evaluation import ENCODERS

    if name not in ENCODERS:
        raise UserError(f"There is no encoder {name!r}; allowed are {', '.join(ENCODERS)}.")
    return name


def _evaluation(run: Path, **options: Any) -> Any:
    from lightly_prg.console import Console
    from lightly_prg.run import Run

    opened = Run.open(run)  # before torch is imported: a mistyped folder is told at once
    from lightly_prg.evaluation import Evaluation

    return Evaluation(opened, console=Console(), **options)


def _print_results(run: Path) -> None:
    from rich.console import Console

    from lightly_prg.eval import format_table, result_rows

    Console().print(format_table(result_rows(run)))


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


def main() -> None:
    """Entry point: what the user can mend ends in one sentence and exit code 2, never in a traceback."""
    try:
        app()
    except Exception as error:
        code, message = _explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(code)


def _explain(error: Exception) -> tuple[int, str | None]:
    from lightly_prg.errors import UserError

    if isinstance(error, UserError | FloatingPointError):
        return 2, f"Error: {error}"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return 2, f"Error: {error.strerror or error}{where}."
    if type(error).__name__ == "Interrupted":
        number = error.signal_number  # type: ignore[attr-defined]
        saved = "the state is saved" if error.saved else "the last checkpoint is kept"  # type: ignore[attr-defined]
        return 128 + number, f"Interrupted: {saved}; the same command with --resume continues."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 2, "Error: out of memory. A smaller train.batch_size or eval.batch_size needs less."
    return 1, None


if __name__ == "__main__":
    main()
