"""The mathematics of the flow: paths, couplings, the loss, and solving the ODE both ways."""

from __future__ import annotations

from lightly_prg.flow.adams import AB2
from lightly_prg.flow.coupled_steps import REVERSIBLE_SOLVERS
from lightly_prg.flow.coupling import COUPLINGS, couple
from lightly_prg.flow.ddim import DDIM
from lightly_prg.flow.loss import TAU_SAMPLINGS, FlowMatchingLoss
from lightly_prg.flow.ode import decode, encode
from lightly_prg.flow.path_range import PathRange
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
from lightly_prg.flow.reversible import ReversibleState, decode_reversible, encode_reversible, generate_reversible
from lightly_prg.flow.reversible_solver import REVERSIBLE_GRADIENTS
from lightly_prg.flow.scheduler_path import SchedulerPath
from lightly_prg.flow.solver import GRADIENTS, GRIDS, SOLVERS, CountedVelocity, Trajectory, time_grid

__all__ = [
    "AB2",
    "COUPLINGS",
    "DDIM",
    "GRADIENTS",
    "GRIDS",
    "PATHS",
    "QUANTITIES",
    "REVERSIBLE_GRADIENTS",
    "REVERSIBLE_SOLVERS",
    "SOLVERS",
    "TAU_SAMPLINGS",
    "CountedVelocity",
    "FlowMatchingLoss",
    "LinearPath",
    "Path",
    "PathRange",
    "ReversibleState",
    "SchedulerPath",
    "Trajectory",
    "TrigonometricPath",
    "VariancePreservingPath",
    "Velocity",
    "couple",
    "decode",
    "decode_reversible",
    "encode",
    "encode_reversible",
    "generate_reversible",
    "path_from_name",
    "time_grid",
]
