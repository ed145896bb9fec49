from __future__ import annotations

import os
from random import Random

import pytest


@pytest.fixture(scope="session")
def kills() -> int:
    """How many times each command is killed: LIGHTLY_PRG_KILLS, 50 if it is not set."""
    return int(os.environ.get("LIGHTLY_PRG_KILLS", "50"))


@pytest.fixture
def chance() -> Random:
    """Where moments come from; with LIGHTLY_PRG_FAULT_SEED other ones."""
    return Random(int(os.environ.get("LIGHTLY_PRG_FAULT_SEED", "0")))
