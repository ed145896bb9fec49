"""All measurements of a run, one after the other, and what is worth saying of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightly_prg.errors import FlowBrokeDown, UserError
from lightly_prg.evaluation import ROUND_TRIP_SOLVERS, Evaluation
from lightly_prg.full_precision import full_precision
from lightly_prg.measurements.of_run import (
    measure_gaussianity,
    measure_information,
    measure_label_information,
    measure_likelihood,
    measure_loss_by_tau,
    measure_round_trip,
)

MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "loss_by_tau": measure_loss_by_tau,
    "gaussianity": measure_gaussianity,
    "round_trip": measure_round_trip,
    "information": measure_information,
    "label_information": measure_label_information,
}
"""Measurements by name, as ``measure(evaluation, split=None, max_images=None)``; `measure_likelihood` stands beside."""


def measure_all(
    evaluation: Evaluation,
    *,
    split: str | None = None,
    max_images: int | None = None,
    solvers: Sequence[str] = ROUND_TRIP_SOLVERS,
) -> dict[str, float]:
    """Takes every measurement of a run, and says the main number of each.

    The likelihood included, and label information where there are labels. Results and figures are written as by the
    commands.

    Args:
        evaluation: The run and its data.
        split: Which images; default the recipe's.
        max_images: At most so many for every measurement; default: the number that each has of its own.
        solvers: Of the round trips, heun2 among them, the only one that is told; the others take most of the time.

    Returns:
        ``loss`` and ``linear_loss``, ``bits_per_dim``, ``sliced_wasserstein`` with ``sliced_wasserstein_floor``,
        ``kurtosis_rms``, ``spectrum_error``, ``round_trip_rmse`` (heun2 at its highest price), ``missing_bits`` and
        ``decode_rmse`` at noise 0.1 on the code, ``label_bits_data``, ``label_bits_noise`` (the state at both ends)
        and ``label_bits_embedding``; each with ``_error``, its standard error, where it is known. What a flow that
        leaves all bounds has none of is left out.

    Raises:
        UserError: If the run has no flow.
    """
    try:
        likelihood = measure_likelihood(evaluation, split=split, max_images=max_images or 128)
    except FlowBrokeDown:
        likelihood = {"bits_per_dim": None, "standard_error": None}
    labelled = _labelled(evaluation, split)
    own: dict[str, dict[str, Any]] = {"round_trip": {"solvers": solvers}}
    results = {
        name: measured(evaluation, name, split=split, max_images=max_images, **own.get(name, {}))
        for name in MEASUREMENTS
        if name != "label_information" or labelled
    }
    loss, noise, floor = results["loss_by_tau"], results["gaussianity"]["noise"], results["gaussianity"]["floor"]
    channel = results["information"]
    at = channel["sigma"].index(0.1)
    summary = {
        "loss": loss["overall"],
        "loss_error": loss["overall_standard_error"],
        "linear_loss": loss.get("linear_overall"),
        "bits_per_dim": likelihood["bits_per_dim"],
        "bits_per_dim_error": likelihood["standard_error"],
        "sliced_wasserstein": noise["sliced_wasserstein"],
        "sliced_wasserstein_floor": floor["sliced_wasserstein"],
        "kurtosis_rms": noise["kurtosis_rms"],
        "spectrum_error": noise["spectrum_error"],
        "round_trip_rmse": results["round_trip"]["curves"]["heun2"][-1]["rmse"],
        "missing_bits": channel["missing_bits"][at],
        "decode_rmse": math.sqrt(channel["mse"][at]),
    }
    if labelled:
        labels = results["label_information"]
        parts = {"data": labels["state"][0], "noise": labels["state"][-1], "embedding": labels["embedding"]}
        for name, part in parts.items():
            summary[f"label_bits_{name}"] = part["bits"]
            summary[f"label_bits_{name}_error"] = part["standard_error"]
    return {name: float(value) for name, value in summary.items() if value is not None}


def measure_several(
    evaluation: Evaluation,
    names: Sequence[str] | None = None,
    *,
    split: str | None = None,
    max_images: int | None = None,
) -> Iterator[str]:
    """Takes measurements one after the other, by default all of `MEASUREMENTS` that the images allow.

    Yields:
        One sentence on each, when it is done.

    Raises:
        UserError: If a name is unknown, or the run has no flow.
    """
    for name in names or ():
        if name not in MEASUREMENTS:
            raise UserError(f"There is no measurement {name!r}; allowed are {', '.join(MEASUREMENTS)}.")
    for name in dict.fromkeys(names or MEASUREMENTS):
        if not names and name == "label_information" and not _labelled(evaluation, split):
            yield "The images have no labels: label information is left out."
        else:
            yield sentence(name, measured(evaluation, name, split=split, max_images=max_images))


def measured(evaluation: Evaluation, name: str, **options: Any) -> dict[str, Any]:
    """Takes one of `MEASUREMENTS` in full precision, with its progress shown.

    Raises:
        UserError: If the run has no flow.
    """
    _ = evaluation.prg  # a run without a flow is told before anything starts
    with (
        evaluation.console.task(f"measuring {name.replace('_', ' ')}", 1) as update,
        full_precision(evaluation.target),
    ):
        result = MEASUREMENTS[name](evaluation, **options)
        update(1)
    return result


def sentence(name: str, result: dict[str, Any]) -> str:
    """What a result of `MEASUREMENTS` comes to, in one line."""
    if name == "loss_by_tau":
        linear = result.get("linear_overall")
        beside = "" if linear is None else f"; the best linear predictor has {linear:.4f}"
        error = result["overall_standard_error"]
        spread = "" if error is None else f" ± {error:.4f}"
        return f"loss_by_tau: {result['overall']:.4f}{spread}{beside}"
    if name == "gaussianity":
        distances = (result[part]["sliced_wasserstein"] for part in ("noise", "floor", "pixels"))
        return "gaussianity: sliced Wasserstein {:.3f}; true Gaussian samples {:.3f}, raw pixels {:.3f}".format(
            *distances
        )
    if name == "round_trip":
        last = {solver: points[-1] for solver, points in result["curves"].items()}
        shown = (
            f"{solver} {'broke down' if point['rmse'] is None else format(point['rmse'], '.1e')} ({point['nfe']:g} NFE)"
            for solver, point in last.items()
        )
        return "round_trip: RMSE " + ", ".join(shown)
    if name == "information":
        pairs = zip(result["sigma"], result["missing_bits"], strict=True)
        return "information: missing bits per dimension " + ", ".join(
            f"{bits:.2f} at noise {sigma:g}" for sigma, bits in pairs
        )
    states = zip(result["tau"], result["state"], strict=True)
    shown = (f"{one['bits']:.2f} at τ {tau:g}" for tau, one in states)
    return (
        f"label_information: state {', '.join(shown)}, embedding {result['embedding']['bits']:.2f} "
        f"of {result['entropy']:.2f} bits"
    )


def _labelled(evaluation: Evaluation, split: str | None) -> bool:
    return evaluation.images(split or evaluation.run.recipe.eval.split).labelled and evaluation.splits.train.labelled
