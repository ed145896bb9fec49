"""What a tested claim reads like: the part of a page that tells it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightly_prg.claims.findings import Finding, Note, Reading
from lightly_prg.claims.setting import setting

_MINUS = "\N{MINUS SIGN}"


def summary(content: Mapping[str, Any]) -> str:
    """summary.md of one claim.

    Args:
        content: Of its result.json.
    """
    return "\n".join([f"# {heading(content)}", "", *tested(content, figure=str(content["figure"]), pictures={})])


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
    """What is claimed, what would falsify it, and at what size it is tested.

    Args:
        about: A claim's recipe, or its result.json.
    """
    lines = [f"> {about['claim']}", "", f"**Would be falsified by:** {about['falsified_by']}", ""]
    if about["controls"]:
        lines += ["**Controls:**", "", *(f"* {control}" for control in about["controls"]), ""]
    recipe = about.get("recipe", about)
    return [*lines, f"**Size:** {setting(recipe['study'], about.get('training', {}))}", ""]


def tested(content: Mapping[str, Any], *, figure: str, pictures: Mapping[str, str]) -> list[str]:
    """The lines on a claim that was tested, below its heading.

    Args:
        content: Of its result.json.
        figure: Where the light figure lies, seen from the page; the dark one lies beside it.
        pictures: Further ones by name, likewise.
    """
    findings = [Finding.from_dict(finding) for finding in content["findings"]]
    deciding = sum(finding.side is not None for finding in findings)
    return [
        f"**{str(content['verdict']).capitalize()}.** {_reason(str(content['sentence']))}",
        "",
        *stated(content),
        *_picture(figure, f"{heading(content)}: differences with their intervals", 760),
        f"{deciding} {'difference decides' if deciding == 1 else 'differences decide'}, each by its own interval.",
        "",
        *_findings(findings),
        *_beside([Reading(**reading) for reading in content["readings"]], [Note(**note) for note in content["notes"]]),
        *_pictures(pictures),
        *_made(content),
    ]


def _reason(sentence: str) -> str:
    """The sentence of a verdict without its word, which stands before it."""
    reason = sentence.partition(": ")[2]
    return reason[:1].upper() + reason[1:]


def _pictures(pictures: Mapping[str, str]) -> list[str]:
    if not pictures:
        return []
    lines = ["<details><summary>Pictures</summary>", ""]
    for name, figure in pictures.items():
        lines += [f"`{name}`", "", *_picture(figure, name, 480)]
    return [*lines, "</details>", ""]


def _picture(figure: str, alternative: str, width: int) -> list[str]:
    dark = figure.removesuffix(".png") + "-dark.png"
    return [
        "<picture>",
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">',
        f'<img alt="{alternative}" src="{figure}" width="{width}">',
        "</picture>",
        "",
    ]


def _findings(findings: Sequence[Finding]) -> list[str]:
    lines = [
        "| difference | data | mean ± half of the 95 % interval | each seed | claimed | interval |",
        "|---|---|---|---|---|---|",
    ]
    lies = {"claimed": "**on the claimed side**", "other": "**on the other side**", "open": "**open**"}
    for finding in findings:
        each = ", ".join(shown(value) for value in finding.difference.by_seed.values())
        place = "" if finding.side is None else lies[finding.place]
        cells = [finding.name, finding.data, finding.shown(), each, finding.claimed, place]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def shown(value: float) -> str:
    """``+1.23`` with a minus sign of the same width."""
    return f"{value:+.2f}".replace("-", _MINUS)


def _beside(readings: Sequence[Reading], notes: Sequence[Note]) -> list[str]:
    told = [(one.name, one.data, one.shown()) for one in readings] + [(one.name, one.data, one.text) for one in notes]
    if not told:
        return []
    sets = list(dict.fromkeys(data for _, data, _ in told))
    by_name: dict[str, dict[str, str]] = {}
    for name, data, text in told:
        by_name.setdefault(name, {})[data] = text
    lines = [
        "<details><summary>What else was measured: mean ± standard deviation over the seeds, or each seed</summary>",
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
    torch = " and ".join(content["versions_of_cells"].get("torch", [versions["torch"]]))
    own = " and ".join(content["versions_of_cells"].get("lightly-prg", [versions["lightly-prg"]]))
    return [
        f"Seeds {seeds}; {content['cpu_minutes']:.0f} CPU-minutes beside pretraining; {where}, {machine['cores']} "
        f"cores, lightly-prg {own}, torch {torch}, Python {machine['python']}. Again:",
        "",
        "```",
        str(content["command"]),
        "```",
        "",
    ]
