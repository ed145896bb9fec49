from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lightly_prg.console import Console


def test_brackets__are_printed_as_they_are(capsys) -> None:  # type: ignore[no-untyped-def]
    Console().say("Report: runs/[bold]x/[/b]/report.html")
    assert "runs/[bold]x/[/b]/report.html" in capsys.readouterr().out


def test_closed_pipe__does_not_stop_the_work(tmp_path: Path) -> None:
    work = (
        "import sys, time; from pathlib import Path; from lightly_prg.console import Console\n"
        "console = Console()\n"
        "for number in range(3):\n"
        "    console.say('line'); sys.stdout.flush(); time.sleep(0.2)\n"
        f"Path({str(tmp_path / 'done')!r}).touch()\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-c", work], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "done").exists()
