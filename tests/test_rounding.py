"""Every rounding at a fixed scale: all 16-bit inputs, and float32 and float64 corners around every code.

The oracle decides in exact fractions where each code begins, once per element and rounding. Inputs are then
looked up among those boundaries with float64 comparisons only. That is exact: a boundary is a value of the
element or the midpoint of two, which float64 holds (asserted); a tie that goes down moves its boundary to the
next float64, and no input lies between the two; inputs are float64 or widen to it exactly; and no arithmetic
takes place except multiplication by 2^X, far from the ends of float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import oracle
import sparq_sim as sq
from conftest import (
    CARRIERS,
    Array,
    assert_same_bits,
    assert_same_integers,
    bits_of,
    from_bits,
    oracle_quantize,
    plain_format,
    user_format,
)
from oracle import E8M0, ELEMENTS, BlockFormat, Element

USER_ELEMENTS = {
    "e3m0": Element(3, 0, 3),
    "e4m0_fn": Element(4, 0, 7, "fn"),
    "e2m2_fnuz": Element(2, 2, 1, "fnuz"),
    "e4m0_fnuz_inf": Element(4, 0, 7, "fnuz_inf"),
    "int6_fnuz_inf": Element(0, 5, 2, "fnuz_inf"),
    "e1m4": Element(1, 4, 0),
    "int12_sign": Element(0, 11, 3),
    "e5m4_low": Element(5, 4, 60),
    "e6m3_fn": Element(6, 3, 10, "fn"),
}
#: Elements of up to 16 bits; tf32 and float32 are too long a list and are left to the slow oracle.
TABLED = {n: e for n, e in ELEMENTS.items() if e.width <= 16 and n not in oracle.SCALE_CODES} | USER_ELEMENTS


@dataclass(frozen=True)
class Table:
    """Magnitude c of one sign, in the order of their values, begins at points[c - 1], or just above where that does not
    go up; the last entry is where overflow begins."""

    points: Array
    goes_up: Array

    def begins(self, exponent: int) -> Array:
        """The first float64 of each code, times 2^exponent."""
        scaled = self.points * 2.0**exponent
        return np.where(self.goes_up, scaled, np.nextafter(scaled, np.inf))


_TIE_GOES_UP: dict[str, Callable[[bool, bool], bool]] = {
    "even": lambda even, negative: not even,
    "away": lambda even, negative: True,
    "zero": lambda even, negative: False,
    "up": lambda even, negative: not negative,
}


@cache
def table(name: str, rounding: str, negative: bool) -> Table:
    element = TABLED[name]
    magnitudes = oracle.magnitude_list(element)

    def exact(value: Fraction) -> float:
        """The same number as float64."""
        assert Fraction(float(value)) == value
        return float(value)

    # By rule, where parity says it all: the point that decides, and whether it goes up itself.
    inward = rounding == oracle.TOWARD_ZERO or rounding == (oracle.UP if negative else oracle.DOWN)
    outward = rounding == (oracle.DOWN if negative else oracle.UP)
    points, goes_up = [], []
    for code, (low, high) in enumerate(pairwise(magnitudes), start=1):
        even = oracle.has_even_significand(element, low)
        if rounding == oracle.TO_ODD:
            point, up = (low, False) if even else (high, True)
        elif inward or outward:
            point, up = (low, False) if outward else (high, True)
        else:
            point, up = (low + high) / 2, _TIE_GOES_UP[rounding.split("_")[1]](even, negative)
        # The oracle is asked about all of a short list, and here and there in a long one.
        if len(magnitudes) < 3000 or code % 61 == 0 or code < 50 or code > len(magnitudes) - 50:
            number = oracle.Number("finite", point, negative)
            if code == len(magnitudes) - 1:
                assert up == oracle.overflows(element, number, rounding)
            else:
                got = oracle.decode(element, oracle.round_to_code(element, number, rounding)).magnitude
                assert up == (got == high)
        points.append(exact(point))
        goes_up.append(up)
    return Table(np.array(points), np.array(goes_up))


@cache
def codes_in_order(name: str) -> Array:
    """The codes of finite magnitudes in the order of their values: of tapered elements only, not that of the bits."""
    element = TABLED[name]
    codes = range(element.largest_code + 1)
    if element.taper:
        numbers = [code for code in range(element.sign_bit) if code != element.infinity_code]
        codes = sorted(numbers, key=lambda code: oracle.magnitude_of(element, code))
    return np.array(codes, np.int64)


def expected_codes(name: str, rounding: str, overflow: str, x: Array, exponent: int = 0) -> Array:
    """The codes of x / 2^exponent; NaN as section 5 says for a format without a scale."""
    element = TABLED[name]
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    negative = np.signbit(wide)
    by_sign = [
        np.searchsorted(table(name, rounding, sign).begins(exponent), np.abs(wide), side="right")
        for sign in (False, True)
    ]
    codes = np.where(negative, by_sign[1], by_sign[0]).astype(np.int64)
    in_memory = codes_in_order(name)
    over = codes >= len(in_memory)
    finite = np.isfinite(wide)
    codes = in_memory[np.minimum(codes, len(in_memory) - 1)]
    if element.signedness == "twos_complement":
        signed = np.where(negative, -codes, codes) % (1 << element.width)
    else:
        signed = codes | np.where(negative & (element.has_negative_zero | (codes > 0)), element.sign_bit, 0)
    if overflow == "special":
        # Inf itself goes to the special code in every rounding.
        stays = np.where(negative, oracle.stays_finite(rounding, True), oracle.stays_finite(rounding, False))
        over &= ~finite | ~stays
        for sign in (False, True):
            signed[over & (negative == sign)] = oracle.round_to_code(
                element, oracle.Number("infinite", negative=sign), rounding, "special"
            )
    if element.nan_code is not None:
        signed[np.isnan(wide)] = element.nan_code
    return signed.astype(np.uint64)


@cache
def decoded_codes(name: str) -> Array:
    """Every code as float64, by the oracle."""
    element = TABLED[name]
    values = []
    for code in range(1 << element.width):
        number = oracle.decode(element, code)
        plain = {"nan": np.nan, "infinite": np.inf}.get(number.kind) or float(number.magnitude)
        values.append(-plain if number.negative else plain)
    return np.array(values)


def expected_values(name: str, codes: Array, exponent: int = 0) -> Array:
    """The values of codes times 2^exponent as float64."""
    return decoded_codes(name)[codes] * 2.0**exponent


def overflows_of(element: Element) -> tuple[str, ...]:
    return oracle.OVERFLOWS if element.nan_code is not None else oracle.OVERFLOWS[:1]


def all_16_bit_inputs(carrier: str, isa: str) -> Array:
    """All of them; one in seven and both ends for the slow reference."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    if isa == "reference":
        ends = np.r_[0:64, 0x0300:0x0400:5, 0x7B80:0x7C40, 0x7F00:0x8040, 0xFB80:0xFC40, 0xFF00:0x10000]
        patterns = np.unique(np.concatenate([patterns[::13], patterns[ends]]))
    return from_bits(patterns, carrier)


