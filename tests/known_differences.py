"""Where conversions of other libraries differ from ours, as data.

`tests/test_known_differences.py` runs every row, and sweeps every conversion of `COMPARED` to see that it differs where
the rows say and nowhere else. `docs/generate_witnesses.py` writes docs/witnesses.md from this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oracle import ELEMENTS, Element

Array = npt.NDArray[Any]


#: Elements without mantissa bits, which the catalog does not have.
POWERS = {
    "e3m0": Element(3, 0, 3),
    "e4m0_fn": Element(4, 0, 7, "fn"),
    "e4m0_fnuz_inf": Element(4, 0, 7, "fnuz_inf"),
}


def element_named(name: str) -> Element:
    return POWERS[name] if name in POWERS else ELEMENTS[name]


@dataclass(frozen=True)
class Case:
    """One conversion of many inputs, for the classes of inputs to look at, without warnings of NumPy."""

    x: Array
    element: Element
    rounding: str
    overflow: str
    ours: Array
    """Our codes."""
    convert: Callable[..., Array]
    """Our codes of other inputs, or under other choices."""

    @property
    def wide(self) -> Array:
        return self.x.astype(np.float64)

    @property
    def narrow(self) -> Array:
        """What is left of the inputs where they are cast to float32 first."""
        return self.x.astype(np.float32)

    @property
    def power(self) -> tuple[Array, Array]:
        """L and t of |x| = 2^L · t with t in [1, 2), of numbers that are not zero."""
        fraction, exponent = np.frexp(np.abs(self.wide))
        return exponent - 1, 2 * fraction

    @property
    def even_power(self) -> Array:
        """The exponent of |x| rounded to a power of two, where nearest takes the even code of a tie."""
        exponent, t = self.power
        odd = (exponent + self.element.bias) % 2 == 1
        up = {
            "nearest_even": (t > 1.5) | ((t == 1.5) & odd),
            "nearest_away": t >= 1.5,
            "up": t > 1,
        }.get(self.rounding, np.zeros(t.shape, dtype=bool))
        return exponent + up

    @property
    def positive(self) -> Array:
        return (self.wide > 0) & np.isfinite(self.wide)


def becomes_nan(case: Case) -> Array:
    """NaN, and what overflows to it."""
    return np.asarray(case.ours == case.element.nan_code)


def becomes_negative_nan(case: Case) -> Array:
    """Negative NaN, and negative numbers that overflow to NaN."""
    return becomes_nan(case) & np.signbit(case.wide)


def is_nan(case: Case) -> Array:
    """NaN."""
    return np.isnan(case.wide)


def goes_by_float32(case: Case) -> Array:
    """Numbers of float64 whose code is another one by way of float32."""
    return case.convert(case.narrow) != case.ours


def is_lowest_integer(case: Case) -> Array:
    """What rounds to the lowest integer, or beyond it."""
    return np.asarray(case.convert(case.x, integer_range="full") == case.element.sign_bit)


def is_zero(case: Case) -> Array:
    """Zeros of both signs, and what float32 rounds to them."""
    return np.asarray(case.narrow == 0)


def is_negative(case: Case) -> Array:
    """Numbers below zero."""
    return (case.wide < 0) & np.isfinite(case.wide)


def is_in_lowest_binade(case: Case) -> Array:
    """Magnitudes between 2^-127 and 1.5 · 2^-127."""
    magnitude = np.abs(case.narrow.astype(np.float64))
    return (magnitude > 2.0**-127) & (magnitude < 1.5 * 2.0**-127)


def is_above_highest(case: Case) -> Array:
    """Magnitudes of 1.5 · 2^127 and more."""
    return (np.abs(case.narrow.astype(np.float64)) >= 1.5 * 2.0**127) & np.isfinite(case.wide)


def rounds_below_range(case: Case) -> Array:
    """Positive numbers that round to a power of two below the smallest code."""
    return case.positive & (case.even_power < case.element.emin)


def rounds_above_range(case: Case) -> Array:
    """Positive numbers that round to a power of two above the largest code."""
    return case.positive & (case.even_power > case.element.emax)


def is_infinite(case: Case) -> Array:
    """Inf of both signs."""
    return np.isinf(case.wide)


def is_minus_infinity(case: Case) -> Array:
    """-Inf."""
    return np.isneginf(case.wide)


def is_tie_above_even_code(case: Case) -> Array:
    """Halfway between two powers of two, where the code of the lower one is even."""
    (exponent, t), element = case.power, case.element
    code, signed = exponent + element.bias, element.signedness != "unsigned"
    # Above the largest code the two differ only if overflow is not the largest code itself.
    last = element.largest_code - (0 if signed and case.overflow == "special" else 1)
    tie = (t == 1.5) & (code % 2 == 0) & (exponent >= element.emin) & (code <= last) & np.isfinite(case.wide)
    return np.asarray(tie & (signed | (case.wide > 0)))


@dataclass(frozen=True)
class Difference:
    """A class of inputs that a witness converts differently, with an example."""

    witness: str
    version: str
    """In which it was seen."""
    element: str
    inputs: Callable[[Case], Array]
    bits: int
    """The example, as the bits of a `carrier`."""
    ours: int | None
    """Our code of it; None where it is refused."""
    theirs: int
    cause: str
    rule: str
    """Words of docs/numerics.md that ours follows."""
    roundings: tuple[str, ...] = ("nearest_even",)
    overflows: tuple[str, ...] = ("special",)
    carrier: str = "fp32"
    choice: tuple[tuple[str, str], ...] = ()
    """A choice of `Conversion` that makes ours the witness's, if there is one."""


