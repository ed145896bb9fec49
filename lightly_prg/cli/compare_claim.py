"""What the command `compare` does with a claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from lightly_prg.cli.common import refuse


def compare_claim(
    named: list[str], changes: list[str], out: Path | None, dry_run: bool, trust: bool, console: Any
) -> None:
    """Tests a claim, or prints what would be done; prints the findings and the verdict."""
    from lightly_prg.claims.recipe import folder_of, folders_of, load_claim

    refuse(len(named) > 1, f"One claim is tested at a time; given were {', '.join(named)}.")
    claim = load_claim(named[0], changes)
    out = out if out is not None else folder_of(named[0])  # one that was begun is continued where it lies
    if dry_run:
        from lightly_prg.claims.studies import check_study

        check_study(claim)
        typer.echo(claim.to_yaml(), nl=False)
        for line in _state(claim, folders_of(claim, out)[1]):
            typer.echo(line)
        return
    from lightly_prg.claims.result import shown_command
    from lightly_prg.claims.runner import run_claim
    from lightly_prg.training.checkpoint import Interrupted

    try:
        content = run_claim(claim, out=out, trust=trust, console=console, command=shown_command(named[0], changes))
    except Interrupted as stop:
        typer.echo("Interrupted: what is finished is kept; the same command continues.", err=True)
        raise typer.Exit(128 + stop.signal_number) from None
    _print(content, folders_of(claim, out)[0], console)


def _state(claim: Any, runs: Path) -> list[str]:
    """What there is of every pretraining."""
    from lightly_prg.run import Run

    lines = []
    for seed in claim.seeds:
        for label in claim.data:
            run = Run(runs / f"{label}-seed{seed}")
            lines.append(f"{run.folder}  {run.state}")
    return lines


def _print(content: dict[str, Any], folder: Path, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from lightly_prg.claims.findings import Finding
    from lightly_prg.claims.text import heading

    table = Table(title=heading(content), box=None, pad_edge=False)
    for column in ("difference", "data", "mean ± half of the 95 % interval", "claimed", "interval"):
        table.add_column(column)
    for row in content["findings"]:
        finding = Finding.from_dict(row)
        table.add_row(escape(finding.name), escape(finding.data), finding.shown(), finding.claimed, row["place"] or "")
    console.say(table)
    console.say(content["sentence"])
    console.say(f"Folder: {folder}")
