"""Every choice of an encoder besides rounding and overflow, in random company, beside the oracle (sections 2 to 5)."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import oracle
import sparq_sim as sq
from conftest import (
    CARRIERS,
    ISAS,
    Array,
    assert_same_bits,
    assert_same_integers,
    bits_of,
    forced_isa,
    oracle_quantize,
    plane_bits,
    user_format,
)
from oracle import BLOCK_FORMATS, BlockFormat
from test_levels import FORMATS as LEVELLED
from test_levels import SHAPES, TILES, drawn_choices, drawn_input

FORMATS = BLOCK_FORMATS | LEVELLED


def drawn_how(rng: np.random.Generator, fmt: BlockFormat, choices: dict[str, Any]) -> dict[str, Any]:
    """Some of the choices that a format takes besides those already drawn."""
    element, scaled = fmt.element, fmt.scale is not None
    rule = choices.get("scale_rule", fmt.scale_rule if fmt.scale_rule in (oracle.MSE, oracle.MAE) else None)
    searches = rule in (oracle.MSE, oracle.MAE)
    floats = fmt.has_float_scale and not searches and not fmt.zero_point
    divides = fmt.has_float_scale and not fmt.has_signed_scale and not fmt.zero_point
    one_level = fmt.outer is None and not fmt.micro and not fmt.zero_point
    powers = scaled and not fmt.has_float_scale and fmt.scale.nan_code is not None  # type: ignore[union-attr]
    one_short = floats and fmt.scale != oracle.FP32 and fmt.outer is None and not fmt.micro
    in_line = isinstance(fmt.block, int)
    encodes = fmt.outer_combine != "multiply"
    in_float64 = fmt.outer_combine == "divide_top"
    plain_outer = fmt.outer is not None and not encodes and not searches
    unsigned_zero = scaled and fmt.scale.zero and not fmt.has_signed_scale and fmt.how.divide_by == "stored"  # type: ignore[union-attr]
    integers = element.signedness == "twos_complement" and oracle.magnitude_of(element, 1) == 1
    alignable = (
        scaled and not fmt.has_float_scale and not fmt.micro and rule not in (oracle.FIT, oracle.MSE, oracle.MAE)
    )
    steps = powers and one_level and not searches and not fmt.how.align_bits and not element.taper
    keeps = ["keep"] if element.nan_code is not None else []
    rules: list[tuple[str, list[Any], bool]] = [
        ("nonfinite", ["poison", "ignore", "saturate", "largest", "zero", "error", *keeps], True),
        ("nan_scale", ["least"], powers and one_level and in_line),
        ("infinite", ["beyond", "top"] if powers else ["largest"], scaled and one_level),
        ("scale_overflow", ["nan", "nan_amax"], powers and one_level and not searches),
        ("least_scale", ["next", "one"], powers and alignable and not fmt.how.align_bits),
        ("signed_zero", ["drop", "underflow", *(["negative"] if element.has_negative_zero else [])], True),
        ("subnormals", ["flush"], element.exponent_bits > 0 and not element.taper),
        ("input_subnormals", ["flush"], True),
        ("integer_range", ["full"], element.signedness == "twos_complement"),
        ("preround", ["bf16", "bf16_toward_zero"], True),
        ("scale_apply", ["reciprocal", *(["outer_reciprocal"] if plain_outer else [])], fmt.has_float_scale),
        ("outer_apply", ["reciprocal"], fmt.outer is not None and floats),
        ("outer_overflow", ["one", "infinity"], encodes),
        ("scale_order", ["outer_first"], fmt.outer is not None and floats and not in_float64),
        ("scale_underflow", ["zero", "zeros", "zero_scale"], floats and fmt.scale != oracle.FP32 and unsigned_zero),
        ("divisor", [7.25, 0.75, 3.0], divides or rule in ("rceil", "floor")),
        ("divisor_apply", ["reciprocal"], floats),
        ("scale_compute", ["bf16"], floats and not encodes),
        ("apply_compute", ["bf16"], fmt.has_float_scale and not fmt.how.cut_offset and not fmt.zero_point),
        ("divide_by", ["quotient"], one_short and in_line),
        ("amax_exponent", ["log2"], scaled and rule in ("floor", "ceil", "rceil", oracle.FIT)),
        ("half_sum", ["fp32"], steps and choices["rounding"] in (oracle.NEAREST_EVEN, oracle.NEAREST_AWAY)),
        (
            "element_exponent",
            ["log2"],
            steps and element.exponent_bits > 0 < element.mantissa_bits and rule != oracle.FIT,
        ),
        ("cut_offset", [0.5, 3.5, 8.5], floats and fmt.outer is None and integers and not fmt.how.cut_offset),
        ("even_bits", [0, 1, 2], rule == "even"),
        ("zero_scale", [1, 5], scaled and fmt.scale != oracle.FP32),
        ("align_bits", [2, 6, 23], alignable),
    ]
    drawn = {name: words[rng.integers(len(words))] for name, words, able in rules if able and rng.random() < 0.3}
    if "infinite" in drawn or "nan_scale" in drawn:
        drawn.pop("nonfinite", None)
    if powers and one_level and in_line and "infinite" not in drawn and "nan_scale" not in drawn and rng.random() < 0.1:
        drawn["nonfinite"] = "zero_block"
    if "half_sum" in drawn or "element_exponent" in drawn:
        drawn.pop("align_bits", None)
    if "element_exponent" in drawn:
        choices["rounding"] = oracle.TOWARD_ZERO
        drawn.pop("half_sum", None)
    if drawn.get("amax_exponent") == "log2" and rule == "rceil" and powers and one_level and rng.random() < 0.5:
        drawn["scale_underflow"] = "nan"
    if "align_bits" in drawn:
        drawn["align_rounding"] = str(rng.choice([oracle.TOWARD_ZERO, oracle.NEAREST_AWAY, oracle.NEAREST_EVEN]))
        drawn.pop("least_scale", None)
    if drawn.get("scale_apply") == "outer_reciprocal":
        drawn.pop("scale_compute", None)
        if drawn.get("scale_underflow") == "zeros":
            drawn.pop("scale_apply")
    if in_float64 and drawn.get("scale_underflow") == "zeros":
        drawn.pop("scale_apply", None)
    if drawn.get("scale_order") == "outer_first" and not encodes:
        drawn.pop("divisor_apply", None)
    if drawn.get("scale_underflow", "nan") != "nan":
        drawn.pop("divide_by", None)
        choices.pop("scale_minimum", None)
        if drawn["scale_underflow"] == "zero_scale":
            drawn["zero_scale"] = 5
    if "cut_offset" in drawn:
        drawn.pop("apply_compute", None)
        drawn["scale_apply"], choices["rounding"] = "reciprocal", oracle.TOWARD_ZERO
    return drawn


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", FORMATS)
def test_codes_scales_values_and_events_are_those_of_the_oracle(name: str, seed: int) -> None:
    rng, fmt = np.random.default_rng([seed, *name.encode()]), FORMATS[name]
    shape, carrier = SHAPES[rng.integers(len(SHAPES))], str(rng.choice(list(CARRIERS)))
    axis = int(rng.integers(len(shape)))
    block: Any = None
    if isinstance(fmt.block, tuple):
        block = TILES[rng.integers(len(TILES))]
    elif isinstance(fmt.block, int) and not fmt.micro:
        block = [7, 7, "row", "tensor"][rng.integers(4)] if fmt.outer is None and fmt.how.divide_by == "stored" else 7
    x = drawn_input(rng, shape, carrier)
    if rng.random() < 0.5:
        x.flat[rng.integers(x.size)] = [np.nan, np.inf, -np.inf, -0.0, 1e-40][rng.integers(5)]
    choices: dict[str, Any] = {"rounding": str(rng.choice(oracle.ROUNDINGS))}
    if fmt.scale is not None:
        choices = drawn_choices(rng, fmt)
        coded = fmt.scale != oracle.FP32 and isinstance(fmt.block, int) and isinstance(block or fmt.block, int)
        searchable = not fmt.micro and fmt.how.align_bits == 0 and fmt.how.divide_by == "stored"
        searchable &= fmt.outer_combine == "multiply"
        if coded and searchable and rng.random() < 0.4:
            rules = [oracle.MSE, oracle.MAE] if fmt.has_float_scale else [oracle.FIT, oracle.MSE, oracle.MAE]
            choices["scale_rule"] = str(rng.choice(rules))
    how = drawn_how(rng, fmt if isinstance(block or fmt.block, int) else dataclasses.replace(fmt, block=block), choices)
    sparse: dict[str, Any] = {"sparsity": "2:4"} if rng.random() < 0.3 else {}
    record = user_format(fmt, block, **choices, **how)
    where = (shape, axis, block, carrier, choices, how, sparse)
    exact = {key: Fraction(value) if isinstance(value, float) else value for key, value in how.items()}
    wanted = None
    with suppress(oracle.RefusedError):
        wanted = oracle_quantize(
            x,
            fmt,
            axis=axis,
            block=block,
            inexact="round",
            result="fp64",
            how=dataclasses.replace(fmt.how, **exact),
            sparsity=(2, 4) if sparse else None,
            **choices,
        )
    for isa in ISAS:
        with forced_isa(isa):
            if wanted is None:
                with pytest.raises(ValueError, match=r"NaN or Inf|beyond float32"):
                    sq.encode(x, record, axis=axis, **sparse)
                continue
            events = sq.Events()
            encoded = sq.encode(x, record, axis=axis, events=events, **sparse)
            values = sq.emulate(x, record, axis=axis, dtype="float64", inexact="round", **sparse)
        for got, plane in zip(plane_bits(encoded), wanted.planes, strict=True):
            assert_same_integers(got, plane, f"scales {isa} {where}")
        assert_same_integers(encoded.codes, wanted.codes, f"codes {isa} {where}")
        assert_same_integers(bits_of(values), wanted.values, f"values {isa} {where}")
        assert_same_bits(encoded.decode("float64", inexact="round"), values, where)
        assert {key: getattr(events, key) for key in wanted.events} == wanted.events, (isa, where)


@pytest.mark.parametrize(
    ("format", "choices", "message"),
    [
        ("mxfp4", {"nonfinite": "keep"}, "nonfinite='keep' needs an element with NaN"),
        ("int8", {"subnormals": "flush"}, "would leave an integer nothing"),
        ("hbfp8", {"integer_range": "full"}, "integer_range='full' is for two's complement"),
        ("mxfp4", {"scale_apply": "reciprocal"}, "scale_apply='reciprocal' is for float scales"),
        ("mxfp4", {"divisor": 7.25, "scale_rule": "even"}, "divisor is for scale_rule='rceil', 'floor' and 'amax'"),
        ("bf16", {"divisor": 7.25}, "bf16 has no scales"),
        ("int8", {"divisor": -1.0}, "divisor must be a positive number"),
        ("int8", {"divisor": float("nan")}, "divisor must be a positive number"),
        ("mxfp4", {"even_bits": 1}, "even_bits is for scale_rule='even'"),
        ("mxfp4", {"even_bits": 99, "scale_rule": "even"}, "even_bits must be 0 to 22"),
        ("mxfp4", {"zero_scale": 255}, "needed a scale code, 0 to 254"),
        ("nvfp4", {"zero_scale": 0}, "needed a scale code, 1 to 126"),
        ("int8", {"zero_scale": 1}, "this format has no scale codes"),
        ("int8", {"scale_rule": "nearest"}, "this format's scale is a float: use 'amax'"),
        ("int8", {"infinite": "top"}, "infinite='top' is for one level of scales that are powers of two"),
        ("mx9", {"infinite": "beyond"}, "infinite='beyond' is for one level of scales"),
        ("mxfp4", {"infinite": "top", "nonfinite": "ignore"}, "leaves NaN to nonfinite='poison'"),
        ("int8", {"scale_overflow": "nan"}, "scale_overflow='nan' is for one level of scales that are powers of two"),
        ("mxfp4", {"scale_overflow": "nan", "scale_rule": "mse"}, "not a search"),
        ("mxfp4", {"least_scale": "one", "scale_rule": "mse"}, "by a rule that looks at amax alone"),
        ("int8", {"least_scale": "next"}, "least_scale='next' is for one level of scales that are powers of two"),
        ("mxint8", {"signed_zero": "negative"}, "needs an element with a negative zero"),
        ("mxfp4", {"scale_rule": "signed_max"}, "scale_rule='signed_max' computes a float scale"),
        ("int8", {"scale_rule": "signed_max"}, "needs one level of signed short float scales"),
        ("q8_0", {"scale_rule": "signed_max"}, "integers of integer_range='full'"),
        ("q4_0", {"divisor": 7.0}, "divisor is for scale_rule='rceil', 'floor' and 'amax'"),
        ("mxfp4", {"amax_exponent": "log2", "scale_rule": "even"}, "by scale_rule='floor', 'ceil', 'rceil' or 'fit'"),
        ("int8", {"amax_exponent": "log2"}, "amax_exponent='log2' is for scales that are powers of two"),
        ("mxfp4", {"divisor_apply": "reciprocal"}, "divisor_apply='reciprocal' is for float scales"),
        ("mxfp4", {"scale_compute": "bf16"}, "powers of two are not computed"),
        ("bf16", {"apply_compute": "bf16"}, "powers of two only move exponents"),
        ("nvfp4_4over6", {"scale_compute": "bf16"}, "computes its scales in float32, by division"),
        ("nvfp4", {"divide_by": "quotient"}, "needs one level of scales that are short floats"),
        ("int8", {"divide_by": "quotient"}, "needs one level of scales that are short floats"),
        ("int8", {"cut_offset": 0.5}, "rounding='toward_zero' and scale_apply='reciprocal'"),
        ("q4_0", {"cut_offset": 129.5}, "cut_offset must be 0, or 0.5 to 128.5"),
        ("q4_0", {"cut_offset": float("nan")}, "cut_offset must be 0, or 0.5 to 128.5"),
        ("hif8", {"subnormals": "flush"}, "a tapered element has no subnormal numbers"),
        (
            "nvfp4",
            {"outer_combine": "divide_top", "scale_order": "outer_first"},
            "scale_order='outer_first' and combine='divide_top' are of different machines",
        ),
        (
            "nvfp4",
            {"outer_combine": "divide_top", "scale_apply": "reciprocal", "scale_underflow": "zeros"},
            "under scale_apply='reciprocal' nothing does here",
        ),
        ("nvfp4", {"outer_overflow": "infinity"}, "outer_overflow='infinity' is for a scale above others"),
        ("mx9", {"nan_scale": "least"}, "nan_scale='least' is for one level of scales that are powers of two"),
        ("mxfp4", {"nan_scale": "least", "nonfinite": "ignore"}, "with nonfinite='poison'"),
        ("int8", {"nonfinite": "zero_block"}, "nonfinite='zero_block' is for one level of scales"),
        ("mxfp4", {"nonfinite": "zero_block", "infinite": "largest"}, "both say what Inf is"),
        ("mxfp4", {"scale_overflow": "nan_amax", "scale_rule": "mse"}, "not a search"),
        ("mxfp4", {"half_sum": "fp32", "rounding": "up"}, "with rounding='nearest_even' or 'nearest_away'"),
        ("mxfp4", {"half_sum": "fp32", "align_bits": 3}, "without a search and align_bits"),
        ("int8", {"half_sum": "fp32"}, "under one level of scales that are powers of two"),
        ("mxfp4", {"element_exponent": "log2"}, "with rounding='toward_zero'"),
        ("mxint8", {"element_exponent": "log2", "rounding": "toward_zero"}, "is for floats with mantissa bits"),
        ("mxfp4", {"scale_underflow": "nan"}, "is for amax_exponent='log2' with scale_rule='rceil'"),
        ("nvfp4", {"scale_underflow": "nan"}, "is for amax_exponent='log2' with scale_rule='rceil'"),
        (
            "mxfp4",
            {"nonfinite": "poisson"},
            "choose one of poison, keep, ignore, largest, zero, error, saturate, zero_block",
        ),
    ],
)
def test_a_choice_that_means_nothing_is_refused(format: str, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sq.spec(format, **choices)


def edges_of_steps(element: oracle.Element) -> Array:
    """Blocks of 32 under some powers of two: numbers around half of a quantum and just below powers of two."""
    lines = []
    for scale in (-126, -3, 0, 40):
        quantum = 2.0 ** (element.emin - element.mantissa_bits + scale)
        powers = 2.0 ** (np.array([element.emin, element.emin + 1, element.emax - 1, element.emax]) + scale)
        points = np.concatenate([np.arange(2) * quantum + quantum / 2, powers, 2 * powers[-1:]])
        steps = np.array([-40, -12, -5, -3, -2, -1, 0, 1])[:, None]
        bits = np.float32(points[points < 2.0**128]).view(np.int32) + steps
        inside = np.maximum(bits, 0).view(np.float32).ravel()
        inside = np.concatenate([inside, -inside])
        inside = np.resize(inside, -(-inside.size // 31) * 31).reshape(-1, 31)
        # The largest number stays the largest, so that the scale is known.
        peak = np.full((len(inside), 1), np.nextafter(np.float32(2 * powers[-1]), np.float32(0)))
        lines.append(np.concatenate([peak, np.clip(inside, -peak, peak)], axis=1))
    return np.concatenate(lines)


STEPS: list[dict[str, str]] = [
    {"half_sum": "fp32", "rounding": "nearest_even"},
    {"half_sum": "fp32", "rounding": "nearest_away", "least_scale": "next"},
    {"element_exponent": "log2", "rounding": "toward_zero"},
    {"element_exponent": "log2", "rounding": "toward_zero", "least_scale": "one"},
]
MX_FLOATS = ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2")


@pytest.mark.parametrize(
    ("name", "choices"),
    [*((name, choices) for name in MX_FLOATS for choices in STEPS), *(("mxint8", choices) for choices in STEPS[:2])],
    ids=str,
)
def test_float32_steps_show_at_their_edges(name: str, choices: dict[str, str], isa: str) -> None:
    fmt = BLOCK_FORMATS[name]
    x = edges_of_steps(fmt.element)
    how = {key: word for key, word in choices.items() if key != "rounding"}
    plain = {key: word for key, word in how.items() if key == "least_scale"}
    rounding = choices["rounding"]
    wanted, without = (
        oracle_quantize(x, fmt, rounding=rounding, inexact="round", how=dataclasses.replace(fmt.how, **some))
        for some in (how, plain)
    )
    assert (wanted.codes != without.codes).any()
    events = sq.Events()
    encoded = sq.encode(x, name, events=events, **choices)
    assert_same_integers(encoded.codes, wanted.codes, name)
    assert {key: getattr(events, key) for key in wanted.events} == wanted.events
    for dtype in (np.float32, np.float64):
        values = sq.emulate(x.astype(dtype), name, dtype="float32", inexact="round", **choices)
        assert_same_integers(bits_of(values), wanted.values, name)


@pytest.mark.parametrize("word", ["nan", "nan_amax"])
def test_a_block_beyond_a_scale_format_that_ends_early_is_nan(word: str, isa: str) -> None:
    # The largest scale is 2^15 and the largest power of two among elements 4, so that amax ends below 2^18.
    fmt = LEVELLED["short exponents with NaN"]
    x = np.float32([[2.0**17, 1.0] * 4, [2.0**18 - 1, 1.0] * 4, [2.0**18, 1.0] * 4, [0.0] * 8])
    how = dataclasses.replace(fmt.how, scale_overflow=word)
    wanted = oracle_quantize(x, fmt, scale_rule="floor", inexact="round", how=how)
    got = sq.encode(x, user_format(fmt, None, scale_rule="floor", scale_overflow=word))
    assert wanted.planes[0].tolist() == [[30], [30], [31], [0]]
    assert_same_integers(plane_bits(got)[0], wanted.planes[0], word)
    assert_same_integers(got.codes, wanted.codes, word)


def test_what_nan_makes_of_a_block_needs_to_see_it_whole(isa: str) -> None:
    x = np.float32([[1, np.nan, -2, np.inf], [0, -0.0, np.nan, 0]])
    for choices in ({"nan_scale": "least"}, {"nonfinite": "zero_block"}):
        for block in ("tensor", "2x2"):
            with pytest.raises(ValueError, match="says what NaN makes of a whole block"):
                sq.encode(x, "mxfp8_e4m3", block=block, **choices)
        with pytest.raises(ValueError, match="chooses scales, and these were given"):
            sq.encode(x, "mxfp8_e4m3", scales=np.full((2, 1), 127, np.uint8), **choices)
    with pytest.raises(ValueError, match="use sparsify_first"):
        sq.emulate(x, "mxfp8_e4m3", nan_scale="least", sparsity="2:4", order="quantize_first")
    assert sq.encode(x, "mxfp8_e4m3", nan_scale="least").codes.tolist() == [
        [0x7E, 0x7F, 0xFE, 0x7E],
        [0, 0x80, 0x7F, 0],
    ]
    zeros = sq.encode(x, "mxfp8_e4m3", nonfinite="zero_block")
    assert not zeros.codes.any() and not np.asarray(zeros.scales).any()


def test_a_refusal_of_what_is_no_number_says_who_asked_for_it() -> None:
    x = np.float32([1, np.nan])
    for format in ("mxfp4", "int8", "bf16", "nvfp4"):
        with pytest.raises(ValueError, match="x has NaN or Inf, and nonfinite='error' was asked for"):
            sq.emulate(x, format, nonfinite="error", out=x)
    assert_same_bits(x, np.float32([1, np.nan]))
    assert sq.emulate(np.float32([1, 2]), "mxfp4", nonfinite="error").tolist() == [1, 2]


@pytest.mark.parametrize("policy", ["keep", "ignore"])
def test_ranking_what_may_be_no_number_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="use sparsify_first"):
        sq.emulate(np.ones(8, np.float32), "mxfp8", sparsity="2:4", order="quantize_first", nonfinite=policy)


def test_choices_at_their_defaults_leave_specs_and_digests_as_they_were() -> None:
    plain = sq.spec("mxfp4")
    said = sq.spec("mxfp4", nonfinite="poison", signed_zero="keep", subnormals="keep", zero_scale=-1)
    assert said == plain and said.digest == plain.digest and str(said) == str(plain)
    other = sq.spec("mxfp4", signed_zero="drop", scale_rule="rceil", divisor=7.25)
    assert "signed_zero=drop" in str(other) and "divisor=7.25" in str(other)
    assert sq.Spec.from_json(other.to_json()) == other and other.digest != plain.digest


def test_nearest_powers_of_two_are_those_of_the_e8m0_cast(isa: str) -> None:
    import torch

    rng = np.random.default_rng(3)
    amax = (rng.integers(1 << 23, 1 << 24, 4000) * 2.0 ** rng.integers(-100, 80, 4000)).astype(np.float32)
    amax[:200] = (3 * 2.0 ** np.arange(-100, 100)).astype(np.float32)
    # The largest E2M1 element is of the binade of 4.
    wanted = torch.from_numpy(amax / 4).to(torch.float8_e8m0fnu).view(torch.uint8).numpy()
    got = sq.encode(amax[:, None], "mxfp4", scale_rule="nearest")
    assert_same_integers(got.scale_planes[0][:, 0], wanted, "scales")


def test_cutting_to_bfloat16_knows_its_subnormal_numbers_in_every_carrier(isa: str) -> None:
    # -0x7F41 * 2^-149 lies below 2^-133, the smallest bfloat16; 0x28000 * 2^-149 is two and a half of those.
    x = np.uint32([0x80007F41, 0x00028000, 0x3F80FFFF, 0x7F7FFFFF]).view(np.float32)
    wanted = np.uint32([0x80000000, 0x00020000, 0x3F800000, 0x7F7F0000]).view(np.float32)
    # The format is float32 itself, so that only the cut shows.
    plain = sq.Format("plain", sq.elements()["fp32"].record, (), sq.Conversion(preround="bf16_toward_zero"))
    assert_same_bits(sq.emulate(x, plain), wanted)
    assert_same_bits(sq.emulate(x.astype(np.float64), plain, dtype="float32"), wanted)


def test_the_full_range_is_read_before_results_are_written_over_the_input(isa: str) -> None:
    x = np.float32([[-2.5, 1.7, -1.99, 0.3]] * 3)
    for axis in (0, 1):
        wanted = sq.encode(x, "mxint8", axis=axis, integer_range="full").decode()
        assert_same_bits(sq.emulate(x.copy(), "mxint8", axis=axis, integer_range="full"), wanted)
        target = x.copy()
        sq.emulate(target, "mxint8", axis=axis, integer_range="full", out=target)
        assert_same_bits(target, wanted)


def test_a_reciprocal_beyond_bfloat16_is_its_largest_number(isa: str) -> None:
    level = sq.ScaleLevel(format=sq.elements()["fp32"].record, along=4)
    how = sq.Conversion(scale_rule="amax", scale_apply="reciprocal", scale_compute="bf16")
    record = sq.Format("bf16 steps", sq.elements()["e2m1"].record, [level], how)
    x = np.uint32([0, 1, 0x80000001, 0]).view(np.float32)
    # 2^-149 times 0x1.FEp127 is 2^-22 and rounds to zero.
    assert sq.encode(x, record).codes.tolist() == [0, 0, 8, 0]
    wanted = oracle_quantize(
        x,
        BlockFormat(
            oracle.ELEMENTS["e2m1"], oracle.FP32, 4, how=oracle.Choices(scale_apply="reciprocal", scale_compute="bf16")
        ),
    )
    assert_same_integers(sq.encode(x, record).codes, wanted.codes, "codes")


def test_inf_that_is_ignored_turns_its_sign_under_a_negative_zero(isa: str) -> None:
    # Zeros alone have the scale -0 here.
    assert sq.encode(np.float32([np.inf, 0]), "q4_0", nonfinite="ignore").codes.tolist() == [8, 0]


def test_what_was_written_over_is_not_lost_where_new_choices_refuse(isa: str) -> None:
    level = sq.ScaleLevel(format=sq.elements()["fp32"].record, along=4)
    one = sq.Format(
        "one", sq.elements()["bfp2_element"].record, [level], sq.Conversion(scale_rule="amax", scale_compute="bf16")
    )
    x = np.float32([1, 2, 3, 4, 3.4e38, 1, 1, 1])
    before = x.copy()
    with pytest.raises(ValueError, match="beyond float32"):
        sq.emulate(x, one, out=x)
    assert_same_bits(x, before)
    x = np.ones(16, np.float32)
    with pytest.raises(ValueError, match=r"beyond float32|NaN or Inf"):
        sq.emulate(x, "nvfp4", tensor_scale=2.0**-140, out=x)
    assert_same_bits(x, np.ones(16, np.float32))


def test_zeros_after_negative_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="under a negative scale are not"):
        sq.emulate(np.float32([3, -1, 2, 0.5]), "q4_0", sparsity="2:4", order="quantize_first")
