"""Two ways of encoding a format: what differs, how much, and the smallest input that tells them apart.

Smallest inputs are re-run on every implementation and by the oracle, and held against a search of their own here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
import sparq_sim as sq
from conftest import ISAS, Array, bits_of, forced_isa, oracle_quantize, plane_bits
from sparq_sim import difference, edges, runs, smallest

ROOT = Path(__file__).parent.parent
E4M3 = sq.Format("e4m3", sq.elements()["e4m3"].record)

#: format, one side, the other, the bits of the smallest input, the values of both sides, what decides.
KNOWN: list[tuple[Any, Any, Any, tuple[int, ...], tuple[float, ...], tuple[float, ...], str]] = [
    ("mxfp4", "torchao-main/floor", "torchao-main/even", (0x40E00000,), (6.0,), (8.0,), "scale"),
    ("mxfp4", "torchao-main/floor", "torchao-main/rceil", (0x40E00000,), (6.0,), (8.0,), "scale"),
    ("mxfp4", "torchao-main/floor", "torchao-main/ceil", (0x40400000,), (3.0,), (3.0,), "scale"),
    ("mxfp4", "torchao-main/rceil", {"scale_rule": "even"}, (0x41500000,), (12.0,), (12.0,), "scale"),
    ("mxfp4", {}, {"scale_rule": "nearest"}, (0x40400000,), (3.0,), (3.0,), "scale"),
    # The scale is at its least, 2^-127: 2^-129 is half of the smallest element.
    ("mxfp4", {}, {"rounding": "nearest_away"}, (0x00100000,), (0.0,), (2.0**-128,), "tie"),
    ("mxfp4", {}, {"rounding": "nearest_zero"}, (0x00300000,), (2.0**-127,), (2.0**-128,), "tie"),
    ("mxfp4", {}, {"rounding": "toward_zero"}, (0x00300000,), (2.0**-127,), (2.0**-128,), "tie"),
    ("mxfp4", {}, {"signed_zero": "drop"}, (0x80000000,), (-0.0,), (0.0,), "sign of zero"),
    ("mxfp4", {"signed_zero": "underflow"}, {"signed_zero": "drop"}, (0x80100000,), (-0.0,), (0.0,), "sign of zero"),
    ("mxfp4", {}, {"nonfinite": "ignore"}, (0x7F800000,), (math.nan,), (6 * 2.0**-127,), "NaN or Inf"),
    ("mxfp4", {}, {"zero_scale": 127}, (0x00000000,), (0.0,), (0.0,), "scale of zeros"),
    ("mxfp8", {}, {"subnormals": "flush"}, (0x00008000,), (2.0**-134,), (0.0,), "subnormal"),
    ("mxint8", {}, {"integer_range": "full"}, (0xC37F0000,), (-254.0,), (-256.0,), "lowest code"),
    ("mxint8", "ocp", "gfloat-0.5", (0xC37F0000,), (-254.0,), (-256.0,), "lowest code"),
    ("e4m3", "torch-2.13", "ml_dtypes-0.6", (0x44000000,), (448.0,), (math.nan,), "saturation"),
    ("e4m3", {}, {"rounding": "nearest_away"}, (0x3A800000,), (0.0,), (2.0**-9,), "tie"),
    ("nvfp4_one_level", {}, {"scale_rounding": "up"}, (0x3D800000,), (0.0625 * 0.9375,), (0.0625 * 1.125,), "scale"),
]
#: Pairs whose smallest input has several elements.
LONGER: list[tuple[Any, Any, Any, dict[int, float], str]] = [
    ("mxfp4", {}, {"block": 16}, {0: 0.5, 16: 1.0}, "scale"),
    ("mxfp4", {}, {"sparsity": "2:4"}, {0: 1.0, 1: 1.0, 2: 1.0}, "pruning"),
    ("nvfp4", {}, {"scale_minimum": 8}, {0: 2.0**-15, 16: 1.0}, "scale"),
]


@cache
def found(at: int) -> sq.Difference:
    format, a, b = (KNOWN + LONGER)[at][:3]
    with forced_isa(ISAS[-1]):  # the search is long, and the test that asks first may force the slow one
        return sq.diff(format, a, b, data=np.ones((2, 32), np.float32))


def specs_of(format: Any, a: Any, b: Any) -> list[sq.Spec]:
    base = E4M3 if format == "e4m3" else format
    return [sq.spec(base, like=one) if isinstance(one, str) else sq.spec(base, **one) for one in (a, b)]


def from_words(patterns: Any) -> Array:
    return np.array([int(word, 16) for word in patterns], np.uint32).view(np.float32)


@pytest.mark.parametrize("at", range(len(KNOWN)))
def test_the_smallest_inputs_of_known_pairs(at: int) -> None:
    bits, a, b, decides = KNOWN[at][3:]
    made = found(at).smallest
    assert made is not None and tuple(int(word, 16) for word in made.bits) == bits
    assert np.array_equal(made.block.a.values, a, equal_nan=True)
    assert made.block.decides == decides
    got = [np.signbit(side.values) for side in (made.block.a, made.block.b)]
    if decides == "sign of zero":
        assert got[0].tolist() == [True] and got[1].tolist() == [False]
    assert np.array_equal(made.block.b.values, b, equal_nan=True)
    assert made.proven == bool(np.isfinite(made.x).all())
    assert made.scales_only == (decides == "scale of zeros")


@pytest.mark.parametrize("at", range(len(LONGER)))
def test_the_smallest_inputs_of_known_pairs_that_need_several_elements(at: int) -> None:
    elements, decides = LONGER[at][3:]
    made = found(len(KNOWN) + at).smallest
    assert made is not None and {i: value for i, value in enumerate(made.x) if value} == elements
    assert made.block.decides == decides and not made.proven


def test_where_rules_of_scales_begin_to_differ() -> None:
    """The stretch of numbers around the smallest input ends at the threshold of the rule."""
    ends = {rule: sq.diff("mxfp4", {}, {"scale_rule": rule}, data=np.ones(2, np.float32)) for rule in
            ("even", "rceil", "ceil", "nearest")}  # fmt: skip
    wanted = {
        "even": ("0x40E00000", "0x40FFFFFF"),  # 7
        "rceil": ("0x40C00001", "0x40FFFFFF"),  # just above 6
        "ceil": ("0x40000001", "0x407FFFFF"),  # just above 2
        "nearest": ("0x40400000", "0x407FFFFF"),  # 3
    }
    for rule, made in ends.items():
        assert made.smallest is not None and (made.smallest.first, made.smallest.last) == wanted[rule]


def test_a_tie_is_the_only_number_of_its_stretch() -> None:
    made = sq.diff("e4m3", {}, {"rounding": "nearest_away"}).smallest
    assert made is not None and made.x == (2.0**-10,) and made.first == made.last == made.bits[0]
    assert "its neighbours do not" in made.lines()


def test_a_float32_logarithm_differs_just_below_a_power_of_two() -> None:
    made = sq.diff("mxfp4", {}, {"amax_exponent": "log2"}).smallest
    assert made is not None and len(made.x) == 1
    fraction, exponent = math.frexp(made.x[0])
    assert 1 - 2.0**-18 < fraction < 1 and exponent > 2
    assert made.last == f"0x{((exponent + 127) << 23) - 1:08X}" and made.first is not None
    below = np.array([0x437FFFFF], np.uint32).view(np.float32)  # 256 - ulp
    pair = [sq.encode(below, "mxfp4", amax_exponent=word).scales for word in ("bits", "log2")]
    assert pair[0] != pair[1]


@pytest.mark.parametrize("at", range(len(KNOWN) + len(LONGER)))
def test_smallest_inputs_differ_on_every_implementation(isa: str, at: int) -> None:
    made = found(at).smallest
    assert made is not None
    x = from_words(made.bits)
    sides = []
    for spec, side in zip(specs_of(*(KNOWN + LONGER)[at][:3]), (made.block.a, made.block.b), strict=True):
        tensor = sq.encode(x, spec)
        values = tensor.decode(inexact="round")
        width = len(made.block.x)
        assert [f"0x{int(code):X}" for code in tensor.codes[:width]] == [f"0x{int(c, 16):X}" for c in side.codes]
        assert [f"0x{int(bits):08X}" for bits in bits_of(values)[:width]] == list(side.bits)
        assert [int(plane.reshape(-1)[0]) for plane in plane_bits(tensor)] == [int(one, 16) for one in side.scales]
        sides.append((tensor.codes.tobytes(), bits_of(values).tobytes(), [p.tobytes() for p in plane_bits(tensor)]))
    assert sides[0] != sides[1]
    assert (sides[0][:2] == sides[1][:2]) == made.scales_only


ORACLE_WORDS = {"scale_rule", "rounding", "overflow", "scale_rounding", "scale_minimum"}


@pytest.mark.parametrize("at", [i for i, known in enumerate(KNOWN) if known[0] in oracle.BLOCK_FORMATS])
def test_the_oracle_makes_the_same_of_the_smallest_inputs(at: int) -> None:
    format, a, b = KNOWN[at][:3]
    made = found(at).smallest
    assert made is not None
    fmt = oracle.BLOCK_FORMATS[format]
    for spec, side in zip(specs_of(format, a, b), (made.block.a, made.block.b), strict=True):
        chosen = spec.conversion.to_dict()
        plain = sq.Conversion().to_dict()
        how = {
            name: word
            for name, word in chosen.items()
            if word != plain[name] and name not in ORACLE_WORDS and hasattr(fmt.how, name)
        }
        words = {name: chosen[name] for name in ORACLE_WORDS}
        got = oracle_quantize(
            from_words(made.bits), fmt, how=dataclasses.replace(fmt.how, **how), inexact="round", **words
        )
        assert [int(code) for code in got.codes] == [int(code, 16) for code in side.codes]
        assert [int(bits) for bits in got.values] == [int(bits, 16) for bits in side.bits]
        assert got.scales is not None and [int(got.scales[0])] == [int(side.scales[-1], 16)]


def rank(x: float) -> tuple[int, int, int, Fraction]:
    """How round a number that is not zero is: bits, exponent of the last one, sign, size."""
    exact = abs(Fraction(x))
    exponent = 0
    while exact.denominator > 1:
        exact, exponent = exact * 2, exponent - 1
    odd = exact.numerator
    while odd % 2 == 0:
        odd, exponent = odd // 2, exponent + 1
    return odd.bit_length(), abs(exponent), int(x < 0), abs(Fraction(x))


def smaller_numbers(limit: float) -> list[float]:
    """Every float32 that is rounder than this number, by enumeration."""
    made, top = [], rank(limit)
    for bits in range(1, top[0] + 1):
        odds = [1] if bits == 1 else range(2 ** (bits - 1) + 1, 2**bits, 2)
        for odd, exponent in product(odds, range(-149, 129 - bits)):
            size = math.ldexp(odd, exponent)
            made += [x for x in (size, -size) if (bits, abs(exponent), int(x < 0), size) < top]
    return made


@pytest.mark.parametrize("at", [i for i, known in enumerate(KNOWN) if known[3][0] & 0x7FFFFFFF < 0x7F800000])
def test_no_rounder_input_tells_them_apart(at: int) -> None:
    format, a, b, bits = KNOWN[at][:4]
    limit = float(np.array(bits, np.uint32).view(np.float32)[0])
    numbers = [0.0] if bits[0] == 0x80000000 else [0.0, -0.0, *smaller_numbers(limit)] if limit else []
    lines = np.array(numbers, np.float32).reshape(-1, 1)
    if not lines.size:
        return
    sides = [sq.encode(lines, spec) for spec in specs_of(format, a, b)]
    assert np.array_equal(sides[0].codes, sides[1].codes)
    values = [bits_of(side.decode(inexact="round")) for side in sides]
    assert np.array_equal(values[0], values[1])


def test_lines_are_in_the_order_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    numbers = np.unique(np.ldexp(rng.integers(1, 600, 500), rng.integers(-30, 30, 500))).astype(np.float32)
    numbers = np.concatenate([numbers, -numbers])
    rng.shuffle(numbers)
    got = numbers[smallest.order(numbers.reshape(-1, 1))].tolist()
    assert got == sorted(numbers.tolist(), key=rank)
    lines = np.array(
        [[0, 0], [-0.0, 0], [5, 0], [np.inf, 0], [np.nan, 0], [1, 1], [1, -1], [1, 3], [1, np.inf]], np.float32
    )
    shuffled = rng.permutation(len(lines))
    assert shuffled[smallest.order(lines[shuffled])].tolist() == list(range(len(lines)))
    spaced = np.array([[0, 0, 1], [0, 3, 0], [7, 0, 0]], np.float32)
    assert smallest.order(spaced).tolist() == [2, 1, 0]  # the shortest first


def test_what_is_found_in_data_is_made_smaller() -> None:
    """A pair of rules that only blocks of several numbers tell apart."""
    made = sq.diff("mxfp4", {"scale_rule": "mse"}, {"scale_rule": "mae"}).smallest
    assert made is not None and not made.proven and len(made.x) == 2
    sides = [sq.encode(np.float32(made.x), "mxfp4", scale_rule=rule).scales for rule in ("mse", "mae")]
    assert sides[0] != sides[1]
    for drop in range(2):
        rest = np.float32([0 if i == drop else value for i, value in enumerate(made.x)])
        values = [bits_of(sq.emulate(rest, "mxfp4", scale_rule=rule)) for rule in ("mse", "mae")]
        assert np.array_equal(values[0], values[1])


def test_shrinking_keeps_the_difference_and_never_makes_a_line_larger() -> None:
    rng = np.random.default_rng(1)
    a, b = (runs.line_spec(sq.spec("mxfp4", **words)) for words in ({}, {"rounding": "nearest_away"}))

    def differs(lines: Array) -> Array:
        return runs.gaps(runs.encode_lines(lines, a), runs.encode_lines(lines, b)).lines("bits")

    lines = rng.integers(-16, 17, (200, 32)).astype(np.float32)
    lines = lines[differs(lines)]
    assert len(lines) > 10
    for line in lines[:10]:
        made = smallest.shrunk(line, differs)
        assert differs(made[None, :])[0]
        both = np.array([np.pad(made, (0, 32 - made.size)), line])
        assert smallest.order(both)[0] == 0


def test_equal_specs_are_the_same() -> None:
    made = sq.diff("mxfp4", "ocp", "torchao-main/floor")
    assert made.verdict == "the same spec" and made.same and made.smallest is None and made.shares == ()
    assert "the same spec" in str(made) and made.tables() == []
    assert sq.diff("mxfp4", {}, sq.spec("mxfp4", rounding="nearest_even")).same


def test_specs_that_differ_in_a_field_alone_are_told_so() -> None:
    """Two's complement has no negative zero, so nothing is dropped."""
    made = sq.diff("mxint8", "ocp", "microxcaling-cuda/even")
    assert made.verdict == "no difference found" and not made.same and made.smallest is None
    assert [change.name for change in made.fields] == ["signed_zero"]
    assert all(share.values == share.codes == share.scales == 0 for share in made.shares)
    text = str(made)
    assert "no difference found" in text and "tried: zeros of both signs" in text and "edges: ties" in text


