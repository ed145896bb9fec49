"""diffusers' ``UNet2DModel`` and its scheduler as a velocity network."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightly_prg.diffusers_folder import image_shape, is_hub_id, open_diffusers_folder
from lightly_prg.errors import UserError
from lightly_prg.flow import SchedulerPath
from lightly_prg.models.velocity_adapter import Call, VelocityFrom, velocity_from

PREDICTIONS = {"epsilon": "noise", "sample": "denoised", "v_prediction": "v"}
"""diffusers' names for what a network predicts, and ours."""

_NO_SIGNAL = 2.0**-24  # what some schedulers write for a last level of zero, which they divide by


class DiffusersVelocity(VelocityFrom):
    """What `from_diffusers` returns: a `VelocityFrom` that can be saved and built again.

    Attributes:
        origin: The configurations of the U-Net and the scheduler and the label, for `build_diffusers`.
        input_shape: (C, H, W) of the images, where the U-Net's configuration says it.
    """

    def __init__(self, unet: nn.Module, scheduler: Any, label: int | None) -> None:
        prediction, path = _conventions(scheduler)
        call = _caller(unet, label)
        found = velocity_from(unet, prediction, path, time=path.timestep, call=call, block_names=_block_names(unet))
        super().__init__(unet, prediction, found.path, path.timestep, call, 1.0, found.block_names)
        self.origin: dict[str, Any] = {"unet": _plain(unet), "scheduler": _plain(scheduler), "label": label}
        channels, side = image_shape(self.origin["unet"])
        self.input_shape = None if side is None else (channels, side, side)


def from_diffusers(unet: nn.Module, scheduler: Any, *, label: int | None = None) -> DiffusersVelocity:
    """A ``UNet2DModel`` with the scheduler that it was trained with, as a velocity network.

    The scheduler's table becomes a `SchedulerPath`: timestep ``t`` of N lies at ``tau = (t + 1) / N`` and the clean
    image at 0. Any scheduler with ``alphas_cumprod`` and ``prediction_type`` will do; which one samples best does not
    matter, as they share the table. Clipping and thresholding of the estimated image are left out: they are not part of
    the flow. Where the network predicts the image itself (``sample``), the path starts at timestep 0, since without
    noise in the state its prediction does not tell the velocity.

    Args:
        unet: The network; it is called as ``unet(x, timestep)``.
        scheduler: For example a ``DDPMScheduler`` or ``DDIMScheduler``.
        label: The class that every image is taken for, for a class-conditional network.

    Returns:
        The velocity network. Its blocks have the names they have in the U-Net, for example ``mid_block``.

    Raises:
        ValueError: If the scheduler has no such table, or a label is missing or out of place.

    Example:
        >>> from diffusers import DDPMPipeline  # doctest: +SKIP
        >>> pipeline = DDPMPipeline.from_pretrained("folder", use_safetensors=True)  # doctest: +SKIP
        >>> velocity = from_diffusers(pipeline.unet, pipeline.scheduler)  # doctest: +SKIP
    """
    return DiffusersVelocity(unet, scheduler, label)


