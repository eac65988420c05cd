"""What the benchmarks share: a clock, races, and where a figure comes from."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


#: The rate of a copy that "of capped copy" counts at most, in elements per second, whatever their width.
COPY_CAP = 2.5e9


@dataclass(frozen=True)
class Copy:
    """A memory copy, of arrays like those of a contender."""

    call: Callable[[], Any]
    elements: int


@dataclass(frozen=True)
class Contender:
    """Something to time."""

    what: str
    by: str
    call: Callable[[], Any]
    elements: int
    copy: Copy
    on_one_thread: Callable[[], Any] | None = None
    """The same on one thread, of something that runs on more."""


@dataclass(frozen=True)
class Row:
    """Medians of one contender."""

    what: str
    by: str
    rate: float
    """G elements per second."""
    of_copy: float
    """Of the copy that ran just before, round by round."""
    of_capped_copy: float
    """Likewise, with a copy that is not faster than COPY_CAP."""
    of_one_thread: float | None
    """Of the same on one thread, which ran just before."""


def race(contenders: list[Contender], repeat: int) -> list[Row]:
    """Rounds over all contenders, each after a copy of its own: on a machine whose speed drifts, neighbours in time
    are what can be compared."""
    for one in contenders:
        one.call()
        one.call()
    rounds: list[list[tuple[float, float, float]]] = [[] for _ in contenders]
    for _ in range(repeat):
        for one, times in zip(contenders, rounds, strict=True):
            alone = seconds(one.on_one_thread) / one.elements if one.on_one_thread else 0.0
            copied = seconds(one.copy.call) / one.copy.elements
            times.append((seconds(one.call) / one.elements, copied, alone))
    return [
        Row(
            what=one.what,
            by=one.by,
            rate=1e-9 / statistics.median(took for took, _, _ in times),
            of_copy=statistics.median(copied / took for took, copied, _ in times),
            of_capped_copy=statistics.median(max(copied, 1 / COPY_CAP) / took for took, copied, _ in times),
            of_one_thread=statistics.median(alone / took for took, _, alone in times) if one.on_one_thread else None,
        )
        for one, times in zip(contenders, rounds, strict=True)
    ]


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def commit() -> str:
    """The short hash of the checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return found.stdout.strip() or "no git"
