"""error_bound and accumulator_width: what they promise, by search."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparq_sim as sq


@pytest.mark.parametrize(
    ("name", "bits"),
    [("e2m1", 8), ("e2m3", 12), ("e3m2", 18), ("e4m3", 36), ("e5m2", 64), ("fp16", 80), ("bf16", 522)],
)
def test_the_width_of_one_product_is_that_of_its_digits(name: str, bits: int) -> None:
    width = sq.accumulator_width(name, name, 1)
    assert width.bits == bits + 1  # and a sign
    assert width.largest == Fraction(sq.elements()[name].record.value(sq.elements()[name].record.max_code)) ** 2


@pytest.mark.parametrize(
    ("a", "b", "k"),
    [("int8", "int8", 64), ("int4", "int8", 33), ("e2m1", "e2m1", 16), ("hbfp8_element", "hbfp4_element", 5)],
)
def test_one_bit_less_overflows_and_the_width_does_not(a: str, b: str, k: int) -> None:
    """The extreme sums of all codes."""
    width = sq.accumulator_width(a, b, k)
    values = {
        n: [Fraction(r.value(c)) for c in range(1 << r.code_bits)] for n in (a, b) for r in [sq.elements()[n].record]
    }
    products = [x * y / Fraction(2) ** width.unit_exponent for x in values[a] for y in values[b]]
    assert all(p.denominator == 1 for p in products) and any(p.numerator % 2 for p in products)
    low, high = k * min(products), k * max(products)
    assert -(2 ** (width.bits - 1)) <= low and high <= 2 ** (width.bits - 1) - 1
    assert low < -(2 ** (width.bits - 2)) or high > 2 ** (width.bits - 2) - 1
    assert width.largest == max(-low, high) * Fraction(2) ** width.unit_exponent


def test_an_integer_machine_of_that_width_never_wraps_and_a_narrower_one_does() -> None:
    k = 40
    bits = sq.accumulator_width("int8", "int8", k).bits
    lowest = np.full((1, k), -128, np.int8)
    machines = [sq.Datapath(reduce="integer", integer_bits=n) for n in (bits, bits - 1)]
    assert [float(sq.matmul(lowest, lowest, datapath=m)[0, 0]) == k * 128 * 128 for m in machines] == [True, False]


def test_scales_of_any_blocks_widen_an_accumulator() -> None:
    plain, scaled = sq.accumulator_width("e2m1", "e2m1", 32), sq.accumulator_width("e2m1", "e2m1", 32, scales="e8m0")
    assert scaled.bits - plain.bits == 508 and scaled.unit_exponent == plain.unit_exponent - 254
    with pytest.raises(ValueError, match="powers of two"):
        sq.accumulator_width("e2m1", "e2m1", 32, scales="ue4m3")
    with pytest.raises(ValueError, match="at least one"):
        sq.accumulator_width("e2m1", "e2m1", 0)


@pytest.mark.parametrize(
    "name", ["exact", "fma32", "block_fp32", "hopper_fp8", "ada_fp8_promoted", "mxdotp", "cdna3_fp8"]
)
def test_no_operands_exceed_their_bound_nor_that_of_their_formats(name: str) -> None:
    record = sq.datapaths()[name].record
    element = "e4m3fnuz" if name == "cdna3_fp8" else "e4m3"
    rng, k = np.random.default_rng(4), 256
    values = np.array([sq.elements()[element].record.value(code) for code in range(256)])
    codes = [rng.choice(np.flatnonzero(np.isfinite(values)), (12, k)).astype(np.uint8) for _ in range(2)]
    c = rng.standard_normal((12, 12)).astype(np.float32)
    formats = {"a_format": element, "b_format": element, "datapath": record}
    # E4M3 products are multiples of 2^-20 below 2^18: their sums are exact in float64.
    exact = values[codes[0]] @ values[codes[1]].T
    for start in (None, c):
        got = sq.matmul(*codes, c=start, **formats).astype(np.float64)
        error = np.abs(got - (exact + (0 if start is None else start.astype(np.float64))))
        bound = sq.error_bound(*codes, c=start, **formats)
        assert bound.shape == (12, 12) and bool((error <= bound * (1 + 2.0**-40)).all())
    worst = sq.error_bound(element, element, datapath=record, k=k)
    assert bool((np.abs(sq.matmul(*codes, **formats) - exact) <= worst).all())
    assert bool((sq.error_bound(*codes, **formats) <= worst).all())


def test_scaled_operands_have_bounds_too() -> None:
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((5, 96)).astype(np.float32), rng.standard_normal((4, 96)).astype(np.float32)
    a, b = sq.encode(x, "mxfp8"), sq.encode(w, "mxfp8")
    exact = a.decode("float64") @ b.decode("float64").T
    for machine in ("block_fp32", "blackwell_mxf8"):
        bound = sq.error_bound(a, b, datapath=machine)
        assert bool((np.abs(sq.matmul(a, b, datapath=machine) - exact) <= bound + 1e-12).all())
        assert float(np.max(bound)) < 1e-3


def test_bounds_of_what_has_none_are_refused() -> None:
    x = np.ones((2, 4), np.float16)
    for call in (
        lambda: sq.error_bound("e4m3", "e4m3", datapath="exact"),
        lambda: sq.error_bound("e4m3", x, datapath="exact", k=4),
        lambda: sq.error_bound(x, x, datapath="exact", k=4),
        lambda: sq.error_bound(x, x[:, :3], datapath="exact"),
        lambda: sq.error_bound(x * np.inf, x, datapath="exact"),
        lambda: sq.error_bound(x, x, datapath="exact", a_scales=np.float32([1, 1])),
    ):
        with pytest.raises(ValueError):
            call()


ORDERS: tuple[tuple[str, ...], ...] = (("alpha", "beta", "bias"), ("bias", "alpha", "beta"))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_nothing_around_a_machine_exceeds_its_bound(data: st.DataObject) -> None:
    """Split-K, compressed operands, epilogues and outputs, one after the other or together."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    name = draw(
        st.sampled_from(("exact", "fma32", "tree32", "block_fp32", "hopper_fp8", "hopper_fp8_promoted", "mxdotp"))
    )
    k, wide = draw(st.sampled_from((4, 64, 100, 256))), draw(st.booleans())
    low, high = (1, 0x60) if wide else (0x30, 0x40)
    codes = [(rng.integers(low, high, (3, k)) | rng.choice([0, 0x80], (3, k))).astype(np.uint8) for _ in range(2)]
    table = np.array([sq.elements()["e4m3"].record.value(code) for code in range(256)])
    operands: list[Any] = list(codes)
    values = [table[x] for x in codes]
    keywords: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": name}
    side = draw(st.sampled_from((None, "a", "b")))
    if side is not None:
        which = "ab".index(side)
        plain = sq.spec(sq.Format("e4m3", sq.elements()["e4m3"].record, (), source="tests"))
        operands[which] = sq.encode(values[which].astype(np.float32), plain, sparsity="2:4")
        values[which] = operands[which].decode("float64")
        keywords |= {f"{side}_format": None, "compressed": side}
    if draw(st.booleans()):
        order, precision = draw(st.sampled_from(("ascending", "tree"))), draw(st.sampled_from(("fp32", "bf16", "fp16")))
        keywords["split_k"] = sq.SplitK(length=draw(st.sampled_from((8, 32, 50))), order=order, precision=precision)
    alpha, beta, source, bias = 1.0, 0.0, np.zeros((3, 3), np.float32), np.zeros((1, 3), np.float32)
    if draw(st.booleans()):
        alpha, beta = draw(st.sampled_from((1.0, -0.375, 2.0**-8))), draw(st.sampled_from((0.0, -1.5)))
        source, bias = (rng.standard_normal(x.shape).astype(np.float32) * np.float32(4) for x in (source, bias))
        keywords["epilogue"] = sq.Epilogue(
            alpha, beta, source, bias, precision=draw(st.sampled_from(("fp32", "bf16", "fp16"))),
            order=draw(st.sampled_from(ORDERS)), fused=draw(st.booleans()),
        )  # fmt: skip
    if draw(st.booleans()):
        keywords["output"] = draw(st.sampled_from(("bf16", "fp16", "e5m2")))
    c = rng.standard_normal((3, 3)).astype(np.float32) if draw(st.booleans()) else None
    got = sq.matmul(*operands, c=c, **keywords)
    number = sq.elements()[keywords["output"]].record.value if "output" in keywords else None
    bound = sq.error_bound(*operands, c=c, **keywords)
    assert bound.shape == (3, 3)
    for i, j in np.ndindex(3, 3):
        exact = sum((Fraction(x) * Fraction(y) for x, y in zip(values[0][i], values[1][j], strict=True)), Fraction(0))
        exact += 0 if c is None else Fraction(float(c[i, j]))
        exact = Fraction(alpha) * exact + Fraction(beta) * Fraction(float(source[i, j])) + Fraction(float(bias[0, j]))
        made = float(got[i, j]) if number is None else number(int(got.view(f"u{got.itemsize}")[i, j]))
        if math.isfinite(made) and abs(made) < 50000:  # where nothing overflowed, e5m2 saturates beyond
            assert abs(Fraction(made) - exact) <= Fraction(float(bound[i, j])), (keywords, i, j)


