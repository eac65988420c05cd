"""Accumulator: steps along K give the bits of one product, and cuts that do not are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sparq_sim as sq
from conftest import Array, bits_of
from test_datapaths import STYLES, Side, drawn_codes, drawn_starts, operand_names

STEPPED = [name for name, machine in sq.datapaths().items() if machine.record.reduce != "exact"]


def grain(record: sq.Datapath) -> int:
    """What steps have to be multiples of, without scales; 0 if only all of K is a step."""
    if record.reduce == "align":
        return record.instruction or record.group
    return 1 if record.reduce == "fma" or record.output == "int32" else record.group


def in_steps(acc: sq.Accumulator, a: Array, b: Array, ends: list[int]) -> Array:
    begin = 0
    for end in ends:
        acc.step(a[:, begin:end], b[:, begin:end], last=end == ends[-1])
        begin = end
    return bits_of(acc.read())


@pytest.mark.parametrize("name", [name for name in STEPPED if grain(sq.datapaths()[name].record)])
def test_steps_give_the_bits_of_one_product(name: str) -> None:
    record = sq.datapaths()[name].record
    rng = np.random.default_rng(len(name))
    element = "fp16" if name == "fma32" else operand_names(record, name)[0]
    results = ("fp32", "fp16") if record.output == "fp32_or_fp16" else (record.output,)
    for number, style in enumerate(STYLES):
        result = results[number % len(results)]
        unit = grain(record)
        whole = 3 * (record.chunk or 64) + 5  # a ragged end, within a chunk
        a, b = (drawn_codes(rng, element, (3, whole), style) for _ in range(2))
        cuts = sorted({int(x) * unit for x in rng.integers(1, whole // unit + 1, 5) if int(x) * unit < whole})
        start: Any = None
        if number % 2:
            drawn = drawn_starts(rng, (3, 3), result == "fp16", style)
            start = drawn.view({"fp16": np.float16, "int32": np.int32}.get(result, np.float32))
        acc = sq.Accumulator(name, (3, 3), a_format=element, b_format=element, result=result)
        acc.init(start)
        made = in_steps(acc, a, b, [*cuts, whole])
        options: dict[str, Any] = {"a_format": element, "b_format": element, "datapath": name, "result": result}
        assert np.array_equal(made, bits_of(sq.matmul(a, b, c=start, **options))), (style, cuts, result)
        assert acc.k == whole
        # Half way, too, and anew.
        acc.init(start)
        half = in_steps(acc, a, b, cuts[:1])
        assert np.array_equal(half, bits_of(sq.matmul(a[:, : cuts[0]], b[:, : cuts[0]], c=start, **options)))


def test_a_promotion_does_not_restart_at_each_step() -> None:
    """Steps of 32: the machine still adds to its total every 128 elements, and reading does not change that."""
    rng = np.random.default_rng(3)
    a, b = (drawn_codes(rng, "e4m3", (8, 512), "near") for _ in range(2))
    formats = {"a_format": "e4m3", "b_format": "e4m3"}
    acc = sq.Accumulator("hopper_fp8_promoted", (8, 8), **formats)
    for k in range(0, 512, 32):
        acc.step(a[:, k : k + 32], b[:, k : k + 32])
        prefix = sq.matmul(a[:, : k + 32], b[:, : k + 32], datapath="hopper_fp8_promoted", **formats)
        assert np.array_equal(bits_of(acc.read()), bits_of(prefix)), k
    anew = np.zeros((8, 8), np.float32)
    for k in range(0, 512, 32):  # what a restart at each step would give
        anew += sq.matmul(a[:, k : k + 32], b[:, k : k + 32], datapath="hopper_fp8", **formats)
    assert not np.array_equal(anew, acc.read())


@pytest.mark.parametrize(
    "name", ["block_fp32", "blackwell_mxf8", "mxdotp", "hbfp8_wrap", "agilex_bfp", "blackwell_mxf4"]
)
def test_steps_of_scaled_blocks_give_the_bits_of_one_product(name: str) -> None:
    record = sq.datapaths()[name].record
    rng = np.random.default_rng(7)
    element = operand_names(record, name)[0]
    k, block = 256, 32
    sides = [Side(element, drawn_codes(rng, element, (4, k), "near")) for _ in range(2)]
    scales = [rng.integers(120, 135, (4, k // block)).astype(np.uint8) for _ in range(2)]
    acc = sq.Accumulator(name, (4, 4), a_format=element, b_format=element)
    for first in range(0, k, 64):
        part = slice(first // block, (first + 64) // block)
        codes = [np.ascontiguousarray(side.codes[:, first : first + 64]) for side in sides]
        acc.step(*codes, a_scales=scales[0][:, part], b_scales=scales[1][:, part])
    whole = sq.matmul(
        sides[0].codes, sides[1].codes, datapath=name, a_format=element, b_format=element,
        a_scales=scales[0], b_scales=scales[1],
    )  # fmt: skip
    assert np.array_equal(bits_of(acc.read()), bits_of(whole))


def test_encoded_tensors_are_steps_too() -> None:
    x = np.random.default_rng(2).standard_normal((4, 128)).astype(np.float32)
    acc = sq.Accumulator("blackwell_mxf8", (4, 4))
    for part in (x[:, :64], x[:, 64:]):
        tensor = sq.encode(part, "mxfp8")
        acc.step(tensor, tensor)
    whole = sq.encode(x, "mxfp8")
    assert np.array_equal(acc.read(), sq.matmul(whole, whole, datapath="blackwell_mxf8"))


def test_chunks_may_end_inside_a_block_of_scales() -> None:
    machine = sq.Datapath(reduce="align", group=16, chunk=16, fraction_bits=13, accumulator_fraction=13)
    rng = np.random.default_rng(5)
    a, b = (drawn_codes(rng, "e4m3", (3, 128), "near") for _ in range(2))
    scales = [rng.integers(120, 135, (3, 4)).astype(np.uint8) for _ in range(2)]
    formats = {"a_format": "e4m3", "b_format": "e4m3"}
    acc = sq.Accumulator(machine, (3, 3), **formats)
    for half in (0, 1):
        columns, part = slice(64 * half, 64 * half + 64), slice(2 * half, 2 * half + 2)
        acc.step(a[:, columns], b[:, columns], a_scales=scales[0][:, part], b_scales=scales[1][:, part])
    whole = sq.matmul(a, b, a_scales=scales[0], b_scales=scales[1], datapath=machine, **formats)
    assert np.array_equal(bits_of(acc.read()), bits_of(whole))


def test_cuts_where_sums_cannot_be_cut_are_refused() -> None:
    x = np.ones((2, 40), np.uint8)
    formats = {"a_format": "e4m3", "b_format": "e4m3"}
    acc = sq.Accumulator("hopper_fp8", (2, 2), **formats)
    with pytest.raises(ValueError, match="K of a step is 40: this machine's sums are cut at multiples of 32"):
        acc.step(x, x)
    assert acc.k == 0
    acc.step(x, x, last=True)
    with pytest.raises(ValueError, match="step after the last one"):
        acc.step(x[:, :32], x[:, :32])
    acc.init()
    with pytest.raises(ValueError, match="K does not match"):
        acc.step(x[:, :32], x)
    with pytest.raises(ValueError, match="a has 1 rows and b 2"):
        acc.step(x[:1, :32], x[:, :32])
    with pytest.raises(ValueError, match="float scales multiply sums of all K"):
        acc.step(x[:, :32], x[:, :32], a_scales=np.ones(2, np.float32))
    with pytest.raises(TypeError, match="c: dtype float64; needed float32"):
        acc.init(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="c: shape"):
        acc.init(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="rounds once after all of K"):
        sq.Accumulator("exact", (2, 2))
    with pytest.raises(ValueError, match="flush_inputs without flush_results"):
        sq.Accumulator(sq.Datapath(reduce="tree", group=4, flush_inputs=True), (2, 2))
    with pytest.raises(ValueError, match="cut nowhere but after all of K"):
        sq.Accumulator("block_fp32", (2, 2), **formats).step(x, x)
    with pytest.raises(ValueError, match="needed"):
        sq.Accumulator("hopper_fp8", (0, 2))
    saturating = sq.Datapath(
        reduce="integer",
        integer_bits=20,
        integer_overflow="saturate",
        integer_tree=4,
        output="int32",
        block_scales=False,
    )
    with pytest.raises(ValueError, match="multiples of 4"):
        sq.Accumulator(saturating, (2, 2), a_format="int8", b_format="int8").step(x[:, :6], x[:, :6])


def test_without_steps_it_is_what_it_began_with() -> None:
    c = np.float32([[1.5, -0.0]])
    acc = sq.Accumulator("hopper_fp8", (1, 2))
    assert np.array_equal(bits_of(acc.read()), np.uint32([[0, 0]]))
    acc.init(c)
    assert np.array_equal(bits_of(acc.read()), bits_of(c))
