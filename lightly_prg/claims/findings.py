"""What a study found: paired differences over seeds, each with its interval, and what they say of the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightly_prg.eval.comparison.statistics import PairedDifference

Side = Literal["above", "below", "within"]
"""Where a claim says that a difference lies: above or below its margin, or within it on both sides of 0."""

Place = Literal["claimed", "other", "open"]
Word = Literal["holds", "does not hold", "cannot be told at this size"]


@dataclass(frozen=True)
class Finding:
    """One difference on one data set.

    Attributes:
        name: What less what.
        data: The label of the set.
        unit: Of the difference.
        difference: Over the seeds.
        side: Where the claim says that it lies; None for what is told beside it.
        margin: Of the side, in the unit of the difference, at least 0: the smallest effect that counts.
    """

    name: str
    data: str
    unit: str
    difference: PairedDifference
    side: Side | None = None
    margin: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95 %; None for one seed, and for none."""
        width = self.difference.half_width
        return None if width is None else (self.difference.mean - width, self.difference.mean + width)

    @property
    def is_measured(self) -> bool:
        """Whether there is a value for one seed at least."""
        return bool(self.difference.by_seed)

    @property
    def place(self) -> Place:
        """Whether the whole interval lies where the claim says, where it says not, or partly in both."""
        if self.interval is None or self.side is None:
            return "open"
        (low, high), margin = self.interval, self.margin
        if self.side == "within":
            if -margin <= low and high <= margin:
                return "claimed"
            return "other" if high < -margin or low > margin else "open"
        if self.side == "below":
            low, high, margin = -high, -low, -margin
        if low > margin:
            return "claimed"
        return "other" if high < margin else "open"

    @property
    def slack(self) -> float:
        """How far the mean lies on the claimed side of the margin, in half intervals, which compares across units.

        Negative on the other side; as much as a half interval is needed to tell.
        """
        width = self.difference.half_width
        if width is None:
            return -math.inf
        mean = self.difference.mean
        if self.side == "within":
            distance = self.margin - abs(mean)
        else:
            distance = mean - self.margin if self.side == "above" else self.margin - mean
        return distance / width if width > 0.0 else math.copysign(math.inf, distance) if distance else 0.0

    @property
    def claimed(self) -> str:
        """``above 0``; ``within ±1``; nothing without a side."""
        if self.side is None:
            return ""
        return f"within ±{self.margin:g}" if self.side == "within" else f"{self.side} {self.margin:g}"

    def shown(self, digits: int = 2) -> str:
        """``+1.23 ± 0.40 points``, with half of the interval; ``not measured``.

        An interval without width is not shown as one: equal seeds stand at a bound.
        """
        if not self.is_measured:
            return "not measured"
        width = self.difference.half_width
        equal = width is not None and width < 0.5 * 10**-digits
        spread = "" if width is None or equal else f" ± {width:.{digits}f}"
        said = f"{self.difference.mean:+.{digits}f}{spread} {self.unit}".replace("-", "\N{MINUS SIGN}").rstrip()
        return f"{said} for every seed" if equal else said

    def to_dict(self) -> dict[str, Any]:
        """For result.json."""
        return {
            "name": self.name,
            "data": self.data,
            "unit": self.unit,
            "mean": self.difference.mean if self.is_measured else None,
            "half_width": self.difference.half_width,
            "by_seed": {str(seed): value for seed, value in self.difference.by_seed.items()},
            "side": self.side,
            "margin": self.margin,
            "place": None if self.side is None else self.place,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Finding:
        """From result.json; the standard error is not kept."""
        by_seed = {int(seed): float(value) for seed, value in content["by_seed"].items()}
        mean = math.nan if content["mean"] is None else content["mean"]
        difference = PairedDifference(mean, None, content["half_width"], by_seed)
        return cls(
            content["name"], content["data"], content["unit"], difference, content["side"], float(content["margin"])
        )


@dataclass(frozen=True)
class Reading:
    """One value on one data set, for which there is no reference.

    Attributes:
        name: What it is.
        data: The label of the set.
        unit: Of the value.
        mean: Over the seeds.
        deviation: Standard deviation; None for one seed.
    """

    name: str
    data: str
    unit: str
    mean: float
    deviation: float | None

    def shown(self) -> str:
        """``91.2 ± 0.4 %``, with the standard deviation."""
        small = 0 < abs(self.mean) < 1
        # Three digits of a small mean, and of its deviation as many places: what rounding leaves of none is none.
        digits = f".{min(2 - math.floor(math.log10(abs(self.mean))), 12)}f" if small else ".1f"
        spread = "" if self.deviation is None else f" ± {self.deviation:{digits}}"
        return f"{self.mean:{digits}}{spread} {self.unit}".replace("-", "\N{MINUS SIGN}").rstrip()


@dataclass(frozen=True)
class Note:
    """What was chosen on one data set, in words.

    Attributes:
        name: What it is.
        data: The label of the set.
        text: Seed after seed.
    """

    name: str
    data: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """All that a study has to say.

    Attributes:
        findings: Those with a side decide.
        readings: What stands beside them.
        notes: What was chosen.
    """

    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        word: One of three.
        sentence: With the finding that it hangs on.
    """

    word: Word
    sentence: str


def verdict(findings: Sequence[Finding]) -> Verdict:
    """Holds if the interval of every deciding finding lies on the claimed side, does not if one lies on the other.

    Else it cannot be told at this size: more seeds, images or training would be needed.

    Args:
        findings: Of all data sets; those without a side are passed over.
    """
    deciding = [finding for finding in findings if finding.side is not None]
    unmeasured = [finding for finding in deciding if not finding.is_measured]
    if not deciding:
        return Verdict("cannot be told at this size", "Cannot be told at this size: nothing was measured.")
    worst = min(deciding, key=lambda finding: finding.slack)
    against = [finding for finding in deciding if finding.place == "other"]
    if against:
        worst = min(against, key=lambda finding: finding.slack)
        return Verdict("does not hold", f"Does not hold: {_told(worst)} lies {_not_in(worst)}.")
    if unmeasured:
        missing = f"{unmeasured[0].name} on {unmeasured[0].data} could not be measured"
        return Verdict("cannot be told at this size", f"Cannot be told at this size: {missing}.")
    if all(finding.place == "claimed" for finding in deciding):
        where = {_in(finding) for finding in deciding}
        if len(where) == 1:
            every = f"the intervals of all {len(deciding)} differences that decide lie {_in(worst)}"
            return Verdict("holds", f"Holds: {every}; the closest is {_told(worst)}.")
        every = f"the intervals of all {len(deciding)} differences that decide lie where they have to"
        return Verdict("holds", f"Holds: {every}; the closest is {_told(worst)}, which lies {_in(worst)}.")
    worst = min((finding for finding in deciding if finding.place == "open"), key=lambda finding: finding.slack)
    if worst.interval is None:
        return Verdict("cannot be told at this size", "Cannot be told at this size: one seed gives no interval.")
    reason = f"the interval of {_told(worst)} does not lie {_in(worst)} as a whole, nor outside"
    return Verdict("cannot be told at this size", f"Cannot be told at this size: {reason}.")


def _told(finding: Finding) -> str:
    return f"{finding.name} on {finding.data} ({finding.shown()})"


def _in(finding: Finding) -> str:
    return f"within {finding.margin:g} of 0" if finding.side == "within" else f"{finding.side} {finding.margin:g}"


def _not_in(finding: Finding) -> str:
    if finding.side == "within":
        return f"more than {finding.margin:g} from 0"
    return f"{'below' if finding.side == 'above' else 'above'} {finding.margin:g}"
