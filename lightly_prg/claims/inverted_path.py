"""Are activations along the inverted path the better frozen feature? On it, beside it, and without training (C4b).

Block and position are chosen on validation images and judged once on test images, by the very steps of the solver that
they were chosen with. What stands beside the best block on the deterministic path has the same choice: the best block
at randomly noised images (as in DDAE, arXiv 2303.09769); the best block on the path of a network with fresh weights;
and the block in the middle of the network, of which the position alone is chosen. The clean image, at tau 0, is neither
inverted nor noised, so that none of them may choose it; the best block there is told beside. Raw pixels tell what there
was to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightly_prg.claims.findings import Finding, Note, Outcome, Reading
from lightly_prg.claims.recipe_studies import InvertedPath
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.recipe import Recipe
from lightly_prg.scan import scan
from lightly_prg.scan.features import SCANNED_TAUS, ScanImages, drawn_by_class
from lightly_prg.scan.frozen_judging import judge_encoder, judge_frozen, read_block

_TITLES = {
    "path": "best block on the path",
    "noised": "best block at noised images",
    "middle": "block in the middle, on the path",
    "random": "best block on the path of random weights",
    "clean": "best block at the clean image",
}
_PIXELS = "pixels"


def kinds(options: InvertedPath, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What is read."""
    found: dict[str, dict[str, Any]] = {name: {"read": name} for name in (*_TITLES, _PIXELS)}
    found["middle"]["block"] = options.middle
    return found


def measure(part: Part, cell: Mapping[str, Any], options: InvertedPath) -> dict[str, Any]:
    """Chooses the feature, and judges it."""
    evaluation, read = part.evaluation, cell["read"]
    images = ScanImages(
        drawn_by_class(evaluation.images("train"), options.train_images, part.seed), evaluation.images("test"), "test"
    )
    assert images.judged is not None
    encoder: Any = evaluation.encoder(
        "raw_pixels" if read == _PIXELS else "random_network" if read == "random" else "run"
    )
    if read == _PIXELS:
        return judge_encoder(evaluation, encoder, bank=images.bank, judged=images.judged)
    noised = read == "noised"
    found = scan(
        evaluation,
        encoder="random_network" if read == "random" else "run",
        sources=("block",),
        blocks=[cell["block"]] if "block" in cell else (),
        taus=(0.0,) if read == "clean" else [tau for tau in SCANNED_TAUS if tau > 0.0],
        noised=noised,
        max_images=options.scan_images,
    ).chosen
    chosen = {"block": found.block, "pool": found.pool, "tau": list(found.tau), "steps": found.steps}
    train, judged = read_block(
        evaluation,
        encoder,
        images,
        block=found.block,
        pool=found.pool,
        taus=found.tau,
        steps=found.steps,
        noised=noised,
    )
    return {"chosen": {**chosen, "validation": found.linear}, **judge_frozen(evaluation, train, judged)}


def outcome(cells: Cells, options: InvertedPath) -> Outcome:
    """The best block on the path less everything else; noised images and random weights decide, by the linear probe."""
    findings: list[Finding] = []
    readings: list[Reading] = []
    notes: list[Note] = []
    for probe, title in (("linear", "linear probe"), ("knn", "k-NN")):
        for other in ("noised", "random", "middle", "clean"):
            decides = probe == "linear" and other in ("noised", "random")
            findings += cells.differences(
                f"{title}, {_TITLES['path']} less {_TITLES[other]}",
                ("path", probe),
                (other, probe),
                side="above" if decides else None,
            )
        for kind, name in {**_TITLES, _PIXELS: "raw pixels"}.items():
            readings += cells.readings(f"{title}, {name}", kind, probe)
    for kind, name in _TITLES.items():
        readings += cells.readings(f"network evaluations, {name}", kind, "nfe", unit="")
        notes += cells.notes(f"chosen, {name}", kind, _choice)
    return Outcome(tuple(findings), tuple(readings), tuple(notes))


def _choice(result: Mapping[str, Any]) -> str:
    chosen = result["chosen"]
    return f"{chosen['block']} at tau {', '.join(f'{tau:g}' for tau in chosen['tau'])}"


STUDY = Study(kinds=kinds, measure=measure, outcome=outcome, aside=frozenset({"middle"}))
