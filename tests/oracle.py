"""The numerics of docs/numerics.md, once more, in exact fractions.

This is the oracle: it is written from that page alone, imports nothing of the library, and prefers the
plainest code to any speed. Numbers are `fractions.Fraction` and Python integers; no decision is taken in
floating point. Whatever the page calls an error raises `RefusedError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, TypeVar

T = TypeVar("T")

NEAREST_EVEN, NEAREST_AWAY, NEAREST_ZERO, NEAREST_UP = "nearest_even", "nearest_away", "nearest_zero", "nearest_up"
TOWARD_ZERO, UP, DOWN, TO_ODD = "toward_zero", "up", "down", "to_odd"
STOCHASTIC = "stochastic"  # not among ROUNDINGS: it is one only together with random bits
ROUNDINGS = (NEAREST_EVEN, NEAREST_AWAY, NEAREST_ZERO, NEAREST_UP, TOWARD_ZERO, UP, DOWN, TO_ODD)
OVERFLOWS = ("saturate", "special")
SCALE_RULES = ("floor", "ceil", "rceil", "even", "nearest")
# Not among SCALE_RULES: they look at all elements of a block.
FIT, MSE, MAE = "fit", "mse", "mae"
SIGNED_MAX = "signed_max"  # of float scales, like amax, which is what they do under "floor"
TIES = ("lowest_index", "highest_index", "topk")
ORDERS = ("sparsify_first", "quantize_first")


@dataclass(frozen=True)
class Chance:
    """Stochastic rounding of one value (section 2): its variant, the number of random bits, and those bits."""

    variant: str  # "a", "b" or "c"
    bits: int
    random: int


@dataclass(frozen=True)
class Choices:
    """Choices of sections 2 to 5 besides the rounding, the overflow and the scale rule."""

    nonfinite: str = "poison"
    infinite: str = "same"
    nan_scale: str = "same"
    scale_overflow: str = "clamp"
    least_scale: str = "exact"
    signed_zero: str = "keep"
    subnormals: str = "keep"
    input_subnormals: str = "keep"
    integer_range: str = "symmetric"
    preround: str = "none"
    amax_exponent: str = "bits"
    element_exponent: str = "bits"
    half_sum: str = "exact"
    scale_apply: str = "divide"
    divisor_apply: str = "divide"
    divide_by: str = "stored"
    outer_apply: str = "divide"
    outer_overflow: str = "clamp"
    scale_order: str = "amax_first"
    scale_underflow: str = "least"
    scale_compute: str = "fp32"
    apply_compute: str = "fp32"
    cut_offset: Fraction = Fraction(0)  # 0: nothing is added
    divisor: Fraction | None = None  # None: the largest element
    even_bits: int | None = None  # None: those of the element
    zero_scale: int | None = None  # None: the least that is written
    align_bits: int = 0  # 0: elements are not aligned first
    align_rounding: str = TOWARD_ZERO

    @property
    def skips(self) -> bool:
        """Scales are those of the finite elements."""
        return self.nonfinite in ("keep", "ignore", "saturate")

    def spoils(self, elements: Sequence[Number]) -> bool:
        """Whether what is no number among the elements of a block poisons it (section 5)."""
        kinds = {v.kind for v in elements} - {"finite"}
        if "nan" in kinds and self.nan_scale == "least":
            return False
        return bool(kinds) and not self.skips and not (kinds == {"infinite"} and self.infinite in ("beyond", "top"))


class RefusedError(ValueError):
    """Something that docs/numerics.md calls an error, or that it gives no meaning."""


def _check_word(name: str, word: str, allowed: Sequence[str]) -> None:
    """Refuse a choice that the page does not name."""
    if word not in allowed:
        raise RefusedError(f"{name}={word!r}: one of {', '.join(allowed)} is needed")


# Numbers


@dataclass(frozen=True)
class Number:
    """What a code decodes to (section 1): a finite number, signed even when zero, an infinity, or NaN."""

    kind: str  # "finite", "infinite" or "nan"
    magnitude: Fraction = Fraction(0)
    negative: bool = False

    @property
    def is_finite(self) -> bool:
        """Neither NaN nor an infinity."""
        return self.kind == "finite"

    @property
    def is_zero(self) -> bool:
        """Zero of either sign."""
        return self.is_finite and self.magnitude == 0

    @property
    def fraction(self) -> Fraction:
        """The signed value of a finite number; the sign of zero is lost."""
        if not self.is_finite:
            raise RefusedError(f"{self} has no finite value")
        return -self.magnitude if self.negative else self.magnitude


NAN = Number("nan")
POSITIVE_INFINITY = Number("infinite")
NEGATIVE_INFINITY = Number("infinite", negative=True)
POSITIVE_ZERO = Number("finite")
NEGATIVE_ZERO = Number("finite", negative=True)
ONE = Number("finite", Fraction(1))


def finite(value: Fraction | int) -> Number:
    """The Number of a finite value; zero becomes +0."""
    return Number("finite", abs(Fraction(value)), value < 0)


def power_of_two(exponent: int) -> Fraction:
    """2^exponent, exactly, for either sign of the exponent."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def floor_log2(magnitude: Fraction) -> int:
    """floor(log2 magnitude) of a positive fraction, from bit lengths (section 3: never from a logarithm)."""
    if magnitude <= 0:
        raise RefusedError("only a positive number has a logarithm")
    # n/d lies strictly between 2^(guess - 1) and 2^(guess + 1), so one comparison decides.
    guess = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return guess if magnitude >= power_of_two(guess) else guess - 1


def multiply(a: Number, b: Number) -> Number:
    """The exact product with the IEEE rules for NaN, Inf and signs of zero (section 10)."""
    negative = a.negative != b.negative
    if "nan" in (a.kind, b.kind):
        return NAN
    if "infinite" in (a.kind, b.kind):
        # An Inf that meets a zero has no value (IEEE 754-2019, 7.2).
        return NAN if a.is_zero or b.is_zero else Number("infinite", negative=negative)
    return Number("finite", a.magnitude * b.magnitude, negative)


def add(*terms: Number) -> Number:
    """The exact sum of any number of terms; an exact zero is +0 whatever the signs (section 10)."""
    if any(term.kind == "nan" for term in terms):
        return NAN
    infinite_signs = {term.negative for term in terms if term.kind == "infinite"}
    if infinite_signs:
        # Opposite infinities cancel to NaN, one kind of infinity wins over every finite term.
        return NAN if len(infinite_signs) == 2 else Number("infinite", negative=infinite_signs.pop())
    return finite(sum((term.fraction for term in terms), Fraction(0)))


# Section 1: element codes


@dataclass(frozen=True)
class Element:
    """An element format of section 1; with `zero=False` field 0 is a normal binade, as in E8M0."""

    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: str = "finite"  # "ieee", "fn", "fnuz", "fnuz_inf" or "finite"
    signedness: str = "signed"  # "signed" (sign-magnitude), "twos_complement" or "unsigned"
    zero: bool = True
    taper: int = 0  # 2: HiF8, whose layout is `TAPERED`

    @property
    def magnitude_bits(self) -> int:
        """Bits below the sign."""
        return self.exponent_bits + self.mantissa_bits

    @property
    def width(self) -> int:
        """All bits of a code."""
        return self.magnitude_bits + (self.signedness != "unsigned")

    @property
    def sign_bit(self) -> int:
        """The sign as a mask; 0 where there is none."""
        return 0 if self.signedness == "unsigned" else 1 << self.magnitude_bits

    @property
    def emin(self) -> int:
        """Smallest normal exponent (section 1); without subnormals field 0 is the smallest normal binade."""
        return 1 - self.bias if self.zero else -self.bias

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN of section 1, None where no code is NaN."""
        if self.specials == "fn":
            return (1 << self.magnitude_bits) - 1
        if self.specials in ("fnuz", "fnuz_inf"):
            return self.sign_bit
        if self.specials == "ieee" and self.mantissa_bits > 0:
            # All exponent bits and the top mantissa bit: a quiet NaN.
            return ((1 << (self.exponent_bits + 1)) - 1) << (self.mantissa_bits - 1)
        return None

    @cached_property
    def infinity_code(self) -> int | None:
        """The code of +Inf, None where there is none."""
        if self.taper:
            return max(range(1 << self.magnitude_bits), key=lambda code: magnitude_of(self, code))
        if self.specials == "fnuz_inf":
            return (1 << self.magnitude_bits) - 1
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits if self.specials == "ieee" else None

    @cached_property
    def largest_code(self) -> int:
        """The code of the largest finite value, read off the table of specials in section 1."""
        if self.taper:
            numbers = set(range(1 << self.magnitude_bits)) - {self.infinity_code}
            return max(numbers, key=lambda code: magnitude_of(self, code))
        if self.specials == "ieee":
            return (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1
        if self.specials in ("fn", "fnuz_inf"):
            return (1 << self.magnitude_bits) - 2
        return (1 << self.magnitude_bits) - 1

    @property
    def largest(self) -> Fraction:
        """Largest finite value, Vmax of section 3."""
        return magnitude_of(self, self.largest_code)

    @property
    def emax(self) -> int:
        """Largest exponent (section 1)."""
        return floor_log2(self.largest)

    @property
    def has_negative_zero(self) -> bool:
        """Section 2, signed zero: two's complement, `fnuz`, `fnuz_inf` and unsigned codes have none."""
        return self.signedness == "signed" and self.specials not in ("fnuz", "fnuz_inf")


#: HiF8: prefix, digits of the exponent's size, bits of the mantissa (section 1).
TAPERED = (("11", 4, 1), ("10", 3, 2), ("01", 2, 3), ("001", 1, 3), ("0001", 0, 3))


@lru_cache
def _tapered_magnitude(code: int) -> Fraction:
    """The value of seven bits below the sign of a HiF8 code."""
    text = f"{code:07b}"
    for prefix, digits, mantissa_bits in TAPERED:
        if not text.startswith(prefix):
            continue
        rest = text.removeprefix(prefix)
        # The leading digit of the size is one, and its place holds the sign.
        size = int("1" + rest[1:digits], 2) if digits else 0
        exponent = -size if digits and rest[0] == "1" else size
        return (1 + Fraction(int(rest[digits:], 2), 1 << mantissa_bits)) * power_of_two(exponent)
    return power_of_two(code - 23) if code else Fraction(0)


def mantissa_bits_of(element: Element, exponent: int) -> int:
    """Mantissa bits of a binade: all, or those that a tapered format leaves it."""
    if not element.taper:
        return element.mantissa_bits
    left = {digits: bits for _, digits, bits in TAPERED}
    return left.get(abs(exponent).bit_length(), 0)


def magnitude_of(element: Element, code: int) -> Fraction:
    """The value of the bits below the sign as a number, whatever `specials` says of them (section 1)."""
    if element.taper:
        return _tapered_magnitude(code)
    m_bits = element.mantissa_bits
    field, mantissa = code >> m_bits, code & ((1 << m_bits) - 1)
    if field > 0 or not element.zero:
        return ((1 << m_bits) + mantissa) * power_of_two(field - element.bias - m_bits)
    return mantissa * power_of_two(1 - element.bias - m_bits)


def decode(element: Element, code: int) -> Number:
    """The value of a code (section 1)."""
    if not 0 <= code < 1 << element.width:
        raise RefusedError(f"code {code:#x} does not fit {element.width} bits")
    if element.signedness == "twos_complement":
        # The lowest code has a magnitude that no other code has; it decodes all the same.
        signed = code - (1 << element.width) if code & element.sign_bit else code
        return finite(signed * power_of_two(1 - element.bias - element.mantissa_bits))
    negative, below = bool(code & element.sign_bit), code & ((1 << element.magnitude_bits) - 1)
    if element.specials in ("fnuz", "fnuz_inf") and code == element.sign_bit:
        return NAN
    if element.specials == "fnuz_inf" and below == element.infinity_code:
        return Number("infinite", negative=negative)
    if element.specials == "fn" and below == (1 << element.magnitude_bits) - 1:
        return NAN
    if element.specials == "ieee" and below >> element.mantissa_bits == (1 << element.exponent_bits) - 1:
        return NAN if below & ((1 << element.mantissa_bits) - 1) else Number("infinite", negative=negative)
    return Number("finite", magnitude_of(element, below), negative)


