from __future__ import annotations

import subprocess
import sys
import time

from lightly_prg.hardware.cpu_time import cpu_seconds

_BUSY = "import time\nwhile time.process_time() < {}: pass\nprint('done', flush=True)\n{}"


def test_children__are_counted_while_they_live_and_after_they_ended() -> None:
    before = cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY.format(0.5, "input()")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        living = cpu_seconds() - before
        child.communicate("\n")
    ended = cpu_seconds() - before
    assert 0.4 < living < 5
    assert living - 0.1 < ended < 5


def test_waiting__costs_nothing() -> None:
    before = cpu_seconds()
    time.sleep(0.3)
    assert cpu_seconds() - before < 0.15
