"""Parameter groups for fine-tuning: learning rates that shrink from the head to the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from lightly_prg.errors import UserError

ParameterGroup = dict[str, Any]
"""What torch's optimisers take: ``params``, ``lr``, ``weight_decay``."""

ParameterGroups = Callable[[nn.Module, nn.Module, float], list[ParameterGroup]]
"""``(encoder, head, learning_rate)`` to the groups of all their trainable parameters."""


def layer_groups(
    encoder: nn.Module,
    head: nn.Module,
    *,
    lr: float,
    decay: float,
    weight_decay: float,
    decay_one_dimensional: bool = False,
) -> list[ParameterGroup]:
    """Groups the trainable parameters, each with a learning rate of its own (arXiv 2111.06377, appendix A).

    The head has ``lr``, the last of the encoder's n ``blocks`` has ``lr * decay``, the first ``lr * decay**n``, and
    parameters that come before all blocks ``lr * decay**(n + 1)``. A parameter in several blocks belongs to the one of
    the longest name. One in none, such as a last normalisation, goes with the block whose parameters come before it.

    The learning rates are real ones, in ``lr`` of each group, so that any scheduler that multiplies them keeps their
    ratios.

    Args:
        encoder: A module with ``blocks``, prefixes of its parameters' names from input to output; needed only where
            ``decay`` is not 1.
        head: Its classifier.
        lr: Learning rate of the head.
        decay: Factor from one block to the one before it, in (0, 1].
        weight_decay: Of parameters of two and more dimensions.
        decay_one_dimensional: Whether the others, biases and scales, have it as well.

    Returns:
        Groups from input to output; every trainable parameter is in exactly one.

    Raises:
        UserError: If the learning rates are to decay and the encoder does not say in what order its blocks are, or
            names one that has no parameter.
    """
    if not 0.0 < decay <= 1.0:
        raise UserError(f"The layer decay is {decay}; it has to lie in (0, 1].")
    trainable = any(parameter.requires_grad for parameter in encoder.parameters())
    distances = _distances(encoder) if decay < 1.0 and trainable else {}
    members: dict[tuple[int, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for part, distance_of in ((encoder, distances), (head, {})):
        for name, parameter in part.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                decayed = decay_one_dimensional or parameter.ndim > 1
                members.setdefault((distance_of.get(name, 0), decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * decay**distance,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (distance, decayed), parameters in sorted(members.items(), key=lambda item: item[0], reverse=True)
    ]


def in_block(name: str, block: str) -> bool:
    """Whether a dotted name is ``block`` or lies in it: ``blocks.1.weight`` in ``blocks.1``, not in ``blocks.10``."""
    return name == block or name.startswith(f"{block}.")


def check_groups(groups: Iterable[ParameterGroup], model: nn.Module) -> None:
    """Refuses groups that leave a trainable parameter out, hold one twice, or hold another.

    Raises:
        ValueError: With the name of the parameter.
    """
    counts: dict[int, int] = {}
    for group in groups:
        for parameter in group["params"]:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    for name, parameter in model.named_parameters():
        count = counts.pop(id(parameter), 0)
        if count != int(parameter.requires_grad):
            state = "trainable" if parameter.requires_grad else "frozen"
            raise ValueError(f"The {state} parameter {name!r} is in {count} parameter groups.")
    if counts:
        raise ValueError(f"The parameter groups hold {len(counts)} parameters that the model does not have.")


def _distances(encoder: nn.Module) -> dict[str, int]:
    """Steps from the head for every parameter's name."""
    blocks: Sequence[str] = tuple(getattr(encoder, "blocks", ()))
    if not all(isinstance(block, str) for block in blocks) or not blocks:
        raise UserError(
            f"The learning rates are to decay by depth, and the encoder {type(encoder).__name__} does not name its "
            "`blocks` from input to output; choose the preset 'shared', or give parameter_groups."
        )
    names = [name for name, _ in encoder.named_parameters()]
    for block in blocks:
        if not any(in_block(name, block) for name in names):
            raise UserError(f"The encoder names a block {block!r}, and none of its parameters lies in it.")
    distances: dict[str, int] = {}
    current = len(blocks) + 1
    for name in names:
        mine = [place for place, block in enumerate(blocks) if in_block(name, block)]
        if mine:
            current = len(blocks) - max(mine, key=lambda place: len(blocks[place]))
        distances[name] = current
    return distances