def load_diffusers(source: str, *, label: int | None = None) -> DiffusersVelocity:
    """Loads a generator from a folder that diffusers' ``save_pretrained`` wrote, or from the Hugging Face hub.

    Only ``.safetensors`` are read, which cannot run code.

    Args:
        source: The folder of a pipeline or of a U-Net with its scheduler, see `open_diffusers_folder`; or, where there
            is no such folder, ``owner/name`` on the hub, taken from the local cache or downloaded.
        label: As in `from_diffusers`.

    Raises:
        UserError: If diffusers is not installed, or there is no such generator, or it does not fit its configuration.
    """
    if is_hub_id(source):
        _diffusers()  # which brings what is needed to download
        source = _download(source)
    folder = open_diffusers_folder(source)  # a mistyped one is told before diffusers is imported
    diffusers = _diffusers()
    try:
        unet, report = diffusers.UNet2DModel.from_pretrained(
            str(folder.unet),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers lets through what safetensors, json and torch raise
        raise UserError(f"The U-Net in {folder.unet} cannot be loaded: {_first_line(error)}.") from None
    if report["missing_keys"]:
        raise UserError(
            f"The weights in {folder.unet} do not fit its config.json: {len(report['missing_keys'])} are missing, "
            f"such as {report['missing_keys'][0]!r}."
        )
    return _checked(unet.float(), folder.scheduler_config, label, str(folder.folder)).eval()


def build_diffusers(origin: Mapping[str, Any]) -> DiffusersVelocity:
    """Builds the network of `DiffusersVelocity.origin` again, with fresh weights.

    Raises:
        UserError: If diffusers is not installed, or the configurations are not its own.
    """
    diffusers = _diffusers()
    try:
        unet = diffusers.UNet2DModel.from_config(dict(origin["unet"]))
    except Exception as error:
        raise UserError(f"diffusers cannot build the U-Net: {_first_line(error)}.") from None
    return _checked(unet, origin["scheduler"], origin.get("label"), "the run")


def _checked(unet: nn.Module, scheduler_config: Mapping[str, Any], label: int | None, source: str) -> DiffusersVelocity:
    name = scheduler_config.get("_class_name", "DDPMScheduler")
    kind = getattr(_diffusers(), name, None)
    if kind is None:
        raise UserError(f"{source} names a scheduler {name!r}, which diffusers does not have.")
    try:
        with torch.device("cpu"):  # its table is needed even where nothing is computed, on the device `meta`
            scheduler = kind.from_config(dict(scheduler_config))
        return from_diffusers(unet, scheduler, label=label)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{source}: {_first_line(error)}.") from None


def _conventions(scheduler: Any) -> tuple[str, SchedulerPath]:
    """What the network predicts, and the path of the scheduler's table."""
    config = scheduler.config
    levels = getattr(scheduler, "alphas_cumprod", None)
    kind = config.get("prediction_type", "epsilon")
    if levels is None or kind not in PREDICTIONS:
        raise ValueError(
            f"A scheduler with alphas_cumprod and a prediction_type of {', '.join(PREDICTIONS)} is needed, such as "
            f"DDPMScheduler or DDIMScheduler; {type(scheduler).__name__} is of another kind"
        )
    table = levels.double().tolist()
    if len(table) > 1 and table[-2] <= table[-1] <= _NO_SIGNAL:  # where diffusers writes a last level of zero so
        table[-1] = 0.0
    path = SchedulerPath(
        tuple(table),
        set_alpha_to_one=bool(config.get("set_alpha_to_one", True)) and kind != "sample",
        spacing=config.get("timestep_spacing", "leading"),
        steps_offset=int(config.get("steps_offset", 0)),
    )
    return PREDICTIONS[kind], path


def _caller(unet: nn.Module, label: int | None) -> Call:
    module: Any = unet
    if not all(hasattr(module, part) for part in ("config", "down_blocks", "mid_block", "up_blocks")):
        raise ValueError(f"A UNet2DModel is needed, got {type(unet).__name__}; velocity_from takes any module")
    conditional = getattr(module, "class_embedding", None) is not None
    if conditional != (label is not None):
        raise ValueError(
            "The U-Net is class-conditional: give the label that every image is taken for"
            if conditional
            else f"The U-Net knows no classes, so label={label} does not fit"
        )
    classes = module.config.get("num_class_embeds")
    if label is not None and not 0 <= label < (math.inf if classes is None else classes):
        raise ValueError(f"label is {label}; the U-Net knows classes from 0 to {classes - 1}")
    return _UNetCall(label, whole_timesteps=module.config.get("time_embedding_type") == "learned")


@dataclass(frozen=True)
class _UNetCall:
    """Its representation tells one from another, by which embeddings are cached."""

    label: int | None
    whole_timesteps: bool

    def __call__(self, network: nn.Module, time: Tensor, x: Tensor) -> Tensor:
        options = {} if self.label is None else {"class_labels": torch.full((len(x),), self.label, device=x.device)}
        times = time.round().long() if self.whole_timesteps else time
        output: Tensor = network(x, times, return_dict=False, **options)[0]
        # With a learned variance there are twice the channels, the second half of which is for stochastic sampling.
        return output[:, : x.shape[1]] if output.shape[1] == 2 * x.shape[1] else output


def _block_names(unet: nn.Module) -> tuple[str, ...]:
    """In the order in which they run, which is not the one in which they are defined."""
    module: Any = unet
    down = [f"down_blocks.{index}" for index in range(len(module.down_blocks))]
    up = [f"up_blocks.{index}" for index in range(len(module.up_blocks))]
    middle = ["mid_block"] if module.mid_block is not None else []
    return ("conv_in", *down, *middle, *up, "conv_norm_out", "conv_out")


def _plain(configured: Any) -> dict[str, Any]:
    """A configuration as JSON has it, without the folder that it came from."""
    content: dict[str, Any] = json.loads(configured.to_json_string())
    content.pop("_name_or_path", None)
    return content


def _download(source: str) -> str:
    download: Callable[..., str] = importlib.import_module("huggingface_hub").snapshot_download
    try:
        return download(source, allow_patterns=["*.json", "*.safetensors"])
    except Exception as error:  # no network, no such model, no access
        raise UserError(
            f"There is no folder {source}, and the Hugging Face hub does not give it either: {_first_line(error)}."
        ) from None


def _diffusers() -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError:
        raise UserError("Generators of diffusers need the package diffusers: pip install diffusers.") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
