"""A data set and an encoder that are small and known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

SHAPE = (2, 4, 4)


class Images:
    """Seven random uint8 images in channels_last memory."""

    def __init__(self, rows: int = 7, fingerprint: str = "seven") -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (rows, *SHAPE), dtype=torch.uint8, generator=generator)
        self.labels = torch.arange(rows) - 1
        self.names = [f"{row}.png" for row in range(rows)]
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.images)

    def loader(self, *, batch_size: int, num_workers: int) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            images = self.images[part].contiguous(memory_format=torch.channels_last)
            yield images, self.labels[part], self.names[part]


class Encoder(nn.Module):
    """A linear map with a dropout and a frozen normalisation, which modes change."""

    embedding_dim = 3
    nfe = 5

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 32, generator=generator))
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3).eval()

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return self.norm(self.dropout(images.flatten(1) @ self.weight.T))
