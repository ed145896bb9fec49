"""Writing files so that an interruption, or a full disk, loses nothing that was there before."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightly_prg.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EROFS, errno.EPERM)
_UMASK = os.umask(0)
os.umask(_UMASK)
_TEMPORARY = re.compile(r"^\..+\.\d+(\.[^.]*)?$")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to; it takes the place of ``path`` only when the block ends well.

    Raises:
        UserError: If the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.chmod(temporary, 0o666 & ~_UMASK)  # safetensors writes for its owner alone
        os.replace(temporary, path)
    except Exception as error:
        number = _system_error(error)
        if number in _FULL:
            raise UserError(f"The disk is full: {path} could not be written.") from None
        if number in _FORBIDDEN:
            raise UserError(f"There is no permission to write {path}.") from None
        raise
    finally:
        with suppress(OSError):  # a folder that cannot be written to holds no temporary file either
            temporary.unlink(missing_ok=True)


def _system_error(error: BaseException | None) -> int | None:
    """The number of the system's error behind an exception."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        told = re.search(r"\(os error (\d+)\)", str(error))  # how safetensors passes it on
        if told:
            return int(told.group(1))
        error = error.__context__  # torch's writer puts an exception of its own on top
    return None


def is_temporary(path: Path) -> bool:
    """Whether a file has a name that ``replacing`` gives: of what is being written, or was when its writer died."""
    return _TEMPORARY.match(path.name) is not None


def remove_temporaries(path: Path) -> None:
    """Removes what killed processes were writing in the place of ``path``, which no other process may be doing now."""
    for entry in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        if is_temporary(entry):
            entry.unlink(missing_ok=True)


def file_crc32(path: Path) -> int:
    """Checksum of a file's content: finds a flipped bit or a missing end, not a forgery."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one step."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: If the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content