@dataclass(frozen=True)
class Compared:
    """Conversions that are compared: each element in each rounding and overflow."""

    witness: str
    version: str
    elements: tuple[str, ...]
    overflows: tuple[str, ...]
    roundings: tuple[str, ...] = ("nearest_even",)
    nan: str = "as it is spelled"
    """Or "any": which NaN it is depends on the instructions that the witness finds."""


ML_DTYPES, TORCH, GFLOAT, NUMPY = ("ml_dtypes", "0.6.0"), ("torch", "2.13.0"), ("gfloat", "0.5.2"), ("numpy", "2.4.6")
DIRECTED = ("toward_zero", "up", "down")
EVERY = ("nearest_even", "nearest_away", *DIRECTED)
RANDOM = ("stochastic a", "stochastic b", "stochastic c")
SATURATE, SPECIAL, BOTH = ("saturate",), ("special",), ("special", "saturate")
FNUZ, IEEE = ("e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz"), ("e4m3_ieee", "e3m4")
P3109 = ("p3109_8p3se", "p3109_8p4se", "p3109_8p5se", "p3109_4p2sf")

COMPARED = (
    Compared(*ML_DTYPES, ("e4m3", "e5m2", *FNUZ, *IEEE, "bf16"), SPECIAL),
    Compared(*ML_DTYPES, ("e2m3", "e3m2", "e2m1", "e8m0"), SATURATE),
    Compared(*NUMPY, ("fp16",), SPECIAL, nan="any"),
    Compared(*TORCH, ("e5m2", "e4m3fnuz", "e5m2fnuz"), SPECIAL),
    Compared(*TORCH, ("bf16", "fp16"), SPECIAL, nan="any"),
    Compared(*TORCH, ("e4m3", "e8m0"), SATURATE),
    Compared(*GFLOAT, ("e4m3", "e5m2", *FNUZ, *IEEE, *P3109, "bf16", "fp16"), BOTH, (*EVERY, *RANDOM)),
    Compared(*GFLOAT, ("e2m3", "e3m2", "e2m1", "e1m2", "mxint8_element"), SATURATE, (*EVERY, *RANDOM)),
    Compared(*GFLOAT, ("e8m0",), BOTH, EVERY),
    Compared(*GFLOAT, ("e4m0_fn", "e4m0_fnuz_inf"), BOTH, (*EVERY, *RANDOM)),
    Compared(*GFLOAT, ("e3m0",), SATURATE, (*EVERY, *RANDOM)),
)

ONE_NAN = "Every NaN that this library makes is the canonical one"
ONCE = "float64 input is rounded once, to the element"
REFUSED_NAN = "without a NaN code, a NaN is an error"
LARGER_TIE = "a tie between two powers of two goes to the larger one"
NEAREST_POWER = "2^X is nearest to amax / 2^emax, ties up"
CLAMPED = "X is then clamped to what the scale format can hold"
ZERO_BLOCK = "X is the smallest that is written"
OF_MAGNITUDES = "Let amax be the largest |x|"
POISONED = "if any element under a scale is NaN or Inf"
NOT_LOWEST = "encoder never emits it"


