"""An input that two machines answer differently, found by search and made small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.candidates import Candidate, canonical
from sparq_sim.matmul import RESULTS
from sparq_sim.operands import Operand

_ROWS = 24
_LONGEST = 1024
_SHOWN = 8
_SHRINKS = 250
#: How far exponents spread, and about how many elements of a line are not zero: few, so that what is found is small.
_KINDS = (
    (2, 4),
    (8, 6),
    (1, 2 * _LONGEST),
    (4, 12),
    (8, 2 * _LONGEST),
    (16, 8),
    (64, 2 * _LONGEST),
    (200, 2 * _LONGEST),
)


@dataclass(frozen=True)
class Telling:
    """One dot product that tells two machines apart."""

    first: str
    second: str
    a: tuple[int, ...]
    """Codes, [K]."""
    b: tuple[int, ...]
    c: float | int | None
    first_bits: str
    second_bits: str

    @classmethod
    def of(cls, first: str, second: str, a: Array, b: Array, c: float | None, one: Any, other: Any) -> Telling:
        """Of codes, [K], and the bits of two answers, in their unsigned dtype."""
        made = (f"0x{int(bits):0{2 * bits.dtype.itemsize}X}" for bits in (one, other))
        return cls(first, second, tuple(a.tolist()), tuple(b.tolist()), c, *made)

    def __str__(self) -> str:
        start = "" if self.c is None else f", c = {self.c!r}"
        places = [k for k in range(len(self.a)) if self.a[k] and self.b[k]]
        pairs = ", ".join(f"[{k}] {self.a[k]:#x} * {self.b[k]:#x}" for k in places[:_SHOWN])
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        zero = f"K = {len(self.a)}, zero but for " if len(places) < len(self.a) else ""
        return f"{self.first} | {self.second}: {zero}{pairs}{more}{start}: {self.first_bits} | {self.second_bits}"


def drawn_line(rng: np.random.Generator, element: ElementFormat, shape: tuple[int, int], spread: int) -> Array:
    """Finite codes; of floats with exponents of 2^-spread to 2^spread around 1 (or the middle of what there is), of
    integers all. Some are zero, and some are those before them with the other sign."""
    bits = element.exponent_bits + element.mantissa_bits
    codes = rng.integers(0, 1 << element.code_bits, shape, dtype=np.uint64)
    if element.exponent_bits and not element.taper:
        middle = min(max(0, element.emin), element.emax) + element.bias
        field = np.clip(middle + rng.integers(-spread, spread + 1, shape), 0, element.emax + element.bias)
        mantissa = codes & np.uint64((1 << element.mantissa_bits) - 1)
        magnitude = np.minimum(field.astype(np.uint64) << np.uint64(element.mantissa_bits) | mantissa, element.max_code)
        codes = codes >> np.uint64(bits) << np.uint64(bits) | magnitude
    made = codes.astype(np.dtype(f"u{element.code_bytes}"))
    made[rng.random(shape) < 0.1] = 0
    return made


def drawn_start(rng: np.random.Generator, shape: tuple[int, int], result: str, spread: int) -> Array:
    """Values of c of sizes around those of products."""
    if result == "int32":
        return rng.integers(-(2**31), 2**31, shape, dtype=np.int64).astype(np.int32)
    exponent = rng.integers(-2 * spread - 2, 2 * spread + 3, shape)
    if result == "fp16":
        exponent = np.clip(exponent, -20, 14)
    values = np.ldexp(rng.uniform(1, 2, shape) * rng.choice([-1.0, 1.0], shape), exponent)
    values[rng.random(shape) < 0.2] = 0
    made: Array = values.astype(RESULTS[result])
    return made


def tell_apart(
    first: Candidate, second: Candidate, elements: tuple[ElementFormat, ElementFormat], with_start: bool, dtype: str
) -> Telling | None:
    """The smallest input that the search finds; None if it finds none."""
    rng = np.random.default_rng(7)
    for a, b, start in _draws(rng, first, second, elements, with_start):
        made = [_asked(one, a, b, start, elements, dtype) for one in (first, second)]
        places = np.argwhere(made[0] != made[1])
        if len(places):
            i, j = places[0]
            c = None if start is None else start[i : i + 1, j : j + 1]
            return _smaller(first, second, a[i : i + 1], b[j : j + 1], c, elements, dtype)
    return None


def _asked(
    one: Candidate, a: Array, b: Array, start: Array | None, elements: tuple[ElementFormat, ElementFormat], dtype: str
) -> Array:
    # Both candidates write the same dtype, but one that rounds float32 starts in float32.
    own = None if start is None else start.astype(RESULTS[one.result])
    return canonical(one.outputs(Operand(a, elements[0]), Operand(b, elements[1]), own, threads=1), dtype)


def _lengths(*candidates: Candidate) -> list[int]:
    made = {1, 2, 3, 4, 8, 16}
    for one in candidates:
        path = one.record
        part = 0 if one.split is None or one.split.length is None else one.split.length
        for length in (path.group, path.instruction, path.chunk, part):
            made |= {length, 2 * length, length + max(1, path.group)}
    return sorted(length for length in made if 0 < length <= _LONGEST)


def _draws(
    rng: np.random.Generator,
    first: Candidate,
    second: Candidate,
    elements: tuple[ElementFormat, ElementFormat],
    with_start: bool,
) -> Iterator[tuple[Array, Array, Array | None]]:
    for length in _lengths(first, second):
        for spread, filled in _KINDS:
            a, b = (drawn_line(rng, element, (_ROWS, length), spread) for element in elements)
            a[:, rng.random(length) > filled / length] = 0
            half = length // 2
            if half and spread > 1 and filled > length:  # products that cancel, so that what is small comes to light
                sign = a.dtype.type(1 << (elements[0].code_bits - 1))
                if elements[0].signedness == "sign_magnitude":
                    a[:, half : 2 * half] = a[:, :half] ^ sign
                    a[: _ROWS // 2, -1] = drawn_line(rng, elements[0], (_ROWS // 2, 1), 1)[:, 0]
            result = first.result if first.result == second.result else "fp16"
            yield a, b, drawn_start(rng, (_ROWS, _ROWS), result, min(spread, 40)) if with_start else None


def _smaller(
    first: Candidate,
    second: Candidate,
    a: Array,
    b: Array,
    c: Array | None,
    elements: tuple[ElementFormat, ElementFormat],
    dtype: str,
) -> Telling:
    """Elements set to zero, and cut off the end, as long as the answers differ."""

    def answers(x: Array, y: Array, start: Array | None) -> tuple[Any, Any]:
        made = [_asked(one, x, y, start, elements, dtype)[0, 0] for one in (first, second)]
        return made[0], made[1]

    def differ(x: Array, y: Array, start: Array | None) -> bool:
        one, other = answers(x, y, start)
        return bool(one != other)

    def each(lines: Array) -> Array:
        """Whether the answers differ, with each of these lines for a."""
        starts = None if c is None else np.repeat(c, len(lines), axis=0)
        made = [_asked(one, lines, b, starts, elements, dtype)[:, 0] for one in (first, second)]
        differing: Array = made[0] != made[1]
        return differing

    size = max(1, a.shape[1] // 2)
    for _ in range(_SHRINKS):
        filled = np.flatnonzero(a[0])
        parts = [filled[at : at + size] for at in range(0, len(filled), size)]
        lines = np.repeat(a, len(parts), axis=0)
        for line, part in zip(lines, parts, strict=True):
            line[part] = 0
        removable = np.flatnonzero(each(lines)) if parts else np.array([], np.int64)
        if len(removable) == 0:
            if size == 1:
                break
            size = (size + 1) // 2
            continue
        # Together, if that does, else half of them, and so on.
        while True:
            line = a.copy()
            line[0, np.concatenate([parts[i] for i in removable])] = 0
            if each(line)[0]:
                a = line
                break
            removable = removable[: max(1, len(removable) // 2)]
    cleared = np.where(a == 0, b.dtype.type(0), b)
    if differ(a, cleared, c):
        b = cleared
    if c is not None and differ(a, b, np.zeros_like(c)):
        c = np.zeros_like(c)
    while a.shape[1] > 1 and differ(np.ascontiguousarray(a[:, :-1]), np.ascontiguousarray(b[:, :-1]), c):
        a, b = np.ascontiguousarray(a[:, :-1]), np.ascontiguousarray(b[:, :-1])
    one, other = answers(a, b, c)
    value: Any = None if c is None else c[0, 0].item()
    return Telling.of(first.label, second.label, a[0], b[0], value, one, other)
