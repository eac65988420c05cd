"""Files of encoded tensors: safetensors with the packed bytes, and in the metadata all that reading them needs; and
GGUF, whose types say it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from sparq_sim.arrays import FLOATS, Array
from sparq_sim.formats import Format, Spec, elements, find_element, formats, record_digest
from sparq_sim.gguf import MAGIC, GgmlType, GgufFile, ggml_types, open_gguf
from sparq_sim.layouts import Layout, Plane, find_layout
from sparq_sim.packing import Packed, plan, unpack
from sparq_sim.shards import DTYPE_BITS, Planned, Shard, open_shard, write_shard
from sparq_sim.tensor import BlockTensor

#: Version of the metadata that `save` writes; others are refused.
STORE_VERSION = 1
_KEY = "sparq_storage"


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, not read yet."""

    name: str
    spec: Spec
    shape: tuple[int, ...]
    dtype: str
    library: str
    layout: Layout
    planes: tuple[str, ...]

    def key(self, plane: str) -> str:
        """The name of a plane in the file."""
        return plane_key(self.name, self.layout, plane)


@dataclass(frozen=True)
class Other:
    """A tensor of a file that `load` does not read."""

    name: str
    type: str
    """As files of that kind call it: ``F32``, ``Q4_K``."""
    shape: tuple[int, ...]
    nbytes: int | None
    """None: of a type whose size is not known."""


def _kind(layout: Layout, plane: str) -> str:
    """What a layout that names planes calls the scales of a level."""
    if "outer" in layout.names:
        return {"scales0": "outer", "scales1": "scales"}.get(plane, plane)
    return plane


def plane_key(name: str, layout: Layout, plane: str) -> str:
    """The name of a plane of a tensor in a file: ``NAME.plane``, or as the layout's makers name it, where names that
    begin with ``weight`` take the place of that word."""
    kind = _kind(layout, plane)
    if kind not in layout.names:
        return f"{name}.{plane}"
    own = layout.names[kind][0]
    if own.startswith("weight_") and name.rpartition(".")[2] == "weight":
        return name[: -len("weight")] + own
    return f"{name}.{own}"


