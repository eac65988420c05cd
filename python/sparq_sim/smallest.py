"""The smallest input that tells two specs apart: a search from the shortest and roundest blocks on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.edges import stepped, thresholds
from sparq_sim.formats import Spec
from sparq_sim.runs import Kind, Runs, encode_lines, gaps

#: Of single numbers all are tried up to this many significant bits.
EVERY_BITS = 10
#: Beyond, those so many steps from a threshold of any binade, on either side.
NEAR_STEPS = (*range(9), 12, 16, 20, 24, 32, 40, 44, 48)
#: The first of the single numbers are tried by themselves, since most pairs differ there.
_FIRST = 4096
_LEAST, _TOP = -149, 128  # exponents: of the smallest float32, and beyond the largest
#: Lines of an edge set or of data that are made smaller, of those that differ.
_TRIED_LINES = 8

Test = Callable[[Array], Array]


@dataclass(frozen=True)
class Smallest:
    """What a search found."""

    line: Array
    """float32."""
    kind: Kind
    """What differs: ``scales`` if no value and no code does, of everything that was tried."""
    proven: bool
    """No block of zeros and no rounder single number differs: all of them were tried."""


@dataclass(frozen=True)
class _Stage:
    """Blocks to be tried, the smallest first."""

    text: str
    name: Hashable
    lines: Array
    proven: bool = False
    ordered: bool = True


def _f32(values: Sequence[Any]) -> Array:
    return np.array(values, np.float32)


def significance(x: Array) -> tuple[Array, Array]:
    """Significant bits of float32 numbers and the exponents of their last ones: x is k * 2**exponent with an odd k. Of
    zeros, NaN and Inf both are 0."""
    bits = x.view(np.uint32) & np.uint32(0x7FFFFFFF)
    field = (bits >> 23).astype(np.int64)
    whole = (bits & 0x7FFFFF).astype(np.int64) | np.where(field > 0, 1 << 23, 0)
    last = whole & -whole
    number = (bits != 0) & (bits < 0x7F800000)
    below = np.frexp(last.astype(np.float64))[1] - 1
    count = np.frexp(whole.astype(np.float64))[1] - below
    exponent = np.maximum(field, 1) - 150 + below
    return np.where(number, count, 0), np.where(number, exponent, 0)


def order(lines: Array) -> Array:
    """Indices of lines from the smallest to the largest: fewest elements that are not zero, fewest NaN and Inf, the
    shortest, fewest significant bits, last bits nearest to 2**0, fewest signs, then the magnitudes."""
    bits = lines.view(np.uint32)
    magnitudes = bits & np.uint32(0x7FFFFFFF)
    counts, exponents = significance(lines)
    keys = [
        (magnitudes != 0).sum(axis=1),
        (magnitudes >= 0x7F800000).sum(axis=1),
        np.where(bits != 0, np.arange(lines.shape[1]), 0).max(axis=1),
        counts.sum(axis=1),
        np.abs(exponents).sum(axis=1),
        (bits >> 31).sum(axis=1),
        *magnitudes.T,
    ]
    return np.lexsort(keys[::-1])


def _sorted(lines: Array) -> Array:
    return np.ascontiguousarray(lines[order(lines)])


def _both_signs(magnitudes: Array) -> Array:
    return np.concatenate([magnitudes, -magnitudes]).reshape(-1, 1)


def _numbers(bits: int, low: int, high: int) -> Array:
    """Positive numbers of at most so many significant bits, with last bits from 2**low to 2**high."""
    odd = np.arange(1, 1 << bits, 2, dtype=np.float64)
    made = np.ldexp(odd[:, None], np.arange(low, high + 1)[None, :]).reshape(-1)
    return made[made < 2.0**_TOP].astype(np.float32)


@lru_cache(maxsize=1)
def _every() -> Array:
    """All numbers of at most EVERY_BITS significant bits, in order."""
    return _sorted(_both_signs(_numbers(EVERY_BITS, _LEAST, _TOP - 1)))


@lru_cache(maxsize=4)
def _near(points: tuple[float, ...]) -> Array:
    """Other numbers near the thresholds of every binade, in order."""
    exponents = np.arange(_LEAST, _TOP)
    at = np.ldexp(np.array(points)[:, None], exponents[None, :]).reshape(-1).astype(np.float32)
    near = np.unique(np.concatenate([stepped(at, side * steps) for steps in NEAR_STEPS for side in (-1, 1)]))
    near = near[(near > 0) & (significance(near)[0] > EVERY_BITS)]
    return _sorted(_both_signs(near))


@lru_cache(maxsize=4)
def _pairs(low: int) -> Array:
    """Pairs of round numbers, either the larger one first, and with zeros, in order."""
    left, right = _both_signs(_numbers(6, -3, 3))[:, 0], _both_signs(_numbers(3, low, 4))[:, 0]
    left, right = np.append(left, _f32([0.0, -0.0])), np.append(right, _f32([0.0, -0.0]))
    both = np.stack([x.reshape(-1) for x in np.meshgrid(left, right)], axis=1)
    return _sorted(np.concatenate([both, both[:, ::-1]]))


@lru_cache(maxsize=4)
def _apart(low: int, distance: int) -> Array:
    """Pairs of the roundest numbers, the second so many elements after the first."""
    left, right = _both_signs(_numbers(2, -1, 1))[:, 0], _both_signs(_numbers(2, low, 4))[:, 0]
    both = np.stack([x.reshape(-1) for x in np.meshgrid(left, right)], axis=1)
    lines = np.zeros((2 * len(both), distance + 1), np.float32)
    lines[:, 0], lines[:, -1] = np.concatenate([both, both[:, ::-1]]).T
    return _sorted(lines)


@lru_cache(maxsize=1)
def _special_pairs() -> Array:
    """Pairs with NaN or Inf."""
    pool = _f32([0.0, -0.0, 1, -1, 3, 2.0**-20, np.inf, -np.inf, np.nan])
    lines = np.array(list(product(pool, repeat=2)), np.float32)
    return _sorted(lines[~np.isfinite(lines).all(axis=1)])


@lru_cache(maxsize=2)
def _several(length: int) -> Array:
    """Blocks of a few numbers out of few."""
    pool = {3: [1, 2, 3, 0.5, 1.5, 0.25, 4, 6], 4: [1, 2, 3, 0.5]}[length]
    signed = _f32([sign * value for value in pool for sign in (1, -1)])
    return _sorted(np.array(list(product(signed, repeat=length)), np.float32))


def _span(record: ElementFormat) -> int:
    """Powers of two between the smallest and the largest value."""
    return record.emax - record.emin + record.mantissa_bits


def _stages(a: Spec, b: Spec) -> Iterator[_Stage]:
    zeros = _f32([[0.0], [-0.0]])
    yield _Stage("zeros of both signs", "zeros", zeros, proven=True)
    every = _every()
    yield _Stage("", "first", every[:_FIRST], proven=True)
    text = f"all {len(every)} numbers of at most {EVERY_BITS} significant bits"
    yield _Stage(text, "every", every[_FIRST:], proven=True)
    points = thresholds(a, b)
    near = _near(points)
    yield _Stage(f"{len(near)} numbers within {NEAR_STEPS[-1]} steps of a threshold of their binade", points, near)
    yield _Stage("Inf and NaN", "special", _f32([[np.inf], [-np.inf], [np.nan]]))
    element = a.format.element
    low = -min(48, _span(element) + 4)
    pairs = _pairs(low)
    yield _Stage(f"{len(pairs)} pairs of round numbers", ("pairs", low), pairs)
    distances = {level.along for made in (a, b) for level in made.format.levels if 1 < level.along <= 256}
    if len(a.format.levels) > 1 or a.format.levels != b.format.levels:
        lowest = -min(48, _span(element) + 4 + sum(_span(level.format) for level in a.format.levels[1:]))
        for distance in sorted(distances):
            lines = _apart(lowest, distance)
            text = f"{len(lines)} pairs of round numbers {distance} elements apart"
            yield _Stage(text, ("apart", lowest, distance), lines)
    yield _Stage("pairs with NaN or Inf", "special pairs", _special_pairs())
    for length in (3, 4):
        lines = _several(length)
        yield _Stage(f"{len(lines)} blocks of {length} round numbers", ("several", length), lines)


def search(
    a: Spec, b: Spec, runs: Runs, others: list[tuple[str, Array]], kind: Kind = "bits"
) -> tuple[Smallest | None, tuple[str, ...]]:
    """Looks for the smallest block of which a value or a code differs, else for one of which a scale does.

    Args:
        a: a `line_spec`.
        b: another.
        runs: keeps encodings of what is tried.
        others: further lines by name, tried last and made smaller.
        kind: ``numbers`` looks for values that are different numbers, and for nothing else.

    Returns:
        What was found, and what was tried.
    """
    tried: list[str] = []
    scale_hit: tuple[Array, _Stage] | None = None
    stages = [*(_Stage(name, None, lines, ordered=False) for name, lines in others)]
    for group in (_stages(a, b), iter(stages)):
        for stage in group:
            if stage.text:
                tried.append(stage.text)
            if stage.name is None:
                found = gaps(encode_lines(stage.lines, a), encode_lines(stage.lines, b))
            else:
                found = runs.gaps(stage.name, stage.lines, a, b)
            hits = np.flatnonzero(found.lines(kind))
            if hits.size:
                return _smaller(stage, stage.lines[hits[:_TRIED_LINES]], a, b, kind), tuple(tried)
            if scale_hit is None and kind == "bits":
                hits = np.flatnonzero(found.lines("scales"))
                if hits.size:
                    scale_hit = stage.lines[hits[:_TRIED_LINES]], stage
    if scale_hit is None:
        return None, tuple(tried)
    return _smaller(scale_hit[1], scale_hit[0], a, b, "scales"), tuple(tried)


def _smaller(stage: _Stage, lines: Array, a: Spec, b: Spec, kind: Kind) -> Smallest:
    """The first of ordered lines, or the smallest that several can be made into."""
    if stage.proven:
        return Smallest(lines[0], kind, True)

    def differs(tried: Array) -> Array:
        return gaps(encode_lines(tried, a), encode_lines(tried, b)).lines(kind)

    made = [shrunk(line, differs) for line in (lines[:1] if stage.ordered else lines)]
    width = max(map(len, made))
    padded = np.array([np.pad(line, (0, width - len(line))) for line in made])
    best = made[int(order(padded)[0])]
    return Smallest(best, kind, False)


def shrunk(line: Array, differs: Test) -> Array:
    """A line that differs, made smaller while it does: elements left out, then numbers made rounder."""
    best = _fewer(line, differs)
    while True:
        candidates = np.concatenate([best[None, :], *_rounder(best)])
        candidates = candidates[order(candidates)]
        place = int(np.flatnonzero((candidates.view(np.uint32) == best.view(np.uint32)).all(axis=1))[0])
        if place == 0:
            break
        hits = np.flatnonzero(differs(candidates[:place]))
        if not hits.size:
            break
        best = candidates[hits[0]]
    end = int(np.flatnonzero(best.view(np.uint32))[-1]) + 1 if best.view(np.uint32).any() else 1
    return best[:end] if differs(best[None, :end])[0] else best


def _fewer(line: Array, differs: Test) -> Array:
    """Zeros in place of elements that are not needed: all but one or two of them if possible, else one by one."""
    held = np.flatnonzero(line.view(np.uint32))
    if held.size > 2:
        magnitudes = line.view(np.uint32) & np.uint32(0x7FFFFFFF)
        peak = int(held[np.argmax(magnitudes[held])])
        kept = [[int(place)] for place in held] + [[peak, int(place)] for place in held if place != peak]
        tried = np.zeros((len(kept), line.size), np.float32)
        for row, places in zip(tried, kept, strict=True):
            row[places] = line[places]
        hits = np.flatnonzero(differs(tried))
        if hits.size:
            return np.array(tried[hits[order(tried[hits])[0]]])
    size = max(1, held.size // 2)
    while True:
        parts = [held[i : i + size] for i in range(0, held.size, size)]
        tried = np.repeat(line[None, :], len(parts), axis=0)
        for row, part in zip(tried, parts, strict=True):
            row[part] = 0
        hits = np.flatnonzero(differs(tried)) if parts else np.zeros(0, np.int64)
        if hits.size:
            line = tried[hits[0]]
            held = np.flatnonzero(line.view(np.uint32))
        elif size == 1:
            return line
        else:
            size //= 2


def _rounder(line: Array) -> Iterator[Array]:
    """Lines like this one with rounder numbers, or moved to the front."""
    places = np.flatnonzero(line.view(np.uint32) & np.uint32(0x7FFFFFFF))
    front = np.zeros_like(line)
    nonzero = line[np.flatnonzero(line.view(np.uint32))]
    front[: nonzero.size] = nonzero
    yield front[None, :]
    for shift in range(1, 65):
        with np.errstate(all="ignore"):
            moved = [np.ldexp(line, step).astype(np.float32) for step in (-shift, shift)]
        yield np.array(moved)
    shorter = {int(place): _shorter(line[place]) for place in places}
    for place, numbers in shorter.items():
        made = np.repeat(line[None, :], numbers.size, axis=0)
        made[:, place] = numbers
        yield made
        yield np.where(np.arange(line.size) == place, np.abs(line), line)[None, :]
        yield np.where(np.arange(line.size) == place, np.float32(0), line)[None, :]
    if len(shorter) == 2:
        (i, left), (j, right) = shorter.items()
        both = np.stack([x.reshape(-1) for x in np.meshgrid(left, right)], axis=1)
        made = np.repeat(line[None, :], len(both), axis=0)
        made[:, [i, j]] = both
        yield made


def _shorter(number: Any) -> Array:
    """A number cut and rounded up to fewer bits, and nearer to 1 by powers of two; 1 for what is none."""
    bits = _f32([number]).view(np.uint32)
    if int(bits[0]) & 0x7F800000 == 0x7F800000:
        return _f32([1, number])
    masks = np.uint32(0xFFFFFFFF) << np.arange(1, 24, dtype=np.uint32)
    cut = bits & masks
    up = cut + (~masks + np.uint32(1))
    with np.errstate(all="ignore"):
        near = [np.ldexp(number, step) for step in range(-40, 41)]
    made = np.concatenate([cut.view(np.float32), up.view(np.float32), _f32(near)])
    return np.unique(made[np.isfinite(made)].view(np.uint32)).view(np.float32)


def boundary(line: Array, a: Spec, b: Spec, kind: Kind) -> tuple[int, int] | None:
    """The stretch of magnitudes around the only number of a line for which two specs differ: the bits of its least and
    its largest one within the binade, as bisection finds them. None for other lines."""
    bits = line.view(np.uint32)
    if line.size != 1 or not 0 < int(bits[0]) & 0x7FFFFFFF < 0x7F800000:
        return None
    sign, middle = int(bits[0]) & 0x80000000, int(bits[0]) & 0x7FFFFFFF
    low = max(1, middle & 0x7F800000)

    def differ(magnitudes: Array) -> Array:
        lines = (magnitudes.astype(np.uint32) | np.uint32(sign)).view(np.float32).reshape(-1, 1)
        return gaps(encode_lines(lines, a), encode_lines(lines, b)).lines(kind)

    return _end(middle, low, differ), _end(middle, low & 0x7F800000 | 0x7FFFFF, differ)


def _end(inside: int, limit: int, differ: Test) -> int:
    """The last that differs, on the way from one that does to a limit."""
    outside = limit
    while inside != outside:
        points = np.unique(np.linspace(inside, outside, 1025).astype(np.int64))
        points = points if outside > inside else points[::-1]
        same = np.flatnonzero(~differ(points))
        if not same.size:
            return outside
        inside, outside = int(points[max(0, same[0] - 1)]), int(points[same[0]])
        if abs(inside - outside) <= 1:
            return inside
    return inside