ELEMENTS: dict[str, Element] = {
    "e4m3": Element(4, 3, 7, "fn"),
    "e5m2": Element(5, 2, 15, "ieee"),
    "e4m3fnuz": Element(4, 3, 8, "fnuz"),
    "e5m2fnuz": Element(5, 2, 16, "fnuz"),
    "e4m3b11fnuz": Element(4, 3, 11, "fnuz"),
    "e4m3_ieee": Element(4, 3, 7, "ieee"),
    "e3m4": Element(3, 4, 3, "ieee"),
    # BinaryKpPs of P3109: P - 1 mantissa bits, bias 2^(K - P - 1); "e" has Inf, "f" has not.
    "p3109_8p3se": Element(5, 2, 16, "fnuz_inf"),
    "p3109_8p4se": Element(4, 3, 8, "fnuz_inf"),
    "p3109_8p5se": Element(3, 4, 4, "fnuz_inf"),
    "p3109_4p2sf": Element(2, 1, 2, "fnuz"),
    "hif8": Element(4, 3, 23, "fnuz_inf", taper=2),
    "e3m2": Element(3, 2, 3),
    "e2m3": Element(2, 3, 1),
    "e2m1": Element(2, 1, 1),
    "e1m2": Element(1, 2, 1),
    "fp16": Element(5, 10, 15, "ieee"),
    "bf16": Element(8, 7, 127, "ieee"),
    "tf32": Element(8, 10, 127, "ieee"),
    "fp32": Element(8, 23, 127, "ieee"),
    "fp64": Element(11, 52, 1023, "ieee"),
    # k / 64, k / 4, and k: the bias puts the unit of the mantissa at 2^(1 - B - M).
    "mxint8_element": Element(0, 7, 0, "finite", "twos_complement"),
    "mxint4_element": Element(0, 3, 0, "finite", "twos_complement"),
    "int8": Element(0, 7, -6, "finite", "twos_complement"),
    "int4": Element(0, 3, -2, "finite", "twos_complement"),
    # k * 2^-(m - 1) with m magnitude bits: one integer bit (section 3, HBFP).
    "hbfp8_element": Element(0, 7, 0),
    "hbfp6_element": Element(0, 5, 0),
    "hbfp4_element": Element(0, 3, 0),
    "msfp15_element": Element(0, 6, 0),
    "msfp13_element": Element(0, 4, 0),
    "mx4_element": Element(0, 2, 0),
    "bfp2_element": Element(0, 1, 0),
    # Codes of scales: no sign, so no element.
    "ue4m3": Element(4, 3, 7, "fn", "unsigned"),
    "ue5m3": Element(5, 3, 15, "fn", "unsigned"),
    "e6m2": Element(6, 2, 48, "fn", "unsigned", zero=False),
    "e8m0": Element(8, 0, 127, "fn", "unsigned", zero=False),
    "micro1": Element(1, 0, 0, "finite", "unsigned", zero=False),
}
SCALE_CODES = tuple(name for name, element in ELEMENTS.items() if element.signedness == "unsigned")
E8M0 = ELEMENTS["e8m0"]
FP32 = ELEMENTS["fp32"]
CARRIERS = ("fp16", "bf16", "fp32", "fp64")


def _carrier(name: str) -> Element:
    """The float type of inputs and results; only the four of section 7 are types of a tensor."""
    _check_word("type", name, CARRIERS)
    return ELEMENTS[name]


# Section 2: rounding


def round_integer(k: Fraction, rounding: str | Chance, negative: bool = False) -> int:
    """k = |v| / 2^q to an integer by the table of section 2; `negative` is the sign of v."""
    whole = k.numerator // k.denominator
    rest = k - whole
    if isinstance(rounding, Chance):
        return whole + _goes_up(rest, rounding)
    _check_word("rounding", rounding, ROUNDINGS)
    if rest == 0:
        return whole
    if rounding in (TOWARD_ZERO, UP, DOWN):
        return whole + (rounding == (DOWN if negative else UP))
    if rounding == TO_ODD:
        return whole + (whole % 2 == 0)
    if rest == Fraction(1, 2):
        # Away from zero is up because k is a magnitude; even is up from an odd integer only.
        goes = {NEAREST_AWAY: 1, NEAREST_ZERO: 0, NEAREST_UP: not negative, NEAREST_EVEN: whole % 2}
        return whole + goes[rounding]
    return whole + (1 if rest > Fraction(1, 2) else 0)


def _goes_up(rest: Fraction, chance: Chance) -> bool:
    """Stochastic rounding of section 2 for a fraction in [0, 1)."""
    _check_word("stochastic", chance.variant, ("a", "b", "c"))
    if not 0 <= chance.random < 1 << chance.bits:
        raise RefusedError(f"{chance.random} is no number of {chance.bits} bits")
    unit = 1 << chance.bits
    if chance.variant == "a":
        return int(rest * unit) + chance.random >= unit
    if chance.variant == "b":
        return int(rest * 2 * unit) + 2 * chance.random + 1 >= 2 * unit
    return round_integer(rest * unit, NEAREST_EVEN) + chance.random >= unit


def philox(seed: int, stream: int, index: int) -> int:
    """The 32-bit word of an element (section 2), from the definition of Philox4x32-10."""
    low = (1 << 32) - 1
    block = index // 4
    counter = [block & low, block >> 32, stream & low, stream >> 32]
    key = [seed & low, seed >> 32]
    for _ in range(10):
        left, right = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(right >> 32) ^ counter[1] ^ key[0], right & low, (left >> 32) ^ counter[3] ^ key[1], left & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return counter[index % 4]


def stays_finite(rounding: str | Chance, negative: bool) -> bool:
    """Whether overflow of a finite value stays at the largest finite one even where it is `special` (section 2)."""
    return rounding in (TOWARD_ZERO, TO_ODD) or rounding == (UP if negative else DOWN)


def rounded_magnitude(
    element: Element, magnitude: Fraction, rounding: str | Chance, negative: bool = False
) -> Fraction:
    """The funnel of section 2 before any overflow: the exponent range is unbounded upwards."""
    if magnitude == 0:
        return Fraction(0)
    exponent = max(floor_log2(magnitude), element.emin)
    quantum = power_of_two(exponent - mantissa_bits_of(element, exponent))
    return round_integer(magnitude / quantum, rounding, negative) * quantum


def overflows(element: Element, value: Number, rounding: str | Chance) -> bool:
    """Whether the rounded value of a finite number exceeds the largest finite one (sections 2 and 13)."""
    return value.is_finite and rounded_magnitude(element, value.magnitude, rounding, value.negative) > element.largest


def _code_of_magnitude(element: Element, magnitude: Fraction) -> int:
    """The code below the sign of a value that the format holds exactly (section 1, read backwards)."""
    if element.taper:
        return next(code for code in range(1 << element.magnitude_bits) if magnitude_of(element, code) == magnitude)
    m_bits = element.mantissa_bits
    exponent = element.emin if magnitude == 0 else max(floor_log2(magnitude), element.emin)
    significand = magnitude / power_of_two(exponent - m_bits)
    if element.exponent_bits == 0 or significand < 1 << m_bits:
        if not element.zero:
            raise RefusedError("the value rounds below the smallest one of a format that has no zero")
        # Field 0: an integer or a subnormal is its own significand, in units of 2^(1 - B - M).
        code = magnitude / power_of_two(1 - element.bias - m_bits)
    else:
        code = ((exponent + element.bias) << m_bits) + significand - (1 << m_bits)
    if code.denominator != 1:
        raise AssertionError(f"{magnitude} is not a value of {element}")
    return code.numerator


def _with_sign(element: Element, code: int, negative: bool) -> int:
    """Put the sign on a magnitude code (section 1, and section 2 for the sign of zero)."""
    if not negative or (code == 0 and not element.has_negative_zero):
        return code
    if element.signedness == "unsigned":
        raise RefusedError("an unsigned format holds no negative number")
    if element.signedness == "twos_complement":
        return (1 << element.width) - code
    return code | element.sign_bit


def _special_code(element: Element, negative: bool) -> int:
    """What `overflow="special"` gives: Inf where the format has one, else NaN, else nothing can be said."""
    if element.infinity_code is not None:
        return _with_sign(element, element.infinity_code, negative)
    if element.nan_code is None:
        raise RefusedError("overflow='special' needs a format with Inf or NaN")
    return element.nan_code


def round_to_code(
    element: Element, value: Number, rounding: str | Chance = NEAREST_EVEN, overflow: str = "saturate"
) -> int:
    """One value to one code: section 2 for finite values, section 5 (no scale) for NaN and Inf."""
    _check_word("overflow", overflow, OVERFLOWS)
    if value.kind == "nan":
        if element.nan_code is None:
            raise RefusedError("NaN in a format without a NaN code")
        return element.nan_code
    if value.kind == "infinite":
        # The saturating mode holds Inf back even where the format has a code for it (OCP OFP8).
        if overflow == "special":
            return _special_code(element, value.negative)
        return _with_sign(element, element.largest_code, value.negative)
    rounded = rounded_magnitude(element, value.magnitude, rounding, value.negative)
    if rounded > element.largest:
        if overflow == "special" and not stays_finite(rounding, value.negative):
            return _special_code(element, value.negative)
        rounded = element.largest
    return _with_sign(element, _code_of_magnitude(element, rounded), value.negative)


@lru_cache(maxsize=32)
def magnitude_list(element: Element) -> tuple[Fraction, ...]:
    """Every finite magnitude in order of its code, and then one that is too large (for up to 16 bits).

    The extra entry is what the next code would mean if it were a number: the value at which overflow begins.
    """
    if element.taper:
        return tuple(sorted(magnitude_of(element, code) for code in range(1 << element.magnitude_bits)))
    codes = range(element.largest_code + 1)
    # One more exponent bit reads the code after the largest as a number instead of as a special or a carry.
    wider = replace(element, exponent_bits=element.exponent_bits + 1, specials="finite")
    beyond = magnitude_of(wider if element.exponent_bits else element, element.largest_code + 1)
    if element.exponent_bits == 0:
        beyond = (element.largest_code + 1) * magnitude_of(element, 1)
    return (*(magnitude_of(element, code) for code in codes), beyond)


def has_even_significand(element: Element, magnitude: Fraction) -> bool:
    """Whether a value that the format holds is an even number of its quanta (section 2). Every power of two has the odd
    significand 1, so without mantissa bits only zero is even."""
    exponent = element.emin if magnitude == 0 else max(floor_log2(magnitude), element.emin)
    return magnitude / power_of_two(exponent - mantissa_bits_of(element, exponent)) % 2 == 0


def round_by_neighbours(element: Element, value: Number, rounding: str, overflow: str) -> int:
    """Section 2 by another method, for finite values: pick one of two neighbours in the list of values."""
    values = magnitude_list(element)
    if value.magnitude >= values[-1]:
        code = len(values) - 1
    else:
        low, high = 0, len(values) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if values[middle] <= value.magnitude else (low, middle)
        below, above = value.magnitude - values[low], values[high] - value.magnitude
        low_is_even = has_even_significand(element, values[low])
        code = {
            NEAREST_EVEN: low if below < above or (below == above and low_is_even) else high,
            NEAREST_AWAY: low if below < above else high,
            NEAREST_ZERO: low if below <= above else high,
            NEAREST_UP: low if below < above or (below == above and value.negative) else high,
            TOWARD_ZERO: low,
            UP: low if value.negative or below == 0 else high,
            DOWN: high if value.negative and below > 0 else low,
            TO_ODD: high if low_is_even and below > 0 else low,
        }[rounding]
    if code == len(values) - 1:
        if overflow == "special" and not stays_finite(rounding, value.negative):
            return _special_code(element, value.negative)
        code = len(values) - 2
    return _with_sign(element, _code_of_magnitude(element, values[code]), value.negative)


