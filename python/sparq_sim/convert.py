"""Whole checkpoints: every weight of a directory of safetensors shards, or of a file, encoded and packed, a tensor at a
time."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.containers import open_file
from sparq_sim.disk import content_digest, pieces_of, remove_abandoned, stamp_of, write_whole
from sparq_sim.files import Named
from sparq_sim.formats import Spec
from sparq_sim.layouts import Layout
from sparq_sim.packing import pack, plan
from sparq_sim.quantize import encode
from sparq_sim.shards import DTYPE_BITS, INDEXES, Entry, Index, Planned, Shard, find_index, open_shard, write_shard
from sparq_sim.stored import KEY, STORE_VERSION, Stored, metadata_of, planned_planes

_JOB = "sparq_job"
#: Of the index, where the source has none.
_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
_SUFFIX = ".safetensors"
_ENCODED = "floats of two and more axes are encoded, those that --include and --exclude leave"


@dataclass(frozen=True)
class Converted:
    """A checkpoint that was converted."""

    tensors: int
    """That were encoded."""
    others: int
    """That went through as they are."""
    bytes_before: int
    """Of those that were encoded."""
    bytes_after: int
    skipped: tuple[str, ...]
    """Shards that an earlier run had finished."""


@dataclass(frozen=True)
class _Work:
    """A shard and what becomes of it."""

    shard: Shard
    output: Path
    spec: Spec
    chosen: dict[str, Stored]
    """As they are stored: dense, if the layout has no positions."""
    encoded: dict[str, Stored]
    """That were so before."""
    stamp: tuple[int, ...]
    """Of the shard's file when its header was read."""

    def require_unchanged(self) -> None:
        """ValueError if the shard's file was replaced or written to since."""
        if stamp_of(self.shard.path) != self.stamp:
            raise ValueError(f"{self.shard.path}: changed while it was read; run again")

    def job(self) -> str:
        """A digest of all that the new file depends on: the content of the shard, and what is asked for."""
        one = next(iter(self.chosen.values()), None)
        asked = [STORE_VERSION, self.spec.digest, one and one.spec.digest, repr(one and one.layout)]
        said = json.dumps([*asked, self.shard.path.name, content_digest(self.shard.path), sorted(self.chosen)])
        return hashlib.sha256(said.encode()).hexdigest()

    def planned(self) -> dict[str, Planned]:
        """What the new file holds, in order."""
        made: dict[str, Planned] = {}
        for name, entry in self.shard.entries.items():
            if name not in self.chosen:
                made[name] = Planned(entry.dtype, entry.shape)
                continue
            one = self.chosen[name]
            for key, kind in planned_planes(name, one.spec, one.shape, one.layout).values():
                if key in made or key in self.shard.entries:
                    raise ValueError(f"{self.shard.path}: {key!r} would be the name of two tensors")
                made[key] = kind
        return made


def _job_of(path: Path) -> str | None:
    """The job that wrote a shard; None of other files."""
    try:
        return open_shard(path).metadata.get(_JOB)
    except ValueError:
        return None


def _chosen(name: str, entry: Entry, include: Sequence[str], exclude: Sequence[str]) -> bool:
    if entry.float_name is None or len(entry.shape) < 2 or not entry.nbytes:
        return False
    wanted = not include or any(fnmatch.fnmatchcase(name, pattern) for pattern in include)
    return wanted and not any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)


def _works(
    source: Path, output: Path, spec: Spec, layout: Layout, include: Sequence[str], exclude: Sequence[str]
) -> list[_Work]:
    paths = sorted(source.glob(f"*{_SUFFIX}")) if source.is_dir() else [source]
    if not paths:
        raise ValueError(f"{source}: no *.safetensors files there")
    works: list[_Work] = []
    stored = spec.dense() if layout.positions is None else spec
    seen: dict[str, Path] = {}
    for path in paths:
        stamp = stamp_of(path)
        file = open_file(path)
        shard = file.shard()
        encoded = file.contents() if KEY in shard.metadata else {}
        planes_before = {one.key(plane) for one in encoded.values() for plane in one.planes}
        chosen = {}
        for name, entry in shard.entries.items():
            if name in seen:
                raise ValueError(f"{path}: tensor {name!r} is in {seen[name].name} too")
            seen[name] = path
            if name in planes_before or not _chosen(name, entry, include, exclude):
                if entry.dtype not in DTYPE_BITS:
                    raise ValueError(f"{path}: {name}: is {entry.dtype}, which safetensors files do not hold")
                continue
            if name in encoded:
                raise ValueError(f"{path}: {name!r} would be the name of two tensors")
            try:
                held = plan(stored, entry.shape, layout)
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}; --exclude leaves tensors as they are") from None
            planes = tuple(held.plane_shapes())
            chosen[name] = Stored(name, stored, entry.shape, str(entry.float_name), "numpy", layout, planes)
        work = _Work(shard, output / path.with_suffix(_SUFFIX).name, spec, chosen, encoded, stamp)
        work.planned()  # for its errors, before anything is written
        works.append(work)
    _require_matches(works, "--include", include)
    _require_matches(works, "--exclude", exclude)
    if not any(work.chosen for work in works):
        raise ValueError(f"{source}: nothing to encode: {_ENCODED}")
    return works


