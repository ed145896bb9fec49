"""The flow-matching loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightly_prg.flow.coupling import COUPLINGS, couple
from lightly_prg.flow.path_range import PathRange
from lightly_prg.flow.paths import LinearPath, Path, Velocity, path_from_name, path_of
from lightly_prg.flow.prediction import check_prediction

TAU_SAMPLINGS = ("uniform", "logit_normal", "mode")
MODE_SCALE = 1.29  # the best of [2] for its mode sampling


class FlowMatchingLoss(nn.Module):
    """Flow matching, the pretraining loss of PRG [0]: regress the velocity of a path [1].

    For an image ``x``, noise ``eps`` and a position ``tau`` on the path
    ``x_tau = alpha x + sigma eps``, the loss is

        E_{x, eps, tau} [ w(tau) || v(tau, x_tau) - (alpha' x + sigma' eps) ||^2 / D ]

    with D = C H W and w the path's `loss_weight`. The paper writes 1/2 of the sum in place of the
    mean; its reference code takes 1/2 of the sum over channels and the mean over the rest, which
    for 3 channels is 1.5 times the value here. The minimiser is the same.

    - [0] Pretrained Reversible Generation, 2024, https://arxiv.org/abs/2412.01787
    - [1] Flow Matching, 2022, https://arxiv.org/abs/2210.02747
    - [2] Logit-normal and mode positions: Scaling Rectified Flow, 2024, https://arxiv.org/abs/2403.03206

    Attributes:
        path:
            The path, or its name; where none is given, that of the network.
        coupling:
            How noise is paired with the images of a batch: ``"independent"`` or
            ``"optimal_transport"`` (see `couple`).
        tau_sampling:
            ``"uniform"`` on [tau_min, tau_max], or one of two laws that favour the middle, stretched over
            the same interval [2]: ``"logit_normal"``, the sigmoid of a standard normal, which all but
            leaves out both ends, and ``"mode"`` (equation 20, s = 1.29), whose density is 3.8 in the
            middle and 0.44 at the ends. Activations near the data gain by both; likelihood is decided near
            the data, and the logit-normal law loses much of it.

    Examples:
        >>> # initialize loss function and a velocity network: velocity(tau, x) -> dx/dtau
        >>> criterion = FlowMatchingLoss(path="linear")
        >>>
        >>> # images normalised to about [-1, 1]; one position and one noise image are drawn each
        >>> loss = criterion(velocity, images)
    """

    def __init__(
        self,
        *,
        path: Path | str | None = None,
        coupling: str = "independent",
        tau_sampling: str = "uniform",
    ) -> None:
        """Initializes the loss; every argument is keyword-only.

        Args:
            path:
                A `Path` or its name. None: the one that the velocity network declares as its
                ``path``, or else `LinearPath`.
            coupling:
                ``"independent"`` or ``"optimal_transport"``.
            tau_sampling:
                ``"uniform"``, ``"logit_normal"`` or ``"mode"``.

        Raises:
            ValueError: If a name is unknown.
        """
        super().__init__()
        if coupling not in COUPLINGS:
            raise ValueError(f"Unknown coupling {coupling!r}: use one of {', '.join(COUPLINGS)}.")
        if tau_sampling not in TAU_SAMPLINGS:
            raise ValueError(f"Unknown tau_sampling {tau_sampling!r}: use one of {', '.join(TAU_SAMPLINGS)}.")
        self.path_is_given = path is not None
        self.path = path_from_name(path) if isinstance(path, str) else path or LinearPath()
        self.coupling = coupling
        self.tau_sampling = tau_sampling

    def sample_tau(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        *,
        path: Path | None = None,
    ) -> Tensor:
        """Draws one position per sample.

        Args:
            batch_size: Number of positions B.
            generator: Where they are drawn from; torch's own if None. It may live on another
                device: a CPU generator gives the same positions everywhere.
            device: Where the result goes.
            path: Of which positions are drawn; that of the loss if None.

        Returns:
            Positions (B,), float32, in [path.tau_min, path.tau_max].
        """
        draw = torch.randn if self.tau_sampling == "logit_normal" else torch.rand
        unit = draw(
            batch_size,
            generator=generator,
            device=device if generator is None else generator.device,
            dtype=torch.float32,
        )
        if self.tau_sampling == "logit_normal":
            unit = torch.sigmoid(unit)
        elif self.tau_sampling == "mode":
            unit = 1 - unit - MODE_SCALE * (torch.cos(math.pi / 2 * unit).square() - 1 + unit)
        path = path if path is not None else self.path
        tau_min, tau_max = path.tau_min, path.tau_max
        return (tau_min + (tau_max - tau_min) * unit).to(device)

    def forward(
        self,
        velocity: Velocity,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        tau: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Computes the loss for one batch.

        Computed in float32 (float64 for float64 images), whatever dtype the network returns.
        The generator is asked for the noise first, then for the positions; for neither where
        both are given.

        Args:
            velocity: The network, ``velocity(tau (B,), x_tau (B, ...)) -> (B, ...)``.
            x: Images as the network sees them, (B, C, H, W).
            noise: Gaussian noise shaped as ``x``; drawn if None. The coupling applies to it
                either way.
            tau: Positions (B,); drawn if None.
            generator: Where noise and positions are drawn from; torch's own if None.

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: If ``x`` holds no batch of float images, ``noise``, ``tau`` or the network's
                output has the wrong shape, ``tau`` lies off the path (which on a GPU is not looked
                at), or the network declares another path than was given.
        """
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"x must be a non-empty batch (B, C, H, W), got {tuple(x.shape)}.")
        if not x.is_floating_point():
            raise ValueError(f"x holds {x.dtype}; images as the network sees them are floats, about [-1, 1].")
        path = self._path_of(velocity)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        noise = couple(x, noise, self.coupling, generator).to(x)
        if tau is None:
            tau = self.sample_tau(x.shape[0], generator, x.device, path=path)
        if not isinstance(tau, Tensor) or tau.shape != x.shape[:1]:
            given = tuple(tau.shape) if isinstance(tau, Tensor) else repr(tau)
            raise ValueError(f"tau must be a tensor of one position per image ({x.shape[0]},), got {given}.")
        if not tau.is_floating_point() or (tau.device.type == "cpu" and not path.contains(tau)):
            raise ValueError(
                f"tau must hold positions in [{path.tau_min:g}, {path.tau_max:g}] on the {path.name} path, no steps; "
                f"got {tau.dtype} from {tau.min():g} to {tau.max():g}."
            )
        tau = tau.to(x)
        prediction = velocity(tau, path.interpolate(x, noise, tau))
        check_prediction(prediction, x)
        error = prediction.to(x) - path.velocity(x, noise, tau)
        per_image = error.square().flatten(1).mean(1)
        return (path.loss_weight(tau) * per_image).mean()

    def _path_of(self, velocity: Velocity) -> Path:
        declared = path_of(velocity)
        if declared is None or declared == self.path:
            return self.path
        if self.path_is_given and not (isinstance(declared, PathRange) and declared.path == self.path):
            raise ValueError(f"The velocity network is of {declared!r}, and the loss of {self.path!r}.")
        return declared
