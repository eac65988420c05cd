"""What can be proven before a machine is built: how far off its sums are, and how wide they have to be."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array, to_numpy
from sparq_sim.batches import Batches
from sparq_sim.bounds import Problem, datapath_bound
from sparq_sim.formats import Machine, find_element
from sparq_sim.matmul import resolve_datapath
from sparq_sim.operands import Operand, operand_of


@dataclass(frozen=True)
class AccumulatorWidth:
    """Bits of a two's complement accumulator of units of 2^`unit_exponent`.

    With it no sum of so many products is rounded, none overflows, and one bit less overflows for some.
    """

    bits: int
    """With the sign."""
    unit_exponent: int
    """Of the smallest product."""
    largest: Fraction
    """The largest magnitude that a sum can have."""


def accumulator_width(
    a: str | ElementFormat,
    b: str | ElementFormat,
    k: int,
    *,
    scales: str | ElementFormat | None = None,
) -> AccumulatorWidth:
    """Bits that hold every sum of k products exactly: of one block, or with `scales` of any blocks together.

    Args:
        a, b: elements, by name (`elements()`) or as records.
        k: number of products, at least one.
        scales: format of the powers of two that both operands have per block (``"e8m0"``): all of them may meet in one
            sum.

    Raises:
        ValueError: unknown names; scales that are no powers of two; no products.

    >>> import sparq_sim as sq
    >>> sq.accumulator_width("int8", "int8", 64).bits, sq.accumulator_width("e4m3", "e4m3", 32).bits
    (22, 42)
    """
    if k < 1:
        raise ValueError(f"k={k}: needed at least one product")
    records = [find_element(x) if isinstance(x, str) else x for x in (a, b)]
    unit = sum(record.emin - record.mantissa_bits for record in records)
    magnitudes = [(_largest(record, True), _largest(record, False)) for record in records]
    (a_low, a_high), (b_low, b_high) = magnitudes
    highest = max(a_high * b_high, a_low * b_low)
    lowest = max(a_low * b_high, a_high * b_low)
    if scales is not None:
        record = find_element(scales) if isinstance(scales, str) else scales
        if not record.is_power_of_two_scale:
            raise ValueError(f"scales: needed powers of two, got {record!r}")
        unit += 2 * record.emin
        top = Fraction(2) ** (2 * (record.emin + record.max_code))
        highest, lowest = highest * top, lowest * top
    units = Fraction(2) ** unit
    high, low = int(k * highest / units), int(k * lowest / units)
    bits = 1 + max(high.bit_length(), (low - 1).bit_length())
    return AccumulatorWidth(bits, unit, k * max(highest, lowest))


def _largest(record: ElementFormat, negative: bool) -> Fraction:
    """The largest magnitude on one side."""
    if record.signedness == "unsigned" and negative:
        return Fraction(0)
    if record.signedness == "twos_complement" and negative:
        return Fraction(2) ** record.emin  # the lowest code
    return Fraction(record.value(record.max_code))


def error_bound(
    a: object,
    b: object,
    *,
    datapath: str | Machine | Datapath,
    k: int | None = None,
    c: object = None,
    a_format: str | ElementFormat | None = None,
    b_format: str | ElementFormat | None = None,
    a_scales: object = None,
    b_scales: object = None,
) -> Any:
    """A proven bound on |machine - exact| of dot products, where nothing overflows, wraps or saturates
    (docs/numerics.md section 11).

    Args:
        a, b: names of elements, or records: the bound then holds for any k finite elements without scales, and c = 0.
            Or operands, as in `matmul`: then it is that of each of their dot products, which is tighter, since it
            knows the sums of magnitudes.
        datapath: the machine.
        k: products of a dot product, with formats.
        c, a_format, b_format, a_scales, b_scales: as in `matmul`, with operands. Float scales are refused.

    Returns:
        A float, or [..., M, N] float64.

    Raises:
        ValueError: what `matmul` refuses; k missing, or beside operands.

    >>> import sparq_sim as sq
    >>> sq.error_bound("e4m3", "e4m3", datapath="exact", k=32) < 1
    True
    """
    path = resolve_datapath(datapath)
    if isinstance(a, (str, ElementFormat)) or isinstance(b, (str, ElementFormat)):
        if not (isinstance(a, (str, ElementFormat)) and isinstance(b, (str, ElementFormat))):
            raise ValueError("a and b: needed two formats or two operands")
        if k is None or k < 1:
            raise ValueError(f"k={k}: with formats, the number of products is needed")
        records = [find_element(x) if isinstance(x, str) else x for x in (a, b)]
        tops = [float(max(_largest(record, True), _largest(record, False))) for record in records]
        total = np.array([k * tops[0] * tops[1]]) * (1 + 2.0**-50)
        problem = Problem(total, k, 1, records[0], records[1], tops[0], tops[1], False)
        return float(datapath_bound(path, problem)[0])
    if k is not None:
        raise ValueError("k: operands say how long they are")
    left = operand_of(a, a_format, a_scales, None, path, "a")
    right = operand_of(b, b_format, b_scales, None, path, "b")
    if left.k != right.k:
        raise ValueError(f"K does not match: {left.k} and {right.k}")
    for operand, what in ((left, "a"), (right, "b")):
        if operand.float_scales is not None or operand.tensor_scale is not None:
            raise ValueError(f"{what}: float scales multiply the result of a machine; bound the codes without them")
    shape = Batches.of(left.shape, right.shape, "both with K last").shape
    (x, x_scale), (y, y_scale) = _decoded(left, path), _decoded(right, path)
    total = np.abs(x).reshape(left.shape) @ np.abs(y).reshape(right.shape).swapaxes(-1, -2)
    if c is not None:
        start = to_numpy(c, "c")
        if start.shape != shape:
            raise ValueError(f"c: shape {start.shape}; needed [..., M, N] = {shape}")
        total = total + np.abs(start.astype(np.float64))
    total = total * (1 + (2 * left.k + 4) * 2.0**-53)
    segments = max(1, len({*left.segment_end, *right.segment_end}))
    problem = Problem(
        total, left.k, segments, left.element, right.element, _top(x), _top(y), False,
        a_block_scale=x_scale, b_block_scale=y_scale,
    )  # fmt: skip
    return datapath_bound(path, problem)


def _top(values: Array) -> float:
    return float(np.max(np.abs(values), initial=0.0)) * (1 + 2.0**-50)


def _decoded(operand: Operand, path: Datapath) -> tuple[Array, float]:
    """Values with their scales, as float64, which holds them; and the largest scale, as a power of two above it."""
    element, codes = operand.element, operand.codes
    dropped = path.dropped_bits if element.mantissa_bits == 23 else 0
    values = np.empty(codes.shape)
    distinct, where = np.unique(
        codes >> np.array(dropped, codes.dtype) << np.array(dropped, codes.dtype), return_inverse=True
    )
    values[:] = np.array([element.value(int(code)) for code in distinct])[where].reshape(codes.shape)
    if not bool(np.isfinite(values).all()):
        raise ValueError("operands: needed finite numbers")
    if operand.block_scales is None or operand.scale is None or not operand.segment_end:
        return values, 1.0
    record = operand.scale
    size = record.max_code if record.is_power_of_two_scale else (1 << record.exponent_bits + record.mantissa_bits) - 1
    table = np.array([record.value(code) for code in range(size + 1)])
    chosen = operand.block_scales & size if not record.is_power_of_two_scale else operand.block_scales
    if chosen.size and int(chosen.max()) > size:
        raise ValueError("scales: needed numbers")
    factors = table[chosen]
    if not bool(np.isfinite(factors).all()):
        raise ValueError("scales: needed numbers")
    lengths = np.diff([0, *operand.segment_end])
    return values * np.repeat(factors, lengths, axis=1), 2 * float(np.max(factors, initial=2.0**-1022))
