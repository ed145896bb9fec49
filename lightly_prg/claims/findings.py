"""What a study found: paired differences over seeds, each with its interval, and what they say of the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightly_prg.eval.comparison_statistics import PairedDifference

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
    """

    name: str
    data: str
    unit: str
    difference: PairedDifference
    side: Side | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95 %; None for one seed."""
        width = self.difference.half_width
        return None if width is None else (self.difference.mean - width, self.difference.mean + width)

    def place(self, margin: float) -> Place:
        """Whether the whole interval lies where the claim says, where it says not, or partly in both.

        Args:
            margin: In the unit of the finding, at least 0.
        """
        if self.interval is None or self.side is None:
            return "open"
        low, high = self.interval
        if self.side == "within":
            if -margin <= low and high <= margin:
                return "claimed"
            return "other" if high < -margin or low > margin else "open"
        if self.side == "below":
            low, high, margin = -high, -low, -margin
        if low > margin:
            return "claimed"
        return "other" if high < margin else "open"

    def slack(self, margin: float) -> float:
        """How far the interval lies on the claimed side of the margin; negative for its part on the other."""
        if self.interval is None:
            return float("-inf")
        low, high = self.interval
        if self.side == "within":
            return margin - max(abs(low), abs(high))
        return low - margin if self.side == "above" else margin - high

    def shown(self, digits: int = 2) -> str:
        """``+1.23 ± 0.40 points``, with half of the interval."""
        width = self.difference.half_width
        spread = "" if width is None else f" ± {width:.{digits}f}"
        return f"{self.difference.mean:+.{digits}f}{spread} {self.unit}".replace("-", "\N{MINUS SIGN}").rstrip()

    def to_dict(self, margin: float) -> dict[str, Any]:
        """For result.json."""
        return {
            "name": self.name,
            "data": self.data,
            "unit": self.unit,
            "mean": self.difference.mean,
            "half_width": self.difference.half_width,
            "by_seed": {str(seed): value for seed, value in self.difference.by_seed.items()},
            "side": self.side,
            "place": None if self.side is None else self.place(margin),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Finding:
        """From result.json; the standard error is not kept."""
        by_seed = {int(seed): float(value) for seed, value in content["by_seed"].items()}
        difference = PairedDifference(content["mean"], None, content["half_width"], by_seed)
        return cls(content["name"], content["data"], content["unit"], difference, content["side"])


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
        digits = ".3g" if abs(self.mean) < 1 else ".1f"
        spread = "" if self.deviation is None else f" ± {self.deviation:{digits}}"
        return f"{self.mean:{digits}}{spread} {self.unit}".replace("-", "\N{MINUS SIGN}").rstrip()


@dataclass(frozen=True)
class Outcome:
    """All that a study has to say.

    Attributes:
        findings: Those with a side decide.
        readings: What stands beside them.
    """

    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        word: One of three.
        sentence: With the finding that it hangs on.
    """

    word: Word
    sentence: str


def verdict(findings: Sequence[Finding], *, margin: float) -> Verdict:
    """Holds if the interval of every deciding finding lies on the claimed side, does not if one lies on the other.

    Else it cannot be told at this size: more seeds, images or training would be needed.

    Args:
        findings: Of all data sets; those without a side are passed over.
        margin: The claim's, in the unit of the findings.
    """
    deciding = [finding for finding in findings if finding.side is not None]
    if not deciding:
        return Verdict("cannot be told at this size", "Cannot be told at this size: nothing was measured.")
    worst = min(deciding, key=lambda finding: finding.slack(margin))
    against = [finding for finding in deciding if finding.place(margin) == "other"]
    if against:
        worst = min(against, key=lambda finding: finding.slack(margin))
        return Verdict("does not hold", f"Does not hold: {_told(worst)} lies {_not_in(worst, margin)}.")
    if all(finding.place(margin) == "claimed" for finding in deciding):
        every = f"the intervals of all {len(deciding)} differences that decide lie {_in(worst, margin)}"
        return Verdict("holds", f"Holds: {every}; the closest is {_told(worst)}.")
    if worst.interval is None:
        return Verdict("cannot be told at this size", "Cannot be told at this size: one seed gives no interval.")
    reason = f"the interval of {_told(worst)} does not lie {_in(worst, margin)} as a whole, nor outside"
    return Verdict("cannot be told at this size", f"Cannot be told at this size: {reason}.")


def _told(finding: Finding) -> str:
    return f"{finding.name} on {finding.data} ({finding.shown()})"


def _in(finding: Finding, margin: float) -> str:
    return f"within {margin:g} of 0" if finding.side == "within" else f"{finding.side} {margin:g}"


def _not_in(finding: Finding, margin: float) -> str:
    if finding.side == "within":
        return f"more than {margin:g} from 0"
    return f"{'below' if finding.side == 'above' else 'above'} {margin:g}"
