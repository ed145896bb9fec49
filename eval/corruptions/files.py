"""Reading the published files of CIFAR-10-C and CIFAR-100-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.corruptions import SEVERITIES, check_condition

_PIXELS = (32, 32, 3)


def read_corrupted(folder: Path, name: str, severity: int) -> tuple[Tensor, Tensor]:
    """Reads one corruption at one severity from ``NAME.npy`` and ``labels.npy``.

    A file holds the test set five times, at the severities 1 to 5, one behind the other.

    Args:
        folder: Where the files lie.
        name: One of ``CORRUPTIONS``.
        severity: 1 to 5.

    Returns:
        Images ``(N, 3, 32, 32)`` uint8 and labels ``(N,)`` int64, where N is a fifth of the rows.

    Raises:
        UserError: If a file is missing, is no array, or holds something else; pickled content is never loaded. Or if
            there is no such corruption or severity.
    """
    check_condition(name, severity)
    folder = Path(folder)
    images, labels = (_open(folder / f"{stem}.npy") for stem in (name, "labels"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != _PIXELS or len(images) == 0:
        raise UserError(
            f"{folder / name}.npy holds {images.dtype} of shape {images.shape}; uint8 of shape (rows, 32, 32, 3) is "
            "needed."
        )
    rows = len(images)
    if rows % len(SEVERITIES):
        raise UserError(f"{folder / name}.npy has {rows} rows, which five severities cannot share equally.")
    if labels.dtype.kind not in "ui" or labels.shape != (rows,):
        raise UserError(
            f"{folder / 'labels.npy'} holds {labels.dtype} of shape {labels.shape}; a whole number for each of the "
            f"{rows} images is needed."
        )
    count = rows // len(SEVERITIES)
    part = slice((severity - 1) * count, severity * count)
    # Copied, so that nothing reads from the files later.
    pixels = torch.from_numpy(np.array(images[part])).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(labels[part].astype(np.int64))


def _open(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        raise UserError(f"There is no file {path}; the folder of CIFAR-10-C holds one for each corruption and labels.")
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is no array that can be read without pickle, or is cut off: {error}.") from None
    if not isinstance(content, np.ndarray):
        content.close()
        raise UserError(f"{path} is an archive; a single array is needed.")
    return content