def _require_matches(works: Sequence[_Work], option: str, patterns: Sequence[str]) -> None:
    """ValueError for a pattern that no tensor has, and for one to encode where nothing that has it can be encoded."""
    entries = {name: entry for work in works for name, entry in work.shard.entries.items()}
    for pattern in patterns:
        found = [name for name in entries if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"{option} {pattern}: matches none of {len(entries)} tensors: {_some(entries)}")
        if option == "--include" and not any(_chosen(name, entries[name], (), ()) for name in found):
            raise ValueError(f"{option} {pattern}: matches only what is not encoded ({_ENCODED}): {_some(found)}")


def _some(names: Iterable[str]) -> str:
    """The first few of them."""
    first = list(itertools.islice(names, 4))
    return ", ".join(map(repr, first[:3])) + (", ..." if len(first) > 3 else "")


def _require_ours(source: Path, output: Path, shards: set[str], others: set[str]) -> None:
    """ValueError if a directory holds weights or an index that are none of those files which are to be written, or
    some of these that no earlier run wrote."""
    there = sorted(output.iterdir()) if output.is_dir() else []
    weights = [path for path in there if path.suffix == _SUFFIX]
    for path in there:
        if path not in weights and path.name not in others and not path.match(INDEXES):
            continue
        if path.name not in shards | others:
            raise ValueError(f"{path}: is none of the files that come of {source}; give a new directory")
        if not weights or (path in weights and _job_of(path) is None):
            raise ValueError(f"{path}: is there already, and no earlier run wrote it; give a new directory")


