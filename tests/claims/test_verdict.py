from __future__ import annotations

import json

import pytest

from lightly_prg.claims.findings import Finding, Place, Reading, Side, verdict
from lightly_prg.claims.study import Cells, Measured
from lightly_prg.eval.comparison.statistics import PairedDifference


def finding(
    mean: float, half_width: float | None, side: Side | None = "above", data: str = "digits", margin: float = 0.0
) -> Finding:
    return Finding("this less that", data, "points", PairedDifference(mean, None, half_width, {0: mean}), side, margin)


@pytest.mark.parametrize(
    ("mean", "half_width", "side", "margin", "place"),
    [
        (2.0, 1.0, "above", 0.0, "claimed"),
        (2.0, 1.0, "above", 1.5, "open"),
        (2.0, 1.0, "above", 3.5, "other"),
        (2.0, 2.5, "above", 0.0, "open"),
        (-2.0, 1.0, "above", 0.0, "other"),
        (-2.0, 1.0, "above", 1.0, "other"),
        (0.0, 0.0, "above", 0.0, "open"),
        (-2.0, 1.0, "below", 0.0, "claimed"),
        (0.5, 0.4, "below", 1.0, "claimed"),
        (0.5, 0.6, "below", 1.0, "open"),
        (2.0, 0.6, "below", 1.0, "other"),
        (0.2, 0.7, "within", 1.0, "claimed"),
        (-0.2, 0.8, "within", 1.0, "claimed"),
        (0.2, 0.9, "within", 1.0, "open"),
        (-0.2, 3.0, "within", 1.0, "open"),
        (2.0, 0.9, "within", 1.0, "other"),
        (-2.0, 0.9, "within", 1.0, "other"),
        (5.0, None, "above", 0.0, "open"),
        (5.0, 1.0, None, 0.0, "open"),
    ],
)
def test_place__is_where_the_whole_interval_lies(
    mean: float, half_width: float | None, side: Side | None, margin: float, place: Place
) -> None:
    assert finding(mean, half_width, side, margin=margin).place == place


def test_verdict__needs_every_set_to_hold_and_one_to_fall() -> None:
    above, open_, below = finding(2, 1), finding(2, 3, data="b"), finding(-2, 1, data="c")
    beside = finding(-9, 1, side=None)
    assert verdict([above, beside]).word == "holds"
    assert verdict([above, open_]).word == "cannot be told at this size"
    assert verdict([above, open_, below]).word == "does not hold"
    assert verdict([beside]).word == "cannot be told at this size"
    assert verdict([finding(2, None)]).word == "cannot be told at this size"


def test_sentence__names_the_difference_that_it_hangs_on() -> None:
    near = finding(1.5, 1, data="near", margin=0.25)
    assert verdict([finding(9, 1, margin=0.25), near]).sentence == (
        "Holds: the intervals of all 2 differences that decide lie above 0.25; the closest is this less that on near "
        "(+1.50 ± 1.00 points)."
    )
    assert verdict([finding(2, 1, "within", margin=0.5), finding(-4, 1, "within", "far", 0.5)]).sentence == (
        "Does not hold: this less that on far (\N{MINUS SIGN}4.00 ± 1.00 points) lies more than 0.5 from 0."
    )
    assert "one seed gives no interval" in verdict([finding(2, None)]).sentence
    assert verdict([finding(0.5, 2)]).sentence.startswith(
        "Cannot be told at this size: the interval of this less that on digits (+0.50 ± 2.00 points)"
    )


def test_finding__comes_back_from_its_file() -> None:
    one = finding(1.0, 0.5, "within", margin=2.0)
    assert Finding.from_dict(one.to_dict()) == one
    assert one.to_dict()["place"] == "claimed"
    assert finding(1.0, 0.5, None).to_dict()["place"] is None


def test_verdict__goes_by_the_margin_of_each_difference() -> None:
    """Grey levels and doublings: the same mean and interval hold by the one and fall by the other."""
    errors, samples = finding(2, 0.5, "below", "errors", 3.0), finding(2, 0.5, "below", "samples", 1.0)
    assert verdict([errors]).word == "holds"
    assert verdict([errors, samples]).sentence == (
        "Does not hold: this less that on samples (+2.00 ± 0.50 points) lies above 1."
    )
    assert (errors.claimed, samples.claimed) == ("below 3", "below 1")
    assert verdict([errors, finding(0, 0.5, "below", "samples", 1.0)]).sentence == (
        "Holds: the intervals of all 2 differences that decide lie where they have to; the closest is this less that "
        "on errors (+2.00 ± 0.50 points), which lies below 3."
    )


