"""The command that compares methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lightly_prg.cli.app import JOB, app
from lightly_prg.cli.common import TrustOption, refuse, split_sources
from lightly_prg.cli.compare_claim import compare_claim


@app.command(rich_help_panel=JOB)
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="COMPARISON [KEY=VALUE]... | CLAIM [KEY=VALUE]... | RUN RUN...",
            help="A comparison recipe, by file or by the name of a shipped one (compare_quick), and changes to it; a "
            "claim, likewise (claims/c06); or finished run folders.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder. Default: comparisons/<name>, or comparisons/claims/<id>; of a comparison that was begun, "
            "given by its folder or comparison.yaml, its own.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Of finished runs: validation or test. Default: what all their recipes say."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The method that differences are taken to. Default: the first.")
    ] = None,
    may_differ: Annotated[
        list[str] | None,
        typer.Option("--may-differ", help="augment or train_size: where that is what is compared. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved comparison and what there is already; do nothing.")
    ] = False,
    trust: TrustOption = False,
) -> None:
    """Compare methods on equal terms: train what is missing, judge all alike, write one table and one page.

    A comparison that was cut off is finished by the same command. Methods whose data, split, size or augmentation
    differ are refused.

    Examples:
      lightly-prg compare compare_quick

      lightly-prg compare my_comparison.yaml budget.amount=600 seeds=[0,1,2] --out comparisons/long

      lightly-prg compare runs/a runs/b --split test

      lightly-prg compare claims/c06 data.fashion_mnist.root=data data.cifar10=null
    """
    from lightly_prg.claims.recipe import is_claim

    named, changes = split_sources(sources)
    if any(is_claim(source) for source in named):
        options = {"--split": split, "--reference": reference, "--may-differ": may_differ}
        given = [name for name, value in options.items() if value]
        refuse(bool(given), f"{given[0] if given else ''} goes with a comparison; a claim has its own study.")
        compare_claim(named, changes, out, dry_run, trust, _console())
        return
    console, page = _console(), None
    if len(named) > 1 or any((Path(source) / "recipe.yaml").is_file() for source in named):
        refuse(dry_run, "--dry-run goes with a comparison recipe.")
        refuse(bool(changes), "Finished runs have their recipes already; KEY=VALUE goes with a comparison recipe.")
        page = _compare_runs(named, split, reference, may_differ or [], out, trust, console)
    else:
        refuse(not named, "Say what to compare: a comparison recipe, a claim, or run folders.")
        page = _compare_recipe(named[0], changes, split, reference, may_differ or [], out, dry_run, trust, console)
    if page is not None:
        _print(page, console)


def _console() -> Any:
    from lightly_prg.console import Console

    return Console()


def _compare_runs(
    sources: list[str],
    split: str | None,
    reference: str | None,
    may_differ: list[str],
    out: Path | None,
    trust: bool,
    console: Any,
) -> Path:
    refuse(split not in (None, "validation", "test"), f"The split is {split!r}; allowed are validation and test.")
    wrong = [name for name in may_differ if name not in ("augment", "train_size")]
    refuse(bool(wrong), f"--may-differ is {wrong[0] if wrong else ''!r}; allowed are augment and train_size.")
    from lightly_prg.run import Run

    for source in sources:
        Run.open(source)  # before torch is imported: a mistyped folder is told at once
    from lightly_prg.comparison import compare_runs

    return compare_runs(
        sources,
        split=split,  # type: ignore[arg-type]
        reference=reference,
        may_differ=may_differ,
        out=out,
        trust=trust,
        console=console,
    )


def _compare_recipe(
    source: str,
    changes: list[str],
    split: str | None,
    reference: str | None,
    may_differ: list[str],
    out: Path | None,
    dry_run: bool,
    trust: bool,
    console: Any,
) -> Path | None:
    from lightly_prg.recipe.comparison import folder_of, load_comparison

    changes = [
        *changes,
        *([f"split={split}"] if split is not None else []),
        *([f"reference={reference}"] if reference is not None else []),
        *([f"may_differ=[{', '.join(may_differ)}]"] if may_differ else []),
    ]
    recipe = load_comparison(source, changes)
    out = out if out is not None else folder_of(source)  # one that was begun is continued where it lies
    if dry_run:
        from lightly_prg.comparison.comparable import check_comparable

        recipes = {method.label: recipe.recipe_of(method, recipe.seeds[0]) for method in recipe.methods}
        check_comparable(recipes, may_differ=recipe.may_differ)
        typer.echo(recipe.to_yaml(), nl=False)
        for line in _state(recipe, Path(out or recipe.out or Path("comparisons") / recipe.name)):
            typer.echo(line)
        return None
    from lightly_prg.comparison import compare as run_comparison
    from lightly_prg.training.checkpoint import Interrupted

    try:
        return run_comparison(recipe, out=out, trust=trust, console=console)
    except Interrupted as stop:
        typer.echo("Interrupted: what is finished is kept; the same command continues.", err=True)
        raise typer.Exit(128 + stop.signal_number) from None


def _state(recipe: Any, folder: Path) -> list[str]:
    """What there is of every cell."""
    from lightly_prg.run import Run

    lines = []
    for seed in recipe.seeds:
        for method in recipe.methods:
            run = Run(folder / "runs" / f"{method.slug}-seed{seed}")
            lines.append(f"{run.folder}  {run.state}")
    return lines


def _print(page: Path, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from lightly_prg.eval.comparison.files import read_comparison
    from lightly_prg.eval.comparison.table import explained_differences, shown_difference, shown_score, table_rows

    comparison = read_comparison(page.parent)
    table = Table("", title=f"Top-1 accuracy in %, {comparison.about['split']} split", box=None, pad_edge=False)
    for column in comparison.columns:
        table.add_column(escape(f"{column.title}\n{column.detail}".strip()), justify="right")
    rows = table_rows(comparison)
    for row in rows:
        cells = []
        for column in comparison.columns:
            text = shown_score(row.scores.get(column.key))
            difference = row.differences.get(column.key)
            cells.append(text if difference is None else f"{text}\n({shown_difference(difference)})")
        table.add_row(*map(escape, (row.label, *cells)))
    console.say(table)
    console.say(f"In brackets: difference to {comparison.reference}, {explained_differences(rows)}")
    console.say(f"Page: {page}")