def round_to_float(value: Number | Fraction, type_name: str = "fp32", rounding: str = NEAREST_EVEN) -> int:
    """IEEE 754 rounding to the bits of a float type, with subnormals and overflow: RN32 and its kin."""
    number = finite(value) if isinstance(value, Fraction) else value
    return round_to_code(ELEMENTS[type_name], number, rounding, "special")


def _in_type(element: Element, value: Number) -> Number:
    """One IEEE rounding, nearest even, to a float type, as a number (section 4)."""
    return decode(element, round_to_code(element, value, NEAREST_EVEN, "special"))


def rn32(value: Number) -> Number:
    """RN32(v) as a number."""
    return _in_type(FP32, value)


def computed(value: Number, narrow: str) -> Number:
    """One step of section 4: float32, and once more to bfloat16 where `narrow` says so."""
    once = rn32(value)
    return _in_type(ELEMENTS["bf16"], once) if narrow == "bf16" else once


# Sections 3 and 4: block formats and their scales


@dataclass(frozen=True)
class Micro:
    """A level inside blocks (section 3): code c of `codes` scales its elements by 2^codes[c]."""

    codes: tuple[int, ...]
    block: int


@dataclass(frozen=True)
class BlockFormat:
    """An element and its scales; `block` is a count, "row", "tensor", (lines, count), None without a scale.

    A scale format without zero and mantissa is a power of two (section 3); every other one is a float, and each
    arithmetic step is one of float32, `compute` (section 4). `outer` says what a float32 scale above the others is of,
    "tensor" or "row", and `outer_combine` how decoders use it. With `zero_point`, float32 scales have zero points
    beside them.
    """

    element: Element
    scale: Element | None = None
    block: int | str | tuple[int, int] | None = None
    overflow: str = "saturate"
    scale_rule: str = "floor"
    outer: str | None = None
    outer_combine: str = "multiply"
    micro: tuple[Micro, ...] = ()
    rounding: str = NEAREST_EVEN
    how: Choices = Choices()
    zero_point: bool = False

    @property
    def has_float_scale(self) -> bool:
        """Section 4 applies rather than section 3."""
        return self.scale is not None and not is_power_of_two_scale(self.scale)

    @property
    def has_signed_scale(self) -> bool:
        """Scales that may be negative: they are, under `signed_max`."""
        return self.scale_rule == SIGNED_MAX

    @property
    def has_lines_of_blocks(self) -> bool:
        """One level of scales, each of elements of one line or of all of them."""
        return self.outer is None and not self.micro and not self.zero_point and not isinstance(self.block, tuple)

    @property
    def unit(self) -> Fraction:
        """The unit of an integer element (section 1)."""
        return magnitude_of(self.element, 1)

    @property
    def integers(self) -> tuple[int, int]:
        """The lowest and the highest integer of two's complement."""
        return -self.element.sign_bit, self.element.sign_bit - 1

    def reach(self, levels: int = 0) -> int:
        """By how much the micro-levels from number `levels` on can lift an element, as an exponent."""
        return sum(max(level.codes) for level in self.micro[levels:])


@dataclass(frozen=True)
class Above:
    """The scale codes above an element, outermost first; the micro-exponents as one shift; the zero point."""

    outer: int | None = None
    scale: int | None = None
    shift: int = 0
    quotient: Number | None = None
    """What elements are divided by instead of the scale (section 4, divide_by)."""
    zero: int = 0


def is_power_of_two_scale(scale: Element) -> bool:
    """Whether a scale format holds powers of two and nothing else (section 3)."""
    return scale.mantissa_bits == 0 and not scale.zero and scale.signedness == "unsigned"


_FULL = Choices(integer_range="full")
_WORMHOLE = Choices(signed_zero="drop", preround="bf16_toward_zero", align_bits=6, align_rounding=NEAREST_AWAY)

BLOCK_FORMATS: dict[str, BlockFormat] = {
    "mxfp8_e4m3": BlockFormat(ELEMENTS["e4m3"], E8M0, 32),
    "mxfp8_e5m2": BlockFormat(ELEMENTS["e5m2"], E8M0, 32),
    "mxfp6_e2m3": BlockFormat(ELEMENTS["e2m3"], E8M0, 32),
    "mxfp6_e3m2": BlockFormat(ELEMENTS["e3m2"], E8M0, 32),
    "mxfp4": BlockFormat(ELEMENTS["e2m1"], E8M0, 32),
    "mxint8": BlockFormat(ELEMENTS["mxint8_element"], E8M0, 32),
    "mxint4": BlockFormat(ELEMENTS["mxint4_element"], E8M0, 32),
    # A sign and k - 9 magnitude bits, like HBFP in boxes of 16.
    "msfp16": BlockFormat(ELEMENTS["hbfp8_element"], E8M0, 16),
    "msfp15": BlockFormat(ELEMENTS["msfp15_element"], E8M0, 16),
    "msfp14": BlockFormat(ELEMENTS["hbfp6_element"], E8M0, 16),
    "msfp13": BlockFormat(ELEMENTS["msfp13_element"], E8M0, 16),
    "msfp12": BlockFormat(ELEMENTS["hbfp4_element"], E8M0, 16),
    "hbfp4": BlockFormat(ELEMENTS["hbfp4_element"], E8M0, 64),
    "hbfp6": BlockFormat(ELEMENTS["hbfp6_element"], E8M0, 64),
    "hbfp8": BlockFormat(ELEMENTS["hbfp8_element"], E8M0, 64),
    "int8": BlockFormat(ELEMENTS["int8"], FP32, "row"),
    "int4": BlockFormat(ELEMENTS["int4"], FP32, "row"),
    "int4_g128": BlockFormat(ELEMENTS["int4"], FP32, 128),
    "int8_affine": BlockFormat(ELEMENTS["int8"], FP32, "row", how=_FULL, zero_point=True),
    "int4_affine_g128": BlockFormat(ELEMENTS["int4"], FP32, 128, how=_FULL, zero_point=True),
    "int8_affine_tensor": BlockFormat(ELEMENTS["int8"], FP32, "tensor", how=_FULL, zero_point=True),
    "fp8_e4m3": BlockFormat(ELEMENTS["e4m3"], FP32, "tensor"),
    "fp8_e5m2": BlockFormat(ELEMENTS["e5m2"], FP32, "tensor"),
    "fp8_e4m3_1x128": BlockFormat(ELEMENTS["e4m3"], FP32, 128),
    "nvfp4_one_level": BlockFormat(ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 16),
    "nvfp4": BlockFormat(ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 16, outer="tensor"),
    "nvfp4_4over6": BlockFormat(ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 16, outer="tensor", scale_rule=MSE),
    "nvfp4_16x16": BlockFormat(ELEMENTS["e2m1"], ELEMENTS["ue4m3"], (16, 16), outer="tensor"),
    "fp8_e4m3_row": BlockFormat(ELEMENTS["e4m3"], FP32, "row"),
    "fp8_e4m3_128x128": BlockFormat(ELEMENTS["e4m3"], FP32, (128, 128)),
    "fp8_e4m3_1x128_ue8m0": BlockFormat(ELEMENTS["e4m3"], E8M0, 128, scale_rule="rceil"),
    "fp8_e4m3_128x128_ue8m0": BlockFormat(ELEMENTS["e4m3"], E8M0, (128, 128), scale_rule="rceil"),
    # A shared exponent of 16, and one bit per pair that halves it.
    "mx9": BlockFormat(ELEMENTS["hbfp8_element"], E8M0, 16, micro=(Micro((0, -1), 2),)),
    "mx6": BlockFormat(ELEMENTS["msfp13_element"], E8M0, 16, micro=(Micro((0, -1), 2),)),
    "mx4": BlockFormat(ELEMENTS["mx4_element"], E8M0, 16, micro=(Micro((0, -1), 2),)),
    # Two's complement cut toward minus infinity; and one exponent more instead of saturation.
    "bfp16": BlockFormat(ELEMENTS["mxint8_element"], E8M0, 8, rounding=DOWN, how=Choices(integer_range="full")),
    "bfp16_ebs16": BlockFormat(ELEMENTS["mxint8_element"], E8M0, 16, rounding=DOWN, how=Choices(integer_range="full")),
    "bfp16_quark": BlockFormat(
        ELEMENTS["mxint8_element"], E8M0, 8, scale_rule="fit", how=Choices(integer_range="full")
    ),
    # Tenstorrent: 24 bits without sticky ones, then nearest even; or bfloat16, 7 bits, and the leading ones of those.
    "bfp8_b": BlockFormat(ELEMENTS["hbfp8_element"], E8M0, 16, how=Choices(signed_zero="drop", align_bits=23)),
    "bfp4_b": BlockFormat(ELEMENTS["hbfp4_element"], E8M0, 16, how=Choices(signed_zero="drop", align_bits=23)),
    "bfp2_b": BlockFormat(ELEMENTS["bfp2_element"], E8M0, 16, how=Choices(signed_zero="drop", align_bits=23)),
    "bfp8_b_wormhole": BlockFormat(
        ELEMENTS["hbfp8_element"],
        E8M0,
        16,
        rounding=NEAREST_AWAY,
        how=Choices(signed_zero="drop", preround="bf16_toward_zero"),
    ),
    "bfp4_b_wormhole": BlockFormat(ELEMENTS["hbfp4_element"], E8M0, 16, rounding=TOWARD_ZERO, how=_WORMHOLE),
    "bfp2_b_wormhole": BlockFormat(ELEMENTS["bfp2_element"], E8M0, 16, rounding=TOWARD_ZERO, how=_WORMHOLE),
    # Integers under float16, divided by what it was before; and what becomes -8 may be of either sign.
    "q8_0": BlockFormat(
        ELEMENTS["int8"],
        ELEMENTS["fp16"],
        32,
        rounding=NEAREST_AWAY,
        how=Choices(scale_apply="reciprocal", divide_by="quotient"),
    ),
    "q4_0": BlockFormat(
        ELEMENTS["int4"],
        ELEMENTS["fp16"],
        32,
        scale_rule=SIGNED_MAX,
        rounding=TOWARD_ZERO,
        how=Choices(integer_range="full", scale_apply="reciprocal", divide_by="quotient", cut_offset=Fraction(17, 2)),
    ),
    # E6M2, and two bits that double: all in bfloat16.
    "hif4": BlockFormat(
        ELEMENTS["hbfp4_element"],
        ELEMENTS["e6m2"],
        64,
        micro=(Micro((0, 1), 8), Micro((0, 1), 4)),
        rounding=NEAREST_AWAY,
        how=Choices(
            signed_zero="underflow", scale_apply="reciprocal", divisor_apply="reciprocal", scale_compute="bf16"
        ),
    ),
    "hif8": BlockFormat(ELEMENTS["hif8"], overflow="special", rounding=NEAREST_AWAY),
    "bf16": BlockFormat(ELEMENTS["bf16"], overflow="special"),
    "fp16": BlockFormat(ELEMENTS["fp16"], overflow="special"),
    "tf32": BlockFormat(ELEMENTS["tf32"], overflow="special"),
}


