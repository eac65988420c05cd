"""Files of encoded tensors: safetensors with the packed bytes, and in the metadata all that reading them needs; and
GGUF, whose types say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparq_sim.containers import container_to_write, open_file
from sparq_sim.layouts import Layout
from sparq_sim.packing import Packed, unpack
from sparq_sim.stored import Other, Stored
from sparq_sim.tensor import BlockTensor


def save(
    path: str | Path,
    tensors: Mapping[str, BlockTensor | Packed],
    *,
    layout: str | Layout | None = None,
    metadata: Mapping[str, str | int] | None = None,
) -> None:
    """Writes encoded tensors to a safetensors or GGUF file, which appears as a whole or not at all. What a process that
    is killed leaves is a hidden file beside it, ``.NAME.`` and 16 digits, which the next `save` of that name removes
    where the file system has locks.

    GGUF holds dense tensors along the last axis in ``q4_0``, ``q8_0``, ``mxfp4``, ``nvfp4_one_level``, ``fp16``,
    ``bf16`` and ``fp32``. What llama.cpp wants to know of a model besides (``general.architecture``) is metadata.

    Args:
        path: of the file, ``*.safetensors`` or ``*.gguf``.
        tensors: by name; those that are packed keep their layout.
        layout: of the others; default ``row_major``, in GGUF that of the type which holds the format.
        metadata: more of it: strings, in GGUF integers too, as uint32.

    Raises:
        TypeError: tensors or metadata of other types, such as arrays that are not encoded.
        ValueError: a layout that does not hold a tensor, a tensor for which GGUF has no type, with a name of more than
            63 bytes there or more than four axes, metadata that the library writes itself, names that no reader
            would take (halves of pairs of UTF-16), or what the system refuses: a directory that is none, a full disk.
            A file that was there is then as it was.

    Source of GGUF: docs/gguf.md of ggml (01f0d4d).

    >>> import tempfile, numpy as np, sparq_sim as sq
    >>> x = sq.encode(np.ones((2, 32), np.float32), "q8_0")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sq.save(f"{folder}/one.gguf", {"w": x}, metadata={"general.name": "ones"})
    ...     sq.contents(f"{folder}/one.gguf")["w"].layout.name, sq.load(f"{folder}/one.gguf") == x
    ('gguf_q8_0', True)
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: needed str or pathlib.Path, got {type(path).__name__}")
    path = Path(path)
    container = container_to_write(path)
    _require_savable(path, tensors)
    _require_metadata(path, {} if metadata is None else metadata, container.metadata)
    packed = {}
    for name, one in tensors.items():
        if isinstance(one, BlockTensor):
            try:
                one = one.pack(container.layout(one.spec, one.shape) if layout is None else layout)
            except ValueError as error:
                raise ValueError(f"{path}: {name!r}: {error}") from None
        packed[name] = one
    container.write(path, packed, metadata or {})


def _require_savable(path: Path, tensors: Any) -> None:
    """TypeError or ValueError for all that is no encoded tensors by name."""
    if not isinstance(tensors, Mapping):
        also = "; BlockTensor.save writes one" if isinstance(tensors, BlockTensor) else ""
        raise TypeError(f"tensors: needed a mapping of names to tensors, got {type(tensors).__name__}{also}")
    for name, one in tensors.items():
        _require_text(path, "tensors", "tensor", name, name)
        if not isinstance(one, BlockTensor | Packed):
            raise TypeError(
                f"tensor {name!r} is {type(one).__name__}; needed BlockTensor or Packed: sq.encode makes one"
            )


def _require_metadata(path: Path, metadata: Any, types: tuple[type, ...]) -> None:
    """TypeError or ValueError for what files do not hold."""
    needed = " or ".join(kind.__name__ for kind in types)
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: needed a mapping of str to {needed}, got {type(metadata).__name__}")
    for key, value in metadata.items():
        _require_text(path, "metadata", "metadata", key, key)
        if not isinstance(value, types) or isinstance(value, bool):
            raise TypeError(f"metadata {key!r} is {type(value).__name__}; needed {needed}")
        if isinstance(value, str):
            _require_text(path, "metadata", "metadata", key, value)


def _require_text(path: Path, argument: str, kind: str, name: Any, text: Any) -> None:
    """A string that UTF-8 can express, of the thing of that name."""
    if not isinstance(text, str):
        raise TypeError(f"{argument}: names are str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: {kind} {name!r} has half of a pair of UTF-16, which files do not hold") from None


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
    return open_file(path).contents()


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
    return open_file(path).others()


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
    file = open_file(path)
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
