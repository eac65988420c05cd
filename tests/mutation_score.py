"""Changes every field of every machine by one, and counts how many changes the vectors of the tests see.

    python tests/mutation_score.py [NAME ...]

A change that is refused cannot go unseen. Of the others each is seen by a vector, or explained: the record itself says
why no operands that the machine takes can tell it. What is left is printed, and makes the exit code 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

import oracle
import sparq_sim as sq
from conftest import bits_of
from oracle import ELEMENTS, RefusedError, power_of_two
from sparq_sim.matmul import RESULTS
from test_datapaths import (
    _ANY_OPERANDS,
    _INSTRUCTIONS,
    _MMA_FORMATS,
    STYLES,
    Side,
    drawn_codes,
    drawn_problem,
    drawn_starts,
    modelled_machine,
    nibbles,
    operand_names,
    run,
    store,
)

WORDS = {
    "align_rounding": ("toward_zero", "down", "nearest_even", "to_odd"),
    "accumulator_rounding": ("toward_zero", "nearest_even", "nearest_away", "down", "to_odd"),
    "zero_products": ("absent", "lowest"),
    "start": ("aligned", "after_instruction", "late_floor"),
    "overflow": ("infinity", "saturate"),
    "integer_overflow": ("wrap", "saturate"),
    "reduce": ("exact", "blocks", "fma", "align", "tree", "integer"),
    "output": ("fp32", "fp32_or_fp16", "int32"),
    "scale": tuple(
        n for n, e in sq.elements().items() if e.record.signedness == "unsigned" and e.record.code_bits <= 8
    ),
}
#: What a machine may take: every element of the catalog that is no scale.
TAKEN = tuple(n for n, e in sq.elements().items() if e.record.signedness != "unsigned")


def mutants(fields: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field by one step: integers up and down, words to each other word, flags over."""
    for name, value in fields.items():
        if name == "operands":
            others: list[Any] = [[own for own in value if own != gone] for gone in value if len(value) > 1]
            others += [[*value, new] for new in TAKEN if new not in value]
        elif name in WORDS:
            others = [word for word in WORDS[name] if word != value]
        elif isinstance(value, bool):
            others = [not value]
        else:
            others = [value - 1, value + 1]
        for other in others:
            yield f"{name}: {value} -> {other}", {**fields, name: other}


@dataclass
class Score:
    """Changes of one machine."""

    seen: int = 0
    refused: int = 0
    explained: dict[str, str] = field(default_factory=dict)  # why no operands can tell
    survivors: list[str] = field(default_factory=list)


def elements_of(record: sq.Datapath, name: str) -> tuple[str, ...]:
    """Elements to try a machine with: those it takes."""
    return operand_names(record, name) if record.operands or name in _ANY_OPERANDS else ("e4m3", "bf16")


def scale_name(record: sq.Datapath) -> str:
    return next(n for n, e in sq.elements().items() if e.record == record.scale)


class Reach:
    """How small and how large what a machine adds can be."""

    def __init__(self, record: sq.Datapath, name: str) -> None:
        elements = [ELEMENTS[n] for n in elements_of(record, name)]
        self.takes_words = any(e.mantissa_bits == 23 for e in elements)
        least = min(oracle.magnitude_of(e, 1) for e in elements)
        most = max(e.largest for e in elements)
        if record.block_scales:
            scale = ELEMENTS[scale_name(record)]
            least, most = least * oracle.magnitude_of(scale, int(scale.zero)), most * scale.largest
        self.most = most
        self.least_product, self.most_product = least**2, most**2
        #: Of a step, or of all that meets before float32.
        self.most_sum = self.most_product * max(record.group, record.instruction, record.chunk, 1)


