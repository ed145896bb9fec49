"""The application that every command registers with."""

from __future__ import annotations

from typing import Annotated

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

JOB, RUN, HELP = "Train", "Look at a run", "Find out"


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
