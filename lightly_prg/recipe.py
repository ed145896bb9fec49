"""Recipes: one YAML file says everything about a run.

The models below are the schema; ``load_recipe`` reads a file or a shipped recipe, applies ``key=value`` overrides and
turns every mistake into one sentence that names the dotted key, what was given, what is allowed and the nearest key.
Nothing here imports torch, so that a typing error is told at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lightly_prg.errors import UserError


def _refuse_bool(value: Any) -> Any:
    # YAML's `yes` and `true` would otherwise pass for the number 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _number_to_text(value: Any) -> Any:
    # YAML reads `precision: 32` as a number.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# PyYAML reads `1e-4` as text, so numbers are taken leniently (pydantic's lax mode).
Integer = Annotated[int, BeforeValidator(_refuse_bool)]
Number = Annotated[float, BeforeValidator(_refuse_bool)]
Positive = Annotated[Integer, Field(ge=1)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]


def _check_pool(pool: str) -> str:
    kind, _, cells = pool.partition(":")
    if pool in ("mean", "flatten") or (kind == "grid" and cells.isdigit() and int(cells) >= 1):
        return pool
    raise ValueError("allowed are 'mean', 'flatten' and 'grid:N' with N cells a side, such as 'grid:2'")


def _check_tau(tau: Any) -> Any:
    if isinstance(tau, str) and "," in tau:
        tau = [part.strip() for part in tau.strip("[]()").split(",")]
    values = tau if isinstance(tau, list | tuple) else [tau]
    try:
        numbers = [float(_refuse_bool(value)) for value in values]
    except (TypeError, ValueError):
        raise ValueError("a number in [0, 1], or a list of them, is needed") from None
    if not numbers or not all(0.0 <= number <= 1.0 for number in numbers):
        raise ValueError("tau runs from 0 (data) to 1 (noise): a number in [0, 1], or a list of them")
    if len(set(numbers)) != len(numbers):
        raise ValueError("every tau may stand in the list once")
    return tuple(numbers) if isinstance(tau, list | tuple) else numbers[0]


class Section(BaseModel):
    """A part of a recipe: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class DataRecipe(Section):
    """Which images, from where, in which size, and how they are split."""

    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "stl10", "folder"]
    root: str = "data"
    image_size: Positive | None = None  # None: the set's own; `folder` has to say it
    channels: Literal[1, 3] | None = None  # None: the set's own; `folder` takes 3
    train_size: Positive | None = None  # a stratified draw from the training images
    validation_fraction: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.1
    download: bool = False  # torchvision's own download, where the set has one

    @model_validator(mode="after")
    def _folder_says_its_size(self) -> DataRecipe:
        if self.name == "folder" and self.image_size is None:
            raise ValueError("data.image_size is needed for a folder of images, for example data.image_size=32")
        return self


class UNetRecipe(Section):
    """The improved-diffusion U-Net; see ``lightly_prg.models.UNet``."""

    name: Literal["unet"]
    channels: Positive = 128
    multipliers: tuple[Positive, ...] = (1, 2, 2, 2)
    blocks: Positive = 3
    attention: tuple[Positive, ...] = (16, 8)
    middle_attention: bool = True
    heads: Positive = 4
    dropout: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    patch_size: Positive = 1
    tau_scale: Annotated[Number, Field(gt=0.0)] = 1000.0


class DiTRecipe(Section):
    """The diffusion transformer; see ``lightly_prg.models.DiT``."""

    name: Literal["dit"]
    patch_size: Positive = 4
    width: Positive = 384
    depth: Positive = 12
    heads: Positive = 6
    mlp_ratio: Annotated[Number, Field(gt=0.0)] = 4.0
    tau_scale: Annotated[Number, Field(gt=0.0)] = 1000.0


class ImportRecipe(Section):
    """A velocity network of your own: ``target`` names a class or function that builds it."""

    name: Literal["import"]
    target: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]  # "my_package.my_module:MyVelocity"
    kwargs: dict[str, Any] = {}


BackboneRecipe = Annotated[UNetRecipe | DiTRecipe | ImportRecipe, Field(discriminator="name")]


class OdeSpec(Section):
    """How the ODE between data and noise is integrated.

    Attributes:
        solver: One of torchdiffeq's solvers, see ``lightly_prg.flow.SOLVERS``.
        steps: Steps from the data to the largest tau that is asked for (fixed-step solvers).
        gradient: How gradients pass through it: ``full``, ``checkpoint`` (exact, the memory of one evaluation) or
            ``adjoint`` (torchdiffeq's, biased for coarse grids).
        rtol: Relative tolerance of ``dopri5``.
        atol: Absolute tolerance of ``dopri5``.
    """

    solver: str = "euler"
    steps: Positive = 8
    gradient: Literal["full", "checkpoint", "adjoint"] = "checkpoint"
    rtol: Annotated[Number, Field(gt=0.0)] = 1e-5
    atol: Annotated[Number, Field(gt=0.0)] = 1e-5


