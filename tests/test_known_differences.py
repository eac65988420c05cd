"""Other libraries convert as ours does but where known_differences.py says: there, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
import sparq_sim as sq
import witnesses
from conftest import CARRIERS, Array, assert_same_integers, bits_of, element_record, from_bits, plain_format
from known_differences import COMPARED, KNOWN, POWERS, Case, Compared, Difference, element_named
from oracle import E8M0, ELEMENTS, Element
from test_rounding import USER_ELEMENTS, all_16_bit_inputs, corners, is_nan

#: Stands for the code of a refused input; no code is as long.
REFUSED = 1 << 40

#: Stands for any NaN where the spelling is not compared.
ANY_NAN = 1 << 41

#: The rounding of a power of two, as the rule of a scale.
SCALE_RULES = {
    "nearest_even": "nearest",
    "nearest_away": "nearest",
    "toward_zero": "floor",
    "down": "floor",
    "up": "ceil",
}


def our_codes(name: str, rounding: str, overflow: str, random: Array, x: Array, **choices: Any) -> Array:
    """Codes by the library. A scale code is that of a block of one number, under an element whose emax is 0."""
    if name == "e8m0":
        level = sq.ScaleLevel(format=element_record(E8M0), along=1)
        conversion = sq.Conversion(scale_rule=SCALE_RULES[rounding])
        block_of_one = sq.Format("one", element_record(ELEMENTS["mxint8_element"]), (level,), conversion)
        scales = sq.encode(x[:, None], block_of_one).scales
        assert isinstance(scales, np.ndarray)
        return scales[:, 0].astype(np.uint64)
    element = element_named(name)
    bits: dict[str, Any] = {}
    if rounding.startswith("stochastic"):
        rounding, variant = rounding.split()
        choices |= {"stochastic": variant, "random_bits": witnesses.RANDOM_BITS}
        bits = {"random": random}
    format_ = plain_format(element, rounding=rounding, overflow=overflow, **choices)
    if element.nan_code is not None:
        return sq.encode(x, format_, **bits).codes.astype(np.uint64)
    nan = is_nan(x)
    codes = sq.encode(np.where(nan, x.dtype.type(0), x), format_, **bits).codes.astype(np.uint64)
    if nan.any():
        with pytest.raises(ValueError, match="NaN"):
            sq.encode(x[nan][:1], plain_format(element))
        codes[nan] = REFUSED
    return codes


def their_codes(witness: str, name: str, rounding: str, overflow: str, random: Array, x: Array) -> Array:
    """Codes by a witness; gfloat refuses NaN by an assertion of its own."""
    convert = partial(witnesses.convert, witness, name)
    nan = is_nan(x)
    if witness != "gfloat" or element_named(name).nan_code is not None or not nan.any():
        return convert(x, rounding, overflow, random)
    with pytest.raises(AssertionError):
        convert(x[nan], rounding, overflow, random[nan])
    codes = np.full(x.shape, REFUSED, dtype=np.uint64)
    codes[~nan] = convert(x[~nan], rounding, overflow, random[~nan])
    return codes


def scale_corners(carrier: str) -> Array:
    """Powers of two, the quarters above them, and both neighbours in the carrier; subnormals, zeros, Inf and NaN."""
    points = (np.ldexp(1.0, np.arange(-149, 129))[:, None] * np.array([1, 1.25, 1.5, 1.75])).ravel()
    element = ELEMENTS[carrier]
    infinity = ((1 << element.exponent_bits) - 1) << element.mantissa_bits
    with np.errstate(all="ignore"):
        near = bits_of(points.astype(CARRIERS[carrier][0])).astype(np.int64)
    near = np.concatenate([(near[:, None] + np.array([-1, 0, 1])).ravel(), [0, 1, infinity, infinity + 1]])
    magnitude = np.unique(np.clip(near, 0, infinity + 1)).astype(np.uint64)
    return from_bits(np.concatenate([magnitude, magnitude | np.uint64(1 << (element.width - 1))]), carrier)


@cache
def inputs(name: str, carrier: str) -> Array:
    """All 16-bit patterns, and the corners of the element in float32 and float64; a sample of those of a long one."""
    if carrier in ("bf16", "fp16"):
        x = all_16_bit_inputs(carrier, "")
        # To copy a number to its own type is no conversion.
        return x.astype(np.float32) if name == carrier else x
    if name == "e8m0":
        return scale_corners(carrier)
    x = corners(name, carrier)
    return x[:: 1 if x.size < 50_000 else 5]


@cache
def random_bits(size: int) -> Array:
    return np.random.default_rng(5).integers(0, 1 << witnesses.RANDOM_BITS, size)


def covers(row: Difference, compared: Compared, element: str, rounding: str, overflow: str) -> bool:
    same = (row.witness, row.element) == (compared.witness, element)
    return same and rounding in row.roundings and overflow in row.overflows


def without_nans(codes: Array, element: Element) -> Array:
    """One mark for every NaN of an element with IEEE's specials."""
    assert element.specials == "ieee" and element.infinity_code is not None
    return np.where((codes & np.uint64(element.sign_bit - 1)) > element.infinity_code, np.uint64(ANY_NAN), codes)


def of_class(row: Difference, case: Case) -> Array:
    """Which inputs a row is about."""
    with np.errstate(all="ignore"):
        return row.inputs(case)


