"""Classifiers made from runs: fine-tuned, which is a run of its own, or a probe on the frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lightly_prg.classifier.flow_comparison import IMAGES, compare_samples, round_trip_error
from lightly_prg.errors import UserError
from lightly_prg.eval import (
    FineTuned,
    FinetuneResult,
    LinearHead,
    PRGHead,
    evaluate_robustness,
    finetune,
    fit_probe,
    result_to_dict,
)
from lightly_prg.eval.corruptions import check_size
from lightly_prg.eval.embed import in_unit_range
from lightly_prg.evaluation import EncoderName, Evaluation
from lightly_prg.features import PRGEncoder
from lightly_prg.features.network_encoder import NetworkEncoder
from lightly_prg.features.rereading import reread
from lightly_prg.files import file_crc32, read_json, replacing, write_json
from lightly_prg.hardware import decoding_workers
from lightly_prg.models import LoRA
from lightly_prg.module_state import state_to_save
from lightly_prg.recipe import FinetuneRecipe, Recipe
from lightly_prg.run import Run, load
from lightly_prg.training.finetune_loss import kept_flow_matching
from lightly_prg.training.former_run import former_run_kept

# What encoder.json says of a fine-tuning, its cost with all learning rates and its judging included.
_FINETUNED = ("encoder", "mode", "blocks", "preset", "num_train", "steps", "seconds", "cpu_seconds")
_HEADS = {"LinearHead": "linear", "PRGHead": "prg"}
_SUFFIXES = {"run": "finetuned", "random_network": "scratch"}


def default_target(source: Run, encoder: str = "run") -> Run:
    """Where a fine-tuned model goes by itself: ``RUN-finetuned`` or ``RUN-scratch`` beside the run."""
    # A folder such as `.` has no name of its own.
    folder = source.folder if source.folder.name not in ("", "..") else source.folder.resolve()
    return Run(folder.with_name(f"{folder.name}-{_SUFFIXES[encoder]}"))


def finetune_run(
    evaluation: Evaluation,
    settings: FinetuneRecipe,
    *,
    encoder: EncoderName = "run",
    split: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """Fine-tunes a run's encoder, or its architecture from scratch, and writes the model as a run of its own.

    Where a PRG run is fine-tuned, the result says what that did to the flow: ``round_trip_before`` and
    ``round_trip_after`` (see ``round_trip_error``), and the new run has the samples before and after in a figure.

    Args:
        evaluation: The run and its data.
        settings: What is trained, through which feature and solver, how long, on how many labels.
        encoder: ``run``, or ``random_network`` for training from scratch.
        split: ``validation`` or ``test``; default the recipe's.
        out: Folder of the new run; default ``RUN-finetuned`` or ``RUN-scratch`` beside it.
        overwrite: Replace a run that is there.

    Returns:
        The new run and the result, which is written into both folders.

    Raises:
        UserError: If an option does not fit, or the folder is taken.
    """
    source = evaluation.run
    if encoder not in _SUFFIXES:
        raise UserError(f"There is nothing to fine-tune in {encoder!r}; allowed are run and random_network.")
    if split not in (None, "validation", "test"):
        raise UserError(f"The split is {split!r}; a fine-tuned model is judged on validation or test.")
    target = Run(out) if out is not None else default_target(source, encoder)
    if target.folder.resolve() == source.folder.resolve():
        raise UserError("The fine-tuned model needs a folder of its own; choose another with --out.")
    if target.is_taken() and not overwrite:
        raise UserError(f"{target.folder} already holds a run. Replace it with --overwrite, or choose --out.")
    split = split if split is not None else source.recipe.eval.split
    original: Any = evaluation.encoder(encoder)
    network = reread(original, feature=settings.feature, ode=settings.ode)
    keeps_flow = isinstance(original, PRGEncoder) and encoder == "run"
    # Locked before the training: that the folder cannot be written should not be found out behind it.
    with target.lock(), former_run_kept(target, evaluation.console) as set_aside:
        result, model = finetune_encoder(evaluation, network, settings, split=split)
        trained: Any = model.encoder
        content = {
            "encoder": encoder,
            "split": split,
            **result_to_dict(result),
            "beta": settings.beta,
            **{key: value for key, value in trained.description().items() if key in ("feature", "ode")},
            "recipe_sha256": evaluation.description["recipe_sha256"],
        }
        # Results are told apart by their options, of which these are some, too.
        told_apart = ("mode", "blocks", "epochs", "beta", "feature", "ode")
        content["options"] |= {key: content[key] for key in told_apart if key in content}
        if keeps_flow:
            shown = in_unit_range(evaluation.some_images(split, IMAGES).pixels())
            content["round_trip_before"] = round_trip_error(original, shown)
            content["round_trip_after"] = round_trip_error(trained.to(evaluation.target), shown)
        own = settings == source.recipe.eval.finetune and encoder == "run"
        source.write_result("finetune", content, own_options=own)
        recipe = _recipe_of(source.recipe, settings, trained, suffix=_SUFFIXES[encoder], split=split)
        recipe = recipe.model_copy(update={"init_from": str(source.folder) if encoder == "run" else None})
        if overwrite:
            set_aside()
        target.create(recipe)
        # The description of the encoder says that a run is whole, so it comes last.
        _write_head(target, model.head, num_classes=result.num_classes)
        target.export(
            trained,
            data=evaluation.description["data"],
            # From scratch, nothing of the pretraining is in its weights.
            training=evaluation.description["training"] if encoder == "run" else {"epochs": 0, "steps": 0},
            extra={
                "finetuned": {key: content[key] for key in _FINETUNED},
                **_chosen_on(evaluation, settings, result, split=split),
            },
        )
        target.write_result("finetune", {**content, "encoder": "run"}, own_options=True)
        if keeps_flow:
            compare_samples(original, trained, seed=source.recipe.seed, figures=target.figures)
    return target, content


def _chosen_on(
    evaluation: Evaluation, settings: FinetuneRecipe, result: FinetuneResult, *, split: str
) -> dict[str, dict[str, str]]:
    """The images that chose the feature and the learning rate, and cannot judge the model any more."""
    chosen: dict[str, str] = dict(evaluation.description.get("chosen_on", {})) if settings.feature is None else {}
    searched = len(result.options["learning_rates"]) > 1
    if searched and split == "test" and len(evaluation.splits.validation):
        chosen["learning rate"] = "validation"
    return {"chosen_on": chosen} if chosen else {}


def finetune_encoder(
    evaluation: Evaluation,
    encoder: nn.Module,
    settings: FinetuneRecipe,
    *,
    split: str,
    validate_at: Sequence[float] | None = None,
) -> tuple[FinetuneResult, FineTuned]:
    """Fine-tunes any encoder on the images of a run, and writes nothing.

    Args:
        evaluation: Its images, its seed and its device.
        encoder: What is fine-tuned; it is not changed. Its feature and solver are taken as they are.
        settings: All else.
        split: ``validation`` or ``test``: what the result is about.
        validate_at: Shares of the training after which validation images are classified; default: after each epoch.

    Raises:
        UserError: If an option does not fit.
    """
    validation = evaluation.splits.validation
    labels, seed = settings.labels, evaluation.run.recipe.seed
    title = f"fine-tuning on {'all' if labels is None else f'{labels:g}'} labels"
    with evaluation.console.task(title, 1) as update:
        return finetune(
            encoder,
            evaluation.images("train"),
            evaluation.images(split),
            # What is reported must not have chosen the learning rate.
            validation=validation if split == "test" and len(validation) else None,
            mode=settings.mode,
            blocks=settings.blocks,
            adapter=LoRA(**settings.lora.model_dump(), seed=seed) if settings.mode == "lora" else None,
            preset=settings.preset,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rates=settings.learning_rates,
            ema_decay=settings.ema_decay,
            labels=settings.amount,
            horizontal_flip=evaluation.run.recipe.mirrors,
            num_classes=evaluation.splits.train.num_classes,
            extra_loss=kept_flow_matching(settings.beta, encoder=encoder, recipe=evaluation.run.recipe),
            seed=seed,
            device=str(evaluation.target),
            precision=evaluation.precision,
            num_workers=decoding_workers(),
            validate_at=validate_at,
            progress=update,
        )


def _recipe_of(
    recipe: Recipe, settings: FinetuneRecipe, encoder: PRGEncoder | NetworkEncoder, *, suffix: str, split: str
) -> Recipe:
    """The recipe of a fine-tuned run; its method has the feature and the solver that were trained with."""
    method: dict[str, Any] = {"feature": encoder.feature} if settings.feature else {}
    if settings.ode and isinstance(encoder, PRGEncoder):
        method["ode"] = encoder.ode
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-{suffix}",
            "method": recipe.method.model_copy(update=method),
            "eval": recipe.eval.model_copy(update={"finetune": settings, "split": split}),
        }
    )


def _write_head(run: Run, head: nn.Module, *, num_classes: int) -> None:
    with replacing(run.folder / "head.safetensors") as temporary:
        save_file(state_to_save(head), temporary)
        checksum = file_crc32(temporary)
    write_json(
        run.folder / "head.json",
        {"head": _HEADS[type(head).__name__], "num_classes": num_classes, "weights_crc32": checksum},
    )


def load_classifier(folder: str | Path, *, trust: bool = False) -> FineTuned:
    """Loads a fine-tuned run: float images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``.

    Raises:
        UserError: If the folder holds no fine-tuned model, or its files are damaged.
    """
    encoder = load(folder, trust=trust)
    path = Path(folder) / "head.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no fine-tuned model: it has no head.json.")
    described = read_json(path)
    classes, kind = described.get("num_classes"), described.get("head")
    if not isinstance(classes, int) or classes < 1 or kind not in _HEADS.values():
        raise UserError(f"{path} is damaged: it does not say which head classifies into how many classes.")
    head: nn.Module
    if kind == "prg":
        assert encoder.input_shape is not None
        head = PRGHead(encoder.input_shape, classes)
    else:
        head = LinearHead(encoder.embedding_dim, classes)
    weights = Path(folder) / "head.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights} is missing.")
    try:
        # Runs of older versions have no checksum.
        if described.get("weights_crc32", checksum := file_crc32(weights)) != checksum:
            raise UserError(f"{weights} is damaged: its checksum is not the one that was written with it.")
        head.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":.")
        raise UserError(f"{weights} is damaged or belongs to another head: {reason}.") from None
    return FineTuned(encoder, head).eval()


def classifier_of(evaluation: Evaluation, name: EncoderName = "run", *, split: str) -> nn.Module:
    """What classifies for an encoder: its fine-tuned head, or else a linear probe fitted on training features.

    Args:
        evaluation: The run and its data.
        name: The run's encoder or a control.
        split: What is to be judged: the probe chooses its penalty on validation images, and is fitted on them too,
            unless they are what it is judged by.
    """
    if name == "run" and (evaluation.run.folder / "head.json").is_file():
        return load_classifier(evaluation.run.folder, trust=evaluation.trust)
    train, validation = evaluation.embeddings(name, "train"), None
    if split == "test" and len(evaluation.splits.validation):
        validation = evaluation.embeddings(name, "validation")
    encoder = evaluation.encoder(name)
    return fit_probe(train, validation, encoder=encoder, seed=evaluation.run.recipe.seed, device=str(evaluation.target))


def robustness(
    evaluation: Evaluation,
    name: EncoderName = "run",
    *,
    split: str | None = None,
    folder: Path | None = None,
    max_images: int | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """Measures the accuracy on corrupted images; writes the result, its curves and a gallery.

    Args:
        evaluation: The run and its data.
        name: The run's encoder or a control.
        split: Which images; default the recipe's, or ``test`` with ``folder``.
        folder: Official files such as CIFAR-10-C, in place of computed corruptions. They are of the test images.
        max_images: At most this many, drawn at random.

    Returns:
        The result as it was written, and the figures.

    Raises:
        UserError: If other images than those of the test set are to stand beside official files, or those that were
            trained on are to be judged.
    """
    from lightly_prg.eval.plot_robustness import plot_corruptions, plot_robustness

    if split is None:
        split = evaluation.run.recipe.eval.split if folder is None else "test"
    split = evaluation.unfitted_split(split, "The classifier was fitted to")
    if folder is not None and split != "test":
        raise UserError(f"The files of {folder} are corrupted test images, beside which {split} images say nothing.")
    images = evaluation.images(split)
    if folder is None:
        check_size(images.image_size, images.image_size)  # before a probe is fitted
    classifier = classifier_of(evaluation, name, split=split)
    with evaluation.console.task("classifying corrupted images", 1) as update:
        result = evaluate_robustness(
            classifier.to(evaluation.target),
            images,
            seed=evaluation.run.recipe.seed,
            batch_size=evaluation.run.recipe.eval.batch_size,
            device=str(evaluation.target),
            folder=folder,
            max_images=max_images,
            num_classes=evaluation.splits.train.num_classes,
            progress=update,
        )
    content = {
        "encoder": name,
        "split": split,
        **result_to_dict(result),
        "recipe_sha256": evaluation.description["recipe_sha256"],
    }
    own = name == "run" and folder is None and max_images is None and split == evaluation.run.recipe.eval.split
    evaluation.run.write_result("robustness", content, own_options=own)
    curves, gallery = evaluation.run.figures / "robustness.png", evaluation.run.figures / "corruptions.png"
    label = evaluation.run.recipe.name if name == "run" else name.replace("_", " ")
    plot_robustness({label: content}, curves)
    shown = torch.stack([images[index][0] for index in range(min(4, len(images)))])
    plot_corruptions(shown, gallery, seed=evaluation.run.recipe.seed)
    return content, [curves, gallery]
