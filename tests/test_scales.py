"""Computed scales: every threshold of every rule with its neighbours, in all binades; float scales."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import oracle
import sparq_sim as sq
from conftest import (
    Array,
    assert_same_bits,
    assert_same_integers,
    bits_of,
    from_bits,
    oracle_quantize,
    scale_bits,
    user_format,
)
from oracle import BLOCK_FORMATS, E8M0, ELEMENTS, BlockFormat, Element

#: Those of one level without choices of their own; tests/test_levels.py and tests/test_choices.py have the others.
SIMPLE = {
    name: fmt
    for name, fmt in BLOCK_FORMATS.items()
    if fmt.scale is not None and fmt.has_lines_of_blocks and fmt.how == oracle.Choices()
}
POWER_OF_TWO_FORMATS = tuple(name for name, fmt in SIMPLE.items() if not fmt.has_float_scale)
#: Elements with other thresholds than the catalog: no mantissa, one bit, low emax, many mantissa bits.
USER_FORMATS = {
    "e3m0": BlockFormat(Element(3, 0, 3), E8M0, 32),
    "e1m1": BlockFormat(Element(1, 1, 0), E8M0, 32),
    "e5m10_ieee": BlockFormat(Element(5, 10, 15, "ieee"), E8M0, 32),
    "e4m3_high_bias": BlockFormat(Element(4, 3, 100, "fn"), E8M0, 32),
    "int4": BlockFormat(Element(0, 3, -5, "finite", "twos_complement"), E8M0, 32),
    "e2m1_five_bit_scale": BlockFormat(ELEMENTS["e2m1"], Element(5, 0, 15, "finite", "unsigned", zero=False), 32),
    "e4m3_five_bit_scale_nan": BlockFormat(ELEMENTS["e4m3"], Element(5, 0, 20, "fn", "unsigned", zero=False), 32),
    "e2m3_ten_bit_scale": BlockFormat(ELEMENTS["e2m3"], Element(10, 0, 511, "fn", "unsigned", zero=False), 32),
}
FORMATS = {name: BLOCK_FORMATS[name] for name in POWER_OF_TWO_FORMATS} | USER_FORMATS

#: Binades: subnormals, the ends of the scale, where E8M0 clamps, around one, the largest ones.
EXPONENTS = {
    "fp32": (
        -149,
        -148,
        -140,
        -131,
        -127,
        -126,
        -125,
        -119,
        -118,
        -3,
        -1,
        0,
        1,
        2,
        7,
        100,
        119,
        125,
        126,
        127,
    ),
    "fp64": (
        *(-1074, -1073, -1030, -1022, -1021, -300, -150, -136, -127, -126, -1, 0, 1, 8),
        *(119, 126, 127, 128, 129, 135, 136, 142, 300, 1000, 1022, 1023),
    ),
}


def thresholds(element: Element) -> set[Fraction]:
    """Of t, where any rule of any element could decide, and the one of this element."""
    found = {Fraction(1), Fraction(3, 2), Fraction(7, 4), Fraction(15, 8), Fraction(31, 16), Fraction(63, 32)}
    found |= {Fraction(127, 64), Fraction(255, 128), Fraction(4, 3), Fraction(5, 4)}
    found.add(element.largest / oracle.power_of_two(element.emax))
    return found


def maxima(element: Element, carrier: str) -> Array:
    """Block maxima at each threshold and its neighbours in each binade, as an array of the carrier."""
    kind = ELEMENTS[carrier]
    patterns: set[int] = set()
    infinity = kind.infinity_code
    assert infinity is not None
    for exponent in EXPONENTS[carrier]:
        for t in (*thresholds(element), Fraction(2)):
            value = t * oracle.power_of_two(exponent)
            # Toward zero: the neighbours of an inexact threshold are its own in subnormal binades too.
            bits = oracle.round_to_float(value, carrier, oracle.TOWARD_ZERO)
            patterns |= {bits + step for step in (-1, 0, 1, 2) if 0 < bits + step < infinity}
    return from_bits(sorted(patterns), carrier)


def blocks_with(amax: Array) -> Array:
    """Blocks of four: the maximum, negative, among smaller elements of several sizes and a zero."""
    with np.errstate(under="ignore"):
        return np.stack([amax * amax.dtype.type(0.37), -amax, amax * amax.dtype.type(0.013), 0 * amax], axis=1)


@pytest.mark.parametrize("rule", oracle.SCALE_RULES)
@pytest.mark.parametrize("carrier", EXPONENTS)
@pytest.mark.parametrize("name", FORMATS)
def test_scales_at_every_threshold_are_the_oracle_s(name: str, carrier: str, rule: str, isa: str) -> None:
    fmt = replace(FORMATS[name], scale_rule=rule, block=4)
    amax = maxima(fmt.element, carrier)
    if isa == "reference":
        amax = amax[::5]
    x = blocks_with(amax)
    assert fmt.scale is not None
    wanted = []
    for bits in bits_of(amax):
        number = oracle.decode(ELEMENTS[carrier], int(bits))
        exponent = oracle.scale_exponent(fmt.element, number.magnitude, rule)
        wanted.append(oracle.power_of_two_scale_code(fmt.scale, exponent))
    got = sq.encode(x, user_format(fmt))
    assert_same_integers(got.scales, np.array(wanted)[:, None], f"{name} {rule}")


@pytest.mark.parametrize("rule", oracle.SCALE_RULES)
@pytest.mark.parametrize("name", FORMATS)
def test_whole_blocks_at_a_sample_of_the_thresholds_are_the_oracle_s(name: str, rule: str, isa: str) -> None:
    fmt = replace(FORMATS[name], scale_rule=rule, block=4)
    for carrier in EXPONENTS:
        x = blocks_with(maxima(fmt.element, carrier)[:: 41 if isa == "reference" else 17])
        wanted = oracle_quantize(x, fmt, inexact="round")
        events = sq.Events()
        got = sq.encode(x, user_format(fmt), events=events)
        assert_same_integers(got.codes, wanted.codes, f"{name} {rule} {carrier}")
        assert_same_integers(got.scales, wanted.scales, f"{name} {rule} {carrier}")
        assert_same_integers(bits_of(got.decode(inexact="round")), wanted.values, f"{name} {rule} {carrier}")
        assert vars(events) == wanted.events


@pytest.mark.parametrize("name", POWER_OF_TWO_FORMATS)
def test_a_scale_is_clamped_at_both_ends(name: str, isa: str) -> None:
    x = np.array([[2.0**-1074, 0], [2.0**-200, 0], [2.0**200, 1], [1.7e308, 2.0**127]])
    got = sq.encode(x, name, block=2)
    assert got.scales is not None and got.scales[:, 0].tolist() == [0, 0, 254, 254]
    element = BLOCK_FORMATS[name].element
    top = float(element.largest) * 2.0**127
    assert got.decode()[2:, 0].tolist() == [top, top]
    assert not got.codes[:2].any()


@pytest.mark.parametrize("name", FORMATS)
def test_a_block_of_zeros_takes_the_smallest_scale_and_keeps_its_signs(name: str, isa: str) -> None:
    fmt = replace(FORMATS[name], block=3)
    for dtype in (np.float16, np.float32, np.float64):
        x = np.array([0.0, -0.0, 0.0, 1.0, -1.0, 0.0, -0.0, -0.0], dtype)
        events = sq.Events()
        got = sq.encode(x, user_format(fmt), events=events)
        assert got.scales is not None and got.scales[0] == 0 and got.scales[2] == 0 and got.scales[1] != 0
        negative_zero = fmt.element.sign_bit if fmt.element.has_negative_zero else 0
        assert got.codes[:3].tolist() == [0, negative_zero, 0] and got.codes[6:].tolist() == [negative_zero] * 2
        assert events == sq.Events(zero_blocks=2)
        values = got.decode()
        assert np.signbit(values[[1, 6, 7]]).tolist() == [negative_zero != 0] * 3


@pytest.mark.parametrize("rule", oracle.SCALE_RULES)
def test_rceil_never_saturates_and_is_never_larger_than_needed(rule: str) -> None:
    for name in POWER_OF_TWO_FORMATS:
        element = BLOCK_FORMATS[name].element
        amax = maxima(element, "fp32")
        amax = amax[(amax > 2.0**-100) & (amax < 2.0**100)]
        got = sq.encode(amax[:, None], name, scale_rule=rule)
        assert got.scales is not None
        exponents = got.scales[:, 0].astype(np.int64) - 127
        largest = float(element.largest) * 2.0**exponents
        if rule == "rceil":
            assert (amax <= largest).all() and (amax > largest / 2).all()
        if rule == "ceil":
            assert (amax <= 2.0 ** (exponents + element.emax)).all()
        if rule == "floor":
            assert (amax >= 2.0 ** (exponents + element.emax)).all()


def test_the_maximum_is_found_wherever_it_is(isa: str) -> None:
    for block in (1, 2, 7, 8, 9, 16, 31, 32, 33, 64, 65):
        for place in range(block):
            x = np.full(block, 0.5, np.float32)
            x[place] = -96
            got = sq.encode(x, "mxfp4", block=block)
            assert got.scales is not None and got.scales.tolist() == [127 + 4], (block, place)
            x[place] = np.inf
            got = sq.encode(x, "mxfp4", block=block)
            assert got.scales is not None and got.scales.tolist() == [255], (block, place)


@pytest.mark.parametrize("patterns", [0x7F800001, 0x7FC00000, 0xFF800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000])
@pytest.mark.parametrize("name", ["mxfp4", "mxint8", "hbfp8", "int8", "fp8_e4m3"])
def test_any_nan_or_infinity_poisons_its_block_and_no_other(name: str, patterns: int, isa: str) -> None:
    x = np.arange(1, 13, dtype=np.float32)
    x[5] = from_bits([patterns], "fp32")[0]
    events = sq.Events()
    got = sq.encode(x, name, block=4, events=events)
    values = got.decode()
    assert not got.codes[4:8].any()
    assert bits_of(values)[4:8].tolist() == [0x7FC00000] * 4
    assert np.isfinite(values[:4]).all() and np.isfinite(values[8:]).all()
    scales = scale_bits(got)
    assert scales is not None and scales[1] == (0xFF if scales.dtype == np.uint8 else 0x7FC00000)
    assert events.nonfinite == 1


# Float scales

FLOAT_FORMATS = tuple(name for name, fmt in SIMPLE.items() if fmt.has_float_scale)
#: Those whose scales are float32 numbers, and no codes.
FLOAT32_FORMATS = [name for name in FLOAT_FORMATS if BLOCK_FORMATS[name].scale == oracle.FP32]


def float_maxima(rng: np.random.Generator) -> Array:
    """Maxima of float32 in every binade, and where the scale is subnormal, one, or the largest."""
    fields = np.arange(0, 255, dtype=np.uint32)
    random = (fields << 23) | rng.integers(0, 1 << 23, 255, dtype=np.uint32)
    special = np.uint32([1, 2, 3, 63, 64, 127, 128, 224, 225, 447, 448, 449, 0x7FFFFF, 0x800000])
    named = np.float32([127, 127.5, 448, 57344, 1, 254, 3.4028235e38]).view(np.uint32)
    return np.concatenate([random, special, named, named - 1, named[:-1] + 1]).view(np.float32)


@pytest.mark.parametrize("rounding", oracle.ROUNDINGS)
@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_float_scales_and_their_codes_are_the_oracle_s(name: str, rounding: str, isa: str) -> None:
    rng = np.random.default_rng(1)
    amax = float_maxima(rng)[:: 7 if isa == "reference" else 2]
    with np.errstate(under="ignore"):
        x = np.concatenate([-amax[:, None], amax[:, None] * rng.random((amax.size, 4), np.float32)], axis=1)
    fmt = replace(BLOCK_FORMATS[name], block=5)
    for values in (x, x.astype(np.float64) * (1 + 2.0**-26)):
        wanted = oracle_quantize(values, fmt, rounding=rounding)
        events = sq.Events()
        got = sq.encode(values, name, block=5, rounding=rounding, events=events)
        assert_same_integers(scale_bits(got), wanted.scales, "scales")
        assert_same_integers(got.codes, wanted.codes, "codes")
        assert_same_integers(bits_of(got.decode()), wanted.values, "values")
        assert vars(events) == wanted.events


@pytest.mark.parametrize("name", FLOAT32_FORMATS)
def test_a_scale_that_would_be_zero_is_the_smallest_number(name: str, isa: str) -> None:
    got = sq.encode(np.float32([2.0**-149, -(2.0**-148), 0.0]), name)
    scales = scale_bits(got)
    assert scales is not None and scales.ravel().tolist() == [1]
    one, two = (oracle.round_to_code(BLOCK_FORMATS[name].element, oracle.finite(v)) for v in (1, -2))
    assert got.codes.tolist() == [one, two, 0]
    assert_same_bits(got.decode(), np.float32([2.0**-149, -(2.0**-148), 0.0]))


@pytest.mark.parametrize("name", FLOAT32_FORMATS)
def test_zeros_below_a_float_scale_take_the_scale_one(name: str, isa: str) -> None:
    events = sq.Events()
    got = sq.encode(np.float32([0.0, -0.0]), name, events=events)
    assert got.scales is not None and got.scales.ravel().tolist() == [1.0]
    assert events == sq.Events(zero_blocks=1)
    assert np.signbit(got.decode()).tolist() == [False, BLOCK_FORMATS[name].element.has_negative_zero]


def test_a_double_beyond_float32_poisons_a_float_scale_only(isa: str) -> None:
    edge = 2.0**128 - 2.0**103  # half an ulp above the largest float32: rounds to Inf
    below = np.nextafter(edge, 0)
    for value, poisoned in ((edge, True), (-edge, True), (below, False)):
        x = np.array([value, 1.0])
        events = sq.Events()
        got = sq.encode(x, "int8", events=events)
        assert got.scales is not None and np.isnan(got.scales[0]) == poisoned
        assert events.nonfinite == poisoned
        assert np.isnan(got.decode()).all() == poisoned
        assert np.isfinite(sq.emulate(x, "mxfp8")).all()


def test_a_computed_float_scale_beyond_float32_is_refused(isa: str) -> None:
    tiny = Element(0, 3, 10)
    fmt = BlockFormat(tiny, ELEMENTS["fp32"], 2)
    limit = float(tiny.largest) * 3.4028234e38
    assert np.isfinite(sq.encode(np.float32([limit, 1]), user_format(fmt)).scales).all()  # type: ignore[arg-type]
    for call in (sq.emulate, sq.encode):
        with pytest.raises(ValueError, match="beyond float32"):
            call(np.float32([limit * 1.001, 1]), user_format(fmt))


def test_a_quotient_beyond_float32_saturates(isa: str) -> None:
    for name in FLOAT32_FORMATS:
        scales = np.full((1,), 2.0**-149, np.float32)
        for rounding in oracle.ROUNDINGS:
            got = sq.encode(np.float32([3e38, -3e38, 2.0**-149]), name, scales=scales, rounding=rounding)
            element = BLOCK_FORMATS[name].element
            top = float(element.largest) * 2.0**-149
            assert got.decode("float64").tolist() == [top, -top, 2.0**-149], (name, rounding)


def test_subnormal_given_scales_survive_a_machine_that_flushes() -> None:
    """Scales as float32 and as float64, of a tensor, of a row and of an MX block, given and raw."""
    subnormal = np.uint32([512]).view(np.float32)  # 2^-140
    block = np.uint32([0x00400000]).view(np.float32)  # 2^-127, E8M0 code 0
    codes, one = np.uint8([[0x38]]), np.float32([1.0])

    def everything() -> list[bytes]:
        made = []
        for scale in (subnormal[0], 2.0**-140):
            made.append(sq.encode(one, "fp8_e4m3", tensor_scale=scale).scales.tobytes())
            named = {"a_format": "e4m3", "b_format": "e4m3", "a_tensor_scale": scale}
            made.append(sq.matmul(codes, codes, **named).tobytes())
        for scales in (subnormal, np.float64([2.0**-140])):
            made.append(sq.encode(one, "int8", scales=scales).scales.tobytes())
            made.append(sq.matmul(codes, codes, a_format="e4m3", b_format="e4m3", b_scales=scales).tobytes())
        made += [sq.encode(one, "mxfp4", scales=scales).scales.tobytes() for scales in (block, np.float64([2.0**-127]))]
        return made

    wanted = [subnormal.tobytes()] * 8 + [b"\0"] * 2
    assert everything() == wanted
    try:
        assert torch.set_flush_denormal(True)
        assert everything() == wanted
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("value", [0.1, 2.0**-150, 2.0**128, 1 + 2.0**-24])
def test_a_given_scale_that_float32_does_not_hold_is_refused(value: float) -> None:
    codes = np.uint8([[0x38]])
    with pytest.raises(ValueError, match="float32 does not hold"):
        sq.encode(np.float32([1.0]), "int8", scales=np.float64([value]))
    with pytest.raises(ValueError, match="float32 does not hold"):
        sq.matmul(codes, codes, a_format="e4m3", b_format="e4m3", a_scales=np.float64([value]))
    with pytest.raises(ValueError, match="float32 holds exactly"):
        sq.matmul(codes, codes, a_format="e4m3", b_format="e4m3", a_tensor_scale=value)


def test_scales_of_other_number_types_are_exact_or_refused() -> None:
    one, codes = np.float32([1.0]), np.uint8([[0x38]])
    assert sq.encode(one, "fp8_e4m3", tensor_scale=2).scales.tolist() == [2.0]
    for scale in (np.longdouble(1) + np.longdouble(2) ** -60, 2**53 + 1, 2**63 + 1):
        with pytest.raises(ValueError, match="float32 holds exactly"):
            sq.matmul(codes, codes, a_format="e4m3", b_format="e4m3", a_tensor_scale=scale)
    with pytest.raises(ValueError, match="float32 does not hold"):
        sq.encode(one, "int8", scales=np.array([np.longdouble(1) + np.longdouble(2) ** -60]))


def test_a_short_float_scale_is_neither_zero_nor_beyond_its_largest(isa: str) -> None:
    x = np.float32([[0.0, -0.0], [2.0**-140, 0.0], [1e30, -1.0], [6 * 448, 3.0]])
    for words, scales in (({}, [1, 1, 0x7E, 0x7E]), ({"scale_minimum": 9}, [9, 9, 0x7E, 0x7E])):
        events = sq.Events()
        got = sq.encode(x, "nvfp4_one_level", block=2, events=events, **words)
        assert got.scales is not None and got.scales.ravel().tolist() == scales
        assert (events.zero_blocks, events.saturated) == (1, 1)
    assert sq.encode(x[2:], "nvfp4_one_level", block=2).codes.tolist() == [[7, 8], [7, 0]]


def test_given_codes_of_short_floats_are_positive_and_values_are_held() -> None:
    x = np.float32([3.0, 1.0])
    assert_same_bits(sq.emulate(x, "nvfp4_one_level", scales=1.125), sq.emulate(x, "nvfp4_one_level", scales=0x39))
    assert sq.encode(x, "nvfp4_one_level", scales=np.float64([np.nan])).scales.tolist() == [0x7F]
    for scales, match in (
        (0, "codes must be 1 to 127"),
        (128, "codes must be 1 to 127"),
        (1.05, "its numbers but zero"),
    ):
        with pytest.raises(ValueError, match=match):
            sq.encode(x, "nvfp4_one_level", scales=scales)
    with pytest.raises(ValueError, match="its numbers but zero"):
        sq.encode(x, "nvfp4_one_level", scales=0.0)


@pytest.mark.parametrize(
    ("name", "words", "match"),
    [
        ("mxfp4", {"scale_rounding": "up"}, "is for scales that are short floats"),
        ("int8", {"scale_rounding": "up"}, "is for scales that are short floats"),
        ("int8", {"scale_minimum": 1}, "no scale codes"),
        ("bf16", {"scale_minimum": 1}, "no scale codes"),
        ("mxfp4", {"scale_minimum": 255}, "needed a scale code, 0 to 254"),
        ("nvfp4_one_level", {"scale_minimum": -1}, "needed a scale code, 0 to 126"),
        ("nvfp4_one_level", {"scale_rule": "floor"}, "this format's scale is a float"),
    ],
)
def test_choices_of_scales_that_mean_nothing_are_refused(name: str, words: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sq.spec(name, **words)
