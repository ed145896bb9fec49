"""Making training batches: whole batches at once beside Lightly's transforms in a DataLoader of two workers.

Ours: bytes in memory, read, augmented and normalised batch by batch, as ``lightly_prg.train`` does. Against: a
``LightlyDataset`` of PIL images, as torchvision's CIFAR-10 gives them; for SimCLR with Lightly's
``SimCLRTransform`` at its settings for 32 x 32, for PRG with torchvision's flip, conversion and normalisation.

Every operation is compared with torchvision's at equal parameters: the largest difference of a pixel in [0, 1]. That
the parameters are drawn alike is tested in ``tests/test_resized_crop.py`` and ``tests/test_color_jitter.py``.

    python eval/benchmarks/pipeline.py

About two minutes on two cores; after four (``--limit``) no further round is begun.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightly.data import LightlyDataset
from lightly.transforms.simclr_transform import SimCLRTransform
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.transforms.v2 import functional as F

from lightly_prg.data.image_set import ImageSet
from lightly_prg.eval.benchmarks import timing
from lightly_prg.eval.benchmarks.timing import Case
from lightly_prg.randomness import generator_for
from lightly_prg.training.batches import BatchStream
from lightly_prg.transforms import HALF_NORMALIZE, augment_batch, normalize_batch
from lightly_prg.transforms.color_jitter import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    random_greyscale,
)
from lightly_prg.transforms.resized_crop import resample_boxes
from lightly_prg.transforms.views import simclr_views

BATCH = 256
LEVELS = 2 / 255
SIZE = 32

Views = Callable[[Tensor, torch.Generator], list[Tensor]]


class InMemory(Dataset[tuple[Any, int]]):
    """Images as torchvision's CIFAR-10 holds and gives them; ``LightlyDataset`` sets the transform."""

    transform: Callable[[Image.Image], Any]

    def __init__(self, images: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def main(arguments: Sequence[str] | None = None) -> int:
    found = timing.parser(__doc__)
    found.add_argument("--images", type=int, default=5120, help="of an epoch")
    options = found.parse_args(arguments)
    turns = timing.begin(options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # where there are fewer cores
        return timing.report(cases(options, turns))


def cases(options: argparse.Namespace, turns: timing.Turns) -> Iterator[Case]:
    yield from operations()
    count = 2 * BATCH if options.quick else options.images
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator_for(0, "pipeline"))
    ways: dict[str, Callable[[], object]] = {}
    for name, (views, transform) in METHODS.items():
        ways[f"ours, {name}"] = our_epoch(images, views, options.device)
        ways[f"against, {name}"] = lightly_epoch(images, transform)
    seconds = turns(ways)
    for name in METHODS:
        yield timing.faster(
            f"seconds of {count} images, {name}", seconds[f"ours, {name}"], seconds[f"against, {name}"], 3.0
        )


def prg_views(images: Tensor, generator: torch.Generator) -> list[Tensor]:
    return [normalize_batch(augment_batch(images, horizontal_flip=True, crop_padding=0, generator=generator))]


def contrasted_views(images: Tensor, generator: torch.Generator) -> list[Tensor]:
    return [view.mul_(2).sub_(1) for view in simclr_views(images, generator=generator)]


METHODS: dict[str, tuple[Views, Callable[[Image.Image], Any]]] = {
    "PRG": (prg_views, T.Compose([T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(**HALF_NORMALIZE)])),
    "SimCLR": (
        contrasted_views,
        SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0, normalize=HALF_NORMALIZE),
    ),
}


def our_epoch(images: Tensor, views: Views, device: str) -> Callable[[], object]:
    dataset = ImageSet(images, labels=None, names=[str(number) for number in range(len(images))])

    def epoch() -> None:
        stream = BatchStream(len(images), batch_size=BATCH, epochs=1, seed=0)
        for number, (batch, _, _) in enumerate(dataset.loader(batch_sampler=stream)):
            views(batch.to(device), generator_for(0, "augment", number, device=device))

    return epoch


def lightly_epoch(images: Tensor, transform: Callable[[Image.Image], Any]) -> Callable[[], object]:
    dataset = LightlyDataset.from_torch_dataset(InMemory(images), transform=transform)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def operations() -> Iterator[Case]:
    """The largest difference of each operation from torchvision's on bytes, at equal parameters."""
    images = torch.randint(256, (64, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator_for(0, "operations"))
    floats = images / 255
    shares = torch.rand(64, generator=generator_for(0, "parameters"))
    factors = 0.6 + 0.8 * shares  # what a strength of 0.5 allows
    boxes = torch.stack(
        [(8 * shares).long(), (12 * shares.flip(0)).long(), 12 + (12 * shares).long(), 20 - (8 * shares).long()], 1
    )
    jitters = {
        "brightness": (adjust_brightness, F.adjust_brightness, factors),
        "contrast": (adjust_contrast, F.adjust_contrast, factors),
        "saturation": (adjust_saturation, F.adjust_saturation, factors),
        "hue": (adjust_hue, F.adjust_hue, 0.2 * shares - 0.1),
    }
    pairs: dict[str, tuple[Tensor, list[Tensor]]] = {
        "resized crop": (
            resample_boxes(images, boxes),
            [F.resized_crop(i, *box, [SIZE, SIZE]) for i, box in zip(images, boxes.tolist(), strict=True)],
        ),
        "horizontal flip": (
            resample_boxes(images, torch.tensor([[0, 0, SIZE, SIZE]]).expand(64, -1), flipped=torch.ones(64).bool()),
            [F.horizontal_flip(image) for image in images],
        ),
        "greyscale": (
            random_greyscale(floats, probability=1.0, generator=None),
            [F.rgb_to_grayscale(image, num_output_channels=3) for image in images],
        ),
        **{
            name: (ours(floats, values), [theirs(i, v) for i, v in zip(images, values.tolist(), strict=True)])
            for name, (ours, theirs, values) in jitters.items()
        },
    }
    for name, (ours, theirs) in pairs.items():
        difference = float((ours - torch.stack(theirs) / 255).abs().max())
        yield timing.value_at_most(f"largest difference of a pixel, {name}", difference, LEVELS)


if __name__ == "__main__":
    sys.exit(main())
