"""PRG as a LightningModule (Pretrained Reversible Generation, arXiv 2412.01787)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.features import PRGEncoder, extract_features
from lightly_prg.flow import FlowMatchingLoss, LinearPath, Path, path_from_name
from lightly_prg.flow.paths import path_of
from lightly_prg.methods.auxiliary import Auxiliary
from lightly_prg.methods.block_reading import ReadVelocity
from lightly_prg.methods.method import Method, as_views
from lightly_prg.models import DiT, UNet
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import (
    AugmentRecipe,
    AuxiliaryRecipe,
    DiTRecipe,
    FeatureSpec,
    ImportRecipe,
    OdeSpec,
    TrainRecipe,
    UNetRecipe,
)
from lightly_prg.transforms import PRGTransform, augment_batch, to_unit_range

# Lightly's benchmark scripts look for a module-level transform beside the class.
transform = PRGTransform(input_size=32)


class PRG(Method):
    """Pretrains a velocity network by flow matching; ``forward`` embeds images with its reverse ODE.

    Fulfils the contract of Lightly's benchmarks: ``PRG(batch_size_per_device, num_classes)``, ``forward(images)``,
    ``online_classifier.feature_dim`` and the logged value ``train_loss``. Batches are Lightly's: ``(views, targets,
    ...)`` with a list of views, of which PRG uses the first.

    ``forward`` uses the network that is being trained, so that a classifier on top of it fine-tunes it;
    ``encoder()`` uses the averaged weights (EMA).

    Args:
        batch_size_per_device: As in Lightly's scripts; not needed by the method itself.
        num_classes: Classes of the online classifier.
        input_shape: ``(C, H, W)`` of the images.
        backbone: Velocity network ``(tau, x) -> dx/dtau``. Default: the paper's U-Net for 32 x 32 images.
        mean: What was subtracted from the images that ``training_step`` and ``forward`` get, for each channel or for
            all: ``encoder()`` takes them as they were before. Default: that of ``PRGTransform``; latents have 0.
        std: What they were divided by; latents have 1.
        path: A path, its name, or ``own`` for what the backbone declares as its ``path``. Default: that, if it does,
            else the linear one.
        coupling: ``independent`` or ``optimal_transport``.
        tau_sampling: ``uniform``, ``logit_normal`` or ``mode``; see `FlowMatchingLoss`.
        ode: How ``forward`` integrates the ODE.
        feature: Where ``forward`` reads the embedding.
        augment: What ``make_views`` does to training images.
        auxiliary: A second loss on one block, beside flow matching; see ``AuxiliaryRecipe``.
        optimization: Learning rate, schedule, EMA decay and so on; see ``TrainRecipe``.
        online_probe: Train the online classifier beside the generator. It costs one embedding for each step.
        seed: Noise and tau depend on it and on the step alone; in ``lightly_prg.train`` dropout as well, which in a
            Trainer of your own follows torch's seed.

    Example:
        >>> from lightly_prg import UNet
        >>> backbone = UNet(image_size=8, in_channels=1, channels=32, multipliers=(1, 2), blocks=1, attention=())
        >>> model = PRG(input_shape=(1, 8, 8), backbone=backbone)
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        batch_size_per_device: int = 128,
        num_classes: int = 10,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        backbone: nn.Module | None = None,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        path: Path | str | None = None,
        coupling: str = "independent",
        tau_sampling: str = "uniform",
        ode: OdeSpec | None = None,
        feature: FeatureSpec | None = None,
        augment: AugmentRecipe | None = None,
        auxiliary: AuxiliaryRecipe | None = None,
        optimization: TrainRecipe | None = None,
        online_probe: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size_per_device=batch_size_per_device,
            input_shape=input_shape,
            optimization=optimization,
            online_probe=online_probe,
            seed=seed,
        )
        self.path = _path_for(backbone, path)
        self.ode = ode if ode is not None else OdeSpec()
        self.feature = feature if feature is not None else FeatureSpec(source="block", block="middle")
        self.augment = augment if augment is not None else AugmentRecipe()
        if backbone is None:
            channels, size, _ = self.input_shape
            backbone = UNet(image_size=size, in_channels=channels)
        self.velocity = backbone
        self.mean, self.std = mean, std
        self.criterion = FlowMatchingLoss(path=self.path, coupling=coupling, tau_sampling=tau_sampling)
        self.auxiliary: Auxiliary | None = None
        if auxiliary is not None and auxiliary.is_active:
            if auxiliary.loss == "dino" and self.optimization.ema_decay == 0.0:
                raise UserError(
                    "loss 'dino' learns from the averaged network, and with train.ema_decay=0 that is the network "
                    "itself: take 0.99 or more."
                )
            self.auxiliary = Auxiliary(auxiliary, backbone, self.path, self.input_shape, seed=seed)
        self.finish(num_classes)

    @property
    def network(self) -> nn.Module:
        """The velocity network."""
        return self.velocity

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images with the trainable network.

        Args:
            images: ``(B, C, H, W)``, normalised as ``PRGTransform`` does.

        Returns:
            ``(B, D)`` in float32.
        """
        features, _ = extract_features(self.velocity, images, path=self.path, ode=self.ode, feature=self.feature)
        return features

    def encoder(self) -> PRGEncoder:
        """The encoder of the averaged weights, which it shares with this module: images in [0, 1] to embeddings."""
        return PRGEncoder(
            self.averaged,
            self.path,
            self.ode,
            self.feature,
            input_shape=self.input_shape,
            mean=self.mean,
            std=self.std,
        ).eval()

    def make_views(
        self, images: Tensor, *, generator: torch.Generator, global_batch: int | None = None, first: int = 0
    ) -> list[Tensor]:
        """One view, flipped and shifted at most: a generator learns to generate what it sees.

        The auxiliary loss adds its two strong views, where it compares views.
        """
        place: dict[str, Any] = {"generator": generator, "global_batch": global_batch, "first": first}
        views = [to_unit_range(augment_batch(images, **place, **self.augment.model_dump()))]
        if self.auxiliary is not None:
            views += self.auxiliary.make_views(images, **place)
        return [self._normalised(view) for view in views]

    def loss(self, views: Sequence[Tensor], position: int) -> Tensor:
        """The flow-matching loss of the first view, and the auxiliary loss where there is one."""
        x = views[0]
        if self.auxiliary is None:
            noise, tau = self._draw(x, position)
            loss: Tensor = self.criterion(self.velocity, x, noise=noise, tau=tau)
            return loss
        return self._joint_loss(self.auxiliary, x, views[1:], position)

    def _joint_loss(self, auxiliary: Auxiliary, x: Tensor, views: Sequence[Tensor], position: int) -> Tensor:
        settings = auxiliary.settings
        parts: list[Tensor] = []
        if settings.flow_weight > 0.0:
            noise, tau = self._draw(x, position)
            every = settings.flow_every
            # The images of a global batch that are taken do not depend on how it is split, if its parts are multiples.
            x, noise, tau = x[::every], noise[::every], tau[::every]
            read = self.velocity if auxiliary.reads_views else ReadVelocity(self.velocity, settings.block)
            flow = self.criterion(read, x, noise=noise, tau=tau)
            self._note("flow_loss", flow, len(x))
            parts.append(settings.flow_weight * flow)
        if auxiliary.reads_views:
            second = auxiliary.compare_views(
                self.velocity, self.averaged, views, position, self.share(len(views[0]) if views else 0)
            )
        else:
            assert isinstance(read, ReadVelocity)
            assert read.activation is not None
            second = auxiliary.read_flow(read.activation, self._unnormalised(x))
        self._note("auxiliary_loss", second, len(x))
        parts.append(settings.weight * second)
        return torch.stack(parts).sum()

    def _normalised(self, images: Tensor) -> Tensor:
        """[0, 1] to the range that the network sees, in place."""
        mean, std = self._moments(images)
        return images.sub_(mean).div_(std)

    def _unnormalised(self, x: Tensor) -> Tensor:
        mean, std = self._moments(x)
        return x * std + mean

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_tensor(self.mean).reshape(-1, 1, 1), x.new_tensor(self.std).reshape(-1, 1, 1)

    def _note(self, name: str, value: Tensor, batch: int) -> None:
        if self._trainer is not None:
            self.log(name, value.detach(), batch_size=batch)

    def trained_modules(self) -> list[nn.Module]:
        """The velocity network, and the head of the auxiliary loss."""
        return [self.velocity] if self.auxiliary is None else [self.velocity, self.auxiliary.head]

    @property
    def leaves_weights_untouched(self) -> bool:
        """Without flow matching nothing reaches the blocks behind the one that the auxiliary loss reads."""
        return self.auxiliary is not None and self.auxiliary.settings.flow_weight == 0.0

    def compile_network(self) -> None:
        """Compiles the network, and what runs the views as far as the block."""
        super().compile_network()
        if self.auxiliary is not None and self.auxiliary.reads_views:
            self.auxiliary.read.compile_for(self.velocity)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimiser step, after which everything that is averaged follows."""
        decay = self.ema.next_decay
        super().optimizer_step(*args, **kwargs)
        if self.auxiliary is not None:
            self.auxiliary.follow(decay)

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """The held-out loss, for Trainers that validate."""
        x = as_views(batch)[0]
        loss = self._averaged_loss(x, batch_idx)
        self.log("val_loss", loss, prog_bar=True, sync_dist=True, batch_size=len(x))
        return loss

    def held_out_loss(self, images: Tensor, position: int) -> Tensor:
        """The loss of the averaged weights on bytes, with the same noise every time."""
        return self._averaged_loss(self._normalised(to_unit_range(images)), position)

    def _averaged_loss(self, x: Tensor, position: int) -> Tensor:
        generator = generator_for(self.seed, "validation", position, device=x.device)
        loss: Tensor = self.criterion(self.averaged, x, generator=generator)
        return loss

    def _draw(self, x: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Noise and tau of this step: drawn for the global batch, of which this process takes its slice."""
        total, mine = self.share(len(x))
        generator = generator_for(self.seed, "train", position, device=x.device)
        noise = torch.randn((total, *x.shape[1:]), generator=generator, device=x.device, dtype=torch.float32)
        tau = self.criterion.sample_tau(total, generator=generator, device=x.device)
        return noise[mine], tau[mine]


def _path_for(backbone: nn.Module | None, path: Path | str | None) -> Path:
    """The path to train on: a network that was made for one is not trained on another unawares."""
    declared = None if backbone is None else path_of(backbone)
    if path == "own":
        if declared is None:
            raise UserError("The path is 'own', and the backbone declares none by an attribute `path`: name one.")
        return declared
    wanted = path_from_name(path) if isinstance(path, str) else path
    if wanted is not None and declared is not None and declared != wanted:
        raise UserError(
            f"The backbone is made for {declared}, and is to be trained on {wanted}: name its path, or say 'own'."
        )
    return wanted or declared or LinearPath()


def build_velocity(
    recipe: UNetRecipe | DiTRecipe | ImportRecipe, input_shape: Sequence[int], *, trust: bool = False
) -> nn.Module:
    """Builds the velocity network that a recipe describes.

    Args:
        recipe: The recipe's ``method.backbone``.
        input_shape: ``(C, H, W)`` with H = W.
        trust: Whether code that the recipe names may be imported and run.

    Raises:
        UserError: If the settings do not fit the images, or foreign code is named and not trusted or not found.
    """
    channels, size, _ = input_shape
    settings = recipe.model_dump(exclude={"name"})
    if isinstance(recipe, ImportRecipe):
        return _import_velocity(recipe, trust=trust)
    try:
        if isinstance(recipe, UNetRecipe):
            return UNet(image_size=size, in_channels=channels, **settings)
        return DiT(image_size=size, in_channels=channels, **settings)
    except ValueError as error:
        raise UserError(f"method.backbone does not fit images of {channels} x {size} x {size}: {error}") from None


def _import_velocity(recipe: ImportRecipe, *, trust: bool) -> nn.Module:
    if not trust:
        raise UserError(
            f"This recipe runs code of its own, {recipe.target!r}. If you trust it, say so: --trust on the command "
            "line, trust=True in Python."
        )
    module_name, _, attribute = recipe.target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(f"method.backbone.target {recipe.target!r} cannot be imported: {error}.") from None
    try:
        network = found(**recipe.kwargs)
    except TypeError as error:
        raise UserError(f"{recipe.target} does not take method.backbone.kwargs: {error}.") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"{recipe.target} gave a {type(network).__name__}; a torch.nn.Module is needed.")
    return network
