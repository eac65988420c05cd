"""Bytes of files: mapped and not read, or written as a whole or not at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparq_sim.arrays import Array


def mapped(path: Path, start: int, nbytes: int, *, ahead: bool = True) -> Array:
    """Bytes of a file, uint8, mapped from it.

    Args:
        ahead: the system begins to read them.

    Raises:
        ValueError: a file that cannot be read, or has become too short.
    """
    if not nbytes:
        return np.zeros(0, np.uint8)
    beside = start % mmap.ALLOCATIONGRANULARITY
    try:
        with path.open("rb") as file:
            made = mmap.mmap(file.fileno(), beside + nbytes, access=mmap.ACCESS_READ, offset=start - beside)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if ahead and hasattr(mmap, "MADV_WILLNEED"):
        made.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(made, np.uint8, nbytes, beside)


def write_whole(path: Path, put: Callable[[BinaryIO], object]) -> None:
    """Has `put` write a file, which then appears as a whole or not at all; ValueError if the directory refuses."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ValueError(f"{path}: cannot write there ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            put(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
