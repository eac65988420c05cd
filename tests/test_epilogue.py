"""Epilogues in exact fractions, step by step (docs/numerics.md section 10)."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import oracle
import sparq_sim as sq
from conftest import Array, assert_same_bits, bits_of
from oracle import ELEMENTS, FP32, ONE, Number
from test_datapaths import drawn_starts

ORDERS = tuple(itertools.permutations(("alpha", "beta", "bias")))
UNIT = np.ones((1, 1), np.float32)


def rounded(value: Number, precision: str) -> Number:
    element = ELEMENTS[precision]
    single = oracle.rn32(value)
    return oracle.decode(element, oracle.round_to_code(element, single, "nearest_even", "special"))


def in_steps(acc: int, alpha: int, beta: int, source: int | None, bias: int | None, how: sq.Epilogue) -> int:
    """float32 bits of one element."""

    def read(bits: int) -> Number:
        return rounded(oracle.decode(FP32, bits), how.precision)

    terms = {"alpha": (read(alpha), read(acc))}
    if source is not None and not read(beta).is_zero:
        terms["beta"] = (read(beta), read(source))
    if bias is not None:
        terms["bias"] = (ONE, read(bias))
    total: Number | None = None
    for name in how.order:
        if name in terms:
            product = oracle.multiply(*terms[name])
            if total is None or not how.fused:
                product = rounded(product, how.precision)
            total = product if total is None else rounded(oracle.fused_sum(product, total), how.precision)
    assert total is not None
    return 0x7FC00000 if total.kind == "nan" else oracle.round_to_float(total)


def floats(bits: Array) -> Array:
    return np.ascontiguousarray(bits.astype(np.uint32)).view(np.float32)


def near_each_other(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers of few bits apart, some zeros of both signs, some subnormal, a few that are no numbers."""
    bits = drawn_starts(rng, (int(np.prod(shape[:-1])), shape[-1]), False, "near").reshape(shape)
    tiny = rng.random(shape) < 0.1
    return floats(np.where(tiny, bits & 0x807FFFFF, bits))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_order_equals_its_steps_in_fractions(precision: str) -> None:
    rng = np.random.default_rng(len(precision))
    acc, source, bias = near_each_other(rng, (2, 3, 6)), near_each_other(rng, (2, 3, 6)), near_each_other(rng, (6,))
    unlike = 0
    for order, fused in itertools.product(ORDERS, (True, False)):
        alpha, beta = (float(v) for v in rng.choice([1.0, -0.75, 1.5, 0.0, 2.0**-9, 1 + 2.0**-7], 2))
        for has_source, has_bias in ((True, True), (True, False), (False, True), (False, False)):
            how = sq.Epilogue(
                alpha=alpha, beta=beta if has_source else 0.0, source=source if has_source else None,
                bias=bias if has_bias else None, precision=precision, order=order, fused=fused,
            )  # fmt: skip
            got = sq.matmul(np.ones((2, 3, 0), np.float32), np.ones((6, 0), np.float32), c=acc, epilogue=how)
            factors = [int(np.float32(x).view(np.uint32)) for x in (alpha, beta)]
            for place in np.ndindex(acc.shape):
                own_source = int(bits_of(source)[place]) if has_source else None
                own_bias = int(bits_of(bias)[place[-1]]) if has_bias else None
                wanted = in_steps(int(bits_of(acc)[place]), factors[0], factors[1], own_source, own_bias, how)
                assert int(bits_of(got)[place]) == wanted, (place, how)
            plain = acc * np.float32(alpha)
            unlike += int(not np.array_equal(bits_of(plain), bits_of(got)))
    assert unlike > 30


def test_a_bias_alone_is_that_of_a_layer(isa: str) -> None:
    rng = np.random.default_rng(3)
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 40), (6, 40), (6,)))
    machine = sq.Accelerator("mxfp6", "mxfp8", datapath="block_fp32")
    wanted = sq.linear(x, w, bias, accelerator=machine)
    a, b = sq.encode(x, "mxfp8"), sq.encode(w, "mxfp6")
    assert_same_bits(sq.matmul(a, b, datapath="block_fp32", epilogue=sq.Epilogue(bias=bias)), wanted)


