from __future__ import annotations

import json
import math
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lightly_prg.classifier import robustness
from lightly_prg.cli import main
from lightly_prg.data import Splits
from lightly_prg.data.image_set import ImageSet
from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.measurements import channel_curve, round_trip_curve
from lightly_prg.measurements.of_run import (
    measure_gaussianity,
    measure_label_information,
    measure_likelihood,
    measure_loss_by_tau,
)
from lightly_prg.measurements.round_trips import RoundTripPoint
from lightly_prg.measurements.sample_distance import measure_sample_distance
from lightly_prg.measurements.states import embedded, states_at
from lightly_prg.measurements.suite import MEASUREMENTS, measure_all, measure_several, sentence
from lightly_prg.plotting.style import dark_twin
from lightly_prg.recipe import parse_recipe
from lightly_prg.run import Run
from lightly_prg.train import train

METHODS = {
    "prg": "backbone: {name: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention: [], patch_size: 4}\n"
    "  path: variance_preserving\n  ode: {steps: 1}\n  feature: {source: block, block: middle, tau: 0.3}",
    "simclr": "backbone: {depth: 9, width: 0.125}",
}


def splits(*, labelled: bool = True) -> Splits:
    """Two classes of 8 x 8 images with 17 grey levels, one of them darker."""

    def images(count: int, seed: int) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 2
        levels = torch.randint(0, 9, (count, 1, 8, 8), generator=generator) + 8 * labels[:, None, None, None]
        pixels = (levels * (255 / 16)).round().to(torch.uint8)
        names = [f"{seed}-{i}" for i in range(count)]
        given = {"labels": labels, "class_names": ["dark", "light"]} if labelled else {"labels": None}
        return ImageSet(pixels, names=names, grey_levels=17, **given)  # type: ignore[arg-type]

    return Splits(images(130, 0), images(12, 1), images(24, 2))  # twice as many as numbers of an image


def trained(method: str, folder: Path) -> Path:
    recipe = parse_recipe(
        f"name: tiny\ndata: {{name: digits}}\nmethod:\n  name: {method}\n  {METHODS[method]}\n"
        "train: {epochs: 1, batch_size: 20, lr: 1.0e-3, ema_decay: 0.0, precision: 32, accelerator: cpu}\n"
        "eval: {split: test, few_shot: null}\n"
    )
    train(recipe, out=folder, data=splits())
    return folder


