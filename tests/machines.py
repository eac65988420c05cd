"""Dot products of described machines in Python's integers, straight from docs/numerics.md section 10.

Independent of the library: a machine is the plain dict of its fields. Numbers are `Term`s: integers times
powers of two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oracle import FP32, Element

Fields = Mapping[str, Any]

NAN, PLUS_INFINITY, MINUS_INFINITY = "nan", "+inf", "-inf"


@dataclass(frozen=True)
class Term:
    """significand * 2^(exponent - fraction_bits); the exponent is what a machine reads, and clamped for subnormals.

    `special` is one of NAN, PLUS_INFINITY, MINUS_INFINITY. `negative` also tells -0.
    """

    significand: int = 0
    exponent: int = 0
    fraction_bits: int = 0
    negative: bool = False
    special: str = ""

    @property
    def signed(self) -> int:
        return -self.significand if self.negative else self.significand

    @property
    def unit(self) -> int:
        return self.exponent - self.fraction_bits


ZERO = Term()
#: float32 as IEEE has it.
SINGLE = {"accumulator_fraction": 23, "accumulator_exponent_bits": 8, "overflow": "infinity"}


def infinity(negative: bool) -> Term:
    return Term(negative=negative, special=MINUS_INFINITY if negative else PLUS_INFINITY)


def is_nan(element: Element, code: int, magnitude: int) -> bool:
    if element.specials == "ieee":
        return element.infinity_code is not None and magnitude > element.infinity_code
    if element.specials == "fn":
        return magnitude == element.nan_code
    return element.specials != "finite" and code == element.nan_code


def read(element: Element, code: int) -> Term:
    """A code taken apart."""
    bits = element.exponent_bits + element.mantissa_bits
    if element.signedness == "twos_complement":
        value = code - (1 << (bits + 1)) if code >> bits else code
        return Term(abs(value), element.emin, element.mantissa_bits, value < 0)
    magnitude = code & ((1 << bits) - 1)
    negative = element.signedness != "unsigned" and bool(code >> bits)
    if element.infinity_code is not None and magnitude == element.infinity_code:
        return infinity(negative)
    if is_nan(element, code, magnitude):
        return Term(special=NAN)
    field, mantissa = magnitude >> element.mantissa_bits, magnitude & ((1 << element.mantissa_bits) - 1)
    if field == 0 and element.zero:
        return Term(mantissa, element.emin, element.mantissa_bits, negative)
    exponent = field - element.bias
    return Term(mantissa | 1 << element.mantissa_bits, exponent, element.mantissa_bits, negative)


def rounded_shift(value: int, shift: int, mode: str) -> int:
    """value / 2^shift as an integer."""
    if shift <= 0:
        return value << -shift
    if mode == "toward_zero":
        return -(-value >> shift) if value < 0 else value >> shift
    if mode == "nearest_away":
        size = (abs(value) + (1 << (shift - 1))) >> shift
        return -size if value < 0 else size
    below = value >> shift
    if mode == "down":
        return below
    rest, half = value - (below << shift), 1 << (shift - 1)
    if mode == "to_odd":
        return below + (rest > 0 and below % 2 == 0)
    return below + (rest > half or (rest == half and below & 1 == 1))


def to_float(
    value: int, unit: int, fields: Fields, mode: str, zero_negative: bool = False, signed: bool = False
) -> Term:
    """value * 2^unit rounded to the accumulator's format. Zero is +0, or where IEEE says what it is (`signed`), it
    keeps the sign of what was rounded or flushed to it, and that of an exact zero is `zero_negative`."""
    fraction, exponent_bits = fields["accumulator_fraction"], fields["accumulator_exponent_bits"]
    emax = (1 << (exponent_bits - 1)) - 1
    emin = 1 - emax
    if value == 0:
        return Term(0, emin, fraction, zero_negative)
    top = max(abs(value).bit_length() - 1 + unit, emin)
    kept = abs(rounded_shift(value, top - fraction - unit, mode))
    if kept >> (fraction + 1):
        kept, top = kept >> 1, top + 1
    if top > emax:
        if fields["overflow"] == "saturate":
            return Term((2 << fraction) - 1, emax, fraction, value < 0)
        return infinity(value < 0)
    if fields["flush_results"] and not kept >> fraction:
        kept = 0
    return Term(kept, top, fraction, value < 0 and (kept != 0 or signed))


def sum_class(terms: Sequence[Term]) -> str:
    """NaN and Inf of a sum (IEEE 754-2019, 7.2); empty if it is finite."""
    kinds = {term.special for term in terms if term.special}
    if NAN in kinds or len(kinds) == 2:
        return NAN
    return kinds.pop() if kinds else ""


def special_term(kind: str) -> Term:
    return Term(special=NAN) if kind == NAN else infinity(kind == MINUS_INFINITY)


def product(x: Term, y: Term) -> Term:
    negative = x.negative != y.negative
    if x.special or y.special:
        either_zero = (not x.special and x.significand == 0) or (not y.special and y.significand == 0)
        if NAN in (x.special, y.special) or either_zero:
            return Term(special=NAN)
        return infinity(negative)
    return Term(x.significand * y.significand, x.exponent + y.exponent, x.fraction_bits + y.fraction_bits, negative)


def exact_sum(terms: Sequence[Term]) -> tuple[int, int]:
    """The sum as (integer, exponent of its unit)."""
    unit = min((term.unit for term in terms), default=0)
    return sum(term.signed << (term.unit - unit) for term in terms), unit


def ieee_add(x: Term, y: Term, fields: Fields, mode: str = "nearest_even") -> Term:
    """x + y rounded to the accumulator's format."""
    kind = sum_class([x, y])
    if kind:
        return special_term(kind)
    total, unit = exact_sum([x, y])
    return to_float(total, unit, fields, mode, x.negative and y.negative, signed=True)


