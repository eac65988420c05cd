"""GGUF files written byte by byte (docs/gguf.md of ggml), so that any field can be wrong.

Imports nothing of the library.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return u64(len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + u32(kind) + value


def array(kind: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    return u32(kind) + u64(len(items) if count is None else count) + b"".join(items)


def nested(depth: int) -> bytes:
    """An array of one array of … of one byte."""
    return array(0, [b"\x07"]) if depth == 1 else array(9, [nested(depth - 1)])


@dataclass
class Tensor:
    name: str | bytes
    dims: Sequence[int]  # the innermost first
    kind: int
    data: bytes = b""
    offset: int | None = None
    axes: int | None = None

    def info(self, offset: int) -> bytes:
        axes = len(self.dims) if self.axes is None else self.axes
        said = offset if self.offset is None else self.offset
        return text(self.name) + u32(axes) + b"".join(map(u64, self.dims)) + u32(self.kind) + u64(said)


def header(pairs: Sequence[bytes], infos: Sequence[bytes], version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(len(infos)) + u64(len(pairs)) + b"".join(pairs) + b"".join(infos)


def gguf(pairs: Sequence[bytes] = (), tensors: Sequence[Tensor] = (), version: int = 3, alignment: int = 32) -> bytes:
    """A whole file; a tensor's own offset is said in place of where its data lies."""
    infos, data = [], b""
    for tensor in tensors:
        infos.append(tensor.info(len(data)))
        data += tensor.data + bytes(-len(tensor.data) % alignment)
    start = header(pairs, infos, version)
    return start + bytes(-len(start) % alignment) + data
