"""GGUF files, the container of GGML: headers walked with every number checked, tensors mapped and not read."""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.disk import mapped, require_file, write_whole

MAGIC = b"GGUF"
#: Of the container; their headers are alike.
VERSIONS = (2, 3)
#: Where tensors begin, if ``general.alignment`` does not say.
ALIGNMENT = 32
#: Arrays in arrays of metadata. Those that are written have one level.
_MAX_DEPTH = 4
#: Axes of a tensor.
_MAX_AXES = 4
#: Tensors of a file: more than any model has, and few enough to be listed.
_MAX_TENSORS = 1 << 20
#: Of a tensor, and of one that has none, of its other axes.
_MAX_ELEMENTS = 1 << 48
#: Bytes of a key, or of a tensor's name.
_MAX_NAME = (1 << 16) - 1
#: Bytes of a tensor's name that GGML keeps (GGML_MAX_NAME without the end).
_WRITTEN_NAME = 63
#: Bytes of metadata values by their number; strings and arrays say their own.
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _TEXT, _ARRAY = 4, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class GgmlType:
    """A type of tensors, by its number in files."""

    number: int
    name: str
    block: int
    """Elements of a block, which lie in one line; 0: not known."""
    nbytes: int
    """Of a block."""
    layout: str = ""
    """Of ours, which holds it; empty: none does."""
    format: str = ""
    """Of ours, a block format or an element, whose codes it has."""
    dtype: str = ""
    """Of its elements, where they are plain numbers."""


_TYPES = {
    one.number: one
    for one in (
        GgmlType(0, "F32", 1, 4, "row_major", "fp32", "float32"),
        GgmlType(1, "F16", 1, 2, "row_major", "fp16", "float16"),
        GgmlType(2, "Q4_0", 32, 18, "gguf_q4_0", "q4_0"),
        GgmlType(3, "Q4_1", 32, 20),
        GgmlType(6, "Q5_0", 32, 22),
        GgmlType(7, "Q5_1", 32, 24),
        GgmlType(8, "Q8_0", 32, 34, "gguf_q8_0", "q8_0"),
        GgmlType(9, "Q8_1", 32, 36),
        GgmlType(10, "Q2_K", 256, 84),
        GgmlType(11, "Q3_K", 256, 110),
        GgmlType(12, "Q4_K", 256, 144),
        GgmlType(13, "Q5_K", 256, 176),
        GgmlType(14, "Q6_K", 256, 210),
        GgmlType(15, "Q8_K", 256, 292),
        GgmlType(16, "IQ2_XXS", 256, 66),
        GgmlType(17, "IQ2_XS", 256, 74),
        GgmlType(18, "IQ3_XXS", 256, 98),
        GgmlType(19, "IQ1_S", 256, 50),
        GgmlType(20, "IQ4_NL", 32, 18),
        GgmlType(21, "IQ3_S", 256, 110),
        GgmlType(22, "IQ2_S", 256, 82),
        GgmlType(23, "IQ4_XS", 256, 136),
        GgmlType(24, "I8", 1, 1, dtype="int8"),
        GgmlType(25, "I16", 1, 2, dtype="int16"),
        GgmlType(26, "I32", 1, 4, dtype="int32"),
        GgmlType(27, "I64", 1, 8, dtype="int64"),
        GgmlType(28, "F64", 1, 8, dtype="float64"),
        GgmlType(29, "IQ1_M", 256, 56),
        GgmlType(30, "BF16", 1, 2, "row_major", "bf16", "bfloat16"),
        GgmlType(34, "TQ1_0", 256, 54),
        GgmlType(35, "TQ2_0", 256, 66),
        GgmlType(39, "MXFP4", 32, 17, "gguf_mxfp4", "mxfp4"),
        GgmlType(40, "NVFP4", 64, 36, "gguf_nvfp4", "nvfp4_one_level"),
        GgmlType(41, "Q1_0", 128, 18),
    )
}


def ggml_types() -> dict[str, GgmlType]:
    """The types of tensors that are known, by name: how long their blocks are, and which of them have a format here.

    Source: enum ggml_type in ggml.h and the blocks in ggml-common.h (llama.cpp 004eaba), for NVFP4 and Q1_0 gguf 0.19.

    >>> from sparq_sim.gguf import ggml_types
    >>> [name for name, one in ggml_types().items() if one.format]
    ['F32', 'F16', 'Q4_0', 'Q8_0', 'BF16', 'MXFP4', 'NVFP4']
    """
    return {one.name: one for one in _TYPES.values()}


