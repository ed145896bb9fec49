"""Networks that were trained elsewhere: timm's and torchvision's, without their classifier."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError

_CLASSIFIERS = ("fc", "classifier", "head", "heads", "head_dist", "last_linear", "num_batches_tracked")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network and how it wants its images.

    Attributes:
        network: Normalised images ``(B, 3, H, W)`` to features.
        mean: Of the normalisation, for each channel.
        std: Likewise.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


def build_pretrained(source: str, *, weights: str = "default", image_size: int) -> PretrainedNetwork:
    """Builds a network of a library and, unless ``weights`` is ``none``, loads what it learned.

    Args:
        source: ``timm:NAME`` or ``torchvision:NAME``.
        weights: ``default`` for the library's own (downloaded where they are not cached), ``none`` for random ones, or
            a file (.safetensors, or .pth that loads without running code).
        image_size: Side of the images that it will see.

    Raises:
        UserError: If there is no such network, its weights cannot be had, or a file does not fit.
    """
    library, _, name = source.partition(":")
    own = weights == "default"
    try:
        found = _from_timm(name, own, image_size) if library == "timm" else _from_torchvision(name, own)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip("'\"").splitlines()[0].rstrip(".")
        raise UserError(f"{source} cannot be built for images of {image_size} pixels: {reason}.") from None
    except OSError as error:  # no network, no cache
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"The weights of {source} cannot be downloaded: {reason}. Give a file of weights, or weights=none."
        ) from None
    if weights not in ("default", "none"):
        _load_file(found.network, Path(weights), source)
    return found


def _from_timm(name: str, own: bool, image_size: int) -> PretrainedNetwork:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:5]
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise UserError(f"timm has no model {name!r}.{hint}")
    config = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": 0, "pretrained": own}
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size  # position embeddings are resampled to it
    network: nn.Module = timm.create_model(name, **options)
    mean, std = (tuple(config.mean), tuple(config.std)) if config is not None else _IMAGENET
    return PretrainedNetwork(network, mean, std)


def _from_torchvision(name: str, own: bool) -> PretrainedNetwork:
    from torchvision import models

    if name not in models.list_models(module=models):  # detectors and their like, which it has too, give no vector
        raise UserError(
            f"torchvision has no classifier {name!r}; `torchvision.models.list_models(module=torchvision.models)` "
            "lists them."
        )
    network: nn.Module = models.get_model(name, weights="DEFAULT" if own else None)
    for classifier in ("fc", "classifier", "head", "heads"):
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
            break
    return PretrainedNetwork(network, *_IMAGENET)


def _load_file(network: nn.Module, path: Path, source: str) -> None:
    state = {key.removeprefix("module."): value for key, value in read_weights(path).items()}
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit {source}: {reason}") from None
    foreign = [key for key in result.unexpected_keys if key.split(".")[0] not in _CLASSIFIERS]
    missing = [key for key in result.missing_keys if key.split(".")[-1] not in _CLASSIFIERS]
    if missing or foreign:
        kind, keys = ("lacks", missing) if missing else ("holds, foreign to it,", foreign)
        raise UserError(f"{path} does not fit {source}: it {kind} {len(keys)} weights, such as {keys[0]!r}.")


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Reads a file of weights as plain data; a training checkpoint's ``state_dict`` or ``model`` is taken from it.

    Raises:
        UserError: If there is no such file, or it holds no weights, or reading it would run code.
    """
    if not path.is_file():
        raise UserError(f"There is no file of weights {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0].rstrip(".:")
        safe = " It holds more than plain weights." if isinstance(error, pickle.UnpicklingError) else ""
        raise UserError(f"{path} cannot be read as weights: {reason}.{safe}") from None
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no weights: a mapping of names to tensors is needed.")
    return content
