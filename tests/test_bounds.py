"""The proven bounds of docs/numerics.md section 11: nothing exceeds them, and they are not idle."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import sparq_sim as sq
from conftest import Array
from oracle import ELEMENTS, Number, Operand
from sparq_sim.bounds import Problem, any_order_bound, datapath_bound
from test_datapaths import drawn_chain, drawn_machine
from test_matmul import (
    DATAPATHS,
    DEFINED,
    HOPPER_KINDS,
    KINDS,
    Side,
    codes_of,
    element_record,
    matmul,
    numpy_array,
    starting_values,
)
from witnesses import TYPES

COMMON: dict[str, Any] = {"deadline": None, "database": None, "derandomize": True}
FINITE_STYLES = ("plain", "tiny", "huge", "cancel")


def rounded_up(value: Fraction) -> float:
    """The least float64 that is not below."""
    near = float(value)
    return near if Fraction(near) >= value else math.nextafter(near, math.inf)


def exact_sum(a: Sequence[Number], b: Sequence[Number], c: Number) -> tuple[Fraction, Fraction]:
    """The infinitely precise c + sum of products, and the sum of magnitudes."""
    products = [x.fraction * y.fraction for x, y in zip(a, b, strict=True)]
    return sum(products, c.fraction), sum((abs(p) for p in products), abs(c.fraction))


def largest_scale(side: Side) -> float:
    """The largest float scale of an operand, 1 without."""
    found = [Fraction(1)] if not side.float_scaled else []
    for line in side.lines:
        parts = [oracle.decode(oracle.FP32, bits).fraction for bits in line.scales or ()]
        own = max(parts) if parts and line.has_float_scales else Fraction(1)
        if line.tensor_scale is not None:
            own *= oracle.decode(oracle.FP32, line.tensor_scale).fraction
        found.append(own)
    return rounded_up(max(found))


def is_number(values: Sequence[Number]) -> bool:
    """Whether every value is finite."""
    return all(value.is_finite for value in values)


def ratios(path: sq.Datapath, a: Side, b: Side, c: Array | None = None) -> list[float]:
    """|machine - exact| over the bound of each dot that stays finite."""
    got = np.asarray(matmul(a, b, datapath=path, c=c)).view(np.uint32)
    decoded_a, decoded_b = ([line.decoded() for line in side.lines] for side in (a, b))
    if not (all(map(is_number, decoded_a)) and all(map(is_number, decoded_b))):
        return []
    tops = [rounded_up(max(v.magnitude for line in d for v in line)) for d in (decoded_a, decoded_b)]
    k = len(a.lines[0].codes)
    found = []
    for i, x in enumerate(decoded_a):
        for j, y in enumerate(decoded_b):
            start = oracle.POSITIVE_ZERO if c is None else oracle.decode(oracle.FP32, int(c.view(np.uint32)[i, j]))
            result = oracle.decode(oracle.FP32, int(got[i, j]))
            if not (result.is_finite and start.is_finite):
                continue
            exact, total = exact_sum(x, y, start)
            problem = Problem(
                total=np.array([rounded_up(total)]),
                k=k,
                segments=len(oracle.segments(a.lines[i], b.lines[j])),
                a=element_record(a.lines[0].element),
                b=element_record(b.lines[0].element),
                a_max=tops[0],
                b_max=tops[1],
                float_scaled=a.float_scaled or b.float_scaled,
                a_scale=largest_scale(a),
                b_scale=largest_scale(b),
            )
            bound = float(datapath_bound(path, problem)[0])
            assert math.isfinite(bound) and bound >= 0
            found.append(ratio_of(result.fraction - exact, bound))
    return found


def ratio_of(error: Fraction, bound: float) -> float:
    """|error| over the bound, above 1 only if it truly is."""
    if error == 0:
        return 0.0
    assert bound > 0, error
    ratio = abs(error) / Fraction(bound)
    return max(float(ratio), math.nextafter(1, 2)) if ratio > 1 else min(float(ratio), 1.0)


# Nothing exceeds a bound


@pytest.mark.parametrize("style", FINITE_STYLES)
@pytest.mark.parametrize("datapath", DATAPATHS)
def test_no_machine_exceeds_its_bound_for_any_kind_of_operand(datapath: str, style: str) -> None:
    rng = np.random.default_rng([DATAPATHS.index(datapath), FINITE_STYLES.index(style)])
    path = sq.datapaths()[datapath].record
    # An operand under two float scales is beyond what section 11 speaks of.
    kinds = HOPPER_KINDS if datapath == "hopper_fp8" else [k for k in KINDS if "row and tensor" not in k]
    for left in kinds:
        for _ in range(12 if datapath == "hopper_fp8" else 3):
            right = str(rng.choice(kinds))
            k = int(rng.choice([1, 2, 5, 16, 32, 33, 65]))
            a, b = KINDS[left](rng, 2, k, style, "a"), KINDS[right](rng, 2, k, style, "b")
            scaled = a.float_scaled if datapath == "hopper_fp8" else a.scaled_at_end
            scaled |= b.float_scaled if datapath == "hopper_fp8" else b.scaled_at_end
            c = None if scaled or rng.random() < 0.5 else starting_values(rng, (2, 2))
            assert max(ratios(path, a, b, c), default=0.0) <= 1, (left, right, k)


@st.composite
def dots(draw: st.DrawFn) -> tuple[str, str, list[int], list[int], int]:
    """A machine, an element, codes of two lines and bits of c, all finite."""
    datapath = draw(st.sampled_from(DATAPATHS))
    choices = ("e4m3", "e5m2") if datapath == "hopper_fp8" else ("e4m3", "e5m2", "fp16", "bf16", "fp32", "e2m1")
    name = draw(st.sampled_from(choices))
    element = ELEMENTS[name]
    k = draw(st.integers(1, 6))
    # Codes near a few anchors: hypothesis then finds cancellations and the ends of binades.
    anchors = [0, 1, 1 << element.mantissa_bits, element.largest_code, element.bias << element.mantissa_bits]
    magnitude = st.one_of(st.sampled_from(anchors), st.integers(0, element.largest_code))
    code = st.tuples(magnitude, st.booleans()).map(lambda t: t[0] | (element.sign_bit if t[1] else 0))
    codes = st.lists(code, min_size=k, max_size=k)
    start = st.integers(0, 0x7F7FFFFF).flatmap(lambda m: st.sampled_from([m, m | 0x80000000]))
    return datapath, name, draw(codes), draw(codes), draw(st.one_of(st.just(0), start))


@given(dots())
@settings(max_examples=400, **COMMON)
def test_no_dot_that_a_search_finds_exceeds_its_bound(case: tuple[str, str, list[int], list[int], int]) -> None:
    datapath, name, codes_a, codes_b, start = case
    a, b = (Side(as_array(codes, name), [Operand(ELEMENTS[name], codes)]) for codes in (codes_a, codes_b))
    c = np.uint32([[start]]).view(np.float32)
    assert max(ratios(sq.datapaths()[datapath].record, a, b, c), default=0.0) <= 1


def as_array(codes: Sequence[int], name: str) -> Array:
    """One line of codes in the dtype of its element."""
    return np.array([codes], dtype=f"uint{8 * np.dtype(TYPES[name]).itemsize}").view(TYPES[name])


@pytest.mark.parametrize("style", FINITE_STYLES)
def test_no_users_aligning_machine_exceeds_its_bound(style: str) -> None:
    rng = np.random.default_rng(5)
    for group, fraction_bits, accumulator in ((16, 13, 13), (32, 14, 23), (1, 13, 10), (33, 7, 7), (64, 15, 1)):
        path = sq.Datapath(
            reduce="align",
            group=group,
            fraction_bits=fraction_bits,
            accumulator_fraction=accumulator,
            block_scales=False,
        )
        for left, right in (("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e5m2", "e5m2")):
            for k in (1, 4, 33, 66):
                a, b = (numpy_array(e)(rng, 2, k, style, w) for e, w in ((left, "a"), (right, "b")))
                assert max(ratios(path, a, b, starting_values(rng, (2, 2))), default=0.0) <= 1


@pytest.mark.parametrize("style", FINITE_STYLES)
def test_no_machine_of_any_fields_exceeds_its_bound(style: str) -> None:
    rng = np.random.default_rng(6)
    starts = set()
    for number in range(60):
        fields = {**drawn_machine(rng), "block_scales": False, "overflow": "infinity"}  # saturated sums are no bound's
        path = sq.Datapath(**fields)
        starts.add((path.start, path.align_rounding))
        left, right = (("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e5m2", "e5m2"))[number % 3]
        a, b = (numpy_array(e)(rng, 2, (5, 31, 66)[number % 3], style, w) for e, w in ((left, "a"), (right, "b")))
        c = None if number % 4 == 0 else starting_values(rng, (2, 2))
        assert max(ratios(path, a, b, c), default=0.0) <= 1, fields
    assert len(starts) == 12


@pytest.mark.parametrize("fields", [
    {"reduce": "fma", "accumulator_fraction": 7}, {"reduce": "tree", "group": 1, "accumulator_fraction": 7},
    {"reduce": "blocks", "group": 4, "accumulator_fraction": 5},
    {"reduce": "integer", "integer_bits": 24, "accumulator_fraction": 2},
])  # fmt: skip
def test_more_roundings_than_an_accumulator_has_bits_for_have_no_bound(fields: dict[str, Any]) -> None:
    path = sq.Datapath(**fields)
    element = "int8" if path.reduce == "integer" else "e4m3"
    for k in (4, 2048):
        codes = np.zeros((2, k), np.uint8)
        codes[0] = 1
        bound = sq.error_bound(codes, codes, a_format=element, b_format=element, datapath=path)
        assert not np.isnan(bound).any() and (k == 4 or path.reduce == "integer" or np.isinf(bound).all()), fields
    with pytest.raises(ValueError, match="c: needed finite numbers"):
        sq.error_bound(codes, codes, a_format=element, b_format=element, datapath=path, c=np.full((2, 2), np.inf))


@pytest.mark.parametrize("style", FINITE_STYLES)
@pytest.mark.parametrize("reduce", ("fma", "blocks", "tree"))
def test_no_accumulator_exceeds_its_bound(reduce: str, style: str) -> None:
    rng = np.random.default_rng(7)
    found = []
    for number in range(60):
        fields = {**drawn_chain(rng, reduce), "overflow": "infinity"}
        if fields["accumulator_fraction"] < 7:
            fields["accumulator_fraction"] = 7  # of fewer bits so many roundings have no bound
        left, right = (("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e5m2", "e5m2"))[number % 3]
        a, b = (numpy_array(e)(rng, 2, (5, 31, 16)[number % 3], style, w) for e, w in ((left, "a"), (right, "b")))
        c = None if number % 4 == 0 else starting_values(rng, (2, 2))
        found += ratios(sq.Datapath(**fields), a, b, c)
    assert 0.02 < max(found) <= 1  # and not silly


def test_sums_that_are_rounded_down_outgrow_their_magnitudes() -> None:
    """Although alignment and accumulator are cut toward zero."""
    path = sq.Datapath(
        reduce="align", group=1, start="late_floor", fraction_bits=4, sum_fraction=24, start_fraction=2,
        accumulator_rounding="toward_zero", block_scales=False,
    )  # fmt: skip
    a = np.full((1, 64), -(2.0**-10), np.float16)
    a[0, 0] = -1
    ones = np.ones((1, 64), np.float16)
    got = float(sq.matmul(a, ones, datapath=path)[0, 0])
    assert got == -16384 and float(sq.error_bound(a, ones, datapath=path)[0, 0]) > 16383


def test_steps_of_padding_cut_the_accumulator_too() -> None:
    path = sq.Datapath(
        reduce="align", group=1, instruction=2, start="late_floor", fraction_bits=30, sum_fraction=44,
        start_fraction=5, block_scales=False,
    )  # fmt: skip
    a, b = np.float32([[2**-5 - 2**-20]]), np.ones((1, 1), np.float32)
    c = np.float32([[1 + 2**-5 - 2**-23]])
    exact = Fraction(float(a[0, 0])) + Fraction(float(c[0, 0]))
    error = abs(Fraction(float(sq.matmul(a, b, datapath=path, c=c)[0, 0])) - exact)
    assert Fraction(1, 20) < error <= Fraction(float(sq.error_bound(a, b, datapath=path, c=c)[0, 0]))


@pytest.mark.parametrize(
    "fields",
    [
        {"reduce": "integer", "integer_bits": 24, "accumulator_fraction": 7},
        {
            "reduce": "align",
            "group": 1,
            "fraction_bits": 2,
            "accumulator_fraction": 1,
            "align_rounding": "nearest_even",
        },
    ],
)
def test_a_bound_that_says_nothing_is_infinite(fields: dict[str, Any]) -> None:
    path = sq.Datapath(**fields)
    a = np.zeros((2, 4096), np.float32)
    a[1] = 1
    left, right = sq.encode(a, "hbfp8", block=16), sq.encode(a, "hbfp8", block=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isposinf(sq.error_bound(left, right, datapath=path)).all()


def rn32(value: Fraction) -> Fraction | None:
    """Rounded once to float32; None beyond its range."""
    rounded = oracle.rn32(oracle.finite(value))
    return rounded.fraction if rounded.is_finite else None


def in_some_order(rng: np.random.Generator, products: list[tuple[Fraction, bool]]) -> Fraction | None:
    """A sum in float32 along a random tree; a product that is marked is added fused, if a sum is at hand."""
    terms: list[tuple[Fraction, bool]] = []
    for value, fused in products:
        rounded = value if fused else rn32(value)
        if rounded is None:
            return None
        terms.append((rounded, fused))
    chain = bool(rng.random() < 0.5)
    while len(terms) > 1:
        i, j = (0, 1) if chain else sorted(rng.choice(len(terms), 2, replace=False).tolist())
        (x, x_raw), (y, y_raw) = terms[i], terms[j]
        if x_raw and y_raw:  # a fused multiply-add has one product only
            rounded = rn32(x)
            if rounded is None:
                return None
            x = rounded
        total = rn32(x + y)
        if total is None:
            return None
        terms = [(total, False)] + [t for n, t in enumerate(terms) if n not in (i, j)]
    value, raw = terms[0]
    return rn32(value) if raw else value


@pytest.mark.parametrize("style", FINITE_STYLES)
def test_no_order_of_float32_sums_exceeds_the_bound_of_any_order(style: str) -> None:
    rng = np.random.default_rng(FINITE_STYLES.index(style))
    for trial in range(120):
        k = int(rng.choice([1, 2, 3, 7, 20]))
        name = str(rng.choice(["fp32", "bf16", "e5m2"]))
        lines = [codes_of(ELEMENTS[name], rng, (1, k), style, which)[0].tolist() for which in "ab"]
        a, b = ([oracle.decode(ELEMENTS[name], code).fraction for code in line] for line in lines)
        offset = oracle.decode(oracle.FP32, int(starting_values(rng, (1, 1)).view(np.uint32)[0, 0]))
        bias = offset.fraction if offset.is_finite and trial % 2 else Fraction(0)
        products = [x * y for x, y in zip(a, b, strict=True)]
        result = in_some_order(rng, [(p, bool(rng.random() < 0.3)) for p in products])
        if result is not None and bias:
            result = rn32(result + bias)
        if result is None:
            continue
        total = np.array([rounded_up(sum((abs(p) for p in products), Fraction(0)))])
        bound = float(any_order_bound(total, float(bias), k)[0])
        assert ratio_of(result - sum(products, bias), bound) <= 1, (k, name)


def test_torch_stays_within_the_bound_of_any_order() -> None:
    torch.manual_seed(3)
    for k in (1, 7, 64, 300):
        x, w, bias = torch.randn(4, k) * 2.0 ** torch.randint(-8, 8, (4, k)), torch.randn(3, k), torch.randn(3)
        got = torch.nn.functional.linear(x, w, bias)
        for i in range(4):
            for j in range(3):
                products = [Fraction(p) * Fraction(q) for p, q in zip(x[i].tolist(), w[j].tolist(), strict=True)]
                exact = sum(products, Fraction(float(bias[j])))
                total = np.array([rounded_up(sum((abs(p) for p in products), Fraction(0)))])
                bound = float(any_order_bound(total, float(bias[j]), k)[0])
                assert ratio_of(Fraction(float(got[i, j])) - exact, bound) <= 1


# No bound is idle


def worst(path: sq.Datapath, pairs: Sequence[tuple[Side, Side, Array | None]]) -> float:
    """The largest share of its bound that some dot takes."""
    return max(max(ratios(path, a, b, c), default=0.0) for a, b, c in pairs)


def ones_and_half_ulps(k: int) -> tuple[Side, Side, Array | None]:
    """1 first, and then products of 2^-24: each is half a step, a little more, and all round the same way."""
    first = [oracle.round_to_float(Fraction(1))]
    rest = [oracle.round_to_float(Fraction(1, 1 << 24) * (1 if n % 2 else Fraction(7, 8))) for n in range(k - 1)]
    ones = [oracle.round_to_float(Fraction(1))] * k
    codes = first + rest
    return (
        Side(as_array(codes, "fp32"), [Operand(oracle.FP32, codes)]),
        Side(as_array(ones, "fp32"), [Operand(oracle.FP32, ones)]),
        None,
    )


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_the_bounds_of_rounding_machines_are_within_a_few_times_of_a_found_error(k: int) -> None:
    rng = np.random.default_rng(k)
    fp32 = KINDS["numpy fp32"]
    random = [(fp32(rng, 3, k, "plain", "a"), fp32(rng, 3, k, "plain", "b"), None) for _ in range(30)]
    for datapath in DEFINED:
        path = sq.datapaths()[datapath].record
        pairs = random + ([ones_and_half_ulps(k)] if k > 1 else [])
        # 30 random dots of few products come near one rounding each; a bound of k roundings is k times that.
        assert worst(path, pairs) > 1 / (8 * k), datapath


def test_the_bound_of_one_rounding_per_block_counts_blocks_and_not_products() -> None:
    rng = np.random.default_rng(9)
    path = sq.datapaths()["block_fp32"].record
    pairs = [
        (KINDS["mxfp8_e4m3"](rng, 3, 128, "plain", "a"), KINDS["mxfp8_e4m3"](rng, 3, 128, "plain", "b"), None)
        for _ in range(20)
    ]
    assert worst(path, pairs) > 1 / 100


# Section 11: the bound of block_fp32 is idle under float scales for elements that are wider than 8 bits.
@pytest.mark.parametrize(
    ("datapath", "kind"),
    [(datapath, kind) for datapath in DEFINED for kind in ("int8 per row", "fp8_e4m3 per tensor", "fp8_e5m2 per row")],
)
def test_the_bounds_under_float_scales_are_within_a_hundred_times_of_a_found_error(datapath: str, kind: str) -> None:
    rng = np.random.default_rng(10)
    path = sq.datapaths()[datapath].record
    pairs = [
        (KINDS[kind](rng, 3, k, "plain", "a"), KINDS[kind](rng, 3, k, "plain", "b"), None)
        for k in (1, 2, 4)
        for _ in range(20)
    ]
    assert worst(path, pairs) > 1 / 100


def test_the_hopper_bound_is_within_ten_times_of_the_error_of_lost_small_products() -> None:
    # One product of 448 * 448 sets E = 16; 31 products of 7.5, just below 2^(16 - 13), are lost whole.
    path = sq.datapaths()["hopper_fp8"].record
    e4m3 = ELEMENTS["e4m3"]
    a = [0x7E] + [oracle.round_to_code(e4m3, oracle.finite(Fraction(15, 8)))] * 31
    b = [0x7E] + [oracle.round_to_code(e4m3, oracle.finite(Fraction(4)))] * 31
    sides = [Side(as_array(codes, "e4m3"), [Operand(e4m3, codes)]) for codes in (a, b)]
    assert 0.1 < worst(path, [(sides[0], sides[1], None)]) <= 1


def test_the_hopper_bound_is_within_a_thousand_times_of_a_found_error_for_few_products() -> None:
    rng = np.random.default_rng(12)
    path = sq.datapaths()["hopper_fp8"].record
    for k in (1, 2, 4):
        pairs = [
            (*(numpy_array(e)(rng, 3, k, "plain", which) for which in "ab"), starting_values(rng, (3, 3)))
            for e in ("e4m3", "e5m2")
            for _ in range(20)
        ]  # fmt: skip
        assert worst(path, pairs) > 1 / 1000


def test_the_bound_of_any_order_is_within_a_few_times_of_a_chain_that_loses_every_term() -> None:
    for k in (2, 4, 8):
        a, b, _ = ones_and_half_ulps(k)
        exact, total = exact_sum(a.lines[0].decoded(), b.lines[0].decoded(), oracle.POSITIVE_ZERO)
        got = Fraction(float(matmul(a, b, datapath="fma32")[0, 0]))
        bound = float(any_order_bound(np.array([rounded_up(total)]), 0.0, k)[0])
        assert 0.1 < ratio_of(got - exact, bound) <= 1


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("datapath", sq.datapaths())
def test_all_of_the_magnitudes_in_one_part_of_k_is_the_worst(datapath: str, scaled: bool) -> None:
    """What a check rests on where it knows the sum of the magnitudes alone: bounds are convex in it."""
    rng = np.random.default_rng(len(datapath))
    path, element = sq.datapaths()[datapath].record, sq.elements()["e4m3"].record
    for _ in range(200):
        parts = int(rng.integers(2, 9))
        size = float(np.exp2(rng.uniform(-60, 60)))
        shares = rng.dirichlet(np.full(parts, rng.choice([0.05, 1.0, 20.0])))
        k, tops = int(rng.integers(1, 5000)), np.exp2(rng.uniform(-20, 20, 2))

        def bound(total: Array, k: int = k, tops: Array = tops) -> Array:
            a, b = (float(top) for top in tops)
            return datapath_bound(path, Problem(total, k, 7, element, element, a, b, scaled, a_scale=a, b_scale=b))

        worst = bound(np.array([size])) + (parts - 1) * bound(np.zeros(1))
        assert float(bound(size * shares).sum()) <= float(worst[0]) * (1 + 1e-12)
        fewer = bound(np.array([size]), max(1, k // 2))
        assert float(fewer[0]) <= float(bound(np.array([size]))[0]) * (1 + 1e-12)