@cache
def corners(name: str, carrier: str, exponent: int = 0) -> Array:
    """Every value and midpoint of the element times 2^exponent with both neighbours in the carrier, of both
    signs, and the corners of the carrier itself."""
    element = ELEMENTS[carrier]
    magnitudes = oracle.magnitude_list(TABLED[name])
    points = np.array([float(m) for m in magnitudes])
    points = np.concatenate([points, (points[:-1] + points[1:]) / 2, points[-1] * np.array([1.5, 2, 1e6])])
    with np.errstate(over="ignore", under="ignore"):
        near = bits_of((points * 2.0**exponent).astype(CARRIERS[carrier][0])).astype(np.int64)
    infinity = ((1 << element.exponent_bits) - 1) << element.mantissa_bits
    near = np.clip((near[:, None] + np.array([-1, 0, 1])).ravel(), 0, infinity)
    smallest = 1 << element.mantissa_bits
    own = [0, 1, 2, smallest - 1, smallest, smallest + 1, infinity - 1, infinity, infinity + 1]
    own += [infinity | (smallest >> 1), infinity | (smallest - 1)]
    magnitude = np.unique(np.concatenate([near, np.array(own, dtype=np.int64)])).astype(np.uint64)
    both = np.concatenate([magnitude, magnitude | np.uint64(1 << (element.width - 1))])
    return from_bits(both.astype(CARRIERS[carrier][1]), carrier)


