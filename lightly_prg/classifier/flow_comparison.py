"""What fine-tuning did to a flow: its round-trip error and its samples, before and after."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from lightly_prg.diagnostics import round_trip, sample
from lightly_prg.features import PRGEncoder
from lightly_prg.full_precision import full_precision
from lightly_prg.plotting import plot_samples
from lightly_prg.plotting.before_after import plot_before_after
from lightly_prg.randomness import generator_for

STEPS = 32
SOLVER = "heun2"
IMAGES = 32
SAMPLES = 16


def round_trip_error(encoder: PRGEncoder, images: Tensor) -> float | None:
    """The error of carrying images to the noise end and back, by Heun's method in 32 steps each way.

    Args:
        encoder: Its network and path are used, not its feature.
        images: ``(B, C, H, W)`` in [0, 1].

    Returns:
        Root mean square, in units of the [0, 1] image range; None where the flow leaves all bounds.
    """
    try:
        with full_precision(encoder.mean.device):
            error = round_trip(encoder, images, steps=STEPS, solver=SOLVER).rmse
    except FloatingPointError:
        return None
    return error if math.isfinite(error) else None


def samples_of(encoder: PRGEncoder, seed: int) -> Tensor | None:
    """16 images from noise that depends on the seed alone, ``(16, C, H, W)``; None where the flow leaves all bounds."""
    try:
        with full_precision(encoder.mean.device):
            return sample(encoder, SAMPLES, steps=STEPS, solver=SOLVER, generator=generator_for(seed, "samples"))
    except FloatingPointError:
        return None


def compare_samples(before: PRGEncoder, after: PRGEncoder, *, seed: int, figures: Path) -> list[Path]:
    """Draws the samples of a fine-tuned flow, alone and beside those of the original from the same noise.

    Args:
        before: The original.
        after: The fine-tuned one.
        seed: Of the noise.
        figures: The folder for samples.png and samples_before_after.png.

    Returns:
        The figures that could be drawn.
    """
    own = samples_of(after, seed)
    if own is None:
        return []
    drawn = [figures / "samples.png"]
    plot_samples(own, drawn[0])
    original = samples_of(before, seed)
    if original is not None:
        drawn.append(figures / "samples_before_after.png")
        plot_before_after({"before fine-tuning": original, "after": own}, drawn[1])
    return drawn
