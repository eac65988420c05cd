"""Bytes of files: mapped and not read, or written as a whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparq_sim.arrays import Array

try:
    import fcntl
except ImportError:  # where there are no such locks
    fcntl = None  # type: ignore[assignment]

#: Bytes that are hashed, or copied, at a time.
_PIECE = 1 << 22


def require_file(path: Path) -> None:
    """ValueError if it is none; for a directory it says which files of tensors are in it."""
    if path.is_dir():
        files = sorted(one.name for one in path.iterdir() if one.suffix in (".safetensors", ".gguf"))
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        there = f": {', '.join(files[:3])}{more}" if files else ", and there are none"
        raise ValueError(f"{path}: is a directory; needed one of its safetensors or GGUF files{there}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")


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


def content_digest(path: Path) -> str:
    """Hex digits that differ where the contents of files do: SHA-256 of the SHA-256 of each piece of 4 MiB, which
    threads hash beside one another.

    Raises:
        ValueError: a file that cannot be read.
    """

    def hashed(start: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            left, state = _PIECE, hashlib.sha256()
            while left and (read := file.read(left)):
                state.update(read)
                left -= len(read)
        return state.digest()

    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
            pieces = workers.map(hashed, range(0, path.stat().st_size, _PIECE))
            return hashlib.sha256(b"".join(pieces)).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def stamp_of(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to, also where its size and time are kept.

    Raises:
        ValueError: a file that is gone.
    """
    try:
        said = path.stat()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    return said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns


def pieces_of(path: Path) -> Iterator[bytes]:
    """The content of a file, to be written to another; ValueError if it cannot be read."""
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def _lock(handle: int) -> bool | None:
    """Takes the lock of a file: whether it was free; None where the file system has none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_abandoned(path: Path) -> None:
    """Removes what processes that were killed left of writing a file. What others are writing is locked, and stays."""
    ours = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{16}")
    with contextlib.suppress(OSError):
        for left in [one.path for one in os.scandir(path.parent) if ours.fullmatch(one.name)]:
            with contextlib.suppress(OSError):
                handle = os.open(left, os.O_RDWR)
                try:
                    if _lock(handle):
                        os.unlink(left)
                finally:
                    os.close(handle)


def _open_beside(path: Path) -> tuple[int, int, Path]:
    """A new file in the directory of `path`, another handle that keeps it locked, and its name."""
    while True:
        made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        handle = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        # Another process may have taken it for abandoned before it was locked.
        if _lock(handle) is not False and made.exists():
            return handle, os.dup(handle), made
        os.close(handle)


def write_whole(path: Path, put: Callable[[BinaryIO], object]) -> None:
    """Has `put` write a file, which then appears as a whole or not at all. A new file has the mode that the umask
    leaves; one that is replaced keeps its own.

    The bytes go to a hidden file beside it, which is removed whatever happens; but if the process is killed, by the
    next that writes the same file, as far as the file system has locks.

    Raises:
        ValueError: what the system refuses: a directory that is none, a disk that is full, a file that is too large.
    """
    remove_abandoned(path)
    try:
        handle, lock, temporary = _open_beside(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot write there ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, path.stat().st_mode & 0o777)
            put(file)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from None
        raise
    finally:
        os.close(lock)
