"""The stream of training batches: what is in a batch depends on the seed and its position alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lightly_prg.data import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.hardware import decoding_workers
from lightly_prg.randomness import generator_for
from lightly_prg.recipe import Recipe


def count_steps(num_images: int, *, batch_size: int, epochs: int, max_steps: int | None) -> int:
    """Batches of a whole training.

    Raises:
        UserError: If the images are fewer than a batch.
    """
    if epochs and batch_size > num_images:
        raise UserError(f"train.batch_size is {batch_size}, but there are {num_images} training images.")
    steps = num_images // batch_size * epochs
    return steps if max_steps is None else min(steps, max_steps)


class BatchStream(Sampler[list[int]]):
    """Yields the image numbers of this process's part of every batch, over all epochs.

    Each epoch is a permutation drawn from (seed, epoch); images that do not fill a last batch wait for another epoch.

    Args:
        num_images: Size of the training set.
        batch_size: Images of a global batch.
        epochs: Passes over the set.
        seed: Of the permutations.
        start: Position (in batches) of the first batch that is yielded.
        rank: Which part of each global batch this process takes.
        processes: How many parts there are.
        max_steps: Batches after which the stream ends, if that is before its epochs do.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
        max_steps: int | None = None,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.processes = processes
        self.steps_per_epoch = num_images // batch_size
        self.total = count_steps(num_images, batch_size=batch_size, epochs=epochs, max_steps=max_steps)

    def __len__(self) -> int:
        # All of them, also when the stream starts in the middle: Lightning counts the ones before as done.
        return self.total

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.processes
        order: Tensor | None = None
        for position in range(self.start, len(self)):
            epoch, step = divmod(position, self.steps_per_epoch)
            if order is None or step == 0:
                order = torch.randperm(self.num_images, generator=generator_for(self.seed, "shuffle", epoch))
            begin = step * self.batch_size + self.rank * share
            yield order[begin : begin + share].tolist()


class TrainingData(LightningDataModule):
    """Feeds the Trainer: bytes from the image set, augmented and normalised on the device, in Lightly's batch format.

    Args:
        images: The training images.
        recipe: The recipe of the run.

    Raises:
        UserError: If a batch does not fit the set.
    """

    def __init__(self, images: ImageSet, recipe: Recipe) -> None:
        super().__init__()
        self.images = images
        self.recipe = recipe
        self.start = 0
        self.steps_per_epoch = len(images) // recipe.train.batch_size
        self.total = count_steps(
            len(images),
            batch_size=recipe.train.batch_size,
            epochs=recipe.train.epochs,
            max_steps=recipe.train.max_steps,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The stream of batches of this process."""
        assert self.trainer is not None
        settings, processes = self.recipe.train, self.trainer.world_size
        stream = BatchStream(
            len(self.images),
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=self.recipe.seed,
            start=self.start,
            rank=self.trainer.global_rank,
            processes=processes,
            max_steps=settings.max_steps,
        )
        workers = decoding_workers(settings.num_workers, processes=processes)
        return self.images.loader(batch_sampler=stream, num_workers=workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes the method's views on the device; draws depend on (seed, position) alone."""
        if not (isinstance(batch, Sequence) and isinstance(batch[0], Tensor) and batch[0].dtype == torch.uint8):
            return batch
        assert self.trainer is not None
        images, labels, names = batch
        module: Any = self.trainer.lightning_module
        position = self.trainer.fit_loop.epoch_loop.batch_idx + 1
        views = module.make_views(
            images,
            generator=generator_for(self.recipe.seed, "augment", position, device=images.device),
            global_batch=self.trainer.world_size * len(images),
            first=self.trainer.global_rank * len(images),
        )
        return views, labels, names
