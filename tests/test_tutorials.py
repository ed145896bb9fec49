"""The pages under docs/ are run as they stand: files are written, commands called, code executed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from lightly_prg.cli import main

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = ("your_own_network", "your_own_images", "your_own_generator", "in_a_lightly_loop")
BLOCK = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial__runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = list(BLOCK.finditer((DOCS / f"{name}.md").read_text(encoding="utf-8")))
    assert len(blocks) >= 3
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    for block in blocks:
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["content"], encoding="utf-8")
        elif block["language"] == "python":
            exec(compile(block["content"], f"{name}.md", "exec"), namespace)
        elif block["language"] == "bash":
            for line in block["content"].strip().splitlines():
                monkeypatch.setattr(sys, "argv", shlex.split(line))
                code: Any = 0
                try:
                    main()
                except SystemExit as stop:
                    code = stop.code
                assert not code, line