@dataclass(frozen=True)
class GgufEntry:
    """A tensor of a file: what its header says."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    """The innermost axis last, so the other way round than in the file."""
    start: int
    """Of its bytes, from the start of the file."""
    nbytes: int | None
    """None: of a type that is not known."""


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file."""

    path: Path
    version: int
    alignment: int
    entries: Mapping[str, GgufEntry]
    texts: Mapping[str, tuple[int, int]]
    """Strings of the metadata, not read: where they begin, and their bytes."""

    def bytes_of(self, name: str) -> Array:
        """The bytes of a tensor, mapped from the file, which the system begins to read.

        Raises:
            ValueError: a type whose size is not known.
        """
        entry = self.entries[name]
        if entry.nbytes is None:
            raise ValueError(f"{self.path}: tensor {name!r} is of {entry.type.name}, whose size is not known")
        return mapped(self.path, entry.start, entry.nbytes)

    def text(self, key: str) -> str | None:
        """A string of the metadata; None without one of that key.

        Raises:
            ValueError: bytes that are no UTF-8.
        """
        if key not in self.texts:
            return None
        try:
            return mapped(self.path, *self.texts[key]).tobytes().decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: {key!r} is no UTF-8") from None


def open_gguf(path: Path) -> GgufFile:
    """Reads the header of a GGUF file of version 2 or 3, little-endian. How much is looked at and kept depends on the
    file's size, not on what it claims.

    Args:
        path: of the file.

    Raises:
        ValueError: no such file, or one that is damaged, with the reason: other first bytes, another version or byte
            order, counts, lengths and offsets that lead out of the file, metadata of unknown types or arrays more than
            four deep, keys or names twice, an alignment that is no power of two from 8 on, more than four axes, lines
            that are no whole blocks, tensors that overlap or begin elsewhere than at a multiple of the alignment.

    Source: docs/gguf.md of ggml (01f0d4d); what that leaves open as gguf.cpp of llama.cpp (067d44f) has it.

    >>> import tempfile, numpy as np, sparq_sim as sq
    >>> from pathlib import Path
    >>> from sparq_sim.gguf import MAGIC, open_gguf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "none.gguf"
    ...     _ = path.write_bytes(MAGIC + (3).to_bytes(4, "little") + bytes(16))
    ...     open_gguf(path).entries
    {}
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
            if start != MAGIC:
                raise ValueError(f"it begins with {start!r}, not {MAGIC!r}")
            with contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
                return _Walk(data).header(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable GGUF file ({error})") from None


class _Walk:
    """The way through a header: integers do not overflow, and nothing is taken before it is known to be there."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0

    def header(self, path: Path) -> GgufFile:
        """All of it."""
        self._skip(len(MAGIC), "the magic number")
        version = self._number(4, "the version")
        if version and version % (1 << 16) == 0:
            raise ValueError("its version is that of a big-endian file; only little-endian ones are read")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise ValueError(f"version {version}; this library reads versions {known}")
        tensors = self._number(8, "the number of tensors")
        pairs = self._number(8, "the number of metadata keys")
        # The least that an entry takes: of metadata key, type and value; of tensors name, axes, type and offset.
        self._require_room(pairs, 8 + 1 + 4 + 1, "metadata keys")
        self._require_room(tensors, 8 + 4 + 4 + 8, "tensors")
        if tensors > _MAX_TENSORS:
            raise ValueError(f"{tensors} tensors; needed no more than {_MAX_TENSORS}")
        texts, alignment = self._metadata(pairs)
        said = [self._tensor(number) for number in range(tensors)]
        base = -(-self._at // alignment) * alignment
        entries: dict[str, GgufEntry] = {}
        for name, kind, shape, offset in said:
            if name in entries:
                raise ValueError(f"two tensors of the name {name!r}")
            entries[name] = self._entry(name, kind, shape, offset, base, alignment)
        _require_apart(entries)
        return GgufFile(path, version, alignment, entries, texts)

    def _left(self) -> int:
        return self._size - self._at

    def _require_room(self, count: int, least: int, what: str) -> None:
        if count > self._left() // least:
            raise ValueError(f"{count} {what}, for which its {self._size} bytes have no room")

    def _skip(self, count: int, what: str) -> int:
        """Goes over bytes; where they begin."""
        if count > self._left():
            raise ValueError(f"ends inside {what}: {count} bytes needed at {self._at} of {self._size}")
        start = self._at
        self._at += count
        return start

    def _bytes(self, count: int, what: str) -> bytes:
        start = self._skip(count, what)
        return self._data[start : self._at]

    def _number(self, width: int, what: str) -> int:
        return int.from_bytes(self._bytes(width, what), "little")

    def _name(self, what: str) -> str:
        length = self._number(8, what)
        if length > _MAX_NAME:
            raise ValueError(f"{what} of {length} bytes; needed no more than {_MAX_NAME}")
        raw = self._bytes(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} {raw[:64]!r} is no UTF-8") from None

    def _metadata(self, pairs: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Strings by their keys, and the alignment."""
        keys: set[str] = set()
        texts: dict[str, tuple[int, int]] = {}
        alignment = ALIGNMENT
        for _ in range(pairs):
            key = self._name("a key of the metadata")
            if not key or key in keys:
                raise ValueError(f"two metadata keys {key!r}" if key else "a metadata key without a name")
            keys.add(key)
            kind = self._number(4, f"the type of {key!r}")
            start = self._at
            self._skip_value(kind, key, 0)
            if kind == _TEXT:
                texts[key] = (start + 8, self._at - start - 8)
            if key == "general.alignment":
                if kind != _UINT32:
                    raise ValueError(f"{key} is of type {kind}; needed {_UINT32}, a 32-bit unsigned integer")
                alignment = int.from_bytes(self._data[start : start + 4], "little")
                if alignment < 8 or alignment & (alignment - 1):
                    raise ValueError(f"{key} {alignment}; needed a power of two from 8 on")
        return texts, alignment

    def _skip_value(self, kind: int, key: str, depth: int) -> None:
        width = _WIDTHS.get(kind)
        if width is not None:
            self._skip(width, key)
        elif kind == _TEXT:
            self._skip(self._number(8, key), key)
        elif kind == _ARRAY:
            self._skip_array(key, depth)
        else:
            raise ValueError(f"{key!r} is of type {kind}, which metadata does not have")

    def _skip_array(self, key: str, depth: int) -> None:
        if depth == _MAX_DEPTH:
            raise ValueError(f"{key!r} has arrays more than {_MAX_DEPTH} deep")
        kind = self._number(4, key)
        count = self._number(8, key)
        width = _WIDTHS.get(kind)
        if width is not None:
            self._skip(count * width, key)
            return
        if kind not in (_TEXT, _ARRAY):
            raise ValueError(f"{key!r} is an array of type {kind}, which metadata does not have")
        self._require_room(count, 8 if kind == _TEXT else 4 + 8, f"items of {key!r}")
        if kind == _TEXT:
            self._skip_texts(count, key)
            return
        for _ in range(count):
            self._skip_array(key, depth + 1)

    def _skip_texts(self, count: int, key: str) -> None:
        """Vocabularies have hundreds of thousands."""
        data, at, end = self._data, self._at, self._size - 8
        for _ in range(count):
            if at > end:
                break
            at += 8 + _U64.unpack_from(data, at)[0]
        else:
            if at <= self._size:
                self._at = at
                return
        raise ValueError(f"ends inside {key}, an array of {count} strings that would lead beyond byte {self._size}")

    def _tensor(self, number: int) -> tuple[str, int, tuple[int, ...], int]:
        """Name, type, shape and offset as the file has them."""
        name = self._name(f"the name of tensor {number}")
        axes = self._number(4, f"the number of axes of {name!r}")
        if axes > _MAX_AXES:
            raise ValueError(f"tensor {name!r} has {axes} axes; needed no more than {_MAX_AXES}")
        shape = tuple(self._number(8, f"the shape of {name!r}") for _ in range(axes))[::-1]
        kind = self._number(4, f"the type of {name!r}")
        return name, kind, shape, self._number(8, f"the offset of {name!r}")

    def _entry(
        self, name: str, number: int, shape: tuple[int, ...], offset: int, base: int, alignment: int
    ) -> GgufEntry:
        kind = _TYPES.get(number, GgmlType(number, f"type {number}", 0, 0))
        # An axis of no elements does not excuse what the others say.
        if math.prod(max(1, extent) for extent in shape) >= _MAX_ELEMENTS:
            raise ValueError(f"tensor {name!r} of shape {shape} has more elements than 48 bits count")
        nbytes = None
        if kind.block:
            line = shape[-1] if shape else 1
            if line % kind.block:
                raise ValueError(
                    f"tensor {name!r} has lines of {line} elements; {kind.name} needs whole blocks of {kind.block}"
                )
            nbytes = math.prod(shape) // kind.block * kind.nbytes
        if offset % alignment:
            raise ValueError(f"tensor {name!r} at offset {offset}, which is no multiple of {alignment}")
        start = base + offset
        if start + (nbytes or 0) > self._size:
            raise ValueError(
                f"tensor {name!r} needs bytes {start} to {start + (nbytes or 0)}, and the file has {self._size}"
            )
        return GgufEntry(name, kind, shape, start, nbytes)


@dataclass(frozen=True)
class GgufPlanned:
    """A tensor of a file to be written."""

    type: GgmlType
    shape: tuple[int, ...]
    """The innermost axis last."""

    @property
    def nbytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) // self.type.block * self.type.nbytes


def write_gguf(
    path: Path,
    planned: Mapping[str, GgufPlanned],
    metadata: Mapping[str, str | int],
    produce: Callable[[], Iterable[tuple[str, Array]]],
) -> None:
    """Writes a GGUF file of version 3, which appears as a whole or not at all.

    Args:
        path: of the file.
        planned: what the file will hold, in its order.
        metadata: strings, and integers as uint32.
        produce: gives each tensor's name and bytes, in the same order.

    Raises:
        ValueError: names that GGML does not read back (64 bytes and more), more than four axes, keys that are no ASCII
            or empty, numbers that are no uint32, or a directory that cannot be written.
    """
    said = [MAGIC, _U32.pack(VERSIONS[-1]), _U64.pack(len(planned)), _U64.pack(len(metadata))]
    for key, value in metadata.items():
        if not key or not key.isascii() or len(key) > _MAX_NAME:
            raise ValueError(f"{path}: metadata key {key!r}; needed one of 1 to {_MAX_NAME} ASCII characters")
        if isinstance(value, str):
            said += [_text(key), _U32.pack(_TEXT), _text(value)]
        elif 0 <= value < 1 << 32:
            said += [_text(key), _U32.pack(_UINT32), _U32.pack(value)]
        else:
            raise ValueError(f"{path}: metadata {key!r} is {value}; needed an integer of 32 bits")
    at = 0
    for name, one in planned.items():
        if len(name.encode()) > _WRITTEN_NAME:
            raise ValueError(
                f"{path}: tensor {name!r} has a name of more than {_WRITTEN_NAME} bytes, which GGML refuses"
            )
        if len(one.shape) > _MAX_AXES:
            raise ValueError(f"{path}: tensor {name!r} has {len(one.shape)} axes; GGUF has no more than {_MAX_AXES}")
        said += [_text(name), _U32.pack(len(one.shape)), *map(_U64.pack, one.shape[::-1])]
        said += [_U32.pack(one.type.number), _U64.pack(at)]
        at += one.nbytes + -one.nbytes % ALIGNMENT
    header = b"".join(said)

    def put(file: BinaryIO) -> None:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        expected = iter(planned.items())
        for name, data in produce():
            wanted, one = next(expected)
            if name != wanted or data.nbytes != one.nbytes:
                raise RuntimeError(f"{name}: {data.nbytes} bytes where {wanted} needs {one.nbytes}")
            file.write(np.ascontiguousarray(data).data)
            file.write(bytes(-one.nbytes % ALIGNMENT))
        if next(expected, None) is not None:
            raise RuntimeError("fewer tensors than were planned")

    write_whole(path, put)


def _text(value: str) -> bytes:
    raw = value.encode()
    return _U64.pack(len(raw)) + raw


def _require_apart(entries: Mapping[str, GgufEntry]) -> None:
    end, before = 0, ""
    for one in sorted(entries.values(), key=lambda entry: (entry.start, entry.nbytes or 0)):
        if one.start < end:
            raise ValueError(f"tensors {before!r} and {one.name!r} overlap")
        if one.start + (one.nbytes or 0) > end:
            end, before = one.start + (one.nbytes or 0), one.name
