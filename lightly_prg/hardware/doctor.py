"""What this machine has: versions, devices, faiss, and the precision that ``auto`` picks and why."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util


def examine() -> list[tuple[str, str]]:
    """Looks at everything a run depends on; a part that is broken is told, not raised."""
    import torch

    from lightly_prg.hardware import pick_device, pick_precision
    from lightly_prg.run import versions

    device = pick_device()
    choice = pick_precision("auto", device)
    rows = [("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    rows += list(versions().items())
    rows += [
        ("device", _device_name(device)),
        ("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"),
        ("precision", f"auto picks {choice.precision}: {choice.reason}"),
        ("compile", "auto compiles the network on a GPU; on a CPU compiling takes longer than it saves"),
        ("faiss", _faiss()),
    ]
    for extra in ("tensorboard", "wandb", "diffusers", "pyarrow"):
        rows.append((extra, "installed" if util.find_spec(extra) else "not installed (optional)"))
    return rows


def _device_name(device: object) -> str:
    import torch

    if str(device) == "cuda":
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"cuda: {', '.join(names)}"
    return str(device)


def _faiss() -> str:
    try:
        import faiss
        import numpy as np

        points = np.eye(4, dtype=np.float32)
        _, found = faiss.knn(points, points, 1, metric=faiss.METRIC_INNER_PRODUCT)
        works = bool((found[:, 0] == np.arange(4)).all())
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"does not work ({error}); k-NN uses torch, with the same result"
    package = next((n for n in ("faiss-gpu", "faiss-cpu") if _installed(n)), "faiss")
    state = "searches correctly" if works else "searches WRONGLY; use --backend torch"
    return f"{package} {faiss.__version__} {state}, {faiss.get_num_gpus()} GPUs seen"


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