def accumulated(acc: Term, term: Term, fields: Fields) -> Term:
    """acc + term rounded to nearest even in the accumulator, whose zeros are +0 as after every step."""
    total = ieee_add(acc, term, fields)
    return total if total.special or total.significand else to_float(0, 0, fields, "nearest_even")


@dataclass(frozen=True)
class Line:
    """One operand: codes along K and its scale codes, one per `block` elements."""

    element: Element
    codes: Sequence[int]
    scales: Sequence[int] | None = None
    block: int = 0
    scale_element: Element | None = None

    def scale(self, k: int) -> Term:
        if self.scales is None or self.scale_element is None:
            return Term(1, 0, 0)
        return read(
            self.scale_element, self.scales[k // self.block] & ~(0x80 if self.scale_element.mantissa_bits else 0)
        )


def operand(line: Line, k: int, fields: Fields) -> Term:
    element, code = line.element, line.codes[k]
    if element.mantissa_bits == 23:
        dropped = fields["dropped_bits"]
        code = code >> dropped << dropped
    x = read(element, code)
    hidden = not x.special and x.significand >> x.fraction_bits == 0
    return ZERO if fields["flush_inputs"] and hidden and element.exponent_bits else x


def schedule(fields: Fields, k_count: int) -> Iterator[list[list[int]]]:
    """For each instruction the lists of K of its steps; K past the end is padding: left out, but not its steps."""
    group = 1 if fields["reduce"] == "fma" else fields["group"] or k_count
    instruction = fields["instruction"] or group
    run, ways = fields["run"] or group, instruction // group
    for base in range(0, k_count, instruction):
        ks = range(base, min(base + instruction, k_count))
        yield [[k for k in ks if (k - base) // run % ways == way] for way in range(ways)]


LOWEST = -126


def machine_exponent(x: Term, fields: Fields) -> int:
    """What a zero operand counts as under zero_products="lowest"."""
    return LOWEST if x.significand == 0 and fields["zero_products"] == "lowest" else x.exponent


def aligned_terms(fields: Fields, a: Line, b: Line, ks: Sequence[int]) -> tuple[list[Term], str]:
    """The terms of a step before alignment, and the class of their sum."""
    products, terms = [], []
    for k in ks:
        sa, sb, x, y = a.scale(k), b.scale(k), operand(a, k, fields), operand(b, k, fields)
        p = product(x, y)
        if NAN in (sa.special, sb.special):
            p = Term(special=NAN)
        products.append(p)
        exponent = machine_exponent(x, fields) + machine_exponent(y, fields)
        if fields["presum"] == 1 and not p.special:
            p = Term(p.significand, exponent + sa.exponent + sb.exponent, p.fraction_bits, p.negative)
            excess = p.significand.bit_length() - 1 - p.fraction_bits
            if fields["normalize"] and excess == 1:
                p = Term(p.significand, p.exponent + 1, p.fraction_bits + 1, p.negative)
            terms.append(p)
    kind = sum_class(products)
    if kind or fields["presum"] == 1:
        # Where K has ended there are zeros too.
        padding = fields["group"] - len(ks) if fields["zero_products"] == "lowest" else 0
        return [*terms, *[Term(0, 2 * LOWEST, 0)] * padding], kind
    for first in range(0, len(ks), fields["presum"]):
        total, unit = exact_sum(products[first : first + fields["presum"]])
        sa, sb = a.scale(ks[first]), b.scale(ks[first])
        exponent = machine_exponent(sa, fields) + machine_exponent(sb, fields)
        total *= sa.significand * sb.significand
        terms.append(Term(abs(total), exponent, sa.fraction_bits + sb.fraction_bits - unit, total < 0))
    return terms, kind


def top_exponent(fields: Fields, terms: Sequence[Term]) -> int | None:
    counted = [t.exponent for t in terms if t.significand or fields["zero_products"] == "lowest"]
    return max([*counted, fields["exponent_floor"]]) if counted else None


def cut_sum(fields: Fields, terms: Sequence[Term], top: int) -> int:
    unit = top - fields["fraction_bits"]
    return sum(rounded_shift(t.signed, unit - t.unit, fields["align_rounding"]) for t in terms)


def step_class(fields: Fields, terms: Sequence[Term], kind: str, acc: Term) -> str:
    """What NaN and Inf make of a step: of the products (`kind`), the accumulator, and products that are too large."""
    kind = sum_class([special_term(kind), acc] if kind else [acc])
    if fields["product_overflow"] and not kind:
        # Only where everything is finite: an accumulator that is Inf stays what it is.
        large = [t for t in terms if t.significand and t.significand.bit_length() + t.unit > 128]
        kind = sum_class([infinity(t.negative) for t in large])
    return kind


def align_step(fields: Fields, a: Line, b: Line, ks: Sequence[int], acc: Term) -> Term:
    terms, kind = aligned_terms(fields, a, b, ks)
    if fields["start"] == "late_floor":
        return late_floor_step(fields, terms, kind, acc)
    kind = step_class(fields, terms, kind, acc)
    if kind:
        return special_term(kind)
    if acc.significand == 0:
        acc = Term(0, LOWEST, 23)
    top = top_exponent(fields, [*terms, acc])
    if top is None:
        return to_float(0, 0, fields, "toward_zero")
    total = cut_sum(fields, [*terms, acc], top)
    return to_float(total, top - fields["fraction_bits"], fields, fields["accumulator_rounding"])


def late_floor_step(fields: Fields, terms: Sequence[Term], kind: str, acc: Term) -> Term:
    """The products by themselves, then with the accumulator, both rounded down (CDNA3)."""
    kind = step_class(fields, terms, kind, acc)
    if kind:
        return special_term(kind)
    lanes = fields["lanes"]
    sums: list[tuple[int, int]] = []
    for lane in range(lanes):
        own = terms[lane::lanes]
        top = top_exponent(fields, own)
        if top is not None:
            sums.append((cut_sum(fields, own, top), top))
    unit_bits, start_bits = fields["sum_fraction"], fields["start_fraction"]
    counted = [top for _, top in sums]
    products_top = max(counted, default=None)
    if acc.significand:
        counted.append(acc.exponent)
    if not counted:
        return to_float(0, 0, fields, "toward_zero")
    top = max(counted)
    total = 0
    if products_top is not None:
        first = sum(value >> (products_top - own) for value, own in sums)
        total = rounded_shift(first, fields["fraction_bits"] - products_top - (unit_bits - top), "down")
    dropped = fields["start_reach"] and acc.exponent < top - fields["start_reach"]
    if acc.significand and not dropped:
        total += rounded_shift(acc.signed, (top - start_bits) - acc.unit, "down") << (unit_bits - start_bits)
    return to_float(total, top - unit_bits, fields, fields["accumulator_rounding"])


def exact_step(fields: Fields, a: Line, b: Line, ks: Sequence[int], acc: Term) -> Term:
    products = []
    for k in ks:
        scale = product(a.scale(k), b.scale(k))
        products.append(product(product(operand(a, k, fields), operand(b, k, fields)), scale))
    kind = sum_class([*products, acc])
    if kind:
        return special_term(kind)
    total, unit = exact_sum([*products, acc])
    return to_float(total, unit, fields, fields["accumulator_rounding"], signed=True)


def decoded(line: Line, k: int, fields: Fields) -> Term:
    """An element in float32, with its scale."""
    x = product(operand(line, k, fields), line.scale(k))
    keep = {**fields, **SINGLE, "flush_results": False}
    return x if x.special else to_float(x.signed, x.unit, keep, "nearest_even", x.negative, signed=True)


def fma_step(fields: Fields, a: Line, b: Line, ks: Sequence[int], acc: Term) -> Term:
    (k,) = ks
    p = product(decoded(a, k, fields), decoded(b, k, fields))
    return ieee_add(p, acc, fields, fields["accumulator_rounding"])


def tree_step(fields: Fields, a: Line, b: Line, ks: Sequence[int], acc: Term) -> Term:
    products, mode = [], fields["accumulator_rounding"]
    for k in ks:
        x, y = (decoded(line, k, fields) for line in (a, b))
        p = product(x, y)
        products.append(p if p.special else to_float(p.signed, p.unit, fields, mode, p.negative, signed=True))
    if fields["group"]:
        products += [ZERO] * (fields["group"] - len(products))

    def tree(terms: Sequence[Term]) -> Term:
        if len(terms) == 1:
            return terms[0]
        half = len(terms) // 2
        return ieee_add(tree(terms[:half]), tree(terms[half:]), fields, mode)

    return ieee_add(acc, tree(products), fields, mode)


def fit(value: int, fields: Fields) -> int:
    """An integer in the machine's accumulator."""
    bits = fields["integer_bits"]
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if fields["integer_overflow"] == "saturate":
        return min(max(value, low), high)
    return (value - low) % (1 << bits) + low


def integer_sum(fields: Fields, a: Line, b: Line, ks: Sequence[int], start: int) -> int:
    total, tree = fit(start, fields), fields["integer_tree"] or len(ks) or 1
    for first in range(0, len(ks), tree):
        together = sum(operand(a, k, fields).signed * operand(b, k, fields).signed for k in ks[first : first + tree])
        total = fit(total + together, fields)
    return total


def integer_step(fields: Fields, a: Line, b: Line, ks: Sequence[int], acc: Term) -> Term:
    scale = product(a.scale(ks[0]), b.scale(ks[0]))
    unit = a.element.emin - a.element.mantissa_bits + b.element.emin - b.element.mantissa_bits
    if NAN in (scale.special, acc.special):
        return Term(special=NAN)
    total = integer_sum(fields, a, b, ks, 0)
    own = to_float(total, unit + scale.unit, fields, "nearest_even")
    return accumulated(acc, own, fields)


STEPS = {"align": align_step, "blocks": exact_step, "fma": fma_step, "tree": tree_step, "integer": integer_step}


def chain(fields: Fields, a: Line, b: Line, start: Term, ks: range) -> Term:
    """Every instruction of a run of K, one after the other."""
    acc, step = start, STEPS[fields["reduce"]]
    summed = fields["reduce"] in ("blocks", "integer")
    for steps in summed_segments(fields, a, b, len(ks)) if summed else schedule(fields, len(ks)):
        late = fields["start"] == "after_instruction"
        inner = to_float(0, 0, fields, "toward_zero") if late else acc
        for members in steps:
            inner = step(fields, a, b, [ks.start + k for k in members], inner)
        acc = accumulated(acc, inner, fields) if late else inner
    return acc


def summed_segments(fields: Fields, a: Line, b: Line, k_count: int) -> list[list[list[int]]]:
    """Where sums have one unit: steps of `group`, counted anew where a scale begins."""
    starts = {0}
    for line in (a, b):
        if line.scales is not None:
            starts |= set(range(0, k_count, line.block))
    bounds = [*sorted(starts), k_count]
    out = []
    for first, end in itertools.pairwise(bounds):
        step = fields["group"] or end - first
        out += [[list(range(k, min(k + step, end)))] for k in range(first, end, step or 1)]
    return out


def read_start(fields: Fields, c: int | None) -> Term:
    """c, whose exponent is at least the accumulator's."""
    x = read(HALF if fields.get("half") else FP32, 0 if c is None else c)
    if fields["flush_inputs"] and x.significand and not x.significand >> x.fraction_bits:
        return ZERO
    exponent = max(x.exponent, 2 - (1 << (fields["accumulator_exponent_bits"] - 1)))
    return x if x.special else Term(x.significand, exponent, x.fraction_bits + exponent - x.exponent, x.negative)


HALF = Element(5, 10, 15, "ieee")
HALF_FIELDS = {
    "half": True,
    "accumulator_exponent_bits": 5,
    "accumulator_fraction": 10,
    "accumulator_rounding": "nearest_even",
}


def with_half_result(fields: Fields) -> dict[str, Any]:
    """The machine when its result is fp16."""
    return {**fields, **HALF_FIELDS}


def machine_dot(fields: Fields, a: Line, b: Line, c: int | None = None) -> int:
    """Bits of the result: float32, fp16 (`with_half_result`), or int32."""
    k_count = len(a.codes)
    if fields["output"] == "int32":
        start = 0 if c is None else c - (c >> 31 << 32)
        return integer_sum(fields, a, b, range(k_count), start) & 0xFFFFFFFF
    acc = read_start(fields, c)
    chunk = fields["chunk"]
    if not chunk:
        acc = chain(fields, a, b, acc, range(k_count))
    else:
        # The total is float32 as IEEE has it.
        single = {**fields, **SINGLE}
        for first in range(0, k_count, chunk):
            part = chain(fields, a, b, ZERO, range(first, min(first + chunk, k_count)))
            acc = ieee_add(acc, part, single)
    return bits_of(fields, acc)


def bits_of(fields: Fields, x: Term) -> int:
    half = fields.get("half", False)
    element = HALF if half else FP32
    if x.special == NAN:
        return (fields["nan_bits"] >> 16) if half else int(fields["nan_bits"])
    sign = element.sign_bit if x.negative else 0
    infinite = (1 << element.exponent_bits) - 1 << element.mantissa_bits
    if x.special:
        return sign | infinite
    if x.significand == 0:
        return sign
    significand, unit = x.significand, x.unit
    top = max(significand.bit_length() - 1 + unit, element.emin)
    shift = top - element.mantissa_bits - unit
    assert shift <= 0 or significand & ((1 << shift) - 1) == 0, "the accumulator holds what the result does not"
    kept = significand >> shift if shift > 0 else significand << -shift
    field = top + element.bias if kept >> element.mantissa_bits else 0
    return sign | field << element.mantissa_bits | kept & ((1 << element.mantissa_bits) - 1)
