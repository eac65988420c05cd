"""identify_datapath: which described machines turn these operands into this output."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array, dtype_name, to_numpy
from sparq_sim.candidates import WRITTEN, Candidate, canonical, steps_apart
from sparq_sim.datapath_matches import DatapathIdentification, DatapathMatch
from sparq_sim.formats import Machine, datapaths
from sparq_sim.machines import AnyDatapath, resolve_datapath
from sparq_sim.matmul import offered_results
from sparq_sim.operands import Operand, operand_of
from sparq_sim.split import SplitK
from sparq_sim.telling import Telling, tell_apart
from sparq_sim.variants import changed, variants

#: Rows and columns of the outputs that the first pass looks at, and of those among which it chooses.
_SAMPLE, _CHOSEN_FROM = 16, 48
_BEAM, _ROUNDS, _LISTED, _PAIRS = 8, 4, 8, 12
#: Machines that are asked for parts of K, how many parts, and the multiples of K that kernels cut it into.
_SPLIT = 8
_PARTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)
_TILES = (16, 32, 64, 128)


@dataclass
class _Question:
    """The product at hand, read once for each way in which machines read operands."""

    a: object
    b: object
    start: Array | None
    d: Array
    dtype: str
    options: dict[str, dict[str, Any]]
    threads: int | None
    read: dict[Any, tuple[Operand, Operand]] = field(default_factory=dict)

    def operands(self, path: Datapath) -> tuple[Operand, Operand]:
        key = (path.dropped_bits > 0, path.presum > 1, tuple(path.scale.to_dict().values()))
        if key not in self.read:
            self.read[key] = (self.side(self.a, path, "a"), self.side(self.b, path, "b"))
        return self.read[key]

    def side(self, x: object, path: Datapath, what: str) -> Operand:
        own = self.options[what]
        return operand_of(x, own["format"], own["scales"], own["tensor_scale"], path, what)

    def outputs(self, one: Candidate, rows: Array | None = None, columns: Array | None = None) -> Array:
        """Canonical bits; `rows` and `columns` of them, or all."""
        left, right = self.operands(one.path)
        start = self.start
        if rows is not None and columns is not None:
            left, right = left.rows_at(rows), right.rows_at(columns)
            start = None if start is None else start[np.ix_(rows, columns)]
        return canonical(one.outputs(left, right, start, self.threads), self.dtype)

    def compared(self, one: Candidate, names: tuple[str, ...]) -> DatapathMatch:
        """All outputs."""
        made = self.outputs(one)
        different = made != self.d
        places = np.argwhere(different)
        index = lines = given = ours = None
        if len(places):
            i, j = (int(x) for x in places[0])
            index = (i, j)
            digits = 2 * made.itemsize
            given, ours = (f"0x{int(bits[index]):0{digits}X}" for bits in (self.d, made))
            left, right = self.operands(one.path)
            start = None if self.start is None else self.start[i : i + 1, j : j + 1]
            lines = (left.rows_at(np.array([i])), right.rows_at(np.array([j])), start)
        return DatapathMatch(
            one.label, names, one.record, one.result, one.rounded, one.changes, one.split,
            int(made.size - different.sum()), made.size, index, given, ours, one, lines,
        )  # fmt: skip


@dataclass
class _Pool:
    """Candidates that were asked for the sample, the same arithmetic once."""

    question: _Question
    rows: Array
    columns: Array
    scores: dict[tuple[Any, ...], tuple[float, float]] = field(default_factory=dict)
    members: dict[tuple[Any, ...], Candidate] = field(default_factory=dict)
    names: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)

    def ask(self, one: Candidate) -> None:
        if one.key in self.members:
            return
        wanted = self.question.d[np.ix_(self.rows, self.columns)]
        try:
            made = self.question.outputs(one, self.rows, self.columns)
        except ValueError:  # a turned knob may ask for sums that are too wide for these elements
            return
        steps = steps_apart(made, wanted, self.question.dtype).astype(np.float64)
        self.members[one.key] = one
        self.scores[one.key] = (float((made != wanted).mean()), float(np.log2(1 + steps).mean()))

    def ranked(self) -> list[tuple[Any, ...]]:
        """Keys, the closest first: equal outputs, then distance, then what differs least from a named machine."""
        return sorted(self.members, key=lambda key: (*self.scores[key], len(self.members[key].changes)))

    def fits(self) -> list[tuple[Any, ...]]:
        return [key for key in self.ranked() if self.scores[key][0] == 0]

    def named(self, key: tuple[Any, ...]) -> Candidate:
        """The candidate as a variant of the named machine from which the fewest fields differ."""
        one = self.members[key]
        if key in self.names:
            return one
        taking = {name: self.bases[name] for names in self.names.values() for name in names}
        base = min(taking, key=lambda name: len(changed(one.record, taking[name])))
        return replace(one, base=base, changes=changed(one.record, taking[base]))

    def vary(self, key: tuple[Any, ...], k: int) -> None:
        """Every machine one knob away."""
        one = self.members[key]
        base = self.bases[one.base]
        for record in variants(one.record, k):
            changes = changed(record, base)
            if one.split is not None and record.chunk != one.record.chunk:
                continue  # parts are chunks already
            if changes:
                self.ask(replace(one, record=record, changes=changes))

    bases: dict[str, Datapath] = field(default_factory=dict)


def _named(given: Iterable[AnyDatapath] | None) -> Iterator[tuple[str, Datapath]]:
    """The catalog, and what the caller gave."""
    for name, machine in datapaths().items():
        yield name, machine.record
    for number, one in enumerate(given or ()):
        record = resolve_datapath(one)
        name = str(one) if isinstance(one, (str, Path)) else one.name if isinstance(one, Machine) else f"given {number}"
        if name not in datapaths():
            yield name, record


def _sample(question: _Question, m: int, n: int) -> tuple[Array, Array]:
    """Rows and columns with the most outputs that are not the exact sums rounded once."""
    rows, columns = (np.unique(np.linspace(0, size - 1, min(size, _CHOSEN_FROM)).astype(np.int64)) for size in (m, n))
    result, rounded = WRITTEN[question.dtype][-1]
    exact = Candidate("exact", datapaths()["exact"].record, "fp32", rounded)
    left, right = question.operands(exact.path)
    if result != exact.result or question.start is not None or exact.refusal(left, right, None) is not None:
        return rows[:_SAMPLE], columns[:_SAMPLE]
    off = question.outputs(exact, rows, columns) != question.d[np.ix_(rows, columns)]
    best = [np.sort(np.argsort(-off.sum(axis=axis), kind="stable")[:_SAMPLE]) for axis in (1, 0)]
    return rows[best[0]], columns[best[1]]


_BITS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int32": "int32"}


def _output(d: object, format: str | None) -> tuple[Array, str]:
    """d as canonical bits, and its dtype."""
    name = dtype_name(getattr(d, "dtype", type(d).__name__))
    array = to_numpy(d, "d")
    if format is not None:
        if format not in _BITS:
            raise ValueError(f"d_format={format!r}; known: {', '.join(_BITS)}")
        name, given = _BITS[format], name
        if given != f"uint{8 * (2 if name.endswith('16') else 4)}":
            raise TypeError(f"d: dtype {given}; bits of {format} are unsigned integers of its width")
    if name not in WRITTEN:
        raise TypeError(f"d: dtype {name}; needed {', '.join(WRITTEN)}")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"d: shape {array.shape}; needed [M, N], with at least one output")
    return canonical(np.ascontiguousarray(array).view(f"u{array.itemsize}"), name), name


def _started(c: object, shape: tuple[int, int]) -> Array | None:
    if c is None:
        return None
    start = to_numpy(c, "c")
    if start.dtype not in (np.float32, np.float16, np.int32):
        raise TypeError(f"c: dtype {start.dtype}; needed float32, float16 or int32")
    if start.shape != shape:
        raise ValueError(f"c: shape {start.shape}; needed [M, N] = {shape}")
    return start


def identify_datapath(
    a: object,
    b: object,
    d: object,
    *,
    c: object = None,
    a_format: str | ElementFormat | None = None,
    b_format: str | ElementFormat | None = None,
    a_scales: object = None,
    b_scales: object = None,
    a_tensor_scale: float | None = None,
    b_tensor_scale: float | None = None,
    d_format: str | None = None,
    machines: Iterable[AnyDatapath] | None = None,
    threads: int | None = None,
) -> DatapathIdentification:
    """Which machines turn these operands into d: those of the catalog, given ones, and variants of both in which a few
    knobs are turned (bits kept, groups, roundings, where c enters).

    A few outputs, those that differ most from exact sums, rule out most; all outputs decide the rest. Where several
    machines make d, inputs are sought that tell them apart.

    Args:
        a, b, c, a_format, b_format, a_scales, b_scales, a_tensor_scale, b_tensor_scale: as `matmul` takes them.
        d: [M, N] what a machine made of them: float32; int32; float16, which may be the machine's own or float32
            rounded to nearest even; bfloat16, which is float32 rounded; or their bits, with d_format.
        d_format: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int32"`` where d is unsigned integers.
        machines: records, catalog entries or JSON files of machines to try besides the catalog.
        threads: threads to use.

    Returns:
        A `DatapathIdentification`: `.candidates`, the closest first, each with its share of equal outputs and the first
        that differs, whose steps `.trace()` shows; `.matches`; `.telling`; `.refused`.

    Raises:
        ValueError: shapes that do not fit; what `matmul` refuses of operands.
        TypeError: a dtype of d or c that no machine gives.

    >>> import numpy as np, sparq_sim as sq
    >>> rng = np.random.default_rng(0)
    >>> a, b = (rng.standard_normal((16, 256)).astype(np.float16) for _ in range(2))
    >>> found = sq.identify_datapath(a, b, sq.matmul(a, b, datapath="ampere_16"))
    >>> found.best.names
    ('turing_16', 'ampere_16', 'ada_16')
    """
    began = time.perf_counter()
    bits, dtype = _output(d, d_format)
    options = {
        "a": {"format": a_format, "scales": a_scales, "tensor_scale": a_tensor_scale},
        "b": {"format": b_format, "scales": b_scales, "tensor_scale": b_tensor_scale},
    }
    question = _Question(a, b, None, bits, dtype, options, threads)
    left, right = question.operands(datapaths()["exact"].record)
    if left.k != right.k:
        raise ValueError(f"K does not match: a is [{left.rows}, {left.k}], b is [{right.rows}, {right.k}]")
    if bits.shape != (left.rows, right.rows):
        raise ValueError(f"d: shape {bits.shape}; needed [M, N] = ({left.rows}, {right.rows})")
    question.start = _started(c, bits.shape)
    pool = _Pool(question, *_sample(question, *bits.shape))
    refused = _ask_named(pool, machines)
    _split(pool, left.k)
    _turn_knobs(pool, left.k)
    kept = _kept(pool)
    matches = sorted(
        (question.compared(pool.named(key), tuple(pool.names.get(key, ()))) for key in kept),
        key=lambda one: (-one.equal, len(one.changes), not one.names),
    )
    telling, same = _apart(matches, (left.element, right.element), question)
    # A knob that changes nothing is no machine of its own.
    matches = [one for one in matches if one.names or one.label not in same]
    return DatapathIdentification(
        tuple(matches), len(pool.members) - len(kept), refused, telling, same, time.perf_counter() - began
    )


def _ask_named(pool: _Pool, machines: Iterable[AnyDatapath] | None) -> dict[str, str]:
    """The sample, from every named machine; why some refuse."""
    refused = {}
    for name, record in _named(machines):
        pool.bases[name] = record
        why = []
        offered = offered_results(record)
        for result, rounded in WRITTEN[pool.question.dtype]:
            one = Candidate(name, record, result, rounded)
            if result not in offered:
                why.append(f"gives {' or '.join(offered)}, and d is {pool.question.dtype}")
                continue
            try:
                reason = one.refusal(*pool.question.operands(one.path), pool.question.start)
            except (ValueError, TypeError) as error:  # operands that are read in another way
                reason = str(error)
            if reason is None:
                pool.ask(one)
                pool.names.setdefault(one.key, []).append(name)
            else:
                why.append(reason)
        if len(why) == len(WRITTEN[pool.question.dtype]):
            refused[name] = why[-1]
    return refused


def _split(pool: _Pool, k: int) -> None:
    """Parts of K, of every named machine, where none fits the sample; once one does, of no more than the closest."""
    if pool.fits():
        return
    for number, key in enumerate(pool.ranked()):
        if number >= _SPLIT and pool.fits():
            return
        one = pool.members[key]
        unit = max(1, one.path.instruction or one.path.group)
        # Equal parts in whole instructions, and in whole tiles of kernels.
        lengths = {-(-k // (parts * tile)) * tile for parts in _PARTS for tile in (unit, *_TILES)}
        found: dict[tuple[int, ...], SplitK] = {}
        # Within a chunk, parts are another chunk.
        for length in sorted(length for length in lengths if (one.path.chunk or 1) <= length < k):
            split = SplitK(length=length)
            found.setdefault(tuple(split.ends(k, one.path)), split)
        for split in found.values():
            for order in ("ascending", "tree"):
                parts = replace(one, split=replace(split, order=order))
                pool.ask(parts)
                pool.names[parts.key] = pool.names[key]


def _turn_knobs(pool: _Pool, k: int) -> None:
    """Variants of what fits the sample; where nothing does, of what comes closest in one run through K, several knobs
    deep."""
    varied: set[tuple[Any, ...]] = set()
    for turn in range(_ROUNDS):
        fits = pool.fits()
        whole = [key for key in pool.ranked() if pool.members[key].split is None]
        chosen = fits[:_BEAM] or whole[: _BEAM if turn else None]
        if fits and not set(fits) & set(whole):  # parts of K alone: a chunk may say the same
            chosen = [*chosen, *whole]
        for key in [key for key in chosen if key not in varied]:
            varied.add(key)
            pool.vary(key, k)
        if fits:
            return


def _kept(pool: _Pool) -> list[tuple[Any, ...]]:
    """What is compared with every output: what fits the sample, named machines first, and the closest of the rest."""
    fits = pool.fits()
    rest = [key for key in pool.ranked() if key not in set(fits)]
    return fits[: 3 * _LISTED] + rest[: max(3, _LISTED - len(fits))]


def _apart(
    matches: list[DatapathMatch], elements: tuple[ElementFormat, ElementFormat], question: _Question
) -> tuple[tuple[Telling, ...], tuple[str, ...]]:
    """For the best match and every other one an input that tells them apart, if there is one."""
    exact = [one for one in matches if one.exact][: _PAIRS + 1]
    told, same = [], []
    for other in exact[1:]:
        made = tell_apart(exact[0].candidate, other.candidate, elements, question.start is not None, question.dtype)
        if made is None:
            same.append(other.label)
        else:
            told.append(made)
    return tuple(told), tuple(same)
