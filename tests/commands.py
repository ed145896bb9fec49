"""Running a command in the process of the tests."""

from __future__ import annotations

import sys

import pytest

from lightly_prg.cli import main


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Runs a command: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["lightly-prg", *arguments])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
