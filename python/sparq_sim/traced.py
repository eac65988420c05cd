"""dot_trace: one dot product, with everything that `matmul` does around a machine, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array, is_torch, to_numpy
from sparq_sim.compressed import Selection, stored_of
from sparq_sim.epilogue import Epilogue
from sparq_sim.events import DOT_COUNTS
from sparq_sim.formats import Format, Spec
from sparq_sim.machines import AnyDatapath, resolve_datapath
from sparq_sim.matmul import (
    RESULTS,
    as_result,
    core_start,
    machine_for,
    matmul,
    result_of,
    rounds_afterwards,
)
from sparq_sim.operands import Operand, Pair, operand_of
from sparq_sim.outputs import output_spec
from sparq_sim.products import Product
from sparq_sim.quantize import encode
from sparq_sim.requantize import Requantization
from sparq_sim.split import SplitK, fitted, split_of
from sparq_sim.steps import rounded_to
from sparq_sim.tensor import BlockTensor
from sparq_sim.trace import DotTrace, Tracer, TraceStep, to_float

#: Exponent and fraction bits of the types that steps are rounded to.
_TYPES = {"fp32": (8, 23), "bf16": (8, 7), "fp16": (5, 10)}


def dot_trace(
    a: object,
    b: object,
    c: float | int | None = None,
    *,
    datapath: AnyDatapath,
    a_format: str | ElementFormat | None = None,
    b_format: str | ElementFormat | None = None,
    a_scales: object = None,
    b_scales: object = None,
    result: str | None = None,
    compressed: str | None = None,
    split_k: SplitK | int | None = None,
    epilogue: Epilogue | Requantization | None = None,
    output: str | Format | Spec | None = None,
) -> DotTrace:
    """One dot product, step by step: decoded operands, products, exponents, every aligned term and what was cut off it,
    sums before and after rounding, how parts of K meet, and what becomes of the sum.

    Args:
        a, b: one line each, [K] or [1, K], of the kinds that `matmul` takes.
        c: what the accumulator starts with, a number of the result's type.
        datapath, a_format, b_format, a_scales, b_scales, result: as in `matmul`. Float scales, which multiply the
            result of a machine or decode operands before it, are refused.
        compressed, split_k, epilogue, output: as in `matmul`, of a result of [1, 1]. Terms name the elements of dense
            lines, also where the machine counts stored ones; one that stands for no element (a line has ended) is K.

    Returns:
        A `DotTrace`: data, and with `print` a table. Its result is that of `matmul`; with `output=` its bits are those
        of the element's code.

    Raises:
        ValueError: what `matmul` refuses; operands of several lines; float scales.

    >>> import numpy as np, sparq_sim as sq
    >>> codes = np.uint8([0x38, 0x04, 0x04])
    >>> print(sq.dot_trace(codes, codes, datapath="hopper_fp8", a_format="e4m3", b_format="e4m3"))
    step 0: accumulator 0 adds 0  E = 0
      k 0: 1 * 1 = 1  e = 0  adds 1
      k 1: 0.0078125 * 0.0078125 = 6.103515625e-05  e = -12  adds 0  lost 6.103515625e-05
      k 2: 0.0078125 * 0.0078125 = 6.103515625e-05  e = -12  adds 0  lost 6.103515625e-05
      sum 1 -> 1
    result 1 (0x3F800000)
    """
    path = resolve_datapath(datapath)
    name = result_of(path, result)
    lines = [_line(x) for x in (a, b)]
    scales = [None if s is None else np.atleast_2d(np.asarray(s)) for s in (a_scales, b_scales)]
    own = machine_for(path, name)
    left = operand_of(lines[0], a_format, scales[0], None, own, "a")
    right = operand_of(lines[1], b_format, scales[1], None, own, "b")
    if left.k != right.k:
        raise ValueError(f"K does not match: a has {left.k} elements, b {right.k}")
    start = None if c is None else _start(c, name)
    if compressed is None and split_k is None and epilogue is None and output is None:
        return trace_operands(left, right, start, path, name)
    _check_lines(left, right)
    got = matmul(  # which refuses what means nothing
        lines[0], lines[1], datapath=path, c=start, a_format=a_format, b_format=b_format, a_scales=scales[0],
        b_scales=scales[1], result=name, compressed=compressed, split_k=split_k, epilogue=epilogue,
    )  # fmt: skip
    made = to_numpy(got, "result") if is_torch(got) else got
    split = split_of(split_k)
    stored = None if compressed is None else stored_of(lines["ab".index(compressed)], compressed)
    whole = Product(left, right, own, stored=stored, flipped=compressed == "b").whole()
    story = _Story(own)
    begin = 0.0 if start is None else float(start[0, 0])
    total = story.parts(whole, split, begin) if split is not None else story.part(whole, begin)
    if isinstance(epilogue, Epilogue):
        total = story.epilogue(epilogue, total)
    if rounds_afterwards(name, split, epilogue):
        total = story.step("result", total, _exact(total), story.narrow(_exact(total), "fp16"))
    value: float | int = made[0, 0].item()
    bits = int(made.view(f"u{made.itemsize}")[0, 0])
    if isinstance(epilogue, Requantization):
        story.step("requantized", total, _exact(total), float(value))
    if output is not None:
        tensor = encode(made.astype(np.float32), output_spec(output))
        value, bits = float(tensor.decode(dtype="float64")[0, 0]), int(tensor.codes[0, 0])
        story.step("output", float(made[0, 0]), _exact(float(made[0, 0])), value)
    return DotTrace(path, tuple(story.steps), value, bits, story.counts)


def trace_operands(
    a: Operand, b: Operand, start: Array | None, path: Datapath, result: str, split: SplitK | None = None
) -> DotTrace:
    """`dot_trace` of operands of one line each that were read; `start` is [1, 1] of the result's dtype.

    Raises:
        ValueError: operands of several lines; float scales.
    """
    _check_lines(a, b)
    own = machine_for(path, result)
    work = Product(a, b, own, split=split)
    sums = work.run(None if start is None else core_start(start))
    begin = 0.0 if start is None else float(start[0, 0])
    if split is None:
        tracer = Tracer(own, a, b)
        tracer.run(begin)
        steps, counts = tracer.steps, tracer.counts
    else:
        story = _Story(own)
        total = story.parts(work.whole(), split, begin)
        if rounds_afterwards(result, split, None):
            sums = rounded_to(sums, result)
            story.step("result", total, _exact(total), story.narrow(_exact(total), result))
        steps, counts = story.steps, story.counts
    got = as_result(sums, own, result)
    return DotTrace(path, tuple(steps), got[0, 0].item(), int(got.view(f"u{got.itemsize}")[0, 0]), counts)


def _start(c: float, result: str) -> Array:
    """c as [1, 1] of the result's type, to which a float is rounded.

    Raises:
        ValueError: no number, or one beyond the type's range.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            made = np.array([[c]]).astype(RESULTS[result])
            value = made.item()
            held = value == c if made.dtype.kind == "i" else math.isinf(value) == math.isinf(c)
        except (TypeError, ValueError, OverflowError):
            held = False
    if not held:
        raise ValueError(f"c={c!r}: needed one number that {result} holds")
    return made


