"""Requantization against the definitions in Python's integers and fractions, and against torch's quantized layers."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oracle
import sparq_sim as sq
from conftest import Array, assert_same_bits

INT32 = range(-(2**31), 2**31)


def tosa(v: int, multiplier: int, shift: int, double_round: bool = False) -> int | None:
    """apply_scale_32; None where the specification requires something else."""
    if not -(1 << (shift - 1)) <= v < 1 << (shift - 1):
        return None
    extra = 1 << (shift - 1)
    if double_round and shift > 31:
        extra += 1 << 30 if v >= 0 else -(1 << 30)
    result = (v * multiplier + extra) // 2**shift
    return result if result in INT32 else None


def gemmlowp(v: int, multiplier: int, shift: int) -> int | None:
    """MultiplyByQuantizedMultiplier, with the divisions of C; None where it overflows."""
    left, right = max(0, 31 - shift), max(0, shift - 31)
    v <<= left
    if v not in INT32:
        return None
    product = v * multiplier
    nudged = Fraction(product + (2**30 if product >= 0 else 1 - 2**30), 2**31)
    high = int(nudged)  # toward zero
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (1 if high < 0 else 0)
    return (high >> right) + (1 if high & mask > threshold else 0)


def ties_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def ties_away(x: Fraction) -> int:
    return ties_up(x) if x >= 0 else -ties_up(-x)


def by_float32(v: int, scale: float) -> int:
    wide = oracle.rn32(oracle.finite(v))
    return round(oracle.rn32(oracle.multiply(wide, oracle.finite(Fraction(scale)))).fraction)


MULTIPLIER_RULES: dict[str, Callable[[int, int, int], int | None]] = {
    "tosa": tosa,
    "gemmlowp": gemmlowp,
    "tosa_double_round": lambda v, m, s: tosa(v, m, s, True),
}
SCALE_RULES: dict[str, Callable[[int, float], int]] = {
    "xnnpack_fp32": by_float32,
    "xnnpack_rndnu": lambda v, s: ties_up(v * Fraction(s)),
    "xnnpack_rndna": lambda v, s: ties_away(v * Fraction(s)),
}


def sums(rng: np.random.Generator, count: int) -> Array:
    """int32 of every size, the ends among them."""
    drawn = rng.integers(-(2**31), 2**31, count) >> rng.integers(0, 31, count)
    drawn[:6] = (0, 1, -1, 2**31 - 1, -(2**31), 2**24 + 1)
    return drawn.astype(np.int32)


def clipped(value: int, zero_point: int, output: str) -> int:
    info = np.iinfo(output)
    return int(min(max(value + zero_point, info.min), info.max))


@pytest.mark.parametrize("name", ["tosa", "tosa_double_round", "gemmlowp"])
def test_fixed_multipliers_equal_their_definitions_in_integers(name: str) -> None:
    rng = np.random.default_rng(len(name))
    refused = taken = 0
    for number in range(400):
        multiplier = int(
            rng.choice([2**30, 2**31 - 1, int(rng.integers(2**30, 2**31)), int(rng.integers(0, 2**31)), 3 << 29])
        )
        shift = int(rng.integers(2, 63))
        output, zero = str(rng.choice(["int8", "uint8", "int16", "int32"])), int(rng.integers(0, 100))
        how = sq.Requantization(name, multiplier=multiplier, shift=shift, output=output, zero_point=zero)
        for v in sums(rng, 20)[number % 2 :: 2]:
            wanted = MULTIPLIER_RULES[name](int(v), multiplier, shift)
            if wanted is None:
                refused += 1
                with pytest.raises(ValueError, match="sums: "):
                    how.apply(v.reshape(1, 1))
                continue
            taken += 1
            got = how.apply(v.reshape(1, 1))
            assert got.dtype == output and int(got[0, 0]) == clipped(wanted, zero, output), (v, multiplier, shift)
    assert refused > 100 and taken > 2000


@pytest.mark.parametrize("name", ["xnnpack_fp32", "xnnpack_rndnu", "xnnpack_rndna"])
def test_xnnpacks_rules_are_roundings_of_an_exact_scale(name: str) -> None:
    rng = np.random.default_rng(len(name))
    for _ in range(60):
        scale = float(np.float32(rng.uniform(1, 2) if rng.random() < 0.6 else rng.choice([1, 1.5])))
        scale *= 2.0 ** int(rng.integers(-32, 8))
        output, zero = str(rng.choice(["int8", "uint8", "int16"])), int(rng.integers(0, 100))
        values = np.concatenate([sums(rng, 30), rng.integers(-600, 600, 30).astype(np.int32)])
        wanted = [clipped(SCALE_RULES[name](int(v), scale), zero, output) for v in values]
        got = sq.Requantization(name, scale=scale, output=output, zero_point=zero).apply(values[None])
        assert got[0].tolist() == wanted, (scale, output)


def test_scales_become_the_multipliers_of_tensorflow_lite() -> None:
    """QuantizeMultiplier: the significand times 2^31, ties away, and one exponent more where that is 2^31."""
    rng = np.random.default_rng(1)
    scales = np.concatenate([2.0 ** rng.uniform(-30, 8, 50), [1 - 2.0**-40, 0.5, 1 - 2.0**-32, 0.75]])
    for name in ("gemmlowp", "tosa"):
        how = sq.Requantization(name, scale=scales)
        for scale, multiplier, shift in zip(scales, how.multiplier[0], how.shift[0], strict=True):
            fraction, exponent = math.frexp(scale)
            fixed = ties_away(Fraction(fraction) * 2**31)
            if fixed == 2**31:
                fixed, exponent = fixed // 2, exponent + 1
            assert (int(multiplier), int(shift)) == (fixed, 31 - exponent)


_LITERT = json.loads((Path(__file__).parent / "golden" / "requantize" / "litert_quantize.json").read_text())


def test_what_tensorflow_lites_reference_kernels_made_is_gemmlowps_rule() -> None:
    """Recorded from LiteRT; ties up alone are another rule."""
    unlike = 0
    for case in _LITERT:
        given = {"scale": float.fromhex(case["scale"]), "zero_point": case["zero_point"], "output": case["output"]}
        values = np.array([case["v"]], np.int32)
        assert sq.Requantization("gemmlowp", **given).apply(values)[0].tolist() == case["q"], case["scale"]
        own = sq.RequantizationRule("ties_up", 31)
        unlike += int(sq.Requantization(own, **given).apply(values)[0].tolist() != case["q"])
    assert unlike > 3


def test_tosas_double_rounding_is_gemmlowps_wherever_it_takes_a_sum() -> None:
    rng = np.random.default_rng(6)
    equal = 0
    for _ in range(300):
        multiplier, shift = int(rng.integers(2**30, 2**31)), int(rng.integers(2, 63))
        for v in sums(rng, 12):
            mine, theirs = tosa(int(v), multiplier, shift, True), gemmlowp(int(v), multiplier, shift)
            if mine is not None and theirs is not None:
                given: dict[str, Any] = {"multiplier": multiplier, "shift": shift, "output": "int32"}
                made = [
                    sq.Requantization(rule, **given).apply(v.reshape(1)) for rule in ("tosa_double_round", "gemmlowp")
                ]
                assert mine == theirs == int(made[0][0]) == int(made[1][0]), (v, multiplier, shift)
                equal += 1
    assert equal > 500


@pytest.mark.parametrize("engine", ["qnnpack", "fbgemm"])
def test_torchs_quantized_linear_layers_requantize_like_xnnpacks_floats(engine: str) -> None:
    """FBGEMM and QNNPACK in torch itself; sums stay where FBGEMM's pairs of products do not saturate."""
    rng = np.random.default_rng(len(engine))
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        for scale in (0.5, 0.125, 0.0078125, *(float(np.float32(s)) for s in rng.uniform(0.001, 0.02, 8))):
            x, w = rng.integers(0, 128, (16, 40)), rng.integers(-60, 61, (24, 40))
            zero = int(rng.integers(0, 256))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that these are to go
                a = torch._make_per_tensor_quantized_tensor(torch.from_numpy((x + 128).astype(np.uint8)), scale, 128)
                b = torch._make_per_tensor_quantized_tensor(torch.from_numpy(w.astype(np.int8)), 1.0, 0)
                packed = torch.ops.quantized.linear_prepack(b, None)
                wanted = torch.ops.quantized.linear(a, packed, 1.0, zero).int_repr().numpy()
            how = sq.Requantization("xnnpack_fp32", scale=scale, output="uint8", zero_point=zero)
            got = sq.matmul(x.astype(np.int8), w.astype(np.int8), datapath="int8_int32", epilogue=how)
            assert_same_bits(got, wanted, (engine, scale))
    finally:
        torch.backends.quantized.engine = before