def test_the_smallest_input_that_becomes_another_number_is_no_zero() -> None:
    made = sq.diff("mxfp4", "torchao-main/floor", "quark-0.13/even")
    assert made.smallest is not None and made.smallest.x == (0.0,)
    assert made.smallest_number is not None and made.smallest_number.x == (7.0,)
    zeros = sq.diff("mxfp4", {}, {"signed_zero": "drop"})
    assert zeros.smallest_number is None and "no input found of which a value becomes another number" in str(zeros)
    rules = sq.diff("mxfp4", "torchao-main/floor", "torchao-main/ceil")
    assert rules.smallest_number is not None and rules.smallest is not None
    block = rules.smallest_number.block
    assert block.a.values != block.b.values and rules.smallest.block.a.values == rules.smallest.block.b.values


def test_each_field_is_looked_at_alone() -> None:
    made = sq.diff("mxfp4", "torchao-main/floor", "quark-0.13/even")
    got = {one.field.name: one.smallest for one in made.by_field}
    assert got["scale_rule"] is not None and got["scale_rule"].x == (7.0,)
    assert got["signed_zero"] is not None and got["signed_zero"].bits == ("0x80000000",)
    alone = sq.diff("mxfp4", "ocp", {"scale_rule": "even", "even_bits": 3}).by_field
    assert [one.note for one in alone] == ["", "means nothing with the other fields of ocp"]
    same = sq.diff("mxfp4", "ocp", {"scale_rule": "rceil", "divisor": 7.25}).by_field
    assert [one.note for one in same] == ["", "no difference found"]  # floor takes the same power of two off


