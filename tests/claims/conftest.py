from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightly_prg.claims.pretraining import pretrained, run_cells
from lightly_prg.claims.recipe import ClaimRecipe, parse_claim
from lightly_prg.console import Console

MakeClaim = Callable[..., ClaimRecipe]

# Four batches.
OVERRIDES = (
    "data.image_size=16",
    "data.train_size=60",
    "train.epochs=1",
    "train.batch_size=15",
    "train.warmup_epochs=0",
    "train.ema_decay=0",
    "train.precision=32",
    "train.accelerator=cpu",
    "train.snapshots=[0,0.25,0.5,1]",
    "method.backbone.channels=8",
    "method.backbone.patch_size=2",
    "method.feature.pool=mean",
)
STUDIES: dict[str, dict[str, Any]] = {
    "pretraining_helps": {
        "labels": [2, 1],
        "epochs": [1, 2],
        "scratch_epochs": [2, 4],
        "batch_size": 20,
        "learning_rates": [0.01],
        "steps": 2,
    },
    "better_pretraining": {"images": 8, "train_images": 40, "steps": 2, "rise_from": 0.25},
    "inverted_path": {"train_images": 40, "scan_images": 40},
    "solvers": {
        "train_steps": [2],
        "judged": [
            {"solver": "euler", "steps": 2},
            {"solver": "euler", "steps": 4, "decides": True},
            {"solver": "dopri5"},
        ],
    },
    "corruption": {"resnet": {"depth": 9, "width": 0.125, "stem_stride": 2}, "steps": 2, "scratch_epochs": 2},
    "reversibility": {"betas": [0, 1], "samples": 20, "images": 4, "steps": 2},
}
_FINETUNED = ("better_pretraining", "solvers", "corruption", "reversibility")
_SCHEDULE = {"labels": 2, "epochs": 1, "batch_size": 20, "learning_rates": [0.01]}
_FEW = {"test_images": 30, "validation_images": 10}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of both seeds, pretrained on digits; all tests share them."""
    folder = tmp_path_factory.mktemp("claims") / "runs"
    claim = _claim("solvers", folder, seeds=[0, 1])
    for cell in run_cells(claim, folder):
        pretrained(cell, trust=False, console=Console(quiet=True))
    return folder


@pytest.fixture
def make_claim(runs: Path) -> MakeClaim:
    """A claim on digits that takes seconds: ``make_claim("solvers", seeds=[0])``."""

    def make(study: str, **changes: Any) -> ClaimRecipe:
        return _claim(study, runs, **changes)

    return make


def _claim(study: str, runs_folder: Path, /, **changes: Any) -> ClaimRecipe:
    options = {"name": study, **_FEW, **(_SCHEDULE if study in _FINETUNED else {}), **STUDIES[study]}
    content: dict[str, Any] = {
        "id": "c06",
        "title": "tiny",
        "claim": "Digits are digits.",
        "falsified_by": "Digits that are letters.",
        "controls": ["letters"],
        "data": {"digits": {"recipe": "quickstart"}},
        "overrides": list(OVERRIDES),
        "seeds": [0, 1],
        "study": options,
        "runs": str(runs_folder),
    }
    return parse_claim(yaml.safe_dump({**content, **changes}))


@pytest.fixture(autouse=True)
def few_steps() -> Iterator[None]:
    """Round trips of two steps, and no figures of measurements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightly_prg.classifier.flow_comparison.STEPS", 2)
        patch.setattr("lightly_prg.plotting.write_figure", lambda *arguments: None)
        for module in ("measurements", "scan"):
            patch.setattr(f"lightly_prg.plotting.{module}.write_figure", lambda *arguments: None)
        yield
