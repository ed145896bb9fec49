"""Any generator as a velocity network: what it predicts, on which path, how it is called and what it takes for time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightly_prg.flow import QUANTITIES, LinearPath, Path, PathRange
from lightly_prg.models.activations import called_plainly, keep_first, without_compiler
from lightly_prg.models.pooling import channels_first

_CLEAR_OF_THE_END = 1e-3  # where a prediction says nothing about the velocity at the end of the path itself

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``call(module, time, x) -> prediction``: ``time`` is (B,), ``x`` (B, C, H, W)."""


def velocity_from(
    module: nn.Module,
    prediction: str = "velocity",
    path: Path | None = None,
    *,
    time: Callable[[Tensor], Tensor] | None = None,
    call: Call | None = None,
    velocity_scale: float = 1.0,
    tau_min: float | None = None,
    tau_max: float | None = None,
    block_names: Sequence[str] | None = None,
) -> VelocityFrom:
    """Makes a velocity network of a module that was trained elsewhere, in whatever convention.

    Args:
        module: The trained network. Its weights are shared, not copied.
        prediction: What it gives at ``(x_tau, tau)``: ``noise`` (epsilon), ``denoised`` (the clean image, also called
            x0 or sample), ``velocity``, ``score`` or ``v``; see `Path.convert`.
        path: The path it was trained on, as ``x_tau = alpha x + sigma eps``; default linear.
        time: From tau, (B,), to what the module takes for time; default tau itself.
        call: How the module is run; default ``module(x, time)``.
        velocity_scale: What a predicted velocity is multiplied by to become ``dx/dtau``: -1 where the module's time
            runs from noise (0) to data (1).
        tau_min: Nearest position to the data that is used; default the path's, or 0.001 where ``sigma`` is 0 there and
            the prediction needs noise in the state (``denoised``, ``score``).
        tau_max: Farthest; default the path's, or 0.999 where ``alpha`` is 0 there and the prediction needs data in the
            state (``noise``, ``score``), of which errors are divided by ``alpha``: where that is tiny, take less.
        block_names: Names of the module's blocks from input to output; default its children, of lists of layers each
            item.

    Returns:
        The velocity network, with the attribute ``path``.

    Raises:
        ValueError: If there is no such prediction, or the positions are not on the path.

    Example:
        >>> network = velocity_from(nn.Identity(), "noise", call=lambda module, time, x: module(x))
        >>> network(torch.tensor(0.5), torch.ones(1, 1, 2, 2)).flatten()[0]
        tensor(0.)
    """
    if prediction not in QUANTITIES:
        raise ValueError(f"Unknown prediction {prediction!r}: use one of {', '.join(QUANTITIES)}.")
    module = without_compiler(module)
    path = path if path is not None else LinearPath()
    low, high = path.tau_min, path.tau_max
    ends = torch.tensor([low, high], dtype=torch.float64, device="cpu")
    if prediction in ("denoised", "score") and path.sigma(ends)[0] == 0:
        low = max(low, _CLEAR_OF_THE_END)
    if prediction in ("noise", "score") and path.alpha(ends)[1] == 0:
        high = min(high, 1 - _CLEAR_OF_THE_END)
    low, high = low if tau_min is None else tau_min, high if tau_max is None else tau_max
    if (low, high) != (path.tau_min, path.tau_max):
        path = PathRange(path, low, high)
    names = tuple(block_names) if block_names is not None else tuple(_blocks_of(module))
    network = VelocityFrom(module, prediction, path, time, call, velocity_scale, names)
    network.blocks_are_guessed = block_names is None
    return network