def test_shares_are_counts_of_what_differs() -> None:
    x = np.random.default_rng(5).standard_normal((40, 96), dtype=np.float32)
    made = sq.diff("mxfp4", {}, {"scale_rule": "rceil", "signed_zero": "drop"}, data=x)
    a, b = sq.encode(x, "mxfp4"), sq.encode(x, "mxfp4", scale_rule="rceil", signed_zero="drop")
    share = made.share("data")
    assert share.elements == x.size and share.scale_count == a.scale_planes[0].size
    assert share.values == np.count_nonzero(bits_of(a.decode()) != bits_of(b.decode())) > 0
    assert share.codes == np.count_nonzero(a.codes != b.codes)
    assert share.scales == np.count_nonzero(a.scale_planes[0] != b.scale_planes[0])
    assert share.part("values") == share.values / x.size
    parts = [one for one in made.shares if one.data.startswith("edges: ")]
    assert made.share("edges").values == sum(one.values for one in parts) > 0
    with pytest.raises(ValueError, match="no share of 'normal'; there are: data, edges"):
        made.share("normal")


def test_shares_are_of_seeded_normal_numbers() -> None:
    x = np.random.default_rng(3).standard_normal(difference.NORMAL_SHAPE, dtype=np.float32)
    made = sq.diff("mxfp4", {}, {"scale_rule": "even"}, seed=3)
    again = sq.diff("mxfp4", {}, {"scale_rule": "even"}, data=x)
    assert dataclasses.replace(made.shares[0], data="data") == again.shares[0]
    other = sq.diff("mxfp4", {}, {"scale_rule": "even"})
    assert made.shares[0] != other.shares[0] and made.shares[1:] == other.shares[1:]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_data_may_be_of_any_type_and_shape(dtype: Any) -> None:
    x = np.random.default_rng(5).standard_normal((3, 4, 32)).astype(dtype)
    share = sq.diff("mxfp4", {}, {"scale_rule": "ceil"}, data=x).share("data")
    assert (share.elements, share.scale_count) == (x.size, 12)