def log2_in_float32(magnitude: Fraction) -> Fraction:
    """RN32(log2 magnitude) of a number of float32 (section 3)."""
    if magnitude == power_of_two(floor_log2(magnitude)):
        return Fraction(floor_log2(magnitude))
    with localcontext() as context:
        context.prec = 60
        ratio = Decimal(magnitude.numerator).ln() - Decimal(magnitude.denominator).ln()
        value = Fraction(ratio / Decimal(2).ln())
    rounded = {rn32(finite(value + error)).fraction for error in (Fraction(-1, 10**40), Fraction(1, 10**40))}
    (only,) = rounded  # 40 digits decide
    return only


def _exponent_by_log2(element: Element, amax: Fraction, scale_rule: str, how: Choices) -> int:
    """X where the exponent comes from a logarithm (section 3)."""
    _check_word("scale_rule", scale_rule, ("floor", "ceil", "rceil", FIT))
    if scale_rule == "rceil":
        quotient = rn32(finite(amax / (how.divisor or element.largest)))
        if quotient.is_zero:
            return -2000  # below any scale
        return math.ceil(log2_in_float32(quotient.magnitude))
    logarithm = log2_in_float32(amax)
    return math.ceil(logarithm) - element.emax if scale_rule == "ceil" else math.floor(logarithm) - top_of(element, how)


def top_of(element: Element, how: Choices) -> int:
    """The power of two of the largest element, or of what stands for it in `floor` and `rceil` (section 3)."""
    return element.emax if how.divisor is None else floor_log2(how.divisor)


def scale_exponent(element: Element, amax: Fraction, scale_rule: str, how: Choices = Choices()) -> int:
    """X of a block whose largest magnitude is amax > 0, before it is clamped (section 3)."""
    if how.amax_exponent == "log2":
        return _exponent_by_log2(element, amax, scale_rule, how)
    _check_word("scale_rule", scale_rule, SCALE_RULES)
    if scale_rule == "rceil" and how.divisor is not None:
        quotient = amax / how.divisor
        return floor_log2(quotient) + (quotient != power_of_two(floor_log2(quotient)))
    exponent = floor_log2(amax)
    if scale_rule == "floor":
        return exponent - top_of(element, how)
    t = amax / power_of_two(exponent)
    # The largest binade of an integer has one fraction bit fewer: its top magnitude bit is the leading one.
    fraction_bits = mantissa_bits_of(element, element.emax) - (1 if element.exponent_bits == 0 else 0)
    if how.even_bits is not None:
        fraction_bits = how.even_bits
    promoted = {
        "ceil": t > 1,
        "rceil": t > element.largest / power_of_two(element.emax),
        "even": t >= 2 - power_of_two(-fraction_bits - 1),
        "nearest": t >= Fraction(3, 2),
    }[scale_rule]
    return exponent - element.emax + (1 if promoted else 0)


def power_of_two_scale_code(scale: Element, exponent: int, minimum: int = 0) -> int:
    """The code of 2^exponent, clamped to what the scale format holds, from `minimum` on (section 3)."""
    return min(max(exponent + scale.bias, minimum), scale.largest_code)


def _infinite_scale(fmt: BlockFormat, scale_rule: str, scale_minimum: int, how: Choices) -> int:
    """The scale of a block with Inf and no NaN, where it has one (section 5)."""
    assert fmt.scale is not None
    if how.infinite == "top":
        return fmt.scale.largest_code
    top = top_of(fmt.element, how if scale_rule in ("floor", "rceil") else Choices())
    return power_of_two_scale_code(fmt.scale, 128 - top, scale_minimum)


def _is_beyond(fmt: BlockFormat, scale_rule: str, amax: Fraction, how: Choices) -> bool:
    """Whether a rule wants a power of two that has no code, or amax counts as 2^128 (under `even` and `nan_amax`), or a
    quotient rounds to zero, where that is NaN (section 3)."""
    assert fmt.scale is not None
    if how.scale_underflow == "nan" and rn32(finite(amax / (how.divisor or fmt.element.largest))).is_zero:
        return True
    if how.scale_overflow == "clamp":
        return False
    wanted = scale_exponent(fmt.element, amax, scale_rule, how)
    taken = top_of(fmt.element, how if scale_rule in ("floor", "rceil") else Choices())
    return wanted > fmt.scale.largest_code - fmt.scale.bias or (
        (scale_rule == "even" or how.scale_overflow == "nan_amax") and wanted + taken > 127
    )


def _quotient(
    fmt: BlockFormat, scale_rule: str, amax: Fraction, outer: int | None, how: Choices, above: Fraction = Fraction(1)
) -> Number:
    """amax over the largest element (times `above`), before it becomes a code (section 4, step 2)."""
    largest = how.divisor or fmt.element.largest
    if scale_rule == SIGNED_MAX:
        largest = fmt.element.largest + magnitude_of(fmt.element, 1)
    largest *= power_of_two(fmt.reach()) * above
    encodes = fmt.outer_combine != "multiply"
    if outer is not None and amax > 0 and decode(FP32, outer).kind == "infinite":
        return finite(FP32.largest)
    if above != 1:
        how = replace(how, divisor_apply=how.outer_apply)

    def over_divisor(number: Fraction) -> Number:
        if how.divisor_apply == "divide":
            return computed(finite(number / largest), how.scale_compute)
        times = computed(finite(1 / largest), how.scale_compute)
        return computed(finite(number * times.magnitude), how.scale_compute)

    if outer is None or amax == 0:
        quotient = over_divisor(amax)
    elif how.scale_order == "outer_first":
        g = decode(FP32, outer).magnitude
        both = over_divisor(g) if encodes else computed(finite(g * largest), how.scale_compute)
        if not both.is_finite or both.is_zero:
            quotient = Number("infinite") if encodes == (not both.is_finite) else finite(Fraction(0))
        else:
            size = both.magnitude
            quotient = computed(finite(amax * size if encodes else amax / size), how.scale_compute)
    else:
        quotient = over_divisor(amax)
        if quotient.is_finite:
            g = decode(FP32, outer).magnitude
            size = quotient.magnitude
            if fmt.outer_combine == "divide_top":
                assert fmt.scale is not None
                quotient = rn32(_in_type(ELEMENTS["fp64"], finite(size * g * fmt.scale.largest)))
            else:
                quotient = computed(finite(size * g if encodes else size / g), how.scale_compute)
    if not quotient.is_finite and outer is not None and encodes:
        return finite(FP32.largest)
    if not quotient.is_finite:
        raise RefusedError("the quotient exceeds float32")
    return quotient


def _short_scale_code(
    scale: Element, quotient: Number, scale_rounding: str, scale_minimum: int, how: Choices = Choices()
) -> int:
    """The code of a quotient, which is no zero if anything is divided by it (section 4, step 2)."""
    numbers = scale.zero and how.divide_by == "stored" and how.scale_underflow not in ("zero", "zeros")
    least = max(1 if numbers else 0, scale_minimum)
    overflow = "saturate" if scale.infinity_code is None else "special"
    code = 0
    if quotient.magnitude > magnitude_of(scale, 0):
        code = round_to_code(scale, quotient, scale_rounding, overflow)
    if code == 0 and how.scale_underflow == "zero_scale":
        assert how.zero_scale is not None
        return how.zero_scale
    return max(least, code)


def encode_scale(fmt: BlockFormat, amax: Fraction, how: Choices) -> int:
    """The float32 scale above others that encoders multiply by: the largest of all over amax (section 4)."""
    assert fmt.scale is not None
    one = round_to_code(FP32, ONE, NEAREST_EVEN, "special")
    if amax == 0:
        return one
    largest = (how.divisor or fmt.element.largest) * power_of_two(fmt.reach())
    if fmt.outer_combine != "divide_top":
        largest *= fmt.scale.largest
    if how.outer_apply == "reciprocal":
        once = rn32(finite(1 / amax))
        made = rn32(finite(largest * once.magnitude)) if once.is_finite else once
    else:
        made = rn32(finite(largest / amax))
    if made.is_finite or how.outer_overflow == "infinity":
        return round_to_code(FP32, made, NEAREST_EVEN, "special")
    return one if how.outer_overflow == "one" else FP32.largest_code


def _computed_scale(
    fmt: BlockFormat,
    scale: Element,
    scale_rule: str,
    scale_rounding: str,
    scale_minimum: int,
    amax: Fraction,
    outer: int | None = None,
    how: Choices = Choices(),
) -> int:
    """The scale code of a block of finite elements (sections 3 and 4), below the float32 scale `outer` if given."""
    if is_power_of_two_scale(scale):
        # An all-zero block takes the smallest scale.
        if amax == 0:
            return scale_minimum if how.zero_scale is None else how.zero_scale
        exponent = scale_exponent(fmt.element, amax, scale_rule, how) - fmt.reach()
        return power_of_two_scale_code(scale, exponent, scale_minimum)
    if scale == FP32:
        return _float32_scale(fmt, scale_rule, amax, how)
    if amax == 0 and how.zero_scale is not None:
        return how.zero_scale
    quotient = _quotient(fmt, scale_rule, amax, outer, how)
    return _short_scale_code(scale, quotient, scale_rounding, scale_minimum, how)


def _float32_scale(
    fmt: BlockFormat, scale_rule: str, amax: Fraction, how: Choices, above: Fraction = Fraction(1)
) -> int:
    """RN32(amax / largest), 1 for zeros, never zero (section 4, step 2)."""
    if amax == 0:
        return round_to_code(FP32, ONE, NEAREST_EVEN, "special")
    quotient = _quotient(fmt, scale_rule, amax, None, how, above)
    # A quotient that rounds to zero is replaced by the smallest positive number, whose code is 1.
    return max(round_to_code(FP32, quotient, NEAREST_EVEN, "special"), 1)


def low_and_high(elements: Sequence[Number]) -> tuple[Fraction, Fraction]:
    """The least and the largest of the finite elements and zero (section 4, zero points)."""
    numbers = [Fraction(0), *(x.fraction for x in elements if x.is_finite)]
    return min(numbers), max(numbers)


def range_scale(fmt: BlockFormat, low: Fraction, high: Fraction) -> int:
    """The code of the scale that lays the integers over a block (section 4, zero points)."""
    lowest, highest = fmt.integers
    width = rn32(finite(high - low))
    if not width.is_finite:
        raise RefusedError("the distance from the least element to the largest exceeds float32")
    if width.is_zero:
        return round_to_code(FP32, ONE, NEAREST_EVEN, "special")
    quotient = rn32(finite(width.magnitude / ((highest - lowest) * fmt.unit)))
    if not quotient.is_finite:
        raise RefusedError("the scale exceeds float32")
    return max(round_to_code(FP32, quotient, NEAREST_EVEN, "special"), 1)


def zero_point(fmt: BlockFormat, low: Fraction, scale: Number) -> int:
    """Where the scale puts zero if the least element is the lowest integer (section 4, zero points)."""
    lowest, highest = fmt.integers
    steps = rn32(finite(-low / scale.magnitude))
    if not steps.is_finite:
        return highest
    return min(lowest + round_integer(steps.magnitude / fmt.unit, NEAREST_EVEN), highest)


def moved_code(fmt: BlockFormat, v: Number, zero: int, mode: str | Chance) -> tuple[int, bool]:
    """The code of an element that was scaled to v, and whether it left the range (section 4, zero points). NaN is what
    `ignore` makes +0 of."""
    lowest, highest = fmt.integers
    if v.kind == "nan":
        integer = zero
    elif v.kind == "infinite":
        integer = lowest - 1 if v.negative else highest + 1
    else:
        steps = round_integer(v.magnitude / fmt.unit, mode, v.negative)
        integer = zero + (-steps if v.negative else steps)
    within = min(max(integer, lowest), highest)
    return within % (2 * fmt.element.sign_bit), within != integer