def cases(compared: Compared, element: str) -> Iterator[tuple[Case, Array, list[Difference], str]]:
    """Every conversion of an element: ours, theirs, the rows about it and what it is called."""
    for rounding in compared.roundings:
        for overflow in compared.overflows:
            rows = [row for row in KNOWN if covers(row, compared, element, rounding, overflow)]
            for carrier in CARRIERS:
                x = inputs(element, carrier)
                x = x[::7] if rounding.startswith("stochastic") else x
                random = random_bits(x.size)
                ours = partial(our_codes, element, rounding, overflow, random)
                case = Case(x, element_named(element), rounding, overflow, ours(x), ours)
                theirs = their_codes(compared.witness, element, rounding, overflow, random, x)
                yield case, theirs, rows, f"{compared.witness} {element} {rounding} {overflow} from {carrier}"


CONVERSIONS = [
    pytest.param(compared, element, id=f"{compared.witness}-{element}")
    for compared in COMPARED
    for element in compared.elements
]
#: Those where the witness has one overflow and the element could have two.
CASTS = [
    pytest.param(compared, element, id=f"{compared.witness}-{element}")
    for compared in COMPARED
    for element in compared.elements
    if compared.witness != "gfloat" and element_named(element).nan_code is not None and element != "e8m0"
]
ROWS = [pytest.param(row, id=f"{row.witness}-{row.element}-{row.inputs.__name__}") for row in KNOWN]


@pytest.mark.parametrize(("compared", "element"), CONVERSIONS)
def test_a_witness_differs_where_the_table_says_and_nowhere_else(compared: Compared, element: str) -> None:
    met = set()
    for case, theirs, rows, what in cases(compared, element):
        ours = case.ours
        if compared.nan == "any":
            ours, theirs = without_nans(ours, case.element), without_nans(theirs, case.element)
        expected = np.zeros(ours.shape, dtype=bool)
        for row in rows:
            meant = of_class(row, case)
            expected |= meant
            if meant.any():
                met.add((KNOWN.index(row), case.rounding, case.overflow))
            if row.choice:
                chosen = case.convert(case.x, **dict(row.choice))
                assert_same_integers(chosen[meant], theirs[meant], f"{what} under {row.choice}")
        wrong = np.flatnonzero((ours != theirs) != expected)
        shown = [(hex(bits_of(case.x)[i]), hex(ours[i]), hex(theirs[i]), bool(expected[i])) for i in wrong[:5]]
        assert not wrong.size, f"{what}: {wrong.size} of {ours.size}, as (input, ours, theirs, in the table): {shown}"
    said = {
        (i, rounding, overflow)
        for i, row in enumerate(KNOWN)
        if (row.witness, row.element) == (compared.witness, element)
        for rounding in row.roundings
        for overflow in row.overflows
    }
    assert met == said, "a class of inputs was never met"


@pytest.mark.parametrize("row", ROWS)
def test_an_example_gives_both_codes_of_its_row(row: Difference) -> None:
    x, random = from_bits([row.bits], row.carrier), random_bits(1)
    for rounding in row.roundings:
        for overflow in row.overflows:
            ours = partial(our_codes, row.element, rounding, overflow, random)
            theirs = their_codes(row.witness, row.element, rounding, overflow, random, x)
            what = f"{rounding} {overflow}, {row.witness} {witnesses.installed(row.witness)} (seen in {row.version})"
            assert [hex(ours(x)[0]), hex(theirs[0])] == [
                hex(REFUSED if row.ours is None else row.ours),
                hex(row.theirs),
            ], what
            case = Case(x, element_named(row.element), rounding, overflow, ours(x), ours)
            assert of_class(row, case).all(), what


@pytest.mark.parametrize(("compared", "element"), CASTS)
def test_of_our_two_overflows_the_table_compares_the_one_of_a_cast(compared: Compared, element: str) -> None:
    (other,) = set(oracle.OVERFLOWS) - set(compared.overflows)
    infinity, nothing = np.float32([np.inf]), random_bits(1)
    theirs = their_codes(compared.witness, element, "nearest_even", other, nothing, infinity)
    assert our_codes(element, "nearest_even", other, nothing, infinity) != theirs


def test_every_row_belongs_to_a_conversion_that_is_compared() -> None:
    for row in KNOWN:
        of = [c for c in COMPARED if c.witness == row.witness and row.element in c.elements]
        assert len(of) == 1, row
        assert of[0].version == row.version
        assert set(row.roundings) <= set(of[0].roundings) and set(row.overflows) <= set(of[0].overflows), row


def test_the_rules_of_the_table_are_words_of_numerics() -> None:
    page = (Path(__file__).parent.parent / "docs" / "numerics.md").read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", page)
    assert [row.rule for row in KNOWN if row.rule not in words] == []


def test_the_table_compares_every_type_of_every_witness() -> None:
    compared = {(c.witness, element) for c in COMPARED for element in c.elements}
    shorts = {("numpy" if name == "fp16" else "ml_dtypes", name) for name in (*witnesses.SHORT_FLOATS, "e8m0")}
    torches = {("torch", name) for name in witnesses.TORCH_TYPES}
    assert compared == shorts | torches | {("gfloat", name) for name in witnesses.GFLOAT_FORMATS}


def test_the_powers_of_the_table_are_elements_whose_roundings_are_tested() -> None:
    assert {name: USER_ELEMENTS[name] for name in POWERS} == POWERS
