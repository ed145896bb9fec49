"""The measurements of a trained run: each writes its result, its figure, and what the report shows of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import FlowBrokeDown, UserError
from lightly_prg.eval import result_to_dict
from lightly_prg.evaluation import ROUND_TRIP_SOLVERS, Evaluation
from lightly_prg.measurements.bits import bits_per_dim
from lightly_prg.measurements.channel import channel_curve
from lightly_prg.measurements.gaussianity import covariance_spectrum, gaussian_floor, gaussian_statistics
from lightly_prg.measurements.label_information import label_information
from lightly_prg.measurements.loss_by_tau import closed_form_losses, loss_by_tau
from lightly_prg.measurements.states import embedded, encoded, in_network_range, states_at
from lightly_prg.plotting import measurements as plots
from lightly_prg.randomness import generator_for

_TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_TRAIN = 2000
_MOST_NUMBERS = 2**26  # of the images of a covariance: half a GiB


def measure_likelihood(
    evaluation: Evaluation,
    *,
    split: str | None = None,
    max_images: int = 128,
    steps: int = 12,
    solver: str = "rk4",
    probes: int = 2,
    exact: bool = False,
) -> dict[str, Any]:
    """Bits per dimension of a split, see `bits_per_dim`; writes eval/likelihood.json and figures/likelihood.png.

    Args:
        evaluation: The run and its data.
        split: Which images; default the recipe's.
        max_images: At most this many, drawn at random by the run's seed.
        steps: Steps of the solve.
        solver: A solver of ``lightly_prg.flow.SOLVERS``.
        probes: Hutchinson's probes for each image.
        exact: The exact divergence in their place: as many times the price as an image has numbers.

    Raises:
        UserError: If the run has no flow, or an option does not fit.
    """
    encoder, split = evaluation.prg, _split(evaluation, split)
    images = evaluation.some_images(split, max_images)
    seed = evaluation.run.recipe.seed
    with evaluation.console.task(f"likelihood of {len(images)} {split} images", 1) as update:
        try:
            result = bits_per_dim(
                encoder,
                images.pixels(),
                grey_levels=images.grey_levels,
                steps=steps,
                solver=solver,
                divergence="exact" if exact else "hutchinson",
                probes=probes,
                batch_size=evaluation.run.recipe.eval.batch_size,
                generator=generator_for(seed, "likelihood", split),
            )
        except UserError:
            raise
        except FloatingPointError as error:
            raise FlowBrokeDown(f"likelihood: {error}") from None
        except ValueError as error:
            raise UserError(f"likelihood: {error}") from None
        update(1)
    values = result.per_image
    content = {
        "bits_per_dim": result.mean,
        "standard_error": result.standard_error,
        "probe_standard_error": result.probe_standard_error,
        "log_likelihood": result.likelihood.mean,
        "uniform_bits": result.uniform,
        "quantiles": values.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)).tolist(),
        "grey_levels": images.grey_levels,
        "dims": result.likelihood.dims,
        "nfe": result.likelihood.nfe,
        "tau_start": encoder.path.tau_min,
    }
    options = {
        "max_images": max_images,
        "steps": steps,
        "solver": solver,
        "probes": None if exact else probes,
        "exact": exact,
    }
    plots.plot_likelihood(values.tolist(), result.uniform, evaluation.run.figures / "likelihood.png")
    own = (max_images, steps, solver, probes, exact) == (128, 12, "rk4", 2, False)
    return _write(evaluation, "likelihood", split, len(images), content, options, own=own)


def measure_loss_by_tau(
    evaluation: Evaluation, *, split: str | None = None, max_images: int | None = None
) -> dict[str, Any]:
    """The flow-matching loss along the path, see `loss_by_tau`; of 512 images if not said otherwise."""
    encoder, split = evaluation.prg, _split(evaluation, split)
    images = evaluation.some_images(split, max_images or 512)
    coupling = str(getattr(evaluation.run.recipe.method, "coupling", "independent"))
    x = in_network_range(evaluation, images)
    result = loss_by_tau(
        encoder.velocity,
        x,
        path=encoder.path,
        coupling=coupling,
        # The coupling pairs noise with the images of a batch: it is that of the training with as many.
        batch_size=_batch_size(evaluation, coupling),
        seed=evaluation.run.recipe.seed,
    )
    content = result_to_dict(result)
    constant, linear = None, None
    if coupling == "independent":  # the closed forms know no other
        train, enough = _of_the_covariance(evaluation)
        spectrum = covariance_spectrum(in_network_range(evaluation, train).cpu().flatten(1))
        constant, linear = closed_form_losses(encoder.path, result.edges, spectrum)
        content["mean_velocity_overall"] = sum(constant) / len(constant)
        linear = linear if enough else None
        if linear is not None:
            content["linear_overall"] = sum(linear) / len(linear)
    content |= {"mean_velocity": constant, "linear": linear, "coupling": coupling}
    figure = evaluation.run.figures / "loss_by_tau.png"
    plots.plot_loss_by_tau(result.edges, result.mean, result.standard_error, figure, constant=constant, linear=linear)
    return _write(
        evaluation, "loss_by_tau", split, len(images), content, {"max_images": max_images}, own=max_images is None
    )


def _batch_size(evaluation: Evaluation, coupling: str) -> int:
    recipe = evaluation.run.recipe
    if coupling == "independent":
        return recipe.eval.batch_size
    auxiliary = getattr(recipe.method, "auxiliary", None)
    # Beside a second loss the flow may see a part of the batch.
    every: int = auxiliary.flow_every if auxiliary is not None and auxiliary.is_active else 1
    return math.ceil(recipe.train.batch_size / every)


def _of_the_covariance(evaluation: Evaluation) -> tuple[ImageSet, bool]:
    """Training images for the covariance that the best linear predictor knows, and whether they are enough for one.

    From fewer images than an image has numbers some directions look as if they never varied, and a linear predictor as
    if it knew them perfectly; eight times as many are taken where there are, twice as many are needed.
    """
    train = evaluation.images("train")
    dims = train.channels * train.image_size**2
    there = min(len(train), max(_MAX_TRAIN, min(8 * dims, _MOST_NUMBERS // dims)))
    enough = there >= 2 * dims
    return evaluation.some_images("train", there if enough else _MAX_TRAIN), enough


def measure_gaussianity(
    evaluation: Evaluation, *, split: str | None = None, max_images: int | None = None
) -> dict[str, Any]:
    """The noise end beside N(0, I), true samples of it, and raw pixels; of 512 images if not said otherwise."""
    _, split = evaluation.prg, _split(evaluation, split)
    images = evaluation.some_images(split, max_images or 512)
    if len(images) < 2:
        raise UserError(f"Gaussianity needs at least 2 images; the {split} split gives {len(images)}.")
    seed = evaluation.run.recipe.seed
    z = encoded(evaluation, images, steps=16, solver="heun2") / evaluation.prg.path.noise_std
    pixels = images.pixels().double().flatten(1)
    # Shifted and scaled as a whole: what a map that learns nothing could do.
    pixels = (pixels - pixels.mean()) / pixels.std().clamp(min=1e-12)
    statistics = {
        "noise": gaussian_statistics(z, generator=generator_for(seed, "directions")),
        "pixels": gaussian_statistics(pixels, generator=generator_for(seed, "directions")),
        "floor": gaussian_floor(len(images), z[0].numel(), generator=generator_for(seed, "gaussian floor")),
    }
    content = {name: result_to_dict(one) for name, one in statistics.items()}
    plots.plot_gaussianity(content, evaluation.run.figures / "gaussianity.png")
    return _write(
        evaluation, "gaussianity", split, len(images), content, {"max_images": max_images}, own=max_images is None
    )


def measure_information(
    evaluation: Evaluation, *, split: str | None = None, max_images: int | None = None
) -> dict[str, Any]:
    """What survives noise on the code, see `channel_curve`; of 64 images if not said otherwise."""
    encoder, split = evaluation.prg, _split(evaluation, split)
    images = evaluation.some_images(split, max_images or 64)
    train, enough = _of_the_covariance(evaluation)
    result = channel_curve(
        encoder,
        images.pixels().float() / 255,
        grey_levels=images.grey_levels,
        batch_size=evaluation.run.recipe.eval.batch_size,
        spectrum=covariance_spectrum(train.pixels().double().flatten(1) / 255) if enough else None,
        generator=generator_for(evaluation.run.recipe.seed, "channel", split),
    )
    content = {**result_to_dict(result), "grey_levels": images.grey_levels}
    plots.plot_channel(content, evaluation.run.figures / "information.png")
    return _write(
        evaluation, "information", split, len(images), content, {"max_images": max_images}, own=max_images is None
    )


def measure_label_information(
    evaluation: Evaluation, *, split: str | None = None, max_images: int | None = None
) -> dict[str, Any]:
    """Bits of the label that a linear probe reads from the state along the path, and from the run's embedding.

    Of 1,000 images if not said otherwise; the probe is fitted on 2,000.

    Raises:
        UserError: If the run has no flow, or the images no labels.
    """
    encoder, split = evaluation.prg, evaluation.unfitted_split(split, "The probe of label information is fitted to")
    images, train = evaluation.some_images(split, max_images or 1000), evaluation.some_images("train", _MAX_TRAIN)
    if not (images.labelled and train.labelled):
        raise UserError(f"The images of {evaluation.run.recipe.data.name} have no labels, which a probe needs.")
    path = encoder.path
    taus = [path.tau_min + share * (path.tau_max - path.tau_min) for share in _TAUS]
    options = {"seed": evaluation.run.recipe.seed, "device": str(evaluation.target)}
    pairs = zip(states_at(evaluation, train, taus), states_at(evaluation, images, taus), strict=True)
    found = [label_information(fitted, judged, **options) for fitted, judged in pairs]  # type: ignore[arg-type]
    own = label_information(embedded(evaluation, train), embedded(evaluation, images), **options)  # type: ignore[arg-type]
    content = {
        "tau": taus,
        "state": [result_to_dict(one) for one in found],
        "embedding": result_to_dict(own),
        "entropy": own.entropy,
    }
    plots.plot_label_information(content, evaluation.run.figures / "label_information.png")
    return _write(
        evaluation, "label_information", split, len(images), content, {"max_images": max_images}, own=max_images is None
    )


def measure_round_trip(
    evaluation: Evaluation,
    *,
    split: str | None = None,
    max_images: int | None = None,
    solvers: Sequence[str] = ROUND_TRIP_SOLVERS,
) -> dict[str, Any]:
    """The round-trip error of several solvers at equal prices; of 32 images if not said otherwise."""
    return evaluation.round_trip(max_images or 32, split=split, solvers=solvers)


def _split(evaluation: Evaluation, split: str | None) -> str:
    return split if split is not None else evaluation.run.recipe.eval.split


def _write(
    evaluation: Evaluation,
    name: str,
    split: str,
    count: int,
    content: dict[str, Any],
    options: dict[str, Any],
    *,
    own: bool,
) -> dict[str, Any]:
    run = evaluation.run
    written = {
        "encoder": "run",
        "split": split,
        "num_images": count,
        **content,
        "options": options,
        "seed": run.recipe.seed,
        "recipe_sha256": evaluation.description["recipe_sha256"],
    }
    run.write_result(name, written, own_options=own and split == run.recipe.eval.split)
    return written
