"""What every method here shares: averaged weights, optimiser and schedule, and the contract of Lightly's benchmarks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightly.models.utils import get_weight_decay_parameters
from lightly.utils.benchmarking import OnlineLinearClassifier
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.hardware.layout import laid_out
from lightly_prg.models import EMA
from lightly_prg.module_state import evaluating
from lightly_prg.recipe import TrainRecipe


class Method(LightningModule):
    """Base of PRG, SimCLR and MAE.

    A subclass sets its networks and then calls ``finish``. Batches are Lightly's: ``(views, targets, ...)``. Images
    that reach ``training_step`` are normalised to [-1, 1]; ``make_views`` is what turns bytes into such views where the
    images come from this package's own data.

    Args:
        batch_size_per_device: As in Lightly's scripts; not needed by the methods themselves.
        input_shape: ``(C, H, W)`` of the images.
        optimization: Learning rate, schedule, EMA decay and so on.
        online_probe: Train the online classifier beside the method. It costs one embedding for each step.
        seed: All draws of the method depend on it and on the step alone. Dropout follows torch's seed, which
            ``lightly_prg.train`` sets with every step.

    Attributes:
        epochs: Of the training, where the Trainer counts otherwise: ``lightly_prg.train`` makes them one long epoch.
    """

    online_classifier: OnlineLinearClassifier
    epochs: float | None = None

    def __init__(
        self,
        *,
        batch_size_per_device: int,
        input_shape: Sequence[int],
        optimization: TrainRecipe | None,
        online_probe: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.batch_size_per_device = batch_size_per_device
        self.input_shape = tuple(input_shape)
        self.optimization = optimization if optimization is not None else TrainRecipe()
        self.online_probe = online_probe
        self.seed = seed

    def finish(self, num_classes: int) -> None:
        """Adds the averaged network and the online classifier, once the network is there."""
        self.ema = EMA(self.network, self.optimization.ema_decay)
        self.online_classifier = OnlineLinearClassifier(
            feature_dim=self.encoder().embedding_dim, num_classes=num_classes, topk=(1, min(5, num_classes))
        )
        # DistributedDataParallel refuses parameters that never get a gradient.
        self.online_classifier.requires_grad_(self.online_probe)

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that the encoder keeps, with the weights in training."""

    @property
    def averaged(self) -> nn.Module:
        """The network with averaged weights; before the first step with those that it has, loaded ones as well."""
        self.ema.start_at(self.network)
        return self.ema.module

    @abstractmethod
    def encoder(self) -> Any:
        """The encoder of the averaged weights, which it shares with this module: images in [0, 1] to embeddings."""

    @abstractmethod
    def make_views(
        self, images: Tensor, *, generator: torch.Generator, global_batch: int | None = None, first: int = 0
    ) -> list[Tensor]:
        """Turns ``(B, C, H, W)`` bytes into training views in [-1, 1].

        Draws are made for ``global_batch`` images, of which these are the ones from ``first`` on.
        """

    @abstractmethod
    def loss(self, views: Sequence[Tensor], position: int) -> Tensor:
        """The method's loss of one batch; ``position`` counts the batches of the training."""

    @abstractmethod
    def held_out_loss(self, images: Tensor, position: int) -> Tensor:
        """The loss of held-out bytes, with the same draws every time, so that epochs can be compared."""

    def trained_modules(self) -> list[nn.Module]:
        """Everything that the loss trains."""
        return [self.network]

    @property
    def leaves_weights_untouched(self) -> bool:
        """Whether some of the trained modules' weights get no gradient, and stay what they are."""
        return False

    def compile_network(self) -> None:
        """Compiles what a training step runs; the averaged network, which is given away, stays plain."""
        self.network.compile()

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """The loss of a batch, and that of the online classifier where it is asked for."""
        views = as_views(batch)
        loss = self.loss(views, self.position(batch_idx))
        self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(views[0]))
        if not self.online_probe:
            return loss
        targets: Any = batch[1] if len(batch) > 1 else None
        if not isinstance(targets, Tensor) or targets.shape != views[0].shape[:1]:
            raise ValueError("The online probe needs the class of every image: batches of (views, targets, ...).")
        # In evaluation mode, so that the network's batch statistics and dropout do not know of it.
        with torch.no_grad(), evaluating(self):
            features = self(views[0])
        probe_loss, logs = self.online_classifier.training_step((features, targets), batch_idx)
        self.log_dict(logs, sync_dist=True, batch_size=len(views[0]))
        total: Tensor = loss + probe_loss
        return total

    def position(self, batch_idx: int) -> int:
        """Batches since the beginning of the training."""
        batches = self.trainer.num_training_batches
        if batches == math.inf:  # a stream tells no length
            return int(self.trainer.fit_loop.total_batch_idx)
        return self.current_epoch * int(batches) + batch_idx

    def share(self, batch: int) -> tuple[int, slice]:
        """Size of the global batch, and the part of it that belongs to this process."""
        processes = self.trainer.world_size if self._trainer is not None else 1
        return processes * batch, slice(self.global_rank * batch, (self.global_rank + 1) * batch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimiser step, after which the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.network)

    def on_fit_start(self) -> None:
        """Refuses a Trainer that rounds the weights themselves: the steps of their average are lost in 8 or 11 bits.

        Raises:
            UserError: With ``precision="bf16-true"`` and its like.
        """
        self.ema.start_at(self.network)
        rounded = {weight.dtype for weight in self.network.parameters()} & {torch.bfloat16, torch.float16}
        if rounded:
            raise UserError(
                f"The weights are {str(rounded.pop()).removeprefix('torch.')}, too coarse for the steps of their "
                "average; train with Trainer(precision='bf16-mixed') or '16-mixed', which keep them in float32."
            )

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser with warm-up and, by default, cosine decay, stepped with every batch.

        Biases and normalisation layers are not decayed. The Trainer says how long the training is; ``warmup_epochs``
        are passes over its batches, and of a stream, whose passes nobody knows, their share of ``epochs``.

        Raises:
            UserError: If the training has no end that a cosine could decay to.
        """
        recipe = self.optimization
        decayed, others = _weight_groups(self.trained_modules())
        if self.online_probe:
            others = [*others, *self.online_classifier.parameters()]
        groups = [
            {"params": [p for p in parameters if p.requires_grad], "weight_decay": decay}
            for parameters, decay in ((decayed, recipe.weight_decay), (others, 0.0))
        ]
        optimizer = build_optimizer([group for group in groups if group["params"]], recipe)
        total = self._steps()
        if total == math.inf and (recipe.schedule == "cosine" or recipe.warmup_epochs > 0.0):
            raise UserError(
                "The learning rate follows the length of the training, and this one has no end: give the Trainer "
                "max_steps (or max_epochs, where the data have a length), or train with schedule='constant' and "
                "without warm-up."
            )
        warmup = 0 if total == math.inf else min(int(total), round(total * self._warmup_share()))
        scheduler: torch.optim.lr_scheduler.LRScheduler
        if recipe.schedule == "cosine":
            scheduler = CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=int(total))
        else:
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _steps(self) -> float:
        """Of the optimiser in all; infinite where the Trainer knows no end."""
        steps = self.trainer.estimated_stepping_batches
        return steps if steps >= 0 else math.inf  # of a stream without max_steps it says -1

    def _warmup_share(self) -> float:
        """Of the steps of the training."""
        epochs = self.epochs
        if epochs is None:
            self.trainer.fit_loop.setup_data()  # as Lightning does itself, but not where max_steps is given
            batches = self.trainer.num_training_batches
            steps = math.inf if batches == math.inf else math.ceil(batches / self.trainer.accumulate_grad_batches)
            epochs = self.optimization.epochs if steps == math.inf else self._steps() / steps
        return self.optimization.warmup_epochs / epochs if epochs else 0.0

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to the recipe's ``clip`` where the Trainer names no limit of its own."""
        limit = gradient_clip_val if gradient_clip_val is not None else self.optimization.clip
        # The online classifier stands aside: the norm is that of what the method trains.
        aside = [(weight, weight.grad) for weight in self.online_classifier.parameters()]
        for weight, _ in aside:
            weight.grad = None
        self.clip_gradients(optimizer, gradient_clip_val=limit, gradient_clip_algorithm=gradient_clip_algorithm)
        for weight, gradient in aside:
            weight.grad = gradient


