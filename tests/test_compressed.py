"""Products of machines that take one operand compressed, selected in plain lists (docs/numerics.md section 10)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import ISAS, Array, assert_same_bits, bits_of, codes_tensor, forced_isa, plain_format
from machines import Line, machine_dot
from oracle import ELEMENTS
from sparq_sim.compressed import Selection, all_finite, stored_of, stretched
from sparq_sim.operands import operand_of
from test_datapaths import drawn_codes, drawn_starts

E8M0 = ELEMENTS["e8m0"]


def pruned(rng: np.random.Generator, codes: Array, n: int, m: int, unit: int = 1) -> tuple[Array, Array]:
    """Codes under a mask of at most N of M, and the mask; some groups keep fewer."""
    mask = np.zeros(codes.shape, bool)
    for row, first in np.ndindex(codes.shape[0], -(-codes.shape[1] // m)):
        units = rng.permutation(m // unit)[: int(rng.integers(n // unit - (rng.random() < 0.2), n // unit + 1))]
        for one in units:
            start = first * m + one * unit
            mask[row, start : start + unit] = start + unit <= codes.shape[1]
    return np.where(mask, codes, 0).astype(codes.dtype), mask


def sparse_tensor(
    codes: Array, mask: Array, element: str, pattern: str, scales: Array | None, block: int
) -> sq.BlockTensor:
    form = plain_format(ELEMENTS[element])
    if scales is not None:
        level = sq.ScaleLevel(format=sq.elements()["e8m0"].record, along=block)
        form = sq.Format("blocks", form.element, [level], sq.Conversion(scale_rule="floor"))
    dense = codes_tensor(codes, form, scales)
    return replace(dense, mask=mask).structured(pattern)


def slots(mask: Array, n: int, m: int, unit: int) -> list[int]:
    """Places of one line that memory holds: what is kept, then the lowest that are free; ascending in each group."""
    places: list[int] = []
    for first in range(0, len(mask), m):
        group = [bool(mask[k]) if k < len(mask) else False for k in range(first, first + m)]
        units = [first + u * unit for u in range(m // unit)]
        kept = [u for u in units if any(group[u - first + i] for i in range(unit))]
        kept += [u for u in units if u not in kept][: n // unit - len(kept)]
        places += [u + i for u in sorted(kept) for i in range(unit)]
    return places


def selected(
    fields: dict[str, Any], elements: tuple[str, str], own: Array, mask: Array, other: Array,
    pattern: tuple[int, int, int], scales: tuple[Array | None, Array | None], block: int, c: int | None,
) -> int:  # fmt: skip
    """The dot product of a stored line and the elements of another that its positions select."""
    n, m, unit = pattern
    places = slots(mask, n, m, unit)
    lines = []
    for element, codes, scale in zip(elements, (own, other), scales, strict=True):
        chosen = [int(codes[k]) if k < len(codes) else 0 for k in places]
        given = None if scale is None else scale.tolist()
        lines.append(Line(ELEMENTS[element], chosen, given, block * n // m if given else 0, E8M0 if given else None))
    return machine_dot(fields, lines[0], lines[1], c)


CASES = [
    # machine, elements, pattern, K, block of scales
    ("hopper_fp8", ("e4m3", "e5m2"), (2, 4, 1), 132, 0), ("ampere_16", ("fp16", "bf16"), (2, 4, 1), 72, 0),
    ("hopper_fp8_promoted", ("e4m3", "e4m3"), (2, 4, 1), 560, 0), ("ada_fp8", ("e5m2", "e4m3"), (1, 4, 1), 101, 0),
    ("cdna3_fp8", ("e4m3fnuz", "e5m2fnuz"), (2, 4, 1), 70, 0), ("volta_16", ("fp16", "fp16"), (4, 8, 2), 48, 0),
    ("hopper_fp8_mma_sync", ("e4m3", "e4m3"), (2, 4, 1), 96, 0), ("cdna2_16", ("bf16", "fp16"), (1, 2, 1), 26, 0),
    ("blackwell_mxf8", ("e4m3", "e2m3"), (2, 4, 1), 192, 64), ("block_fp32", ("e2m1", "int8"), (2, 4, 1), 44, 8),
    ("mxdotp", ("e4m3", "e5m2"), (3, 4, 1), 48, 16), ("blackwell_mxf4", ("e2m1", "e2m1"), (4, 8, 2), 256, 64),
]  # fmt: skip


@pytest.mark.parametrize(("name", "elements", "pattern", "k", "block"), CASES, ids=[case[0] for case in CASES])
def test_a_compressed_operand_selects_the_elements_of_the_other(
    name: str, elements: tuple[str, str], pattern: tuple[int, int, int], k: int, block: int
) -> None:
    n, m, unit = pattern
    text = f"{n}:{m}" + (f"/{unit}" if unit > 1 else "")
    rng = np.random.default_rng(k)
    fields = sq.datapaths()[name].record.to_dict()
    for style in ("near", "any"):
        own, mask = pruned(rng, drawn_codes(rng, elements[0], (3, k), style), n, m, unit)
        other = drawn_codes(rng, elements[1], (2, k), style)
        scales: tuple[Array | None, Array | None] = (None, None)
        if block:
            drawn = [rng.integers(120, 134, (rows, -(-k // block))).astype(np.uint8) for rows in (3, 2)]
            scales = (drawn[0], drawn[1])
        tensor = sparse_tensor(own, mask, elements[0], text, scales[0], block)
        dense: Any = other
        formats = {"format": elements[1]}
        if block:
            level = sq.ScaleLevel(format=sq.elements()["e8m0"].record, along=block)
            form = sq.Format("b", sq.elements()[elements[1]].record, [level], sq.Conversion(scale_rule="floor"))
            dense, formats = codes_tensor(other, form, scales[1]), {}
        c = drawn_starts(rng, (3, 2), False, style)
        wanted = np.zeros((3, 2), np.uint32)
        for i, j in np.ndindex(3, 2):
            wanted[i, j] = selected(
                fields, elements, own[i], mask[i], other[j], pattern,
                (None if scales[0] is None else scales[0][i], None if scales[1] is None else scales[1][j]), block,
                int(c[i, j]),
            )  # fmt: skip
        start = c.view(np.float32)
        for isa in ISAS:
            with forced_isa(isa):
                b_side = {f"b_{key}": value for key, value in formats.items()}
                got = sq.matmul(tensor, dense, datapath=name, compressed="a", c=start, **b_side)
                assert_same_bits(bits_of(got), wanted, (name, style, isa))
                a_side = {f"a_{key}": value for key, value in formats.items()}
                flipped = sq.matmul(dense, tensor, datapath=name, compressed="b", c=start.T, **a_side)
                assert_same_bits(bits_of(flipped), wanted.T.copy(), (name, style, isa, "b"))


def test_steps_of_stored_elements_are_dense_steps_of_twice_as_many(isa: str) -> None:
    """Zeros take no part, so 32 stored of 64 dense elements make one step of a dense machine of 64."""
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal((rows, 256)).astype(np.float32) for rows in (6, 5))
    a, b = sq.encode(x, "fp8_e4m3", sparsity="2:4"), sq.encode(w, "fp8_e4m3")
    hopper = sq.datapaths()["hopper_fp8"].record
    wide = sq.datapath_from_dict({**sq.datapath_to_dict(hopper), "group": 64})
    got = sq.matmul(a, b, datapath=hopper, compressed="a")
    assert_same_bits(got, sq.matmul(a, b, datapath=wide))
    assert not np.array_equal(got, sq.matmul(a, b, datapath=hopper))  # the dense instruction cuts elsewhere
    assert_same_bits(sq.matmul(a, b, compressed="a"), sq.matmul(a, b))  # exact sums know no steps


@pytest.mark.parametrize(
    ("name", "pattern", "stretches"),
    [
        ("hopper_fp8", "2:4", True), ("hopper_fp8_promoted", "1:4", True), ("hopper_fp8_mma_sync", "2:4", True),
        ("blackwell_mxf8", "2:4", True), ("exact", "3:4", True), ("block_fp32", "2:8", True), ("mxdotp", "4:8", True),
        ("cdna3_fp8", "2:4", False), ("fma32", "2:4", False), ("mxdotp", "3:4", False), ("tree32", "2:4", False),
        ("hopper_fp8_mma_sync", "4:8", False),
    ],
)  # fmt: skip
def test_where_a_dense_machine_does_the_same_it_does(name: str, pattern: str, stretches: bool, isa: str) -> None:
    """The definition, which gathers, against the machine that stands for it, in parts too."""
    rng = np.random.default_rng(len(name))
    element = "e4m3fnuz" if name.startswith("cdna3") else "e4m3"
    path = sq.datapaths()[name].record
    for k in (37, 160):
        a = sq.encode(rng.standard_normal((6, k)).astype(np.float32), "fp8_e4m3", sparsity=pattern)
        tensor = sq.BlockTensor.from_codes(a.codes, format=plain_format(ELEMENTS[element]), mask=a.mask)
        tensor = tensor.structured(pattern)
        codes = drawn_codes(rng, element, (5, k), "near")
        left, right = operand_of(tensor, None, None, None, path, "a"), operand_of(codes, element, None, None, path, "b")
        c = drawn_starts(rng, (6, 5), False, "near").view(np.float32)
        whole = Selection.of(left, right, path, stored_of(tensor, "a"), False)
        assert (whole.dense is not None) == stretches
        n = int(pattern[0])
        for part in (whole, whole.part(0, 2 * n), whole.part(2 * n, whole.k), whole.part(1, whole.k)):
            assert_same_bits(part.product(c), part.gathered(c), (name, k))
        assert whole.part(1, whole.k).dense is None or n == 1


def test_machines_in_which_zeros_count_or_operands_are_not_finite_gather() -> None:
    hopper = sq.datapaths()["hopper_fp8"].record
    assert stretched(hopper, sq.spec("mxfp4", sparsity="2:4").sparsity) is not None
    lowest = sq.datapath_from_dict({**sq.datapath_to_dict(hopper), "zero_products": "lowest"})
    assert stretched(lowest, sq.spec("mxfp4", sparsity="2:4").sparsity) is None
    wide = sq.datapath_from_dict({"reduce": "align", "group": 256, "fraction_bits": 40, "block_scales": False})
    assert stretched(wide, sq.spec("mxfp4", sparsity="2:4").sparsity) is not None
    assert stretched(wide, sq.spec("mxfp4", sparsity="1:4").sparsity) is None
    for element, code in (("e4m3", 0x7F), ("e5m2", 0xFC), ("fp16", 0xFE00), ("bf16", 0x7F80), ("fp32", 0xFF800000)):
        codes = np.array([[1, 2]], drawn_codes(np.random.default_rng(0), element, (1, 1), "any").dtype)
        operand = operand_of(codes, element, None, None, hopper, "a")
        assert all_finite(operand)
        codes[0, 1] = code
        assert not all_finite(operand_of(codes, element, None, None, hopper, "a"))


def test_what_no_position_selects_is_not_read(isa: str) -> None:
    a = sparse_tensor(np.uint8([[0x38, 0, 0, 0x38]]), np.array([[True, False, False, True]]), "e4m3", "2:4", None, 0)
    b = np.uint8([[0x38, 0x7F, 0x7F, 0x40]])  # NaN between
    formats: dict[str, Any] = {"b_format": "e4m3", "datapath": "hopper_fp8"}
    assert sq.matmul(a, b, compressed="a", **formats) == 3
    assert np.isnan(sq.matmul(a, b, **formats)).all()


def test_both_operands_may_be_sparse_and_one_is_counted(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal((rows, 96)).astype(np.float32) for rows in (4, 5))
    a = sq.encode(x, "mxfp8", sparsity="2:4", scale_space="stored")
    b = sq.encode(w, "mxfp8", block=64, sparsity="1:4")
    for side in ("a", "b"):
        dense = (a, b.dense()) if side == "a" else (a.dense(), b)
        got = sq.matmul(a, b, datapath="blackwell_mxf8", compressed=side)
        assert_same_bits(got, sq.matmul(*dense, datapath="blackwell_mxf8", compressed=side))
    assert_same_bits(sq.matmul(a, b, compressed="a"), sq.matmul(a, b, compressed="b"))


def test_batches_parts_scales_and_outputs_go_with_compressed_operands(isa: str) -> None:
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 1, 4, 80), (2, 5, 80)))
    a, b = torch.from_numpy(x), sq.encode(w, "int8", sparsity="2:4")
    a = sq.encode(a, "int8")
    whole = sq.matmul(a, b, datapath="block_fp32", compressed="b", split_k=sq.SplitK(length=16))
    assert isinstance(whole, torch.Tensor) and whole.shape == (3, 2, 4, 5)
    for i, j in np.ndindex(3, 2):
        one, two = sq.encode(x[i, 0], "int8"), sq.encode(w[j], "int8", sparsity="2:4")
        part = sq.matmul(one, two, datapath="block_fp32", compressed="b", split_k=sq.SplitK(length=16))
        assert_same_bits(whole[i, j].numpy(), part, (i, j))
    one, two = sq.encode(x[0, 0], "fp8_e4m3"), sq.encode(w[0], "fp8_e4m3", sparsity="2:4")
    chunks = sq.matmul(one, two, datapath="hopper_fp8_promoted", compressed="b", output="mxfp8")
    parts = sq.matmul(one, two, datapath="hopper_fp8", compressed="b", split_k=sq.SplitK(length=128), output="mxfp8")
    assert chunks == parts


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("compressed='c': needed 'a', 'b' or None", {"compressed": "c"}),
        (r"compressed='b': b has no N:M pattern; encode\(..., sparsity='2:4'\) makes one", {"compressed": "b"}),
    ],
)
def test_what_is_not_compressed_is_refused(words: str, given: dict[str, Any]) -> None:
    x = sq.encode(np.ones((2, 8), np.float32), "mxfp8", sparsity="2:4")
    with pytest.raises(ValueError, match=words):
        sq.matmul(x, x.dense(), **given)


def test_blocks_that_cut_a_group_are_refused() -> None:
    x = np.ones((2, 16), np.float32)
    a = sq.encode(x, "mxfp8", sparsity="2:4")
    with pytest.raises(ValueError, match="b: a scale ends at element 6, within a group of 4"):
        sq.matmul(a, sq.encode(x, "mxfp8", block=6), compressed="a")
    fours = sq.encode(np.ones((2, 64), np.float32), "mxfp4", block=16, sparsity="2:4")
    with pytest.raises(ValueError, match="multiples of the 16 products"):
        sq.matmul(fours, fours.dense(), datapath="blackwell_mxf4", compressed="a")
