"""One dot product on a described machine, carried out in fractions: what `dot_trace` shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.events import DOT_COUNTS
from sparq_sim.operands import Operand

#: The exponent of a zero operand under zero_products="lowest" (docs/numerics.md section 10).
_LOWEST = -126


@dataclass(frozen=True)
class TraceTerm:
    """One product, or one exact sum of neighbours, before and after it is aligned."""

    k: tuple[int, ...]
    """The elements of K that it holds."""
    a: tuple[float, ...]
    """Decoded operands, scales included."""
    b: tuple[float, ...]
    value: Fraction | float
    """The exact product; a float if it is NaN or Inf."""
    exponent: int | None
    """What it is aligned by, where the machine aligns and it takes part."""
    kept: Fraction | float
    """What is added."""

    @property
    def lost(self) -> Fraction:
        """What alignment or rounding took away."""
        special = isinstance(self.value, float) or isinstance(self.kept, float)
        return Fraction(0) if special else Fraction(self.value) - Fraction(self.kept)


@dataclass(frozen=True)
class TraceStep:
    """One addition into an accumulator."""

    what: str
    """``step``; or ``instruction``, ``chunk`` or ``part`` (of split-K), where an accumulator is added to another; or
    what happens to a sum: ``narrowed`` to a precision, ``alpha``, ``beta``, ``bias``, ``result``, ``requantized``,
    ``output``."""
    start: float
    """The accumulator before."""
    terms: tuple[TraceTerm, ...]
    exponent: int | None
    """The largest exponent, where the machine aligns."""
    start_kept: Fraction | float
    """What of the accumulator is added."""
    sum: Fraction | float
    """Before it is rounded to the accumulator."""
    result: float


@dataclass(frozen=True)
class DotTrace:
    """What `dot_trace` saw; prints as a table."""

    datapath: Datapath
    steps: tuple[TraceStep, ...]
    result: float | int
    bits: int
    """Of the result."""
    counts: dict[str, int] = field(default_factory=dict)
    """``truncated`` terms that lost something, ``cancelled`` steps whose sum is below half of its largest term,
    ``overflowed`` finite numbers that a rounding made Inf or the largest number, ``wrapped`` integer sums that left
    their range (`MatmulEvents` has those of whole products)."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON has it; fractions as text."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(item) for item in value]
            if isinstance(value, Fraction):
                return str(value)
            return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

        steps = [{**plain(asdict(step)), "lost": [str(t.lost) for t in step.terms]} for step in self.steps]
        return {"steps": steps, "result": plain(self.result), "bits": self.bits, "counts": dict(self.counts)}

    def __str__(self) -> str:
        lines = []
        for number, step in enumerate(self.steps):
            top = "" if step.exponent is None else f"  E = {step.exponent}"
            lines.append(f"{step.what} {number}: accumulator {_text(step.start)} adds {_text(step.start_kept)}{top}")
            for term in step.terms:
                where = f"k {term.k[0]}" if len(term.k) == 1 else f"k {term.k[0]}..{term.k[-1]}"
                pair = f"{_text(term.a[0])} * {_text(term.b[0])} = " if len(term.k) == 1 else ""
                aligned = "" if term.exponent is None else f"  e = {term.exponent}"
                lost = f"  lost {_text(term.lost)}" if term.lost else ""
                lines.append(f"  {where}: {pair}{_text(term.value)}{aligned}  adds {_text(term.kept)}{lost}")
            lines.append(f"  sum {_text(step.sum)} -> {_text(step.result)}")
        lines.append(f"result {_text(self.result)} (0x{self.bits:X})")
        return "\n".join(lines)


def _text(value: Fraction | float) -> str:
    return f"{float(value):.17g}"


def _floor_log2(value: Fraction) -> int:
    """floor(log2 |value|) of what is not zero."""
    size = abs(value)
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if size >= Fraction(2) ** guess else guess - 1


