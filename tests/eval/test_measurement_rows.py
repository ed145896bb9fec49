from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lightly_prg.eval.measurement_rows import MeasurementRow, measurement_rows

RESULTS: dict[str, Any] = {
    "likelihood": {
        "bits_per_dim": 2.0412, "standard_error": 0.0223, "uniform_bits": 4.0875, "num_images": 128, "split": "test",
    },
    "loss_by_tau": {
        "overall": 0.4553, "overall_standard_error": 0.0028, "linear_overall": 0.5895, "num_images": 1512,
        "split": "validation",
    },
    "gaussianity": {
        "noise": {"sliced_wasserstein": 0.16}, "floor": {"sliced_wasserstein": 0.075},
        "pixels": {"sliced_wasserstein": 0.769},
    },
    "round_trip": {
        "images": 32,
        "curves": {
            "euler": [{"nfe": 32, "rmse": 0.0226}, {"nfe": 64, "rmse": 0.0105}],
            "rk4": [{"nfe": 64, "rmse": 0.00055}],
            "dopri5": [{"nfe": 99, "rmse": None}],
        },
    },
    "information": {
        "sigma": [0.0, 0.1], "missing_bits": [0.28, 2.04], "pixels_missing_bits": [0.254, 0.97],
    },
    "label_information": {
        "entropy": 3.3217,
        "state": [{"bits": 3.16, "standard_error": 0.03}, {"bits": 2.27, "standard_error": 0.05}],
        "embedding": {"bits": 3.24},
    },
    "frechet": {"distance": 12.345, "floor": 3.2, "judge": "resnet", "options": {"count": 1000}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "eval").mkdir()
    for name, content in RESULTS.items():
        write(tmp_path, name, content)
    return tmp_path


def write(run: Path, name: str, content: Any) -> Path:
    file = run / "eval" / f"{name}.json"
    file.write_text(json.dumps(content))
    return file


def test_rows__say_the_number_and_what_to_compare_it_with(run: Path) -> None:
    notes: list[str] = []
    assert measurement_rows(run, notes) == [
        MeasurementRow("Bits per dimension", "2.041 ± 0.022", "4.088 by a code that knows nothing", "128 test"),
        MeasurementRow(
            "Held-out flow-matching loss", "0.455 ± 0.003", "0.590 by the best linear predictor", "1,512 validation"
        ),
        MeasurementRow(
            "Noise end: distance to N(0, I)", "0.16", "0.075 for true Gaussian samples, 0.769 for raw pixels", ""
        ),
        MeasurementRow(
            "Round trip: least error (RMSE)", "0.00055 (rk4, 64 NFE)", "0.0105 by euler at as many", "32"
        ),
        MeasurementRow(
            "Bits per dimension lost to noise 0.1 on the code", "2.040", "0.970 with raw pixels as the code", ""
        ),
        MeasurementRow(
            "Bits of the label at the noise end", "2.270 ± 0.050 of 3.322",
            "3.16 at the image, 3.24 in the run's embedding", "",
        ),
        MeasurementRow(
            "Fréchet distance of samples", "12.35", "3.20 between real images, in the features of resnet",
            "1000 samples",
        ),
    ]  # fmt: skip
    assert notes == []


def test_newest__of_several_is_shown(run: Path) -> None:
    plain = run / "eval" / "likelihood.json"
    other = write(run, "likelihood-12345678", {"bits_per_dim": 3.0})
    os.utime(other, (10, 10))
    assert measurement_rows(run, [])[0].value == "2.041 ± 0.022"
    os.utime(plain, (5, 5))
    assert measurement_rows(run, [])[0].value == "3.000"


def test_nothing__has_no_rows(tmp_path: Path) -> None:
    assert measurement_rows(tmp_path, []) == []


def test_old_round_trip__has_no_row(run: Path) -> None:
    write(run, "round_trip", {"solver": "heun2", "rmse_by_steps": {"4": 0.1}})
    assert not any(row.name.startswith("Round") for row in measurement_rows(run, []))


@pytest.mark.parametrize("value", [None, "text", [], [1], {}, {"a": 1}, True, -1, 1e400])
@pytest.mark.parametrize("name", RESULTS)
def test_files__may_hold_anything(name: str, value: Any, run: Path) -> None:
    for key in RESULTS[name]:
        write(run, name, {**RESULTS[name], key: value})
        assert len(measurement_rows(run, [])) in (6, 7)
    notes: list[str] = []
    write(run, name, value)
    assert len(measurement_rows(run, notes)) == 6
    assert notes == ([] if isinstance(value, dict) else [f"{name}.json could not be read and was left out."])
