"""A second oracle: the same rules computed by MPFR, which shares nothing with the fractions of tests/oracle.py.

MPFR rounds to a precision within an exponent range, subnormals included: one context is one element format.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import gmpy2
import numpy as np
import pytest

import oracle
import sparq_sim as sq
from conftest import Array, assert_same_bits, assert_same_integers, plain_format
from oracle import ELEMENTS, Element
from test_rounding import TABLED, corners

MODES = {
    oracle.NEAREST_EVEN: gmpy2.RoundToNearest,
    oracle.TOWARD_ZERO: gmpy2.RoundToZero,
    oracle.UP: gmpy2.RoundUp,
    oracle.DOWN: gmpy2.RoundDown,
}
FLOATS = [name for name, element in TABLED.items() if element.exponent_bits > 0]


def context(element: Element, rounding: str = oracle.NEAREST_EVEN) -> Any:
    """The numbers of an element without its upper end; MPFR's exponents are one more than ours."""
    quantum = 1 - element.bias - element.mantissa_bits
    return gmpy2.context(
        precision=element.mantissa_bits + 1, emin=quantum + 1, emax=2000, subnormalize=True, round=MODES[rounding]
    )


def rounded(values: Array, element: Element, rounding: str) -> list[Any]:
    """float64 values, each rounded once."""
    exact = [gmpy2.mpfr(float(value), 53) for value in values]
    if element.taper:
        return [rounded_in_its_binade(value, element, rounding) for value in exact]
    with context(element, rounding):
        return [gmpy2.mpfr(value) for value in exact]


def rounded_in_its_binade(value: Any, element: Element, rounding: str) -> Any:
    """Of an element whose precision depends on the exponent: that of the binade that the number lies in."""
    exponent = max(gmpy2.frexp(value)[0] - 1, element.emin) if value else element.emin
    bits = oracle.mantissa_bits_of(element, exponent)
    with gmpy2.context(
        precision=bits + 1, emin=element.emin - oracle.mantissa_bits_of(element, element.emin) + 1, emax=2000,
        subnormalize=True, round=MODES[rounding],
    ):  # fmt: skip
        return gmpy2.mpfr(value)


@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("name", FLOATS)
def test_fractions_mpfr_and_the_kernels_round_alike(name: str, rounding: str) -> None:
    element = TABLED[name]
    x = corners(name, "fp32")
    x = x[np.isfinite(x)]
    x = x[:: max(1, x.size // 20000) | 1]
    by_mpfr = rounded(x.astype(np.float64), element, rounding)
    by_fractions = [
        oracle.rounded_magnitude(element, abs(Fraction(float(value))), rounding, bool(np.signbit(value))) for value in x
    ]
    assert all(abs(Fraction(*a.as_integer_ratio())) == b for a, b in zip(by_mpfr, by_fractions, strict=True))
    got = sq.emulate(x, plain_format(element, rounding=rounding), dtype="float64")
    limit = float(element.largest)
    wanted = np.clip(np.array([float(value) for value in by_mpfr]), -limit, limit)
    if not element.has_negative_zero:
        wanted = wanted + 0.0
    assert_same_bits(got, wanted)


def float32(function: Any, *arguments: Any) -> Any:
    """One operation of float32."""
    with gmpy2.context(precision=24, emin=-148, emax=128, subnormalize=True):
        return function(*arguments)


def divided(a: Any, b: Any) -> Any:
    return float32(gmpy2.div, a, b)


def code_of(element: Element, value: Any) -> int:
    """The code of a magnitude rounded to nearest even, saturating."""
    with context(element):
        near = gmpy2.mpfr(value)
    values = [float(v) for v in oracle.magnitude_list(element)[: element.largest_code + 1]]
    return values.index(min(float(near), values[-1]))


def test_nvfp4_of_two_levels_is_what_mpfr_computes(isa: str) -> None:
    e2m1, ue4m3 = ELEMENTS["e2m1"], ELEMENTS["ue4m3"]
    rng = np.random.default_rng(11)
    x = (rng.standard_normal((6, 48)) * 2.0 ** rng.integers(-20, 4, (6, 48))).astype(np.float32)
    encoded = sq.encode(x, "nvfp4")
    numbers = [[gmpy2.mpfr(float(value), 24) for value in row] for row in x]
    tensor = divided(max(abs(v) for row in numbers for v in row), gmpy2.mpfr(2688))
    assert encoded.tensor_scale == float(tensor)
    codes, scales, values = np.zeros_like(encoded.codes), np.zeros_like(encoded.scales[1]), np.zeros_like(x)
    for line, row in enumerate(numbers):
        for block in range(3):
            members = row[16 * block : 16 * block + 16]
            quotient = divided(divided(max(abs(v) for v in members), gmpy2.mpfr(6)), tensor)
            scales[line, block] = max(1, code_of(ue4m3, quotient))
            stored = gmpy2.mpfr(float(oracle.magnitude_of(ue4m3, int(scales[line, block]))))
            factor = float32(gmpy2.mul, stored, tensor)
            for i, v in enumerate(members):
                at, negative = 16 * block + i, gmpy2.is_signed(v)
                code = code_of(e2m1, abs(divided(v, factor)))
                value = float32(gmpy2.mul, gmpy2.mpfr(float(oracle.magnitude_of(e2m1, code))), factor)
                codes[line, at] = code | (8 if negative else 0)
                values[line, at] = -float(value) if negative else float(value)
    assert_same_integers(encoded.scales[1], scales, "scales")
    assert_same_integers(encoded.codes, codes, "codes")
    assert_same_bits(encoded.decode(), values)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"])
def test_mx_blocks_are_what_mpfr_computes(name: str, isa: str) -> None:
    element = oracle.BLOCK_FORMATS[name].element
    rng = np.random.default_rng(12)
    x = (rng.standard_normal((20, 32)) * 2.0 ** rng.integers(-60, 60, (20, 1))).astype(np.float32)
    encoded = sq.encode(x, name)
    assert encoded.scales is not None
    for line, row in enumerate(x):
        numbers = [gmpy2.mpfr(float(value), 24) for value in row]
        # MPFR's own exponent of a number: 0.5 <= significand < 1.
        exponent = gmpy2.frexp(max(abs(v) for v in numbers))[0] - 1 - element.emax
        assert encoded.scales[line, 0] == exponent + 127
        scale = gmpy2.exp2(exponent)  # exact, as is the division by it
        codes = [code_of(element, abs(v) / scale) for v in numbers]
        assert (encoded.codes[line] & ~np.uint8(element.sign_bit)).tolist() == codes
