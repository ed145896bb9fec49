"""Where a generator that diffusers saved keeps its parts; without importing diffusers, so that errors come at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.errors import UserError
from lightly_prg.files import read_json

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class DiffusersFolder:
    """A U-Net and its scheduler on disk.

    Attributes:
        folder: What was given.
        unet: The folder of the U-Net: ``config.json`` and weights.
        scheduler: The file ``scheduler_config.json``.
    """

    folder: Path
    unet: Path
    scheduler: Path

    @property
    def unet_config(self) -> dict[str, Any]:
        """The content of the U-Net's ``config.json``."""
        return read_json(self.unet / "config.json")

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The content of ``scheduler_config.json``."""
        return read_json(self.scheduler)


def is_hub_id(source: str) -> bool:
    """Whether ``source`` is no folder here but may be the name of a model on the Hugging Face hub: ``owner/name``."""
    return not Path(source).exists() and _HUB_ID.match(source) is not None


def open_diffusers_folder(source: str | Path) -> DiffusersFolder:
    """Finds the parts of a generator in a folder as diffusers' ``save_pretrained`` writes it.

    Args:
        source: The folder of a pipeline, with ``unet/`` and ``scheduler/``, or of a U-Net alone with its
            ``scheduler_config.json`` beside its ``config.json``.

    Raises:
        UserError: If there is no such folder, a part is missing, the network is of another kind, or its weights would
            have to be unpickled, which can run code.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: a generator as diffusers' save_pretrained writes it is needed.")
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler = next(
        (f for f in (folder / "scheduler", folder, unet) if (f / "scheduler_config.json").is_file()),
        None,
    )
    if not (unet / "config.json").is_file():
        raise UserError(f"{folder} holds no generator of diffusers: there is no unet/config.json and no config.json.")
    if scheduler is None:
        raise UserError(f"{folder} holds no scheduler_config.json, which says how noisy the U-Net's timesteps are.")
    found = DiffusersFolder(folder, unet, scheduler / "scheduler_config.json")
    kind = found.unet_config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise UserError(
            f"{unet} holds a {kind}; a UNet2DModel is needed. In Python, lightly_prg.models.velocity_from takes any "
            "module."
        )
    if not any(unet.glob("*.safetensors")):
        pickled = sorted(file.name for file in (*unet.glob("*.bin"), *unet.glob("*.pt*"), *unet.glob("*.ckpt")))
        if pickled:
            raise UserError(
                f"{unet} holds its weights as {pickled[0]}, and reading that kind of file can run code: where you "
                "trust it, load it with diffusers and save it again, which writes .safetensors."
            )
        raise UserError(f"{unet} holds no weights: there is no .safetensors file.")
    return found


def image_shape(unet_config: Mapping[str, Any]) -> tuple[int, int | None]:
    """Channels and side of the images that a U-Net was made for; None where its configuration leaves the side open.

    Raises:
        UserError: If the images are not square.
    """
    side = unet_config.get("sample_size")
    if isinstance(side, list | tuple):
        if len(set(side)) != 1:
            raise UserError(f"The U-Net generates images of {side}; square ones are needed.")
        side = side[0]
    return int(unet_config.get("in_channels", 3)), None if side is None else int(side)
