"""What strangers wrote never runs: a pickle that would make a file is refused, and the file is not made."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call
from tiny_images import halves

from lightly_prg.data import Splits
from lightly_prg.errors import UserError
from lightly_prg.eval import RawPixels, embed
from lightly_prg.recipe import Recipe, load_recipe, parse_recipe
from lightly_prg.recipe.comparison import parse_comparison
from lightly_prg.run import Run, load
from lightly_prg.train import train

TINY = """
name: tiny
data: {name: digits}
method:
  name: prg
  backbone: {name: unet, channels: 8, multipliers: [1], blocks: 1, attention: [], middle_attention: false}
  ode: {steps: 1}
train: {epochs: 1, batch_size: 8, precision: 32, accelerator: cpu}
"""


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(TINY)


@pytest.fixture
def splits() -> Splits:
    return halves(8)


def zipped(path: Path, trap: Trap) -> None:
    torch.save({"state_dict": trap, "callbacks": {"LastCheckpoint": {"recipe_sha256": trap}}}, path)


def legacy(path: Path, trap: Trap) -> None:
    torch.save({"state_dict": trap}, path, _use_new_zipfile_serialization=False)


def bare(path: Path, trap: Trap) -> None:
    path.write_bytes(pickle.dumps(trap))


KINDS = [zipped, legacy, bare]
Write = Callable[[Path, Trap], None]


@pytest.mark.parametrize("write", KINDS)
def test_trap__springs_where_anything_is_unpickled(write: Write, tmp_path: Path, sprung: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    write(tmp_path / "file", Trap(sprung))
    torch.load(tmp_path / "file", weights_only=False) if write != bare else pickle.loads(
        (tmp_path / "file").read_bytes()
    )
    assert sprung.exists()


@pytest.mark.parametrize("write", KINDS)
def test_checkpoint(write: Write, tmp_path: Path, sprung: Path, recipe: Recipe, splits: Splits) -> None:
    run = Run(tmp_path / "run")
    run.create(recipe)
    run.checkpoint.parent.mkdir()
    write(run.checkpoint, Trap(sprung))
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or is no checkpoint"):
        train(recipe, out=run.folder, data=splits, resume=True)
    assert not sprung.exists()


def test_checkpoint__whose_weights_are_a_trap(tmp_path: Path, sprung: Path, recipe: Recipe, splits: Splits) -> None:
    """All that is looked at before the training is in order."""
    run = train(recipe, out=tmp_path / "run", data=splits)
    state = torch.load(run.checkpoint, weights_only=True)
    torch.save({**state, "state_dict": Trap(sprung)}, run.checkpoint)
    run.encoder_file.unlink()
    with pytest.raises(UserError, match=r"last\.ckpt is damaged or is no checkpoint"):
        train(recipe, out=run.folder, data=splits, resume=True)
    assert not sprung.exists()


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_weights_by_the_command(
    write: Write,
    suffix: str,
    tmp_path: Path,
    sprung: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path, Trap(sprung))
    out = ("--weights", str(path), "--out", str(tmp_path / "run"), "data.name=digits")
    code, _, err = call(monkeypatch, capsys, "evaluate", "timm:test_resnet", "--resize", "32", *out)
    assert code == 2
    assert f"{path} cannot be read as weights" in err
    assert "Traceback" not in err
    assert not sprung.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("write", KINDS)
def test_encoder_of_a_run(write: Write, tmp_path: Path, sprung: Path, recipe: Recipe, splits: Splits) -> None:
    run = train(recipe, out=tmp_path / "run", data=splits)
    write(run.weights_file, Trap(sprung))
    with pytest.raises(UserError, match=r"encoder\.safetensors is damaged"):
        load(run.folder)
    # With the right checksum, or with none, it is refused as well.
    text = run.encoder_file.read_text(encoding="utf-8")
    run.encoder_file.write_text(text.replace("weights_crc32", "unknown"), encoding="utf-8")
    with pytest.raises(UserError, match=r"encoder\.safetensors is damaged"):
        load(run.folder)
    assert not sprung.exists()


@pytest.mark.parametrize("write", KINDS)
def test_generator_of_diffusers(write: Write, tmp_path: Path, sprung: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from lightly_prg.models.diffusers_unet import load_diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
    )
    folder = tmp_path / "generator"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=50)).save_pretrained(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    pickled = weights.with_suffix(".bin")
    write(pickled, Trap(sprung))
    load_diffusers(str(folder))  # the pickle beside the weights is not looked at
    shutil.copy(pickled, weights)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_diffusers(str(folder))
    weights.unlink()
    with pytest.raises(UserError, match="can run code"):
        load_diffusers(str(folder))
    assert not sprung.exists()


@pytest.mark.parametrize("how", ["array", "bare", "header"])
def test_embedding_cache(how: str, tmp_path: Path, sprung: Path, splits: Splits) -> None:
    cache = tmp_path / "cache"
    expected = embed(RawPixels((1, 8, 8)), splits.test, device="cpu", cache_dir=cache).features.copy()
    (file,) = cache.glob("*.npy")
    if how == "array":
        np.save(file, np.array([Trap(sprung)] * len(expected), dtype=object), allow_pickle=True)
    elif how == "bare":
        file.write_bytes(pickle.dumps(Trap(sprung)))
    else:  # what looks like a header, with an expression in the place of the shape
        shape = f"__import__('pathlib').Path({str(sprung)!r}).touch()"
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    again = embed(RawPixels((1, 8, 8)), splits.test, device="cpu", cache_dir=cache)
    np.testing.assert_array_equal(again.features, expected)
    assert not sprung.exists()


def test_recipe(tmp_path: Path, sprung: Path) -> None:
    text = (
        f"{TINY}\ndescription: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{sprung}]]"
    )
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    for read in (lambda: load_recipe(tmp_path / "bad.yaml"), lambda: parse_comparison(text)):
        with pytest.raises(UserError, match="not valid YAML"):
            read()
    with pytest.raises(UserError, match="cannot be read as YAML"):
        load_recipe("quickstart", [f"name=!!python/object/apply:pathlib.Path.touch [{sprung}]"])
    assert not sprung.exists()


def test_code_that_a_file_names__needs_trust(tmp_path: Path, sprung: Path, recipe: Recipe, splits: Splits) -> None:
    code = {"name": "import", "target": "os:mkdir", "kwargs": {"path": str(sprung)}}
    run = train(recipe, out=tmp_path / "run", data=splits)
    described = json.loads(run.encoder_file.read_text(encoding="utf-8"))
    described["architecture"]["backbone"] = code
    run.encoder_file.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UserError, match="trust"):
        load(run.folder)
    content = recipe.model_dump(mode="json")
    content["method"]["backbone"] = code
    with pytest.raises(UserError, match="trust"):
        train(Recipe.model_validate(content), out=tmp_path / "other", data=splits)
    assert not (tmp_path / "other").exists()
    assert not sprung.exists()


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "/etc/x", "a\\b/../c", "", ".hidden", "-x", "a\n", "x\0", "C:\\x", "a b", "~"]
)
def test_name_of_a_recipe__is_no_way_out(name: str, recipe: Recipe) -> None:
    for content in (recipe.model_dump(mode="json"), {"methods": [{"label": "a", "recipe": "quickstart"}]}):
        parse = parse_recipe if "train" in content else parse_comparison
        with pytest.raises(UserError, match="name"):
            parse(repr({**content, "name": name}))  # a dict of plain values is YAML as well


@pytest.mark.parametrize("out", ["/etc/x", "..", "a/../../b", ""])
def test_folder_of_a_comparison_recipe__is_no_way_out(out: str) -> None:
    content = {"name": "c", "methods": [{"label": "a", "recipe": "quickstart"}]}
    assert parse_comparison(repr({**content, "out": "below/here"})).out == "below/here"
    with pytest.raises(UserError, match=r"out is .*--out takes any"):
        parse_comparison(repr({**content, "out": out}))


@pytest.mark.parametrize("label", ["..", "../../x", "/etc/x", "a/b", "...", "\\..\\x", "\0", "/"])
def test_label_of_a_comparison__is_no_way_out(label: str, tmp_path: Path) -> None:
    recipe = parse_comparison(repr({"name": "c", "methods": [{"label": label, "recipe": "quickstart"}]}))
    (method,) = recipe.methods
    key = f"{method.slug}-seed0"
    assert (tmp_path / key).resolve().parent == tmp_path
    assert recipe.recipe_of(method, 0).name == key
