"""The measurements of a run as rows of the report: the number, and what to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.eval.result_files import NAMES, lookup, number, read_mapping

_NOISE = 0.1  # on the code, of the row about information


@dataclass(frozen=True)
class MeasurementRow:
    """One measurement.

    Attributes:
        name: What was measured.
        value: The number, with its standard error where there is one.
        reference: What to compare it with; may be empty.
        images: On what, ``512 test``.
    """

    name: str
    value: str
    reference: str
    images: str


def measurement_rows(run_dir: Path, notes: list[str]) -> list[MeasurementRow]:
    """Reads the measurements of a run, of each the newest; what is absent or no measurement has no row."""
    makers = {
        "likelihood": _likelihood,
        "loss_by_tau": _loss,
        "gaussianity": _gaussianity,
        "round_trip": _round_trip,
        "information": _information,
        "label_information": _label_information,
        "frechet": _frechet,
    }
    found = ((_newest(run_dir, name, notes), make) for name, make in makers.items())
    rows = [row for data, make in found if (row := make(data)) is not None]
    compared = (
        ("retrieval", "Retrieval: mean average precision", "mean_average_precision"),
        ("clustering", "Clustering: normalised mutual information", "normalised_mutual_information"),
        ("linear", "Calibration error of the linear probe", "calibration_error"),
    )
    rows += [row for compare in compared if (row := _beside_controls(run_dir, *compare, notes)) is not None]
    for file in sorted((Path(run_dir) / "eval").glob("transfer-*.json")):
        rows += _transfer(read_mapping(file, notes))
    return rows


def _beside_controls(run_dir: Path, evaluator: str, name: str, key: str, notes: list[str]) -> MeasurementRow | None:
    """A percentage of the run beside that of its controls on the same split."""
    folder = Path(run_dir) / "eval"
    own = read_mapping(folder / f"{evaluator}.json", notes)
    value = number(own.get(key))
    if value is None:
        return None
    controls = {}
    for file in sorted(folder.glob(f"{evaluator}-*.json")):
        data = read_mapping(file, notes)
        percent = number(data.get(key))
        same = all(data.get(what) == own.get(what) for what in ("split", "labels", "options"))
        if percent is not None and same and data.get("encoder") != own.get("encoder"):
            controls[str(data.get("encoder"))] = percent
    images = _images({"num_images": own.get("num_test"), "split": own.get("split")})
    return MeasurementRow(name, f"{value:.1f} %", _of_controls(controls), images)


def _transfer(data: Mapping[str, Any]) -> list[MeasurementRow]:
    encoders = data.get("encoders")
    encoders = encoders if isinstance(encoders, Mapping) else {}
    rows = []
    for key, title in (("knn", "k-NN"), ("linear", "linear")):
        found = {str(name): number(lookup(scores, key)) for name, scores in encoders.items()}
        own = found.pop("run", None)
        if own is not None:
            controls = {name: value for name, value in found.items() if value is not None}
            images = _images({"num_images": data.get("num_test"), "split": data.get("split")})
            name = f"Transfer to {data.get('transferred_to')}: {title}"
            rows.append(MeasurementRow(name, f"{own:.1f} %", _of_controls(controls), images))
    return rows


def _of_controls(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.1f} % of {NAMES.get(name, name)}" for name, value in values.items())


def _newest(run_dir: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """The last written of a measurement's files: its figure is of that one too."""
    folder = Path(run_dir) / "eval"
    files = [file for file in (folder / f"{name}.json", *folder.glob(f"{name}-*.json")) if file.is_file()]
    if not files:
        return {}
    return read_mapping(max(files, key=lambda file: (file.stat().st_mtime_ns, file.name)), notes)


def _likelihood(data: Mapping[str, Any]) -> MeasurementRow | None:
    bits, uniform = number(data.get("bits_per_dim")), number(data.get("uniform_bits"))
    if bits is None:
        return None
    reference = "" if uniform is None else f"{uniform:.3f} by a code that knows nothing"
    return MeasurementRow("Bits per dimension", _spread(bits, data.get("standard_error")), reference, _images(data))


