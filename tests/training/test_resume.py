from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.methods import PRG
from lightly_prg.methods.method import Method
from lightly_prg.recipe import AuxiliaryRecipe, PRGRecipe, Recipe, parse_recipe
from lightly_prg.run import Run, load
from lightly_prg.train import train
from lightly_prg.training.batches import BatchStream
from lightly_prg.training.checkpoint import Interrupted, LastCheckpoint, read_checkpoint

# 44 images in batches of 8: 5 batches an epoch, 15 in all.


def weights(run: Run) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    return state


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Killed(Exception):
    pass


def die_at(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """Raises inside the training step, as a kill would: nothing is saved on the way out."""
    original = Method.training_step

    def step(self: Method, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == position:
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", step)


def press_ctrl_c_at(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    original = PRG.training_step

    def step(self: PRG, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == position:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PRG, "training_step", step)


OTHERS = {
    "simclr": """{name: simclr, backbone: {depth: 9, width: 0.125}, projection: {hidden: 8, output: 4}}
train: {epochs: 3, batch_size: 8, optimizer: sgd, lr: 0.1, warmup_epochs: 1, ema_decay: 0.9, precision: 32}""",
    "joint": """{name: prg, ode: {steps: 1}, auxiliary: {loss: dino, flow_every: 2, projection: {hidden: 8, output: 4}},
  backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], middle_attention: false}}
train: {epochs: 3, batch_size: 8, lr: 1.0e-3, warmup_epochs: 1, ema_decay: 0.9, precision: 32}""",
    "mae": """{name: mae, backbone: {patch_size: 2, width: 16, depth: 2, heads: 2}, decoder: {width: 8, heads: 2}}
train: {epochs: 3, batch_size: 8, betas: [0.9, 0.95], weight_decay: 0.05, warmup_epochs: 1, precision: 32}""",
}


@pytest.mark.parametrize("method", OTHERS)
def test_other_losses__killed_and_resumed_equal_uninterrupted(
    tmp_path: Path, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Batch statistics, views, masks and momentum are part of the state or of the step."""
    recipe = parse_recipe(f"name: tiny\ndata: {{name: digits}}\nmethod: {OTHERS[method]}")
    whole = train(recipe, out=tmp_path / "whole", data=tiny_splits)
    with monkeypatch.context() as patch:
        die_at(patch, 8)
        with pytest.raises(Killed):
            train(recipe, out=tmp_path / "cut", data=tiny_splits)
    half = weights(Run(tmp_path / "cut"))
    cut = train(recipe, out=tmp_path / "cut", data=tiny_splits, resume=True)
    assert same(weights(whole), weights(cut))
    assert not same(half, weights(cut))
    assert whole.weights_file.read_bytes() == cut.weights_file.read_bytes()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("position", [4, 5, 8, 11, 14])
def test_killed_and_resumed__equals_uninterrupted(
    tmp_path: Path,
    tiny_recipe: Recipe,
    tiny_splits: Splits,
    monkeypatch: pytest.MonkeyPatch,
    position: int,
    accumulate: int,
) -> None:
    recipe = tiny_recipe.model_copy(update={"train": tiny_recipe.train.model_copy(update={"accumulate": accumulate})})
    # A checkpoint after every optimiser step: the last one before the kill lies in the middle of an epoch.
    every = LastCheckpoint.__init__

    def each_step(self: LastCheckpoint, path: Path, **options: Any) -> None:
        every(self, path, **{**options, "every": 3})

    monkeypatch.setattr(LastCheckpoint, "__init__", each_step)
    whole = train(recipe, out=tmp_path / "whole", data=tiny_splits)
    with monkeypatch.context() as patch:
        die_at(patch, position)
        with pytest.raises(Killed):
            train(recipe, out=tmp_path / "cut", data=tiny_splits)
    cut = train(recipe, out=tmp_path / "cut", data=tiny_splits, resume=True)
    assert same(weights(whole), weights(cut))
    optimisers = [torch.load(run.checkpoint, weights_only=True)["optimizer_states"] for run in (whole, cut)]
    assert str(optimisers[0]) == str(optimisers[1])
    assert whole.weights_file.read_bytes() == cut.weights_file.read_bytes()
    losses = []
    for run in (whole, cut):
        with run.metrics.open() as file:
            losses.append([(row["step"], row["train_loss"], row["validation_loss"]) for row in csv.DictReader(file)])
    assert losses[0] == losses[1], "no step is missing, written twice or averaged differently"


def test_ctrl_c__saves_and_resumes(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_recipe, out=tmp_path / "whole", data=tiny_splits)
    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, 7)
        with pytest.raises(Interrupted) as stopped:
            train(tiny_recipe, out=tmp_path / "cut", data=tiny_splits)
    assert stopped.value.saved
    assert stopped.value.signal_number == signal.SIGINT
    cut = Run(tmp_path / "cut")
    assert torch.load(cut.checkpoint, weights_only=True)["callbacks"]["LastCheckpoint"]["position"] == 8
    train(tiny_recipe, out=tmp_path / "cut", data=tiny_splits, resume=True)
    assert same(weights(whole), weights(cut))


def test_ctrl_c_in_the_last_step__ends_the_command_and_loses_nothing(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_recipe, out=tmp_path / "whole", data=tiny_splits)
    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, 14)
        with pytest.raises(Interrupted):
            train(tiny_recipe, out=tmp_path / "cut", data=tiny_splits)
    assert Run(tmp_path / "cut").is_trained
    assert same(weights(whole), weights(Run(tmp_path / "cut")))


def test_nan_loss__stops_names_the_step_and_keeps_the_checkpoint(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PRG.training_step

    def step(self: PRG, batch: Any, batch_idx: int) -> Tensor:
        loss = original(self, batch, batch_idx)
        return loss * float("nan") if batch_idx == 8 else loss

    monkeypatch.setattr(PRG, "training_step", step)
    with pytest.raises(UserError, match=r"nan at step 10 of 15"):
        train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert state["callbacks"]["LastCheckpoint"]["position"] == 5
    assert all(bool(value.isfinite().all()) for value in state["state_dict"].values())


def test_folder__is_protected(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    out = tmp_path / "run"
    run = train(tiny_recipe, out=out, data=tiny_splits)
    before = run.weights_file.read_bytes()
    with pytest.raises(UserError, match=r"finished run.*--overwrite"):
        train(tiny_recipe, out=out, data=tiny_splits)
    other = tiny_recipe.model_copy(update={"seed": 1})
    with pytest.raises(UserError, match="another recipe"):
        train(other, out=out, data=tiny_splits, resume=True)
    assert run.weights_file.read_bytes() == before
    train(other, out=out, data=tiny_splits, overwrite=True)
    assert run.weights_file.read_bytes() != before
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no run"):
        train(tiny_recipe, out=stranger, data=tiny_splits, overwrite=True)
    assert (stranger / "thesis.tex").exists()


def test_overwriting__loses_nothing_before_lightning_takes_the_recipe(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    before = {file: file.read_bytes() for file in (run.recipe_file, run.weights_file, run.metrics)}
    settings = tiny_recipe.train.model_copy(update={"strategy": "dpd"})
    with pytest.raises(UserError, match="strategy=dpd"):
        train(tiny_recipe.model_copy(update={"train": settings}), out=run.folder, data=tiny_splits, overwrite=True)
    assert {file: file.read_bytes() for file in before} == before
    assert load(run.folder) is not None


def test_overwriting__keeps_the_former_run_until_the_new_one_is_finished(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    before = run.weights_file.read_bytes()
    former = Run(run.folder / ".replaced")
    stale = run.folder / "eval" / "knn.json"
    diverging = tiny_recipe.model_copy(update={"train": tiny_recipe.train.model_copy(update={"lr": 1e30, "clip": 1e9})})
    for _ in range(2):  # what failed is replaced in its turn, and what it failed to replace stays
        with pytest.raises(UserError, match="loss became nan"):
            train(diverging, out=run.folder, data=tiny_splits, overwrite=True)
        assert not run.is_trained
        assert not stale.exists()
        stale.parent.mkdir()
        stale.write_text("{}")  # of the run that failed, which the next one is not to be taken for
        assert former.weights_file.read_bytes() == before
        assert load(former.folder) is not None
    run.clear()  # as a process leaves it that was killed before it wrote the recipe of the new one
    with pytest.raises(UserError, match="a run that is not finished"):
        train(tiny_recipe, out=run.folder, data=tiny_splits)
    train(tiny_recipe, out=run.folder, data=tiny_splits, overwrite=True)
    assert run.is_trained
    assert not former.folder.exists()


def test_overwriting__gives_the_run_back_where_nothing_could_be_begun(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    before = {file: file.read_bytes() for file in (run.recipe_file, run.weights_file, run.metrics)}

    def full(*_: object) -> None:
        raise UserError("The disk is full.")

    monkeypatch.setattr(Run, "create", full)
    with pytest.raises(UserError, match="The disk is full"):
        train(tiny_recipe, out=run.folder, data=tiny_splits, overwrite=True)
    assert {file: file.read_bytes() for file in before} == before
    assert not (run.folder / ".replaced").exists()


def test_weights_without_a_checkpoint__are_not_trained_over(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    before = run.weights_file.read_bytes()
    run.encoder_file.unlink()
    run.checkpoint.unlink()
    with pytest.raises(UserError, match="nothing to resume"):
        train(tiny_recipe, out=run.folder, data=tiny_splits, resume=True)
    assert run.weights_file.read_bytes() == before


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"foo,1\n1.5,2\n"])
def test_damaged_curve__does_not_stop_what_goes_on(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, damage: bytes
) -> None:
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    run.encoder_file.unlink()
    run.metrics.write_bytes(damage + run.metrics.read_bytes())
    assert train(tiny_recipe, out=run.folder, data=tiny_splits, resume=True).is_trained


def test_folder__in_use_by_another_process(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    run = Run(tmp_path / "run")
    with run.lock(), pytest.raises(UserError, match="Another process"):
        train(tiny_recipe, out=run.folder, data=tiny_splits, overwrite=True)


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_checkpoint__damaged_is_told(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits, damage: str) -> None:
    run = Run(tmp_path / "run")
    run.create(tiny_recipe)
    run.checkpoint.parent.mkdir()
    torch.save({"state_dict": {"x": torch.zeros(1000)}}, run.checkpoint)
    if damage == "truncated":
        run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:700])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or is no checkpoint"):
        train(tiny_recipe, out=run.folder, data=tiny_splits, resume=True)


def test_description_without_a_key__is_told(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    whole = json.loads(run.encoder_file.read_text())
    for key in ("architecture", "data", "feature", "nfe"):
        run.encoder_file.write_text(json.dumps({name: whole[name] for name in whole if name != key}))
        with pytest.raises(UserError, match=rf"encoder\.json is damaged: it does not say {key}"):
            load(run.folder)
    run.encoder_file.write_text('{"format')
    with pytest.raises(UserError, match=r"Remove it, and `lightly-prg train .*recipe\.yaml --resume --out .*run`"):
        load(run.folder)
    run.encoder_file.unlink()
    train(tiny_recipe, out=run.folder, data=tiny_splits, resume=True)
    assert json.loads(run.encoder_file.read_text())["weights_crc32"] == whole["weights_crc32"]


def test_flipped_bit__is_found_by_its_checksum(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    """In the middle of a tensor, where every reader would take it for a number."""
    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    weight = next(value for value in load_file(run.weights_file).values() if value.ndim == 2).numpy().tobytes()
    for file in (run.checkpoint, run.weights_file):
        content = bytearray(file.read_bytes())
        content[content.index(weight) + 3] ^= 64
        file.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            load(run.folder) if file == run.weights_file else read_checkpoint(file, tiny_recipe)


def test_half_precision_of_a_gpu__is_refused_on_a_cpu(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    """Lightning would take bf16 in its place, and the run would say that it was fp16."""
    settings = tiny_recipe.train.model_copy(update={"precision": "16", "accelerator": "cpu"})
    with pytest.raises(UserError, match="in which CPUs do not train"):
        train(tiny_recipe.model_copy(update={"train": settings}), out=tmp_path / "run", data=tiny_splits)
    assert not (tmp_path / "run").exists()


def test_batch_larger_than_the_set(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    recipe = tiny_recipe.model_copy(update={"train": tiny_recipe.train.model_copy(update={"batch_size": 64})})
    with pytest.raises(UserError, match=r"train\.batch_size is 64, but there are 44"):
        train(recipe, out=tmp_path / "run", data=tiny_splits)
    assert not (tmp_path / "run").exists()


def test_init_from__starts_with_the_weights_of_a_run(tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits) -> None:
    from lightly_prg.train import build_module

    run = train(tiny_recipe, out=tmp_path / "run", data=tiny_splits)
    recipe = tiny_recipe.model_copy(update={"init_from": str(run.folder)})
    module = build_module(recipe, tiny_splits, trust=False)
    stored = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    for key, value in module.velocity.state_dict().items():
        assert torch.equal(value, stored[f"ema.module.{key}"])
        assert torch.equal(module.averaged.state_dict()[key], value)


def test_max_steps__ends_the_training_and_its_schedule(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    """A training of two epochs by ``epochs`` or by ``max_steps`` is the same, the learning rate included."""
    by_epochs = tiny_recipe.train.model_copy(update={"epochs": 2, "warmup_epochs": 1.0})
    by_steps = tiny_recipe.train.model_copy(update={"epochs": 4, "warmup_epochs": 2.0, "max_steps": 10})
    runs = [
        train(tiny_recipe.model_copy(update={"train": settings}), out=tmp_path / name, data=tiny_splits)
        for name, settings in (("epochs", by_epochs), ("steps", by_steps))
    ]
    assert runs[0].weights_file.read_bytes() == runs[1].weights_file.read_bytes()
    assert runs[1].description["training"]["steps"] == 10
    assert runs[1].description["training"]["epochs"] == 2


class TestBatchStream:
    def test_epochs__are_permutations_that_differ(self) -> None:
        stream = BatchStream(12, batch_size=4, epochs=2, seed=0)
        batches = list(stream)
        assert len(batches) == len(stream) == 6
        first, second = ([i for batch in half for i in batch] for half in (batches[:3], batches[3:]))
        assert sorted(first) == sorted(second) == list(range(12))
        assert first != second

    def test_start__continues_the_same_stream(self) -> None:
        whole = list(BatchStream(13, batch_size=4, epochs=3, seed=5))
        for start in range(len(whole)):
            assert list(BatchStream(13, batch_size=4, epochs=3, seed=5, start=start)) == whole[start:]

    def test_max_steps__cuts_the_stream_of_longer_epochs(self) -> None:
        whole = list(BatchStream(13, batch_size=4, epochs=3, seed=5))
        assert list(BatchStream(13, batch_size=4, epochs=3, seed=5, max_steps=4)) == whole[:4]
        assert len(BatchStream(13, batch_size=4, epochs=3, seed=5, max_steps=100)) == len(whole)

    def test_processes__share_the_global_batch(self) -> None:
        whole = list(BatchStream(13, batch_size=4, epochs=2, seed=1))
        parts = [list(BatchStream(13, batch_size=4, epochs=2, seed=1, rank=r, processes=2)) for r in (0, 1)]
        assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_auxiliary_of_weight_zero__is_plain_prg_to_the_last_bit(
    tmp_path: Path, tiny_recipe: Recipe, tiny_splits: Splits
) -> None:
    assert isinstance(tiny_recipe.method, PRGRecipe)
    plain = train(tiny_recipe, out=tmp_path / "plain", data=tiny_splits)
    silent = AuxiliaryRecipe(weight=0.0, flow_every=2)
    method = tiny_recipe.method.model_copy(update={"auxiliary": silent})
    other = train(tiny_recipe.model_copy(update={"method": method}), out=tmp_path / "other", data=tiny_splits)
    assert plain.weights_file.read_bytes() == other.weights_file.read_bytes()
    assert same(weights(plain), weights(other))
