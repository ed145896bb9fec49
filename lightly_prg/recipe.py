"""Recipes: one YAML file says everything about a run.

The models below are the schema; ``load_recipe`` reads a file or a shipped recipe, applies ``key=value`` overrides and
turns every mistake into one sentence that names the dotted key, what was given, what is allowed and the nearest key.
Nothing here imports torch, so that a typing error is told at once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from lightly_prg.diffusers_folder import image_shape, is_hub_id, open_diffusers_folder
from lightly_prg.errors import UserError
from lightly_prg.recipe_auxiliary import AuxiliaryRecipe
from lightly_prg.recipe_feature import FeatureSpec, NetworkFeature, OdeSpec
from lightly_prg.recipe_methods import (
    BackboneRecipe,
    DecoderRecipe,
    DiTRecipe,
    GeneratorRecipe,
    ImportRecipe,
    MAERecipe,
    MethodRecipe,
    PretrainedRecipe,
    PRGRecipe,
    ResNetRecipe,
    SimCLRRecipe,
    UNetRecipe,
    ViTRecipe,
)
from lightly_prg.recipe_section import Fraction, Integer, Number, Positive, Section, number_to_text
from lightly_prg.recipe_views import AugmentRecipe
from lightly_prg.yaml_text import read_yaml

_Decay = Annotated[Number, Field(ge=0.0, lt=1.0)]
_LearningRate = Annotated[Number, Field(gt=0.0, le=1e6)]  # beyond, a step leaves what torch can count


class DataRecipe(Section):
    """Which images, from where, in which size, and how they are split.

    Attributes:
        name: A named set, or ``folder``: images in ``root/train/CLASS`` and ``root/test/CLASS`` (or ``val``, ``valid``,
            ``validation``, which are then the test images: validation images are a part of the training images), or in
            ``root/CLASS``, which are split.
        root: Where the images lie.
        image_size: The side in pixels to which images are brought; null: the set's own. A folder has to say it.
        channels: 1 for grey, 3 for colour; null: the set's own, and 3 of a folder.
        train_size: So many training images, drawn by class; null: all.
        validation_fraction: Share of the training images that is kept for every choice.
        download: Fetch the set with torchvision, where it has one.
    """

    name: Literal["digits", "fashion_mnist", "cifar10", "cifar100", "stl10", "folder"]
    root: str = "data"
    image_size: Positive | None = None
    channels: Literal[1, 3] | None = None
    train_size: Positive | None = None
    validation_fraction: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.1
    download: bool = False

    @model_validator(mode="after")
    def _folder_says_its_size(self) -> DataRecipe:
        if self.name == "folder" and self.image_size is None:
            raise ValueError("data.image_size is needed for a folder of images, for example data.image_size=32")
        return self

    @property
    def title(self) -> str:
        """What tables and file names call the set: its name, or that of the folder."""
        return Path(self.place).name if self.name == "folder" else self.name

    @property
    def place(self) -> str:
        """Where the images lie, however ``root`` says it: of a folder, that is what it is."""
        return str(Path(self.root).resolve())


class TrainRecipe(Section):
    """How long, how fast, on what.

    Attributes:
        epochs: Passes over the training images; 0 leaves the network as it was drawn, for comparison.
        max_steps: Batches at which training ends, if that is before its epochs do.
        batch_size: Images of an optimiser step and micro-step, summed over devices.
        optimizer: ``lars`` is Lightly's, for large batches.
        lr: Learning rate at its peak.
        betas: Of ``adam`` and ``adamw``.
        momentum: Of ``sgd`` and ``lars``.
        weight_decay: Not of biases and normalisations.
        schedule: Of the learning rate after its warm-up.
        warmup_epochs: In which the learning rate rises from zero.
        clip: Largest norm of the gradient; null: any.
        accumulate: Micro-steps of ``batch_size`` images to an optimiser step.
        ema_decay: Of the averaged weights, which are what is kept; 0: the last weights themselves.
        precision: ``auto``: bf16 where the device is faster in it, else fp16 on a GPU and 32 on a CPU.
        compile: With torch.compile; ``auto``: on a GPU.
        num_workers: Processes that decode images.
        checkpoint_every: Epochs between checkpoints and held-out losses.
        snapshots: Shares of the training after which the encoder is exported as well; 0 is before it.
        accelerator: Of Lightning: ``auto``, ``gpu``, ``cpu``, ``mps``.
        devices: How many.
        strategy: Of Lightning: ``auto`` or ``ddp``.
        wandb: Project of Weights & Biases to which the training is logged as well; needs the extra ``wandb``.
    """

    epochs: Annotated[Integer, Field(ge=0)] = 200
    max_steps: Positive | None = None
    batch_size: Positive = 128
    optimizer: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    lr: _LearningRate = 2.0e-4
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    momentum: _Decay = 0.9
    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: Annotated[Number, Field(ge=0.0)] = 0.0
    clip: Annotated[Number, Field(gt=0.0)] | None = 1.0
    accumulate: Positive = 1
    ema_decay: _Decay = 0.9999
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(number_to_text)] = "auto"
    compile: Literal["auto"] | bool = "auto"
    num_workers: Literal["auto"] | Annotated[Integer, Field(ge=0)] = "auto"
    checkpoint_every: Positive = 1
    snapshots: tuple[Fraction, ...] = ()
    accelerator: str = "auto"
    devices: Literal["auto"] | Positive = "auto"
    strategy: str = "auto"
    wandb: str | None = None


class KNNRecipe(Section):
    """Weighted k-nearest neighbours on cosine similarity; see ``lightly_prg.eval.evaluate_knn``.

    Attributes:
        k: Neighbours of the accuracy that tables show.
        ks: For which it is measured as well.
        temperature: A neighbour of cosine c weighs exp(c / temperature).
        transform: Of the features, by the statistics of the bank.
    """

    k: Positive = 20
    ks: tuple[Positive, ...] = (10, 20, 100, 200)
    temperature: Annotated[Number, Field(gt=0.0)] = 0.07
    transform: Literal["none", "standardise", "whiten"] = "none"


class LinearRecipe(Section):
    """Logistic regression on frozen features; see ``lightly_prg.eval.evaluate_linear``.

    Attributes:
        max_iterations: Of L-BFGS for each strength of regularisation.
    """

    max_iterations: Positive = 200


class FewShotRecipe(Section):
    """The linear probe with few labels, averaged over several draws of them.

    Attributes:
        labels: Of each class.
        draws: Over which the accuracy is averaged.
    """

    labels: Positive = 10
    draws: Positive = 5


class LoRARecipe(Section):
    """What fine-tuning in mode ``lora`` adds to convolutions and linear layers; see ``lightly_prg.models.LoRA``.

    Attributes:
        rank: Of the updates.
        alpha: They are multiplied by alpha / rank.
        norms: Train the scales and biases of normalisations as well.
    """

    rank: Positive = 8
    alpha: Annotated[Number, Field(gt=0.0)] = 16.0
    norms: bool = False


class FinetuneRecipe(Section):
    """Fine-tuning with a classification head; see ``lightly_prg.eval.finetune``. null leaves it to the preset.

    Attributes:
        mode: What is trained beside the head: nothing, some blocks, low-rank updates, or all.
        blocks: That mode ``partial`` trains.
        preset: ``shared`` for comparisons, ``prg`` and ``mae`` as their papers have it.
        labels: 10 and the like: of each class; 0.01: one in a hundred; null: all.
        epochs: Passes over the labelled images.
        batch_size: Images of a step.
        learning_rates: Of which the validation images choose one.
        ema_decay: Average the weights with this decay, and keep those.
        beta: Weight of PRG's flow-matching loss beside the cross-entropy.
        lora: Of mode ``lora``.
        feature: Keys of ``method.feature`` that differ from the run's own.
        ode: Keys of ``method.ode`` likewise.
    """

    mode: Literal["head", "partial", "lora", "full"] = "full"
    blocks: tuple[str, ...] = ()
    preset: Literal["shared", "prg", "mae"] = "shared"
    labels: Annotated[Number, Field(gt=0.0)] | None = None
    epochs: Positive | None = None
    batch_size: Positive | None = None
    learning_rates: tuple[_LearningRate, ...] | None = None
    ema_decay: _Decay | None = None
    beta: Annotated[Number, Field(ge=0.0)] = 0.0
    lora: LoRARecipe = LoRARecipe()
    feature: dict[str, Any] | None = None
    ode: dict[str, Any] | None = None

    @field_validator("labels")
    @classmethod
    def _labels_are_an_amount(cls, labels: float | None) -> float | None:
        if labels is not None and labels >= 1 and not float(labels).is_integer():
            raise ValueError("labels: a whole number of each class, or a share below 1")
        return labels

    @property
    def amount(self) -> int | float | None:
        """``labels`` as evaluators take it: whole numbers, of each class, are integers."""
        return int(self.labels) if self.labels is not None and self.labels >= 1 else self.labels

    @model_validator(mode="after")
    def _beta_keeps_what_is_trained(self) -> FinetuneRecipe:
        if self.mode == "head" and self.beta > 0.0:
            raise ValueError("beta keeps the flow-matching loss of a network in training, and mode 'head' trains none")
        return self

    @model_validator(mode="after")
    def _updates_go_with_their_mode(self) -> FinetuneRecipe:
        if self.lora != LoRARecipe() and self.mode != "lora":
            raise ValueError(f"lora describes the updates of mode 'lora'; the mode is {self.mode!r}")
        return self


class EvalRecipe(Section):
    """What a finished run is judged by.

    Attributes:
        split: What is judged; choices are made on validation images in any case.
        batch_size: Images that are embedded at once.
        knn: The k-NN classifier; null leaves it out.
        linear: The linear probe; null leaves it out.
        few_shot: The probe with few labels; null leaves it out.
        finetune: Fine-tuning, into a run of its own; null: none.
        controls: Encoders without a trained network that are judged beside the run.
    """

    split: Literal["validation", "test"] = "validation"
    batch_size: Positive = 250
    knn: KNNRecipe | None = KNNRecipe()
    linear: LinearRecipe | None = LinearRecipe()
    few_shot: FewShotRecipe | None = FewShotRecipe()
    finetune: FinetuneRecipe | None = None
    controls: tuple[Literal["raw_pixels", "pca", "random_network"], ...] = ("raw_pixels", "random_network")


class Recipe(Section):
    """Everything about a run.

    Attributes:
        name: Names the run's folder, ``runs/NAME``.
        description: What it is, for readers.
        seed: Of everything that is drawn.
        init_from: A run folder whose weights training starts from.
        data: The images.
        method: What is trained.
        train: How.
        eval: What is measured then.
    """

    name: Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]
    description: str = ""
    seed: Annotated[Integer, Field(ge=0)] = 0
    init_from: str | None = None
    data: DataRecipe
    method: MethodRecipe
    train: TrainRecipe = TrainRecipe()
    eval: EvalRecipe = EvalRecipe()

    @property
    def is_trained_here(self) -> bool:
        """Whether there is anything to train: not what was trained elsewhere, nor a network left as it was drawn."""
        return self.train.epochs > 0 and not isinstance(self.method, PretrainedRecipe | GeneratorRecipe)

    @property
    def mirrors(self) -> bool:
        """Whether a mirrored image still shows the same thing, as far as the recipe knows: of digits it does not."""
        return bool(getattr(getattr(self.method, "augment", None), "horizontal_flip", True))

    def to_yaml(self) -> str:
        """The fully resolved recipe; ``parse_recipe`` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100, default_flow_style=None)

    def training_content(self) -> dict[str, Any]:
        """What decides the trained weights and the feature: without names, folders, devices and evaluators."""
        content = self._deciding_content()
        content.pop("eval")
        return content

    def sha256(self) -> str:
        """Hash of what decides the result: without names, folders, devices and workers."""
        content = self._deciding_content()
        if content["method"].get("auxiliary", ...) is None:
            content["method"].pop("auxiliary")
        if content["train"]["max_steps"] is None:
            content["train"].pop("max_steps")
        if content["eval"]["knn"] is not None and content["eval"]["knn"]["transform"] == "none":
            content["eval"]["knn"].pop("transform")  # recipes from before there was a choice keep their hash
        if content["eval"]["finetune"] is not None:
            content["eval"]["finetune"] = _without_unused(content["eval"]["finetune"])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _deciding_content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        for section, key in _NOT_HASHED:
            (content[section] if section else content).pop(key)
        return content