def why_same(record: sq.Datapath, name: str, changed: str, other: Any) -> str | None:
    """Why no operands tell a machine whose field `changed` is `other` from `record`; None if they might."""
    reach, integer = Reach(record, name), record.reduce == "integer"
    if changed == "scale" and not record.block_scales:
        return "no scale code is read"
    if changed == "operands" and len(other) > len(record.operands):
        any_element, own = record.with_operands([]), elements_of(record, name)[0]
        pairs = [(ones(other[-1]), ones(own)), (ones(other[-1]), ones(other[-1]))]
        if all(outcome(any_element, (*pair, None, record.output.split("_")[0])) is REFUSED for pair in pairs):
            return "its arithmetic takes no such element"
    if changed == "run" and record.instruction <= record.group:
        return "an instruction has one step"
    if changed == "dropped_bits" and not reach.takes_words:
        return "no operand is a float32 word"
    if changed == "product_overflow" and reach.most_product < power_of_two(128):
        return "no product reaches 2^128"
    if changed == "exponent_floor":
        floor = max(record.exponent_floor, other)
        if power_of_two(floor + 1) < min(reach.least_product, power_of_two(-149)):
            return "the floor lies below every exponent"
        if power_of_two(floor) <= reach.least_product and floor - record.fraction_bits <= -149:
            return "every product lies above the floor, and c alone is kept whole"
    apart = record.chunk or record.start == "after_instruction"  # sums begin with +0
    if changed == "zero_products" and apart and power_of_two(-126) * reach.most < reach.least_product:
        return "every sum that is not zero lies above the products of zeros"
    whole = record.accumulator_rounding == "toward_zero" or record.accumulator_fraction == 23
    # Half of the last place of float32's last binade.
    if changed == "overflow" and "fp16" not in record.output and whole and reach.most_sum < power_of_two(103):
        return "no sum moves an accumulator that is about to overflow"
    if changed == "accumulator_exponent_bits" and record.chunk:
        bits = min(record.accumulator_exponent_bits, other)
        top = power_of_two((1 << (bits - 1)) - 1)
        if reach.most_sum < top and reach.least_product >= 1 / (top / 2):
            return "sums of a chunk stay within its exponents"
    if integer:
        most = reach.most_sum if not record.block_scales else _integer_sum(record, name)
        bits = min(record.integer_bits, other) if changed == "integer_bits" else record.integer_bits
        unbounded = record.group == 0  # as many products as come
        if changed in ("integer_bits", "integer_overflow", "integer_tree") and not unbounded and most < 1 << (bits - 1):
            return "no sum of a step overflows"
        if changed == "integer_tree" and record.integer_overflow == "wrap":
            return "sums that wrap may be looked at whenever one likes"
    return None


def _integer_sum(record: sq.Datapath, name: str) -> int:
    """The largest sum of the integers of a step."""
    widest = max(ELEMENTS[n].mantissa_bits for n in elements_of(record, name))
    return int(record.group * (1 << widest) ** 2)


def recorded(name: str) -> list[tuple[Side, Side, Any]]:
    """What MMA-Sim made of float32 results: every tile of the instructions of a machine."""
    made = []
    for path in _INSTRUCTIONS:
        info = json.loads(path.read_text())
        if modelled_machine(info) != name or info["d"] != "f32":
            continue
        with np.load(path.with_suffix(".npz")) as file:
            arrays = dict(file)
        a, b = arrays["A"], arrays["B"].transpose(0, 2, 1)
        if info["packing"]:
            a, b = nibbles(a), nibbles(b)
        scale = {"ue8m0": "e8m0"}.get(info["scale"], info["scale"]) or "e8m0"
        elements = [_MMA_FORMATS.get(info[side], info[side]) for side in "ab"]
        for tile in range(len(a)):
            scales = (arrays["SA"][tile], arrays["SB"][tile].T) if "SA" in arrays else (None, None)
            sides = [
                Side("fp32" if e == "tf32" else e, x[tile], own, info["block"] or 0, scale)
                for e, x, own in zip(elements, (a, b), scales, strict=True)
            ]
            made.append((sides[0], sides[1], arrays["C"][tile]))
    return made


def code_of(element: str, value: Fraction) -> int | None:
    """The code of a number, None where the element lacks it."""
    try:
        code = oracle.round_to_code(ELEMENTS[element], oracle.finite(value))
    except RefusedError:
        return None
    number = oracle.decode(ELEMENTS[element], code)
    return code if number.kind == "finite" and number.fraction == value else None


