"""dot_trace: its steps, carried out in fractions, lead to what the machine computes."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

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
    for number in range(80):
        record = sq.Datapath(**drawn_machine(rng))
        pair = [str(rng.choice(_TAKEN["align"])) for _ in range(2)]
        a, b = (Side(n, drawn_codes(rng, n, (1, 21), STYLES[number % len(STYLES)])) for n in pair)
        assert_it_adds_up(traced(record, a, b, None), (record, pair))
    for overflow in ("wrap", "saturate"):
        record = sq.Datapath(reduce="integer", integer_bits=12, integer_tree=2, integer_overflow=overflow)
        a, b = drawn_problem(rng, record, ("int8", "int8"), "huge", 32)
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