class FeatureSpec(Section):
    """Where on the path, and where in the network, the embedding is read.

    Attributes:
        source: ``state`` (the image carried to tau, the paper's feature), ``velocity``, ``denoised`` (the network's
            estimate of the clean image) or ``block`` (an activation).
        block: The name of the block in ``named_modules()`` of the velocity network, for ``source="block"``.
        tau: Position on the path, 0 = data, 1 = noise; several are concatenated.
        pool: ``mean`` over space, ``flatten``, or ``grid:N`` for an average over N x N cells.

    Example:
        >>> FeatureSpec(source="block", block="middle", tau=0.1, pool="grid:2").tau
        0.1
    """

    source: Literal["state", "velocity", "denoised", "block"] = "block"
    block: str | None = None
    tau: Annotated[float | tuple[float, ...], BeforeValidator(_check_tau)] = 0.1
    pool: Annotated[str, AfterValidator(_check_pool)] = "mean"

    @model_validator(mode="after")
    def _block_goes_with_its_source(self) -> FeatureSpec:
        if self.source == "block" and self.block is None:
            raise ValueError("source 'block' needs the name of a block, for example block=middle")
        if self.source != "block" and self.block is not None:
            raise ValueError(f"block={self.block!r} goes with source 'block', not with {self.source!r}")
        return self

    @property
    def taus(self) -> tuple[float, ...]:
        """The positions as a tuple, however many were given."""
        return self.tau if isinstance(self.tau, tuple) else (self.tau,)


class AugmentRecipe(Section):
    """What is done to the training images of the generator; it also learns to generate what it sees."""

    horizontal_flip: bool = True
    crop_padding: Annotated[Integer, Field(ge=0)] = 0  # random crop after reflecting this many pixels


class PRGRecipe(Section):
    """Pretrained Reversible Generation (arXiv 2412.01787)."""

    name: Literal["prg"]
    path: Literal["linear", "trigonometric", "variance_preserving"] = "linear"
    coupling: Literal["independent", "optimal_transport"] = "independent"
    tau_sampling: Literal["uniform", "logit_normal"] = "uniform"
    backbone: BackboneRecipe = UNetRecipe(name="unet")
    ode: OdeSpec = OdeSpec()
    feature: FeatureSpec = FeatureSpec(source="block", block="middle")
    augment: AugmentRecipe = AugmentRecipe()


# A single-method union needs no discriminator yet, but errors and files are the same once there are several.
MethodRecipe = PRGRecipe


class TrainRecipe(Section):
    """How long, how fast, on what."""

    epochs: Positive = 200
    batch_size: Positive = 128  # per optimiser step and micro-step, summed over devices
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: Annotated[Number, Field(gt=0.0)] = 2.0e-4
    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[Number, Field(ge=0.0)] = 0.0
    clip: Annotated[Number, Field(gt=0.0)] | None = 1.0
    accumulate: Positive = 1
    ema_decay: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.9999
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(_number_to_text)] = "auto"
    compile: Literal["auto"] | bool = "auto"
    num_workers: Literal["auto"] | Annotated[Integer, Field(ge=0)] = "auto"
    checkpoint_every: Positive = 1  # epochs
    accelerator: str = "auto"
    devices: Literal["auto"] | Positive = "auto"
    strategy: str = "auto"


class KNNRecipe(Section):
    """Weighted k-nearest neighbours on cosine similarity; see ``lightly_prg.eval.evaluate_knn``."""

    k: Positive = 20
    ks: tuple[Positive, ...] = (10, 20, 100, 200)
    temperature: Annotated[Number, Field(gt=0.0)] = 0.07


class LinearRecipe(Section):
    """Logistic regression on frozen features; see ``lightly_prg.eval.evaluate_linear``."""

    max_iterations: Positive = 200


class FewShotRecipe(Section):
    """The linear probe with few labels, averaged over several draws of them."""

    labels: Positive = 10  # per class
    draws: Positive = 5


class EvalRecipe(Section):
    """What a finished run is judged by."""

    split: Literal["validation", "test"] = "validation"
    batch_size: Positive = 250
    knn: KNNRecipe | None = KNNRecipe()
    linear: LinearRecipe | None = LinearRecipe()
    few_shot: FewShotRecipe | None = FewShotRecipe()
    controls: tuple[Literal["raw_pixels", "random_network"], ...] = ("raw_pixels", "random_network")


