"""What files say of encoded tensors: names of planes, and records that all reading needs."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sparq_sim.arrays import FLOATS
from sparq_sim.formats import Format, Spec, elements, record_digest
from sparq_sim.layouts import Layout
from sparq_sim.packing import Packed, plan
from sparq_sim.shards import DTYPE_BITS, Planned

#: Version of the metadata that `save` writes; others are refused.
STORE_VERSION = 1
#: Of that metadata.
KEY = "sparq_storage"


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
        """The name of a plane in a safetensors file."""
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


def _layout_of(record: Any) -> Layout:
    """A layout as `_layout_record` wrote it; KeyError, TypeError or ValueError for anything else."""
    made: Layout = _read(Layout, record)
    for plane in (made.elements, made.scales, made.positions):
        for low, bits in () if plane is None else plane.slices:
            if low < 0 or bits < 1 or low + bits > 64:
                raise ValueError(f"slices of bits {low} to {low + bits - 1}")
    return made


def _read(kind: Any, value: Any) -> Any:
    """What JSON says of a thing whose fields have types; nothing is converted."""
    if get_origin(kind) is UnionType:
        return None if value is None else _read(get_args(kind)[0], value)
    if is_dataclass(kind):
        known = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: _read(known[name], said) for name, said in _of_type(value, dict).items()})  # type: ignore[operator]
    if get_origin(kind) is Mapping:
        return {name: _read(get_args(kind)[1], said) for name, said in _of_type(value, dict).items()}
    if get_origin(kind) is tuple:
        parts, said = get_args(kind), _of_type(value, list)
        return tuple(_read(part, one) for part, one in zip(_repeated(parts, len(said)), said, strict=True))
    if kind is int and abs(_of_type(value, int)) >= 2**31:
        raise ValueError(f"number {value}")
    return _of_type(value, kind)


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _repeated(parts: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return parts[:1] * count if parts[-1] is ... else parts


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{reprlib.repr(value)} where a {kind.__name__} was needed")
    return value


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
    return {KEY: json.dumps({"version": STORE_VERSION, "tensors": records}, sort_keys=True)}


def records_in(text: str, path: Path) -> dict[str, Stored]:
    """The tensors that metadata speaks of.

    Raises:
        ValueError: metadata that is damaged, or of an unknown version.
    """
    try:
        said = json.loads(text)
        version = said["version"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: metadata that is damaged") from None
    if type(version) is not int or version != STORE_VERSION:
        raise ValueError(f"{path}: version {version!r} of encoded tensors; this library reads version {STORE_VERSION}")
    try:
        return {name: _stored(name, record) for name, record in said["tensors"].items()}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: metadata that is damaged ({error})") from None


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
