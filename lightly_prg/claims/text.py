"""What a tested claim reads like: the part of a page that tells it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightly_prg.claims.findings import Finding, Reading

_MINUS = "\N{MINUS SIGN}"


def summary(content: Mapping[str, Any]) -> str:
    """summary.md of one claim.

    Args:
        content: Of its result.json.
    """
    return "\n".join([f"# {heading(content)}", "", *tested(content, figure=str(content["figure"]))])


def heading(about: Mapping[str, Any]) -> str:
    """``C6: title``."""
    return f"{short_id(str(about['id']))}: {about['title']}"


def short_id(name: str) -> str:
    """``c04b`` as the table of claims has it, ``C4b``; any other name as it is."""
    digits = name[1:].rstrip("abcdefghijklmnopqrstuvwxyz")
    if name[:1] != "c" or not digits.isdigit():
        return name
    return f"C{int(digits)}{name[1 + len(digits) :]}"


def stated(about: Mapping[str, Any]) -> list[str]:
    """What is claimed and what would falsify it.

    Args:
        about: With the keys ``claim``, ``falsified_by`` and ``controls``.
    """
    lines = [f"> {about['claim']}", "", f"**Would be falsified by:** {about['falsified_by']}", ""]
    if about["controls"]:
        lines += ["**Controls:**", "", *(f"* {control}" for control in about["controls"]), ""]
    return lines


def tested(content: Mapping[str, Any], *, figure: str) -> list[str]:
    """The lines on a claim that was tested, below its heading.

    Args:
        content: Of its result.json.
        figure: Where the light figure lies, seen from the page; the dark one lies beside it.
    """
    findings = [Finding.from_dict(finding) for finding in content["findings"]]
    places = [finding["place"] for finding in content["findings"]]
    readings = [Reading(**reading) for reading in content["readings"]]
    return [
        f"**{str(content['verdict']).capitalize()}.** {_reason(str(content['sentence']))}",
        "",
        *stated(content),
        *_picture(figure, heading(content)),
        *_findings(findings, places, float(content["margin"])),
        *_readings(readings),
        *_made(content),
    ]


def _reason(sentence: str) -> str:
    """The sentence of a verdict without its word, which stands before it."""
    reason = sentence.partition(": ")[2]
    return reason[:1].upper() + reason[1:]


def _picture(figure: str, title: str) -> list[str]:
    dark = figure.removesuffix(".png") + "-dark.png"
    return [
        "<picture>",
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">',
        f'<img alt="{title}: differences with their intervals" src="{figure}" width="760">',
        "</picture>",
        "",
    ]


def _findings(findings: Sequence[Finding], places: Sequence[str | None], margin: float) -> list[str]:
    lines = [
        "| difference | data | mean ± half of the 95 % interval | each seed | claimed | interval |",
        "|---|---|---|---|---|---|",
    ]
    for finding, place in zip(findings, places, strict=True):
        each = ", ".join(shown(value) for value in finding.difference.by_seed.values())
        lies = {"claimed": "**on the claimed side**", "other": "**on the other side**", "open": "**open**"}
        claimed = "" if finding.side is None else claimed_side(finding.side, margin)
        cells = [finding.name, finding.data, finding.shown(), each, claimed, "" if place is None else lies[place]]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def claimed_side(side: str, margin: float) -> str:
    """``above 0``; ``within ±1``."""
    return f"within ±{margin:g}" if side == "within" else f"{side} {margin:g}"


def shown(value: float) -> str:
    """``+1.23`` with a minus sign of the same width."""
    return f"{value:+.2f}".replace("-", _MINUS)


def _readings(readings: Sequence[Reading]) -> list[str]:
    if not readings:
        return []
    sets = list(dict.fromkeys(reading.data for reading in readings))
    by_name: dict[str, dict[str, str]] = {}
    for reading in readings:
        by_name.setdefault(reading.name, {})[reading.data] = reading.shown()
    lines = [
        "<details><summary>What else was measured: mean ± standard deviation over the seeds</summary>",
        "",
        f"| | {' | '.join(sets)} |",
        "|---" * (1 + len(sets)) + "|",
    ]
    lines += [f"| {name} | {' | '.join(row.get(one, '') for one in sets)} |" for name, row in by_name.items()]
    return [*lines, "", "</details>", ""]


def _made(content: Mapping[str, Any]) -> list[str]:
    machine, versions = content["machine"], content["versions"]
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    seeds = ", ".join(map(str, content["seeds"]))
    return [
        f"Seeds {seeds}; {content['cpu_minutes']:.0f} CPU-minutes beside pretraining; {where}, {machine['cores']} "
        f"cores, torch {versions['torch']}, Python {machine['python']}. Again:",
        "",
        "```",
        str(content["command"]),
        "```",
        "",
    ]
