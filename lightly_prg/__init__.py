"""Pretrained Reversible Generation for Lightly.

The public names are loaded when they are first used: ``import lightly_prg`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightly_prg.data import wrap_dataset as wrap_dataset
    from lightly_prg.errors import UserError as UserError
    from lightly_prg.features import PRGEncoder as PRGEncoder
    from lightly_prg.flow import FlowMatchingLoss as FlowMatchingLoss
    from lightly_prg.flow import LinearPath as LinearPath
    from lightly_prg.flow import TrigonometricPath as TrigonometricPath
    from lightly_prg.flow import VariancePreservingPath as VariancePreservingPath
    from lightly_prg.flow import couple as couple
    from lightly_prg.flow import decode as decode
    from lightly_prg.flow import encode as encode
    from lightly_prg.methods import PRG as PRG
    from lightly_prg.models import DiT as DiT
    from lightly_prg.models import UNet as UNet
    from lightly_prg.recipe import FeatureSpec as FeatureSpec
    from lightly_prg.recipe import OdeSpec as OdeSpec
    from lightly_prg.recipe import load_recipe as load_recipe
    from lightly_prg.run import load as load
    from lightly_prg.transforms import PRGTransform as PRGTransform

_HOME = {
    "DiT": "models",
    "FeatureSpec": "recipe",
    "FlowMatchingLoss": "flow",
    "LinearPath": "flow",
    "OdeSpec": "recipe",
    "PRG": "methods",
    "PRGEncoder": "features",
    "PRGTransform": "transforms",
    "TrigonometricPath": "flow",
    "UNet": "models",
    "UserError": "errors",
    "VariancePreservingPath": "flow",
    "couple": "flow",
    "decode": "flow",
    "encode": "flow",
    "load": "run",
    "load_recipe": "recipe",
    "wrap_dataset": "data",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