def thinned(x: Array, isa: str) -> Array:
    """The reference takes a sample where there is much."""
    step = max(1, x.size // 4000) if isa == "reference" else 1
    return x[:: step | 1]  # odd, so that below, at and above a point take turns


def is_nan(x: Array) -> Array:
    """np.isnan without the warnings of signalling NaNs."""
    with np.errstate(invalid="ignore"):
        return np.isnan(x.astype(np.float64))


def is_finite(x: Array) -> Array:
    """Likewise."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(x.astype(np.float64))


def check_plain(name: str, x: Array) -> None:
    """All roundings and overflows without a scale: codes, and values as float64."""
    element = TABLED[name]
    if element.nan_code is None:
        with pytest.raises(ValueError, match="NaN"):
            sq.emulate(np.array([np.nan], x.dtype), plain_format(element))
        x = x[~is_nan(x)]
    for rounding in oracle.ROUNDINGS:
        for overflow in overflows_of(element):
            format_ = plain_format(element, rounding=rounding, overflow=overflow)
            codes = expected_codes(name, rounding, overflow, x)
            what = f"{name} {rounding} {overflow}"
            assert_same_integers(sq.encode(x, format_).codes, codes, what)
            values = sq.emulate(x, format_, dtype="float64", inexact="error")
            assert_same_bits(values, expected_values(name, codes), what)


@pytest.mark.parametrize("carrier", ["fp16", "bf16"])
@pytest.mark.parametrize("name", TABLED)
def test_every_16_bit_input_rounds_to_the_oracle_s_code(name: str, carrier: str, isa: str) -> None:
    check_plain(name, all_16_bit_inputs(carrier, isa))


@pytest.mark.parametrize("carrier", ["fp32", "fp64"])
@pytest.mark.parametrize("name", TABLED)
def test_the_corners_of_every_code_round_to_the_oracle_s_code(name: str, carrier: str, isa: str) -> None:
    check_plain(name, thinned(corners(name, carrier), isa))


SCALE_EXPONENTS = (0, 5, -127, 127, -14)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", TABLED)
def test_below_a_given_scale_every_corner_rounds_to_the_oracle_s_code(name: str, carrier: str, isa: str) -> None:
    element = TABLED[name]
    for number, exponent in enumerate(SCALE_EXPONENTS):
        narrow = carrier in ("fp16", "bf16")
        x = all_16_bit_inputs(carrier, isa) if narrow else corners(name, carrier, exponent)
        x = thinned(x[is_finite(x)], isa)
        if isa == "reference":
            x = x[number::3]
        scales = np.array([exponent + 127], np.uint8)
        for rounding in oracle.ROUNDINGS:
            format_ = user_format(BlockFormat(element, E8M0, "row"), rounding=rounding)
            codes = expected_codes(name, rounding, "saturate", x, exponent)
            what = f"{name} {rounding} 2^{exponent}"
            assert_same_integers(sq.encode(x, format_, scales=scales).codes, codes, what)
            values = sq.emulate(x, format_, scales=scales, dtype="float64", inexact="error")
            assert_same_bits(values, expected_values(name, codes, exponent), what)


@pytest.mark.parametrize("rounding", oracle.ROUNDINGS)
@pytest.mark.parametrize("overflow", oracle.OVERFLOWS)
def test_float64_rounds_once_to_float32(rounding: str, overflow: str, isa: str) -> None:
    rng = np.random.default_rng(2)
    singles = rng.integers(0, 1 << 31, 300, dtype=np.uint32)
    singles = np.concatenate([singles, np.uint32([0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFE, 0x7F7FFFFF])])
    singles = singles[singles < 0x7F800000]
    low = singles.view(np.float32).astype(np.float64)
    with np.errstate(over="ignore"):
        step = np.nextafter(singles.view(np.float32), np.float32(np.inf)).astype(np.float64)
    step[~np.isfinite(step)] = 2.0**128
    special = [2.0**128, 1e300, np.inf, np.nan, 2.0**-149, 2.0**-150, 5e-324]
    points = np.concatenate([low, (low + step) / 2, special])
    near = (points.view(np.int64)[:, None] + np.array([-1, 0, 1])).ravel()
    near = near[(near >= 0) & (near <= 0x7FF8000000000000)].astype(np.uint64)
    x = np.concatenate([near, near | np.uint64(1 << 63)]).view(np.float64)
    fmt = BlockFormat(ELEMENTS["fp32"], overflow=overflow)
    wanted = oracle_quantize(x, fmt, rounding=rounding)
    got = sq.encode(x, plain_format(ELEMENTS["fp32"], rounding=rounding, overflow=overflow))
    assert_same_integers(got.codes, wanted.codes, "codes")


@pytest.mark.parametrize("carrier", ["fp16", "bf16"])
def test_every_16_bit_input_is_a_tf32_number_in_every_rounding(carrier: str, isa: str) -> None:
    x = all_16_bit_inputs(carrier, isa)
    with np.errstate(invalid="ignore"):
        upper = bits_of(x.astype(np.float32)) >> 13
    wanted = np.where(is_nan(x), ELEMENTS["tf32"].nan_code, upper)
    for rounding in oracle.ROUNDINGS:
        format_ = plain_format(ELEMENTS["tf32"], rounding=rounding, overflow="special")
        assert_same_integers(sq.encode(x, format_).codes, wanted, rounding)
        assert_same_bits(bits_of(sq.emulate(x, format_, dtype="float32")), np.where(is_nan(x), 0x7FC00000, upper << 13))


@pytest.mark.parametrize("carrier", ["fp32", "fp64"])
def test_float32_and_float64_round_to_tf32_as_the_oracle_says(carrier: str, isa: str) -> None:
    element = ELEMENTS["tf32"]
    fields = np.array([*range(0, 255, 11), 1, 2, 253, 254])
    codes = ((fields << 10)[:, None] | np.array([0, 1, 2, 511, 512, 1022, 1023])).ravel()
    # A tf32 code is the upper part of a float32; the tie stands at half of what is cut off.
    points = (np.uint32(codes << 13)[:, None] + np.uint32([0, 0x1000])).ravel().view(np.float32)
    near = bits_of(points.astype(CARRIERS[carrier][0]))[:, None] + np.array([-1, 0, 1]).astype(CARRIERS[carrier][1])
    x = from_bits(near[is_finite(from_bits(near, carrier))], carrier)
    x = np.concatenate([x, -x, np.array([np.inf, -np.inf, np.nan], dtype=x.dtype)])
    x = x[::5] if isa == "reference" else x
    numbers = [oracle.decode(ELEMENTS[carrier], int(bits)) for bits in bits_of(x)]
    for rounding in oracle.ROUNDINGS:
        for overflow in oracle.OVERFLOWS:
            format_ = plain_format(element, rounding=rounding, overflow=overflow)
            wanted = [oracle.round_to_code(element, number, rounding, overflow) for number in numbers]
            assert_same_integers(sq.encode(x, format_).codes, np.array(wanted), f"{rounding} {overflow}")