def test_columns_have_their_own_scales_and_batches_theirs(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.integers(-128, 128, (2, 3, 40)).astype(np.int8), rng.integers(-128, 128, (5, 40)).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, 5)
    bias = rng.integers(-5000, 5000, (2, 3, 5)).astype(np.int32)
    how = sq.Requantization("gemmlowp", scale=scales, zero_point=-3)
    got = sq.matmul(torch.from_numpy(x), w, c=bias, datapath="int8_int32", epilogue=how)
    assert isinstance(got, torch.Tensor) and got.dtype == torch.int8
    plain = sq.matmul(x, w, c=bias, datapath="int8_int32")
    for column, scale in enumerate(scales):
        own = sq.Requantization("gemmlowp", scale=float(scale), zero_point=-3).apply(plain[..., column])
        assert np.array_equal(got[..., column].numpy(), own)


def test_results_are_held_between_the_bounds_of_an_activation() -> None:
    how = sq.Requantization("tosa", scale=0.5, zero_point=10, output="uint8", minimum=10, maximum=20)
    assert how.apply(np.int32([-50, 0, 7, 50])).tolist() == [10, 10, 14, 20]


def test_a_rule_of_ones_own_has_the_same_fields() -> None:
    rule = sq.RequantizationRule("sixteen", 16, "half_away", least_shift=1, largest_shift=40)
    how = sq.Requantization(rule, multiplier=3, shift=1)
    assert how.apply(np.int32([1, -1, 2])).tolist() == [2, -2, 3]