def test_a_side_that_refuses_differs() -> None:
    x = np.float32([[1, np.nan]])
    made = sq.diff("mxfp4", {"nonfinite": "error"}, {}, data=x)
    assert made.shares[0].refused == ("nonfinite=error",) and made.shares[0].values == x.size
    assert made.share("edges: NaN and Inf").refused == ("nonfinite=error",)
    assert made.smallest is not None and made.smallest.block.decides == "refusal"
    assert made.smallest.block.a.refused and not made.smallest.block.b.refused
    assert "nonfinite=error refuses data" in str(made) and "refused" in str(made)


def test_lines_that_are_refused_are_found_among_others() -> None:
    rng = np.random.default_rng(0)
    lines = rng.standard_normal((500, 3)).astype(np.float32)
    wild = np.sort(rng.permutation(500)[:40])
    lines[wild, rng.integers(0, 3, 40)] = rng.choice(np.float32([np.nan, np.inf, -np.inf]), 40)
    strict = runs.line_spec(sq.spec("mxfp4", nonfinite="error"))
    got = runs.encode_lines(lines, strict)
    assert np.flatnonzero(got.refused).tolist() == wild.tolist()
    plain = runs.encode_lines(lines, runs.line_spec(sq.spec("mxfp4")))
    kept = ~got.refused
    assert np.array_equal(got.values[kept], plain.values[kept]) and np.array_equal(got.codes[kept], plain.codes[kept])
    assert not got.values[wild].any() and not got.codes[wild].any() and not got.scales[0][wild].any()
    assert np.array_equal(runs.gaps(got, plain).lines("bits"), got.refused)
    # A quotient beyond float32 is refused too.
    element = sq.ElementFormat(mantissa_bits=3, bias=8)
    large = sq.Format("large", element, sq.formats()["int8"].levels, sq.Conversion(scale_rule="amax"))
    peaks = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32).reshape(-1, 1)
    alone = runs.encode_lines(peaks, runs.line_spec(sq.spec(large)))
    for peak, refused in zip(peaks, alone.refused, strict=True):
        if refused:
            with pytest.raises(ValueError, match="beyond float32"):
                sq.encode(peak, large)
    assert 0 < np.count_nonzero(alone.refused) < len(peaks)


