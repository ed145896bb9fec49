"""Generators of other codebases as velocity networks: torchcfm, SiT and EDM; diffusers has a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightly_prg.flow import LinearPath, Path, TrigonometricPath, VariancePreservingPath
from lightly_prg.models.diffusers_unet import from_diffusers, load_diffusers
from lightly_prg.models.velocity_adapter import VelocityFrom, time_then_x, velocity_from

__all__ = ["VelocityFrom", "from_diffusers", "from_edm", "from_sit", "from_torchcfm", "load_diffusers", "velocity_from"]

_SIT_PATHS = {"Linear": LinearPath, "GVP": TrigonometricPath, "VP": VariancePreservingPath}


def from_torchcfm(
    module: nn.Module, *, path: Path | None = None, block_names: Sequence[str] | None = None
) -> VelocityFrom:
    """A network trained with torchcfm: ``module(t, x)``, with noise at ``t = 0``, data at ``t = 1`` and ``dx/dt``.

    Args:
        module: The trained network.
        path: Linear (the default) for its conditional, optimal-transport and target matcher, of which the little noise
            that they may add on the way (their ``sigma``) is neglected; ``TrigonometricPath()`` for its
            variance-preserving one. Its Schrödinger bridge lies on no path of this kind.
        block_names: As in `velocity_from`.

    References:
        - Improving and Generalizing Flow-Based Generative Models, 2023, https://arxiv.org/abs/2302.00482
    """
    return velocity_from(
        module, path=path, time=_reversed, call=time_then_x, velocity_scale=-1, block_names=block_names
    )


def from_sit(
    module: nn.Module,
    *,
    path: str = "Linear",
    prediction: str = "velocity",
    label: int | None = None,
    block_names: Sequence[str] | None = None,
) -> VelocityFrom:
    """A network of SiT: ``module(x, t, y)``, with noise at ``t = 0``, data at ``t = 1`` and ``dx/dt``.

    SiT's own checkpoints work on the latents of an autoencoder, which take the place of the images here.

    Args:
        module: The trained network.
        path: SiT's ``path_type``: ``Linear``, ``GVP`` (our trigonometric path) or ``VP``.
        prediction: Its ``prediction``: ``velocity``, ``noise`` or ``score``.
        label: The class that every image is taken for. SiT's "no class" is its number of classes, 1000 for ImageNet.
            None for a network that takes no classes.
        block_names: As in `velocity_from`.

    Raises:
        ValueError: If there is no such path or prediction.

    References:
        - SiT, 2024, https://arxiv.org/abs/2401.08740
    """
    if path not in _SIT_PATHS:
        raise ValueError(f"Unknown path {path!r} of SiT: use one of {', '.join(_SIT_PATHS)}.")
    if prediction not in ("velocity", "noise", "score"):
        raise ValueError(f"Unknown prediction {prediction!r} of SiT: use one of velocity, noise, score.")

    return velocity_from(
        module,
        prediction,
        _SIT_PATHS[path](),
        time=_reversed,
        call=_SiTCall(label),
        velocity_scale=-1,
        block_names=block_names,
    )


def from_edm(
    module: nn.Module,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    class_labels: Tensor | None = None,
    block_names: Sequence[str] | None = None,
) -> VelocityFrom:
    """A preconditioned denoiser of EDM, ``module(x, sigma) -> D(x; sigma)`` with ``x = image + sigma noise``.

    Divided by ``1 + sigma`` its state lies on the linear path: ``x_tau = x / (1 + sigma)`` at
    ``tau = sigma / (1 + sigma)``, so the same images lead to the same noise (scaled) along the same curve.

    Args:
        module: The trained network, such as EDMPrecond, VPPrecond or VEPrecond.
        sigma_min: Smallest noise level that is used; EDM samples down to 0.002.
        sigma_max: Largest; 80.
        class_labels: One row of labels, (K,), for a class-conditional network: one-hot, or zeros for none.
        block_names: As in `velocity_from`.

    Raises:
        ValueError: If the noise levels are not positive and in order.

    References:
        - Elucidating the Design Space of Diffusion-Based Generative Models, 2022, https://arxiv.org/abs/2206.00364
    """
    if not 0 < sigma_min < sigma_max < float("inf"):
        raise ValueError(f"0 < sigma_min < sigma_max is needed, got {sigma_min} and {sigma_max}.")

    return velocity_from(
        module,
        "denoised",
        LinearPath(),
        time=_odds,
        call=_EDMCall(None if class_labels is None else tuple(class_labels.flatten().tolist())),
        tau_min=sigma_min / (1 + sigma_min),
        tau_max=sigma_max / (1 + sigma_max),
        block_names=block_names,
    )


# Classes in place of closures: their representation tells one from another, by which embeddings are cached.
@dataclass(frozen=True)
class _SiTCall:
    label: int | None

    def __call__(self, sit: nn.Module, time: Tensor, x: Tensor) -> Tensor:
        label = self.label
        classes = () if label is None else (torch.full((len(x),), label, dtype=torch.int64, device=x.device),)
        output: Tensor = sit(x, time, *classes)
        return output


@dataclass(frozen=True)
class _EDMCall:
    class_labels: tuple[float, ...] | None

    def __call__(self, edm: nn.Module, sigma: Tensor, x: Tensor) -> Tensor:
        scaled = x * (1 + sigma).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        row = self.class_labels
        labels = () if row is None else (torch.tensor(row, dtype=sigma.dtype, device=x.device).expand(len(x), -1),)
        output: Tensor = edm(scaled, sigma, *labels)
        return output


def _reversed(tau: Tensor) -> Tensor:
    return 1 - tau


def _odds(tau: Tensor) -> Tensor:
    return tau / (1 - tau)
