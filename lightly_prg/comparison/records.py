"""What a comparison has measured so far: one file for each cell and evaluator, not believed for another question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightly_prg.errors import UserError
from lightly_prg.files import read_json, write_json

_UNNOTED: Mapping[str, Any] = {"penalties": [10.0**-exponent for exponent in range(-1, 7)]}
"""What older versions measured with and did not write down."""


@dataclass(frozen=True)
class Records:
    """The results of one cell.

    Args:
        folder: Where they lie, ``results/<cell>``.
    """

    folder: Path

    def known(
        self,
        name: str,
        *,
        request: Mapping[str, Any],
        recipe_sha256: str,
        made_of: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """The result of a measurement if it was made of this encoder with these options.

        Args:
            name: Of the evaluator.
            request: All its options.
            recipe_sha256: The hash of the run's recipe, its feature included.
            made_of: What the recipe does not decide: the weights and the images.
        """
        try:
            content = read_json(self.folder / f"{name}.json")
        except UserError:  # missing, or damaged: measured again
            return None
        asked = {
            "request": dict(request),
            "recipe_sha256": recipe_sha256,
            "made_of": dict(made_of) if made_of is not None else None,
        }
        noted = content.get("request")
        if name != "scan" and isinstance(noted, dict):
            content["request"] = {key: value for key, value in _UNNOTED.items() if key in request} | noted
        if any(content.get(key) != value for key, value in asked.items()):
            return None
        result = content.get("result")
        return result if isinstance(result, dict) else None

    def measured(
        self,
        name: str,
        work: Callable[[], Mapping[str, Any]],
        *,
        request: Mapping[str, Any],
        recipe_sha256: str,
        made_of: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The result that is known, or else that of ``work``, which is written."""
        known = self.known(name, request=request, recipe_sha256=recipe_sha256, made_of=made_of)
        if known is not None:
            return known
        result = dict(work())
        content: dict[str, Any] = {"request": dict(request), "recipe_sha256": recipe_sha256}
        if made_of is not None:
            content["made_of"] = dict(made_of)
        content["result"] = result
        write_json(self.folder / f"{name}.json", content)
        return result
