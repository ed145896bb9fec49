"""What every section of a recipe is made of: immutable models and numbers as YAML writes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def refuse_bool(value: Any) -> Any:
    """Refuses YAML's ``yes`` and ``true``, which would otherwise pass for the number 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def number_to_text(value: Any) -> Any:
    """Takes the 32 of ``precision: 32``, a number to YAML, for text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# PyYAML reads `1e-4` as text, so numbers are taken leniently (pydantic's lax mode).
Integer = Annotated[int, BeforeValidator(refuse_bool)]
Number = Annotated[float, BeforeValidator(refuse_bool)]
Positive = Annotated[Integer, Field(ge=1)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Decay = Annotated[Number, Field(ge=0.0, lt=1.0)]
LearningRate = Annotated[Number, Field(gt=0.0, le=1e6)]  # beyond, a step leaves what torch can count


class Section(BaseModel):
    """A part of a recipe: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
