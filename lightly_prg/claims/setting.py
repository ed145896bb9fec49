"""At what size a claim is tested, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def setting(study: Mapping[str, Any], training: Mapping[str, Mapping[str, Any]]) -> str:
    """Test images, labels, epochs, steps, learning rates; network and length of the pretraining once it is known.

    Args:
        study: The section of a claim's recipe.
        training: What each pretraining was, as result.json has it; empty before it was done.
    """
    parts = [_images(study["test_images"], "test")]
    if "scan_images" in study:
        parts.append(f"features chosen with {study['scan_images']:,} training images")
    if "train_images" in study:
        parts.append(f"probes fitted on {study['train_images']:,} images")
    if "samples" in study:
        parts.append(f"{study['samples']:,} samples, and round trips of {_images(study['images'], 'test')}")
    elif "images" in study:
        parts.append(f"the flow measured on {_images(study['images'], 'validation')}")
    if "labels" in study:
        parts.append(f"fine-tuned on {_several(study['labels'])} labels of each class for {_epochs(study)}")
        steps = study["train_steps"] if "train_steps" in study else study["steps"]
        parts.append(f"through {_several(steps)} Euler steps")
        rates = ", ".join(f"{rate:g}" for rate in study["learning_rates"])
        parts.append(f"the learning rate one of {rates}, chosen on {_images(study['validation_images'], 'validation')}")
    if training:
        runs = training.values()
        sizes_of_networks = _several(f"{run['parameters'] / 1e6:.2f} M" for run in runs)
        steps_of_runs = _several(f"{run['steps']:,}" for run in runs)
        parts.append(f"a network of {sizes_of_networks} parameters")
        sizes = ("{1} x {2}".format(*run["input_shape"]) for run in runs)
        minutes = [run["cpu_seconds"] / 60 for run in runs]
        parts.append(
            f"pretrained for {_several(run['epochs'] for run in runs)} epochs "
            f"({steps_of_runs} steps) of {_several(sizes)} images in "
            f"{' to '.join(dict.fromkeys(f'{end:.0f}' for end in (min(minutes), max(minutes))))} CPU-minutes"
        )
    return "; ".join(parts) + "."


def _images(count: int | None, split: str) -> str:
    return f"all {split} images" if count is None else f"{count:,} {split} images"


def _epochs(study: Mapping[str, Any]) -> str:
    told = f"{_several(study['epochs'])} epochs"
    if "scratch_epochs" in study:
        told += f", fresh weights for {_several(study['scratch_epochs'])}"
        if "resnet" in study:
            told += ", the ResNet for as many multiply-adds"
    return told


def _several(values: Any) -> str:
    """``4 and 8``; each once."""
    several = values if isinstance(values, Iterable) and not isinstance(values, str) else (values,)
    return " and ".join(dict.fromkeys(f"{value}" for value in several))
