"""Storing the feature that a scan chose: the run is then read there, and what was measured before is moved aside."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.features.cells import Cell, ode_of
from lightly_prg.files import read_json, write_json
from lightly_prg.plotting.style import dark_twin
from lightly_prg.recipe import Recipe
from lightly_prg.run import Run

# What depends on the feature; samples, round trips and other measurements of the flow do not.
_EVALUATORS = (
    "knn",
    "linear",
    "linear_augmented",
    "retrieval",
    "clustering",
    "transfer",
    "finetune",
    "robustness",
    "classify",
)
_ENCODERS = ("run", "random_network")  # the random network is read where the run is
_FIGURES = ("embedding_map", "robustness")


def check_writable(run: Run, *, noised: bool) -> None:
    """Refuses early what could not be stored.

    Raises:
        UserError: If the run is fine-tuned, or the features of the scan are random.
    """
    if noised:
        raise UserError("A feature at a randomly noised image cannot be stored: scan without --noised, or --write.")
    if (run.folder / "head.json").is_file():
        raise UserError(f"{run.folder} is fine-tuned: its head was trained on the feature that it has.")


def write_choice(evaluation: Evaluation, cell: Cell, *, judged_on: str | None) -> tuple[Evaluation, dict[str, Any]]:
    """Stores a cell as the feature of a run: in recipe.yaml and encoder.json.

    The recipe's hash changes with its feature. Results of the run and of its random network that were measured with
    the former one are moved to ``eval/former/HASH``, the first eight digits of the hash that they name, so that no
    table mixes the two.

    Args:
        evaluation: The run.
        cell: What is stored.
        judged_on: The split that chose it, which cannot judge it any more; None where nothing was judged.

    Returns:
        The evaluation of the run as it is now, and what was stored: ``feature``, ``ode_steps`` (None without a flow),
        ``former_feature``, and the names of the files that were ``moved``.

    Raises:
        UserError: If another process is writing into the run.
    """
    run, encoder = evaluation.run, evaluation.trained
    recipe = run.recipe
    changes: dict[str, Any] = {"feature": cell.feature()}
    if isinstance(encoder, PRGEncoder):
        changes["ode"] = ode_of(recipe.method.ode, cell)  # type: ignore[union-attr]
    stored = {
        "feature": cell.feature().model_dump(mode="json"),
        "ode_steps": changes["ode"].steps if "ode" in changes else None,
        "former_feature": evaluation.description["feature"],
    }
    evaluation, moved = write_feature(evaluation, changes, chosen_on=judged_on)
    return evaluation, {**stored, "moved": moved}


def write_feature(
    evaluation: Evaluation, changes: dict[str, Any], *, chosen_on: str | None = None
) -> tuple[Evaluation, list[str]]:
    """Stores where a run is read; see ``write_choice``.

    Args:
        evaluation: The run.
        changes: ``feature`` and, of a flow, ``ode`` of its method.
        chosen_on: The split that chose the feature, if one did.

    Returns:
        The evaluation of the run as it is now, and the names of the files that were moved aside.

    Raises:
        UserError: If another process is writing into the run.
    """
    run = evaluation.run
    changed = run.recipe.model_copy(update={"method": run.recipe.method.model_copy(update=changes)})
    if changed == run.recipe and run.description.get("chosen_on", {}).get("feature") == chosen_on:
        return evaluation, []
    with run.lock():
        before, recipe = run.description, run.recipe
        moved = [] if changed == recipe else _move_aside(run, before["recipe_sha256"][:8])
        try:
            write_json(run.encoder_file, _described(run, changed, changes, chosen_on))
            run.create(changed)
            now = _evaluation_of(evaluation)
            # What only the encoder knows; its description has to be there first.
            numbers = {"embedding_dim": now.trained.embedding_dim, "nfe": now.trained.nfe}
            write_json(run.encoder_file, {**now.description, **numbers})
        except BaseException:  # a full disk: what was there stays
            for file, target in moved:
                os.replace(target, file)
            with suppress(OSError, UserError):
                write_json(run.encoder_file, before)
                run.create(recipe)
            raise
    return _evaluation_of(evaluation), [file.name for file, _ in moved]


def _described(run: Run, changed: Recipe, changes: dict[str, Any], chosen_on: str | None) -> dict[str, Any]:
    before = {key: value for key, value in run.description.items() if key != "chosen_on"}
    return {
        **before,
        **({} if chosen_on is None else {"chosen_on": {"feature": chosen_on}}),
        "architecture": changed.method.model_dump(mode="json"),
        **{key: value.model_dump(mode="json") for key, value in changes.items()},
        "recipe_sha256": changed.sha256(),
    }


def _evaluation_of(evaluation: Evaluation) -> Evaluation:
    """The same with nothing remembered of the former feature, but the images."""
    return dataclasses.replace(evaluation, run=Run(evaluation.run.folder), data=evaluation.splits)


def _move_aside(run: Run, former: str) -> list[tuple[Path, Path]]:
    """Moves results and figures of the former feature; returns where each was and is."""
    target = run.folder / "eval" / "former" / former
    figures = [run.figures / f"{name}.png" for name in _FIGURES]
    stale = [file for file in sorted((run.folder / "eval").glob("*.json")) if _depends_on_feature(file)]
    stale += [file for figure in figures for file in (figure, dark_twin(figure)) if file.is_file()]
    for file in stale:
        target.mkdir(parents=True, exist_ok=True)
        os.replace(file, target / file.name)
    return [(file, target / file.name) for file in stale]


def _depends_on_feature(file: Path) -> bool:
    try:
        content = read_json(file)
    except UserError:  # damaged: left where the report tells of it
        return False
    # That of a transfer is of the run alone, and names none.
    return content.get("evaluator") in _EVALUATORS and content.get("encoder", "run") in _ENCODERS
