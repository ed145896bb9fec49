"""From a recipe to a trained run: data, module, Lightning's Trainer, export."""

from __future__ import annotations

import hashlib
import logging
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import DDPStrategy

from lightly_prg.console import Console
from lightly_prg.data import ImageSet, Splits, load_data
from lightly_prg.errors import UserError
from lightly_prg.hardware import pick_device, pick_precision
from lightly_prg.hardware.attention import use_fast_attention
from lightly_prg.hardware.layout import fast_layout
from lightly_prg.methods import Method, adopted_encoder, build_method
from lightly_prg.models import redraw_zero_weights
from lightly_prg.randomness import generator_for, global_draws
from lightly_prg.recipe import GeneratorRecipe, PretrainedRecipe, Recipe, TrainRecipe
from lightly_prg.run import Run, load
from lightly_prg.training.batches import TrainingData
from lightly_prg.training.checkpoint import Interrupted, LastCheckpoint, PlainFiles, read_checkpoint
from lightly_prg.training.evaluable import check_evaluable
from lightly_prg.training.finetunable import check_finetunable
from lightly_prg.training.former_run import former_run_kept
from lightly_prg.training.log import TrainingLog
from lightly_prg.training.processes import check_shares, is_first_process, process_count, wait_for_all
from lightly_prg.training.snapshots import Snapshots


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    data: Splits | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust: bool = False,
    console: Console | None = None,
    callbacks: Sequence[pl.Callback] = (),
    init_from: str | None = None,
) -> Run:
    """Pretrains the method of a recipe and writes the run folder; evaluation is a step of its own.

    Args:
        recipe: What to train.
        out: The run folder; default ``runs/<name>``.
        data: Image sets of your own, instead of the recipe's ``data`` section.
        resume: Continue a run that was cut off. A finished one is left as it is.
        overwrite: Replace a run that is there, which is kept in ``.replaced`` until this one is finished.
        trust: Whether code that the recipe names may run.
        console: Where progress is shown; default nowhere.
        callbacks: Further callbacks of Lightning, which see every batch; they must not change the training.
        init_from: Where the run that the recipe starts from lies now, if it was moved.

    Returns:
        The run, trained and with its encoder exported.

    Raises:
        UserError: If the recipe, the data or the folder does not allow it, or the loss stops being a number.
        Interrupted: If it was stopped by Ctrl-C or SIGTERM; the state is saved and ``resume=True`` continues.
    """
    console = console if console is not None else Console(quiet=True)
    first = is_first_process()  # Lightning starts the others with the same command
    run = Run(Path(out) if out is not None else Path("runs") / recipe.name)
    if first:
        _check_folder(run, recipe, resume=resume, overwrite=overwrite)
    if resume and run.is_trained:
        console.say(f"{run.folder} is already trained.")
        return run
    if data is None:
        data = load_splits(recipe, console)
    # Everything that can be wrong with the recipe or the data shows here, before the folder is touched.
    check_evaluable(recipe, data)
    if not recipe.is_trained_here:
        return _adopt(run, recipe, data, console, overwrite=overwrite, trust=trust, init_from=init_from)
    batches = TrainingData(data.train, recipe)
    module = build_module(recipe, data, trust=trust, init_from=init_from)
    module.epochs = recipe.train.epochs
    check_finetunable(recipe, module.encoder(), data)
    start = _describe_start(recipe, init_from)
    described = describe_splits(recipe, data)
    if not first:
        _, stop = _fit(run, recipe, module, batches, data.validation, described, resume, console, callbacks)
        wait_for_all()  # until the first process has exported the encoder
        return _unless_stopped(run, stop)

    def begin() -> None:
        run.remove_leftovers()
        if overwrite:
            set_aside()
        run.create(recipe)

    with run.lock(), former_run_kept(run, console) as set_aside:
        log, stop = _fit(run, recipe, module, batches, data.validation, described, resume, console, callbacks, begin)
        run.export(module.encoder(), data=described, training=log.summary(), extra=start)
    wait_for_all()
    return _unless_stopped(run, stop)


def _unless_stopped(run: Run, stop: int | None) -> Run:
    if stop is not None:
        raise Interrupted(stop, saved=True)
    return run


def _adopt(
    run: Run, recipe: Recipe, data: Splits, console: Console, *, overwrite: bool, trust: bool, init_from: str | None
) -> Run:
    """Makes a run of a network or generator that was trained elsewhere, or not at all."""
    info = data.train
    spent: dict[str, Any] = {"epochs": 0, "steps": 0}
    if isinstance(recipe.method, PretrainedRecipe | GeneratorRecipe):
        encoder = adopted_encoder(recipe.method, (info.channels, info.image_size, info.image_size))
    else:
        encoder = build_module(recipe, data, trust=trust, init_from=init_from).encoder()
        spent |= {"images": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0}  # of the others it is not known
        if recipe.init_from is None:
            # What starts at zero would hide the other weights: such a flow does not move and its state is the image.
            redraw_zero_weights(encoder.network, generator_for(recipe.seed, "random network, zero weights"))
    check_finetunable(recipe, encoder, data)
    start = _describe_start(recipe, init_from)
    with run.lock(), former_run_kept(run, console) as set_aside:
        if overwrite:
            set_aside()
        run.create(recipe)
        described = describe_splits(recipe, data)
        run.export(encoder, data=described, training=spent, extra=start)
    return run


