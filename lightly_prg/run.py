"""The run folder: what is written where, locking it, exporting the encoder and loading it back.

runs/<name>/
recipe.yaml                              the resolved recipe
checkpoints/last.ckpt                    the full training state, loads with weights_only=True
encoder.safetensors, encoder.json        the exported encoder (averaged weights)
metrics.csv                              one row for each logged step
.replaced/                               the run that `--overwrite` replaces, until the new one is finished
eval/<evaluator>.json                    results with the recipe's own options
eval/<evaluator>-<options hash>.json     results with other options
embeddings/                              cached features
figures/*.png, report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightly_prg.errors import UserError
from lightly_prg.files import (
    file_crc32,
    is_temporary,
    read_json,
    remove_temporaries,
    replacing,
    write_json,
    write_text,
)
from lightly_prg.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from lightly_prg.features import PRGEncoder
    from lightly_prg.features.network_encoder import NetworkEncoder

FORMAT_VERSION = 1
FORMER = ".replaced"  # the folder of a run that another one is to replace
MOVING = ".replacing"  # the same while the run is being moved there
_DESCRIBED = ("architecture", "data", "embedding_dim", "feature", "input_shape", "nfe", "recipe_sha256", "training")
_OF_A_RUN = frozenset(
    (
        *("recipe.yaml", "encoder.json", "encoder.safetensors", "head.json", "head.safetensors", "metrics.csv"),
        *("report.html", "checkpoints", "embeddings", "eval", "figures", "snapshots", "tensorboard", "wandb"),
    )
)


@dataclass(frozen=True)
class Run:
    """A run folder. Creating the object touches nothing on disk."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run folder.

        Raises:
            UserError: If there is none.
        """
        run = cls(Path(folder))
        if not run.folder.is_dir():
            raise UserError(f"There is no run folder {run.folder}.")
        if not run.recipe_file.is_file():
            raise UserError(f"{run.folder} is not a run folder: it holds no recipe.yaml.")
        return run

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.yaml"

    @property
    def checkpoint(self) -> Path:
        """The last full training state."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """The training curve."""
        return self.folder / "metrics.csv"

    @property
    def encoder_file(self) -> Path:
        """The description of the exported encoder; its weights lie beside it."""
        return self.folder / "encoder.json"

    @property
    def weights_file(self) -> Path:
        """The weights of the exported encoder."""
        return self.folder / "encoder.safetensors"

    @property
    def embeddings(self) -> Path:
        """The cache of features."""
        return self.folder / "embeddings"

    @property
    def figures(self) -> Path:
        """The pictures of the report."""
        return self.folder / "figures"

    @property
    def snapshots(self) -> list[Path]:
        """The encoders as they were in training, from the first; each is a run folder."""
        return sorted((self.folder / "snapshots").glob("step-*"))

    @property
    def is_trained(self) -> bool:
        """Whether training ended and the encoder was exported."""
        return self.encoder_file.is_file() and self.weights_file.is_file()

    @property
    def has_lost_weights(self) -> bool:
        """Whether it was trained, and its weights were removed since: what was measured of it still stands."""
        return self.encoder_file.is_file() and not self.weights_file.is_file()

    @property
    def state(self) -> str:
        """How far it came, for readers."""
        if self.is_trained:
            return "trained"
        if self.has_lost_weights:
            return "trained, weights removed"
        return "begun" if self.recipe_file.is_file() else "missing"

    @property
    def is_finetuned(self) -> bool:
        """Whether the encoder was trained with labels, under a classification head."""
        return (self.folder / "head.json").is_file() or (
            self.encoder_file.is_file() and "finetuned" in self.description
        )

    @cached_property
    def weights_crc32(self) -> int:
        """Checksum of the exported weights; runs of older versions did not note it."""
        noted = self.description.get("weights_crc32")
        return int(noted) if noted is not None else file_crc32(self.weights_file)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the run was made from."""
        return load_recipe(self.recipe_file)

    @cached_property
    def description(self) -> dict[str, Any]:
        """The content of encoder.json, which stays where the weights were removed.

        Raises:
            UserError: If the run has no encoder yet, or it was written by a later version, or is damaged.
        """
        if not self.encoder_file.is_file():
            raise UserError(f"{self.folder} has no encoder yet: finish it with {self._finishing}.")
        readable = os.access(self.encoder_file, os.R_OK)
        way = f" Remove it, and {self._finishing} writes it again." if readable and self.checkpoint.is_file() else ""
        try:
            content = read_json(self.encoder_file)
        except UserError as error:
            raise UserError(f"{error}{way}") from None
        if content.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{self.encoder_file} has format version {content.get('format_version')!r}; "
                f"this version of lightly-prg reads {FORMAT_VERSION}."
            )
        missing = [key for key in _DESCRIBED if key not in content]
        if missing:
            raise UserError(f"{self.encoder_file} is damaged: it does not say {', '.join(missing)}.{way}")
        return content

    @property
    def _finishing(self) -> str:
        """The command that writes the encoder from the last checkpoint."""
        return f"`lightly-prg train {self.recipe_file} --resume --out {self.folder}`"

    def is_taken(self) -> bool:
        """Whether the folder holds a run already, finished or not.

        Raises:
            UserError: If it holds something else, which nobody wants to lose.
        """
        if not self.folder.exists():
            return False
        if all(entry.name == ".lock" or is_temporary(entry) for entry in self.folder.iterdir()):
            return False
        if not self.recipe_file.is_file() and not any((self.folder / name).is_dir() for name in (FORMER, MOVING)):
            raise UserError(f"{self.folder} holds files that are no run; choose another folder with --out.")
        return True

    @property
    def trained_on(self) -> str | None:
        """The fingerprint of the folder of images; None for a named set, and where nothing noted it (yet)."""
        noted: str | None = self.description["data"].get("fingerprint") if self.encoder_file.is_file() else None
        return noted

    def create(self, recipe: Recipe) -> None:
        """Makes the folder and writes the recipe."""
        write_text(self.recipe_file, recipe.to_yaml())

    def clear(self) -> None:
        """Removes what a former run left, and nothing else; the folder and its lock stay.

        Of a link only the link goes.
        """
        for entry in self.entries():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def entries(self) -> list[Path]:
        """The files and folders in it that belong to a run."""
        return [
            entry
            for entry in self.folder.iterdir()
            if entry.name in _OF_A_RUN or is_temporary(entry) or fnmatch(entry.name, "embeddings-*.npz")
        ]

    def remove_leftovers(self) -> None:
        """Removes what a killed process was writing; the lock must be held."""
        for path in (self.recipe_file, self.metrics, self.checkpoint, self.weights_file, self.encoder_file):
            remove_temporaries(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from writing into the folder; the lock dies with its owner.

        A folder that was made for it and that nothing came into goes again if what it was made for fails.

        Raises:
            UserError: If another process holds it.
        """
        made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        # The file stays: removing it would let a third process lock a file that the second no longer sees.
        file = self.folder / ".lock"
        with file.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                    raise BlockingIOError
            except (BlockingIOError, FileNotFoundError):
                raise UserError(f"Another process is writing into {self.folder}.") from None
            try:
                yield
            except BaseException:
                if made and [entry.name for entry in self.folder.iterdir()] == [".lock"]:
                    file.unlink()
                    with suppress(OSError):
                        self.folder.rmdir()
                raise

    def write_result(self, evaluator: str, result: Mapping[str, Any], *, own_options: bool) -> Path:
        """Writes one result; those with the recipe's own options have the plain file name.

        Raises:
            UserError: If the run was trained anew since it was opened: the result is not of what is there now.
        """
        if "description" in self.__dict__ and self._is_replaced():
            raise UserError(f"{self.folder} was trained anew while it was measured; ask again.")
        name = evaluator
        if not own_options:
            options = json.dumps(
                [result["encoder"], result["split"], result.get("labels"), result["options"]], sort_keys=True
            )
            name += "-" + hashlib.sha256(options.encode()).hexdigest()[:8]
        path = self.folder / "eval" / f"{name}.json"
        write_json(path, {"evaluator": evaluator, **result})
        return path

    def _is_replaced(self) -> bool:
        now = Run(self.folder)
        keys = ("weights_crc32", "recipe_sha256")
        return not now.encoder_file.is_file() or any(now.description.get(k) != self.description.get(k) for k in keys)

    def export(
        self,
        encoder: PRGEncoder | NetworkEncoder,
        *,
        data: Mapping[str, Any],
        training: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes an encoder: the weights of its network and everything needed to use them."""
        from safetensors.torch import save_file

        from lightly_prg.module_state import state_to_save  # with it comes torch

        recipe = self.recipe
        assert encoder.input_shape is not None
        state = state_to_save(encoder.network)
        with replacing(self.weights_file) as temporary:
            save_file(state, temporary)
            checksum = file_crc32(temporary)
        write_json(
            self.encoder_file,
            {
                "format_version": FORMAT_VERSION,
                "name": recipe.name,
                "method": recipe.method.name,
                "architecture": recipe.method.model_dump(mode="json"),
                "input_shape": list(encoder.input_shape),
                **encoder.description(),
                "embedding_dim": encoder.embedding_dim,
                "nfe": encoder.nfe,
                "parameters": sum(p.numel() for p in encoder.network.parameters()),
                "weights_crc32": checksum,
                "recipe_sha256": recipe.sha256(),
                "data": dict(data),
                "training": dict(training),
                **(extra if extra is not None else {}),
                "versions": versions(),
            },
        )


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result."""
    names = ("lightly-prg", "torch", "torchvision", "lightly", "pytorch-lightning", "torchdiffeq", "timm")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def load(folder: str | Path, *, trust: bool = False) -> PRGEncoder | NetworkEncoder:
    """Loads the encoder of a run, in evaluation mode, on the CPU.

    Args:
        folder: The run folder, or any folder that holds its encoder.json and encoder.safetensors.
        trust: Whether a run whose network is your own code (``backbone: {name: import}``) may import and run it.

    Returns:
        The encoder: ``encoder(images in [0, 1], (B, C, H, W)) -> (B, D)``.

    Raises:
        UserError: If there is no such run, it is not finished, its files are damaged, or its code is not trusted.

    Example:
        >>> encoder = load("runs/quickstart")  # doctest: +SKIP
        >>> encoder(images).shape  # doctest: +SKIP
        torch.Size([16, 256])
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lightly_prg.methods import build_encoder

    run = Run(Path(folder))
    if not run.folder.is_dir():
        raise UserError(f"There is no run folder {run.folder}.")
    description = run.description
    if run.has_lost_weights:
        raise UserError(f"{run.folder} has no weights any more: {run.weights_file.name} was removed.")
    try:
        encoder = build_encoder(description, trust=trust)
    except (KeyError, TypeError, ValueError) as error:  # a ValidationError is a ValueError
        reason = str(error).splitlines()[0].rstrip(":.")
        raise UserError(f"{run.encoder_file} is damaged or of another version: {reason}.") from None
    try:
        # A flipped bit is a valid file with a wrong number in it. Runs of older versions have no checksum.
        if run.description.get("weights_crc32", checksum := file_crc32(run.weights_file)) != checksum:
            raise UserError(f"{run.weights_file} is damaged: its checksum is not the one that was written with it.")
        state = load_file(run.weights_file)
        encoder.network.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":.")
        raise UserError(f"{run.weights_file} is damaged or belongs to another network: {reason}.") from None
    return encoder.eval()
