"""Embedding a data set with an encoder, once: the features that every evaluator works on."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.cache import CacheEntry, encoder_sha256
from lightly_prg.eval.device import resolve_device
from lightly_prg.eval.embeddings import Embeddings, Features

Progress = Callable[[int, int], object]
"""Called with (images done, images in all)."""

PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


class Encoder(Protocol):
    """What an ``nn.Module`` needs to be evaluated.

    Attributes:
        embedding_dim: D.
        nfe: Network evaluations that one embedding costs; a network that is run once has 1.
    """

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    @property
    def nfe(self) -> float:
        """Network evaluations for one image."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Maps float images in [0, 1], ``(B, C, H, W)``, to embeddings ``(B, D)``."""
        ...


class ImageDataset(Protocol):
    """A set of images that can be embedded, such as ``lightly_prg.data.ImageSet``."""

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64, -1 where unknown."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """N names."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the images as they are given: content, order, size and channels."""
        ...

    def __len__(self) -> int: ...

    def loader(self, *, batch_size: int, num_workers: int) -> Iterable[tuple[Tensor, Tensor, Sequence[str]]]:
        """Batches ``(images (B, C, H, W) uint8, labels (B,), B names)`` in the order of the set."""
        ...


def in_unit_range(images: Tensor) -> Tensor:
    """Bytes divided by 255; floats as they are."""
    return images if images.is_floating_point() else images.float() / 255


def check_images(dataset: object) -> None:
    """Refuses what is no set of images as evaluators take them.

    Raises:
        ValueError: If it is none.
    """
    if not (hasattr(dataset, "labels") and hasattr(dataset, "loader")):
        raise ValueError(
            f"A set of images with labels is needed, got {type(dataset).__name__}: lightly_prg.wrap_dataset(dataset) "
            "makes one of any map-style data set."
        )


def check_encoder(encoder: object) -> None:
    """Refuses a method in training, whose ``forward`` takes images in its own range.

    Raises:
        ValueError: If it is one.
    """
    if inspect.ismethod(getattr(encoder, "encoder", None)) and not hasattr(encoder, "embedding_dim"):
        raise ValueError(f"{type(encoder).__name__} is a method in training: give its encoder(), which takes [0, 1].")


def embed(
    encoder: nn.Module,
    dataset: ImageDataset,
    *,
    batch_size: int = 250,
    device: str | torch.device = "auto",
    precision: str = "32",
    cache_dir: Path | None = None,
    cache_key: str | None = None,
    progress: Progress | None = None,
    num_workers: int = 0,
) -> Embeddings:
    """Embeds every image of a data set, without gradients and in evaluation mode.

    Args:
        encoder: A module such as ``Encoder`` describes. It comes back on its device and in the
            modes in which it was given.
        dataset: The images; bytes are divided by 255, floats are taken as they are.
        batch_size: Images at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``32``, or ``bf16`` or ``16`` for automatic mixed precision. The features are
            float32 always.
        cache_dir: A folder in which the embeddings are kept and looked up; the features are then a
            memory map. Default: nothing is kept.
        cache_key: Names the encoder in the cache in place of the hash of its weights and settings.
        progress: Called with the number of images done and of all.
        num_workers: Processes that read images.

    Raises:
        UserError: If the data set is empty, or the embeddings do not fit on the disk.
        ValueError: If an option is not allowed, the data set or the encoder is none, or the encoder does not give
            ``(B, D)``.
        FloatingPointError: If an embedding is not finite; the message names its image.

    Example:
        >>> embeddings = embed(RawPixels((1, 28, 28)), splits.test)  # doctest: +SKIP
        >>> embeddings.features.shape  # doctest: +SKIP
        (10000, 784)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least 1 is needed.")
    check_encoder(encoder)
    check_images(dataset)
    precision = str(precision)
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed are {', '.join(PRECISIONS)}.")
    rows = len(dataset)
    if rows == 0:
        raise UserError("The data set is empty: there are no images to embed.")
    labels = np.asarray(dataset.labels, dtype=np.int64)
    names = tuple(dataset.names)
    entry = None
    if cache_dir is not None:
        entry = cache_entry(encoder, dataset, Path(cache_dir), cache_key, precision)
        if (found := entry.read()) is not None:
            if progress is not None:
                progress(rows, rows)
            return Embeddings(found[0], labels, names, found[1], found[2])

    start = time.perf_counter()
    with (
        evaluation_mode(encoder, resolve_device(device)) as place,
        closing(
            embedded(
                encoder,
                dataset.loader(batch_size=batch_size, num_workers=num_workers),
                names,
                place,
                PRECISIONS[precision],
                progress,
            )
        ) as batches,
    ):
        if entry is None:
            features = _collected(batches, rows)
        else:
            checksum = entry.write_features(batches)
    seconds = time.perf_counter() - start
    nfe = getattr(encoder, "nfe", 1)
    if entry is not None:
        entry.write_facts(checksum=checksum, nfe=nfe, seconds=seconds)
        features = np.load(entry.features_file, mmap_mode="r", allow_pickle=False)
    return Embeddings(features, labels, names, nfe, seconds)


def cache_entry(
    encoder: nn.Module, dataset: ImageDataset, folder: Path, cache_key: str | None, precision: str
) -> CacheEntry:
    """Where the embeddings of these images by this encoder lie in a cache."""
    encoder_key = cache_key if cache_key is not None else encoder_sha256(encoder)
    return CacheEntry(folder, (encoder_key, dataset.fingerprint, precision), len(dataset))


@contextmanager
def evaluation_mode(encoder: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """Moves the encoder to the device and into evaluation mode, and back."""
    # Module by module: a frozen part may be in evaluation mode while the rest trains.
    modes = [(module, module.training) for module in encoder.modules()]
    home = next((t.device for t in (*encoder.parameters(), *encoder.buffers())), device)
    encoder.to(device).eval()
    try:
        yield device
    finally:
        for module, training in modes:
            module.training = training
        encoder.to(home)


def embedded(
    encoder: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor, Sequence[str]]],
    names: Sequence[str],
    device: torch.device,
    autocast: torch.dtype | None,
    progress: Progress | None,
) -> Generator[Features, None, None]:
    """Yields the features ``(B, D)`` of one batch after the other."""
    done = 0
    for images, _, batch_names in loader:
        expected = names[done : done + len(images)]
        if tuple(batch_names) != tuple(expected):
            raise ValueError(
                f"The loader gave {batch_names[0]!r} as image {done}; it has to keep the order of the set's names."
            )
        images = in_unit_range(images.to(device))
        # Not inference_mode: what an encoder computes once and keeps has to serve training later.
        with (
            torch.no_grad(),
            torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
        ):
            output = encoder(images)
        if output.ndim != 2 or len(output) != len(images):
            raise ValueError(
                f"The encoder made {tuple(output.shape)} of {len(images)} images; ({len(images)}, D) is needed."
            )
        features = output.float().cpu().numpy()
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            name = expected[int(np.argmin(finite))]
            raise FloatingPointError(f"The embedding of {name!r} holds NaN or infinity.")
        yield features
        done += len(images)
        if progress is not None:
            progress(done, len(names))
    if done != len(names):
        raise ValueError(f"The loader gave {done} images of {len(names)}.")


def _collected(batches: Iterator[Features], rows: int) -> Features:
    first = next(batches)
    features = np.empty((rows, first.shape[1]), dtype=np.float32)
    features[: len(first)] = first
    done = len(first)
    for batch in batches:
        features[done : done + len(batch)] = batch
        done += len(batch)
    return features