def test_blocks_of_other_lengths_have_no_share_of_scales() -> None:
    share = sq.diff("mxfp4", {}, {"block": 16}, data=np.ones((2, 32), np.float32)).share("data")
    assert share.scales is None and share.part("scales") is None


@pytest.mark.parametrize("format", ["mxfp4", "mxfp8_e5m2", "mxint8", "nvfp4", "int8", "mx9", "hif4", "bf16", "hif8"])
def test_edges_hit_what_they_are_named_for(format: str) -> None:
    spec = sq.spec(format)
    sets = edges.edge_sets(spec)
    joined = np.concatenate([lines.reshape(-1) for lines in sets.values()])
    bits = joined.view(np.uint32)
    assert np.isnan(joined).any() and np.isinf(joined).any() and (bits == 0x80000000).any()
    assert ((bits & 0x7FFFFFFF) < 0x00800000)[bits & 0x7FFFFFFF != 0].any()  # subnormals
    assert np.isfinite(np.concatenate([v.reshape(-1) for k, v in sets.items() if k != "NaN and Inf"])).all()
    peaks = {int(word) for word in sets["thresholds"][:, 0].view(np.uint32)}
    for t, exponent, step in product(edges.thresholds(spec), (-1, 0, 8), (-1, 0, 1)):
        assert int(np.float32(t * 2.0**exponent).view(np.uint32)) + step in peaks
    ties = {abs(float(value)) for value in sets["ties"].reshape(-1)}
    assert all(float(np.float32(tie)) in ties for tie in edges.element_ties(spec.format.element))
    assert edges.edge_sets(spec)["ties"].tobytes() == sets["ties"].tobytes()


