"""Commands that tell what there is: recipes, and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightly_prg.cli.app import HELP, app, recipes_app
from lightly_prg.cli.common import refuse


@recipes_app.command("list")
def list_recipes() -> None:
    """List the shipped recipes, comparisons and claims."""
    from rich.console import Console
    from rich.table import Table

    from lightly_prg.claims.recipe import parse_claim, shipped_claims
    from lightly_prg.recipe import parse_recipe, shipped_recipes
    from lightly_prg.recipe.comparison import parse_comparison, shipped_comparisons

    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for name, text in shipped_recipes().items():
        table.add_row(name, parse_recipe(text, origin=name).description)
    Console().print(table)
    compared = Table("\nfor lightly-prg compare", "\nwhat it compares", box=None, pad_edge=False)
    for name, text in shipped_comparisons().items():
        compared.add_row(name, parse_comparison(text, origin=name).description)
    for name, text in shipped_claims().items():
        compared.add_row(name, f"A claim and its controls: {parse_claim(text, origin=name).title}.")
    Console().print(compared)


@recipes_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A shipped recipe, comparison or claim, or a file of one.")],
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default filled in.")] = False,
) -> None:
    """Print a recipe; redirect it into a file to make your own."""
    from lightly_prg.claims.recipe import is_claim, load_claim, shipped_claims
    from lightly_prg.recipe import load_recipe, nearest, shipped_recipes
    from lightly_prg.recipe.comparison import is_comparison, load_comparison, shipped_comparisons

    shipped = {**shipped_recipes(), **shipped_comparisons(), **shipped_claims()}
    refuse(
        name not in shipped and not Path(name).exists(),
        f"There is no recipe {name!r}: no such file, and none shipped of that name{nearest(name, shipped) or '.'} "
        f"Shipped are {', '.join(shipped)}.",
    )
    load = load_claim if is_claim(name) else load_comparison if is_comparison(name) else load_recipe
    recipe = load(name)
    typer.echo(recipe.to_yaml() if resolved or name not in shipped else shipped[name], nl=False)


@recipes_app.command("keys")
def show_keys(
    prefix: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A key or section, such as train or method.feature.")
    ] = None,
    comparison: Annotated[bool, typer.Option("--comparison", help="Of recipes for `lightly-prg compare`.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/recipes.md has it.")] = False,
) -> None:
    """Tell what may stand in a recipe: every key, what it takes, its default and what it does.

    Examples:
      lightly-prg recipes keys train

      lightly-prg recipes keys method.auxiliary
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lightly_prg.recipe import Recipe
    from lightly_prg.recipe.comparison import ComparisonRecipe
    from lightly_prg.recipe.keys import keys_below, recipe_keys, to_markdown

    sections = recipe_keys(ComparisonRecipe if comparison else Recipe)
    if prefix is not None:
        sections = keys_below(prefix, sections)
    if markdown:
        typer.echo(to_markdown(sections), nl=False)
        return
    for section in sections:
        table = Table("key", "takes", "default", "", box=None, pad_edge=False, title_justify="left")
        table.title = f"[bold]{escape(section.title)}[/]: {escape(section.meaning)}"
        for key in section.keys:
            table.add_row(*(escape(text) for text in (key.name, key.takes, key.default, key.meaning)))
        Console().print(table, "")


@app.command(rich_help_panel=HELP)
def doctor() -> None:
    """Tell what this machine has: versions, devices, faiss, and the precision that auto picks and why."""
    from rich.console import Console
    from rich.table import Table

    from lightly_prg.hardware.doctor import examine

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, state in examine():
        table.add_row(name, state)
    Console().print(table)