def test_closest__is_told_in_half_intervals() -> None:
    """Two of a point and a tenth of a doubling cannot be compared; how sure they are can."""
    sure, unsure = finding(1.0, 0.1, data="sure"), finding(2.0, 1.9, data="unsure")
    assert (sure.slack, unsure.slack) == (pytest.approx(10), pytest.approx(2 / 1.9))
    assert "on unsure" in verdict([sure, unsure]).sentence
    assert (
        "on open" in verdict([sure, finding(0.0, 0.0, "within", "surely within"), finding(1, 2, data="open")]).sentence
    )


def test_differences__are_paired_over_the_seeds_of_both() -> None:
    values = {"first": {0: 3.0, 1: 5.0, 2: 9.0}, "second": {0: 2.0, 1: 3.0}}
    cells = Cells([Measured("digits", seed, kind, {"top1": v}) for kind in values for seed, v in values[kind].items()])
    (found,) = cells.differences("d", ("first", "top1"), ("second", "top1"), side="above")
    assert found.difference.by_seed == {0: 1.0, 1: 2.0}
    assert found.margin == 0.0
    # Student's t with one degree of freedom: 12.706 times the standard error, sqrt(1/2) / sqrt(2).
    assert found.difference.half_width == pytest.approx(12.7062 / 2, rel=1e-4)
    (whole,) = cells.differences("d", ("first", lambda result: result["top1"] if result["top1"] > 4 else None))
    assert whole.difference.by_seed == {1: 5.0, 2: 9.0}
    assert cells.differences("d", ("first", "top1"), ("third", "top1")) == []
    claims = Cells(cells.measured, margin=5.0)
    (of_claim,) = claims.differences("d", ("first", "top1"), ("second", "top1"), side="above")
    (own,) = claims.differences("d", ("first", "top1"), ("second", "top1"), side="above", margin=2.0)
    assert (of_claim.margin, own.margin) == (5.0, 2.0)
    (note,) = cells.notes("n", "first", lambda result: f"{result['top1']:g}")
    assert note.text == "3; 5; 9"
    (reading,) = cells.readings("r", "first", "top1")
    assert (reading.mean, reading.deviation) == (pytest.approx(17 / 3), pytest.approx(3.0551, rel=1e-4))
    assert reading.shown() == "5.7 ± 3.1 %"


def test_seeds_at_a_bound__show_no_interval_without_width() -> None:
    assert finding(3.32, 0.0).shown() == "+3.32 points for every seed"
    assert finding(3.32, 0.06).shown() == "+3.32 ± 0.06 points"


def test_deciding_difference_that_is_missing__is_no_silent_agreement() -> None:
    cells = Cells([Measured("a", seed, "one", {"x": 5.0 + 0.1 * seed}) for seed in (0, 1, 2)])
    there = cells.differences("there", ("one", "x"), side="above", margin=1.0)
    missing = cells.differences("gone", ("other", "x"), side="above", margin=1.0)
    assert verdict(there).word == "holds"
    found = verdict([*there, *missing])
    assert found.word == "cannot be told at this size"
    assert "gone on a could not be measured" in found.sentence
    assert cells.differences("beside", ("other", "x")) == []
    (again,) = [Finding.from_dict(json.loads(json.dumps(one.to_dict()))) for one in missing]
    assert (again.shown(), again.interval, again.place) == ("not measured", None, "open")


@pytest.mark.parametrize(
    ("mean", "deviation", "unit", "shown"),
    [
        (91.23, 0.41, "%", "91.2 ± 0.4 %"),
        (0.69, 1.4e-16, "M", "0.690 ± 0.000 M"),
        (0.0869, 0.0122, "grey levels", "0.0869 ± 0.0122 grey levels"),
        (-0.0361, 0.000295, "", "\N{MINUS SIGN}0.0361 ± 0.0003"),
        (0.0, None, "points", "0.0 points"),
    ],
)
def test_reading__has_as_many_places_as_its_spread(mean: float, deviation: float | None, unit: str, shown: str) -> None:
    assert Reading("x", "cifar10", unit, mean, deviation).shown() == shown