def _describe_start(recipe: Recipe, init_from: str | None) -> dict[str, Any]:
    """What encoder.json says of the weights that the training started from: their folder may hold others tomorrow."""
    if recipe.init_from is None:
        return {}
    origin = Run(Path(init_from if init_from is not None else recipe.init_from))
    return {"started_from": {"weights_crc32": origin.weights_crc32}}


def describe_splits(recipe: Recipe, data: Splits) -> dict[str, Any]:
    """What encoder.json says of the images."""
    info = data.train
    return {
        "name": recipe.data.name,
        "class_names": list(info.class_names),
        "channels": info.channels,
        "image_size": info.image_size,
        "grey_levels": info.grey_levels,
        "num_train": len(data.train),
        "num_validation": len(data.validation),
        "num_test": len(data.test),
        "split_seed": recipe.seed,
        # A folder can hold other images tomorrow, and the same ones elsewhere.
        **({"fingerprint": data.fingerprint} if recipe.data.name == "folder" else {}),
    }


def load_splits(recipe: Recipe, console: Console) -> Splits:
    """The image sets of a recipe, with a progress bar where they have to be decoded."""
    with console.task(f"reading {recipe.data.name}", 1) as update:
        return load_data(recipe.data, seed=recipe.seed, progress=update)


def build_module(recipe: Recipe, data: Splits, *, trust: bool, init_from: str | None = None) -> Method:
    """The method's module for these images, with weights that depend on the seed and ``recipe.init_from`` alone.

    Args:
        recipe: Of the run.
        data: Its images.
        trust: Whether code that the recipe names may run.
        init_from: Where the run of ``recipe.init_from`` lies now, if it was moved.
    """
    info = data.train
    # The caller's own random state is not ours to change.
    with global_draws(recipe.seed, "weights"):
        try:
            module = build_method(
                recipe.method,
                input_shape=(info.channels, info.image_size, info.image_size),
                num_classes=info.num_classes,
                optimization=recipe.train,
                seed=recipe.seed,
                trust=trust,
            )
        except UserError:
            raise
        except ValueError as error:
            # A block, solver or pooling that does not exist shows when the first image is embedded.
            raise UserError(f"method: {error}") from None
    if recipe.init_from is not None:
        origin = init_from if init_from is not None else recipe.init_from
        source = load(origin, trust=trust).network
        try:
            module.network.load_state_dict(source.state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"init_from: the network of {origin} does not fit: {reason}") from None
    return module


