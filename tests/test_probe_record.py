"""probe: a record is handed out only where it makes what the function makes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import sparq_sim as sq

Results = np.ndarray[Any, np.dtype[np.float32]]


def off_by_one(a: Any, b: Any) -> Results:
    """A machine's results, but for one in 256, which no power of two is."""
    made = sq.matmul(a, b, datapath="ampere_16")
    bits = made.view(np.uint32)
    return np.where(bits % 256 == 0xAB, bits + 1, bits).astype(np.uint32).view(np.float32)


def test_a_record_that_is_not_equal_to_the_function_is_not_handed_out() -> None:
    found = sq.probe(off_by_one, 32)
    assert 0 < found.total - found.equal < 20 and found.total == 1024
    with pytest.raises(ValueError, match=f"no record: {found.equal} of 1024 random outputs are equal") as raised:
        found.datapath()
    assert str(raised.value) == found.lines()[-1].replace("no record  ", "no record: ")
    assert found.record is None and found.to_dict()["record"] is None
    # What follows from the findings is there to be looked at, with an output that it does not make.
    assert found.nearest is not None and found.nearest.group == 8
    misfit = found.misfit
    assert misfit is not None and str(misfit) in str(raised.value)
    a, b = (np.uint16([codes]).view(np.float16) for codes in (misfit.a, misfit.b))
    assert misfit.first_bits == f"0x{off_by_one(a, b).view(np.uint32)[0, 0]:08X}"
    assert misfit.second_bits == f"0x{sq.matmul(a, b, datapath=found.nearest).view(np.uint32)[0, 0]:08X}"
    assert misfit.first_bits != misfit.second_bits
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("c_dtype", ["float32", "bfloat16", "float16"])
def test_c_of_another_dtype_than_the_result_is_compared_as_the_function_reads_it(c_dtype: str) -> None:
    def box(a: Any, b: Any, c: Any) -> Any:
        assert c.dtype.name == c_dtype
        return sq.matmul(a, b, c=c.astype(np.float32), datapath="hopper_16")

    found = sq.probe(box, 32, c_dtype=c_dtype)
    assert found.equal == found.total == 1024 and "hopper_16" in found.names
    assert found.datapath().group == 16 and found.start_fraction == 25


def test_a_record_that_could_not_be_compared_is_not_handed_out() -> None:
    """float32 does not hold random c of int32."""

    def box(a: Any, b: Any, c: Any) -> Any:
        names: dict[str, Any] = {"a_format": "int8", "b_format": "int8"}
        return sq.matmul(a, b, c=c, datapath="int8_int32", **names).astype(np.float32)

    found = sq.probe(box, 32, a_format="int8", operands="codes", c_dtype="int32")
    assert found.nearest is not None and found.misfit is None and found.total == 0
    said = "the one that follows could not be compared: c is int32, and its accumulator fp32"
    assert found.lines()[-1] == f"no record  {said}"
    with pytest.raises(ValueError, match=f"no record: {said}"):
        found.datapath()


@pytest.mark.parametrize("machine", ["ampere_16", "fma32"])
def test_c_that_joins_after_products_has_no_record(machine: str) -> None:
    """It had the record of c that comes first, which is another machine."""

    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, datapath=machine) + c

    found = sq.probe(box, 32, c_dtype="float32")
    assert "added to the sum of 0..31" in str(found)
    with pytest.raises(ValueError, match=r"no record: c joins a sum of products: .* which a longer k shows"):
        found.datapath()


def test_an_instruction_is_told_by_more_than_one_of_them() -> None:
    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, c=c, datapath="hopper_fp8_mma_sync", a_format="e4m3", b_format="e4m3")

    one, three = (sq.probe(box, k, a_format="e4m3", operands="codes", c_dtype="float32") for k in (32, 96))
    assert one.record is None and "which a longer k shows" in one.no_record and "hopper_fp8_mma_sync" in one.names
    assert three.datapath().instruction == 32


def test_questions_that_the_operands_cannot_ask_are_unknown() -> None:
    """E4M3 reaches 28 bits below its largest products, but 1.5 times the least with some pairs of powers only."""
    machine = sq.Datapath(reduce="align", group=4, fraction_bits=28, block_scales=False)
    found = sq.probe(lambda a, b: sq.matmul(a, b, datapath=machine), 16, a_format="e4m3", dots=64)
    assert found.tree is not None and found.fraction_bits == 28 and found.equal == found.total > 0


def test_a_c_that_the_accumulator_does_not_hold_is_not_compared() -> None:
    """bfloat16 reaches further than the fp16 that it starts."""

    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, c=c.astype(np.float16), datapath="hopper_16", result="fp16")

    found = sq.probe(box, 32, a_format="fp16", c_dtype="bfloat16")
    assert found.misfit is None and found.equal == found.total > 0
    assert "hopper_16" in found.names
