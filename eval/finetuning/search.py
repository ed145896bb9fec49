"""The grid of learning rates: each trained from the same start, one chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.loop import EpochRecord, FinetuneLoop, NotFiniteError
from lightly_prg.eval.finetuning.model import FineTuned
from lightly_prg.randomness import generator_for


@dataclass(frozen=True)
class LearningRateTrial:
    """What one learning rate of the grid gave.

    Attributes:
        learning_rate: Its peak, for the head.
        validation_top1: Percent after the last epoch; None where it failed.
        train_loss: Mean of the last epoch; None where it failed.
        failed_at_step: The step, from 0, at which the loss or the predictions were not finite; None where they were.
    """

    learning_rate: float
    validation_top1: float | None
    train_loss: float | None
    failed_at_step: int | None


@dataclass(frozen=True, eq=False)
class Winner:
    """The chosen training.

    Attributes:
        learning_rate: Its peak, for the head.
        model: After the last step.
        curve: Its epochs.
    """

    learning_rate: float
    model: FineTuned
    curve: tuple[EpochRecord, ...]

    @property
    def validation_top1(self) -> float:
        """Percent after the last epoch."""
        value = self.curve[-1].validation_top1
        assert value is not None
        return value


def search_learning_rate(
    loop: FinetuneLoop,
    grid: Sequence[float],
    *,
    build: Callable[[], FineTuned],
    progress: Callable[[int, int], object] | None,
) -> tuple[tuple[LearningRateTrial, ...], Winner]:
    """Trains at each learning rate, from small to large; the highest validation accuracy wins, the first of equal ones.

    Args:
        loop: The training.
        grid: In ascending order.
        build: Makes the model to train; it, and dropout, draw from the global generators, which are seeded here.
        progress: Called with the number of steps done and of all, over the whole grid.

    Raises:
        UserError: If every learning rate failed.
    """
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, loop.steps * len(grid))

    trials: list[LearningRateTrial] = []
    winner: Winner | None = None
    for number, rate in enumerate(grid, start=1):
        torch.manual_seed(generator_for(loop.seed, "fine-tuning").initial_seed())
        model = build()
        try:
            curve = loop.fit(model, rate, tick=tick)
        except NotFiniteError as error:
            trials.append(LearningRateTrial(rate, None, None, error.step))
            done = number * loop.steps  # those that are left out
            continue
        found = Winner(rate, model, curve)
        trials.append(LearningRateTrial(rate, found.validation_top1, curve[-1].train_loss, None))
        if winner is None or found.validation_top1 > winner.validation_top1:
            winner = found
    if winner is None:
        tried = ", ".join(f"{rate:g}" for rate in grid)
        raise UserError(f"The loss was not finite at every learning rate tried ({tried}); choose smaller ones.")
    return tuple(trials), winner
