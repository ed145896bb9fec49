"""From a velocity network and a path to an embedding: where on the path, and where in the network, it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightly_prg.flow import CountedVelocity, LinearPath, Path, Velocity, encode
from lightly_prg.flow.paths import PATHS, path_from_name, path_of
from lightly_prg.flow.solver import checkpointed
from lightly_prg.models.activations import hooked_output, names_activations
from lightly_prg.models.pooling import pooled
from lightly_prg.module_state import device_of, evaluating, not_missing
from lightly_prg.recipe import FeatureSpec, OdeSpec


def extract_features(
    velocity: Velocity, x: Tensor, *, path: Path, ode: OdeSpec, feature: FeatureSpec
) -> tuple[Tensor, int]:
    """Carries images along the reverse ODE and reads the embedding on the way (arXiv 2412.01787, section 3).

    Args:
        velocity: Velocity network ``(tau, x) -> dx/dtau``.
        x: Normalised images, ``(B, C, H, W)``: what the network was trained on, not [0, 1].
        path: The path that the network was trained on.
        ode: How the ODE is integrated.
        feature: What is read, and where. A tau outside the path's range is moved to its nearer end.

    Returns:
        The embedding ``(B, D)`` in float32, and the number of network evaluations it took for each image (NFE).

    Raises:
        ValueError: If the block does not exist or gives something that the pooling does not take.
    """
    counted = CountedVelocity(velocity, path)
    taus = [min(max(tau, path.tau_min), path.tau_max) for tau in feature.taus]
    states = encode(
        counted,
        x,
        tau_start=path.tau_min,
        tau_end=taus,
        steps=ode.steps,
        solver=ode.solver,
        gradient=ode.gradient,
        rtol=ode.rtol,
        atol=ode.atol,
        grid=ode.grid,
    )
    last = len(taus) - 1
    parts = [
        pooled(_read(counted, tau, state, path, ode, feature, last=number == last).float(), feature.pool, x)
        for number, (tau, state) in enumerate(zip(taus, states, strict=True))
    ]
    return torch.cat(parts, dim=1), counted.evaluations


def _read(
    counted: CountedVelocity,
    tau: float,
    state: Tensor,
    path: Path,
    ode: OdeSpec,
    feature: FeatureSpec,
    *,
    last: bool,
) -> Tensor:
    if feature.source == "state":
        return state
    position = torch.tensor(tau, dtype=state.dtype, device=state.device)
    if feature.block is not None:
        counted.evaluations += 1
        arguments = (counted.velocity, position, state, feature.block)
        # `full` keeps every activation anyway; otherwise this evaluation is recomputed like those of the solver.
        # The last is not: its gradient comes first, and one graph is in memory whether it was kept or is made again.
        if torch.is_grad_enabled() and ode.gradient != "full" and not last:
            return checkpointed(activation, counted.velocity, *arguments)
        return activation(*arguments)
    value = counted(position, state)
    if feature.source == "velocity":
        return value
    return path.convert(state, value.to(state.dtype), position, source="velocity", target="denoised")


def activation(velocity: Velocity, tau: Tensor, x: Tensor, block: str) -> Tensor:
    """The output of one named block in a single evaluation of the network.

    Networks with an ``activations(tau, x, blocks)`` method, such as ours, stop at the block; any other module is run
    whole with a hook.

    Raises:
        ValueError: If the network is not a module or has no block of that name.
    """
    if names_activations(velocity):
        return velocity.activations(tau, x, (block,))[block]  # type: ignore[attr-defined, no-any-return]
    if not isinstance(velocity, nn.Module):
        raise ValueError("A feature of source 'block' needs an nn.Module, whose named_modules() name the blocks.")
    return hooked_output(velocity, block, tau, x)


def _own_shape(velocity: Velocity) -> Sequence[int] | None:
    """``(C, H, W)`` where the network names it; an attribute of that name may mean something else."""
    shape = getattr(velocity, "input_shape", None)
    whole = isinstance(shape, tuple | list) and len(shape) == 3 and all(isinstance(side, int) for side in shape)
    return shape if whole else None


class PRGEncoder(nn.Module):
    """Images in, embeddings out: the interface that every evaluator, and ``lightly_prg.load``, speaks.

    Args:
        velocity: Velocity network ``(tau, x) -> dx/dtau``; any callable works, a block feature needs an ``nn.Module``.
        path: The path it was trained on, or its name. Default: what the network declares as its ``path``, else the
            linear one.
        ode: How the ODE is integrated.
        feature: Where the embedding is read. Default: the state at the noise end, the paper's.
        input_shape: ``(C, H, W)`` of the images; taken from ``velocity.input_shape`` where it has one.
        mean: Normalisation of the network's images, one number for each channel or for all.
        std: Likewise; 0.5 and 0.5 give [-1, 1].

    Attributes:
        embedding_dim: D.
        nfe: Network evaluations for one image, counted; an average where an adaptive solver varies.

    Example:
        >>> encoder = PRGEncoder(lambda tau, x: -x, feature=FeatureSpec(source="state", tau=1.0), input_shape=(1, 8, 8))
        >>> encoder(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        velocity: Velocity,
        path: Path | str | None = None,
        ode: OdeSpec | None = None,
        feature: FeatureSpec | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.velocity = velocity
        self.path = path_from_name(path) if isinstance(path, str) else path or path_of(velocity) or LinearPath()
        self.ode = ode if ode is not None else OdeSpec()
        self.feature = feature if feature is not None else FeatureSpec(source="state", tau=1.0, pool="flatten")
        for argument, kind in ((self.path, Path), (self.ode, OdeSpec), (self.feature, FeatureSpec)):
            if not isinstance(argument, kind):
                raise ValueError(f"PRGEncoder takes a {kind.__name__}, got {argument!r}.")
        shape = input_shape if input_shape is not None else _own_shape(velocity)
        self.input_shape: tuple[int, ...] | None = None if shape is None else tuple(shape)
        device = device_of(velocity)  # a network that is on a GPU already stays there
        for name, value in (("mean", mean), ("std", std)):
            numbers = torch.as_tensor(value, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            self.register_buffer(name, numbers, persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("velocity", "path", "ode", "feature"):  # what was counted so far was another encoder's
            self._embedding_dim: int | None = None
            self._evaluations = 0
            self._images = 0

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images.

        Args:
            images: ``(B, C, H, W)``, floats in [0, 1].

        Returns:
            ``(B, D)`` in float32.

        Raises:
            ValueError: If the images are not floats of the shape that the network was built for.
        """
        if images.ndim != 4 or (self.input_shape is not None and tuple(images.shape[1:]) != self.input_shape):
            wanted = "(B, C, H, W)" if self.input_shape is None else f"(B, {', '.join(map(str, self.input_shape))})"
            raise ValueError(f"The encoder takes images of shape {wanted}; got {tuple(images.shape)}.")
        features, evaluations = extract_features(
            self.velocity, self.normalize(images), path=self.path, ode=self.ode, feature=self.feature
        )
        self._evaluations += evaluations * len(images)
        self._images += len(images)
        self._embedding_dim = features.shape[1]
        return features

    def normalize(self, images: Tensor) -> Tensor:
        """[0, 1] to the network's own range, in the precision of the encoder, at least float32.

        Raises:
            ValueError: If the images are not floats.
        """
        if not images.is_floating_point():
            raise ValueError(f"The encoder takes float images in [0, 1]; got {images.dtype}. Divide bytes by 255.")
        return (images.to(torch.promote_types(self.mean.dtype, torch.float32)) - self.mean) / self.std

    def denormalize(self, x: Tensor, *, clip: bool = True) -> Tensor:
        """The network's own range to that of images, clipped to [0, 1] if not said otherwise."""
        images = x * self.std + self.mean
        return images.clamp(0.0, 1.0) if clip else images

    @property
    def network(self) -> nn.Module:
        """The velocity network, where it is a module.

        Raises:
            ValueError: If it is a bare function.
        """
        if not isinstance(self.velocity, nn.Module):
            raise ValueError("The velocity network is a function; an nn.Module is needed here.")
        return self.velocity

    @property
    def embedding_dim(self) -> int:
        """D, found by embedding one black image where nothing has been embedded yet."""
        if self._embedding_dim is None:
            self._dry_run()
        assert self._embedding_dim is not None
        return self._embedding_dim

    @property
    def nfe(self) -> float:
        """Network evaluations for one image, the feature's own included."""
        if self._images == 0:
            self._dry_run()
        average = self._evaluations / self._images
        return int(average) if average.is_integer() else round(average, 2)

    def _dry_run(self) -> None:
        if self.input_shape is None:
            raise ValueError("The size of the images is not known yet: give PRGEncoder input_shape=(C, H, W).")
        with evaluating(self), torch.no_grad(), not_missing():
            self(torch.zeros(1, *self.input_shape, device=self.mean.device))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Prefixes of the parameters' names from input to output, for layer-wise decay and partial training."""
        prefix = f"velocity.{getattr(self.velocity, 'block_prefix', '')}"
        return tuple(f"{prefix}{name}" for name in getattr(self.velocity, "block_names", ()))

    def description(self) -> dict[str, Any]:
        """What, beside the network and its weights, makes this encoder; stands in encoder.json."""
        return {
            "path": self._path_name(),
            "ode": self.ode.model_dump(mode="json"),
            "feature": self.feature.model_dump(mode="json"),
            "normalize": {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()},
            **({"generator": self.velocity.origin} if hasattr(self.velocity, "origin") else {}),
        }

    def _path_name(self) -> str:
        """By which the path is found again: a part of one, and one of other constants, only its network declares."""
        named = PATHS.get(self.path.name)
        found = named is not None and named() == self.path
        return "own" if not found and path_of(self.velocity) == self.path else self.path.name

    def configuration(self) -> dict[str, Any]:
        """What, beside the weights, decides the embedding; evaluators key their caches by it."""
        return {**self.description(), "path": repr(self.path)}  # with the constants of a path of your own
