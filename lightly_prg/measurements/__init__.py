"""What a flow can be asked beside its embeddings: likelihood, noise end, loss, information, round trip.

Here are the measurements of an encoder; ``of_run`` takes them of a run folder, ``suite`` all of them.
"""

from __future__ import annotations

from lightly_prg.measurements.bits import BitsPerDim, bits_per_dim, dequantise
from lightly_prg.measurements.channel import ChannelCurve, channel_curve
from lightly_prg.measurements.gaussianity import GaussianStatistics, gaussian_floor, gaussian_statistics
from lightly_prg.measurements.label_information import LabelInformation, label_information
from lightly_prg.measurements.loss_by_tau import LossByTau, closed_form_losses, loss_by_tau
from lightly_prg.measurements.round_trips import RoundTripPoint, round_trip_curve

__all__ = [
    "BitsPerDim",
    "ChannelCurve",
    "GaussianStatistics",
    "LabelInformation",
    "LossByTau",
    "RoundTripPoint",
    "bits_per_dim",
    "channel_curve",
    "closed_form_losses",
    "dequantise",
    "gaussian_floor",
    "gaussian_statistics",
    "label_information",
    "loss_by_tau",
    "round_trip_curve",
]
