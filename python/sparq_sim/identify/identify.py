"""The face of the search: arguments, order of the results, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from sparq_sim.arrays import Source, normal_axis, source, thread_argument
from sparq_sim.formats import Spec, block_text
from sparq_sim.identify.apart import tell_apart
from sparq_sim.identify.candidates import Description, block_of, describe, structure
from sparq_sim.identify.differences import kinds
from sparq_sim.identify.facts import Frame, Pair, significant_bits
from sparq_sim.identify.result import Group, Identification, Match, Near
from sparq_sim.identify.search import Search
from sparq_sim.identify.trial import Misses, unsigned

#: Reduction axes that are tried, by the number of axes; with more than four, those of three.
_AXES = {1: [-1], 2: [-1, 0], 3: [-1, -2, 0], 4: [-1, -2, 0, 1]}
#: Matches of which every pair is told apart.
_TOLD_APART = 16


def identify(x: object, y: object, *, axis: int | None = None, threads: int | None = None) -> Identification:
    """Which spec made `y` of `x`: the format, its block and axis, and every choice that the numbers show.

    Args:
        x: NumPy array or torch tensor of float16, bfloat16, float32 or float64, before.
        y: the same after encoding and decoding (fake quantization), of the shape of `x`; its dtype may be another one.
        axis: the reduction axis; default: the last, the one before it, and the first are tried (of four, all).
        threads: threads to use; default by size. Results never depend on it.

    Returns:
        An `Identification`. Its matches make exactly `y`, every one of them proven by a run of the whole tensor;
        without any, it says what comes closest and where that differs. Fields that no element of the tensor depends on
        are listed as undecided.

    Raises:
        ValueError: shapes that differ, no elements, no such axis, or `y` equal to `x`.
        TypeError: dtypes that are not floats.

    >>> import numpy as np, sparq_sim as sq
    >>> x = np.random.default_rng(0).standard_normal((64, 128), dtype=np.float32)
    >>> found = sq.identify(x, sq.emulate(x, "mxfp4", like="torchao-main/rceil"))
    >>> found.best.label, found.best.names
    ('mxfp4 scale_rule=rceil', ('mxfp4 like=torchao-main/rceil',))
    >>> sq.identify(x, x * np.float32(1.01))
    Identification(nothing matches; nearest ...)
    """
    return identify_sources(source(x, "x"), source(y, "y"), axis=axis, threads=threads)


def identify_sources(
    x: Source, y: Source, *, axis: int | None = None, threads: int | None = None, name: str = ""
) -> Identification:
    """`identify` of tensors as the library takes them in. `name` is for titles."""
    start = perf_counter()
    thread_argument(threads)
    ndim = max(1, len(x.shape))
    if axis is not None:
        normal_axis(axis, ndim)
    pair = Pair.of(x, y)
    axes = [axis] if axis is not None else _AXES.get(ndim, _AXES[3])
    frames = {one: Frame.along(pair, one, threads) for one in axes}
    search = Search(pair, frames)
    search.run()
    matches, undecided, group = _matches(search, ndim)
    nearest = () if matches else tuple(_near(search, made) for made, _ in _closest(search))
    return Identification(
        matches=matches,
        nearest=nearest,
        indistinguishable=group,
        undecided=undecided,
        facts=_facts(pair, frames),
        shape=x.shape,
        dtypes=(x.dtype, y.dtype),
        whole_runs=search.whole_runs,
        seconds=perf_counter() - start,
        name=name,
    )


def _place(search: Search, made: Spec, misses: Misses, said: Description) -> tuple[Any, ...]:
    """Where a match sorts."""
    block = made.format.block
    odd = isinstance(block, tuple) or (isinstance(block, int) and block > search.frames[made.axis].length)
    few = len(said.changes), said.unusual, odd, -len(said.names)
    return misses.signs > 0, not said.names, made.axis != -1, *few, said.label


def _first(search: Search) -> Spec:
    """The match that sorts first."""
    return min(search.matches, key=lambda made: _place(search, made, search.matches[made], describe(made)))


def _matches(search: Search, ndim: int) -> tuple[tuple[Match, ...], dict[str, tuple[str, ...]], tuple[Group, ...]]:
    """Matches in order, the fields that they leave open, and what would tell them apart."""
    if not search.matches:
        return (), {}, ()
    first, open_fields = _first(search), {}
    for _ in range(3):  # what is found besides may be simpler
        search.settle(search.relatives(first))
        open_fields = search.undecided(_first(search))
        if (simpler := _first(search)) == first:
            break
        first = simpler
    undecided = {name: tuple(dict.fromkeys(_word(made, name) for made in specs)) for name, specs in open_fields.items()}
    described: dict[Spec, tuple[Description, Misses]] = {}
    for made, misses in search.matches.items():
        said = describe(made)
        described.setdefault(replace(said.spec), (said, misses))
    ordered = sorted(described.values(), key=lambda one: _place(search, one[0].spec, one[1], one[0]))
    matches = tuple(
        Match(said.label, said.spec, said.names, said.related, said.changes, not misses.signs)
        for said, misses in ordered
    )
    alike = [one for one in matches if one.zero_signs == matches[0].zero_signs]
    if len(alike) < 2:
        return matches, undecided, ()
    told = alike[:_TOLD_APART]
    pairs = tell_apart([one.spec for one in told], [one.label for one in told], ndim)
    return matches, undecided, (Group(tuple(one.label for one in alike), tuple(pairs)),)


def _word(made: Spec, name: str) -> str:
    if name == "block":
        return block_text(made.format.block)
    holder = {"axis": made, "order": made, "ties": made.sparsity}.get(name, made.conversion)
    return str(getattr(holder, name))


def _closest(search: Search) -> list[tuple[Spec, Misses]]:
    """What the whole tensor was run through and comes closest, one of each structure and block."""
    ranked = sorted(search.tried.items(), key=lambda one: (one[1].values, one[1].signs, len(describe(one[0]).changes)))
    first: dict[object, tuple[Spec, Misses]] = {}
    for made, misses in ranked:
        first.setdefault((structure(made.format), block_of(made.format), made.axis), (made, misses))
    return list(first.values())[:3]


def _near(search: Search, made: Spec) -> Near:
    frame = search.frames[made.axis]
    said = describe(made)
    got = frame.whole.run(made)
    misses = search.tried[made]
    index: tuple[int, ...] = ()
    bits = ("", "", "")
    if got is not None:
        values, signs = frame.whole.different(got)
        at = int((values if values.size else signs)[0])
        index = frame.index(at)
        bits = tuple(_hex(a.reshape(-1)[at : at + 1]) for a in (frame.x, frame.y, got))  # type: ignore[assignment]
    found, blocks = kinds(frame, made)
    return Near(said.label, said.spec, said.names, misses.values, misses.signs, found, blocks, index, *bits)


def _hex(value: Any) -> str:
    bits = unsigned(value)
    return f"0x{int(bits[0]):0{2 * bits.dtype.itemsize}X}"


def _facts(pair: Pair, frames: dict[int, Frame]) -> dict[str, Any]:
    """What is true of the tensors whatever made y."""
    with np.errstate(all="ignore"):
        bits = significant_bits(pair.values)
        facts: dict[str, Any] = {
            "significant_bits": int(bits.max()),
            "unchanged": float(pair.same.mean()),
            "zeros_before": int((pair.x == 0).sum()),
            "zeros_after": int((pair.values == 0).sum()),
            "negative_zeros_after": int(((pair.values == 0) & np.signbit(pair.values)).sum()),
            "nonfinite_before": int((~np.isfinite(pair.x)).sum()),
            "nonfinite_after": int((~np.isfinite(pair.values)).sum()),
        }
    patterns = {axis: frame.sparsity for axis, frame in frames.items() if frame.sparsity}
    facts["sparsity"] = {str(axis): f"{found[0].kept}:{found[0].group}" for axis, found in patterns.items()}
    return facts
