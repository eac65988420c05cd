"""Safetensors files tensor by tensor: raw bytes of any dtype, mapped and not read; and files written piece by piece."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
from safetensors import SafetensorError

from sparq_sim.arrays import Array
from sparq_sim.disk import mapped, require_file, write_whole

#: Bits of an element, by safetensors' names.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
#: Names of the files of checkpoints that say which shard holds a tensor.
INDEXES = "*.safetensors.index*.json"
#: Bytes of a header that readers take (MAX_HEADER_SIZE of safetensors).
_MAX_HEADER = 100_000_000
#: Bytes that are copied at a time.
_PIECE = 1 << 24


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: what its header says."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its bytes, from the start of the file."""
    nbytes: int

    @property
    def float_name(self) -> str | None:
        """The name of a float dtype that can be quantized, else None."""
        return _FLOATS.get(self.dtype)


@dataclass(frozen=True)
class Shard:
    """The header of a safetensors file, or of another whose tensors are to go into one."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    def bytes_of(self, name: str) -> Array:
        """The bytes of a tensor, mapped from the file, which the system begins to read."""
        entry = self.entries[name]
        return mapped(self.path, entry.start, entry.nbytes)


def open_shard(path: Path) -> Shard:
    """Reads a header, which safetensors checks first.

    Raises:
        ValueError: no such file, or one that is damaged.
    """
    require_file(path)
    try:
        with safetensors.safe_open(path, "np") as file:
            names = set(file.keys())
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length))
        metadata = header.pop("__metadata__", None) or {}
        entries = {name: _entry(said, 8 + length) for name, said in header.items()}
        if set(entries) != names:
            raise ValueError("names that the header says twice")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    return Shard(path, entries, metadata)


def _entry(said: Mapping[str, Any], base: int) -> Entry:
    dtype = said["dtype"]
    if dtype not in DTYPE_BITS:
        raise ValueError(f"dtype {dtype!r}")
    start, end = said["data_offsets"]
    return Entry(dtype, tuple(said["shape"]), base + start, end - start)


@dataclass(frozen=True)
class Index:
    """The file of a checkpoint that says which shard holds a tensor."""

    path: Path
    weight_map: Mapping[str, str]

    def require(self, held: Mapping[str, Collection[str]]) -> None:
        """ValueError if a shard or a tensor is missing; `held` are the tensors of each shard that is there."""
        for name, shard in self.weight_map.items():
            if shard not in held:
                raise ValueError(f"{self.path}: names {shard}, which is not there")
            if name not in held[shard]:
                raise ValueError(f"{self.path}: names tensor {name!r}, which {shard} does not hold")


def find_index(folder: Path) -> Index | None:
    """The index of a directory of shards, if it has one.

    Raises:
        ValueError: several, or one that cannot be read.
    """
    paths = sorted(folder.glob(INDEXES))
    if len(paths) > 1:
        raise ValueError(f"{paths[1]}: is an index beside {paths[0].name}; needed one")
    if not paths:
        return None
    try:
        said = json.loads(paths[0].read_bytes())["weight_map"]
        if not all(isinstance(shard, str) for shard in said.values()):
            raise TypeError("names of shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{paths[0]}: is no index of shards that can be read (needed a JSON weight_map)") from None
    return Index(paths[0], said)


@dataclass(frozen=True)
class Planned:
    """A tensor of a file to be written."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def write_shard(
    path: Path,
    planned: Mapping[str, Planned],
    metadata: Mapping[str, str],
    produce: Callable[[], Iterable[tuple[str, Array]]],
) -> None:
    """Writes a safetensors file, which appears as a whole or not at all; no more than one tensor is held.

    Args:
        planned: what the file will hold, in its order.
        produce: gives each tensor's name and bytes, in the same order.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, one in planned.items():
        header[name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [at, at + one.nbytes]}
        at += one.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"{path}: a header of {len(text)} bytes; safetensors reads no more than {_MAX_HEADER}")

    def put(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        expected = iter(planned.items())
        for name, data in produce():
            wanted, one = next(expected)
            flat = data.reshape(-1).view(np.uint8)
            if name != wanted or flat.size != one.nbytes:
                raise RuntimeError(f"{name}: {flat.size} bytes where {wanted} needs {one.nbytes}")
            for start in range(0, flat.size, _PIECE):
                file.write(np.ascontiguousarray(flat[start : start + _PIECE]).data)
        if next(expected, None) is not None:
            raise RuntimeError("fewer tensors than were planned")

    write_whole(path, put)
