"""All studies by name."""

from __future__ import annotations

from typing import Any

from lightly_prg.claims import (
    better_pretraining,
    corruption,
    inverted_path,
    pretraining_helps,
    reversibility,
    solvers,
)
from lightly_prg.claims.recipe import ClaimRecipe
from lightly_prg.claims.study import Study

STUDIES: dict[str, Study[Any]] = {
    "pretraining_helps": pretraining_helps.STUDY,
    "better_pretraining": better_pretraining.STUDY,
    "inverted_path": inverted_path.STUDY,
    "solvers": solvers.STUDY,
    "corruption": corruption.STUDY,
    "reversibility": reversibility.STUDY,
}


def check_study(claim: ClaimRecipe) -> None:
    """Refuses options that fit no pretraining of a claim, before there is one.

    Raises:
        UserError: With the first.
    """
    for label in claim.data:
        STUDIES[claim.study.name].kinds(claim.study, claim.recipe_of(label, claim.seeds[0]))
