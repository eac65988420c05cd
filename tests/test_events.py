"""Counts of whole products: the reference adds up what `dot_trace`, in fractions, sees in each dot product."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import sparq_sim as sq
from conftest import Array, assert_same_bits, bits_of
from sparq_sim.compressed import Selection
from test_datapaths import (
    _TAKEN,
    MODELLED,
    STYLES,
    Side,
    drawn_chain,
    drawn_codes,
    drawn_machine,
    drawn_problem,
    drawn_starts,
    operand_names,
)

NAMES = ("truncated", "cancelled", "overflowed", "wrapped")
STARTS: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "int32": np.int32}


def traced_counts(machine: Any, a: Side, b: Side, c: Array | None, result: str) -> Array:
    """[M, N, 4] of the traces."""
    out = np.zeros((len(a.codes), len(b.codes), 4), np.int64)
    for i, j in np.ndindex(*out.shape[:2]):
        scales = {f"{n}_scales": x.scales[r] for n, x, r in (("a", a, i), ("b", b, j)) if x.scales is not None}
        start = None if c is None else c[i, j]
        trace = sq.dot_trace(
            a.codes[i], b.codes[j], start, datapath=machine, result=result, a_format=a.element, b_format=b.element,
            **scales,
        )  # fmt: skip
        out[i, j] = [trace.counts[name] for name in NAMES]
    return out


def of(events: sq.MatmulEvents) -> Array:
    return np.stack([np.asarray(getattr(events, name)) for name in NAMES], axis=-1)


def assert_counts(machine: Any, a: Side, b: Side, c: Array | None, result: str, about: object) -> Array:
    given: dict[str, Any] = {f"{n}_scales": x.scales for n, x in (("a", a), ("b", b)) if x.scales is not None}
    given |= {"a_format": a.element, "b_format": b.element, "datapath": machine, "c": c, "result": result}
    each, total = sq.MatmulEvents(per_output=True), sq.MatmulEvents()
    plain = sq.matmul(a.codes, b.codes, **given)
    for events in (each, total):
        counted = sq.matmul(a.codes, b.codes, events=events, threads=2, **given)
        assert_same_bits(bits_of(counted), bits_of(plain), about)
    wanted = traced_counts(machine, a, b, c, result)
    assert np.array_equal(of(each), wanted), about
    assert np.array_equal(of(total), wanted.sum((0, 1))), about
    return of(total)


@pytest.mark.parametrize("name", [*MODELLED, "exact", "fma32"])
def test_a_product_counts_what_its_traces_count(name: str) -> None:
    record = sq.datapaths()[name].record
    rng = np.random.default_rng(len(name))
    elements = ("fp16", "e4m3", "bf16") if name in ("exact", "fma32") else operand_names(record, name)
    seen = np.zeros(4, np.int64)
    for number, style in enumerate(STYLES):
        pair = (elements[number % len(elements)], elements[number // 2 % len(elements)])
        a, b = drawn_problem(rng, record, pair, style, 21 if record.presum == 1 else 80)
        for result in ("fp32", "fp16") if record.output == "fp32_or_fp16" else (record.output,):
            c = None
            if number % 2:
                c = drawn_starts(rng, (3, 3), result == "fp16", style).view(STARTS[result])
            seen += assert_counts(name, a, b, c, result, (name, pair, style, result))
    aligns = record.reduce == "align"
    assert seen[0] > 0 or not (aligns or record.reduce == "tree")
    assert seen[1] > 0
    if name.startswith("hbfp8"):
        assert seen[3] > 0


def drawn_other(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """A machine that does not align, with random fields."""
    rounding: dict[str, Any] = {
        "accumulator_fraction": int(rng.choice([23, 10, 3])), "accumulator_exponent_bits": int(rng.choice([8, 5])),
        "overflow": str(rng.choice(["infinity", "saturate"])),
    }  # fmt: skip
    integer = {
        "reduce": "integer", "integer_bits": int(rng.integers(6, 20)), "integer_tree": int(rng.integers(0, 4)),
        "integer_overflow": str(rng.choice(["wrap", "saturate"])),
    }  # fmt: skip
    return (
        {**integer, **rounding, "group": int(rng.integers(0, 6))},
        {**integer, "output": "int32", "block_scales": False},
        drawn_chain(rng, "tree"),
        drawn_chain(rng, "blocks"),
        drawn_chain(rng, "fma"),
        {"reduce": "exact"},
    )[number % 6]


def with_any_scales(rng: np.random.Generator, side: Side) -> Side:
    """Block scales of all sizes, the ends among them, some NaN."""
    k = side.codes.shape[1]
    block = int(rng.choice([n for n in (1, 3, 7, 21) if k % n == 0]))
    middle, spread = (127, int(rng.choice([4, 60, 127])))
    scales = np.clip(middle + rng.integers(-spread, spread + 1, (len(side.codes), k // block)), 0, 254)
    scales[rng.random(scales.shape) < 0.02] = 0xFF
    return Side(side.element, side.codes, scales.astype(np.uint8), block)


def test_machines_of_any_choices_and_scales_count_what_their_traces_count() -> None:
    rng, seen = np.random.default_rng(37), np.zeros(4, np.int64)
    for number in range(150):
        fields = drawn_machine(rng) if number % 2 else drawn_other(rng, number // 2)
        record = sq.Datapath(**fields)
        names = _TAKEN["integer"] if record.reduce == "integer" else _TAKEN["align"]
        pair = [str(rng.choice(names)) for _ in range(2)]
        a, b = (Side(n, drawn_codes(rng, n, (2, 21), STYLES[number % len(STYLES)])) for n in pair)
        if record.block_scales:
            a, b = with_any_scales(rng, a), with_any_scales(rng, b) if rng.integers(2) else b
        seen += assert_counts(record, a, b, None, record.output, (fields, pair))
    assert bool((seen > 0).all())


def test_counts_of_batches_are_those_of_their_products() -> None:
    rng = np.random.default_rng(1)
    a, b = (drawn_codes(rng, "e4m3", (n, 40), "wide") for n in (2 * 3 * 4, 2 * 5))
    x, y = a.reshape(2, 3, 4, 40), b.reshape(2, 1, 5, 40)
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": "hopper_fp8"}
    each, total = sq.MatmulEvents(per_output=True), sq.MatmulEvents()
    sq.matmul(x, y, events=each, **formats)
    sq.matmul(x, y, events=total, **formats)
    for i, j in np.ndindex(2, 3):
        own = sq.MatmulEvents(per_output=True)
        sq.matmul(x[i, j], y[i, 0], events=own, **formats)
        assert np.array_equal(of(each)[i, j], of(own))
    assert np.array_equal(of(each).sum((0, 1, 2, 3)), of(total)) and total.truncated > 0
    with pytest.raises(ValueError, match=r"counts of outputs \(2, 3, 4, 5\); this product has \(4, 5\)"):
        sq.matmul(x[0, 0], y[0, 0], events=each, **formats)
    before = of(total).copy()
    sq.matmul(x, y, events=total, **formats)
    assert np.array_equal(of(total), 2 * before)


@pytest.mark.parametrize("flipped", [False, True])
def test_gathered_and_stretched_products_count_the_same(flipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x, w = (np.exp2(rng.integers(-9, 3, (n, 64))).astype(np.float32) for n in (3, 5))
    w *= rng.choice([-1, 1], w.shape)
    sparse, dense = sq.encode(w, "fp8_e4m3", sparsity="2:4", scales=[1.0]), sq.encode(x, "fp8_e4m3", scales=[1.0])
    sides = (dense, sparse) if flipped else (sparse, dense)
    found = []
    for gathered in (False, True):
        if gathered:
            monkeypatch.setattr(Selection, "product", Selection.gathered)
        each, total = sq.MatmulEvents(per_output=True), sq.MatmulEvents()
        for events in (each, total):
            sq.matmul(*sides, datapath="hopper_fp8", compressed="b" if flipped else "a", events=events)
        assert np.array_equal(of(each).sum((0, 1)), of(total)) and of(total)[0] > 0
        found.append(of(each))
    assert np.array_equal(found[0], found[1])


def test_parts_count_by_themselves_and_where_they_meet() -> None:
    rng = np.random.default_rng(3)
    a, b = (drawn_codes(rng, "e4m3", (n, 64), "wide") for n in (2, 3))
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": "hopper_fp8"}
    apart, met = sq.MatmulEvents(), sq.MatmulEvents()
    for part in (slice(0, 32), slice(32, 64)):
        sq.matmul(a[:, part], b[:, part], events=apart, **formats)
    sq.matmul(a, b, split_k=2, events=met, **formats)
    assert apart == met and met.truncated > 0
    large = np.float32([[2.0**100, 2.0**127, 1]])
    each, total = sq.MatmulEvents(per_output=True), sq.MatmulEvents()
    for events in (each, total):
        # 2^127 + 2^127 is Inf, and Inf + 1 is no new one.
        sq.matmul(large, np.float32([[2.0**27, 1, 1]]), datapath="fma32", split_k=sq.SplitK(length=1), events=events)
    assert total.overflowed == 1 and each.overflowed.tolist() == [[1]]
    narrow = sq.MatmulEvents()
    sq.matmul(np.float32([[70000]]), np.float32([[1]]), split_k=sq.SplitK(1, precision="fp16"), events=narrow)
    assert narrow.overflowed == 1


def test_counts_worked_out_by_hand() -> None:
    """Of one product each: the definition's own cases."""
    machine = sq.datapath_from_dict({"reduce": "integer", "integer_bits": 8, "integer_tree": 1})
    events = sq.MatmulEvents()
    sq.matmul(np.int8([[100, 100, 1]]), np.int8([[1, 1, -56]]), datapath=machine, events=events)
    # 100, 200 wraps to -56, -112: the sum is no less than half of 100.
    assert of(events).tolist() == [0, 0, 0, 1]
    tree = sq.MatmulEvents()
    sq.matmul(np.float32([[1 + 2**-23, -1]]), np.float32([[1 + 2**-23, 1]]), datapath="tree32", events=tree)
    assert of(tree).tolist() == [1, 1, 0, 0]  # the square is rounded; 2^-22 is left of 1
    scaled = sq.MatmulEvents()
    one = np.ones((1, 1), np.uint8)
    sq.matmul(
        one, one, a_format="int8", b_format="int8", a_scales=np.float32([3]), b_tensor_scale=2.0, datapath="fma32",
        events=scaled,
    )  # fmt: skip
    assert of(scaled).tolist() == [0, 0, 0, 0]