class Recipe(Section):
    """Everything about a run."""

    name: Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]
    description: str = ""
    seed: Annotated[Integer, Field(ge=0)] = 0
    init_from: str | None = None  # a run folder whose weights training starts from
    data: DataRecipe
    method: MethodRecipe
    train: TrainRecipe = TrainRecipe()
    eval: EvalRecipe = EvalRecipe()

    def to_yaml(self) -> str:
        """The fully resolved recipe; ``parse_recipe`` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100, default_flow_style=None)

    def sha256(self) -> str:
        """Hash of what decides the result: without names, folders, devices and workers."""
        content = self.model_dump(mode="json")
        for section, key in _NOT_HASHED:
            (content[section] if section else content).pop(key)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_NOT_HASHED = (
    ("", "name"),
    ("", "description"),
    ("data", "root"),
    ("data", "download"),
    ("train", "num_workers"),
    ("train", "accelerator"),
    ("train", "devices"),
    ("train", "strategy"),
    ("train", "checkpoint_every"),
)


def shipped_recipes() -> dict[str, str]:
    """Maps the name of every shipped recipe to its text."""
    folder = resources.files("lightly_prg.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by path or shipped name and applies ``key.sub=value`` overrides.

    Args:
        source: Path of a YAML file, or the name of a shipped recipe.
        overrides: For example ``["train.epochs=5", "data.root=/data"]``; values are read as YAML.

    Raises:
        UserError: If there is no such recipe, or a key, type or value is wrong.
    """
    path = Path(source)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Cannot read the recipe {path}: {error}.") from None
        return parse_recipe(text, overrides=overrides, origin=str(path))
    shipped = shipped_recipes()
    if str(source) in shipped:
        return parse_recipe(shipped[str(source)], overrides=overrides, origin=str(source))
    hint = _nearest(str(source), shipped)
    raise UserError(
        f"There is no recipe {str(source)!r}: no such file, and no shipped recipe of that name{hint or '.'} "
        f"Shipped recipes: {', '.join(shipped)}."
    )


def parse_recipe(text: str, *, overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """Parses YAML text into a recipe, see ``load_recipe``."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(raw, dict):
        raise UserError(f"{origin} is not a recipe: a YAML mapping with the keys name, data and method is needed.")
    for override in overrides:
        _apply_override(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        messages = [_explain(detail, raw) for detail in error.errors(include_url=False)]
        raise UserError(f"{origin}: " + "; ".join(dict.fromkeys(messages))) from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"{override!r} is not an override: write key.sub=value, for example train.epochs=5.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"The value of {key} cannot be read as YAML: {text!r}.") from None
    section = raw
    for depth, part in enumerate(parts[:-1]):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise UserError(f"{'.'.join(parts[: depth + 1])} is a value, not a section: {override!r} does not fit.")
    if parts in (["method", "name"], ["method", "backbone", "name"]) and section.get("name") != value:
        # Another kind of section has other keys: those of the old kind would only be refused.
        section.clear()
    section[parts[-1]] = value


def _nearest(key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _explain(detail: Any, raw: dict[str, Any]) -> str:
    """One clause for one pydantic error: key, given, allowed, nearest."""
    kind, given = detail["type"], detail["input"]
    location = _strip_tags(detail["loc"], raw, keep_last=kind in ("missing", "extra_forbidden"))
    key = ".".join(location) or "the recipe"
    if kind == "extra_forbidden":
        known = _keys_at(location[:-1], raw)
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {'.'.join((*location[:-1], nearest[0]))!r}?" if nearest else "."
        where = ".".join(location[:-1]) or "the top"
        return f"unknown key {key!r} (given: {given!r}){hint} Known under {where}: {', '.join(known)}"
    if kind == "missing":
        return f"the key {key!r} is missing"
    if kind == "union_tag_not_found":
        return (
            f"the key {key + '.name'!r} is missing; allowed are {detail['ctx'].get('expected_tags', 'the known names')}"
        )
    if kind == "union_tag_invalid":
        allowed = detail["ctx"]["expected_tags"]
        tag = detail["ctx"]["tag"]
        return f"{key}.name is {tag!r}; allowed are {allowed}{_nearest(tag, allowed.replace(chr(39), '').split(', '))}"
    if kind == "literal_error":
        expected = detail["ctx"]["expected"]
        names = expected.replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key} is {given!r}; allowed are {expected}{_nearest(str(given), names)}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(given, dict | BaseModel):
        return f"{key}: {message}"
    return f"{key} is {given!r}: {message[0].lower()}{message[1:]}"


def _strip_tags(location: Sequence[int | str], raw: Any, *, keep_last: bool) -> tuple[str, ...]:
    """Drops the names of union members, which pydantic puts between the keys."""
    kept: list[str] = []
    node = raw
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, dict) and part in node and (last or part != node.get("name")):
            node = node[part]
        elif isinstance(node, list | tuple) and isinstance(part, int):
            node = node[part]
        elif not (keep_last and last):
            continue
        kept.append(str(part))
    return tuple(kept)


def _keys_at(location: Sequence[str], raw: Any) -> list[str]:
    """The known keys of the section at ``location``."""
    model: type[BaseModel] = Recipe
    node = raw
    for part in location:
        node = node.get(part) if isinstance(node, dict) else None
        candidates = _models_in(model.model_fields[part].annotation)
        tag = node.get("name") if isinstance(node, dict) else None
        model = next(
            (c for c in candidates if tag in get_args(c.model_fields.get("name", _NO_FIELD).annotation)),
            candidates[0],
        )
    return list(model.model_fields)


_NO_FIELD = Recipe.model_fields["seed"]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None:
        return []
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


__all__ = [
    "AugmentRecipe",
    "DataRecipe",
    "DiTRecipe",
    "EvalRecipe",
    "FeatureSpec",
    "ImportRecipe",
    "OdeSpec",
    "PRGRecipe",
    "Recipe",
    "TrainRecipe",
    "UNetRecipe",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
]