def test_names_of_formats_and_presets_mean_nothing() -> None:
    plain = sq.formats()["mxfp4"]
    renamed = sq.Format("mine", plain.element, plain.levels, plain.conversion)
    a, b = sq.diff(plain, {}, {"scale_rule": "even"}), sq.diff(renamed, {}, {"scale_rule": "even"})
    assert a.shares == b.shares and a.smallest is not None and b.smallest is not None
    assert (a.smallest.x, a.smallest.block.decides) == (b.smallest.x, b.smallest.block.decides)


def test_a_reason_tells_a_block_that_nan_poisons_from_one_that_has_a_scale() -> None:
    x = np.float32([[1.0, np.nan, 0.5, 0.25]])
    one = sq.explain(x, sq.spec("mxfp8_e4m3"), sq.spec("mxfp8_e4m3", nan_scale="least")).first
    assert one is not None and one.example.decides == "NaN or Inf"
    assert (one.example.a.reason, one.example.b.reason) == (
        "poisoned by NaN or Inf",
        "NaN or Inf: infinite=same, nan_scale=least",
    )


def test_reasons_name_the_numbers_of_the_rule() -> None:
    wanted = {
        "floor": "floor: X = 2 - 2 = 0",
        "even": "even: t = 1.75 >= 1.75, X = 2 - 2 + 1 = 1",
        "rceil": "rceil: t = 1.75 > 1.5, X = 2 - 2 + 1 = 1",
        "ceil": "ceil: t = 1.75 > 1, X = 2 - 2 + 1 = 1",
        "nearest": "nearest: t = 1.75 >= 1.5, X = 2 - 2 + 1 = 1",
    }
    for rule, text in wanted.items():
        if rule != "floor":
            made = sq.diff("mxfp4", {}, {"scale_rule": rule}, data=np.ones(2, np.float32))
            one = sq.explain(np.float32([7.0]), {}, {"scale_rule": rule}, format="mxfp4").first
            assert made.smallest is not None and one is not None
            assert (one.example.a.reason, one.example.b.reason) == (wanted["floor"], text)