def test_counts_are_asked_for_by_an_object_of_theirs() -> None:
    x = np.ones((1, 2), np.float16)
    with pytest.raises(TypeError, match="events: needed a MatmulEvents object, got Events"):
        sq.matmul(x, x, events=sq.Events())  # type: ignore[arg-type]
    empty = sq.MatmulEvents(per_output=True)
    sq.matmul(np.ones((2, 0), np.float16), np.ones((3, 0), np.float16), events=empty)
    assert of(empty).shape == (2, 3, 4) and not of(empty).any()


@pytest.mark.parametrize(("name", "dtype"), [("cdna3_16", ml_dtypes.bfloat16), ("cdna3_xf32", np.float32)])
def test_products_that_are_too_large_are_counted_each(name: str, dtype: Any) -> None:
    a = np.array([[2.0**100, 1, -(2.0**100), 2.0**60]], dtype)
    b = np.array([[2.0**28, 1, 2.0**27, 2.0**67], [2.0**28, 1, 2.0**28, 2.0**68]], dtype)
    events = sq.MatmulEvents(per_output=True)
    got = sq.matmul(a, b, datapath=name, events=events)
    assert np.isinf(got[0, 0]) and np.isnan(got[0, 1])
    assert events.overflowed.tolist() == [[1, 3]]
