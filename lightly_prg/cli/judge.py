"""Commands that judge the embeddings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightly_prg.cli.app import RUN, app
from lightly_prg.cli.common import (
    DeviceOption,
    EncoderOption,
    JudgedSplitOption,
    OverwriteOption,
    RootOption,
    RunArgument,
    SplitOption,
    TrustOption,
    encoder_name,
    evaluation_of,
    refuse,
    say_finetuned,
)


@app.command(rich_help_panel=RUN)
def embed(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file. Default: RUN/embeddings-SPLIT.npz; of a control with its name."),
    ] = None,
    split: SplitOption = None,
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Write the embeddings of a split with file names and labels: .npz, or .parquet where pyarrow is installed."""
    from lightly_prg.export import write_embeddings

    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    split = split or evaluation.run.recipe.eval.split
    name = split if encoder == "run" else f"{encoder}-{split}"
    path = out or run / f"embeddings-{name}.npz"
    embeddings = evaluation.embeddings(encoder_name(encoder), split)
    write_embeddings(path, embeddings, evaluation.images(split).class_names)
    rows, columns = embeddings.features.shape
    evaluation.console.say(f"{path}: {rows} embeddings of {columns} numbers, {embeddings.nfe} NFE an image")


@app.command(rich_help_panel=RUN)
def knn(
    run: RunArgument,
    split: JudgedSplitOption = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Neighbours of the headline. Default: the recipe's.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=1e-6, help="Of the vote. Default: the recipe's.")
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            "--transform",
            help="Of the features, fitted on the bank: none, standardise or whiten. Default: the recipe's.",
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="lightly: k 200, T 0.1, as in its benchmarks.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="auto, faiss or torch; the result is the same.")] = "auto",
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Judge the embeddings by weighted k-nearest neighbours on cosine similarity."""
    refuse(preset is not None and (k, temperature) != (None, None), "--preset has its own k and temperature.")
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    result = evaluation.knn(
        encoder_name(encoder),
        split=split,
        k=k,
        temperature=temperature,
        transform=transform,
        preset=preset,
        backend=backend,
    )
    by_k = ", ".join(f"k={k}: {value:.2f}" for k, value in result["by_k"].items())
    evaluation.console.say(
        f"k-NN top-1 {result['top1']:.2f} % on {result['split']} ({result['num_test']} images, bank of "
        f"{result['num_train']}, {result['nfe']} NFE)  {by_k}"
    )


@app.command(rich_help_panel=RUN)
def linear(
    run: RunArgument,
    split: JudgedSplitOption = None,
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
    refuse(draws is not None and labels is None and not augment, "--draws goes with --labels.")
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    # A number that is not whole is refused where it is used.
    count = int(labels) if labels is not None and labels >= 1 and labels.is_integer() else labels
    if augment:
        refuse(labels is not None or draws is not None, "--labels and --draws do not go with --augment.")
        result = evaluation.linear_augmented(encoder_name(encoder), split=split, epochs=epochs)
    else:
        refuse(epochs is not None, "--epochs goes with --augment.")
        result = evaluation.linear(encoder_name(encoder), split=split, labels=count, draws=draws)
    spread = f" ± {result['top1_std']:.2f}" if result.get("top1_std") is not None else ""
    evaluation.console.say(
        f"linear top-1 {result['top1']:.2f}{spread} % on {result['split']} ({result['num_test']} images, "
        f"{result['num_train']} labels, {result['nfe']} NFE)"
    )


@app.command(rich_help_panel=RUN)
def retrieval(
    run: RunArgument,
    split: JudgedSplitOption = None,
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Judge the embeddings by how well images of the same class are found: mean average precision, recall at k."""
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    result = evaluation.retrieval(encoder_name(encoder), split=split)
    recall = ", ".join(f"R@{k} {value:.1f}" for k, value in result["recall_at"].items())
    evaluation.console.say(
        f"mean average precision {result['mean_average_precision']:.2f} % (chance {result['chance']:.1f}), {recall} on "
        f"{result['split']} ({result['num_test']} queries, bank of {result['num_train']}, {result['nfe']} NFE)"
    )
    evaluation.report()


@app.command(rich_help_panel=RUN)
def clustering(
    run: RunArgument,
    split: SplitOption = None,
    encoder: EncoderOption = "run",
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Judge the embeddings without training on labels: k-means, compared with the classes by NMI, ARI and accuracy."""
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    result = evaluation.clustering(encoder_name(encoder), split=split)
    evaluation.console.say(
        f"{result['num_clusters']} clusters: NMI {result['normalised_mutual_information']:.1f} %, ARI "
        f"{result['adjusted_rand_index']:.1f} %, accuracy {result['accuracy']:.1f} % on {result['split']} "
        f"({result['num_test']} images, {result['nfe']} NFE)"
    )
    evaluation.report()


@app.command(rich_help_panel=RUN)
def transfer(
    run: RunArgument,
    overrides: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="The other images: data.name=cifar10 data.root=/data"),
    ],
    split: JudgedSplitOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Judge a run's encoder and its controls on images of another set, by k-NN and linear probe.

    The images are brought to the size and channels that the encoder takes.

    Examples:
      lightly-prg transfer runs/quickstart data.name=fashion_mnist data.root=/data

      lightly-prg transfer runs/cifar10_prg_cpu data.name=folder data.root=my_images --split test
    """
    from lightly_prg.recipe import data_settings

    evaluation = evaluation_of(run, device=device, trust=trust)
    channels, size, _ = evaluation.description["input_shape"]
    data = data_settings(overrides, image_size=size, channels=channels)
    from lightly_prg.evaluation.transfer import transfer as run_transfer

    result = run_transfer(evaluation, data, split=split)
    for name, found in result["encoders"].items():
        evaluation.console.say(
            f"{name.replace('_', ' ')}: k-NN {found['knn']:.2f} %, linear {found['linear']:.2f} % on {data.title}, "
            f"{result['split']} ({result['num_test']} images, {found['embedding_dim']} features, {found['nfe']} NFE)"
        )
    evaluation.report()


@app.command(rich_help_panel=RUN)
def finetune(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Keys of eval.finetune, such as feature.source=state feature.tau=[0.5,1.0] ode.steps=4 lora.rank=4",
        ),
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="head, partial, lora (low-rank updates of all layers) or full.")
    ] = None,
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
    ema_decay: Annotated[
        float | None,
        typer.Option(
            "--ema-decay", min=0.0, help="Average the weights with this decay, 0.999 for example; keep those."
        ),
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", min=0.0, help="Weight of PRG's flow-matching loss that is kept.")
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="The same network from random weights: the supervised control.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Default: RUN-finetuned, or RUN-scratch.")] = None,
    overwrite: OverwriteOption = False,
    split: JudgedSplitOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Train the encoder with a classification head; the result is a run of its own.

    Examples:
      lightly-prg finetune runs/quickstart --labels 10 --epochs 5

      lightly-prg finetune runs/quickstart --scratch

      lightly-prg finetune runs/quickstart --mode lora feature.source=state feature.tau=1.0 ode.steps=4
    """
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.classifier import finetune_run
    from lightly_prg.recipe import finetune_settings

    settings = finetune_settings(
        evaluation.run.recipe,
        overrides or [],
        mode=mode,
        blocks=tuple(block) if block else None,
        preset=preset,
        labels=labels,
        epochs=epochs,
        learning_rates=tuple(lr) if lr else None,
        ema_decay=ema_decay,
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
    say_finetuned(evaluation, result)
    evaluation.console.say(f"Run: {target.folder}")


@app.command(rich_help_panel=RUN)
def robustness(
    run: RunArgument,
    split: SplitOption = None,
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=1, help="Classify at most this many, drawn at random.")
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
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.classifier import robustness as measure

    result, figures = measure(evaluation, encoder_name(encoder), split=split, folder=files, max_images=max_images)
    evaluation.console.say(
        f"mean corruption error {result['mean_corruption_error']:.2f} % (not normalised), clean top-1 "
        f"{result['clean_top1']:.2f} % on {result['split']} ({result['num_corrupted']} images, {result['source']})"
    )
    for figure in figures:
        evaluation.console.say(str(figure))
