"""Is the classifier one of a continuous flow? Models trained at K Euler steps, judged at other steps and solvers (C6).

A network that learnt to be K layers loses accuracy where it is run as another number of layers; one whose features are
those of an ODE does not. Every model is fine-tuned through the ODE once, from the same pretrained network and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightly_prg.claims.findings import Finding, Outcome, Reading, Side
from lightly_prg.claims.finetuning import finetuned, schedule_of
from lightly_prg.claims.recipe_studies import SolverChoice, Solvers
from lightly_prg.claims.study import Cells, Part, Pick, Study
from lightly_prg.classifier.changed_solver import judge_with
from lightly_prg.errors import UserError
from lightly_prg.eval import FineTuned
from lightly_prg.evaluation import Evaluation
from lightly_prg.flow import SOLVERS
from lightly_prg.recipe import Recipe

_TOLERANCE = 1e-4  # of adaptive solvers: far below what moves a prediction


def kinds(options: Solvers, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """A model for each number of steps, and how it is judged.

    Raises:
        UserError: If there is no solver of that name.
    """
    for choice in options.judged:
        if choice.solver not in SOLVERS:
            raise UserError(f"study.judged: there is no solver {choice.solver!r}; allowed are {', '.join(SOLVERS)}.")
    judged = [choice.model_dump(include={"solver", "steps"}) for choice in options.judged]
    return {f"euler-{steps}": {"steps": steps, "judged": judged} for steps in options.train_steps}


def measure(part: Part, cell: Mapping[str, Any], options: Solvers) -> dict[str, Any]:
    """Trains one model and judges it in every way; one that breaks down classifies nothing."""
    trained, model = finetuned(part.evaluation, schedule_of(options), steps=cell["steps"])
    own, *others = _judged(part.evaluation, model, [_ode(choice) for choice in options.judged])
    by_solver = dict(zip((choice.title for choice in options.judged), others, strict=True))
    return {"finetuned": trained, "own": own, "judged": by_solver}


def _ode(choice: SolverChoice) -> dict[str, Any]:
    if choice.steps is None:
        return {"solver": choice.solver, "rtol": _TOLERANCE, "atol": _TOLERANCE}
    return {"solver": choice.solver, "steps": choice.steps}


def _judged(evaluation: Evaluation, model: FineTuned, changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    try:
        return judge_with(evaluation, model, changes, split="test")
    except FloatingPointError:
        if len(changes) == 1:
            broken = {"top1": 0.0, "nfe": None, "ode": dict(changes[0]), "agreement": 0.0, "feature_cosine": None}
            return [*judge_with(evaluation, model, [], split="test"), broken]
    own, *found = [part for change in changes for part in _judged(evaluation, model, [change])]
    return [own, *(part for part in found if "num_test" not in part)]


def outcome(cells: Cells, options: Solvers) -> Outcome:
    """Accuracy as judged less accuracy as trained; how many predictions agree, and how far the features."""
    findings: list[Finding] = []
    readings: list[Reading] = []
    for steps in options.train_steps:
        kind = f"euler-{steps}"
        readings += cells.readings(f"accuracy as trained, {steps} steps", kind, _own)
        for choice in options.judged:
            if choice.title == f"euler {steps}":
                continue  # the model itself
            name = f"{choice.title} less euler {steps} as trained"
            side: Side | None = "within" if choice.decides else None
            findings += cells.differences(name, (kind, _of(choice, "top1")), (kind, _own), side=side)
            beside = f"{choice.title}, trained with {steps} steps"
            readings += cells.readings(f"equal predictions, {beside}", kind, _of(choice, "agreement"))
            readings += cells.readings(f"cosine of features, {beside}", kind, _of(choice, "feature_cosine"), unit="")
    return Outcome(tuple(findings), tuple(readings))


def _own(result: Mapping[str, Any]) -> float | None:
    value: float = result["own"]["top1"]
    return value


def _of(choice: SolverChoice, key: str) -> Pick:
    def pick(result: Mapping[str, Any]) -> float | None:
        value: float | None = result["judged"][choice.title][key]
        return value

    return pick


STUDY = Study(kinds=kinds, measure=measure, outcome=outcome, aside=frozenset({"steps", "train_steps", "judged"}))
