"""The command that runs a fine-tuned model with another solver than it was trained with."""

from __future__ import annotations

from typing import Annotated

import typer

from lightly_prg.cli.app import RUN, app
from lightly_prg.cli.common import DeviceOption, JudgedSplitOption, RootOption, RunArgument, TrustOption, evaluation_of


@app.command(rich_help_panel=RUN)
def classify(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ode.KEY=VALUE]...", help="For example ode.steps=16 ode.solver=heun2. Default: the run's own."
        ),
    ] = None,
    split: JudgedSplitOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    trust: TrustOption = False,
) -> None:
    """Classify with a fine-tuned run, at other steps or another solver than it was trained with.

    Examples:
      lightly-prg classify runs/quickstart-finetuned

      lightly-prg classify runs/quickstart-finetuned ode.steps=16 ode.solver=heun2
    """
    evaluation = evaluation_of(run, root=root, device=device, trust=trust)
    from lightly_prg.classifier.changed_solver import classify_with
    from lightly_prg.features.rereading import solver_settings

    result = classify_with(evaluation, solver_settings(overrides or []), split=split)
    own, changed = result["own"], result["changed"]
    evaluation.console.say(
        f"as trained: top-1 {own['top1']:.2f} % on {result['split']} ({result['num_test']} images, {own['nfe']} NFE)"
    )
    if changed is not None:
        evaluation.console.say(
            f"changed:    top-1 {changed['top1']:.2f} % ({changed['nfe']} NFE), {changed['agreement']:.2f} % of the "
            f"predictions the same, cosine of the features {changed['feature_cosine']:.4f}"
        )
