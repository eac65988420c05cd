"""Tensor files for the command line: npy, npz and safetensors, read whole and written atomically; GGUF, mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors import SafetensorError, TensorSpec

from sparq_sim.arrays import Array, Source, source
from sparq_sim.disk import mapped, require_file, write_whole
from sparq_sim.gguf import open_gguf

SUFFIXES = (".npy", ".npz", ".safetensors")
#: Of files that are only read.
READ_ONLY = (".gguf",)

_SAFETENSORS = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A tensor of a file: 16-bit brain floats as ``uint16`` bits. One of a type that is no array of plain numbers
    (``Q4_K``) has that for its dtype, and no elements."""

    array: Array
    dtype: str

    @property
    def is_plain(self) -> bool:
        """Whether it is an array of plain numbers."""
        return self.dtype == "bfloat16" or self.array.dtype.name == self.dtype

    def source(self) -> Source:
        """A float tensor as the library takes it in."""
        if self.dtype != "bfloat16":
            return source(self.array, "x")
        bits = source(self.array.view(np.float16), "x")  # another type of the same width
        return replace(bits, dtype="bfloat16")


def require_suffix(path: Path, known: tuple[str, ...] = SUFFIXES) -> str:
    """The suffix of a file; ValueError if it is none of those, by default of files that are written."""
    if path.suffix not in known:
        raise ValueError(f"{path}: needed a file named {', '.join('*' + s for s in known)}")
    return path.suffix


def read_tensors(path: Path) -> dict[str, Named]:
    """Every tensor of a file by its name (an npy file holds one, named ``""``).

    Raises:
        ValueError: no such file, not a tensor file, or one that is damaged.
    """
    if path.is_dir():
        require_file(path)
    suffix = require_suffix(path, SUFFIXES + READ_ONLY)
    require_file(path)
    if suffix == ".gguf":
        return _read_gguf(path)
    try:
        if suffix == ".safetensors":
            return _read_safetensors(path)
        _require_magic(path, suffix)
        loaded = np.load(path, allow_pickle=False)
        if suffix == ".npy":
            if not isinstance(loaded, np.ndarray):
                raise ValueError("not an npy file")
            return {"": _named(loaded)}
        with loaded:
            return {name: _named(loaded[name]) for name in loaded.files}
    except (ValueError, OSError, EOFError, SafetensorError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable {suffix[1:]} file ({error})") from None
    except Exception as error:
        # zipfile and zlib have errors of their own for damaged archives.
        raise ValueError(f"{path}: not a readable {suffix[1:]} file ({type(error).__name__}: {error})") from None


def _require_magic(path: Path, suffix: str) -> None:
    """NumPy takes any file that is neither for a pickle, and says so."""
    magic = {".npy": b"\x93NUMPY", ".npz": b"PK"}[suffix]
    with path.open("rb") as file:
        start = file.read(len(magic))
    if start != magic:
        raise ValueError(f"it begins with {start!r}, not {magic!r}")


def _named(array: Array) -> Named:
    # NumPy stores bfloat16 as two anonymous bytes.
    if array.dtype == np.dtype("V2"):
        return Named(array.view(np.uint16), "bfloat16")
    return Named(array, array.dtype.name)


def _read_safetensors(path: Path) -> dict[str, Named]:
    tensors = {}
    entries = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    for name, entry in entries:
        kind = _SAFETENSORS.get(entry["dtype"])
        if kind is None:
            raise ValueError(f"tensor {name!r} is {entry['dtype']}; needed {', '.join(_SAFETENSORS)}")
        dtype = np.dtype(np.uint16 if kind == "bfloat16" else kind)
        tensors[name] = Named(np.frombuffer(entry["data"], dtype).reshape(entry["shape"]), kind)
    return tensors


def _read_gguf(path: Path) -> dict[str, Named]:
    header = open_gguf(path)
    end = max((entry.start + (entry.nbytes or 0) for entry in header.entries.values()), default=0)
    data = mapped(path, 0, end, ahead=False)
    tensors = {}
    for name, entry in header.entries.items():
        if not entry.type.dtype:
            tensors[name] = Named(np.zeros(0, np.uint8), entry.type.name)
            continue
        dtype = np.dtype(np.uint16 if entry.type.dtype == "bfloat16" else entry.type.dtype)
        own = data[entry.start : entry.start + (entry.nbytes or 0)]
        tensors[name] = Named(own.view(dtype).reshape(entry.shape), entry.type.dtype)
    return tensors


def require_plain(path: Path, tensors: Mapping[str, Named]) -> None:
    """ValueError, naming it, if a tensor that goes into a file or a product is no array of plain numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_plain:
            raise ValueError(f"{path}: tensor {name!r} is {tensor.dtype}; needed one of plain numbers")


def write_tensors(path: Path, tensors: Mapping[str, Named], metadata: Mapping[str, str]) -> None:
    """Writes a whole file or leaves what was there. `metadata` goes into safetensors files.

    Raises:
        ValueError: a suffix that is none of ours, several tensors for an npy file, or a directory that cannot be
            written.
    """
    suffix = require_suffix(path)
    require_plain(path, tensors)
    if suffix == ".npy" and len(tensors) != 1:
        raise ValueError(
            f"{path}: an npy file holds one tensor, there are {len(tensors)}; write an npz or safetensors file"
        )
    if suffix == ".safetensors":
        kept = {name or "tensor": (np.ascontiguousarray(t.array), t.dtype) for name, t in tensors.items()}
        specs = {
            name: TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
            for name, (array, dtype) in kept.items()
        }
        data = safetensors.serialize(specs, metadata=dict(metadata))
        write_whole(path, lambda file: file.write(data))
    elif suffix == ".npz":
        arrays: dict[str, Any] = {name or "tensor": _numpy_bytes(t) for name, t in tensors.items()}
        write_whole(path, lambda file: np.savez(file, **arrays))
    else:
        write_whole(path, lambda file: np.save(file, _numpy_bytes(next(iter(tensors.values())))))


def _numpy_bytes(tensor: Named) -> Array:
    """NumPy's own files store bfloat16 as two anonymous bytes."""
    return tensor.array.view("V2") if tensor.dtype == "bfloat16" else tensor.array


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for the others."""
    if path.suffix != ".safetensors":
        return {}
    with safetensors.safe_open(path, "np") as file:
        return dict(file.metadata() or {})