def micro_code(
    fmt: BlockFormat,
    level: int,
    scale_rule: str,
    amax: Fraction,
    above: Above,
    how: Choices = Choices(),
) -> int:
    """The code of a level inside blocks (section 3): of those it has, the nearest to what the rule wants."""
    codes = fmt.micro[level].codes
    lowest = codes.index(min(codes))
    if fmt.has_float_scale:
        divided = _scaled_element(fmt, replace(above, shift=0), finite(amax), how)
        if divided.is_zero:
            return lowest
        amax = FP32.largest if divided.kind == "infinite" else divided.magnitude
        base = above.shift
    else:
        assert fmt.scale is not None and above.scale is not None
        base = above.scale - fmt.scale.bias + above.shift
    if amax == 0:
        return lowest
    rule, how = ("floor", Choices()) if fmt.has_float_scale else (scale_rule, how)
    wanted = scale_exponent(fmt.element, amax, rule, how) - fmt.reach(level + 1) - base
    return min(range(len(codes)), key=lambda code: abs(codes[code] - wanted))


def _checked_scale(scale: Element, code: int) -> int:
    """A given scale: kept as it is (section 5), except that a NaN is written canonically (section 1)."""
    value = decode(scale, code)
    if value.kind == "nan":
        assert scale.nan_code is not None
        return scale.nan_code
    if not value.is_finite or value.is_zero or value.negative:
        raise RefusedError(f"scale {code:#x} is neither a positive number nor NaN")
    return code


def factor_of(fmt: BlockFormat, above: Above) -> Number:
    """The float scales above an element as the one number that they multiply by (section 4)."""
    assert fmt.scale is not None and above.scale is not None
    if above.outer is None:
        return decode(fmt.scale, above.scale)
    made = divisor_of(fmt, above)
    return inverse(inverse(made)) if fmt.outer_combine == "reciprocals" else made


def inverse(x: Number) -> Number:
    """RN32(1 / x), for a positive number, zero or Inf."""
    if x.kind == "nan":
        return x
    if x.kind == "infinite":
        return finite(Fraction(0))
    return Number("infinite") if x.is_zero else rn32(finite(1 / x.magnitude))


def divisor_of(fmt: BlockFormat, above: Above) -> Number:
    """What elements are divided by below a float32 scale above others (section 4)."""
    assert fmt.scale is not None and above.scale is not None and above.outer is not None
    scale, outer = decode(fmt.scale, above.scale), decode(FP32, above.outer)
    if fmt.outer_combine == "multiply":
        return rn32(multiply(scale, outer))
    if fmt.outer_combine == "divide_top":
        return rn32(share_of(fmt, above))
    if fmt.outer_combine == "divide":
        if scale.kind == "nan" or outer.kind == "nan":
            return Number("nan")
        return finite(0) if outer.kind == "infinite" else rn32(finite(scale.magnitude / outer.magnitude))
    return rn32(multiply(scale, inverse(outer)))


def share_of(fmt: BlockFormat, above: Above) -> Number:
    """A scale over the largest scale times the one above, in float64 (section 4, `divide_top`)."""
    assert fmt.scale is not None and above.scale is not None and above.outer is not None
    scale, outer = decode(fmt.scale, above.scale), decode(FP32, above.outer)
    if scale.kind == "nan" or outer.kind == "nan":
        return Number("nan")
    if outer.kind == "infinite":
        return finite(0)
    return _in_type(ELEMENTS["fp64"], finite(scale.magnitude / (fmt.scale.largest * outer.magnitude)))


def decode_scaled(fmt: BlockFormat, above: Above, code: int) -> Number:
    """The decoded value of one element: section 3 (exact), section 4 (rounded to the type of the scale)."""
    value = decode(fmt.element, code)
    if fmt.scale is None or above.scale is None:
        return value
    value = multiply(value, finite(power_of_two(above.shift)))
    if fmt.zero_point:
        value = finite(value.fraction - above.zero * fmt.unit)
    if fmt.has_float_scale:
        return rn32(multiply(value, factor_of(fmt, above)))
    return multiply(value, decode(fmt.scale, above.scale))


# Section 8: sparsity


def absolute(value: Number) -> Number:
    """|x|, the rank of magnitude pruning (section 8)."""
    return replace(value, negative=False)


def rank(value: Number) -> tuple[int, Fraction]:
    """The order of section 8: -Inf, finite values with -0 equal to +0, Inf, and every NaN on top."""
    if value.kind == "nan":
        return (3, Fraction(0))
    if value.kind == "infinite":
        return (0 if value.negative else 2, Fraction(0))
    return (1, value.fraction)


