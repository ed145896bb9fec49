"""What the benchmarks have in common: callables timed in turns, one JSON line for each case, and the exit code.

A line holds ``case``, ``ours``, ``against``, ``ratio``, ``goal`` and ``met``. The end of the case's name says how they
are meant:

* "times faster": ``ratio = against / ours`` of seconds is to be at least ``goal``;
* "ratio at most": ``ratio = ours / against`` is to be at most ``goal``;
* "ours at most", "ours at least": ``goal`` is for ``ours`` itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

LIMIT = 240.0
"""Seconds after which a script begins no further round."""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        case: What is compared.
        ours: Our figure.
        against: That of the alternative; None where there is none.
        ratio: Of the two; None where only one of them counts.
        goal: What is asked for; None for nothing.
        met: Whether it holds; None where nothing is asked.
    """

    case: str
    ours: float
    against: float | None
    ratio: float | None
    goal: float | None
    met: bool | None


def faster(name: str, ours: float, against: float, goal: float | None) -> Case:
    """Seconds: how many times less ours takes, at least ``goal``."""
    ratio = against / ours
    return Case(f"{name}: times faster", ours, against, ratio, goal, None if goal is None else ratio >= goal)


def at_most(name: str, ours: float, against: float, goal: float | None) -> Case:
    """Something that costs: ours over the other, at most ``goal``."""
    ratio = ours / against
    return Case(f"{name}: ratio at most", ours, against, ratio, goal, None if goal is None else ratio <= goal)


def value_at_most(name: str, ours: float, goal: float | None, against: float | None = None) -> Case:
    """A figure of ours that is to be at most ``goal``, whatever the other is."""
    return Case(f"{name}: ours at most", ours, against, None, goal, None if goal is None else ours <= goal)


def value_at_least(name: str, ours: float, goal: float | None, against: float | None = None) -> Case:
    """A figure of ours that is to be at least ``goal``, whatever the other is."""
    return Case(f"{name}: ours at least", ours, against, None, goal, None if goal is None else ours >= goal)


def parser(description: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="sizes that show nothing but that the script works")
    found.add_argument("--device", default="cpu", help="cpu or cuda")
    found.add_argument("--threads", type=int, default=0, help="of the CPU; 0: what the libraries choose")
    found.add_argument("--repeats", type=int, default=repeats, help="rounds, in which the callables take turns")
    found.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no further round is begun")
    found.add_argument(
        "--processor-time", action="store_true", help="count seconds of the processor: for one thread on a busy machine"
    )
    return found


@dataclass(frozen=True)
class Turns:
    """How callables are timed: see ``interleaved``, whose arguments these are."""

    repeats: int
    until: float
    device: str
    clock: Callable[[], float]

    def __call__(self, callables: Mapping[str, Callable[[], object]], *, warm_up: bool = True) -> dict[str, float]:
        """Median seconds of each callable."""
        return interleaved(
            callables,
            repeats=self.repeats,
            until=self.until,
            device=self.device,
            clock=self.clock,
            warm_up=warm_up,
        )


def begin(options: argparse.Namespace) -> Turns:
    """Sets the number of threads of the libraries imported so far; the time begins."""
    if options.threads:
        torch.set_num_threads(options.threads)
        threadpool_limits(options.threads)
    return Turns(
        repeats=1 if options.quick else options.repeats,
        until=time.monotonic() + float(options.limit),
        device=options.device,
        clock=processor_seconds if options.processor_time else time.perf_counter,
    )


def processor_seconds() -> float:
    """What this process, and children of its that have ended, took of the processor."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    until: float,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, float]:
    """Median seconds of each callable; they take turns, so that a busy machine slows all of them.

    Args:
        callables: By name. Every other round runs through them backwards.
        repeats: Rounds; fewer, but one at least, where the next would not fit in the time.
        until: The end of that time, on ``time.monotonic``.
        device: Where they compute; a GPU is waited for.
        clock: In seconds.
        warm_up: Whether each is called once before.
    """
    if warm_up:
        for function in callables.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    longest = 0.0
    for number in range(repeats):
        begun = time.monotonic()
        if number and begun + longest > until:
            break
        for name in list(callables)[:: 1 if number % 2 == 0 else -1]:
            synchronize(device)
            start = clock()
            callables[name]()
            synchronize(device)
            seconds[name].append(clock() - start)
        longest = max(longest, time.monotonic() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: str) -> None:
    """Waits for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def report(cases: Iterable[Case], *, digits: int = 4) -> int:
    """Prints each case when it is there; returns the exit code, 1 where a goal is missed."""
    missed = False
    for case in cases:
        show(case, digits=digits)
        missed = missed or case.met is False
    return int(missed)


def show(case: Case, *, digits: int | None = None, **more: Any) -> None:
    """Prints one case as a line of JSON, its numbers rounded to so many digits, and what else is to stand in it."""
    line = {key: _rounded(value, digits) for key, value in asdict(case).items()}
    print(json.dumps({**line, **more}), flush=True)


def _rounded(value: object, digits: int | None) -> object:
    return float(f"{value:.{digits}g}") if digits is not None and isinstance(value, float) else value