class VelocityFrom(nn.Module):
    """What `velocity_from` returns: ``network(tau, x) -> dx/dtau``.

    Attributes:
        module: The module that was given.
        prediction: What it predicts.
        path: The path, or the part of it on which the velocity is known.
        block_names: Blocks of the module, whose activations can be read by these names.
        block_prefix: What stands before them in the names of this network's parameters.
        time: From tau to the module's time; None: tau itself.
        call: How the module is run.
        velocity_scale: What a predicted velocity is multiplied by.
        blocks_are_guessed: Whether ``block_names`` are the module's children, of which some may not be worth reading.
    """

    block_prefix = "module."
    blocks_are_guessed = False

    def __init__(
        self,
        module: nn.Module,
        prediction: str,
        path: Path,
        time: Callable[[Tensor], Tensor] | None,
        call: Call | None,
        velocity_scale: float,
        block_names: Sequence[str],
    ) -> None:
        super().__init__()
        self.module = module
        self.prediction = prediction
        self.path = path
        self.block_names = tuple(block_names)
        # Public: what decides an embedding keys the caches of embeddings.
        self.time = time
        self.call = call if call is not None else x_then_time
        self.velocity_scale = velocity_scale

    def forward(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """Returns ``dx/dtau``, (B, C, H, W) in the dtype of ``x``; ``tau`` is a number, 0-d or (B,)."""
        tau = self._on_the_path(tau, x)
        value = self.predict(tau, x).to(x.dtype)
        if self.prediction == "velocity":
            return value if self.velocity_scale == 1 else self.velocity_scale * value
        return self.path.convert(x, value, tau, source=self.prediction, target="velocity")

    def predict(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """Returns what the module itself predicts, with the sign and in the dtype that it gives it.

        Raises:
            ValueError: If that is not of the shape of ``x``.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        times = torch.as_tensor(tau, dtype=dtype, device=x.device).expand(len(x))
        # Near the data the velocity is the state less the image, divided by little: rounded to half precision, an image
        # would be lost in it.
        exact = self.prediction in ("denoised", "score")
        with torch.autocast(x.device.type, enabled=False) if exact else nullcontext():
            value = _tensor_of(self.call(self.module, times if self.time is None else self.time(times), x))
        if value.shape != x.shape:
            learned = value.ndim == x.ndim > 1 and value.shape[1] == 2 * x.shape[1]
            hint = (
                " If the other half is a learned variance, leave it out: "
                "call=lambda module, time, x: module(x, time).chunk(2, 1)[0]."
            )
            raise ValueError(
                f"The module must predict something of the shape of its state {tuple(x.shape)}, "
                f"got {tuple(value.shape)}.{hint if learned else ''}"
            )
        return value

    def _on_the_path(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """``tau`` as a tensor; where a solver's rounding has led it off an end of the path, that end."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        tau = torch.as_tensor(tau, dtype=dtype, device=x.device)
        nearest = tau.clamp(self.path.tau_min, self.path.tau_max)
        return torch.where((tau - nearest).abs() <= 8 * torch.finfo(dtype).eps, nearest, tau)

    def activations(self, tau: float | Tensor, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """Returns what blocks of the module give, running it no farther than needed.

        Of several tensors and of several runs that is the first; ``(B, h, w, C)`` becomes ``(B, C, h, w)``.

        Args:
            tau: As in ``forward``.
            x: States, (B, C, H, W).
            blocks: Names in ``module.named_modules()``.

        Raises:
            ValueError: If there is no such block, or it gave no tensor.
        """
        modules = dict(self.module.named_modules())
        found: dict[str, Tensor] = {}
        handles = []
        try:
            for name in dict.fromkeys(blocks):
                if not name or name not in modules:
                    raise ValueError(f"The network has no block {name!r}; it has {', '.join(self.block_names)}.")
                handles.append(modules[name].register_forward_hook(keep_first(name, found)))
                handles.append(modules[name].register_forward_hook(_stop_once(found, set(blocks))))
            with called_plainly(self.module):
                self.predict(tau, x)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for name in blocks:
            if name not in found:
                raise ValueError(f"Block {name!r} gave no tensor when the network ran.")
        return {name: channels_first(found[name], x) for name in blocks}


class _Enough(Exception):
    """Stops a network once every block that was asked for has run."""


def _tensor_of(output: Any) -> Tensor:
    """What a module predicts, of the containers that diffusers and others put it in."""
    output = getattr(output, "sample", output)
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ValueError(
            f"The module must predict a tensor, got {type(output).__name__}: take it out by "
            "call=lambda module, time, x: ..."
        )
    return output


def _stop_once(found: dict[str, Tensor], wanted: set[str]) -> Callable[[nn.Module, object, object], None]:
    reader = threading.get_ident()

    def hook(_module: nn.Module, _inputs: object, _output: object) -> None:
        if wanted <= found.keys() and threading.get_ident() == reader:
            raise _Enough

    return hook


def x_then_time(module: nn.Module, time: Tensor, x: Tensor) -> Tensor:
    """``module(x, time)``: diffusers', SiT's, EDM's and most others' order."""
    output: Tensor = module(x, time)
    return output


def time_then_x(module: nn.Module, time: Tensor, x: Tensor) -> Tensor:
    """``module(time, x)``: torchcfm's order, and ours."""
    output: Tensor = module(time, x)
    return output


def _blocks_of(module: nn.Module) -> list[str]:
    children = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    if len(children) == 1:  # what only prepares the input of another, as EDM's preconditioner does
        ((name, child),) = children.items()
        inside = _blocks_of(child)
        if inside:
            return [f"{name}.{key}" for key in inside]
    names = []
    for name, child in children.items():
        # A list of layers is never called, so nothing could be read from it itself.
        many = isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        inner = [f"{name}.{key}" for key, _ in child.named_children()] if many else [name]
        names += [key for key in inner if any(True for _ in module.get_submodule(key).parameters())]
    return names
