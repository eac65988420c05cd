"""dot_trace: its steps, carried out in fractions, lead to what the machine computes."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparq_sim as sq
from test_datapaths import (
    _TAKEN,
    MODELLED,
    STYLES,
    Side,
    drawn_codes,
    drawn_machine,
    drawn_problem,
    drawn_starts,
    operand_names,
)
from test_events import NAMES, drawn_other, with_any_scales

STARTS = {"fp32": np.float32, "fp16": np.float16}


def traced(machine: Any, a: Side, b: Side, c: Any, result: str | None = None) -> sq.DotTrace:
    scales = {f"{side}_scales": x.scales[0] for side, x in (("a", a), ("b", b)) if x.scales is not None}
    formats = {"a_format": a.element, "b_format": b.element}
    return sq.dot_trace(a.codes[0], b.codes[0], c, datapath=machine, result=result, **formats, **scales)


def assert_it_adds_up(trace: sq.DotTrace, about: object) -> None:
    reached = trace.steps[-1].result
    assert reached == trace.result or (math.isnan(reached) and math.isnan(trace.result)), about
    for step in trace.steps:
        kept = [term.kept for term in step.terms]
        sums = trace.datapath.reduce in ("align", "blocks", "exact", "fma") and step.what == "step"
        parts = (*kept, step.start_kept, step.sum)
        if sums and trace.datapath.start != "late_floor" and all(isinstance(value, Fraction) for value in parts):
            assert sum(kept, Fraction(0)) + Fraction(step.start_kept) == step.sum, about
        assert all(term.value == term.kept + term.lost for term in step.terms if isinstance(term.kept, Fraction))
    json.dumps(trace.to_dict(), allow_nan=False)
    assert str(trace).count("\n") >= len(trace.steps)


@pytest.mark.parametrize("name", [*MODELLED, "exact", "fma32"])
def test_the_steps_of_every_machine_lead_to_its_result(name: str) -> None:
    record = sq.datapaths()[name].record
    rng = np.random.default_rng(len(name))
    elements = ("fp16", "e4m3", "bf16") if name in ("exact", "fma32") else operand_names(record, name)
    for number, style in enumerate(STYLES):
        pair = (elements[number % len(elements)], elements[number // 2 % len(elements)])
        k = int(rng.choice([1, 7, 40])) if record.presum == 1 else 80
        plain = record.reduce in ("exact", "fma", "tree")
        if plain:
            a, b = (Side(n, drawn_codes(rng, n, (1, k), style)) for n in pair)
        else:
            a, b = drawn_problem(rng, record, pair, style, k)
        results = ("fp32", "fp16") if record.output == "fp32_or_fp16" else (record.output,)
        for result in results:
            c: Any = None
            if number % 2 and result == "int32":
                c = int(rng.integers(-(2**31), 2**31))
            elif number % 2:
                c = drawn_starts(rng, (1, 1), result == "fp16", style).view(STARTS[result])[0, 0]
            assert_it_adds_up(traced(name, a, b, c, result), (name, pair, style, k, result, c))


def test_the_steps_of_machines_of_any_choices_lead_to_their_results() -> None:
    rng = np.random.default_rng(31)
    for number in range(160):
        record = sq.Datapath(**(drawn_machine(rng) if number % 2 else drawn_other(rng, number // 2)))
        names = _TAKEN["integer"] if record.reduce == "integer" else _TAKEN["align"]
        pair = [str(rng.choice(names)) for _ in range(2)]
        a, b = (Side(n, drawn_codes(rng, n, (1, 21), STYLES[number % len(STYLES)])) for n in pair)
        if record.block_scales:
            a, b = with_any_scales(rng, a), with_any_scales(rng, b) if rng.integers(2) else b
        assert_it_adds_up(traced(record, a, b, None), (record, pair))
    for overflow in ("wrap", "saturate"):
        record = sq.Datapath(reduce="integer", integer_bits=12, integer_tree=2, integer_overflow=overflow)
        a, b = drawn_problem(np.random.default_rng(31), record, ("int8", "int8"), "huge", 32)
        trace = traced(record, a, b, 1.5)
        assert_it_adds_up(trace, overflow)
        assert trace.counts["wrapped"] > 0


def test_a_trace_counts_what_happened() -> None:
    codes = np.uint8([0x38, 0x04, 0x04])
    minus = np.uint8([0xB8, 0x84, 0x04])
    formats = {"a_format": "e4m3", "b_format": "e4m3", "datapath": "hopper_fp8"}
    assert sq.dot_trace(codes, codes, **formats).counts["truncated"] == 2
    cancelled = sq.dot_trace(np.uint8([0x38, 0x38, 0x08]), np.uint8([0x38, 0xB8, 0x38]), **formats)
    assert cancelled.counts == {"truncated": 0, "cancelled": 1, "overflowed": 0, "wrapped": 0}
    large = sq.dot_trace(np.uint8([0x7E] * 32), np.uint8([0x7E] * 32), 3.0e38, **formats)
    assert large.counts["overflowed"] == 0 and large.result == float(np.float32(large.result))
    half = sq.dot_trace(np.uint8([0x7E] * 32), np.uint8([0x7E] * 32), result="fp16", **formats)
    assert half.result == math.inf and half.counts["overflowed"] == 1 and half.bits == 0x7C00
    assert sq.dot_trace(codes, minus, **formats).steps[0].terms[1].lost == Fraction(-1, 1 << 14)


def test_a_trace_is_of_one_line_without_float_scales() -> None:
    x = np.ones((2, 4), np.float16)
    with pytest.raises(ValueError, match="2 lines"):
        sq.dot_trace(x, x[0], datapath="hopper_16")
    with pytest.raises(ValueError, match="float scales"):
        sq.dot_trace(x[0], x[0], datapath="hopper_16", a_scales=np.float32([2]))
    tensor = sq.encode(np.float32([[1, 2, 3, 4]]), "mxfp8")
    assert sq.dot_trace(tensor, tensor, datapath="blackwell_mxf8").result == 30


def same(x: float, y: float) -> bool:
    return x == y or (math.isnan(x) and math.isnan(y))


MACHINES = ("hopper_fp8", "hopper_fp8_promoted", "ada_fp8", "hopper_fp8_mma_sync", "mxdotp", "exact", "fma32", "tree32")


@st.composite
def around(draw: st.DrawFn) -> dict[str, Any]:
    """What `matmul` does around a machine."""
    given: dict[str, Any] = {"datapath": draw(st.sampled_from(MACHINES))}
    halves = given["datapath"] in ("hopper_fp8", "ada_fp8")
    given["result"] = draw(st.sampled_from(("fp32", "fp16"))) if halves else None
    if draw(st.booleans()):
        length, precision = draw(st.sampled_from((8, 32, 40))), draw(st.sampled_from(("fp32", "bf16", "fp16")))
        order = draw(st.sampled_from(("ascending", "tree")))
        given["split_k"] = sq.SplitK(length=length, order=order, precision=precision)
    if draw(st.booleans()):
        terms = draw(st.permutations(("alpha", "beta", "bias")))
        source, bias = (np.float32([[draw(st.floats(width=32))]]) for _ in range(2))
        given["epilogue"] = sq.Epilogue(
            alpha=draw(st.sampled_from((1.0, -0.375, 2.0**12))), beta=draw(st.sampled_from((0.0, 1.5))), source=source,
            bias=draw(st.sampled_from((bias, None))), precision=draw(st.sampled_from(("fp32", "bf16", "fp16"))),
            order=tuple(terms), fused=draw(st.booleans()),
        )  # fmt: skip
    if draw(st.booleans()):
        given["output"] = draw(st.sampled_from(("bf16", "e5m2", "fp16", "mxfp8_e5m2")))
    given["compressed"] = draw(st.sampled_from((None, "a", "b")))
    return given


def plain_e4m3() -> sq.Spec:
    """e4m3 without a scale."""
    return sq.spec(sq.Format("e4m3", sq.elements()["e4m3"].record, (), source="tests"))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(around(), st.integers(0, 2**32 - 1), st.sampled_from((1, 31, 64, 96)), st.sampled_from(STYLES))
def test_a_trace_with_everything_around_a_machine_has_the_bits_of_matmul(
    given: dict[str, Any], seed: int, k: int, style: str
) -> None:
    rng = np.random.default_rng(seed)
    operands: list[Any] = [drawn_codes(rng, "e4m3", (1, k), style) for _ in range(2)]
    half = given["result"] == "fp16"
    c = drawn_starts(rng, (1, 1), half, style).view(np.float16 if half else np.float32) if rng.integers(2) else None
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3"}
    if given["compressed"] is not None:
        which = "ab".index(given["compressed"])
        values = np.float32([[sq.elements()["e4m3"].record.value(int(x)) for x in operands[which][0]]])
        operands[which] = sq.encode(np.nan_to_num(values), plain_e4m3(), sparsity="2:4")
        formats[f"{given['compressed']}_format"] = None
    events = sq.MatmulEvents()
    made = sq.matmul(*operands, c=c, events=events, **formats, **given)
    trace = sq.dot_trace(*operands, None if c is None else c[0, 0], **formats, **given)
    if isinstance(made, sq.BlockTensor):
        assert trace.bits == int(made.codes[0, 0])
        assert same(float(trace.result), float(made.decode(dtype="float64")[0, 0]))
    else:
        assert trace.bits == int(made.view(f"u{made.itemsize}")[0, 0])
    if trace.steps:
        assert same(trace.steps[-1].result, float(trace.result)), given
    assert [trace.counts[name] for name in NAMES] == [getattr(events, name) for name in NAMES], given
    assert all(0 <= place <= k for step in trace.steps for term in step.terms for place in term.k)
    json.dumps(trace.to_dict(), allow_nan=False)


def test_a_trace_of_parts_shows_how_they_meet() -> None:
    a, b = np.float32([2**24, 1, 1, 1]), np.ones(4, np.float32)
    trace = sq.dot_trace(a, b, datapath="fma32", split_k=2, epilogue=sq.Epilogue(alpha=0.5), output="bf16")
    words = [(step.what, step.start, step.result) for step in trace.steps if not step.terms]
    assert words == [
        ("part", 0.0, 2.0**24), ("part", 2.0**24, 2.0**24 + 2), ("alpha", 0.0, 2.0**23 + 1),
        ("output", 2.0**23 + 1, 2.0**23),
    ]  # fmt: skip
    assert [term.k for step in trace.steps for term in step.terms] == [(0,), (1,), (2,), (3,)]
    assert trace.bits == 0x4B00
    whole = sq.dot_trace(
        np.int8([100, 3]), np.int8([100, 1]), datapath="int8_int32", epilogue=sq.Requantization("tosa", scale=2**-8)
    )
    assert (whole.steps[-1].what, whole.result, whole.bits) == ("requantized", 39, 39)


@pytest.mark.parametrize(
    ("datapath", "c"), [("int8_int32", 0.5), ("int8_int32", 2**40), ("hopper_16", 1e300), ("hopper_16", [1, 2])]
)
def test_a_start_that_the_result_does_not_hold_is_refused(datapath: str, c: Any) -> None:
    name, codes = ("int8", np.uint8([1])) if datapath == "int8_int32" else ("fp16", np.uint16([1]))
    with pytest.raises(ValueError, match="needed one number that"):
        sq.dot_trace(codes, codes, datapath=datapath, c=c, a_format=name, b_format=name)
