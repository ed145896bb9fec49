from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightly_prg.errors import UserError
from lightly_prg.evaluation import Evaluation
from lightly_prg.measurements import sample_distance
from lightly_prg.measurements.sample_distance import measure_sample_distance
from lightly_prg.recipe import load_recipe
from lightly_prg.run import Run
from lightly_prg.train import train

RECIPE = [
    "train.epochs=1",
    "data.train_size=200",
    "train.batch_size=64",
    "method.backbone.channels=8",
    "eval.few_shot=null",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    flow = train(load_recipe("quickstart", RECIPE), out=folder / "flow").folder
    simclr = [
        "method.name=simclr",
        "method.backbone.depth=9",
        "method.backbone.width=0.25",
        *(part for part in RECIPE if "backbone" not in part),
    ]
    return flow, train(load_recipe("quickstart", simclr), out=folder / "judge").folder


def test_floor_and_distance__order_as_they_should(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flow, judge = Run.open(runs[0]), runs[1]
    evaluation = Evaluation(flow)
    bad = measure_sample_distance(evaluation, judge, count=100, steps=2)
    assert bad["distance"] > 2 * bad["floor"] > 0.0, "one epoch generates no digits"
    again = measure_sample_distance(evaluation, judge, count=100, steps=2)
    assert again == bad
    # A generator that gives out test images gets the floor.
    images = evaluation.images("test")
    chosen = evaluation.some_images("test", 100)
    copies = torch.stack([chosen[index][0] for index in range(100)]).float() / 255
    monkeypatch.setattr(sample_distance, "sample", lambda *_arguments, **_options: copies)
    perfect = measure_sample_distance(evaluation, judge, count=100)
    assert len(images) >= 100
    assert perfect["distance"] == pytest.approx(perfect["floor"], rel=1e-4)
    assert (flow.folder / "eval" / "frechet.json").is_file()


def test_mistakes__are_told(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flow, judge = runs
    evaluation = Evaluation(Run.open(flow))
    with pytest.raises(UserError, match="has no flow"):
        measure_sample_distance(Evaluation(Run.open(judge)), judge)
    with pytest.raises(UserError, match="1000 were asked for"):
        measure_sample_distance(evaluation, judge)

    class Other(nn.Module):
        input_shape = (3, 8, 8)

    monkeypatch.setattr(sample_distance, "load", lambda *_arguments, **_options: Other())
    with pytest.raises(UserError, match="takes images of shape"):
        measure_sample_distance(evaluation, judge, count=50)
