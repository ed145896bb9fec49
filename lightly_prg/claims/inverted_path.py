"""Are activations along the inverted path the better frozen feature? On it, beside it, and without training (C4b).

Block and position are chosen on validation images and judged once on test images. What stands beside the best block on
the deterministic path is the same block at randomly noised images (as in DDAE, arXiv 2303.09769), for which the
position is chosen anew; the block in the middle of the network, likewise; and the very same feature of a network with
fresh weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightly_prg.claims.findings import Finding, Outcome, Reading
from lightly_prg.claims.recipe_studies import InvertedPath
from lightly_prg.claims.study import Cells, Part, Study
from lightly_prg.frozen_judging import judge_frozen, read_block
from lightly_prg.recipe import Recipe
from lightly_prg.scan import scan
from lightly_prg.scan_features import ScanImages, drawn_by_class

_TITLES = {
    "path": "best block on the path",
    "noised": "the same block at noised images",
    "middle": "block in the middle, on the path",
    "random": "the same feature of random weights",
}


def kinds(options: InvertedPath, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What is read; the first one's choice decides over what the second and the last read."""
    return {name: {"read": name} for name in _TITLES}


def measure(part: Part, cell: Mapping[str, Any], options: InvertedPath) -> dict[str, Any]:
    """Chooses what is left to choose, and judges it."""
    evaluation, read = part.evaluation, cell["read"]
    if read == "random":
        chosen = part.known["path"]["chosen"]
    else:
        blocks = {"noised": [part.known.get("path", {}).get("chosen", {}).get("block")], "middle": [options.middle]}
        found = scan(
            evaluation,
            sources=("block",),
            blocks=blocks.get(read, ()),
            noised=read == "noised",
            max_images=options.scan_images,
        ).chosen
        chosen = {"block": found.block, "pool": found.pool, "tau": list(found.tau), "validation": found.linear}
    encoder: Any = evaluation.encoder("random_network" if read == "random" else "run")
    images = ScanImages(
        drawn_by_class(evaluation.images("train"), options.train_images, part.seed), evaluation.images("test"), "test"
    )
    train, judged = read_block(
        evaluation,
        encoder,
        images,
        block=chosen["block"],
        pool=chosen["pool"],
        taus=tuple(chosen["tau"]),
        noised=read == "noised",
    )
    return {"chosen": chosen, **judge_frozen(evaluation, train, judged)}


def outcome(cells: Cells, options: InvertedPath) -> Outcome:
    """The best block on the path less everything else; noised images and random weights decide, by the linear probe."""
    findings: list[Finding] = []
    readings: list[Reading] = []
    for probe, title in (("linear", "linear probe"), ("knn", "k-NN")):
        for other in ("noised", "random", "middle"):
            decides = probe == "linear" and other != "middle"
            findings += cells.differences(
                f"{title}, {_TITLES['path']} less {_TITLES[other]}",
                ("path", probe),
                (other, probe),
                side="above" if decides else None,
            )
        for kind in _TITLES:
            readings += cells.readings(f"{title}, {_TITLES[kind]}", kind, probe)
    return Outcome(tuple(findings), tuple(readings))


STUDY = Study(kinds=kinds, measure=measure, outcome=outcome)
