"""What can be proven before a machine is built: how far off its sums are, and how wide they have to be."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array, to_numpy
from sparq_sim.batches import Batches
from sparq_sim.bounds import Problem, Sum, datapath_bound, epilogue_bound, parts_bound, rounding_bound
from sparq_sim.compressed import StoredOperand, stored_ends, stored_of
from sparq_sim.epilogue import Epilogue
from sparq_sim.formats import Format, Spec, find_element
from sparq_sim.machines import AnyDatapath, resolve_datapath
from sparq_sim.operands import Operand, operand_of, segment_run
from sparq_sim.outputs import output_spec
from sparq_sim.split import SplitK, split_of


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
    _require_count(k)
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


def _require_count(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k={k!r}: needed at least one product, as an integer")


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
    datapath: AnyDatapath,
    k: int | None = None,
    c: object = None,
    a_format: str | ElementFormat | None = None,
    b_format: str | ElementFormat | None = None,
    a_scales: object = None,
    b_scales: object = None,
    compressed: str | None = None,
    split_k: SplitK | int | None = None,
    epilogue: Epilogue | None = None,
    output: str | Format | Spec | None = None,
) -> Any:
    """A proven bound on |machine - exact| of dot products, where nothing overflows, wraps or saturates
    (docs/numerics.md section 11).

    Args:
        a, b: names of elements, or records: the bound then holds for any k finite elements without scales, and c = 0.
            Or operands, as in `matmul`: then it is that of each of their dot products, which is tighter, since it
            knows the sums of magnitudes.
        datapath: the machine.
        k: products of a dot product, with formats.
        c, a_format, b_format, a_scales, b_scales, compressed: as in `matmul`, with operands. Float scales are refused.
        split_k, epilogue, output: as in `matmul`: the bound is then that of what comes out at the end, against
            alpha · (c + Σ a·b) + beta · source + bias of what was given. An output has no scales. With formats, source
            and bias are of one output.

    Returns:
        A float, or [..., M, N] float64.

    Raises:
        ValueError: what `matmul` refuses; k missing, or beside operands; outputs with scales, or tapered.

    >>> import sparq_sim as sq
    >>> sq.error_bound("e4m3", "e4m3", datapath="exact", k=32) < 1
    True
    """
    path = resolve_datapath(datapath)
    split = split_of(split_k)
    if epilogue is not None and not isinstance(epilogue, Epilogue):
        raise TypeError(f"epilogue: needed an Epilogue, got {type(epilogue).__name__}")
    after = _After(epilogue, None if output is None else _bounded_output(output))
    if isinstance(a, (str, ElementFormat)) or isinstance(b, (str, ElementFormat)):
        if not (isinstance(a, (str, ElementFormat)) and isinstance(b, (str, ElementFormat))):
            raise ValueError("a and b: needed two formats or two operands")
        if k is None:
            raise ValueError("k: with formats, the number of products is needed")
        _require_count(k)
        if compressed is not None:
            raise ValueError("compressed: with formats, k is what the machine counts")
        return float(after.bound(_of_formats(path, a, b, k, split))[0, 0])
    if k is not None:
        raise ValueError("k: operands say how long they are")
    given = [operand_of(x, f, s, None, path, n) for x, f, s, n in ((a, a_format, a_scales, "a"),
                                                                  (b, b_format, b_scales, "b"))]  # fmt: skip
    left, right = given
    if left.k != right.k:
        raise ValueError(f"K does not match: {left.k} and {right.k}")
    for operand, what in ((left, "a"), (right, "b")):
        if operand.float_scales is not None or operand.tensor_scale is not None:
            raise ValueError(f"{what}: float scales multiply the result of a machine; bound the codes without them")
    shape = Batches.of(left.shape, right.shape, "both with K last").shape
    start = np.zeros(shape)
    if c is not None:
        array = to_numpy(c, "c")
        if array.shape != shape:
            raise ValueError(f"c: shape {array.shape}; needed [..., M, N] = {shape}")
        start = np.abs(array.astype(np.float64))
        if not bool(np.isfinite(start).all()):
            raise ValueError("c: needed finite numbers")
    if compressed not in (None, "a", "b"):
        raise ValueError(f"compressed={compressed!r}: needed 'a', 'b' or None")
    stored = None if compressed is None else stored_of(a if compressed == "a" else b, compressed)
    whole = _Magnitudes.of(path, left, right, stored, compressed == "b")
    if split is None:
        return after.bound(whole.sum(0, whole.k, start))
    ends = split.ends(whole.k, path)
    none = np.zeros(shape)
    parts = [whole.sum(begin, end, none) for begin, end in itertools.pairwise([0, *ends])]
    return after.bound(parts_bound(parts, start, split.precision) if parts else Sum(start, none))


@dataclass(frozen=True)
class _After:
    """What happens to a sum of a machine."""

    epilogue: Epilogue | None
    output: Spec | None

    def bound(self, made: Sum) -> Array:
        if self.epilogue is not None:
            how = self.epilogue
            source, bias = how.magnitudes(made.size.shape)
            made = epilogue_bound(made, how.alpha, how.beta, source, bias, how.precision)
        if self.output is not None:
            nearest = self.output.conversion.rounding.startswith("nearest")
            made = rounding_bound(made, self.output.format.element, nearest)
        return made.error


def _bounded_output(output: str | Format | Spec) -> Spec:
    made = output_spec(output)
    element, how = made.format.element, made.conversion
    plain = how.subnormals == how.input_subnormals == "keep" and how.preround == "none"
    if made.format.levels or made.sparsity is not None or element.taper or not element.zero or not plain:
        raise ValueError(
            f"output={made.format.name}: a bound is of one rounding to numbers on a grid; needed a format without "
            "scales, pattern and taper, and with its subnormals"
        )
    return made


def _of_formats(path: Datapath, a: str | ElementFormat, b: str | ElementFormat, k: int, split: SplitK | None) -> Sum:
    """Of any k finite elements."""
    records = [find_element(x) if isinstance(x, str) else x for x in (a, b)]
    _core.check_operands(path, records[0], records[1], False)
    tops = [float(max(_largest(record, True), _largest(record, False))) for record in records]

    def part(length: int) -> Sum:
        total = np.array([[length * tops[0] * tops[1]]]) * (1 + 2.0**-50)
        problem = Problem(total, length, 1, records[0], records[1], tops[0], tops[1], False)
        return Sum(total, datapath_bound(path, problem))

    if split is None:
        return part(k)
    ends = split.ends(k, path)
    parts = [part(end - begin) for begin, end in itertools.pairwise([0, *ends])]
    return parts_bound(parts, np.zeros((1, 1)), split.precision)


@dataclass(frozen=True)
class _Magnitudes:
    """Decoded magnitudes of two operands, and which of them a machine takes together."""

    path: Datapath
    a: Array
    """[..., M, K]."""
    b: Array
    ends: tuple[tuple[int, ...], tuple[int, ...]]
    """Where segments end, as the machine counts K."""
    elements: tuple[ElementFormat, ElementFormat]
    scales: tuple[float, float]
    k: int
    """As the machine counts it."""
    stored: StoredOperand | None
    flipped: bool

    @classmethod
    def of(cls, path: Datapath, a: Operand, b: Operand, stored: StoredOperand | None, flipped: bool) -> _Magnitudes:
        (x, x_scale), (y, y_scale) = _decoded(a, path), _decoded(b, path)
        k, ends = a.k, (a.segment_end, b.segment_end)
        if stored is not None:
            k = stored.codes.shape[1]
            first, second = (stored_ends(x.segment_end, x.k, stored, n) for x, n in ((a, "a"), (b, "b")))
            ends = (first, second)
        return cls(
            path, np.abs(x).reshape(a.shape), np.abs(y).reshape(b.shape), ends, (a.element, b.element),
            (x_scale, y_scale), k, stored, flipped,
        )  # fmt: skip

    def taken(self, begin: int, end: int) -> tuple[Array, Array]:
        """Both sides with what lies in that run of K."""
        if self.stored is None:
            return self.a[..., begin:end], self.b[..., begin:end]
        own = self.b if self.flipped else self.a
        flat = own.reshape(-1, own.shape[-1])
        padded, kept = (np.zeros((flat.shape[0], flat.shape[1] + 1)) for _ in range(2))
        padded[:, :-1] = flat
        places = self.stored.places[:, begin:end].astype(np.int64)
        np.put_along_axis(kept, places, np.take_along_axis(padded, places, axis=1), axis=1)
        part = kept[:, :-1].reshape(own.shape)
        return (self.a, part) if self.flipped else (part, self.b)

    def sum(self, begin: int, end: int, start: Array) -> Sum:
        """What a machine makes of a run of K, from numbers of that magnitude on."""
        x, y = self.taken(begin, end)
        total = x @ y.swapaxes(-1, -2) + start
        total = total * (1 + (2 * x.shape[-1] + 4) * 2.0**-53)
        segments = max(1, len({stop for ends in self.ends for stop in segment_run(ends, begin, end)[1]}))
        problem = Problem(
            total, end - begin, segments, *self.elements, _top(x), _top(y), False,
            a_block_scale=self.scales[0], b_block_scale=self.scales[1],
        )  # fmt: skip
        return Sum(total, datapath_bound(self.path, problem))


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
