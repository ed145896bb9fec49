"""An encoder with its head, of which all, some blocks or nothing but the head is trained."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.finetuning.layer_decay import in_block

MODES = ("head", "partial", "lora", "full")


class Adapter(Protocol):
    """Adds a few parameters to an encoder that are trained in place of its own, such as ``lightly_prg.models.LoRA``."""

    def add(self, network: nn.Module, /) -> Sequence[str]:
        """Adapts a network in place, which computes the same as before; returns the names of what is to be trained."""
        ...

    def merge(self, network: nn.Module, /) -> None:
        """Leaves an ordinary network of the same parameters' names that computes the same as the adapted one."""
        ...


class FineTuned(nn.Module):
    """A classifier: an encoder and a head on its embedding.

    Modules that are not trained stay in evaluation mode in ``train()``, so that the running statistics of their
    normalisations stay as they are, and their dropout is off.

    Args:
        encoder: Float images in [0, 1] to embeddings ``(B, D)``.
        head: Embeddings to logits ``(B, K)``.
        trained: Blocks of the encoder that are trained, as prefixes of its parameters' names; None for all.

    Example:
        >>> from lightly_prg.eval import RawPixels
        >>> FineTuned(RawPixels((1, 2, 2)), nn.Linear(4, 3))(torch.zeros(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, *, trained: Sequence[str] | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.trained = None if trained is None else tuple(trained)

    def forward(self, images: Tensor) -> Tensor:
        """Maps float images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``."""
        logits: Tensor = self.head(self.encoder(images).float())
        return logits

    def train(self, mode: bool = True) -> FineTuned:
        """Puts what is trained into training mode, and everything else into evaluation mode."""
        super().train(mode)
        for name, module in self.encoder.named_modules():
            module.training = mode and self._is_trained(name)
        return self

    def freeze(self) -> FineTuned:
        """Lets gradients reach the head and what is trained of the encoder, and nothing else."""
        self.head.requires_grad_(True)
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(self._is_trained(name))
        return self

    @property
    def trainable_parameters(self) -> int:
        """Numbers that training can change."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def _is_trained(self, name: str) -> bool:
        return self.trained is None or any(in_block(name, block) for block in self.trained)


def trained_blocks(encoder: nn.Module, mode: str, blocks: Sequence[str]) -> tuple[str, ...] | None:
    """The blocks of the encoder's own that a mode trains: none, those that are named, or (as None) all.

    Raises:
        UserError: If there is no such mode, blocks are missing or superfluous, or one has no parameter.
    """
    if mode not in MODES:
        raise UserError(f"There is no mode {mode!r}: allowed are {', '.join(MODES)}.")
    if isinstance(blocks, str):
        blocks = (blocks,)
    if mode != "partial":
        if blocks:
            raise UserError(f"Blocks are named, and the mode is {mode!r}; they are for the mode 'partial'.")
        return None if mode == "full" else ()
    known = _names(encoder)
    if not blocks:
        raise UserError(f"The mode 'partial' trains blocks that are named; {_proposal(encoder, known, '')}.")
    return tuple(_found(encoder, known, block) for block in blocks)


def _found(encoder: nn.Module, known: Sequence[str], block: str) -> str:
    """The block by the encoder's name for it, or by its network's own, as recipes and scans have it."""
    inside = [f"{child}.{block}" for child, _ in encoder.named_children() if f"{child}.{block}" in known]
    if block not in known and len(inside) != 1:
        raise UserError(f"The encoder has no parameters in {block!r}; {_proposal(encoder, known, block)}.")
    return block if block in known else inside[0]


def _names(encoder: nn.Module) -> list[str]:
    """Every prefix of every parameter's name, whole parts only."""
    found: dict[str, None] = {}
    for name, _ in encoder.named_parameters():
        parts = name.split(".")
        found.update(dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1)))
    return list(found)


def _proposal(encoder: nn.Module, known: Sequence[str], block: str) -> str:
    if not known:
        return "it has none at all, so that only the head can be trained"
    near = difflib.get_close_matches(block, known, n=4, cutoff=0.4)
    if near:
        return f"near are {', '.join(near)}"
    return f"it has {', '.join(getattr(encoder, 'blocks', ()) or [name for name in known if '.' not in name])}"
