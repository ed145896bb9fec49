"""Any generator as a velocity network: what it predicts, on which path, how it is called and what it takes for time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightly_prg.flow import QUANTITIES, LinearPath, Path, PathRange

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
            state (``noise``, ``score``).
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
    path = path if path is not None else LinearPath()
    low, high = path.tau_min, path.tau_max
    ends = torch.tensor([low, high], dtype=torch.float64, device="cpu")
    if prediction in ("denoised", "score") and path.sigma(ends)[0] == 0:
        low = _CLEAR_OF_THE_END
    if prediction in ("noise", "score") and path.alpha(ends)[1] == 0:
        high = 1 - _CLEAR_OF_THE_END
    low, high = low if tau_min is None else tau_min, high if tau_max is None else tau_max
    if (low, high) != (path.tau_min, path.tau_max):
        path = PathRange(path, low, high)
    names = tuple(block_names) if block_names is not None else tuple(_blocks_of(module))
    return VelocityFrom(module, prediction, path, time, call, velocity_scale, names)


class VelocityFrom(nn.Module):
    """What `velocity_from` returns: ``network(tau, x) -> dx/dtau``.

    Attributes:
        module: The module that was given.
        prediction: What it predicts.
        path: The path, or the part of it on which the velocity is known.
        block_names: Blocks of the module, whose activations can be read by these names.
        block_prefix: What stands before them in the names of this network's parameters.
    """

    block_prefix = "module."

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
        self._time = time
        self._call = call if call is not None else x_then_time
        self._velocity_scale = velocity_scale

    def forward(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """Returns ``dx/dtau``, (B, C, H, W) in the dtype of ``x``; ``tau`` is a number, 0-d or (B,)."""
        tau = self._on_the_path(tau, x)
        value = self.predict(tau, x).to(x.dtype)
        if self.prediction == "velocity":
            return value if self._velocity_scale == 1 else self._velocity_scale * value
        return self.path.convert(x, value, tau, source=self.prediction, target="velocity")

    def predict(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """Returns what the module itself predicts, with the sign and in the dtype that it gives it.

        Raises:
            ValueError: If that is not of the shape of ``x``.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        times = torch.as_tensor(tau, dtype=dtype, device=x.device).expand(len(x))
        value = self._call(self.module, times if self._time is None else self._time(times), x)
        if value.shape != x.shape:
            raise ValueError(
                f"The module must predict something of the shape of its state {tuple(x.shape)}, "
                f"got {tuple(value.shape)}."
            )
        return value

    def _on_the_path(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """``tau`` as a tensor; where a solver's rounding has led it off an end of the path, that end."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        tau = torch.as_tensor(tau, dtype=dtype, device=x.device)
        nearest = tau.clamp(self.path.tau_min, self.path.tau_max)
        return torch.where((tau - nearest).abs() <= 8 * torch.finfo(dtype).eps, nearest, tau)

    def activations(self, tau: float | Tensor, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """Returns what blocks of the module give (of several tensors the first), running it no farther than needed.

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
                handles.append(modules[name].register_forward_hook(_keep(name, found, set(blocks))))
            self.predict(tau, x)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for name in blocks:
            if name not in found:
                raise ValueError(f"Block {name!r} gave no tensor when the network ran.")
        return {name: found[name] for name in blocks}


class _Enough(Exception):
    """Stops a network once every block that was asked for has run."""


def _keep(name: str, found: dict[str, Tensor], wanted: set[str]) -> Callable[[nn.Module, object, object], None]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        while isinstance(output, tuple | list) and output:
            output = output[0]
        if isinstance(output, Tensor):
            found[name] = output
        if wanted <= found.keys():
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
    names = []
    for name, child in module.named_children():
        # A list of layers is never called, so nothing could be read from it itself.
        many = isinstance(child, nn.ModuleList | nn.Sequential)
        inner = [f"{name}.{key}" for key, _ in child.named_children()] if many else [name]
        names += [key for key in inner if any(True for _ in module.get_submodule(key).parameters())]
    return names