def split_product(element: str, value: Fraction) -> tuple[Fraction, Fraction] | None:
    """Two numbers of an element whose product is `value`, one of them a power of two."""
    for exponent in (75, *range(150)):
        for power in (power_of_two(-exponent), power_of_two(exponent)):
            if code_of(element, power) is not None and code_of(element, value / power) is not None:
                return value / power, power
    return None


def edge(element: str, terms: list[Any], start: float | None = None) -> tuple[Side, Side, Any] | None:
    """One dot product whose products are `terms`: numbers, or pairs of factors; None where the element lacks one."""
    pairs = [term if isinstance(term, tuple) else split_product(element, Fraction(term)) for term in terms]
    if any(pair is None for pair in pairs):
        return None
    codes = [[code_of(element, Fraction(x)) for x in side] for side in zip(*pairs, strict=True)]
    if any(code is None for side in codes for code in side):
        return None
    sides = [Side(element, np.array([side], dtype=store(ELEMENTS[element]))) for side in codes]
    return sides[0], sides[1], None if start is None else np.array([[start]], np.float32).view(np.uint32)


def edges(record: sq.Datapath, element: str) -> Iterator[tuple[Side, Side, Any] | None]:
    """What each rule decides, at the place where it does so."""
    fraction, least = record.fraction_bits, power_of_two(-149)
    if record.exponent_floor > -1000:
        # Exactly the least number of float32, if what lies at the last place under the floor is kept.
        for last in (record.exponent_floor - fraction, record.exponent_floor - fraction - 1):
            unit = power_of_two(last)
            yield edge(element, [least - 4 * unit, 2 * unit, unit, unit])
    if record.reduce == "align" and fraction > 21:
        # A product of 2 or more, and three that reach its last place in float32 if none is cut.
        unit = power_of_two(-fraction)
        rest = power_of_two(-22) - 2 * unit
        halves = [rest] if rest.numerator.bit_length() <= 3 else [rest - power_of_two(-23), power_of_two(-23)]
        yield edge(element, [(Fraction(3, 2), Fraction(3, 2)), *halves, unit, unit])
    # Products of zeros beside a tiny c.
    some = oracle.decode(ELEMENTS[element], ELEMENTS[element].largest_code).fraction
    for start in (2.0**-140, -(2.0**-127), 2.0**-110):
        yield edge(element, [(Fraction(0), some)] * 40, start)
    # Equal products beside a c whose last place is four of them.
    unit = Fraction(1) if code_of(element, Fraction(1)) is not None else oracle.magnitude_of(ELEMENTS[element], 1)
    square = unit * unit
    for count in (22, 33):
        for exponent in (1, 2, 3):
            start = float(square * power_of_two(exponent + 23))
            yield edge(element, [(unit, unit)] * count, start)
    # As large as can be, alike and in pairs that cancel.
    for turned in (some, -some):
        pair = edge(element, [(some, some)] * 16 + [(some, turned)] * 16 + [(Fraction(0), some)] * 32)
        yield pair
        if pair is not None and record.block_scales and record.reduce == "align":
            scale = scale_name(record)
            top = np.full((1, 4), ELEMENTS[scale].largest_code, np.uint8)
            a, b = (Side(x.element, x.codes, top, 16, scale) for x in pair[:2])
            yield a, b, None
            # Groups of zeros with scales of their own, beside small numbers.
            low = top.copy()
            low[:, 1:] = 1
            small = edge(element, [(unit, unit)] * 16 + [(Fraction(0), some)] * 48)
            if small is not None:
                for planes in ((low, low), (low[:, ::-1], top)):
                    a, b = (
                        Side(x.element, x.codes, np.ascontiguousarray(own), 16, scale)
                        for x, own in zip(small[:2], planes, strict=True)
                    )
                    yield a, b, None