def test_the_float_state_of_the_caller_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    acc, source = (floats(rng.integers(0, 1 << 22, (4, 4))) for _ in range(2))
    for precision in ("fp32", "bf16"):
        how = sq.Epilogue(alpha=0.5, beta=-0.25, source=source, bias=source[0], precision=precision)
        plain = how.apply(acc.copy(), 0x7FC00000)
        assert torch.set_flush_denormal(True)
        try:
            again = sq.Epilogue(alpha=0.5, beta=-0.25, source=source, bias=source[0], precision=precision)
            flushed = [again.apply(acc.copy(), 0x7FC00000, threads) for threads in (1, 3)]
        finally:
            torch.set_flush_denormal(False)
        for got in flushed:
            assert_same_bits(got, plain)


def test_results_of_any_kind_go_through_an_epilogue(isa: str) -> None:
    x = torch.full((2, 4), 1.5).to(torch.float8_e4m3fn)
    how = sq.Epilogue(alpha=2.0, beta=1.0, source=torch.ones(2, 2, dtype=torch.bfloat16), bias=np.float16([1, 2]))
    got = sq.matmul(x, x, datapath="hopper_fp8", epilogue=how)
    assert isinstance(got, torch.Tensor) and got.tolist() == [[20, 21], [20, 21]]
    assert sq.matmul(x, x, datapath="hopper_fp8", epilogue=how, output="mxfp4").decode().tolist() == [[16, 24]] * 2
    half = sq.matmul(x, x, datapath="hopper_fp8", result="fp16", epilogue=sq.Epilogue(alpha=8192.0))
    assert half.dtype == torch.float16 and half.tolist() == [[float("inf")] * 2] * 2
    scaled = sq.matmul(x, x, datapath="hopper_fp8", a_tensor_scale=0.25, epilogue=sq.Epilogue(bias=np.float32([1, 1])))
    assert scaled.tolist() == [[3.25, 3.25]] * 2
    nan = sq.matmul(x, x, datapath="hopper_fp8", epilogue=sq.Epilogue(bias=np.float32([np.nan, 0])))
    assert bits_of(nan).tolist() == [[0x7FFFFFFF, 0x41100000]] * 2


def test_columns_rows_and_whole_batches_are_added() -> None:
    a, b = np.ones((2, 3, 4), np.float32), np.ones((5, 4), np.float32)
    for shape in ((5,), (1, 5), (3, 5), (3, 1), (2, 1, 1), (2, 3, 5), (1, 1, 1), (1,)):
        bias = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
        got = sq.matmul(a, b, epilogue=sq.Epilogue(bias=bias.astype(ml_dtypes.bfloat16)))
        assert np.array_equal(got, np.float32(4) + np.broadcast_to(bias, (2, 3, 5))), shape


@pytest.mark.parametrize(
    ("error", "words", "fields"),
    [
        (ValueError, "precision='fp64': choose one of fp32, bf16, fp16", {"precision": "fp64"}),
        (ValueError, "order=.*: needed alpha, beta, bias in some order", {"order": ("alpha", "beta")}),
        (ValueError, "order='bias'", {"order": "bias"}),
        (TypeError, "fused=1: needed True or False", {"fused": 1}),
        (ValueError, "alpha=0.1: needed a finite number that fp32 holds exactly", {"alpha": 0.1}),
        (ValueError, "alpha=nan", {"alpha": float("nan")}),
        (ValueError, "alpha=True", {"alpha": True}),
        (ValueError, "alpha='1'", {"alpha": "1"}),
        (ValueError, "beta=1.001953125: .*bf16", {"beta": 1 + 2.0**-9, "precision": "bf16", "source": UNIT}),
        (ValueError, "beta=2.0 without a source", {"beta": 2.0}),
        (TypeError, "bias: dtype float64; needed float16, bfloat16 or float32", {"bias": np.ones(3)}),
        (TypeError, "source: needed a NumPy array or a torch tensor", {"source": [1.0]}),
    ],
)
def test_epilogues_that_mean_nothing_are_refused(error: Any, words: str, fields: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        sq.Epilogue(**fields)


def test_epilogues_that_do_not_fit_a_product_are_refused_before_it() -> None:
    a = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"bias: shape \(3,\); needed one that broadcasts to .* = \(2, 2\)"):
        sq.matmul(a, a, epilogue=sq.Epilogue(bias=np.ones(3, np.float32)))
    with pytest.raises(TypeError, match="epilogue: needed Epilogue on a result of fp32, got dict"):
        sq.matmul(a, a, epilogue={"alpha": 2.0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="epilogue: needed Requantization on a result of int32, got Epilogue"):
        sq.matmul(a.astype(np.int8), a.astype(np.int8), datapath="int8_int32", epilogue=sq.Epilogue())
