"""The pretrained networks of a claim, one for each data set and seed, which other claims share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightly_prg.claims.recipe import ClaimRecipe
from lightly_prg.comparison.cells import Cell, check_run, first_difference, rooted, trained
from lightly_prg.comparison.images import Images
from lightly_prg.console import Console
from lightly_prg.data.named_sets import NAMED_SETS
from lightly_prg.errors import UserError
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run


def run_cells(claim: ClaimRecipe, folder: Path, *, images: Images | None = None) -> list[Cell]:
    """What is to be pretrained, seed after seed.

    Args:
        claim: Its sets and seeds.
        folder: Where the runs lie, ``<set>-seed<n>``.
        images: Gives the images of a recipe, by which a folder that was only moved is known; None to go by its path.

    Raises:
        UserError: If a recipe is wrong, or a folder holds a run of another one.
    """
    existing = None if claim.existing is None else Path(claim.existing)
    if existing is not None and not existing.is_dir():
        raise UserError(f"existing is {str(existing)!r}: there is no such folder.")
    cells = []
    for seed in claim.seeds:
        for label in claim.data:
            key = f"{label}-seed{seed}"
            source = None if existing is None else existing / key
            if source is not None and not Run(source).is_trained:
                source = None
            cell = Cell(label, seed, key, claim.recipe_of(label, seed), folder / key, source=source)
            check_run(cell, scanned=False, images=images)
            _check_snapshots(cell)
            cells.append(cell)
    return cells


def pretrained(cell: Cell, *, trust: bool, console: Console, images: Images | None = None) -> Run:
    """The run of a cell: the one that is there, continued if it was cut off, one that fits, or a new one.

    Args:
        cell: Which.
        trust: Whether the recipe's code may run.
        console: Where progress is shown.
        images: As in ``run_cells``; with them, a run of other images than a folder holds now is none that is there.

    Raises:
        UserError: If the images are not there or others than those of the run that is, or training fails.
        Interrupted: If training was stopped; the next call continues.
    """
    if cell.source is not None and not Run(cell.folder).is_trained:
        reason = _misfit(rooted(Run(cell.source), cell.recipe, images), cell.recipe)
        if reason is not None:
            console.say(f"  {cell.source} is not taken: {reason}")
            cell = replace(cell, source=None)
    return trained(cell, scanned=False, data=None, trust=trust, console=console, images=images)


def _misfit(there: Recipe, here: Recipe) -> str | None:
    """Why a finished run does not serve; None if it does."""
    difference = first_difference(there, here, scanned=False)
    if difference is not None:
        key, given, wanted = difference
        return f"{key} is {given} there, {wanted} here."
    missing = _missing_snapshots(there, here)
    return f"it has no snapshot at {missing[0]:g} of its training." if missing else None


def _missing_snapshots(there: Recipe, here: Recipe) -> list[float]:
    """The shares of the training that are asked for and were not kept."""
    return sorted(set(here.train.snapshots) - set(there.train.snapshots))


def _check_snapshots(cell: Cell) -> None:
    """Refuses a run in the place of the cell that kept other snapshots: no hash of a recipe tells them.

    Raises:
        UserError: With the first that is missing.
    """
    run = Run(cell.folder)
    missing = _missing_snapshots(run.recipe, cell.recipe) if run.recipe_file.is_file() else []
    if missing:
        raise UserError(
            f"{run.folder} has no snapshot at {missing[0]:g} of its training, but train.snapshots among the overrides "
            f"asks for it; it has {', '.join(f'{share:g}' for share in sorted(run.recipe.train.snapshots)) or 'none'}. "
            "Ask for these, or remove that run."
        )


def check_images(label: str, recipe: Recipe) -> None:
    """Refuses a set whose images are not there, before hours are spent on another.

    Raises:
        UserError: With the option that says where they lie.
    """
    named = NAMED_SETS.get(recipe.data.name)
    if named is not None and not named.folder:
        return
    folder = Path(recipe.data.root) if named is None else Path(recipe.data.root) / named.folder
    if not folder.is_dir() and not recipe.data.download:
        raise UserError(
            f"The images of {label} are not there: {folder} is no folder. Say where they lie with "
            f"data.{label}.root=FOLDER, or leave the set out with data.{label}=null."
        )