@pytest.fixture(scope="module")
def prg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("prg", tmp_path_factory.mktemp("prg") / "run")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps: what the solves give is tested elsewhere."""
    curve = partial(round_trip_curve, budgets=(4, 8), tolerances=(1.0,))
    monkeypatch.setattr("lightly_prg.evaluation.round_trip_curve", curve)
    monkeypatch.setattr("lightly_prg.measurements.of_run.channel_curve", partial(channel_curve, steps=1))


@pytest.fixture
def evaluation(prg: Path, tmp_path: Path) -> Evaluation:
    shutil.copytree(prg, tmp_path / "run")
    return Evaluation(Run.open(tmp_path / "run"), data=splits(), device="cpu")


def test_all__writes_results_figures_and_rows_of_the_report(evaluation: Evaluation) -> None:
    summary = measure_all(evaluation, max_images=6)
    assert all(math.isfinite(value) for value in summary.values())
    assert {
        "loss", "linear_loss", "bits_per_dim", "sliced_wasserstein", "sliced_wasserstein_floor", "kurtosis_rms",
        "spectrum_error", "round_trip_rmse", "missing_bits", "decode_rmse", "label_bits_data", "label_bits_noise",
        "label_bits_embedding",
    } <= summary.keys()  # fmt: skip
    folder = evaluation.run.folder
    for name in ("likelihood", *MEASUREMENTS):
        (file,) = folder.glob(f"eval/{name}*.json")
        content = json.loads(file.read_text())
        assert content["evaluator"] == name
        assert content["split"] == "test"
        assert content["recipe_sha256"] == evaluation.description["recipe_sha256"]
        figure = folder / "figures" / f"{name}.png"
        assert figure.stat().st_size > 1000
        assert dark_twin(figure).stat().st_size > 1000
    curves = json.loads((folder / "eval/round_trip.json").read_text())["curves"]
    assert list(curves) == ["euler", "heun2", "rk4", "dopri5"]
    page = evaluation.report().read_text()
    assert "Measurements of the flow" in page
    assert f"{summary['bits_per_dim']:.3f} ±" in page
    assert f"{summary['loss']:.3f} ±" in page


def test_own_options__have_the_plain_name(evaluation: Evaluation) -> None:
    measure_loss_by_tau(evaluation)
    measure_loss_by_tau(evaluation, max_images=5)
    measure_loss_by_tau(evaluation, split="validation")
    names = sorted(file.stem for file in evaluation.run.folder.glob("eval/*.json"))
    assert names[0] == "loss_by_tau"
    assert len(names) == 3


def test_same_seed__gives_the_same_numbers(evaluation: Evaluation) -> None:
    first, second = (measure_likelihood(evaluation, max_images=3, steps=2) for _ in range(2))
    assert first == second
    assert first["grey_levels"] == 17
    assert first["uniform_bits"] == pytest.approx(math.log2(17))
    assert first["tau_start"] == 1e-3
    exact = measure_likelihood(evaluation, max_images=3, steps=2, exact=True)
    assert exact["probe_standard_error"] == 0
    assert abs(first["bits_per_dim"] - exact["bits_per_dim"]) < 5 * first["probe_standard_error"] + 1e-6


def test_bad_options__end_in_a_sentence(evaluation: Evaluation) -> None:
    with pytest.raises(UserError, match=r"likelihood: The likelihood takes the solvers .*, got .heun."):
        measure_likelihood(evaluation, solver="heun")
    with pytest.raises(UserError, match="no split 'all'"):
        measure_loss_by_tau(evaluation, split="all")
    with pytest.raises(UserError, match="at least 2 images"):
        measure_gaussianity(evaluation, max_images=1)
    with pytest.raises(UserError, match="no measurement 'entropy'; allowed are loss_by_tau"):
        list(measure_several(evaluation, ["round_trip", "entropy"]))
    assert not list(evaluation.run.folder.glob("eval/*.json"))


def test_images__are_drawn_and_stay_the_same(evaluation: Evaluation) -> None:
    names = [evaluation.some_images("train", 10).names for _ in range(2)]
    assert names[0] == names[1]
    assert names[0] != splits().train.names[:10]
    assert evaluation.some_images("train", 1000).names == splits().train.names


def test_training_images__judge_nothing_that_was_fitted_to_them(evaluation: Evaluation, prg: Path) -> None:
    for measure in (
        lambda: measure_label_information(evaluation, split="train"),
        lambda: measure_sample_distance(evaluation, prg, split="train", count=4),
        lambda: robustness(evaluation, split="train"),
    ):
        with pytest.raises(UserError, match="the training images: take validation or test"):
            measure()


def test_round_trip__is_of_images_that_were_drawn(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def curve(encoder: object, images: torch.Tensor, solver: str) -> list[RoundTripPoint]:
        seen.append(images)
        return [RoundTripPoint(solver, 1, None, 1.0, 0.5)]

    monkeypatch.setattr("lightly_prg.evaluation.round_trip_curve", curve)
    evaluation.round_trip(6, split="test", solvers=("euler",))
    assert torch.equal(seen[0], evaluation.some_images("test", 6).pixels().float() / 255)
    assert not torch.equal(seen[0], splits().test.pixels()[:6].float() / 255)


def test_states__are_those_of_the_path(evaluation: Evaluation) -> None:
    images = evaluation.some_images("test", 5)
    start, _, end = states_at(evaluation, images, [1e-3, 0.5, 1.0])
    pixels = images.__getitems__(range(5))[0].float() / 255
    torch.testing.assert_close(torch.from_numpy(start.features), evaluation.prg.normalize(pixels).flatten(1))
    assert end.features.shape == (5, 64)
    assert end.labels.tolist() == images.labels.tolist()
    assert end.nfe == 16
    own = embedded(evaluation, images)
    torch.testing.assert_close(torch.from_numpy(own.features), evaluation.prg(pixels).detach())


def test_images_without_labels__leave_label_information_out(prg: Path, tmp_path: Path) -> None:
    shutil.copytree(prg, tmp_path / "run")
    evaluation = Evaluation(Run.open(tmp_path / "run"), data=splits(labelled=False), device="cpu")
    with pytest.raises(UserError, match="no labels"):
        list(measure_several(evaluation, ["label_information"], max_images=4))
    lines = list(measure_several(evaluation, [], max_images=4))
    assert len(lines) == 5
    assert lines[-1] == "The images have no labels: label information is left out."


def test_sentences__name_their_measurement(evaluation: Evaluation) -> None:
    result = evaluation.round_trip(4, solvers=("euler",))
    assert sentence("round_trip", result).startswith("round_trip: RMSE euler ")
    broken = {"curves": {"dopri5": [{"rmse": None, "nfe": 7}]}}
    assert sentence("round_trip", broken) == "round_trip: RMSE dopri5 broke down (7 NFE)"


def test_run_without_a_flow__is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("simclr", tmp_path / "run")
    for command in (["likelihood"], ["measure"], ["measure", "--only", "gaussianity"]):
        monkeypatch.setattr(sys, "argv", ["lightly-prg", *command, str(folder), "--device", "cpu"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert "trained by simclr, which has no flow" in capsys.readouterr().err.replace("\n", " ")
    assert not list(folder.glob("eval/*.json"))


def test_linear_reference__needs_twice_as_many_images_as_numbers(prg: Path, tmp_path: Path) -> None:
    """From fewer, directions in which no image of the sample varies would count as predicted perfectly."""
    folder = tmp_path / "run"
    shutil.copytree(prg, folder)
    whole = splits()
    few = Splits(whole.train.subset(torch.arange(100)), whole.validation, whole.test)
    found = [measure_loss_by_tau(Evaluation(Run(folder), data=data, device="cpu")) for data in (whole, few)]
    assert found[0]["linear_overall"] < found[0]["mean_velocity_overall"]
    assert (found[1]["linear"], found[1].get("linear_overall")) == (None, None)
    assert found[1]["mean_velocity"] is not None
    assert MEASUREMENTS["information"](Evaluation(Run(folder), data=few, device="cpu"))["pixels_mse"] is None