_NOT_HASHED = (
    ("", "name"),
    ("", "description"),
    ("data", "root"),
    ("data", "download"),
    ("train", "num_workers"),
    ("train", "accelerator"),
    ("train", "devices"),
    ("train", "strategy"),
    ("train", "wandb"),
    ("train", "checkpoint_every"),
    ("train", "snapshots"),
)


def _without_unused(finetune: dict[str, Any]) -> dict[str, Any]:
    """Fine-tuning without the later options where they decide nothing, so that older recipes keep their hash."""
    unused = {key for key in ("ema_decay", "feature", "ode") if finetune[key] is None}
    unused |= {"lora"} if finetune["mode"] != "lora" else set()
    return {key: value for key, value in finetune.items() if key not in unused}


def shipped_recipes() -> dict[str, str]:
    """Maps the name of every shipped recipe to its text."""
    folder = resources.files("lightly_prg.recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def has_key(path: Path, key: str) -> bool:
    """Whether a file is a YAML mapping with this key, which tells kinds of recipes apart; a damaged one has none."""
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and key in content


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
    hint = nearest(str(source), shipped)
    raise UserError(
        f"There is no recipe {str(source)!r}: no such file, and no shipped recipe of that name{hint or '.'} "
        f"Shipped recipes: {', '.join(shipped)}."
    )


def parse_recipe(text: str, *, overrides: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """Parses YAML text into a recipe, see ``load_recipe``."""
    try:
        raw = read_yaml(text)
    except ValueError as error:
        raise UserError(f"{origin} is not valid YAML: {error}.") from None
    if not isinstance(raw, dict):
        raise UserError(f"{origin} is not a recipe: a YAML mapping with the keys name, data and method is needed.")
    for override in overrides:
        apply_override(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{origin}: {explained(error, raw, Recipe)}") from None


def pretrained_recipe(
    source: str, overrides: Sequence[str] = (), *, weights: str = "default", resize: int | None = None
) -> Recipe:
    """The recipe that judges what was trained elsewhere.

    Args:
        source: ``timm:NAME``, ``torchvision:NAME`` or ``diffusers:FOLDER``. Images get as many channels as a generator
            of diffusers has, unless the overrides say otherwise.
        overrides: As in ``load_recipe``.
        weights: Of a network of timm or torchvision, see ``PretrainedRecipe``.
        resize: The side to which images are brought for the network. A generator sees them in its own size alone, so
            for it this is the size of the data.

    Raises:
        UserError: As ``load_recipe``, and if there is no such generator.
    """
    raw: dict[str, Any] = {"name": re.sub(r"[^\w.+-]", "-", source), "data": {"name": "digits"}}
    if source.startswith("diffusers:"):
        location = source.removeprefix("diffusers:")
        if not is_hub_id(location):
            channels, _ = image_shape(open_diffusers_folder(location).unet_config)
            raw["data"]["channels"] = channels if channels in (1, 3) else None
        raw["name"] = "diffusers-" + re.sub(r"[^\w.+-]", "-", location.rstrip("/").rsplit("/", 1)[-1])
        raw["data"]["image_size"] = resize
        raw["method"] = {"name": "generator", "source": source}
    else:
        raw["method"] = {"name": "pretrained", "source": source, "weights": weights, "resize": resize}
    return parse_recipe(yaml.safe_dump(raw), overrides=overrides, origin=source)


def finetune_settings(recipe: Recipe, overrides: Sequence[str] = (), **options: Any) -> FinetuneRecipe:
    """The fine-tuning of a recipe, or the default one, with some of its options replaced.

    Args:
        recipe: Of a run.
        overrides: ``key=value`` with keys of ``eval.finetune``, for example ``feature.source=state``, ``lora.rank=4``.
        options: The same by name; they come after the overrides, and None keeps what there is.

    Raises:
        UserError: If an option is not allowed.
    """
    settings = recipe.eval.finetune if recipe.eval.finetune is not None else FinetuneRecipe()
    content = settings.model_dump()
    for override in overrides:
        apply_override(content, override)
    content |= {key: value for key, value in options.items() if value is not None}
    if content["mode"] != "lora" and not any(override.startswith("lora") for override in overrides):
        content["lora"] = {}  # those of the recipe went with its mode
    try:
        return FinetuneRecipe.model_validate(content)
    except ValidationError as error:
        raise UserError(explained(error, content, FinetuneRecipe)) from None


class _OtherData(Section):
    data: DataRecipe


def data_settings(overrides: Sequence[str], **defaults: Any) -> DataRecipe:
    """A ``data`` section alone.

    Args:
        overrides: For example ``["data.name=cifar10", "data.root=/data"]``.
        defaults: Keys of the section that the overrides may change.

    Raises:
        UserError: If a key, type or value is wrong.
    """
    content: dict[str, Any] = {"data": dict(defaults)}
    for override in overrides:
        apply_override(content, override)
    try:
        return _OtherData.model_validate(content).data
    except ValidationError as error:
        raise UserError(explained(error, content, _OtherData)) from None


def explained(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> str:
    """What is wrong with the content of a section, in one sentence without its end."""
    details = error.errors(include_url=False)
    # A list of which every item is wrong is not too short as well.
    places = [detail["loc"] for detail in details]
    details = [
        detail
        for detail in details
        if detail["type"] != "too_short" or not any(place[:-1] == detail["loc"] for place in places)
    ]
    return "; ".join(dict.fromkeys(_explain(detail, raw, model) for detail in details))


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets ``key.sub=value`` in the raw content of a recipe.

    Raises:
        UserError: If it is no override, or does not fit the content.
    """
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"{override!r} is not an override: write key.sub=value, for example train.epochs=5.")
    try:
        value = read_yaml(text)
    except ValueError:
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


def nearest(key: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """``; did you mean 'epochs'?``, or nothing where nothing is near."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _explain(detail: Any, raw: dict[str, Any], root: type[BaseModel]) -> str:
    """One clause for one pydantic error: key, given, allowed, nearest."""
    kind, given = detail["type"], detail["input"]
    location = _strip_tags(detail["loc"], raw, keep_last=kind in ("missing", "extra_forbidden"))
    key = ".".join(location) or "the recipe"
    if kind == "extra_forbidden":
        known = _keys_at(location[:-1], raw, root)
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {'.'.join((*location[:-1], close[0]))!r}?" if close else "."
        where = f"under {'.'.join(location[:-1])}" if location[:-1] else "here"
        return f"unknown key {key!r} (given: {given!r}){hint} Known {where}: {', '.join(known)}"
    if kind == "missing":
        return f"the key {key!r} is missing"
    if kind == "union_tag_not_found":
        return (
            f"the key {key + '.name'!r} is missing; allowed are {detail['ctx'].get('expected_tags', 'the known names')}"
        )
    if kind == "union_tag_invalid":
        allowed = detail["ctx"]["expected_tags"]
        tag = detail["ctx"]["tag"]
        return f"{key}.name is {tag!r}; allowed are {allowed}{nearest(tag, allowed.replace(chr(39), '').split(', '))}"
    if kind == "literal_error":
        expected = detail["ctx"]["expected"]
        names = expected.replace("'", "").replace(" or ", ", ").split(", ")
        return f"{key} is {given!r}; allowed are {expected}{nearest(str(given), names)}"
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
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif not (keep_last and last):
            continue
        kept.append(str(part))
    return tuple(kept)


def _keys_at(location: Sequence[str], raw: Any, root: type[BaseModel]) -> list[str]:
    """The known keys of the section at ``location`` below ``root``."""
    model = root
    node = raw
    for part in location:
        node = node.get(part) if isinstance(node, dict) else None
        if part not in model.model_fields:
            continue  # the place in a list, or the name in a mapping, of sections
        candidates = models_in(model.model_fields[part].annotation)
        tag = node.get("name") if isinstance(node, dict) else None
        model = next(
            (c for c in candidates if tag in get_args(c.model_fields.get("name", _NO_FIELD).annotation)),
            candidates[0],
        )
    return list(model.model_fields)


_NO_FIELD = Recipe.model_fields["seed"]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation admits, in its order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None:
        return []
    return [model for argument in get_args(annotation) for model in models_in(argument)]


__all__ = [
    "AugmentRecipe",
    "AuxiliaryRecipe",
    "BackboneRecipe",
    "DataRecipe",
    "DecoderRecipe",
    "DiTRecipe",
    "EvalRecipe",
    "FeatureSpec",
    "FinetuneRecipe",
    "GeneratorRecipe",
    "ImportRecipe",
    "LoRARecipe",
    "MAERecipe",
    "MethodRecipe",
    "NetworkFeature",
    "OdeSpec",
    "PRGRecipe",
    "PretrainedRecipe",
    "Recipe",
    "ResNetRecipe",
    "SimCLRRecipe",
    "TrainRecipe",
    "UNetRecipe",
    "ViTRecipe",
    "apply_override",
    "explained",
    "finetune_settings",
    "load_recipe",
    "nearest",
    "parse_recipe",
    "pretrained_recipe",
    "shipped_recipes",
]
