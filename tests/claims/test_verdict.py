from __future__ import annotations

import pytest

from lightly_prg.claims.findings import Finding, Place, Side, verdict
from lightly_prg.claims.study import Cells, Measured
from lightly_prg.eval.comparison_statistics import PairedDifference


def finding(mean: float, half_width: float | None, side: Side | None = "above", data: str = "digits") -> Finding:
    return Finding("this less that", data, "points", PairedDifference(mean, None, half_width, {0: mean}), side)


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
    assert finding(mean, half_width, side).place(margin) == place


def test_verdict__needs_every_set_to_hold_and_one_to_fall() -> None:
    above, open_, below = finding(2, 1), finding(2, 3, data="b"), finding(-2, 1, data="c")
    beside = finding(-9, 1, side=None)
    assert verdict([above, beside], margin=0).word == "holds"
    assert verdict([above, open_], margin=0).word == "cannot be told at this size"
    assert verdict([above, open_, below], margin=0).word == "does not hold"
    assert verdict([beside], margin=0).word == "cannot be told at this size"
    assert verdict([finding(2, None)], margin=0).word == "cannot be told at this size"


def test_sentence__names_the_difference_that_it_hangs_on() -> None:
    near = finding(1.5, 1, data="near")
    assert verdict([finding(9, 1), near], margin=0.25).sentence == (
        "Holds: the intervals of all 2 differences that decide lie above 0.25; the closest is this less that on near "
        "(+1.50 ± 1.00 points)."
    )
    assert verdict([finding(2, 1, "within"), finding(-4, 1, "within", "far")], margin=0.5).sentence == (
        "Does not hold: this less that on far (\N{MINUS SIGN}4.00 ± 1.00 points) lies more than 0.5 from 0."
    )
    assert "one seed gives no interval" in verdict([finding(2, None)], margin=0).sentence
    assert verdict([finding(0.5, 2)], margin=0).sentence.startswith(
        "Cannot be told at this size: the interval of this less that on digits (+0.50 ± 2.00 points)"
    )


def test_finding__comes_back_from_its_file() -> None:
    one = finding(1.0, 0.5, "within")
    assert Finding.from_dict(one.to_dict(1.0)) == one
    assert one.to_dict(2.0)["place"] == "claimed"
    assert finding(1.0, 0.5, None).to_dict(2.0)["place"] is None


def test_differences__are_paired_over_the_seeds_of_both() -> None:
    values = {"first": {0: 3.0, 1: 5.0, 2: 9.0}, "second": {0: 2.0, 1: 3.0}}
    cells = Cells([Measured("digits", seed, kind, {"top1": v}) for kind in values for seed, v in values[kind].items()])
    (found,) = cells.differences("d", ("first", "top1"), ("second", "top1"), side="above")
    assert found.difference.by_seed == {0: 1.0, 1: 2.0}
    # Student's t with one degree of freedom: 12.706 times the standard error, sqrt(1/2) / sqrt(2).
    assert found.difference.half_width == pytest.approx(12.7062 / 2, rel=1e-4)
    (whole,) = cells.differences("d", ("first", lambda result: result["top1"] if result["top1"] > 4 else None))
    assert whole.difference.by_seed == {1: 5.0, 2: 9.0}
    assert cells.differences("d", ("first", "top1"), ("third", "top1")) == []
    (reading,) = cells.readings("r", "first", "top1")
    assert (reading.mean, reading.deviation) == (pytest.approx(17 / 3), pytest.approx(3.0551, rel=1e-4))
    assert reading.shown() == "5.7 ± 3.1 %"
