"""Kinds of files of encoded tensors: safetensors, whose metadata says what they are, and GGUF, whose types do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from sparq_sim.arrays import Array, normal_axis
from sparq_sim.formats import Format, Spec, find_element, formats
from sparq_sim.gguf import MAGIC, GgmlType, GgufFile, GgufPlanned, ggml_types, open_gguf, write_gguf
from sparq_sim.layouts import Layout, find_layout
from sparq_sim.packing import Packed
from sparq_sim.shards import Entry, Planned, Shard, open_shard, write_shard
from sparq_sim.stored import KEY, Other, Stored, metadata_of, planned_planes, records_in

#: ``general.quantization_version`` of GGUF files with blocks (GGML_QNT_VERSION).
_GGML_QUANTIZATION = 2


class File(Protocol):
    """A file of one kind, of which the header is read."""

    def contents(self) -> dict[str, Stored]:
        """The tensors that can be loaded."""

    def others(self) -> dict[str, Other]:
        """All others."""

    def planes(self, one: Stored) -> dict[str, Array]:
        """The bytes of a tensor by plane."""

    def refusal(self, one: Other) -> str:
        """Why another one is not loaded."""

    def shard(self) -> Shard:
        """All tensors as they lie in the file, by the types that it says."""


@dataclass(frozen=True)
class _SafetensorsFile:
    header: Shard

    def contents(self) -> dict[str, Stored]:
        path, metadata = self.header.path, self.header.metadata
        if KEY not in metadata:
            raise ValueError(f"{path}: holds no encoded tensors (its metadata has no {KEY!r})")
        found = records_in(metadata[KEY], path)
        for one in found.values():
            missing = [one.key(plane) for plane in one.planes if one.key(plane) not in self.header.entries]
            if missing:
                raise ValueError(f"{path}: tensor {one.name!r} has no {', '.join(missing)}")
        return found

    def others(self) -> dict[str, Other]:
        encoded = self.contents() if KEY in self.header.metadata else {}
        taken = {one.key(plane) for one in encoded.values() for plane in one.planes}
        return {
            name: Other(name, entry.dtype, entry.shape, entry.nbytes)
            for name, entry in self.header.entries.items()
            if name not in taken
        }

    def planes(self, one: Stored) -> dict[str, Array]:
        return {plane: self.header.bytes_of(one.key(plane)) for plane in one.planes}

    def refusal(self, one: Other) -> str:
        return f"is {one.type} that is not encoded"

    def shard(self) -> Shard:
        return self.header


def _write_safetensors(path: Path, packed: Mapping[str, Packed], metadata: Mapping[str, Any]) -> None:
    planned: dict[str, Planned] = {}
    data: dict[str, Array] = {}
    for name, one in packed.items():
        for plane, (key, kind) in planned_planes(name, one.spec, one.shape, one.layout).items():
            if key in planned:
                raise ValueError(f"{path}: two planes of the name {key!r}")
            planned[key], data[key] = kind, one.planes[plane]
    ours = metadata_of(packed)
    _require_free(path, metadata, ours)
    write_shard(path, planned, {**metadata, **ours}, data.items)


def _require_free(path: Path, metadata: Mapping[str, Any], ours: Collection[str]) -> None:
    """ValueError for metadata that the library writes."""
    taken = [key for key in metadata if key in ours]
    if taken:
        raise ValueError(f"{path}: metadata {', '.join(map(repr, taken))} is written by the library")


@dataclass(frozen=True)
class _GgufFile:
    header: GgufFile

    def contents(self) -> dict[str, Stored]:
        text = self.header.text(KEY)
        said = {} if text is None else records_in(text, self.header.path)
        found = {}
        for name, entry in self.header.entries.items():
            if entry.type.format:
                spec, layout = _spec_of(entry.type), find_layout(entry.type.layout)
                own = Stored(name, spec, entry.shape, "float32", "numpy", layout, ("elements",))
                # Who changes a tensor's type may leave our metadata as they were.
                found[name] = said[name] if name in said and _is_record_of(said[name], own) else own
        return found

    def others(self) -> dict[str, Other]:
        return {
            name: Other(name, entry.type.name, entry.shape, entry.nbytes)
            for name, entry in self.header.entries.items()
            if not entry.type.format
        }

    def planes(self, one: Stored) -> dict[str, Array]:
        return {"elements": self.header.bytes_of(one.name)}

    def refusal(self, one: Other) -> str:
        read = ", ".join(name for name, kind in ggml_types().items() if kind.format)
        return f"is of ggml's {one.type}; read are {read}"

    def shard(self) -> Shard:
        # Types of plain numbers have the same names in safetensors.
        entries = {
            name: Entry(one.type.name, one.shape, one.start, one.nbytes or 0)
            for name, one in self.header.entries.items()
        }
        return Shard(self.header.path, entries, {})


@lru_cache(maxsize=64)
def _spec_of(kind: GgmlType) -> Spec:
    """The format whose codes a type has, with the choices that the format starts from: a file does not say which its
    writer made."""
    known = formats()
    return Spec(known[kind.format] if kind.format in known else Format(kind.format, find_element(kind.format)))


def _is_record_of(record: Stored, own: Stored) -> bool:
    """Whether metadata say no more of a tensor than its type does, but for choices."""
    alike = (record.shape, record.layout, record.planes) == (own.shape, own.layout, own.planes)
    return alike and _is_held(record.spec, record.shape, own.spec)


def _is_held(spec: Spec, shape: tuple[int, ...], own: Spec) -> bool:
    """Whether tensors of `spec` are those of `own`, but for choices."""
    by_lines = not shape or normal_axis(spec.axis, len(shape)) == len(shape) - 1
    return by_lines and spec.sparsity is None and spec.format.block_format == own.format.block_format


def _ggml_type(spec: Spec, shape: tuple[int, ...], layout: Layout | None) -> GgmlType:
    """The type that holds a tensor; ValueError if none does."""
    for kind in ggml_types().values():
        fits = kind.format and _is_held(spec, shape, _spec_of(kind))
        if fits and (layout is None or layout == find_layout(kind.layout)):
            return kind
    held = ", ".join(f"{kind.format} in {kind.layout}" for kind in ggml_types().values() if kind.format)
    where = "" if layout is None else f" in {layout.name}"
    raise ValueError(f"GGUF has no type for {spec}{where}; it holds dense tensors along the last axis: {held}")


def _write_gguf(path: Path, packed: Mapping[str, Packed], metadata: Mapping[str, Any]) -> None:
    planned = {}
    for name, one in packed.items():
        try:
            planned[name] = GgufPlanned(_ggml_type(one.spec, one.shape, one.layout), one.shape)
        except ValueError as error:
            raise ValueError(f"{path}: {name!r}: {error}") from None
    ours: dict[str, str | int] = {**metadata_of(packed)}
    if any(one.type.block > 1 for one in planned.values()):
        ours["general.quantization_version"] = _GGML_QUANTIZATION
    _require_free(path, metadata, {*ours, "general.alignment"})
    write_gguf(
        path, planned, {**metadata, **ours}, lambda: ((name, one.planes["elements"]) for name, one in packed.items())
    )


@dataclass(frozen=True)
class Container:
    """A kind of file."""

    suffix: str
    magic: bytes
    """What it begins with; empty where that varies."""
    read: Callable[[Path], File]
    write: Callable[[Path, Mapping[str, Packed], Mapping[str, Any]], None]
    metadata: tuple[type, ...]
    """Types of metadata that it holds."""
    layout: Callable[[Spec, tuple[int, ...]], Layout]
    """Of a tensor for which none is asked."""


_CONTAINERS = (
    Container(
        ".safetensors",
        b"",
        lambda path: _SafetensorsFile(open_shard(path)),
        _write_safetensors,
        (str,),
        lambda spec, shape: find_layout("row_major"),
    ),
    Container(
        ".gguf",
        MAGIC,
        lambda path: _GgufFile(open_gguf(path)),
        _write_gguf,
        (str, int),
        lambda spec, shape: find_layout(_ggml_type(spec, shape, None).layout),
    ),
)


def container_to_write(path: Path) -> Container:
    """The kind of a file by its suffix; ValueError if there is none."""
    for one in _CONTAINERS:
        if one.suffix == path.suffix:
            return one
    raise ValueError(f"{path}: needed a file named {' or '.join('*' + one.suffix for one in _CONTAINERS)}")


def open_file(path: str | Path) -> File:
    """The header of a file, whose kind its suffix says, else its first bytes; else it is safetensors.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    path = Path(path)
    chosen = next((one for one in _CONTAINERS if one.suffix == path.suffix), None)
    if chosen is None:
        start = b""
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(max(len(one.magic) for one in _CONTAINERS))
        chosen = next((one for one in _CONTAINERS if one.magic and start.startswith(one.magic)), _CONTAINERS[0])
    return chosen.read(path)