@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil", "even", "nearest"])
@pytest.mark.parametrize("format", ["mxfp4", "mxfp8_e4m3", "mxint8", "hbfp8", "mx9"])
def test_reasons_lead_to_the_scale(format: str, rule: str) -> None:
    """A reason has numbers only where they give the code; for plain rules it always has."""
    rng = np.random.default_rng([*format.encode(), *rule.encode()])
    x = (rng.standard_normal((60, 8)) * np.exp2(rng.integers(-120, 120, (60, 1)))).astype(np.float32)
    made = sq.explain(
        x, {"scale_rule": rule, "rounding": "nearest_away"}, {"scale_rule": rule, "rounding": "down"}, format=format
    )
    assert made.causes
    for cause in made.causes:
        side = cause.example.a
        assert side.reason.startswith(f"{rule}: ") and f"= {int(side.scales[0], 16) - 127}" in side.reason


def test_json_is_the_same_record() -> None:
    made = sq.diff("mxfp4", {}, {"nonfinite": "ignore", "scale_rule": "even"})
    data = json.loads(made.to_json())
    assert data == made.to_dict() and data["verdict"] == "they differ"
    assert data["fields"][0] == {"name": "scale_rule", "a": "floor", "b": "even"}
    assert data["smallest"]["bits"] == ["0x40E00000"] and data["smallest"]["block"]["a"]["codes"] == ["0x7"]
    special = next(one for one in data["by_field"] if one["field"]["name"] == "nonfinite")["smallest"]
    assert special["x"] == ["Inf"] and special["block"]["a"]["values"] == ["NaN"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mxfp4", "nope", "ocp"), ValueError, "unknown preset 'nope'"),
        (("mxfp5", "ocp", "ocp"), ValueError, "unknown format 'mxfp5'"),
        (("hbfp8", "ocp", {}), ValueError, "says nothing of hbfp8"),
        (("mxfp4", {}, {"scale_rule": "evne"}), ValueError, "choose one of floor"),
        (("mxfp4", {}, {"colour": "red"}), TypeError, "unknown choice 'colour'"),
        (("mxfp4", {}, {"rounding": "stochastic"}), ValueError, "b: rounding='stochastic' needs random bits"),
        (("mxfp4", sq.spec("mxfp8"), sq.spec("mxfp4")), ValueError, "are two formats"),
        (("mxfp4", sq.spec("mxfp8"), sq.spec("mxfp8", scale_rule="even")), ValueError, "are two formats"),
        (("mxfp4", sq.spec("mxfp4", axis=0), sq.spec("mxfp4")), ValueError, "axis=0 and axis=-1"),
        (("mxfp4", 3, {}), TypeError, "a: needed the name of a preset"),
        ((7, {}, {}), TypeError, "format: needed a name"),
    ],
)
def test_errors_say_what_is_needed(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sq.diff(*arguments)


def disagreements() -> list[Any]:
    data = json.loads((ROOT / "docs" / "disagreements.json").read_text(encoding="utf-8"))
    return [(format, pair) for format, made in data["formats"].items() for pair in made["pairs"]]


def test_every_input_of_the_table_of_disagreements_tells_its_presets_apart(isa: str) -> None:
    pairs = disagreements()
    assert len(pairs) > 200
    for format, pair in pairs:
        base = format if format in sq.formats() else sq.Format(format, sq.elements()[format].record)
        for made in filter(None, (pair["input"], pair["number"])):
            x = from_words(made["x"])
            got = []
            for side in ("a", "b"):
                tensor = sq.encode(x, base, like=pair[side])
                values = bits_of(tensor.decode(inexact="round"))
                wanted = made[side]
                width = len(wanted["codes"])
                assert [int(code) for code in tensor.codes[:width]] == [int(code, 16) for code in wanted["codes"]]
                assert [int(one) for one in values[:width]] == [int(one, 16) for one in wanted["values"]]
                planes = [plane.tobytes() for plane in plane_bits(tensor)]
                got.append((tensor.codes.tobytes(), values.tobytes(), planes))
            assert got[0] != got[1], (format, pair["a"], pair["b"])
            if made is pair["number"]:
                assert not np.array_equal(*(np.frombuffer(one[1], np.float32) for one in got), equal_nan=True)