def vectors(record: sq.Datapath, name: str) -> list[tuple[Side, Side, Any]]:
    """Operands of every style, with and without c; and edges."""
    rng, made = np.random.default_rng(99), []
    elements = elements_of(record, name)
    for number in range(4 * len(STYLES)):
        style = STYLES[number % len(STYLES)]
        pair = (elements[number % len(elements)], elements[number // 2 % len(elements)])
        k = (5, 40, 130)[number % 3] if record.presum == 1 else (80, 128)[number % 2]
        a, b = drawn_problem(rng, record, pair, style, k)
        made.append((a, b, drawn_starts(rng, (3, 3), False, style) if number % 2 else None))
    made += recorded(name)
    # An accumulator of subnormal size: where the least exponent matters.
    tiny = Side(elements[0], drawn_codes(rng, elements[0], (3, 40), "tiny"))
    made.append((tiny, tiny, rng.integers(0, 1 << 20, (3, 3), dtype=np.uint32)))
    if record.output != "int32":
        for element in elements:
            made += [case for case in edges(record, element) if case is not None]
    return made


def ones(element: str) -> Side:
    """One line of the least codes."""
    return Side(element, np.ones((1, 16), store(ELEMENTS[element])))


def descriptions(record: sq.Datapath, name: str) -> list[tuple[Side, Side, Any, str]]:
    """Operands, scales and results that machines take or refuse: one of each."""
    rng, made = np.random.default_rng(5), []
    own = elements_of(record, name)[0]
    for result in RESULTS:
        for element in TAKEN:
            made += [(ones(element), ones(other), None, result) for other in (own, element)]
    for block in (8, 16):
        for _ in range(6):
            sides = [drawn_codes(rng, own, (1, 64), "near") for _ in range(2)]
            scales = rng.integers(0, 256, (2, 1, 64 // block)).astype(np.uint8)
            a, b = (Side(own, x, s, block) for x, s in zip(sides, scales, strict=True))
            made.append((a, b, None, "fp32"))
    return made


REFUSED = np.zeros((0, 0), np.uint32)


def outcome(machine: sq.Datapath, case: tuple[Side, Side, Any, str]) -> Any:
    """The bits of the result, or that the operands are refused."""
    a, b, c, result = case
    try:
        if c is None and a.scales is None and b.scales is None:  # tf32 by its 19 bits, where its name means a word
            formats = {"a_format": sq.elements()[a.element].record, "b_format": sq.elements()[b.element].record}
            return bits_of(sq.matmul(a.codes, b.codes, datapath=machine, result=result, **formats))
        return run(machine, *case)
    except (ValueError, TypeError):
        return REFUSED


def score(name: str) -> Score:
    record = sq.datapaths()[name].record
    fields = sq.datapath_to_dict(record)
    full = {**record.to_dict(), "scale": fields.get("scale", "e8m0"), "operands": fields.get("operands", [])}
    cases = [(a, b, c, record.output.split("_")[0]) for a, b, c in vectors(record, name)]
    if "fp16" in record.output:
        cases += [(a, b, None, "fp16") for a, b, _, _ in cases]
    cases += descriptions(record, name)
    wanted = [outcome(record, case) for case in cases]
    out = Score()
    for text, changed in mutants(full):
        try:
            mutant = sq.datapath_from_dict(changed)
        except (ValueError, TypeError, OverflowError):
            out.refused += 1
            continue
        pairs = zip(reversed(cases), reversed(wanted), strict=True)
        differs = any(not np.array_equal(outcome(mutant, case), want) for case, want in pairs)
        what = text.split(":")[0]
        reason = why_same(record, name, what, changed[what])
        if differs:
            assert reason is None, f"{name}: {text} was seen, though {reason}"
            out.seen += 1
        elif reason is not None:
            out.explained[text] = reason
        else:
            out.survivors.append(text)
    return out


def main() -> None:
    total = Score()
    for name in sys.argv[1:] or sq.datapaths():
        own = score(name)
        print(
            f"{name}: {own.seen} seen, {own.refused} refused, {len(own.explained)} cannot be, "
            f"{len(own.survivors)} survive"
        )
        for text, reason in own.explained.items():
            print(f"  {text}: {reason}")
        for text in own.survivors:
            print(f"  SURVIVES {text}", flush=True)
        total.seen, total.refused = total.seen + own.seen, total.refused + own.refused
        total.survivors += own.survivors
    meant = total.seen + len(total.survivors)
    print(f"score {total.seen}/{meant} = {total.seen / max(1, meant):.1%} of changes that operands can tell are seen")
    sys.exit(bool(total.survivors))


if __name__ == "__main__":
    main()