def test_the_bounds_of_what_is_around_a_machine_are_near_to_errors_that_are_found() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.uniform(1, 2, (40, 4)).astype(np.float16) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    for keywords in (
        {"split_k": sq.SplitK(4, precision="bf16")},
        {"split_k": sq.SplitK(4, order="tree", precision="fp16")},
        {"epilogue": sq.Epilogue(precision="bf16")},
        {"output": "fp16"},
        {"output": "e5m2"},
    ):
        got = np.asarray(sq.matmul(a, b, **keywords)).astype(np.float64)  # type: ignore[arg-type]
        bound = sq.error_bound(a, b, datapath="exact", **keywords)  # type: ignore[arg-type]
        assert 1 / 10 < float(np.max(np.abs(got - exact) / bound)) <= 1, keywords


def test_bounds_of_formats_know_what_is_around_a_machine() -> None:
    formats: Any = {"datapath": "hopper_fp8", "k": 256}
    whole = sq.error_bound("e4m3", "e4m3", **formats)
    assert sq.error_bound("e4m3", "e4m3", split_k=sq.SplitK(length=64), **formats) < whole
    assert sq.error_bound("e4m3", "e4m3", epilogue=sq.Epilogue(alpha=2.0), **formats) > 2 * whole
    assert sq.error_bound("e4m3", "e4m3", output="bf16", **formats) > whole
    promoted = sq.error_bound("e4m3", "e4m3", datapath="hopper_fp8_promoted", k=256)
    parts = sq.error_bound("e4m3", "e4m3", split_k=sq.SplitK(length=128), **formats)
    assert parts <= promoted * 1.01
    for keywords, words in (
        ({"output": "mxfp4"}, "without scales, pattern"),
        ({"compressed": "a"}, "what the machine counts"),
        ({"output": sq.spec("bf16", subnormals="flush")}, "with its subnormals"),
    ):
        with pytest.raises(ValueError, match=words):
            sq.error_bound("e4m3", "e4m3", **formats, **keywords)
    with pytest.raises(TypeError, match="needed an Epilogue"):
        sq.error_bound("e4m3", "e4m3", epilogue=2, **formats)


@pytest.mark.parametrize("k", [0, 1.5, "3", True])
def test_numbers_of_products_that_are_none_are_refused(k: Any) -> None:
    for ask in (
        lambda: sq.error_bound("e4m3", "e4m3", datapath="exact", k=k),
        lambda: sq.accumulator_width("e4m3", "e4m3", k),
    ):
        with pytest.raises(ValueError, match="needed at least one product"):
            ask()


def test_a_bound_is_of_operands_that_the_machine_takes() -> None:
    with pytest.raises(ValueError, match="this datapath does not take"):
        sq.error_bound("fp32", "fp32", datapath="hopper_fp8", k=4)