def by_float32(witness: tuple[str, str], overflow: str, codes: dict[str, tuple[int, int, int]]) -> list[Difference]:
    """Rows of the witnesses that round float64 twice: by element the example, our code and theirs."""
    cause = "float64 is rounded to float32 first, and then once more."
    return [
        Difference(*witness, element, goes_by_float32, *example, cause, ONCE, overflows=(overflow,), carrier="fp64")
        for element, example in codes.items()
    ]


KNOWN = (
    # ml_dtypes
    *by_float32(
        ML_DTYPES,
        "special",
        {
            "e4m3": (0x3FF1000000000001, 0x39, 0x38),
            "e5m2": (0x3FF2000000000001, 0x3D, 0x3C),
            "e4m3fnuz": (0x3FF1000000000001, 0x41, 0x40),
            "e5m2fnuz": (0x3FF2000000000001, 0x41, 0x40),
            "e4m3b11fnuz": (0x3FF1000000000001, 0x59, 0x58),
            "e4m3_ieee": (0x3FF1000000000001, 0x39, 0x38),
            "e3m4": (0x3FF0800000000001, 0x31, 0x30),
            "bf16": (0x3FF0100000000001, 0x3F81, 0x3F80),
        },
    ),
    *by_float32(
        ML_DTYPES,
        "saturate",
        {
            "e2m3": (0x3FF1000000000001, 0x09, 0x08),
            "e3m2": (0x3FF2000000000001, 0x0D, 0x0C),
            "e2m1": (0x3FF4000000000001, 0x3, 0x2),
            "e8m0": (0x3FF7FFFFFFFFFFFF, 0x7F, 0x80),
        },
    ),
    *(
        Difference(
            *ML_DTYPES,
            element,
            becomes_negative_nan,
            bits,
            ours,
            theirs,
            "The sign of the input is put on the NaN.",
            ONE_NAN,
        )
        for element, bits, ours, theirs in (
            ("e4m3", 0xC3E80001, 0x7F, 0xFF),
            ("e5m2", 0xFFC00000, 0x7E, 0xFE),
            ("e4m3_ieee", 0xFFC00000, 0x7C, 0xFC),
            ("e3m4", 0xFFC00000, 0x78, 0xF8),
            ("bf16", 0xFFC00000, 0x7FC0, 0xFFC0),
        )
    ),
    *(
        Difference(
            *ML_DTYPES,
            element,
            is_nan,
            0x7FC00000,
            None,
            theirs,
            "The type has no NaN, and the cast makes a zero of the other sign.",
            REFUSED_NAN,
            overflows=SATURATE,
        )
        for element, theirs in (("e2m3", 0x20), ("e3m2", 0x20), ("e2m1", 0x8))
    ),
    Difference(
        *ML_DTYPES,
        "e8m0",
        is_zero,
        0x00000000,
        0x00,
        0xFF,
        "The type has no zero, and the cast makes it NaN.",
        ZERO_BLOCK,
        overflows=SATURATE,
    ),
    Difference(
        *ML_DTYPES,
        "e8m0",
        is_negative,
        0xBF800000,
        0x7F,
        0xFF,
        "The type has no sign, and the cast makes a negative number NaN.",
        OF_MAGNITUDES,
        overflows=SATURATE,
    ),
    # ml_dtypes and torch
    *(
        Difference(
            *witness,
            "e8m0",
            is_in_lowest_binade,
            0x00400001,
            0x00,
            0x01,
            "The leading bit of a subnormal float32 is taken for the half that decides, "
            "so that everything above 2^-127 becomes 2^-126.",
            NEAREST_POWER,
            overflows=SATURATE,
        )
        for witness in (ML_DTYPES, TORCH)
    ),
    *(
        Difference(
            *witness,
            "e8m0",
            is_above_highest,
            0x7F400000,
            0xFE,
            0xFF,
            "What rounds to 2^128 becomes NaN.",
            CLAMPED,
            overflows=SATURATE,
        )
        for witness in (ML_DTYPES, TORCH)
    ),
    # torch
    *by_float32(
        TORCH,
        "special",
        {
            "e5m2": (0x3FF2000000000001, 0x3D, 0x3C),
            "e4m3fnuz": (0x3FF1000000000001, 0x41, 0x40),
            "e5m2fnuz": (0x3FF2000000000001, 0x41, 0x40),
            "bf16": (0x3FF0100000000001, 0x3F81, 0x3F80),
            "fp16": (0x3FF0020000000001, 0x3C01, 0x3C00),
        },
    ),
    *by_float32(
        TORCH,
        "saturate",
        {"e4m3": (0x3FF1000000000001, 0x39, 0x38), "e8m0": (0x3FF7FFFFFFFFFFFF, 0x7F, 0x80)},
    ),
    Difference(
        *TORCH,
        "e4m3",
        becomes_negative_nan,
        0xFFC00000,
        0x7F,
        0xFF,
        "The sign of the input is put on the NaN.",
        ONE_NAN,
        overflows=SATURATE,
    ),
    Difference(
        *TORCH,
        "e5m2",
        becomes_nan,
        0x7FC00000,
        0x7E,
        0x7F,
        "NaN has both mantissa bits, and the sign of the input.",
        ONE_NAN,
    ),
    # gfloat
    *(
        Difference(
            *GFLOAT,
            element,
            becomes_nan,
            0x7FC00000,
            ours,
            theirs,
            "NaN is the last code of all.",
            ONE_NAN,
            (*EVERY, *RANDOM),
            BOTH,
        )
        for element, ours, theirs in (
            ("e4m3", 0x7F, 0xFF),
            ("e5m2", 0x7E, 0xFF),
            ("e4m3_ieee", 0x7C, 0xFF),
            ("e3m4", 0x78, 0xFF),
            ("bf16", 0x7FC0, 0xFFFF),
            ("fp16", 0x7E00, 0xFFFF),
            ("e4m0_fn", 0x0F, 0x1F),
        )
    ),
    Difference(
        *GFLOAT,
        "mxint8_element",
        is_lowest_integer,
        0xC0000000,
        0x81,
        0x80,
        "The lowest code is one of its numbers.",
        NOT_LOWEST,
        (*EVERY, *RANDOM),
        SATURATE,
        choice=(("integer_range", "full"),),
    ),
    *(
        Difference(
            *GFLOAT,
            element,
            is_tie_above_even_code,
            0x40400000,
            ours,
            theirs,
            "A tie goes to the even code, as in P3109, and the significand of both powers of two is 1.",
            LARGER_TIE if element != "e8m0" else NEAREST_POWER,
            overflows=overflows,
        )
        for element, ours, theirs, overflows in (
            ("e8m0", 0x81, 0x80, BOTH),
            ("e3m0", 0x5, 0x4, SATURATE),
            ("e4m0_fn", 0x09, 0x08, BOTH),
            ("e4m0_fnuz_inf", 0x09, 0x08, BOTH),
        )
    ),
    Difference(
        *GFLOAT,
        "e8m0",
        rounds_below_range,
        0x00200000,
        0x00,
        0xFFFFFFFFFFFFFFFF,
        "Nothing stops the exponent at the smallest one, and it is encoded as it is, in 64 bits (issue 62 of gfloat).",
        CLAMPED,
        EVERY,
        BOTH,
    ),
    Difference(
        *GFLOAT,
        "e8m0",
        is_negative,
        0xBF800000,
        0x7F,
        0xFFFFFFFFFFFFFFFF,
        "The format has no sign, and the encoder takes the negative significand for code bits.",
        OF_MAGNITUDES,
        EVERY,
        BOTH,
    ),
    Difference(
        *GFLOAT,
        "e8m0",
        rounds_above_range,
        0x7F7FFFFF,
        0xFE,
        0xFF,
        "Without saturation, what rounds to 2^128 becomes NaN.",
        CLAMPED,
        ("nearest_even", "nearest_away", "up"),
        SPECIAL,
    ),
    Difference(
        *GFLOAT,
        "e8m0",
        is_infinite,
        0x7F800000,
        0xFF,
        0xFE,
        "Under saturation Inf becomes 2^127.",
        POISONED,
        EVERY,
        SATURATE,
    ),
    Difference(
        *GFLOAT,
        "e8m0",
        is_minus_infinity,
        0xFF800000,
        0xFF,
        0x800000000000007E,
        "The format has no sign, and the encoder knows no negative Inf.",
        POISONED,
        EVERY,
        SPECIAL,
    ),
)