def _to_multiple(value: Fraction, exponent: int, mode: str) -> Fraction:
    """value as a multiple of 2^exponent."""
    quantum = Fraction(2) ** exponent
    units = value / quantum
    if mode == "down":
        return math.floor(units) * quantum
    if mode == "nearest_away":
        return Fraction(int(math.copysign(math.floor(abs(units) + Fraction(1, 2)), units))) * quantum
    if mode == "to_odd":
        below = math.floor(units)
        return (below if below == units or below % 2 else below + 1) * quantum
    return (math.trunc(units) if mode == "toward_zero" else round(units)) * quantum  # round: ties to even


def to_float(value: Fraction, exponent_bits: int, fraction: int, mode: str = "nearest_even") -> float:
    """value in an IEEE format, Inf beyond its range; zero is +0."""
    if value == 0:
        return 0.0
    emax = 2 ** (exponent_bits - 1) - 1
    kept = abs(_to_multiple(value, max(_floor_log2(value), 1 - emax) - fraction, mode))
    return math.copysign(float(kept) if kept < Fraction(2) ** (emax + 1) else math.inf, value)


@dataclass(frozen=True)
class _Side:
    """One line of an operand, read as the machine reads it."""

    operand: Operand
    path: Datapath

    @property
    def element(self) -> ElementFormat:
        return self.operand.element

    def value(self, k: int) -> float:
        code = int(self.operand.codes[0, k])
        if self.element.mantissa_bits == 23:
            code = code >> self.path.dropped_bits << self.path.dropped_bits
        value = self.element.value(code)
        flush = self.path.flush_inputs and self.element.exponent_bits > 0
        return 0.0 if flush and abs(value) < 2.0**self.element.emin else value

    def exponent(self, value: float) -> int:
        if value == 0:
            return _LOWEST if self.path.zero_products == "lowest" else self.element.emin
        small = self.element.exponent_bits == 0
        return self.element.emin if small else max(_floor_log2(Fraction(value)), self.element.emin)

    def segment(self, k: int) -> int:
        return next((i for i, end in enumerate(self.operand.segment_end) if k < end), 0)

    def scale(self, k: int) -> tuple[float, int]:
        """The scale of element k and its exponent."""
        codes, record = self.operand.block_scales, self.operand.scale
        if codes is None or record is None:
            return 1.0, 0
        code = int(codes[0, self.segment(k)])
        if not record.is_power_of_two_scale:
            code &= (1 << (record.exponent_bits + record.mantissa_bits)) - 1
        value = record.value(code)
        if not math.isfinite(value):
            return math.nan, 0
        if value == 0:
            return 0.0, _LOWEST if self.path.zero_products == "lowest" else record.emin
        return value, max(_floor_log2(Fraction(value)), record.emin)