def _weight_groups(modules: Sequence[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is decayed and what is not, as Lightly has it; a weight that several layers share stands there once."""
    decayed, others = get_weight_decay_parameters(modules)
    # Lightly does not know the newest of the normalisations.
    norms = (part for module in modules for part in module.modules() if isinstance(part, nn.RMSNorm))
    kept = dict.fromkeys([*others, *(weight for norm in norms for weight in norm.parameters(recurse=False))])
    return [weight for weight in dict.fromkeys(decayed) if weight not in kept], list(kept)


def build_optimizer(groups: list[dict[str, Any]], recipe: TrainRecipe) -> torch.optim.Optimizer:
    """The optimiser that a recipe names."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    if recipe.optimizer == "lars":
        optimizer: torch.optim.Optimizer = LARS(groups, lr=recipe.lr, momentum=recipe.momentum)
        return optimizer
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, betas=recipe.betas)


def as_views(batch: Any) -> list[Tensor]:
    """The views of a batch as a list, laid out as convolutions like it; a bare tensor is one view.

    Raises:
        ValueError: If the batch is neither a tensor nor begins with views.
    """
    if isinstance(batch, Tensor):
        return [laid_out(batch)]
    if not isinstance(batch, list | tuple) or not batch:
        raise ValueError(
            f"A batch is (views, targets, ...) as Lightly's loaders give it, or a tensor; got {type(batch).__name__}."
        )
    views = batch[0] if isinstance(batch[0], list | tuple) else [batch[0]]
    return [laid_out(view) for view in views]