def planned_planes(name: str, spec: Spec, shape: tuple[int, ...], layout: Layout) -> dict[str, tuple[str, Planned]]:
    """What a file holds of a tensor before anything is encoded: key, dtype and shape by plane."""
    made, found = plan(spec, shape, layout), {}
    for plane, extents in made.plane_shapes().items():
        dtype = layout.names.get(_kind(layout, plane), ("", "U8"))[1] or _element_dtype(spec.format)
        extents = (*extents[:-1], extents[-1] * 8 // DTYPE_BITS[dtype])
        if layout.by_block and plane == "elements" and spec.format.main is not None:
            blocks = spec.format.main.blocks_per_line(made.length)
            extents = (*extents[:-1], blocks, extents[-1] // max(1, blocks))
        if _kind(layout, plane) == "outer":
            extents = (1,)
        found[plane] = (plane_key(name, layout, plane), Planned(dtype, extents))
    return found


def _element_dtype(format: Format) -> str:
    """Of codes that are stored whole, as safetensors names them."""
    known = {
        "bf16": "BF16", "fp16": "F16", "e4m3": "F8_E4M3", "e5m2": "F8_E5M2", "int8": "I8", "mxint8_element": "I8"
    }  # fmt: skip
    return next((known[n] for n, e in elements().items() if e.record == format.element and n in known), "U8")


def _layout_record(layout: Layout) -> dict[str, Any]:
    record = asdict(layout)
    record["names"] = {kind: list(name) for kind, name in layout.names.items()}
    return record


def _plane_of(record: Any) -> Plane | None:
    if record is None:
        return None
    slices = tuple((int(low), int(bits)) for low, bits in record["slices"])
    return Plane(**{**record, "slices": slices})


def _layout_of(record: Any) -> Layout:
    """A layout as `_layout_record` wrote it; TypeError or ValueError for anything else."""
    planes = {kind: _plane_of(record[kind]) for kind in ("elements", "scales", "positions")}
    tuples = {name: tuple(record[name]) for name in ("sequence", "formats", "code_bits", "patterns", "multiple")}
    names = {kind: (str(name), str(dtype)) for kind, (name, dtype) in record["names"].items()}
    made = Layout(**{**record, **planes, **tuples, "names": names})
    numbers = [made.chunk, *made.multiple, *made.code_bits]
    for plane in (made.elements, made.scales, made.positions):
        if plane is not None:
            numbers += [plane.container_bits, plane.shift, plane.run, plane.run_bytes, plane.offset, plane.word_bytes]
    if not all(isinstance(n, int) and not isinstance(n, bool) and abs(n) < 2**31 for n in numbers):
        raise TypeError("a number of the layout is none")
    return made


def _record(packed: Packed | Stored) -> dict[str, Any]:
    return {
        "spec": json.loads(packed.spec.to_json()),
        "digest": packed.spec.digest,
        "shape": list(packed.shape),
        "dtype": packed.dtype,
        "library": packed.library,
        "layout": _layout_record(packed.layout),
        "planes": list(packed.planes),
    }


def metadata_of(tensors: Mapping[str, Packed | Stored]) -> dict[str, str]:
    """What a file says of its tensors, as safetensors metadata."""
    records = {name: _record(packed) for name, packed in tensors.items()}
    return {_KEY: json.dumps({"version": STORE_VERSION, "tensors": records}, sort_keys=True)}


def save(
    path: str | Path,
    tensors: Mapping[str, BlockTensor | Packed],
    *,
    layout: str | Layout = "row_major",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes encoded tensors to a safetensors file, which appears as a whole or not at all.

    Args:
        path: of the file, ``*.safetensors``.
        tensors: by name; those that are packed keep their layout.
        layout: of the others.
        metadata: more of it.

    Raises:
        ValueError: a layout that does not hold a tensor, or a directory that cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: needed a file named *.safetensors")
    packed = {name: one if isinstance(one, Packed) else one.pack(layout) for name, one in tensors.items()}
    planned: dict[str, Planned] = {}
    data: dict[str, Array] = {}
    for name, one in packed.items():
        for plane, (key, kind) in planned_planes(name, one.spec, one.shape, one.layout).items():
            if key in planned:
                raise ValueError(f"{path}: two planes of the name {key!r}")
            planned[key], data[key] = kind, one.planes[plane]
    write_shard(path, planned, {**(metadata or {}), **metadata_of(packed)}, data.items)


def _contents(shard: Shard) -> dict[str, Stored]:
    path, metadata, keys = shard.path, shard.metadata, shard.entries
    if _KEY not in metadata:
        raise ValueError(f"{path}: holds no encoded tensors (its metadata has no {_KEY!r})")
    try:
        said = json.loads(metadata[_KEY])
        version = said["version"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: metadata that is damaged") from None
    if version != STORE_VERSION:
        raise ValueError(f"{path}: version {version!r} of encoded tensors; this library reads version {STORE_VERSION}")
    try:
        found = {name: _stored(name, record) for name, record in said["tensors"].items()}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: metadata that is damaged ({error})") from None
    for one in found.values():
        missing = [one.key(plane) for plane in one.planes if one.key(plane) not in keys]
        if missing:
            raise ValueError(f"{path}: tensor {one.name!r} has no {', '.join(missing)}")
    return found


def _stored(name: str, record: Any) -> Stored:
    spec_record = {field: value for field, value in record["spec"].items() if field != "evidence"}
    if record["digest"] != record_digest(spec_record):
        raise ValueError(f"the spec of {name!r} is not that of its digest")
    shape = record["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 32:
        raise ValueError(f"shape {shape!r}")
    if record["dtype"] not in FLOATS or record["library"] not in ("numpy", "torch"):
        raise ValueError(f"dtype {record['dtype']!r} of {record['library']!r}")
    planes = record["planes"]
    if not isinstance(planes, list) or not all(isinstance(plane, str) for plane in planes):
        raise ValueError(f"planes {planes!r}")
    spec = Spec.from_json(json.dumps(record["spec"]))
    return Stored(
        name, spec, tuple(shape), record["dtype"], record["library"], _layout_of(record["layout"]), tuple(planes)
    )


class _File(Protocol):
    """A file of one kind, of which the header is read."""

    def contents(self) -> dict[str, Stored]:
        """The tensors that can be loaded."""

    def others(self) -> dict[str, Other]:
        """All others."""

    def planes(self, one: Stored) -> dict[str, Array]:
        """The bytes of a tensor by plane."""

    def refusal(self, one: Other) -> str:
        """Why another one is not loaded."""


@dataclass(frozen=True)
class _SafetensorsFile:
    shard: Shard

    def contents(self) -> dict[str, Stored]:
        return _contents(self.shard)

    def others(self) -> dict[str, Other]:
        encoded = self.contents() if _KEY in self.shard.metadata else {}
        taken = {one.key(plane) for one in encoded.values() for plane in one.planes}
        return {
            name: Other(name, entry.dtype, entry.shape, entry.nbytes)
            for name, entry in self.shard.entries.items()
            if name not in taken
        }

    def planes(self, one: Stored) -> dict[str, Array]:
        return {plane: self.shard.bytes_of(one.key(plane)) for plane in one.planes}

    def refusal(self, one: Other) -> str:
        return f"is {one.type} that is not encoded"


@dataclass(frozen=True)
class _GgufFile:
    header: GgufFile

    def contents(self) -> dict[str, Stored]:
        found = {}
        for name, entry in self.header.entries.items():
            if entry.type.format:
                spec, layout = _spec_of(entry.type), find_layout(entry.type.layout)
                found[name] = Stored(name, spec, entry.shape, "float32", "numpy", layout, ("elements",))
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


@lru_cache(maxsize=64)
def _spec_of(kind: GgmlType) -> Spec:
    """The format whose codes a type has, with the choices that the format starts from: a file does not say which its
    writer made."""
    known = formats()
    return Spec(known[kind.format] if kind.format in known else Format(kind.format, find_element(kind.format)))


@dataclass(frozen=True)
class _Container:
    """A kind of file."""

    suffix: str
    magic: bytes
    """What it begins with; empty where that varies."""
    read: Callable[[Path], _File]


_CONTAINERS = (
    _Container(".safetensors", b"", lambda path: _SafetensorsFile(open_shard(path))),
    _Container(".gguf", MAGIC, lambda path: _GgufFile(open_gguf(path))),
)


def _open(path: str | Path) -> _File:
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


def contents(path: str | Path) -> dict[str, Stored]:
    """What a file holds that `load` reads, by name; reads its header only. Of a safetensors file that is what `save`
    wrote; of a GGUF file every tensor of a type that has a format here: F32, F16, BF16, Q4_0, Q8_0, MXFP4, NVFP4.

    Raises:
        ValueError: no such file, a damaged one, a safetensors file that `save` did not write, or one of an unknown
            version.

    >>> import tempfile, numpy as np, sparq_sim as sq
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sq.encode(np.ones((2, 32), np.float32), "mxfp4").save(f"{folder}/one.safetensors", name="w")
    ...     {name: (one.shape, one.layout.name) for name, one in sq.contents(f"{folder}/one.safetensors").items()}
    {'w': ((2, 32), 'row_major')}
    """
    return _open(path).contents()


def others(path: str | Path) -> dict[str, Other]:
    """What else a file holds, by name, with the type that the file says: tensors of a safetensors file that are not
    encoded, and those of a GGUF file that are of other types (``Q4_K``); reads its header only.

    Raises:
        ValueError: no such file, a damaged one, or one of an unknown version.

    >>> import tempfile, numpy as np, safetensors.numpy, sparq_sim as sq
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     safetensors.numpy.save_file({"bias": np.ones(3, np.float32)}, f"{folder}/plain.safetensors")
    ...     sq.others(f"{folder}/plain.safetensors")
    {'bias': Other(name='bias', type='F32', shape=(3,), nbytes=12)}
    """
    return _open(path).others()


def load(path: str | Path, name: str | None = None, *, threads: int | None = None) -> BlockTensor:
    """A tensor of a file that `save` or `BlockTensor.save` wrote, or of a GGUF file; of many, only its own bytes are
    read.

    GGUF does not say how codes were chosen: the spec is that of the format alone. `BlockTensor.decode` gives the
    numbers that GGML computes from those blocks, bit for bit but for what docs/numerics.md section 15 lists.

    Args:
        path: of the file.
        name: of the tensor; may be left out where there is one.
        threads: threads to use; default by size.

    Raises:
        ValueError: no such file or tensor, several without a name, a tensor of a type that has no format here, or a
            file that is damaged or of an unknown version.

    >>> import tempfile, numpy as np, sparq_sim as sq
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sq.encode(np.float32([1.3, -6]), "mxfp4").save(f"{folder}/one.safetensors")
    ...     sq.load(f"{folder}/one.safetensors").decode()
    array([ 1.5, -6. ], dtype=float32)
    """
    packed = load_packed(path, name)
    try:
        return unpack(packed, threads=threads)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def load_packed(path: str | Path, name: str | None = None) -> Packed:
    """Like `load`, the bytes as they lie in the file."""
    file = _open(path)
    found = file.contents()
    if name is None:
        if len(found) != 1:
            raise ValueError(f"{path}: {len(found)} tensors; name one of {', '.join(map(repr, found)) or 'none'}")
        name = next(iter(found))
    if name not in found:
        other = file.others().get(name)
        if other is not None:
            raise ValueError(f"{path}: tensor {name!r} {file.refusal(other)}")
        raise ValueError(f"{path}: no tensor {name!r}; there are: {', '.join(map(repr, found)) or 'none'}")
    one = found[name]
    return Packed(file.planes(one), one.layout, one.spec, one.shape, one.dtype, one.library)