class Tracer:
    """Carries a dot product out in fractions and writes down what happens."""

    def __init__(self, path: Datapath, a: Operand, b: Operand) -> None:
        self.path, self.a, self.b = path, _Side(a, path), _Side(b, path)
        self.k_count = a.k
        self.steps: list[TraceStep] = []
        self.counts = dict.fromkeys(DOT_COUNTS, 0)

    def rounded(self, value: Fraction, mode: str) -> float:
        """To the accumulator."""
        fraction = self.path.accumulator_fraction
        emax = 2 ** (self.path.accumulator_exponent_bits - 1) - 1
        if value == 0:
            return 0.0
        kept_float = abs(to_float(value, self.path.accumulator_exponent_bits, fraction, mode))
        if math.isinf(kept_float):
            self.counts["overflowed"] += 1
            if self.path.overflow == "saturate":
                kept_float = (2 - 2.0**-fraction) * 2.0**emax
        if self.path.flush_results and kept_float < 2.0 ** (1 - emax):
            kept_float = 0.0
        return math.copysign(kept_float, value)

    def note(
        self, what: str, start: float, terms: Sequence[TraceTerm], top: int | None, kept: Any, total: Any, result: float
    ) -> float:
        self.steps.append(TraceStep(what, start, tuple(terms), top, kept, total, result))
        self.counts["truncated"] += sum(1 for term in terms if term.lost)
        largest = max([abs(term.kept) for term in terms if not isinstance(term.kept, float)], default=Fraction(0))
        if not isinstance(total, float):
            self.counts["cancelled"] += int(0 < 2 * abs(total) < largest or (total == 0 and largest > 0))
        return result

    def plain_term(self, k: int, decode: bool) -> TraceTerm:
        """A product with its scales; `decode` rounds operands to float32 first."""
        (sa, xa), (sb, xb) = self.a.scale(k), self.b.scale(k)
        va, vb = self.a.value(k), self.b.value(k)
        if decode:
            va, vb, sa, sb = self.decoded(va, sa), self.decoded(vb, sb), 1.0, 1.0
        if not all(map(math.isfinite, (va, vb, sa, sb))):
            x, y = va * sa, vb * sb
            return TraceTerm((k,), (x,), (y,), x * y, None, x * y)
        exact_a, exact_b = Fraction(va) * Fraction(sa), Fraction(vb) * Fraction(sb)
        value = exact_a * exact_b
        exponent = None
        if self.path.reduce == "align":
            counts = value != 0 or self.path.zero_products == "lowest"
            exponent = self.a.exponent(va) + self.b.exponent(vb) + xa + xb if counts else None
            if exponent is not None and self.path.normalize and abs(value) >= Fraction(2) ** (exponent + 1):
                exponent += 1
        return TraceTerm((k,), (float(exact_a),), (float(exact_b),), value, exponent, value)

    def decoded(self, value: float, scale: float) -> float:
        """An element in float32, with its scale."""
        if not (math.isfinite(value) and math.isfinite(scale)):
            return value * scale
        exact = Fraction(value) * Fraction(scale)
        made = to_float(exact, 8, 23)
        self.counts["overflowed"] += int(math.isinf(made))
        return made if exact else value * scale

    def presum_term(self, ks: Sequence[int]) -> TraceTerm:
        (sa, xa), (sb, xb) = self.a.scale(ks[0]), self.b.scale(ks[0])
        values = [(self.a.value(k) * sa, self.b.value(k) * sb) for k in ks]
        floats = [x * y for x, y in values]
        left, right = tuple(x for x, _ in values), tuple(y for _, y in values)
        if not all(map(math.isfinite, floats)):
            special = sum(x for x in floats if not math.isfinite(x))
            return TraceTerm(tuple(ks), left, right, special, None, special)
        total = sum((Fraction(self.a.value(k)) * Fraction(self.b.value(k)) for k in ks), Fraction(0))
        value = total * Fraction(sa) * Fraction(sb)
        counts = value != 0 or self.path.zero_products == "lowest"
        return TraceTerm(tuple(ks), left, right, value, xa + xb if counts else None, value)

    def special(self, terms: Sequence[TraceTerm], acc: float) -> float | None:
        """NaN or Inf, if the step gives one before any arithmetic."""
        found = [term.value for term in terms if isinstance(term.value, float)]
        found += [acc] if not math.isfinite(acc) else []
        large = Fraction(2) ** 128
        if not found and self.path.product_overflow:
            values = [Fraction(term.value) for term in terms]
            found = [math.copysign(math.inf, value) for value in values if abs(value) >= large]
            self.counts["overflowed"] += len(found)
        return sum(found) if found else None

    def align_step(self, ks: Sequence[int], acc: float) -> float:
        path = self.path
        if path.presum > 1:
            groups = [ks[i : i + path.presum] for i in range(0, len(ks), path.presum)]
            terms = [self.presum_term(group) for group in groups]
        else:
            terms = [self.plain_term(k, False) for k in ks]
        # Where K has ended there are zeros too.
        zeros = path.group - len(ks) if path.presum == 1 and path.zero_products == "lowest" else 0
        exponents = [*(term.exponent for term in terms), *[2 * _LOWEST] * zeros]
        special = self.special(terms, acc)
        if special is not None:
            return self.note("step", acc, terms, None, acc, special, special)
        least = 2 - 2 ** (path.accumulator_exponent_bits - 1)
        own = max(_floor_log2(Fraction(acc)), least) if acc else None
        if path.start == "late_floor":
            return self.late_step(terms, exponents, acc, own)
        if own is None and path.zero_products == "lowest":
            own = _LOWEST
        top = self.largest([*exponents, own])
        if top is None:
            return self.note("step", acc, terms, None, Fraction(0), Fraction(0), 0.0)
        cut = [self.cut(term, top) for term in terms]
        start = _to_multiple(Fraction(acc), top - path.fraction_bits, path.align_rounding)
        total = sum((Fraction(term.kept) for term in cut), start)
        return self.note("step", acc, cut, top, start, total, self.rounded(total, path.accumulator_rounding) + 0.0)

    def largest(self, exponents: Sequence[int | None]) -> int | None:
        counted = [exponent for exponent in exponents if exponent is not None]
        return max([*counted, self.path.exponent_floor]) if counted else None

    def cut(self, term: TraceTerm, top: int) -> TraceTerm:
        kept = _to_multiple(Fraction(term.value), top - self.path.fraction_bits, self.path.align_rounding)
        return TraceTerm(term.k, term.a, term.b, term.value, term.exponent, kept)

    def late_step(
        self, terms: Sequence[TraceTerm], exponents: Sequence[int | None], acc: float, own: int | None
    ) -> float:
        path = self.path
        lanes = [list(terms[lane :: path.lanes]) for lane in range(path.lanes)]
        tops = [self.largest(exponents[lane :: path.lanes]) for lane in range(path.lanes)]
        present = [top for top in tops if top is not None]
        top = max([*present, *([] if own is None else [own])], default=None)
        if top is None:
            return self.note("step", acc, terms, None, Fraction(0), Fraction(0), 0.0)
        cut, products = [], Fraction(0)
        for lane, lane_top in zip(lanes, tops, strict=True):
            if lane_top is None:
                cut += lane
                continue
            kept = [self.cut(term, lane_top) for term in lane]
            cut += kept
            own_sum = sum((Fraction(term.kept) for term in kept), Fraction(0))
            products += _to_multiple(own_sum, max(present) - path.fraction_bits, "down")
        total = _to_multiple(products, top - path.sum_fraction, "down")
        reached = own is not None and (path.start_reach == 0 or own >= top - path.start_reach)
        start = _to_multiple(Fraction(acc), top - path.start_fraction, "down") if reached else Fraction(0)
        cut.sort(key=lambda term: term.k)
        total += start
        return self.note("step", acc, cut, top, start, total, self.rounded(total, path.accumulator_rounding) + 0.0)

    def exact_step(self, ks: Sequence[int], acc: float) -> float:
        terms = [self.plain_term(k, self.path.reduce == "fma") for k in ks]
        special = self.special(terms, acc)
        if special is not None:
            return self.note("step", acc, terms, None, acc, special, special)
        total = sum((Fraction(term.value) for term in terms), Fraction(acc))
        result = self.rounded(total, self.path.accumulator_rounding)
        if self.path.reduce == "fma" and not total:
            result = terms[0].a[0] * terms[0].b[0] + acc  # zeros of one sign keep it
        return self.note("step", acc, terms, None, Fraction(acc), total, result)

    def add(self, x: float, y: float, mode: str = "nearest_even") -> float:
        if not (math.isfinite(x) and math.isfinite(y)):
            return x + y
        return self.rounded(Fraction(x) + Fraction(y), mode) if x or y else x + y

    def tree_step(self, ks: Sequence[int], acc: float) -> float:
        terms, leaves, mode = [], [], self.path.accumulator_rounding
        for k in ks:
            term = self.plain_term(k, True)
            kept = term.value
            leaf = term.a[0] * term.b[0]  # NaN, Inf and zeros with their signs
            if not isinstance(kept, float):
                leaf = self.rounded(kept, mode) if kept else leaf
                kept = Fraction(leaf) if math.isfinite(leaf) else leaf
            leaves.append(leaf)
            terms.append(TraceTerm(term.k, term.a, term.b, term.value, None, kept))
        leaves += [0.0] * ((self.path.group or len(leaves)) - len(leaves))

        def tree(part: Sequence[float]) -> float:
            half = len(part) // 2
            return part[0] if len(part) == 1 else self.add(tree(part[:half]), tree(part[half:]), mode)

        total = tree(leaves)
        own = Fraction(total) if math.isfinite(total) else total
        return self.note("step", acc, terms, None, acc, own, self.add(acc, total, mode))

    def fit(self, value: int) -> int:
        low: int = -(1 << (self.path.integer_bits - 1))
        high = -low - 1
        self.counts["wrapped"] += int(not low <= value <= high)
        return (
            min(max(value, low), high) if self.path.integer_overflow == "saturate" else (value - low) % (2 * -low) + low
        )

    def integer_step(self, ks: Sequence[int], acc: float) -> float:
        terms = [self.plain_term(k, False) for k in ks]
        special = self.special(terms, 0.0)
        if special is not None:
            return self.note("step", acc, terms, None, acc, special, special)
        # An accumulator that is no number keeps no integer from wrapping.
        units = [side.element.emin - side.element.mantissa_bits for side in (self.a, self.b)]
        unit = Fraction(2) ** sum(units)
        if self.path.output != "int32":
            unit *= Fraction(self.a.scale(ks[0])[0]) * Fraction(self.b.scale(ks[0])[0])
        else:  # the integers of the elements, whatever they stand for
            x, y = (2.0**own for own in units)
            terms = [
                replace(t, a=(t.a[0] / x,), b=(t.b[0] / y,), value=t.value / unit, kept=t.kept / unit) for t in terms
            ]
            unit = Fraction(1)
        total = self.fit(int(acc)) if self.path.output == "int32" else 0
        tree = self.path.integer_tree or len(ks)
        for first in range(0, len(ks), tree):
            total = self.fit(total + int(sum(Fraction(t.value) for t in terms[first : first + tree]) / unit))
        if self.path.output == "int32":
            return self.note("step", acc, terms, None, Fraction(int(acc)), Fraction(total), float(total))
        value = total * unit
        own = self.rounded(value, "nearest_even")
        kept = Fraction(acc) if math.isfinite(acc) else acc
        return self.note("step", acc, terms, None, kept, value, self.add(acc, own))

    def members(self) -> Iterator[list[list[int]]]:
        """For each instruction the elements of its steps."""
        path, count = self.path, self.k_count
        if path.reduce in ("blocks", "integer"):
            ends = sorted({*self.a.operand.segment_end, *self.b.operand.segment_end, count})
            begin = 0
            for end in ends if path.output != "int32" else [count]:
                length = path.group or max(1, end - begin)
                for k in range(begin, end, length):
                    yield [list(range(k, min(k + length, end)))]
                begin = end
            return
        group = path.group if path.reduce in ("align", "tree") and path.group else 1 if path.reduce == "fma" else count
        length = path.instruction or group
        run = path.run or group
        for base in range(0, count, max(1, length)):
            ks = range(base, min(base + length, count))
            ways = length // group
            yield [[k for k in ks if (k - base) // run % ways == way] for way in range(ways)]

    def run(self, start: float) -> None:
        path = self.path
        steps = {
            "align": self.align_step, "tree": self.tree_step, "integer": self.integer_step,
            "exact": self.exact_step, "blocks": self.exact_step, "fma": self.exact_step,
        }  # fmt: skip
        step = steps[path.reduce]
        if path.flush_inputs and abs(start) < 2.0**-126:
            start = 0.0
        total, acc = start, 0.0 if path.chunk else start
        done = 0
        for instruction in self.members():
            late = path.start == "after_instruction"
            inner = 0.0 if late else acc
            for ks in instruction:
                inner = step(ks, inner)
            if late:
                self.note("instruction", acc, (), None, acc, acc + inner, self.add(acc, inner) + 0.0)
                inner = self.steps[-1].result
            acc = inner
            done += path.instruction or path.group
            if path.chunk and (done % path.chunk == 0 or done >= self.k_count):
                # Chunks meet in float32, whatever the accumulator is.
                both = total + acc if not (math.isfinite(total) and math.isfinite(acc)) else None
                joined = float(np.float32(0)) if both is None else both
                if both is None:
                    with np.errstate(over="ignore"):
                        joined = float(np.float32(total) + np.float32(acc))
                    self.counts["overflowed"] += int(math.isinf(joined))
                self.note("chunk", total, (), None, total, total + acc, joined)
                total, acc = joined, 0.0
