"""Split-K: parts from `machines.py`, met in exact fractions (docs/numerics.md section 10)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import oracle
import sparq_sim as sq
from conftest import ISAS, Array, assert_same_bits, bits_of, forced_isa
from machines import Line, machine_dot
from oracle import ELEMENTS, FP32, Number
from test_datapaths import drawn_codes, drawn_starts

E8M0 = ELEMENTS["e8m0"]
ZERO = oracle.POSITIVE_ZERO


def narrowed(value: Number, precision: str) -> Number:
    element = ELEMENTS[precision]
    return oracle.decode(element, oracle.round_to_code(element, oracle.rn32(value), "nearest_even", "special"))


def met(sums: list[int], c: int | None, order: str | tuple[int, ...], precision: str, nan: int) -> int:
    """Bits of the total of float32 sums."""
    parts = [narrowed(oracle.decode(FP32, bits), precision) for bits in sums]

    def add(x: Number, y: Number) -> Number:
        return narrowed(oracle.fused_sum(x, y), precision)

    def tree(some: list[Number]) -> Number:
        half = len(some) // 2
        return some[0] if len(some) == 1 else add(tree(some[:half]), tree(some[half:]))

    total = ZERO if c is None else narrowed(oracle.decode(FP32, c), precision)
    numbers = order if isinstance(order, tuple) else range(len(parts))
    for part in [tree(parts)] if order == "tree" else [parts[number] for number in numbers]:
        total = add(total, part)
    return nan if total.kind == "nan" else oracle.round_to_float(total)


CASES: list[tuple[str, str, int, int, dict[str, Any]]] = [
    # machine, element, K, the length of a part that follows, and what is asked for
    ("hopper_fp8", "e4m3", 70, 32, {"parts": 3}),
    ("hopper_fp8", "e5m2", 70, 64, {"parts": 2, "order": (1, 0)}),
    ("ada_fp8", "e4m3", 70, 16, {"parts": 5, "order": "tree"}),
    ("hopper_16", "fp16", 50, 7, {"length": 7}),
    ("hopper_fp8_mma_sync", "e4m3", 70, 64, {"parts": 2, "precision": "bf16"}),
    ("hopper_fp8_promoted", "e4m3", 300, 160, {"parts": 2}),
    ("cdna3_fp8", "e4m3fnuz", 40, 16, {"parts": 3, "precision": "fp16", "order": "tree"}),
    ("cdna2_16", "bf16", 22, 8, {"parts": 3}),
    ("mxdotp", "e4m3", 24, 8, {"parts": 3, "order": (2, 0, 1)}),
    ("block_fp32", "e2m1", 24, 12, {"length": 12}),
    ("hbfp8_saturate", "hbfp8_element", 24, 8, {"length": 8}),
    ("blackwell_mxf8", "e4m3", 64, 32, {"parts": 2}),
    ("tree32", "fp16", 20, 5, {"parts": 4, "order": "tree"}),
    ("tree32", "fp32", 21, 3, {"parts": 7, "order": "tree"}),
    ("tree32", "fp32", 21, 3, {"parts": 7}),
]


@pytest.mark.parametrize(("name", "element", "k", "length", "fields"), CASES)
def test_parts_are_added_by_the_machine_and_met_as_stated(
    name: str, element: str, k: int, length: int, fields: dict[str, Any]
) -> None:
    record, split = sq.datapaths()[name].record, sq.SplitK(**fields)
    rng = np.random.default_rng(k + length)
    a, b = (drawn_codes(rng, element, (2, k), "near") for _ in range(2))
    scaled = record.block_scales and record.reduce != "tree"
    scales = [rng.integers(120, 135, (2, k // 4)).astype(np.uint8) if scaled else None for _ in range(2)]
    c = drawn_starts(rng, (2, 2), False, "near")
    words = record.to_dict()
    for start in (None, c):
        wanted = np.zeros((2, 2), np.uint32)
        for i, j in np.ndindex(2, 2):
            sums = []
            for begin in range(0, k, length):
                lines = []
                for codes, own, row in ((a, scales[0], i), (b, scales[1], j)):
                    part = None if own is None else own[row, begin // 4 : -(-min(begin + length, k) // 4)].tolist()
                    line = codes[row, begin : begin + length].tolist()
                    lines.append(Line(ELEMENTS[element], line, part, 4 if scaled else 0, E8M0 if scaled else None))
                sums.append(machine_dot(words, lines[0], lines[1]))
            own_c = None if start is None else int(start[i, j])
            wanted[i, j] = met(sums, own_c, split.order, split.precision, record.nan_bits)
        for isa in ISAS:
            with forced_isa(isa):
                got = sq.matmul(
                    a, b, datapath=name, split_k=split, a_format=element, b_format=element, a_scales=scales[0],
                    b_scales=scales[1], c=None if start is None else start.view(np.float32),
                )  # fmt: skip
            assert_same_bits(bits_of(got), wanted, (name, isa))


def random_codes(rng: np.random.Generator, rows: int, k: int) -> Array:
    return rng.integers(0, 0x7C, (rows, k)).astype(np.uint8) | rng.integers(0, 2, (rows, k)).astype(np.uint8) << 7


def test_parts_of_128_are_the_chunks_of_a_promoted_machine(isa: str) -> None:
    """With c, with scales that multiply the result, in batches."""
    rng = np.random.default_rng(1)
    a, b = random_codes(rng, 2 * 5, 700).reshape(2, 5, 700), random_codes(rng, 4, 700)
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3"}
    c = rng.standard_normal((2, 5, 4)).astype(np.float32)
    scales = {
        "a_scales": rng.uniform(0.5, 2, (2, 5)).astype(np.float32),
        "b_tensor_scale": 0.75,
        "a_tensor_scale": 1.25,
    }
    scales["a_scales"][0, 0] = np.nan
    for given in ({"c": c}, {}, scales, {"b_scales": scales["a_scales"][1, :4]}):
        wanted = sq.matmul(a, b, datapath="hopper_fp8_promoted", **formats, **given)
        got = sq.matmul(a, b, datapath="hopper_fp8", split_k=sq.SplitK(length=128), **formats, **given)
        assert_same_bits(got, wanted)


def test_scales_are_cut_where_parts_are_and_tensor_scales_come_last(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal((rows, 30)).astype(np.float32) for rows in (3, 4))
    for format, block in (("mxfp8", 4), ("int8", "row"), ("nvfp4", 16)):
        a, b = (sq.encode(v, format, block=block) for v in (x, w))
        got = sq.matmul(a, b, split_k=sq.SplitK(length=11))  # decoded operands have all their scales
        total = np.zeros((3, 4), np.float32)
        for begin in range(0, 30, 11):
            sides = [np.ascontiguousarray(tensor.decode()[:, begin : begin + 11]) for tensor in (a, b)]
            total = total + sq.matmul(*sides)
        assert_same_bits(got, total, format)
    a, b = sq.encode(x, "fp8_e4m3"), sq.encode(w, "fp8_e4m3")
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": "block_fp32", "split_k": 3}
    plain = sq.matmul(a.codes, b.codes, **formats)
    assert a.tensor_scale is not None and b.tensor_scale is not None
    factor = np.float32(a.tensor_scale) * np.float32(b.tensor_scale)
    assert_same_bits(sq.matmul(a, b, datapath="block_fp32", split_k=3), plain * factor)


def test_a_half_result_is_rounded_once_the_parts_have_met(isa: str) -> None:
    a, b = np.full((1, 64), 0x3C, np.uint8), np.full((1, 64), 0x35, np.uint8)
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": "hopper_fp8", "result": "fp16"}
    parts = [sq.matmul(a[:, s], b[:, s], **formats) for s in (slice(0, 32), slice(32, 64))]
    got = sq.matmul(a, b, split_k=2, **formats)
    wanted = (parts[0].astype(np.float32) + parts[1].astype(np.float32)).astype(np.float16)
    assert got.dtype == np.float16 and np.array_equal(got, wanted)


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize(("bits", "order"), [(32, "ascending"), (14, "ascending"), (14, (2, 0, 1)), (13, "tree")])
def test_parts_of_integers_meet_in_the_integers_of_the_machine(overflow: str, bits: int, order: Any, isa: str) -> None:
    """Where they wrap, the parts change nothing; where they saturate, it is told where."""
    rng = np.random.default_rng(4)
    record = sq.Datapath(
        reduce="integer", output="int32", integer_bits=bits, integer_overflow=overflow, integer_tree=1,
        block_scales=False,
    )  # fmt: skip
    a, b = (rng.integers(-128, 128, (n, 23)).astype(np.int8) for n in (3, 4))
    c = rng.integers(-(2**31), 2**31, (3, 4)).astype(np.int32)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    wraps = 0

    def fit(value: int) -> int:
        nonlocal wraps
        wraps += not low <= value <= high
        kept = min(max(value, low), high)
        return kept if overflow == "saturate" else (value - low) % (1 << bits) + low

    wanted = np.zeros((3, 4), np.int64)
    for i, j in np.ndindex(3, 4):
        parts = []
        for begin in (0, 8, 16):
            total = 0
            for x, y in zip(a[i, begin : begin + 8].tolist(), b[j, begin : begin + 8].tolist(), strict=True):
                total = fit(total + x * y)
            parts.append(total)
        total = fit(int(c[i, j]))
        if order == "tree":
            parts = [fit(parts[0] + fit(parts[1] + parts[2]))]
        elif isinstance(order, tuple):
            parts = [parts[number] for number in order]
        for part in parts:
            total = fit(total + part)
        wanted[i, j] = total
    events, split = sq.MatmulEvents(), sq.SplitK(length=8, order=order)
    got = sq.matmul(a, b, c=c, datapath=record, split_k=split, events=events)
    assert got.dtype == np.int32 and np.array_equal(got, wanted), (bits, order)
    assert np.array_equal(sq.matmul(a, b, c=c, datapath=record, split_k=split), wanted)
    assert events.wrapped == wraps and (wraps > 0 or bits == 32)
    if overflow == "wrap":
        assert np.array_equal(got, sq.matmul(a, b, c=c, datapath=record))
    trace = sq.dot_trace(a[0], b[0], int(c[0, 0]), datapath=record, split_k=split)
    assert trace.result == wanted[0, 0] == trace.steps[-1].result


def test_one_part_is_the_machine_itself_but_for_the_place_of_c(isa: str) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((4, 50)).astype(ml_dtypes.bfloat16) for _ in range(2))
    assert_same_bits(sq.matmul(a, b, datapath="hopper_16", split_k=1), sq.matmul(a, b, datapath="hopper_16"))
    empty = np.ones((2, 0), np.float32)
    c = np.float32([[1, -0.0], [2, 3]])
    assert_same_bits(sq.matmul(empty, empty, c=c, split_k=4), c)


@pytest.mark.parametrize(
    ("error", "words", "fields"),
    [
        (ValueError, "needed one of parts= and length=", {}),
        (ValueError, "needed one of parts= and length=", {"parts": 2, "length": 4}),
        (ValueError, "parts=0: needed a positive integer", {"parts": 0}),
        (ValueError, "length=1.5: needed a positive integer", {"length": 1.5}),
        (ValueError, "order='serial': choose one of ascending, tree", {"parts": 2, "order": "serial"}),
        (ValueError, r"order=\(0, 2\): needed every part once", {"parts": 2, "order": (0, 2)}),
        (ValueError, "precision='fp8': choose one of fp32, bf16, fp16", {"parts": 2, "precision": "fp8"}),
    ],
)
def test_splits_that_mean_nothing_are_refused(error: Any, words: str, fields: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        sq.SplitK(**fields)


def test_splits_that_do_not_fit_a_product_are_refused() -> None:
    x, codes = np.ones((2, 8), np.float32), np.ones((2, 8), np.int8)
    with pytest.raises(TypeError, match="split_k: needed a SplitK or a number of parts, got str"):
        sq.matmul(x, x, split_k="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"order=\(1, 0\): K = 8 has 3 parts of 3"):
        sq.matmul(x, x, split_k=sq.SplitK(3, order=(1, 0)))
    with pytest.raises(ValueError, match="precision='bf16': parts of int32 meet in integers"):
        sq.matmul(codes, codes, datapath="int8_int32", split_k=sq.SplitK(2, precision="bf16"))
    scales: dict[str, Any] = {"a_format": "int8", "b_format": "int8", "a_tensor_scale": 0.5}
    raw = codes.view(np.uint8)
    with pytest.raises(ValueError, match="c needs operands whose scales are applied before it"):
        sq.matmul(raw, raw, c=np.ones((2, 2), np.float32), datapath="block_fp32", split_k=2, **scales)
    fours = np.full((2, 64), 2, np.uint8)
    with pytest.raises(ValueError, match="multiples of the 16 products"):
        sq.matmul(
            fours, fours, a_format="e2m1", b_format="e2m1", datapath="blackwell_mxf4", split_k=sq.SplitK(length=24),
            a_scales=np.full((2, 2), 127, np.uint8), b_scales=np.full((2, 2), 127, np.uint8),
        )  # fmt: skip
