"""Products of whole tensors: leading dimensions, what becomes of a result, parts of K (docs/numerics.md section 10).

Single dot products come from `machines.py` and `oracle.py`; what is around them is done here in fractions and loops.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import ISAS, Array, assert_same_bits, bits_of, forced_isa
from machines import Line, machine_dot
from oracle import ELEMENTS
from test_datapaths import drawn_codes, drawn_starts

E8M0 = ELEMENTS["e8m0"]

# Leading dimensions

SHAPES = [
    ((2, 3), (2, 3)), ((), (2, 3)), ((2, 3), ()), ((2, 1), (1, 3)), ((2, 1), (3,)), ((3,), (2, 1)),
    ((2, 1, 2), (1, 3, 2)), ((1, 2), (3, 1)), ((1,), (2,)), ((0,), ()), ((2, 0), (1, 1)),
]  # fmt: skip


def dots(
    name: str, elements: tuple[str, str], a: Array, b: Array, c: Array | None, scales: tuple[Array, Array] | None = None
) -> Array:
    """Every dot product of [..., M, K] and [..., N, K], each by itself; `scales` are E8M0 codes of 4 elements each."""
    fields = sq.datapaths()[name].record.to_dict()
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    out = np.zeros((*batch, a.shape[-2], b.shape[-2]), np.uint32)
    for *lead, i, j in np.ndindex(out.shape):
        lines = []
        for side, (element, codes, row) in enumerate(zip(elements, (a, b), (i, j), strict=True)):
            place = (*lead, row)
            own = None
            if scales is not None:
                own = np.broadcast_to(scales[side], (*batch, *scales[side].shape[-2:]))[place].tolist()
            lines.append(Line(ELEMENTS[element], codes[place].tolist(), own, 4 if own else 0, E8M0 if own else None))
        start = None if c is None else int(c[(*lead, i, j)])
        out[(*lead, i, j)] = machine_dot(fields, lines[0], lines[1], start)
    return out


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_every_dot_of_a_batch_is_that_of_its_two_lines(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(left) + 10 * len(right))
    k = 12
    a = drawn_codes(rng, "e4m3", (int(np.prod(left)) * 2, k), "near").reshape(*left, 2, k)
    b = drawn_codes(rng, "e5m2", (int(np.prod(right)) * 3, k), "near").reshape(*right, 3, k)
    batch = np.broadcast_shapes(left, right)
    c = drawn_starts(rng, (int(np.prod(batch)) * 2, 3), False, "near").reshape(*batch, 2, 3)
    scales = tuple(rng.integers(124, 131, (*x.shape[:-1], k // 4)).astype(np.uint8) for x in (a, b))
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e5m2"}
    for name, own in (("hopper_fp8", None), ("block_fp32", (scales[0], scales[1]))):
        wanted = dots(name, ("e4m3", "e5m2"), a, b, c, own)
        given = {} if own is None else {"a_scales": own[0], "b_scales": own[1]}
        for isa in ISAS:
            with forced_isa(isa):
                got = sq.matmul(a, b, c=c.view(np.float32), datapath=name, **formats, **given)
            assert_same_bits(got.view(np.uint32), wanted, (name, isa))


def test_block_tensors_of_any_leading_dimensions_multiply_matrix_by_matrix(isa: str) -> None:
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 5, 40), (2, 6, 40)))
    for format, datapath in (("mxfp4", "block_fp32"), ("nvfp4", "exact"), ("int8", "fma32"), ("fp8_e4m3", "hopper_fp8"),
                             ("fp8_e4m3_128x128", "exact"), ("hbfp8", "hbfp8_wrap")):  # fmt: skip
        a, b = sq.encode(x, format), sq.encode(w, format)
        got = sq.matmul(a, b, datapath=datapath)
        assert got.shape == (3, 2, 5, 6)
        for i, j in np.ndindex(3, 2):
            tensor = {} if a.tensor_scale is None else {"tensor_scale": a.tensor_scale}
            other = {} if b.tensor_scale is None else {"tensor_scale": b.tensor_scale}
            one = sq.encode(x[i, j], format, **tensor)
            two = sq.encode(w[j], format, **other)
            assert_same_bits(got[i, j], sq.matmul(one, two, datapath=datapath), (format, i, j))


def test_rows_and_tensors_have_their_float_scales_in_every_batch(isa: str) -> None:
    rng = np.random.default_rng(6)
    a, b = (rng.integers(0, 0x7E, (4, 2, 20)).astype(np.uint8) for _ in range(2))
    rows, columns = (rng.uniform(0.5, 2, (4, 2)).astype(np.float32) for _ in range(2))
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "a_tensor_scale": 0.75}
    for datapath, last in itertools.product(("exact", "block_fp32", "hopper_fp8"), ((), (1,))):
        given = {"a_scales": rows.reshape(*rows.shape, *last), "b_scales": columns.reshape(*columns.shape, *last)}
        got = sq.matmul(a, b, datapath=datapath, **formats, **given)
        for i in range(4):
            own = {"a_scales": rows[i], "b_scales": columns[i]}
            assert_same_bits(got[i], sq.matmul(a[i], b[i], datapath=datapath, **formats, **own), (datapath, i))


def test_batches_of_torch_tensors_have_the_shape_of_torchs_own_product() -> None:
    for left, right in SHAPES:
        a, b = torch.ones(*left, 2, 7), torch.ones(*right, 3, 7)
        got = sq.matmul(a, b)
        assert isinstance(got, torch.Tensor) and torch.equal(got, a @ b.transpose(-1, -2))


@pytest.mark.parametrize(
    ("a", "b", "given", "words"),
    [
        ((2, 3, 8), (3, 3, 8), {}, r"leading dimensions do not broadcast: a is \(2, 3, 8\), b is \(3, 3, 8\)"),
        ((8,), (3, 8), {}, r"a: shape \(8,\); a is \[..., M, K\]"),
        ((2, 3, 8), (3, 7), {}, r"K does not match: a is \(2, 3, 8\), b is \(3, 7\)"),
        ((2, 3, 8), (3, 8), {"c": np.zeros((3, 3), np.float32)}, r"c: shape \(3, 3\); needed .* = \(2, 3, 3\)"),
        ((2, 3, 8), (3, 8), {"a_scales": np.zeros((3, 2), np.uint8)}, r"a_scales: .*needed \(2, 3, K / block\)"),
        ((2, 3, 8), (3, 8), {"a_scales": np.ones(3, np.float32)}, r"a_scales: .*one per row, \(2, 3\)"),
    ],
)
def test_batches_that_do_not_fit_are_refused(a: Any, b: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sq.matmul(np.ones(a, np.float32), np.ones(b, np.float32), **given)


def test_a_block_tensor_whose_blocks_do_not_run_along_k_is_refused() -> None:
    x = np.ones((2, 3, 8), np.float32)
    with pytest.raises(ValueError, match="b: blocks run along axis 1, and K is axis 2"):
        sq.matmul(x, sq.encode(x, "mxfp8", axis=1))


def test_bounds_and_traces_know_of_leading_dimensions() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((2, 3, 9)).astype(np.float16), rng.standard_normal((4, 9)).astype(np.float16)
    bound = sq.error_bound(a, b, datapath="hopper_16", c=np.ones((2, 3, 4), np.float32))
    for i in range(2):
        own = sq.error_bound(a[i], b, datapath="hopper_16", c=np.ones((3, 4), np.float32))
        # The largest elements of all matrices stand in for those of one.
        assert bound[i].shape == own.shape and bool((bound[i] >= own * (1 - 1e-12)).all())
        assert bool((bound[i] < 1.5 * own).all())
    trace = sq.dot_trace(a[None, :1, :1], b[:1], 1.0, datapath="hopper_16")
    assert trace.result == sq.dot_trace(a[0, 0], b[0], 1.0, datapath="hopper_16").result
    with pytest.raises(ValueError, match="c: shape"):
        sq.error_bound(a, b, datapath="hopper_16", c=np.ones((3, 4), np.float32))


def test_no_step_of_a_product_depends_on_threads_or_on_the_float_state() -> None:
    rng = np.random.default_rng(9)
    x = (rng.standard_normal((2, 9, 64)) * 2.0**-68).astype(np.float32)  # products below 2^-126
    w = (rng.standard_normal((7, 64)) * 2.0**-66).astype(np.float32)
    a, b = sq.encode(x, "mxfp8", sparsity="2:4"), sq.encode(w, "mxfp8")
    source = rng.integers(0, 1 << 22, (2, 9, 7), dtype=np.uint32).view(np.float32)
    how = sq.Epilogue(alpha=0.5, beta=-0.75, source=source)
    given: list[dict[str, Any]] = [
        {"epilogue": how}, {"split_k": sq.SplitK(4, order="tree")}, {"compressed": "a", "datapath": "fma32"},
        {"compressed": "a", "split_k": 2, "epilogue": how}, {"output": "mxint8"}, {"output": "bf16"},
    ]  # fmt: skip
    for arguments in given:
        plain = sq.matmul(a, b, threads=1, **{"datapath": "block_fp32", **arguments})
        assert torch.set_flush_denormal(True)
        try:
            again = [sq.matmul(a, b, threads=n, **{"datapath": "block_fp32", **arguments}) for n in (None, 3)]
        finally:
            torch.set_flush_denormal(False)
        for got in again:
            if isinstance(plain, sq.BlockTensor):
                assert got == plain
            else:
                assert_same_bits(got, plain, list(arguments))
                assert bool(bits_of(plain).any())


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 8), (3, 0, 8), (0, 0, 8), (2, 3, 0)])
def test_products_without_rows_columns_or_k_have_their_shapes(m: int, n: int, k: int, isa: str) -> None:
    x, w = np.ones((2, m, k), np.float32), np.ones((n, k), np.float32)
    a, b = sq.encode(x, "mxfp8", sparsity="2:4"), sq.encode(w, "mxfp8")
    how = sq.Epilogue(beta=2.0, source=np.ones((2, m, n), np.float32), bias=np.arange(n, dtype=np.float32))
    given: list[dict[str, Any]] = [
        {}, {"epilogue": how}, {"split_k": 2}, {"output": "mxfp4"}, {"output": "bf16"}, {"compressed": "a"},
        {"compressed": "a", "datapath": "fma32", "split_k": 2, "epilogue": how},
    ]  # fmt: skip
    for arguments in given:
        assert sq.matmul(a, b, **arguments).shape == (2, m, n), arguments
    if k == 0:
        wanted = np.broadcast_to(np.float32(2) + np.arange(n, dtype=np.float32), (2, m, n))
        assert_same_bits(sq.matmul(a, b, compressed="a", split_k=2, epilogue=how), np.ascontiguousarray(wanted))
    integers = {"datapath": "int8_int32", "epilogue": sq.Requantization("gemmlowp", scale=0.5)}
    assert sq.matmul(x.astype(np.int8), w.astype(np.int8), **integers).shape == (2, m, n)
