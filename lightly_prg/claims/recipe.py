"""Claim recipes: what a paper says, what would falsify it, and the study that is to tell.

As ``lightly_prg.recipe``, nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, model_validator

from lightly_prg.claims.recipe_studies import StudyRecipe
from lightly_prg.errors import UserError
from lightly_prg.recipe import EvalRecipe, PRGRecipe, Recipe, load_recipe
from lightly_prg.recipe.mistakes import nearest
from lightly_prg.recipe.overrides import apply_override
from lightly_prg.recipe.reading import checked, file_of, has_key, mapping_of, shipped_texts, text_of
from lightly_prg.recipe.section import Integer, Number, Section

PREFIX = "claims/"
"""What stands before the name of a shipped claim."""

_Sentence = Annotated[str, Field(min_length=1)]


class SetRecipe(Section):
    """One data set and the network that is pretrained on it.

    Attributes:
        recipe: By name or path.
        root: Where the images lie.
        overrides: ``key=value`` for this set, after those of all.
        title: What results call the set, such as that it is a lossy copy; default its own name.
    """

    recipe: str
    root: str = "data"
    overrides: tuple[str, ...] = ()
    title: _Sentence | None = None


def _without_none(sets: Any) -> Any:
    """Leaves out what was set to null, so that ``data.cifar10=null`` drops a set."""
    return {label: one for label, one in sets.items() if one is not None} if isinstance(sets, dict) else sets


_Label = Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]


class ClaimRecipe(Section):
    """Everything about the test of one claim.

    Attributes:
        id: Names the claim and its folder.
        title: In a few words.
        claim: In one sentence.
        falsified_by: What would speak against it.
        controls: What it is compared with, and why.
        data: The data sets by label; one that is null is left out.
        overrides: ``key=value`` for the pretraining on every set.
        seeds: Every network is pretrained once with each.
        study: What is measured.
        margin: The smallest effect that counts. A difference has to be larger than this to speak for the claim, and one
            that is surely smaller speaks against it; where the claim is that nothing changes, it may be as large. In
            the unit of what is measured; differences in another unit have a margin of their own in ``study``.
        runs: Folder of the pretrained networks, ``<set>-seed<n>``; default ``runs`` beside the claim's folder, which
            claims of the same pretraining share.
        existing: A folder of finished runs of that name; those of the same recipe are copied and not trained again.
        out: The folder of the claim; default ``comparisons/claims/<id>``.
    """

    id: _Label
    title: _Sentence
    claim: _Sentence
    falsified_by: _Sentence
    controls: tuple[str, ...] = ()
    data: Annotated[dict[_Label, SetRecipe], BeforeValidator(_without_none), Field(min_length=1)]
    overrides: tuple[str, ...] = ()
    seeds: Annotated[tuple[Annotated[Integer, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    study: StudyRecipe
    margin: Annotated[Number, Field(ge=0.0)] = 0.0
    runs: str | None = None
    existing: str | None = None
    out: str | None = None

    @model_validator(mode="after")
    def _seeds_are_told_apart(self) -> ClaimRecipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; each may stand there once")
        return self

    def recipe_of(self, label: str, seed: int) -> Recipe:
        """What is pretrained on one set with one seed.

        Raises:
            UserError: If the recipe or an override is wrong, or its method has no flow.
        """
        chosen = self.data[label]
        root = f"data.root={json.dumps(chosen.root)}"
        try:
            recipe = load_recipe(chosen.recipe, (root, *self.overrides, *chosen.overrides))
        except UserError as error:
            raise UserError(f"data.{label}: {error}") from None
        if not isinstance(recipe.method, PRGRecipe):
            raise UserError(f"data.{label}: {chosen.recipe} trains {recipe.method.name}; claims are about prg.")
        judged = EvalRecipe(split="test", knn=None, linear=None, few_shot=None, controls=())
        return recipe.model_copy(update={"name": f"{label}-seed{seed}", "seed": seed, "eval": judged})

    def titles(self) -> dict[str, str]:
        """What results call each set.

        Raises:
            UserError: If two have the same title.
        """
        from lightly_prg.data.named_sets import NAMED_SETS  # with it comes torch, which a list of claims does not need

        found: dict[str, str] = {}
        for label, chosen in self.data.items():
            title = chosen.title
            if title is None:
                data = self.recipe_of(label, self.seeds[0]).data
                title = NAMED_SETS[data.name].title if data.name in NAMED_SETS else data.title
            if title in found.values():
                raise UserError(f"Two sets are called {title!r}: give one of them another data.{label}.title=TITLE.")
            found[label] = title
        return found

    def to_yaml(self) -> str:
        """The fully resolved recipe; ``parse_claim`` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100, default_flow_style=None)


def shipped_claims() -> dict[str, str]:
    """Maps the name of every shipped claim, such as ``claims/c06``, to its text."""
    return shipped_texts("lightly_prg.eval", "claims", prefix=PREFIX)


def is_claim(source: str) -> bool:
    """Whether a name or path is meant as that of a claim: ``claims/...``, or a file or folder that holds one."""
    path = file_of(source, "claim.yaml")
    return source.startswith(PREFIX) if path is None else has_key(path, "study")


def load_claim(source: str | Path, overrides: Sequence[str] = ()) -> ClaimRecipe:
    """Reads a claim recipe by path or shipped name and applies ``key.sub=value`` overrides.

    Args:
        source: Path of a YAML file, ``claims/<id>`` for a shipped one, or the folder of a claim that was begun.
        overrides: For example ``["seeds=[0]", "data.cifar10.root=/data"]``; values are read as YAML.

    Raises:
        UserError: If there is no such claim, or a key, type or value is wrong.
    """
    path = file_of(source, "claim.yaml")
    text = text_of(source, path, shipped_claims(), kind="claim")
    return parse_claim(text, overrides=overrides, origin=str(path or source))


def parse_claim(text: str, *, overrides: Sequence[str] = (), origin: str = "claim") -> ClaimRecipe:
    """Parses YAML text into a claim recipe, see ``load_claim``."""
    raw = mapping_of(text, origin=origin, kind="claim", keys="id, claim and study")
    known = dict(raw["data"]) if isinstance(raw.get("data"), dict) else {}
    for override in overrides:
        apply_override(raw, override)
    sets = raw["data"] if isinstance(raw.get("data"), dict) else {}
    for label, one in sets.items():
        if one is None and label not in known:
            raise UserError(f"{origin}: there is no set data.{label} to leave out{nearest(str(label), known) or '.'}")
    return checked(ClaimRecipe, raw, origin=origin)


def folders_of(claim: ClaimRecipe, out: str | Path | None = None) -> tuple[Path, Path]:
    """The folder of a claim, and that of its pretrained networks."""
    folder = Path(out or claim.out or Path("comparisons") / "claims" / claim.id)
    return folder, Path(claim.runs) if claim.runs is not None else folder.parent / "runs"


def folder_of(source: str | Path) -> Path | None:
    """The folder of a claim that was begun, where ``source`` is one or the claim.yaml in it; None for all else."""
    path = Path(source)
    folder = path.parent if path.name == "claim.yaml" else path
    begun = (folder / "claim.yaml").is_file() and any((folder / name).exists() for name in (".lock", "cells"))
    return folder if begun else None