def _check_lines(a: Operand, b: Operand) -> None:
    for operand, what in ((a, "a"), (b, "b")):
        if operand.rows != 1:
            raise ValueError(f"{what}: {operand.rows} lines; a trace is of one")
        if operand.float_scales is not None or operand.tensor_scale is not None:
            raise ValueError(f"{what}: float scales are no part of a machine's steps; trace the codes without them")


def _line(x: object) -> object:
    if isinstance(x, BlockTensor) or getattr(x, "ndim", 2) != 1:
        return x
    return x[None, :]  # type: ignore[index]


def _exact(value: float) -> Fraction | float:
    return Fraction(value) if math.isfinite(value) else value


@dataclass
class _Run:
    """A run of K as a tracer takes it."""

    a: Operand
    b: Operand
    names: Sequence[int]
    """Elements of dense lines, by place."""


def _run_of(part: Pair | Selection, first: int) -> _Run:
    if isinstance(part, Pair):
        return _Run(part.left, part.right, range(first, first + part.k))
    places = part.places[0]
    other = replace(part.other, codes=np.take(part.other.codes, places, axis=1), lead=())
    stored = replace(part.stored, lead=())
    return _Run(*((other, stored) if part.flipped else (stored, other)), places.tolist())


class _Story:
    """Steps of runs of K and of what is done to their sums, one list."""

    def __init__(self, path: Datapath) -> None:
        self.path = path
        self.steps: list[TraceStep] = []
        self.counts = dict.fromkeys(DOT_COUNTS, 0)

    def step(self, what: str, start: float, total: Fraction | float, result: float) -> float:
        """A step without products."""
        self.steps.append(TraceStep(what, start, (), None, _exact(start), total, result))
        return result

    def fit(self, value: float) -> float:
        """An integer in the machine's range."""
        kept = int(fitted(np.array(int(value)), self.path))
        self.counts["wrapped"] += int(kept != value)
        return float(kept)

    def narrow(self, value: Fraction | float, precision: str) -> float:
        """RN32, and a rounding to the precision."""
        for name in dict.fromkeys(("fp32", precision)):
            if isinstance(value, float) and not math.isfinite(value):
                return value
            value = to_float(Fraction(value), *_TYPES[name])
        return float(value)

    def part(self, whole: Pair | Selection, start: float, first: int = 0) -> float:
        """What a machine makes of a run of K."""
        run = _run_of(whole, first)
        tracer = Tracer(self.path, run.a, run.b)
        tracer.run(start)
        for step in tracer.steps:
            terms = tuple(replace(term, k=tuple(run.names[k] for k in term.k)) for term in step.terms)
            self.steps.append(replace(step, terms=terms))
        for name, count in tracer.counts.items():
            self.counts[name] += count
        return tracer.steps[-1].result if tracer.steps else start

    def narrowed(self, value: float, precision: str) -> float:
        """A sum in another precision."""
        if precision == "fp32":
            return value
        return self.noted("narrowed", value, _exact(value), self.narrow(_exact(value), precision))

    def noted(self, what: str, start: float, total: Fraction | float, result: float) -> float:
        """A step whose overflow counts."""
        finite = not isinstance(total, float) and math.isinf(result)
        self.counts["overflowed"] += int(finite)
        return self.step(what, start, total, result)

    def parts(self, whole: Pair | Selection, how: SplitK, start: float) -> float:
        """Parts of K, and how they meet."""
        ends, integers = how.ends(whole.k, self.path), self.path.output == "int32"
        if not ends:
            return start

        def one(number: int) -> float:
            begin = 0 if number == 0 else ends[number - 1]
            return self.narrowed(self.part(whole.part(begin, ends[number]), 0.0, begin), how.precision)

        def add(total: float, own: float) -> float:
            if integers:
                return self.step("part", total, Fraction(int(total + own)), self.fit(total + own))
            finite = math.isfinite(total) and math.isfinite(own)
            exact = Fraction(total) + Fraction(own) if finite else total + own
            return self.noted("part", total, exact, self.narrow(exact, how.precision))

        def tree(numbers: Sequence[int]) -> float:
            half = len(numbers) // 2
            return one(numbers[0]) if len(numbers) == 1 else add(*map(tree, (numbers[:half], numbers[half:])))

        total = self.fit(start) if integers else self.narrowed(start, how.precision)
        numbers = how.order if isinstance(how.order, tuple) else range(len(ends))
        if how.order == "tree":
            return add(total, tree(numbers))
        for number in numbers:
            total = add(total, one(number))
        return total

    def epilogue(self, how: Epilogue, value: float) -> float:
        """Terms added up in their order."""
        product = value
        if how.precision != "fp32":
            product = self.step("narrowed", value, _exact(value), self.narrow(_exact(value), how.precision))
        total: float | None = None
        for name, (factor, operand) in how.pairs(product).items():
            finite = math.isfinite(operand)
            own: Fraction | float = Fraction(factor) * Fraction(operand) if finite else factor * operand
            if total is None or not how.fused:
                own = self.narrow(own, how.precision)
            if total is None:
                assert isinstance(own, float)
                total = self.step(name, 0.0, own if not finite else Fraction(factor) * Fraction(operand), own)
                continue
            finite = math.isfinite(total) and not (isinstance(own, float) and not math.isfinite(own))
            exact = Fraction(total) + Fraction(own) if finite else total + float(own)
            total = self.step(name, total, exact, self.narrow(exact, how.precision))
        assert total is not None
        return total
