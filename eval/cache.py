"""Embeddings on disk: found again by all that they depend on, and not believed when damaged.

An entry is ``KEY.npy``, which is memory-mapped, and ``KEY.json`` with its checksum and what it cost.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
import types
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightly_prg.errors import UserError
from lightly_prg.eval.embeddings import Features
from lightly_prg.files import replacing, write_json

_log = logging.getLogger(__name__)
_FORMAT = 1
_CHUNK_BYTES = 1 << 26


def encoder_sha256(encoder: nn.Module, *, inside: tuple[int, ...] = ()) -> str:
    """Hash of an encoder: the classes, weights, buffers and settings of all its modules.

    Settings are the public attributes and, where the encoder has it, ``configuration()``; of functions their code and
    what it uses: defaults, closures and global variables. Two encoders that differ in anything else need a
    ``cache_key`` of their own.

    Args:
        encoder: Any module.
        inside: Addresses of what is described already, and holds the encoder.
    """
    encoder = getattr(encoder, "_orig_mod", encoder)  # what torch.compile wraps
    digest = hashlib.sha256()
    inside = (*inside, *map(id, encoder.modules()))  # which may hold methods of each other
    for name, module in encoder.named_modules():
        digest.update(f"{name}: {_qualified(type(module))} {_settings(module, inside)}\n".encode())
    tensors: Iterator[tuple[str, Tensor]] = chain(encoder.named_parameters(), encoder.named_buffers())
    for name, tensor in tensors:
        digest.update(f"{name}: {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    configuration: Any = getattr(encoder, "configuration", None)
    if configuration is not None:
        digest.update(repr(configuration()).encode())
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    # Not as an array: numpy knows no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _settings(module: nn.Module, inside: tuple[int, ...]) -> dict[str, str]:
    inherited = vars(nn.Module())
    public = (item for item in vars(module).items() if item[0] not in inherited)
    return {name: _describe(value, inside) for name, value in sorted(public) if not name.startswith("_")}


def _describe(value: Any, inside: tuple[int, ...] = ()) -> str:
    if id(value) in inside:
        return "itself"
    inside = (*inside, id(value))
    # Printed, a large array would be abbreviated.
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(_bytes_of(value)).hexdigest()}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, nn.Module):
        return encoder_sha256(value, inside=inside)
    if isinstance(value, dict):
        return repr({_describe(key, inside): _describe(item, inside) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {[_describe(item, inside) for item in value]}"
    if isinstance(value, functools.partial):
        return _describe((value.func, value.args, value.keywords), inside)
    if isinstance(value, types.MethodType):
        return _describe((value.__func__, value.__self__), inside)
    if isinstance(value, types.FunctionType):
        return f"{_qualified(value)} {_describe(_parts_of(value), inside)}"
    if isinstance(value, types.CodeType):
        return f"{value.co_code.hex()} {value.co_names} {_describe(value.co_consts, inside)}"
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _qualified(value)
    printed: Any = type(value).__repr__
    if printed is object.__repr__:  # an address, which another object may have next
        known = vars(value) if hasattr(value, "__dict__") else {"never found again": uuid.uuid4().hex}
        return f"{_qualified(type(value))} {_describe(known, inside)}"
    return repr(value)


def _parts_of(function: types.FunctionType) -> tuple[Any, ...]:
    """What decides what a function returns, as far as can be seen: in a notebook one name has many contents."""
    cells = [_content_of(cell) for cell in function.__closure__ or ()]
    named = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    kinds = (nn.Module, Tensor, np.ndarray, int, float, str, bool, tuple, list)
    used = {
        name: value
        for name, value in named.items()
        if isinstance(value, kinds)
        or (isinstance(value, types.FunctionType) and value.__module__ == function.__module__)
    }
    return function.__code__, function.__defaults__, function.__kwdefaults__, cells, used


def _content_of(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@dataclass(frozen=True)
class CacheEntry:
    """One set of embeddings in a cache folder.

    Args:
        folder: The cache folder; made when something is written.
        content: Everything that the embeddings depend on.
        rows: Number of images.
    """

    folder: Path
    content: tuple[Any, ...]
    rows: int

    @property
    def key(self) -> str:
        """Name of the entry's files, a hash of its content."""
        return hashlib.sha256(repr((_FORMAT, self.rows, *self.content)).encode()).hexdigest()

    @property
    def features_file(self) -> Path:
        """The array ``(N, D)``."""
        return self.folder / f"{self.key}.npy"

    @property
    def facts_file(self) -> Path:
        """Checksum, NFE and seconds."""
        return self.folder / f"{self.key}.json"

    def read(self) -> tuple[Features, float, float] | None:
        """The features as a memory map, their NFE and seconds; None if absent or, which is logged, damaged."""
        if not (self.facts_file.is_file() and self.features_file.is_file()):
            return None
        found = self._intact()
        if found is None:
            _log.warning("The embeddings in %s are damaged: they are computed anew.", self.features_file)
        return found

    def _intact(self) -> tuple[Features, float, float] | None:
        try:
            facts = json.loads(self.facts_file.read_text(encoding="utf-8"))
            features = np.load(self.features_file, mmap_mode="r", allow_pickle=False)
            nfe, seconds = facts["nfe"], float(facts["seconds"])
            intact = (
                features.ndim == 2
                and len(features) == self.rows
                and features.dtype == np.float32
                and facts["crc32"] == _checksum(features)
            )
        except (OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, TokenError):
            return None
        return (features, nfe, seconds) if intact else None

    def write_features(self, batches: Iterable[Features]) -> int:
        """Writes batches ``(B, D)`` one behind the other and returns their checksum.

        Raises:
            UserError: If the disk has no room for them, or the folder cannot be written to.
        """
        batches = iter(batches)
        first = next(batches)
        # Plain writes: a full disk is then an error, where with a memory map it is a crash.
        with replacing(self.features_file) as temporary, temporary.open("wb") as file:
            shape = (self.rows, first.shape[1])
            _check_free_space(self.folder, shape)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            checksum = 0
            for batch in chain([first], batches):
                content = np.ascontiguousarray(batch, dtype="<f4").tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
        return checksum

    def write_facts(self, *, checksum: int, nfe: float, seconds: float) -> None:
        """Completes an entry whose features are written."""
        write_json(self.facts_file, {"crc32": checksum, "nfe": nfe, "seconds": seconds})


def _checksum(features: Features) -> int:
    step = max(1, _CHUNK_BYTES // max(features[:1].nbytes, 1))
    checksum = 0
    for start in range(0, len(features), step):
        checksum = zlib.crc32(features[start : start + step].tobytes(), checksum)
    return checksum


def _check_free_space(folder: Path, shape: tuple[int, int]) -> None:
    needed, free = 4 * shape[0] * shape[1], shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{shape[0]} embeddings of {shape[1]} numbers take {needed / 2**30:.2f} GiB, and "
            f"{folder} has {free / 2**30:.2f} GiB free; free some space, or choose a smaller "
            "embedding, fewer images or another folder."
        )