def _check_folder(run: Run, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other.")
    if resume:
        if not run.recipe_file.is_file():
            raise UserError(f"There is nothing to resume: {run.folder} holds no run.")
        if run.weights_file.is_file() and not run.is_trained and not run.checkpoint.is_file():
            raise UserError(
                f"There is nothing to resume: {run.checkpoint} is gone, and the weights beside it are kept. "
                "Train anew with --overwrite, or choose another folder with --out."
            )
        if run.recipe.sha256() != recipe.sha256():
            raise UserError(
                f"{run.folder} was made from another recipe. Resume it with its own: "
                f"`lightly-prg train {run.recipe_file} --out {run.folder} --resume`."
            )
    elif run.is_taken() and not overwrite:
        state = "a finished run" if run.is_trained else "a run that is not finished"
        ways = "Continue it with --resume, replace it" if recipe.is_trained_here else "Replace it"
        raise UserError(
            f"{run.folder} already holds {state}. {ways} with --overwrite, or choose another folder with --out."
        )
    if shutil.disk_usage(_existing(run.folder)).free < 64 * 2**20:
        raise UserError(f"There is less than 64 MiB of free disk space for {run.folder}.")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.absolute().parent
    return folder


def _fit(
    run: Run,
    recipe: Recipe,
    module: Method,
    batches: TrainingData,
    held_out: ImageSet,
    described: dict[str, Any],
    resume: bool,
    console: Console,
    callbacks: Sequence[pl.Callback],
    begin: Callable[[], None] = lambda: None,
) -> tuple[TrainingLog, int | None]:
    """Trains; ``begin`` is called once Lightning has accepted the recipe: a run that is there is lost no sooner.

    Returns:
        The log; and the number of a signal that came in the last step, which no other step was left to heed.
    """
    settings = recipe.train
    state = read_checkpoint(run.checkpoint, recipe) if resume and run.checkpoint.is_file() else None
    device = pick_device(settings.accelerator)
    precision = pick_precision(settings.precision, device).precision
    if precision == "16" and device.type == "cpu":
        raise UserError("train.precision is 16, in which CPUs do not train: take bf16, 32 or auto.")
    # `auto`: on a GPU compiling pays within minutes; on a CPU it takes longer than small trainings last.
    if settings.compile is True or (settings.compile == "auto" and device.type == "cuda"):
        # What networks before it were compiled to counts against a limit, beyond which torch silently compiles nothing.
        torch._dynamo.reset()
        module.compile_network()
    use_fast_attention(module, device, precision)
    layout = fast_layout(module.network, device, precision)
    module.network.to(memory_format=layout)
    module.ema.to(memory_format=layout)
    log = TrainingLog(
        run.metrics,
        console,
        steps_per_epoch=batches.steps_per_epoch,
        total=batches.total,
        batch_size=settings.batch_size,
        held_out=held_out,
        held_out_every=settings.checkpoint_every,
        device=str(device),
        precision=precision,
    )
    checkpoint = LastCheckpoint(
        run.checkpoint,
        recipe_sha256=recipe.sha256(),
        every=settings.checkpoint_every * batches.steps_per_epoch,
        accumulate=settings.accumulate,
        total=batches.total,
        images=described.get("fingerprint"),
    )
    snapshots = Snapshots(
        run,
        settings.snapshots,
        total=batches.total,
        data=described,
        cost=lambda position: {
            **log.summary(),
            "epochs": position / batches.steps_per_epoch,
            "steps": position,
            "images": position * settings.batch_size,
        },
    )
    if state is not None:
        noted = checkpoint.images_in(state)
        if noted is not None and noted != described.get("fingerprint"):
            raise UserError(
                f"{run.folder} was begun with other images than {recipe.data.root} holds now: resume it with those."
            )
        batches.start = checkpoint.position_in(state)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = _trainer(
        settings,
        # One long epoch: which images make up a batch is decided by the position alone (see BatchStream), so that
        # there is one way to be cut off and one way to continue.
        max_epochs=1,
        accelerator=settings.accelerator,
        devices=process_count(settings.devices, device, settings.batch_size),
        strategy=settings.strategy,
        # Batch statistics are those of the global batch, as Lightly's own scripts have it; CPUs cannot.
        sync_batchnorm=device.type == "cuda",
        precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision],
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        callbacks=[log, checkpoint, snapshots, *callbacks],
        logger=_loggers(run, recipe) if is_first_process() else False,
        log_every_n_steps=50,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        plugins=[PlainFiles()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.folder,
    )
    check_shares(settings.batch_size, trainer.world_size)
    if module.leaves_weights_untouched and isinstance(trainer.strategy, DDPStrategy):
        # It waits for the gradient of every weight, unless it is told to find out which ones get none. By a name of
        # the strategy that says so, `auto`, which picks DDP by itself, could not be told.
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    begin()
    with _stop_signals(checkpoint), warnings.catch_warnings():
        # Lightning's advice on workers and on resuming inside an epoch does not fit a stream of batches that knows
        # its own position.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
        trainer.fit(module, datamodule=batches, ckpt_path=run.checkpoint if state is not None else None)
    module.cpu()
    return log, checkpoint.stopped_at_end


def _trainer(settings: TrainRecipe, **options: Any) -> pl.Trainer:
    """Lightning's Trainer; what it does not take of the recipe is the recipe's fault."""
    try:
        return pl.Trainer(**options)
    except (MisconfigurationException, ValueError, ImportError) as error:
        asked = f"accelerator={settings.accelerator}, devices={settings.devices}, strategy={settings.strategy}"
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"Lightning cannot train with {asked}: {reason}.") from None


def _loggers(run: Run, recipe: Recipe) -> list[Logger]:
    """TensorBoard's where it is installed, Weights & Biases' where it is asked for; metrics.csv is written anyway."""
    loggers: list[Logger] = []
    if find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(run.folder, name="", version="tensorboard"))
    if recipe.train.wandb is not None:
        if find_spec("wandb") is None:
            raise UserError("train.wandb needs Weights & Biases: pip install 'lightly-prg[wandb]'.")
        # What a resumed run logs belongs to the curve that was begun.
        place = f"{run.folder.resolve()} {recipe.sha256()}"
        loggers.append(
            WandbLogger(
                project=recipe.train.wandb,
                name=recipe.name,
                id=hashlib.sha256(place.encode()).hexdigest()[:16],
                resume="allow",
                save_dir=run.folder,
                config=recipe.model_dump(mode="json"),
            )
        )
    return loggers


@contextmanager
def _stop_signals(checkpoint: LastCheckpoint) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into a stop after the current step, when the state is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        if checkpoint.stop_signal is not None:
            raise KeyboardInterrupt  # asked twice: at once, with the checkpoint that is there
        checkpoint.stop_signal = number

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        # Lightning answers a KeyboardInterrupt with sys.exit(1).
        raise Interrupted(signal.SIGINT, saved=False) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Interrupted", "build_module", "load_splits", "train"]
