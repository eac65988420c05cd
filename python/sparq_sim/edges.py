"""Blocks at the edges of what a format and its choices decide: ties, thresholds, the ends of ranges, no numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice, pairwise

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.formats import Format, Spec

#: Elements of a line of a format whose blocks have no length of their own, or a longer one than is needed.
_WIDTH, _LONGEST = 32, 256
#: What else a block holds, as parts of its largest magnitude.
_REST = (-0.5, 0.375, -0.3125, 0.0625, -1 / 64, 0.0, -0.0, 2.0**-9, -(2.0**-20), 0.9, -1 / 3, 1.0, -1.0)
_EXPONENTS = (-149, -140, -130, -127, -126, -125, -60, -20, -3, -1, 0, 1, 2, 5, 8, 20, 60, 100, 125, 126, 127)
_STEPS = (-40, -8, -1, 0, 1, 8, 40)
_INFINITY_BITS = 0x7F800000


def binade(value: float) -> int:
    """floor(log2) of a positive number, by its bits."""
    return math.frexp(value)[1] - 1


def largest(element: ElementFormat) -> float:
    """The largest finite value."""
    return element.value(element.max_code)


def fraction_bits(element: ElementFormat) -> int:
    """Of the largest binade: an integer's leading bit is one of its mantissa."""
    return element.mantissa_bits if element.exponent_bits else element.mantissa_bits - 1


def thresholds(*specs: Spec) -> tuple[float, ...]:
    """Where in a binade, from 1 to below 2, the rules of scales and roundings change their mind; rising."""
    found = {1.0, 1.5}
    for made in specs:
        element, how = made.format.element, made.conversion
        bits = fraction_bits(element)
        reach = largest(element)
        found |= {reach / 2.0 ** binade(reach), 1 + 2.0 ** (-bits - 1), 1 + 3 * 2.0 ** (-bits - 1)}
        found |= {2 - 2.0 ** (-m - 1) for m in (bits, bits - 1, how.even_bits) if m >= 0}
        if how.divisor > 0:
            found.add(how.divisor / 2.0 ** binade(how.divisor))
    return tuple(sorted(t for t in found if t < 2))


