"""The command line: parse, call, print. No logic, and no torch before a command runs."""

# isort: off
# Importing a module registers its commands; `--help` lists them in this order.
from lightly_prg.cli import job as _job, judge as _judge, look as _look, find as _find  # noqa: F401

# isort: on
from lightly_prg.cli.app import app
from lightly_prg.cli.entry import main

__all__ = ["app", "main"]