@pytest.mark.parametrize(
    ("error", "words", "given"),
    [
        (ValueError, "unknown requantization 'tflite'; known: tosa, tosa_double_round, gemmlowp", {"rule": "tflite"}),
        (ValueError, "output='int4': choose one of int8, uint8, int16, int32", {"output": "int4"}),
        (ValueError, "zero_point=200: needed an integer that int8 holds", {"zero_point": 200}),
        (ValueError, "zero_point=1.0", {"zero_point": 1.0}),
        (ValueError, "minimum=5 is above maximum=3", {"minimum": 5, "maximum": 3}),
        (ValueError, "needed scale=, or multiplier= and shift=", {"scale": None}),
        (ValueError, "needed scale=, or multiplier= and shift=", {"multiplier": 3, "shift": 4}),
        (ValueError, "needed scale=, or multiplier= and shift=", {"scale": None, "multiplier": 3}),
        (ValueError, "scale=-1.0: needed a positive finite number", {"scale": -1.0}),
        (ValueError, "scale=nan", {"scale": float("nan")}),
        (ValueError, "shift: 70 to 70; tosa takes 2 to 62", {"scale": 2.0**-40, "rule": "tosa"}),
        (ValueError, "shift: 1 to 1; tosa takes 2 to 62", {"scale": None, "multiplier": 3, "shift": 1, "rule": "tosa"}),
        (ValueError, "multiplier: -3 to -3; gemmlowp takes 0", {"scale": None, "multiplier": -3, "shift": 31}),
        (TypeError, "shift=2.5: needed an integer", {"scale": None, "multiplier": 3, "shift": 2.5}),
        (ValueError, "scale=0.1: xnnpack_rndnu takes float32 numbers", {"scale": 0.1, "rule": "xnnpack_rndnu"}),
        (ValueError, "scale=256: xnnpack_fp32 takes float32 numbers", {"scale": 256, "rule": "xnnpack_fp32"}),
        (
            ValueError,
            "xnnpack_fp32 multiplies by a float32 scale",
            {"scale": None, "multiplier": 3, "shift": 20, "rule": "xnnpack_fp32"},
        ),
    ],
)
def test_requantizations_that_mean_nothing_are_refused(error: Any, words: str, given: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        sq.Requantization(**{"rule": "gemmlowp", "scale": 0.5, **given})


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("rounding='up'", {"rounding": "up"}),
        ("goes with rounding='half_even'", {"multiplier_bits": 0}),
        ("must be 0 to 31", {"multiplier_bits": 32}),
        ("shifts must be 1 to 62", {"largest_shift": 63}),
        ("double_round goes with first_bits=0", {"first_bits": 31, "double_round": True}),
        ("integer multipliers alone", {"multiplier_bits": 0, "rounding": "half_even", "bounded": True}),
    ],
)
def test_rules_that_mean_nothing_are_refused(words: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=words):
        sq.RequantizationRule(**{"name": "mine", "multiplier_bits": 31, **given})


def test_requantizations_that_do_not_fit_a_product_are_refused() -> None:
    x = np.ones((2, 4), np.int8)
    with pytest.raises(ValueError, match="scale: 3 columns; needed 1 or N = 2"):
        how = sq.Requantization("xnnpack_fp32", scale=np.float32([1, 1, 1]))
        sq.matmul(x, x, datapath="int8_int32", epilogue=how)
    with pytest.raises(TypeError, match="epilogue: needed Epilogue on a result of fp32, got Requantization"):
        sq.matmul(x, x, epilogue=sq.Requantization("tosa", scale=0.5))
    with pytest.raises(TypeError, match="sums: dtype int64; needed int32"):
        sq.Requantization("tosa", scale=0.5).apply(np.int64([1]))
