"""Reading every cell of a scan beside one trajectory, and beside reading cell by cell.

All blocks, the state, the velocity and the denoised image of a small U-Net at the taus of ``lightly-prg scan``. A
trajectory is one solve of the ODE through the same taus, by the same steps, that reads nothing; the scan may cost a
fifth more. Cell by cell, every feature is embedded by an encoder of its own; one row of the grid is timed and the
seconds are multiplied by the number of rows, as all of them take the same evaluations but for the early exit from the
network. Judging the cells is no part of it: it is the same either way.

    python eval/benchmarks/scanning.py
    python eval/benchmarks/scanning.py --device cuda --images 256 --channels 64

Under two minutes on two cores; after four (``--limit``) no further round is begun.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch

from lightly_prg import OdeSpec, PRGEncoder, UNet, encode
from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.features.cells import Cell, ode_of
from lightly_prg.features.grid import GridEncoder
from lightly_prg.hardware import pick_precision
from lightly_prg.hardware.layout import fast_layout
from lightly_prg.models import redraw_zero_weights
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import FeatureSpec
from lightly_prg.scan.features import SCANNED_TAUS, rows_of


def main(arguments: Sequence[str] | None = None) -> int:
    found = timing.parser(__doc__)
    found.add_argument("--images", type=int, default=100, help="of a batch, of 16 x 16 pixels")
    found.add_argument("--channels", type=int, default=32, help="width of the U-Net's first resolution")
    options = found.parse_args(arguments)
    turns = timing.begin(options)
    with torch.no_grad():
        return timing.report(cases(options, turns))


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    encoder = untrained(options)
    assert encoder.input_shape is not None
    shape = (2 if options.quick else options.images, *encoder.input_shape)
    images = torch.rand(shape, generator=generator_for(0, "scanning benchmark")).to(options.device)
    taus = (0.0, 1.0) if options.quick else SCANNED_TAUS
    grid = GridEncoder(encoder, rows_of(encoder, blocks=(), sources=(), pools=()), taus=taus)
    readers = {cell: alone(encoder, cell) for cell in grid.cells}

    values = grid(images[:2])
    differences = [
        float((values[:, grid.columns(cell)] - reader(images[:2])).abs().max()) for cell, reader in readers.items()
    ]
    yield timing.value_at_most(f"largest difference of {len(readers)} features, alone", max(differences), 1e-4)

    row = grid.rows[-1]
    of_a_row = [reader for cell, reader in readers.items() if cell.row == row]
    x = encoder.normalize(images)
    seconds = turns(
        {
            "ours": lambda: grid(images),
            "trajectory": lambda: encode(encoder.velocity, x, tau_end=list(taus), steps=grid.steps),
            "cells": lambda: [reader(images) for reader in of_a_row],
        },
    )
    yield timing.at_most("seconds of reading all cells, one trajectory", seconds["ours"], seconds["trajectory"], 1.2)
    name = f"seconds of reading all cells, cell by cell (timed one row of {len(grid.rows)})"
    yield timing.faster(name, seconds["ours"], len(grid.rows) * seconds["cells"], None)


def untrained(options: argparse.Namespace) -> PRGEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(
            image_size=8 if options.quick else 16,
            channels=8 if options.quick else options.channels,
            multipliers=(1,) if options.quick else (1, 2),
            blocks=1 if options.quick else 2,
            attention=(),
        )
    redraw_zero_weights(network, generator_for(0, "scanning benchmark, weights"))
    encoder = (
        PRGEncoder(network, ode=OdeSpec(solver="euler", steps=2 if options.quick else 8)).to(options.device).eval()
    )
    device = torch.device(options.device)
    encoder.network.to(memory_format=fast_layout(network, device, pick_precision("auto", device).precision))
    return encoder


def alone(encoder: PRGEncoder, cell: Cell) -> PRGEncoder:
    """What embeds images by one cell."""
    feature = cell.feature()
    assert isinstance(feature, FeatureSpec)
    ode = ode_of(encoder.ode, cell)
    reader = PRGEncoder(encoder.velocity, encoder.path, ode, feature, input_shape=encoder.input_shape)
    return reader.to(encoder.mean.device).eval()


if __name__ == "__main__":
    sys.exit(main())
