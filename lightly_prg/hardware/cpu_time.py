"""What work costs on a processor."""

from __future__ import annotations

import os

import psutil


def cpu_seconds() -> float:
    """CPU time of this process and its children, such as those that read images, whether they live or have ended."""
    times = os.times()
    spent = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            its = child.cpu_times()
        except psutil.NoSuchProcess:  # it ended in between
            continue
        spent += its.user + its.system
    return spent
