"""The mathematics of the flow: paths, couplings, the loss, and solving the ODE both ways."""

from __future__ import annotations

from lightly_prg.flow.coupling import COUPLINGS, couple
from lightly_prg.flow.loss import TAU_SAMPLINGS, FlowMatchingLoss
from lightly_prg.flow.ode import decode, encode
from lightly_prg.flow.paths import (
    PATHS,
    QUANTITIES,
    LinearPath,
    Path,
    TrigonometricPath,
    VariancePreservingPath,
    Velocity,
    path_from_name,
)
from lightly_prg.flow.solver import GRADIENTS, SOLVERS, CountedVelocity, Trajectory, time_grid

__all__ = [
    "COUPLINGS",
    "GRADIENTS",
    "PATHS",
    "QUANTITIES",
    "SOLVERS",
    "TAU_SAMPLINGS",
    "CountedVelocity",
    "FlowMatchingLoss",
    "LinearPath",
    "Path",
    "Trajectory",
    "TrigonometricPath",
    "VariancePreservingPath",
    "Velocity",
    "couple",
    "decode",
    "encode",
    "path_from_name",
    "time_grid",
]