def sparsify(
    line: Sequence[Number],
    n: int,
    m: int,
    ties: str = "lowest_index",
    score: Sequence[Number] | None = None,
    unit: int = 1,
) -> list[bool]:
    """Which elements of a line N:M pruning keeps (section 8), `unit` neighbours together."""
    _check_word("ties", ties, TIES)
    if not 0 < n <= m or unit < 1 or n % unit or m % unit:
        raise RefusedError(f"{n}:{m} in units of {unit} keeps no elements, more than there are, or parts of units")
    ranks = unit_ranks(_ranks(line, score), unit)
    mask = [False] * len(ranks)
    for start in range(0, len(ranks), m // unit):
        group = range(start, min(start + m // unit, len(ranks)))
        # The index decides last: among equals the preferred one must sort first.
        by_preference = sorted(group, reverse=ties == "highest_index")
        by_rank = sorted(by_preference, key=lambda i: ranks[i], reverse=True)
        # sorted is stable also with reverse=True, so equals are still in order of preference.
        wanted = min(n // unit, len(group))
        if ties == "topk":
            by_rank = [start + i for i in topk([ranks[i] for i in group], wanted)]
        for kept in by_rank[:wanted]:
            mask[kept] = True
    return [mask[i // unit] for i in range(len(line))]


def topk(ranks: Sequence[Any], kept: int) -> list[int]:
    """The places of a group in the order in which ties=topk leaves them, those that are kept first (section 8)."""
    order = list(range(len(ranks)))
    begin, end = 0, len(order)
    splits_left = 2 * (len(order).bit_length() - 1)
    while end - begin > 3 and splits_left > 0:
        order[begin:end], cut = topk_split(ranks, order[begin:end])
        if begin + cut < kept:
            begin += cut
        else:
            end = begin + cut
        splits_left -= 1
    finish = topk_sort if end - begin <= 3 else topk_heap
    order[begin:end] = finish(ranks, order[begin:end], kept - begin)
    return order


def topk_split(ranks: Sequence[Any], stretch: list[int]) -> tuple[list[int], int]:
    """A stretch after a split, and its cut."""
    last = len(stretch) - 1
    median = sorted((1, (last + 1) // 2, last), key=lambda i: (ranks[stretch[i]], i))[1]
    stretch[0], stretch[median] = stretch[median], stretch[0]
    pivot = ranks[stretch[0]]
    left, right = 1, last
    while True:
        while ranks[stretch[left]] > pivot:
            left += 1
        while pivot > ranks[stretch[right]]:
            right -= 1
        if left >= right:
            return stretch, left
        stretch[left], stretch[right] = stretch[right], stretch[left]
        left, right = left + 1, right - 1


def topk_sort(ranks: Sequence[Any], stretch: list[int], kept: int) -> list[int]:
    """What is left after the last split."""
    return sorted(stretch, key=lambda i: ranks[i], reverse=True)


def topk_heap(ranks: Sequence[Any], stretch: list[int], kept: int) -> list[int]:
    """What is left after too many splits."""
    heap, others = stretch[:kept], stretch[kept:]
    for top in reversed(range(len(heap) // 2)):
        _put(ranks, heap, top, heap[top])
    for i, place in enumerate(others):
        if ranks[place] > ranks[heap[0]]:
            others[i] = heap[0]
            _put(ranks, heap, 0, place)
    return heap + others


def _put(ranks: Sequence[Any], heap: list[int], top: int, place: int) -> None:
    """The lowest below a node move up until a leaf is free, from which the place rises."""
    free = top
    while 2 * free + 1 < len(heap):
        below = [child for child in (2 * free + 1, 2 * free + 2) if child < len(heap)]
        lowest = min(below, key=lambda child: (ranks[heap[child]], -child))  # of equals the right one
        heap[free], free = heap[lowest], lowest
    while free > top and ranks[heap[(free - 1) // 2]] > ranks[place]:
        heap[free], free = heap[(free - 1) // 2], (free - 1) // 2
    heap[free] = place


def unit_ranks(ranks: Sequence[tuple[int, Fraction]], unit: int) -> list[tuple[int, Fraction]]:
    """A unit ranks as the highest of its elements (section 8)."""
    return [max(ranks[i : i + unit]) for i in range(0, len(ranks), unit)]


def _ranks(line: Sequence[Number], score: Sequence[Number] | None) -> list[tuple[int, Fraction]]:
    """Ranks by |x|, or by a score that replaces it (section 8)."""
    if score is not None and len(score) != len(line):
        raise RefusedError(f"{len(score)} scores for {len(line)} elements")
    return [rank(value) for value in (score if score is not None else [absolute(x) for x in line])]


def tied_groups(ranks: Sequence[tuple[int, Fraction]], mask: Sequence[bool], m: int) -> int:
    """Groups in which a kept and a pruned element have equal rank (section 13)."""
    count = 0
    for start in range(0, len(ranks), m):
        group = range(start, min(start + m, len(ranks)))
        kept = {ranks[i] for i in group if mask[i]}
        count += any(ranks[i] in kept for i in group if not mask[i])
    return count


def apply_mask(bits: Sequence[int], type_name: str, mask: Sequence[bool]) -> list[int]:
    """The values of `sparsify`: +0 where pruned, and a NaN that is kept is canonical (sections 1 and 8)."""
    element = _carrier(type_name)
    return [round_to_float(decode(element, b), type_name) if keep else 0 for b, keep in zip(bits, mask, strict=True)]


# Sections 4 to 8: quantization


@dataclass(frozen=True)
class Events:
    """The counts of section 13."""

    saturated: int = 0
    underflowed: int = 0
    nonfinite: int = 0
    zero_blocks: int = 0
    ties: int = 0


@dataclass(frozen=True)
class QuantizedTensor:
    """Codes and value bits line by line; scales likewise (by rows of tiles where blocks span lines), or [[scale]] for a
    tensor scale (section 6)."""

    scales: list[list[int]]
    codes: list[list[int]]
    values: list[list[int]]
    mask: list[list[bool]]
    events: Events
    outer: list[list[int]]
    """Of a float32 level above the scales: [[scale]], or one per line; empty without."""
    micro: list[list[list[int]]]
    """Of each level inside blocks, line by line."""
    zeros: list[list[int]]
    """Codes of zero points, like `scales`; empty without."""


@dataclass(frozen=True)
class Quantized:
    """The same for a single line."""

    scales: list[int]
    codes: list[int]
    values: list[int]
    mask: list[bool]
    events: Events


def _pruned(line: Sequence[T], kept: Sequence[bool], zero: T) -> list[T]:
    """A line with its pruned elements replaced by zero (section 8)."""
    return [item if keep else zero for item, keep in zip(line, kept, strict=True)]


Place = tuple[int, int]


def _blocks(lengths: Sequence[int], block: int | str | tuple[int, int] | None, rows: int) -> list[list[list[Place]]]:
    """The (line, index) pairs of each block, blocks grouped as their scales are (section 6). Tiles span lines among
    each `rows` of them."""
    if block == "tensor":
        return [[[(line, i) for line, length in enumerate(lengths) for i in range(length)]]]
    if isinstance(block, tuple):
        across, along = block
        grouped = []
        for first in range(0, len(lengths), rows):
            for top in range(first, first + rows, across):
                lines = range(top, min(top + across, first + rows))
                starts = range(0, lengths[top], along)
                grouped.append(
                    [[(n, i) for n in lines for i in range(s, min(s + along, lengths[top]))] for s in starts]
                )
        return grouped
    grouped = []
    for line, length in enumerate(lengths):
        # Without a scale a line is taken whole, like `row`; nothing then depends on the extent.
        extent = block if isinstance(block, int) else max(length, 1)
        starts = range(0, length, extent)
        grouped.append([[(line, i) for i in range(s, min(s + extent, length))] for s in starts])
    return grouped


def _scaled_element(fmt: BlockFormat, above: Above, x: Number, how: Choices = Choices()) -> Number:
    """What section 2 rounds: x itself, x * 2^-X exactly (section 3), or RN(x / s) (section 4), which
    micro-exponents then move exactly."""
    if fmt.scale is None or above.scale is None:
        return x
    if not x.is_finite:
        turned = fmt.has_float_scale and factor_of(fmt, above).negative
        return replace(x, negative=x.negative != turned)
    moved = power_of_two(-above.shift)
    if not fmt.has_float_scale:
        power = decode(fmt.scale, above.scale).magnitude
        if above.scale == 0 and how.least_scale != "exact":
            power = 2 * power if how.least_scale == "next" else Fraction(1)
        return Number("finite", x.magnitude / power * moved, x.negative)
    if above.quotient is not None:
        factor = above.quotient
    else:
        factor = factor_of(fmt, above) if above.outer is None else divisor_of(fmt, above)
    negative = x.negative != factor.negative
    if above.quotient is not None and factor.is_zero:
        return Number("finite", Fraction(0), x.negative)
    if how.scale_underflow == "zeros" and factor.is_zero:
        return Number("finite")
    # Where the product of two scales is no positive number, the nearest one divides.
    smallest = power_of_two(-149)
    divisor = FP32.largest if factor.kind == "infinite" else max(factor.magnitude, smallest)
    # A reciprocal beyond float32 is the largest number.
    times = computed(finite(1 / divisor), how.scale_compute)
    if not times.is_finite:
        times = finite(FP32.largest if how.scale_compute == "fp32" else ELEMENTS["bf16"].largest)
    if how.cut_offset:
        product = rn32(Number("finite", x.magnitude * times.magnitude, negative))
        total = rn32(add(product, finite(how.cut_offset)))
        whole = math.trunc(total.fraction) if total.is_finite else (-1 if total.negative else 1) << 64
        return finite(whole - math.floor(how.cut_offset))
    if how.scale_apply == "outer_reciprocal":
        assert above.outer is not None
        once, scale = inverse(decode(FP32, above.outer)), decode(fmt.scale, above.scale)
        over = once if not once.is_finite or scale.is_zero else rn32(finite(once.magnitude / scale.magnitude))
        if x.is_zero:
            return x
        if not over.is_finite or scale.is_zero:
            return Number("infinite", negative=x.negative)
        quotient = computed(Number("finite", x.magnitude * over.magnitude, negative), how.apply_compute)
    elif how.scale_apply == "reciprocal" and fmt.outer_combine == "divide_top":
        share = share_of(fmt, above)
        if x.is_zero:
            return x
        if share.is_zero:
            return Number("infinite", negative=x.negative)
        over = rn32(_in_type(ELEMENTS["fp64"], finite(1 / share.magnitude)))
        if not over.is_finite:
            return Number("infinite", negative=x.negative)
        quotient = computed(Number("finite", x.magnitude * over.magnitude, negative), how.apply_compute)
    elif how.scale_apply == "reciprocal":
        quotient = computed(Number("finite", x.magnitude * times.magnitude, negative), how.apply_compute)
    else:
        quotient = computed(Number("finite", x.magnitude / divisor, negative), how.apply_compute)
    return replace(quotient, magnitude=quotient.magnitude * moved)


def _largest(element: Element, negative: bool, how: Choices) -> Fraction:
    """The largest magnitude of a sign: two's complement has one more step below zero (section 2)."""
    return element.largest + (magnitude_of(element, 1) if negative and how.integer_range == "full" else 0)


def _rounded_element(
    fmt: BlockFormat, x: Number, v: Number, rounding: str | Chance, overflow: str, how: Choices
) -> int:
    """Section 2 for one element x that was scaled to v, and section 5 for what is no number."""
    element = fmt.element
    if v.kind == "nan" and (how.nonfinite == "ignore" or how.nan_scale == "least") and element.nan_code is None:
        return 0
    if x.kind == "infinite" and how.nonfinite == "keep":
        return _special_code(element, x.negative)
    if x.is_finite and v.kind == "infinite":
        # A quotient that left float32 is a large number.
        v = Number("finite", FP32.largest, v.negative)
    if v.is_finite:
        negative_zero = v.negative and element.has_negative_zero and how.signed_zero != "drop"
        rounded = rounded_magnitude(element, v.magnitude, rounding, v.negative)
        if how.subnormals == "flush" and rounded < power_of_two(element.emin):
            rounded = Fraction(0)
        if rounded == 0:
            return element.sign_bit if negative_zero else 0
        if how.integer_range == "full" and v.negative and rounded > element.largest:
            return element.sign_bit  # the lowest code
        if rounded <= element.largest:
            return _with_sign(element, _code_of_magnitude(element, rounded), v.negative)
    if how.integer_range == "full" and v.kind == "infinite" and v.negative:
        return element.sign_bit
    return round_to_code(element, v, rounding, overflow)


def aligned(fmt: BlockFormat, v: Number, how: Choices) -> Number:
    """v, in units of its block's scale, rounded to `align_bits` below the largest exponent (section 3)."""
    if how.align_bits == 0 or not v.is_finite:
        return v
    quantum = power_of_two(fmt.element.emax - how.align_bits)
    return replace(v, magnitude=round_integer(v.magnitude / quantum, how.align_rounding) * quantum)


def stepped(fmt: BlockFormat, v: Number, rounding: str | Chance, how: Choices) -> Number:
    """What float32 steps make of v, in units of its scale: of the half that is added before a number is cut (section
    2), or of a logarithm that says where (section 3)."""
    element = fmt.element
    if not v.is_finite or v.is_zero:
        return v
    if how.half_sum == "fp32":
        exponent = max(floor_log2(v.magnitude), element.emin)
        quantum = power_of_two(exponent - element.mantissa_bits)
        k = v.magnitude / quantum
        whole = math.floor(rn32(finite(k + Fraction(1, 2))).magnitude)
        if rounding == NEAREST_EVEN and k % 1 == Fraction(1, 2) and whole % 2:
            whole -= 1
        # Large numbers saturate, whatever the sum makes of them.
        return replace(v, magnitude=whole * quantum) if k < 1 << 20 else v
    if how.element_exponent == "log2":
        exponent = max(math.floor(log2_in_float32(v.magnitude)), element.emin)
        quantum = power_of_two(exponent - element.mantissa_bits)
        return replace(v, magnitude=v.magnitude // quantum * quantum)
    return v


def prepared(x: Number, how: Choices) -> Number:
    """Input as it is quantized, but for what is no number (section 2)."""
    if how.preround == "bf16":
        x = _in_type(ELEMENTS["bf16"], x)
    if how.preround == "bf16_toward_zero" and x.is_finite:
        bf16 = ELEMENTS["bf16"]
        x = replace(x, magnitude=min(rounded_magnitude(bf16, x.magnitude, TOWARD_ZERO), bf16.largest))
    if how.input_subnormals == "flush" and x.is_finite and x.magnitude < power_of_two(-126):
        x = replace(x, magnitude=Fraction(0))
    if x.is_zero and how.signed_zero in ("underflow", "negative"):
        return POSITIVE_ZERO if how.signed_zero == "underflow" else NEGATIVE_ZERO
    return x


def _second_code(
    fmt: BlockFormat, scale_rounding: str, scale_minimum: int, amax: Fraction, outer: int | None, how: Choices
) -> int:
    """The scale that takes amax to the largest power of two among elements (section 4): the quotient once more, times
    the largest element over that power, in float32."""
    assert fmt.scale is not None
    quotient = rn32(finite(amax / (how.divisor or fmt.element.largest)))
    if outer is not None:
        quotient = rn32(finite(quotient.magnitude / decode(FP32, outer).magnitude))
    # A quotient that rounds to zero is the smallest number, as in step 2.
    magnitude = quotient.magnitude or power_of_two(-149)
    quotient = rn32(finite(magnitude * fmt.element.largest / power_of_two(fmt.element.emax)))
    return _short_scale_code(fmt.scale, quotient, scale_rounding, scale_minimum)


def _error(
    fmt: BlockFormat,
    above: Above,
    elements: Sequence[Number],
    modes: Sequence[str | Chance],
    rule: str,
    how: Choices,
) -> Fraction:
    """What `mse` and `mae` add up over a block, in float64 step by step (section 3)."""
    fp64 = ELEMENTS["fp64"]
    total = Fraction(0)
    for x, mode in zip(elements, modes, strict=True):
        if not x.is_finite:
            continue
        v = _scaled_element(fmt, above, x, how)
        made = decode_scaled(fmt, above, _rounded_element(fmt, x, v, mode, "saturate", how))
        error = _in_type(fp64, finite(abs(made.fraction - x.fraction)))
        if rule == MSE:
            error = _in_type(fp64, finite(error.magnitude**2))
        total = _in_type(fp64, finite(total + error.magnitude)).fraction
    return total


def as_number(x: Number, how: Choices) -> Number:
    """What is no number as zero or a large number, where that is asked for (section 5)."""
    if not x.is_finite and how.nonfinite == "zero":
        return POSITIVE_ZERO
    if x.kind == "nan" and how.nonfinite == "saturate":
        return POSITIVE_INFINITY
    large = how.nonfinite == "largest" or (x.kind == "infinite" and how.infinite == "largest")
    if x.is_finite or not large:
        return x
    return Number("finite", FP32.largest, x.kind == "infinite" and x.negative)


def _cast(value: Number, result: Element, inexact: str) -> int:
    """Section 7: the decoded value in the type of the result."""
    code = round_to_code(result, value, NEAREST_EVEN, "special")
    if inexact == "error" and value.kind != "nan" and decode(result, code) != value:
        raise RefusedError(f"{value} is not exact in the result's dtype; choose another dtype= or inexact='round'")
    return code


def quantize_tensor(
    lines: Sequence[Sequence[int]],
    carrier: str,
    fmt: BlockFormat,
    *,
    block: int | str | tuple[int, int] | None = None,
    rows: int | None = None,
    scale_rule: str | None = None,
    rounding: str | None = None,
    overflow: str | None = None,
    sparsity: tuple[int, int] | None = None,
    ties: str = "lowest_index",
    order: str = "sparsify_first",
    score: Sequence[Sequence[Number]] | None = None,
    mask: Sequence[Sequence[bool]] | None = None,
    scales: Sequence[Sequence[int]] | None = None,
    outer: Sequence[Sequence[int]] | None = None,
    zeros: Sequence[Sequence[int]] | None = None,
    inexact: str | None = None,
    result: str | None = None,
    scale_rounding: str = NEAREST_EVEN,
    scale_minimum: int = 0,
    stochastic: str = "a",
    random_bits: int = 16,
    random: Sequence[Sequence[int]] | None = None,
    how: Choices | None = None,
) -> QuantizedTensor:
    """Quantize lines of bit patterns of type `carrier` (sections 2 to 8), with the events of section 13."""
    _check_word("order", order, ORDERS)
    _check_word("scale_rounding", scale_rounding, (NEAREST_EVEN, UP))
    rounding = fmt.rounding if rounding is None else rounding
    how = fmt.how if how is None else how
    if (rounding == STOCHASTIC) != (random is not None):
        raise RefusedError("random bits go with stochastic rounding")
    element = fmt.element
    block = fmt.block if block is None else block
    overflow = fmt.overflow if overflow is None else overflow
    scale_rule = fmt.scale_rule if scale_rule is None else scale_rule
    result_type = _carrier(carrier if result is None else result)
    if inexact is None:
        # Section 7: refusing is the default only where exactness is the normal case.
        inexact = "round" if fmt.has_float_scale or result_type.width == 16 else "error"
    _check_word("inexact", inexact, ("error", "round"))
    if fmt.scale is None and (block is not None or scales is not None):
        raise RefusedError("a format without a scale has no blocks and takes no scales")
    if fmt.zero_point and (how.integer_range != "full" or how.divisor is not None):
        raise RefusedError("zero points have the full range, and no divisor")
    if fmt.scale is not None and (block is None or (isinstance(block, int) and block < 1)):
        raise RefusedError("a scale needs a block")
    pruned_last = order == "quantize_first" and (mask is not None or sparsity is not None)
    if pruned_last and fmt.has_float_scale and fmt.scale != FP32 and fmt.scale.signedness == "signed":
        raise RefusedError("section 8: a zero under a negative scale decodes to -0")

    x = [[decode(_carrier(carrier), bits) for bits in line] for line in lines]
    kept = [[True] * len(line) for line in x]
    tie_count = 0

    def choose(ranked: list[list[Number]]) -> None:
        """Fill `kept` by the mask, the score or the magnitudes of `ranked` (section 8)."""
        nonlocal kept, tie_count
        if mask is not None:
            kept = [list(row) for row in mask]
        elif sparsity is not None:
            rows = [(line, None if score is None else score[i]) for i, line in enumerate(ranked)]
            kept = [sparsify(line, *sparsity, ties, line_score) for line, line_score in rows]
            ranks = [_ranks(line, line_score) for line, line_score in rows]
            tie_count = sum(tied_groups(r, k, sparsity[1]) for r, k in zip(ranks, kept, strict=True))

    if order == "sparsify_first":
        choose(x)
        # From here on a pruned element is a +0 like any other: it moves no scale and raises no event.
        x = [_pruned(line, row, POSITIVE_ZERO) for line, row in zip(x, kept, strict=True)]
    if fmt.has_float_scale or "log2" in (how.amax_exponent, how.element_exponent) or how.half_sum == "fp32":
        # Section 4, step 1: a value beyond the range of `compute` becomes an Inf and is one from here on.
        x = [[rn32(v) for v in line] for line in x]
    x = [[prepared(v, how) for v in line] for line in x]
    unnumbered = sum(not v.is_finite for line in x for v in line)
    if unnumbered and how.nonfinite == "error":
        raise RefusedError("NaN or Inf")
    x = [[as_number(v, how) for v in line] for line in x]
    lengths = [len(line) for line in x]
    block_groups = _blocks(lengths, block, len(x) if rows is None else rows)
    if how.nonfinite == "zero_block":
        for places in (places for group in block_groups for places in group):
            if not all(x[line][i].is_finite for line, i in places):
                for line, i in places:
                    x[line][i] = NEGATIVE_ZERO if how.signed_zero == "negative" else POSITIVE_ZERO
    was_zero = [[v.is_zero for v in line] for line in x]
    if scales is not None and [len(row) for row in scales] != [len(group) for group in block_groups]:
        raise RefusedError("the given scales do not match the blocks")
    codes = [[0] * len(line) for line in x]
    above_of: dict[Place, Above] = {}
    saturated = underflowed = zero_blocks = 0

    out_outer = [] if outer is None else [list(row) for row in outer]
    if fmt.outer is not None:
        assert fmt.scale is not None
        outer_groups = _blocks(lengths, fmt.outer, len(x))
        if outer is None:
            for group in outer_groups:
                members = [x[line][i] for line, i in group[0]] if group else []
                amax = max((v.magnitude for v in members if v.is_finite), default=Fraction(0))
                finite_group = how.skips or all(v.is_finite for v in members)
                assert FP32.nan_code is not None
                if fmt.outer_combine == "multiply":
                    code = _float32_scale(fmt, scale_rule, amax, how, fmt.scale.largest)
                else:
                    code = encode_scale(fmt, amax, how)
                if not finite_group:
                    any_nan = any(v.kind == "nan" for v in members)
                    code = FP32.nan_code
                    if any_nan and how.outer_overflow == "one":
                        code = round_to_code(FP32, ONE, NEAREST_EVEN, "special")
                out_outer.append([code] if group else [])
        for group, row in zip(outer_groups, out_outer, strict=True):
            for places, code in zip(group, row, strict=True):
                # One that is computed may be an Inf.
                checked = code if outer is None else _checked_scale(FP32, code)
                above_of |= {place: Above(outer=checked) for place in places}

    out_scales: list[list[int]] = []
    out_zeros: list[list[int]] = []
    for group_index, group in enumerate(block_groups):
        out_scales.append([])
        out_zeros.append([])
        for block_index, places in enumerate(group):
            if fmt.scale is None:
                above_of |= {place: Above() for place in places}
                continue
            elements = [x[line][i] for line, i in places]
            bad = how.spoils(elements)
            outside = above_of.get(places[0], Above()) if places else Above()
            lost = outside.outer is not None and decode(FP32, outside.outer).kind == "nan"
            quotient: Number | None = None
            if scales is not None:
                scale_code = _checked_scale(fmt.scale, scales[group_index][block_index])
            elif bad or lost:
                if fmt.scale.nan_code is None:
                    raise RefusedError("NaN or Inf below a scale format without a NaN code")
                scale_code = fmt.scale.nan_code
            else:
                amax = max((v.magnitude for v in elements if v.is_finite), default=Fraction(0))
                zero_blocks += amax == 0
                floor_first = "floor" if scale_rule in (FIT, MSE, MAE) else scale_rule
                infinite = not how.skips and any(v.kind == "infinite" for v in elements)
                least = how.nan_scale == "least" and any(v.kind == "nan" for v in elements)
                if fmt.zero_point:
                    scale_code = range_scale(fmt, *low_and_high(elements))
                elif least:
                    scale_code = scale_minimum
                    zero_blocks -= amax == 0
                elif infinite:
                    scale_code = _infinite_scale(fmt, scale_rule, scale_minimum, how)
                    zero_blocks -= amax == 0
                elif amax > 0 and _is_beyond(fmt, floor_first, amax, how):
                    assert fmt.scale.nan_code is not None
                    scale_code = fmt.scale.nan_code
                else:
                    scale_code = _computed_scale(
                        fmt, fmt.scale, floor_first, scale_rounding, scale_minimum, amax, outside.outer, how
                    )
                number = not infinite and not least and decode(fmt.scale, scale_code).kind != "nan"
                if scale_rule == FIT and amax > 0 and number:
                    scaled = [_scaled_element(fmt, Above(scale=scale_code), v) for v in elements if v.is_finite]
                    tops = [(rounded_magnitude(element, v.magnitude, rounding, v.negative), v) for v in scaled]
                    if any(size > _largest(element, v.negative, how) for size, v in tops):
                        top = fmt.scale.largest_code
                        beyond = top if how.scale_overflow == "clamp" else fmt.scale.nan_code
                        assert beyond is not None
                        scale_code = scale_code + 1 if scale_code < top else beyond
                    if how.scale_overflow == "nan_amax" and decode(fmt.scale, scale_code).is_finite:
                        made = [
                            rounded_magnitude(element, v.magnitude, rounding, v.negative)
                            for v in (_scaled_element(fmt, Above(scale=scale_code), v) for v in elements if v.is_finite)
                        ]
                        reach = max(power_of_two(element.emax), *made) * decode(fmt.scale, scale_code).magnitude
                        if reach >= power_of_two(128):
                            assert fmt.scale.nan_code is not None
                            scale_code = fmt.scale.nan_code
                if scale_rule in (MSE, MAE) and amax > 0 and number:
                    candidates = [scale_code]
                    if is_power_of_two_scale(fmt.scale):
                        steps = (scale_code + step for step in (1, 0, -1))
                        candidates = [min(max(code, scale_minimum), fmt.scale.largest_code) for code in steps]
                    else:
                        candidates.append(_second_code(fmt, scale_rounding, scale_minimum, amax, outside.outer, how))
                    modes = [
                        rounding if random is None else Chance(stochastic, random_bits, random[line][i])
                        for line, i in places
                    ]
                    errors = [
                        _error(fmt, replace(outside, scale=code), elements, modes, scale_rule, how)
                        for code in candidates
                    ]
                    scale_code = candidates[errors.index(min(errors))]
                if scale_rule == SIGNED_MAX:
                    # The first of the largest goes to the lowest integer; zeros have none.
                    first = next((v for v in elements if v.is_finite and v.magnitude == amax and amax > 0), None)
                    if first is None or not first.negative:
                        scale_code |= fmt.scale.sign_bit
                if how.divide_by == "quotient":
                    size = _quotient(fmt, scale_rule, amax, None, how)
                    quotient = replace(size, negative=bool(scale_code & fmt.scale.sign_bit))
            if bad and not lost and decode(fmt.scale, scale_code).kind != "nan":
                raise RefusedError("NaN or Inf below a given scale that is a number")
            out_scales[-1].append(scale_code)
            scale_value = decode(fmt.scale, scale_code)
            zero = 0
            if zeros is not None:
                code = zeros[group_index][block_index]
                zero = code - 2 * element.sign_bit if code & element.sign_bit else code
            elif fmt.zero_point and scale_value.is_finite:
                zero = zero_point(fmt, low_and_high(elements)[0], scale_value)
            out_zeros[-1].append(zero % (2 * element.sign_bit) if fmt.zero_point else 0)
            above_of |= {place: replace(outside, scale=scale_code, zero=zero, quotient=quotient) for place in places}

    def is_poisoned(above: Above) -> bool:
        """Whether a scale above is NaN."""
        if above.outer is not None and decode(FP32, above.outer).kind == "nan":
            return True
        return fmt.scale is not None and above.scale is not None and decode(fmt.scale, above.scale).kind == "nan"

    out_micro: list[list[list[int]]] = []
    for number, level in enumerate(fmt.micro):
        out_micro.append([])
        extent = block[1] if isinstance(block, tuple) else block if isinstance(block, int) else max([1, *lengths])
        for line, length in enumerate(lengths):
            out_micro[-1].append([])
            # Micro-blocks divide blocks, so none straddles two of them.
            assert extent % level.block == 0 or extent >= length
            for start in range(0, length, level.block):
                places = [(line, i) for i in range(start, min(start + level.block, length))]
                above = above_of[places[0]]
                if is_poisoned(above):
                    out_micro[-1][-1].append(0)
                    continue
                amax = max((x[line][i].magnitude for line, i in places if x[line][i].is_finite), default=Fraction(0))
                code = micro_code(fmt, number, scale_rule, amax, above, how)
                out_micro[-1][-1].append(code)
                above_of |= {place: replace(above, shift=above.shift + level.codes[code]) for place in places}

    for line, length in enumerate(lengths):
        for i in range(length):
            value, above = x[line][i], above_of[line, i]
            if is_poisoned(above):
                continue  # the codes of a poisoned block are 0 (section 5)
            v = aligned(fmt, _scaled_element(fmt, above, value, how), how)
            mode: str | Chance = rounding
            if random is not None:
                mode = Chance(stochastic, random_bits, random[line][i])
            v = stepped(fmt, v, mode, how)
            if fmt.zero_point:
                codes[line][i], left = moved_code(fmt, v, above.zero, mode)
                saturated += left and value.is_finite
                at_zero = codes[line][i] == above.zero % (2 * element.sign_bit)
                underflowed += at_zero and value.is_finite and not value.is_zero
                continue
            code = _rounded_element(fmt, value, v, mode, overflow, how)
            codes[line][i] = code
            if value.is_finite:
                top = _largest(element, v.negative, how)
                # A quotient that overflows to Inf exceeds the largest value a fortiori.
                over = v.kind == "infinite" or rounded_magnitude(element, v.magnitude, mode, v.negative) > top
                saturated += over
                underflowed += not was_zero[line][i] and decode(element, code).is_zero

    def decoded() -> list[list[Number]]:
        """Every decoded value, before it is cast."""
        return [
            [NAN if is_poisoned(above_of[i, j]) else decode_scaled(fmt, above_of[i, j], c) for j, c in enumerate(line)]
            for i, line in enumerate(codes)
        ]

    if order == "quantize_first":
        choose(decoded())
        for line, row in enumerate(kept):
            for i, keep in enumerate(row):
                if not keep:
                    above = above_of[line, i]
                    # The code of zero, but in a poisoned block.
                    codes[line][i] = 0 if is_poisoned(above) else above.zero % (2 * element.sign_bit)

    return QuantizedTensor(
        scales=out_scales if fmt.scale is not None else [],
        codes=codes,
        values=[[_cast(v, result_type, inexact) for v in line] for line in decoded()],
        mask=kept,
        events=Events(saturated, underflowed, unnumbered, zero_blocks, tie_count),
        outer=out_outer,
        micro=out_micro,
        zeros=out_zeros if fmt.zero_point else [],
    )


def quantize(
    x: Sequence[int],
    carrier: str,
    fmt: BlockFormat,
    *,
    block: int | str | tuple[int, int] | None = None,
    scale_rule: str | None = None,
    rounding: str | None = None,
    overflow: str | None = None,
    sparsity: tuple[int, int] | None = None,
    ties: str = "lowest_index",
    order: str = "sparsify_first",
    score: Sequence[Number] | None = None,
    mask: Sequence[bool] | None = None,
    scales: Sequence[int] | None = None,
    inexact: str | None = None,
    result: str | None = None,
    scale_rounding: str = NEAREST_EVEN,
    scale_minimum: int = 0,
    stochastic: str = "a",
    random_bits: int = 16,
    random: Sequence[int] | None = None,
) -> Quantized:
    """`quantize_tensor` for one line."""
    tensor = quantize_tensor(
        [x],
        carrier,
        fmt,
        block=block,
        scale_rule=scale_rule,
        rounding=rounding,
        overflow=overflow,
        sparsity=sparsity,
        ties=ties,
        order=order,
        score=None if score is None else [score],
        mask=None if mask is None else [mask],
        scales=None if scales is None else [scales],
        inexact=inexact,
        result=result,
        scale_rounding=scale_rounding,
        scale_minimum=scale_minimum,
        stochastic=stochastic,
        random_bits=random_bits,
        random=None if random is None else [random],
    )
    scale_row = tensor.scales[0] if tensor.scales else []
    return Quantized(scale_row, tensor.codes[0], tensor.values[0], tensor.mask[0], tensor.events)


# Section 10: matrix multiplication, one dot product at a time


@dataclass(frozen=True)
class Operand:
    """One line of a matrix: codes, and the scales that go with them.

    `scales` are codes of `scale_element`, one per `block` elements; without `block`, one for the whole line.
    E8M0 and its kin make them powers of two, FP32 makes them float scales. `tensor_scale` is float32.
    """

    element: Element
    codes: Sequence[int]
    scales: Sequence[int] | None = None
    block: int | None = None
    scale_element: Element = E8M0
    tensor_scale: int | None = None

    @property
    def values(self) -> list[Number]:
        """Element values, without any scale."""
        return [decode(self.element, code) for code in self.codes]

    @property
    def extent(self) -> int:
        """Elements below one scale."""
        return self.block if self.block is not None and self.scales is not None else max(len(self.codes), 1)

    @property
    def has_float_scales(self) -> bool:
        """Whether `scales` are floats rather than powers of two."""
        return self.scales is not None and not is_power_of_two_scale(self.scale_element)

    def scale_at(self, k: int) -> Number | None:
        """The scale above element k, None without scales."""
        return None if self.scales is None else decode(self.scale_element, self.scales[k // self.extent])

    def decoded(self) -> list[Number]:
        """Decoded values: powers of two exact; float scales round once, by RN32(row * tensor) if there are both
        (sections 4 and 10)."""
        values = []
        for k, value in enumerate(self.values):
            scale = self.scale_at(k)
            if scale is not None and self.has_float_scales and self.tensor_scale is not None:
                values.append(rn32(multiply(value, rn32(multiply(scale, decode(FP32, self.tensor_scale))))))
                continue
            if scale is not None:
                value = multiply(value, scale)
                value = rn32(value) if self.has_float_scales else value
            if self.tensor_scale is not None:
                value = rn32(multiply(value, decode(FP32, self.tensor_scale)))
            values.append(value)
        return values


def segments(a: Operand, b: Operand) -> list[range]:
    """Runs of K between the block boundaries of either operand (section 10)."""
    length = len(a.codes)
    starts = sorted({*range(0, length, a.extent), *range(0, length, b.extent)})
    return [range(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]


def dot_exact(a: Operand, b: Operand, c: Number) -> Number:
    """`exact`: one rounding (section 10)."""
    return rn32(add(c, *(multiply(x, y) for x, y in zip(a.decoded(), b.decoded(), strict=True))))


def fused_sum(product: Number, acc: Number) -> Number:
    """The exact sum of two terms as IEEE 754-2019, 6.3 signs it: two negative zeros keep their sign."""
    if product.is_zero and acc.is_zero and product.negative and acc.negative:
        return NEGATIVE_ZERO
    return add(product, acc)


def dot_fma32(a: Operand, b: Operand, c: Number) -> Number:
    """`fma32`: one fused multiply-add per k, in ascending order (section 10)."""
    acc = c
    for x, y in zip(a.decoded(), b.decoded(), strict=True):
        acc = rn32(fused_sum(multiply(rn32(x), rn32(y)), acc))
    return acc


def dot_block_fp32(a: Operand, b: Operand, c: Number) -> Number:
    """`block_fp32`: exact segments, scaled into a float32 accumulator (section 10)."""
    acc = c
    a_values, b_values = a.values, b.values
    for segment in segments(a, b):
        total = add(*(multiply(a_values[k], b_values[k]) for k in segment))
        float_scales: list[Number] = []
        for operand in (a, b):
            scale = operand.scale_at(segment.start)
            if scale is None:
                continue
            if operand.has_float_scales:
                float_scales.append(scale)
            else:
                total = multiply(total, scale)  # exact: only the exponent moves
        if float_scales:
            # An absent float scale counts as 1, and RN32(s * 1) = s.
            s = rn32(multiply(float_scales[0], float_scales[1] if len(float_scales) == 2 else ONE))
            acc = rn32(add(multiply(rn32(total), s), acc))
        else:
            acc = rn32(add(acc, total))
    return _times_scales(acc, a.tensor_scale, b.tensor_scale)


def _times_scales(acc: Number, a_scale: int | None, b_scale: int | None) -> Number:
    """RN32(acc * RN32(sA * sB)); an absent scale is 1, with none there is no multiplication (section 10)."""
    if a_scale is None and b_scale is None:
        return acc
    both = [ONE if scale is None else decode(FP32, scale) for scale in (a_scale, b_scale)]
    return rn32(multiply(acc, rn32(multiply(*both))))


def cut(value: Fraction, exponent: int) -> Fraction:
    """Toward zero, in magnitude, to a multiple of 2^exponent (section 10, hopper_fp8)."""
    quantum = power_of_two(exponent)
    magnitude = round_integer(abs(value) / quantum, TOWARD_ZERO) * quantum
    return -magnitude if value < 0 else magnitude


def clamped_exponent(value: Number, emin: int) -> int:
    """The exponent of a non-zero number, where that of a subnormal is emin (section 10, hopper_fp8)."""
    return max(floor_log2(value.magnitude), emin)


HOPPER_GROUP, HOPPER_FRACTION_BITS = 32, 13


def hopper_step(products: Sequence[tuple[Number, int]], acc: Number) -> Number:
    """One group of `hopper_fp8`: products with their exponents ea + eb, then the accumulator (section 10)."""
    total = add(acc, *(product for product, _ in products))
    if not total.is_finite:
        return total
    terms = [(product.fraction, exponent) for product, exponent in products if not product.is_zero]
    if not acc.is_zero:
        terms.append((acc.fraction, clamped_exponent(acc, FP32.emin)))
    if not terms:
        return POSITIVE_ZERO
    # All terms are cut at the same place, set by the largest exponent and not by the largest value.
    last_bit = max(exponent for _, exponent in terms) - HOPPER_FRACTION_BITS
    total = finite(sum((cut(value, last_bit) for value, _ in terms), Fraction(0)))
    if total.is_zero:
        return POSITIVE_ZERO
    kept = cut(total.fraction, clamped_exponent(total, FP32.emin) - HOPPER_FRACTION_BITS)
    if abs(kept) >= power_of_two(128):
        return Number("infinite", negative=kept < 0)
    return finite(kept)


def dot_hopper_fp8(a: Operand, b: Operand, c: Number) -> Number:
    """`hopper_fp8`: aligned, cut and added in groups of 32 (section 10)."""
    fp8 = (ELEMENTS["e4m3"], ELEMENTS["e5m2"])
    if a.element not in fp8 or b.element not in fp8:
        raise RefusedError("hopper_fp8 multiplies e4m3 and e5m2")
    end_scales: list[int | None] = []
    for operand in (a, b):
        row = operand.scales
        one_float = row is None or (operand.has_float_scales and len(row) == 1)
        if not one_float or (row is not None and operand.tensor_scale is not None):
            raise RefusedError("hopper_fp8 takes one float scale per row or tensor")
        end_scales.append(row[0] if row is not None else operand.tensor_scale)
    acc = c
    pairs = []
    for x, y in zip(a.values, b.values, strict=True):
        product = multiply(x, y)
        usable = product.is_finite and not product.is_zero
        exponent = clamped_exponent(x, a.element.emin) + clamped_exponent(y, b.element.emin) if usable else 0
        pairs.append((product, exponent))
    for start in range(0, len(pairs), HOPPER_GROUP):
        # The zeros that pad the last group take no part, so a shorter group is the same.
        acc = hopper_step(pairs[start : start + HOPPER_GROUP], acc)
    return _times_scales(acc, *end_scales)


DATAPATHS = {
    "exact": dot_exact,
    "block_fp32": dot_block_fp32,
    "fma32": dot_fma32,
    "hopper_fp8": dot_hopper_fp8,
}
# The bits that a machine writes for NaN (section 10); the others write the canonical one of section 1.
CANONICAL_NAN = {"hopper_fp8": 0x7FFFFFFF}


def dot(datapath: str, a: Operand, b: Operand, c: int | None = None) -> int:
    """The float32 bits of one dot product plus c on a named datapath (section 10)."""
    _check_word("datapath", datapath, tuple(DATAPATHS))
    if len(a.codes) != len(b.codes):
        raise RefusedError(f"{len(a.codes)} elements against {len(b.codes)}")
    scaled_at_end = a.tensor_scale is not None or b.tensor_scale is not None
    if datapath == "hopper_fp8":
        scaled_at_end = scaled_at_end or a.scales is not None or b.scales is not None
    if c is not None and scaled_at_end:
        raise RefusedError("c has no unit where a scale multiplies the accumulator at the end")
    start = POSITIVE_ZERO if c is None else decode(FP32, c)
    result = DATAPATHS[datapath](a, b, start)
    if result.kind == "nan" and datapath in CANONICAL_NAN:
        return CANONICAL_NAN[datapath]
    return round_to_float(result)