def convert(
    source: Path,
    output: Path,
    spec: Spec,
    layout: Layout,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    threads: int | None = None,
    started: Callable[[int], None] = lambda total: None,
    advanced: Callable[[str, int], None] = lambda name, nbytes: None,
) -> Converted:
    """Encodes the float tensors of two and more axes of every shard, one after the other; everything else is copied.

    Pruned elements are stored as zeros in layouts without positions. In a layout that has a name in config.json
    (`Layout.checkpoint`), that file gets a ``quantization_config``. Tensors that are encoded already stay as they are.

    Each shard appears as a whole or not at all. Run again with the same arguments, it goes on after the shards that are
    there; those of other arguments, or made from a shard of other content, are written again. Contents are compared by
    SHA-256, not by size or time: every shard is read for that before it is encoded.

    Args:
        source: a directory of ``*.safetensors``, all those that its index names, if it has one; or a safetensors or
            GGUF file, beside which nothing is looked at.
        output: another one, made if need be; or what earlier runs left, of this source or of one whose files have the
            same names. Weights of other names, and files that no earlier run wrote, are never replaced.
        include, exclude: names of tensors, with ``*``; default all. Each is to match something.
        started, advanced: told the bytes to be read, and those of each tensor that is done.

    Raises:
        ValueError: damaged files, shards or tensors that an index names and that are not there, tensors that the layout
            or safetensors do not hold, values that the format does not express, a shard that changes while it is read,
            a config.json that says already how weights are quantized, patterns that match nothing, nothing to encode,
            an output directory with files of others.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such file or directory")
    if output.exists() and output.samefile(source if source.is_dir() else source.parent):
        raise ValueError(f"{output}: is the input, or where it lies; give another directory")
    index = find_index(source) if source.is_dir() else None
    works = _works(source, output, spec, layout, include, exclude)
    if index is not None:
        index.require({work.shard.path.name: work.shard.entries.keys() for work in works})
    config = _configuration(source, works)
    beside = {path.name for path in _beside(source)} | {_index_name(works, index)}
    _require_ours(source, output, {work.output.name for work in works}, beside - {""})
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{output}: cannot be made ({error.strerror})") from None
    started(sum(entry.nbytes for work in works for entry in work.shard.entries.values()))
    skipped = []
    for work in works:
        remove_abandoned(work.output)
        job = work.job()
        work.require_unchanged()
        if _job_of(work.output) == job:
            skipped.append(work.output.name)
            advanced(work.output.name, sum(entry.nbytes for entry in work.shard.entries.values()))
            continue
        metadata = {**work.shard.metadata, **metadata_of({**work.encoded, **work.chosen}), _JOB: job}
        write_shard(work.output, work.planned(), metadata, lambda work=work: _produce(work, threads, advanced))  # type: ignore[misc]
    _write_rest(source, output, works, index, config)
    encoded = [(work, name) for work in works for name in work.chosen]
    before = sum(work.shard.entries[name].nbytes for work, name in encoded)
    kept = sum(e.nbytes for work in works for n, e in work.shard.entries.items() if n not in work.chosen)
    after = sum(kind.nbytes for work in works for kind in work.planned().values()) - kept
    others = sum(len(work.shard.entries) for work in works) - len(encoded)
    return Converted(len(encoded), others, before, after, tuple(skipped))


def _produce(work: _Work, threads: int | None, advanced: Callable[[str, int], None]) -> Iterator[tuple[str, Array]]:
    """The planes of one tensor after the other. While those of one are written, the next is encoded, and the system
    reads the one after it."""
    shard = work.shard
    with ThreadPoolExecutor(1) as worker:
        mapped = ((name, shard.bytes_of(name)) for name in shard.entries)
        read = next(mapped, None)
        coming: deque[tuple[str, Future[list[tuple[str, Array]]]]] = deque()
        while read is not None or coming:
            if read is not None:
                name, data = read
                coming.append((name, worker.submit(_planes, work, name, data, threads)))
                read = next(mapped, None)
            if len(coming) == 2 or read is None:
                name, planes = coming.popleft()
                yield from planes.result()
                advanced(name, shard.entries[name].nbytes)
    work.require_unchanged()


def _planes(work: _Work, name: str, data: Array, threads: int | None) -> list[tuple[str, Array]]:
    """What becomes of one tensor."""
    if name not in work.chosen:
        return [(name, data)]
    one, entry = work.chosen[name], work.shard.entries[name]
    width = np.dtype(np.uint16 if entry.float_name == "bfloat16" else entry.float_name)
    try:
        tensor = encode(Named(data.view(width).reshape(entry.shape), one.dtype).source(), work.spec, threads=threads)
        if one.spec != work.spec:
            tensor = tensor.dense()
        packed = pack(tensor, one.layout, threads=threads)
    except ValueError as error:
        raise ValueError(f"{work.shard.path}: {name}: {error}") from None
    return [(one.key(plane), packed.planes[plane]) for plane in one.planes]


def _configuration(source: Path, works: list[_Work]) -> bytes | None:
    """config.json with what says how weights are stored, for layouts that have a name for it there; None for others,
    or if there is no such file.

    Raises:
        ValueError: a file that is no JSON object, or weights that are quantized already.
    """
    path, weights = source / _CONFIG, [one for work in works for one in work.chosen.values()]
    if not weights or not weights[0].layout.checkpoint or not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: is no JSON object, which quantization_config could be written to")
    if "quantization_config" in config:
        raise ValueError(f"{path}: has a quantization_config: its weights are quantized already")
    return json.dumps({**config, "quantization_config": quantization_config(weights)}, indent=2).encode()


def quantization_config(weights: Sequence[Stored]) -> dict[str, Any]:
    """How compressed-tensors (`QuantizationConfig`, version 0.20) says that the weights of these modules are stored."""
    one = weights[0]
    scales = planned_planes(one.name, one.spec, one.shape, one.layout)[one.planes[-1]][1]
    format = one.spec.format
    assert format.main is not None  # of the layouts that have such a name
    arguments = {
        "num_bits": format.element.code_bits,
        "type": "float",
        "symmetric": True,
        "group_size": format.main.along,
        "strategy": "tensor_group" if len(format.levels) > 1 else "group",
        "dynamic": False,
        "scale_dtype": {"U8": "torch.uint8", "F8_E4M3": "torch.float8_e4m3fn"}[scales.dtype],
    }
    modules = sorted(weight.name.removesuffix(".weight") for weight in weights)
    group = {"targets": modules, "weights": arguments, "format": one.layout.checkpoint}
    return {
        "quant_method": "compressed-tensors",
        "format": one.layout.checkpoint,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [],
    }


def _index_name(works: Sequence[_Work], index: Index | None) -> str:
    """Of the index that is written; empty where none is."""
    return index.path.name if index is not None else _INDEX if len(works) > 1 else ""


def _beside(source: Path) -> list[Path]:
    """The files of a directory that are copied."""
    if not source.is_dir():
        return []
    return [p for p in sorted(source.iterdir()) if p.is_file() and p.suffix != _SUFFIX and not p.match(INDEXES)]


def _write_rest(source: Path, output: Path, works: list[_Work], index: Index | None, config: bytes | None) -> None:
    """The index of all shards, and the files beside them, config.json with what was added to it."""
    weight_map, total = {}, 0
    for work in works:
        for key, kind in work.planned().items():
            weight_map[key] = work.output.name
            total += kind.nbytes
    if name := _index_name(works, index):
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1).encode()
        write_whole(output / name, lambda file: file.write(text))
    for path in _beside(source):
        content = [config] if config is not None and path.name == _CONFIG else pieces_of(path)
        write_whole(output / path.name, lambda file, content=content: file.writelines(content))  # type: ignore[misc]
