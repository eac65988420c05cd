"""error_bound and accumulator_width: what they promise, by search."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

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