def element_ties(element: ElementFormat) -> list[float]:
    """Magnitudes half way between neighbours, and half a step above the largest; of wide elements those of some
    binades."""
    top = largest(element)
    if element.code_bits <= 8:
        values = [element.value(code) for code in range(1 << element.code_bits)]
        grid = sorted({abs(value) for value in values if math.isfinite(value) and abs(value) <= top})
        return [(low + high) / 2 for low, high in pairwise(grid)] + [top + (top - grid[-2]) / 2]
    steps = 2**element.mantissa_bits
    parts = (0, 1, steps // 2 - 1, steps // 2, steps - 2, steps - 1)
    exponents = sorted({element.emin, element.emin + 1, -1, 0, 1, element.emax - 1, element.emax})
    found = [(steps + part + 0.5) * 2.0 ** (e - element.mantissa_bits) for e in exponents for part in parts]
    return [(part + 0.5) * 2.0 ** (element.emin - element.mantissa_bits) for part in parts] + found


def float32(values: Sequence[float] | Array) -> Array:
    """The nearest float32 numbers; the largest one instead of Inf for what is beyond it."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = np.array(values, np.float64).astype(np.float32)
    beyond = np.isinf(narrow) & np.isfinite(values)
    return np.where(beyond, np.copysign(np.finfo(np.float32).max, narrow), narrow)


def stepped(values: Array, steps: int) -> Array:
    """Finite float32 numbers moved away from zero by steps of their last bit, no further than to zero or the
    largest."""
    bits = values.view(np.uint32)
    magnitude = (bits & 0x7FFFFFFF).astype(np.int64) + steps
    moved = magnitude.clip(0, _INFINITY_BITS - 1).astype(np.uint32) | (bits & np.uint32(0x80000000))
    return moved.view(np.float32)


class _Lines:
    """Builds lines of one block from a largest magnitude and what lies beside it."""

    def __init__(self, format: Format) -> None:
        main = format.main
        self.format = format
        self.block = _WIDTH if main is None or not 1 <= main.along <= _LONGEST else main.along
        #: Where a scale lies above those of blocks, a second block has something to say too.
        self.above = format.block_format.main_level > 0 if format.levels else False

    def around(self, peak: float, inside: Sequence[float] = ()) -> list[Array]:
        """Lines that begin with `peak` and hold `inside`, or parts of `peak` where there is nothing."""
        room = max(1, self.block - 1)
        rest = [peak * part for part in _REST]
        pieces = [inside[i : i + room] for i in range(0, len(inside), room)] or [()]
        return [self.line([peak, *piece, *islice(cycle(rest), room - len(piece))]) for piece in pieces]

    def line(self, values: Sequence[float]) -> Array:
        """A line of these, cut to a block or filled with zeros."""
        made = np.zeros(self.block, np.float32)
        made[: len(values)] = float32(values)[: self.block]
        return made

    def stack(self, lines: list[Array]) -> Array:
        """Lines as an array; where there is a scale above blocks also under a larger one."""
        made = np.array(lines, np.float32).reshape(-1, self.block)
        if not self.above:
            return made
        second = np.zeros_like(made)
        with np.errstate(all="ignore"):
            second[::2, 0] = float32(made[::2, 0].astype(np.float64) * 640)
        return np.concatenate([made, second], axis=1)


def edge_sets(*specs: Spec) -> dict[str, Array]:
    """Lines that hit what the choices of these specs decide, by what they hit.

    Args:
        specs: of one format; blocks are those of the first.

    Returns:
        float32 arrays [lines, width], each line to be a tensor of its own.
    """
    format = specs[0].format
    lines, element, points = _Lines(format), format.element, thresholds(*specs)
    unit, reach = 2.0**element.emax, largest(element)
    ends = _scale_ends(format)
    names = ("ties", "thresholds", "subnormals", "zeros", "NaN and Inf", "huge", "ends of scales")
    found: dict[str, list[Array]] = {name: [] for name in names}
    ties, cut, low, zero, wild, huge, edge = found.values()
    halves = float32(element_ties(element))
    halves = np.concatenate([stepped(halves, -1), halves, stepped(halves, 1)])
    inside = np.concatenate([halves, -halves]).astype(np.float64)
    between = [unit * (low_point + high_point) / 2 for low_point, high_point in pairwise([*points, 2.0])]
    for scale in (1.0, 2.0**9, *ends):
        for peak in (unit, reach, *between):
            ties += lines.around(peak * scale, [value * scale for value in inside])
    for exponent in _EXPONENTS:
        peaks = float32([math.ldexp(t, exponent) for t in points])
        for steps in _STEPS:
            for peak in stepped(peaks, steps):
                cut += lines.around(float(peak))
    for exponent in range(-149, -120):
        for significand in (1.0, 1.25, 1.9375):
            low += lines.around(math.ldexp(significand, exponent))
            low += lines.around(1.0, [math.ldexp(significand, exponent), -math.ldexp(significand, exponent)])
    tiny = [-math.ldexp(1.0, -k) for k in range(1, 40)]
    for values in ([], [-0.0] * lines.block, [-0.0], [0.0, -0.0], [1.0, -0.0], [-1.0, 0.0, -0.0]):
        zero.append(lines.line(values))
    for peak in (1.0, -1.0, reach, 2.0**-126, 2.0**-149, 2.0**-130):
        zero += lines.around(peak, [abs(peak) * part for part in tiny])
    infinity, nan = math.inf, math.nan
    for special in ([nan], [-nan], [infinity], [-infinity], [infinity, nan], [-infinity, infinity]):
        for peak in (0.0, 1.0, reach, 2.0**-140, 3.0e38):
            one = lines.around(peak)[0]
            for place in (0, 1, lines.block - 1):
                other = one.copy()
                other[place : place + len(special)] = special[: len(other[place:])]
                wild.append(other)
        wild.append(lines.line(list(islice(cycle(special), lines.block))))
    for exponent in (120, 125, 126, 127):
        for peak in float32([math.ldexp(t, exponent) for t in (*points, 1.9999999)]):
            huge += lines.around(float(peak)) + lines.around(-float(peak))
    huge += lines.around(float(np.finfo(np.float32).max))
    for end in ends:
        for shift in range(-3, 4):
            peaks = float32([math.ldexp(t * base * end, shift) for t in points for base in (unit, reach)])
            for steps in (-1, 0, 1):
                for peak in stepped(peaks, steps):
                    edge += lines.around(float(peak))
    return {name: lines.stack(made) for name, made in found.items() if made}


def _scale_ends(format: Format) -> tuple[float, ...]:
    """The smallest and the largest scale of a block; none without scales."""
    if format.main is None:
        return ()
    record = format.main.format
    return record.value(0 if not record.zero else 1), record.value(record.max_code)
