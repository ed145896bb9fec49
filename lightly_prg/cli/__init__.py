"""The command line: parse, call, print. No logic, and no torch before a command runs."""

# isort: off
# Importing a module registers its commands; `--help` lists them in this order.
from lightly_prg.cli import (  # noqa: F401
    job as _job,
    compare as _compare,
    judge as _judge,
    scan as _scan,
    classify as _classify,
    measure as _measure,
    look as _look,
    find as _find,
)

# isort: on
from lightly_prg.cli.app import app
from lightly_prg.cli.entry import main

__all__ = ["app", "main"]