def _loss(data: Mapping[str, Any]) -> MeasurementRow | None:
    loss, linear = number(data.get("overall")), number(data.get("linear_overall"))
    if loss is None:
        return None
    reference = "" if linear is None else f"{linear:.3f} by the best linear predictor"
    value = _spread(loss, data.get("overall_standard_error"))
    return MeasurementRow("Held-out flow-matching loss", value, reference, _images(data))


def _gaussianity(data: Mapping[str, Any]) -> MeasurementRow | None:
    def distance(part: str) -> float | None:
        return number(lookup(data, part, "sliced_wasserstein"))

    noise, floor, pixels = distance("noise"), distance("floor"), distance("pixels")
    if noise is None:
        return None
    reference = _joined((floor, "for true Gaussian samples"), (pixels, "for raw pixels"))
    return MeasurementRow("Noise end: distance to N(0, I)", f"{noise:.3g}", reference, _images(data))


def _round_trip(data: Mapping[str, Any]) -> MeasurementRow | None:
    curves = data.get("curves")
    points = [
        (rmse, nfe, str(solver))
        for solver, curve in (curves.items() if isinstance(curves, Mapping) else ())
        for point in (curve if isinstance(curve, list) else ())
        if (rmse := number(lookup(point, "rmse"))) is not None and (nfe := number(lookup(point, "nfe"))) is not None
    ]
    if not points:
        return None
    rmse, nfe, solver = min(points)
    others = [(other, "by euler at as many") for other, at, name in points if name == "euler" != solver and at == nfe]
    return MeasurementRow(
        "Round trip: least error (RMSE)", f"{rmse:.2g} ({solver}, {nfe:g} NFE)", _joined(*others), _images(data)
    )


def _information(data: Mapping[str, Any]) -> MeasurementRow | None:
    sigma = data.get("sigma")
    at = sigma.index(_NOISE) if isinstance(sigma, list) and _NOISE in sigma else None
    missing, pixels = (number(_item(data.get(key), at)) for key in ("missing_bits", "pixels_missing_bits"))
    if missing is None:
        return None
    name = f"Bits per dimension lost to noise {_NOISE:g} on the code"
    reference = "" if pixels is None else f"{pixels:.3f} with raw pixels as the code"
    return MeasurementRow(name, f"{missing:.3f}", reference, _images(data))


def _label_information(data: Mapping[str, Any]) -> MeasurementRow | None:
    state, entropy = data.get("state"), number(data.get("entropy"))
    image, noise = (lookup(_item(state, at), "bits") for at in (0, -1))
    error = lookup(_item(state, -1), "standard_error")
    bits = number(noise)
    if bits is None:
        return None
    value = _spread(bits, error) + ("" if entropy is None else f" of {entropy:.3f}")
    own = number(lookup(data, "embedding", "bits"))
    reference = _joined((number(image), "at the image"), (own, "in the run's embedding"))
    return MeasurementRow("Bits of the label at the noise end", value, reference, _images(data))


def _images(data: Mapping[str, Any]) -> str:
    count = number(data.get("num_images", data.get("images")))
    split = data.get("split")
    parts = ("" if count is None else f"{count:,.0f}", split if isinstance(split, str) else "")
    return " ".join(part for part in parts if part)


def _spread(value: float, error: Any) -> str:
    deviation = number(error)
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def _joined(*parts: tuple[float | None, str]) -> str:
    return ", ".join(f"{value:.3g} {words}" for value, words in parts if value is not None)


def _item(values: Any, at: int | None) -> Any:
    if at is None or not isinstance(values, list) or not -len(values) <= at < len(values):
        return None
    return values[at]


def _frechet(data: Mapping[str, Any]) -> MeasurementRow | None:
    distance, floor, count = number(data.get("distance")), number(data.get("floor")), lookup(data, "options", "count")
    if distance is None:
        return None
    reference = "" if floor is None else f"{floor:.2f} between real images, in the features of {data.get('judge')}"
    return MeasurementRow("Fréchet distance of samples", f"{distance:.2f}", reference, f"{count} samples")
