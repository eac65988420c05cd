"""What becomes of the result of a product: rounded to any element, or encoded for the next one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import oracle
import sparq_sim as sq
from conftest import ISAS, Array, assert_same_bits, bits_of, forced_isa, oracle_quantize
from oracle import BLOCK_FORMATS, ELEMENTS, FP32

ONE = np.ones((1, 1), np.float32)


def float32_column(rng: np.random.Generator, element: oracle.Element) -> Array:
    """[n, 1]: numbers about every magnitude of an element, halves of its steps, and beyond its ends."""
    steps = [
        value for code in range(min(1 << element.width, 1 << 12)) if (value := oracle.decode(element, code)).is_finite
    ]
    values = np.array([float(step.fraction) for step in steps])
    between = (values[:-1] + values[1:]) / 2
    most = float(element.largest)
    drawn = rng.standard_normal(200) * np.exp2(rng.uniform(np.log2(most) - 40, np.log2(most) + 4, 200))
    ends = np.array([0.0, -0.0, most, -most, most * 1.01, -most * 1.07, most * 1.2, most * 8, np.inf, -np.inf])
    with np.errstate(over="ignore"):
        made = np.concatenate([values, between, np.nextafter(between.astype(np.float32), 0), drawn, ends])
        return made.astype(np.float32)[:, None]


@pytest.mark.parametrize("name", [n for n, e in sq.elements().items() if e.record.signedness != "unsigned"])
def test_a_result_is_rounded_to_any_element_of_the_catalog(name: str) -> None:
    element = ELEMENTS[name]
    form = sq.formats().get(name)
    output: Any = name
    if form is not None and form.levels:  # a format has the name
        form = output = sq.Format(f"{name}_alone", form.element)
    how = sq.Conversion() if form is None else form.conversion
    x = float32_column(np.random.default_rng(len(name)), element) + np.float32(0)  # no sum is -0
    # Wide elements with Inf overflow to it.
    words = {"rounding": how.rounding, "overflow": "special" if name == "fp32" else how.overflow}
    wanted = [
        oracle.round_to_code(element, oracle.decode(FP32, int(bits)), **words) for bits in x.view(np.uint32)[:, 0]
    ]
    for isa in ISAS:
        with forced_isa(isa):
            got = sq.matmul(x, ONE, output=output)
        codes = bits_of(got)[:, 0]
        mask = (1 << element.width) - 1  # ml_dtypes extends the sign of int4
        assert (codes.astype(np.int64) & mask).tolist() == wanted, (name, isa)


def test_a_nan_becomes_that_of_the_element_or_an_error_where_there_is_none(isa: str) -> None:
    x = np.float32([[np.nan]])
    assert bits_of(sq.matmul(x, ONE, output="bf16")).tolist() == [[0x7FC0]]
    assert bits_of(sq.matmul(x, ONE, output="e4m3")).tolist() == [[0x7F]]
    assert bits_of(sq.matmul(x, ONE, output="fp16", datapath="hopper_tf32")).tolist() == [[0x7E00]]
    with pytest.raises(ValueError, match="no code for it"):
        sq.matmul(x, ONE, output="e2m1")


def test_inf_stays_inf_where_outputs_are_wide(isa: str) -> None:
    x = np.float32([[1e30], [-np.inf], [2.5]])
    for output in ("fp32", "bf16", "fp16"):
        made = sq.matmul(x, np.float32([[1e30]]), output=output).astype(np.float32)[:, 0]
        assert np.isposinf(made[0]) and np.isneginf(made[1]) and np.isposinf(made[2]) == (output == "fp16")
    assert sq.matmul(x, ONE, output="fp32").tolist() == x.tolist()
    for output, largest in (("e5m2", 57344.0), ("e4m3", 448.0)):
        assert sq.matmul(x, ONE, output=output).astype(np.float32)[:, 0].tolist() == [largest, -largest, 2.5]


def test_the_dtype_is_the_one_whose_items_are_the_codes() -> None:
    x, t = np.float32([[1.5]]), torch.tensor([[1.5]])
    dtypes = {
        "bf16": (ml_dtypes.bfloat16, torch.bfloat16), "fp16": (np.float16, torch.float16),
        "fp32": (np.float32, torch.float32), "e4m3": (ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn),
        "e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, torch.float8_e5m2fnuz), "e2m1": (ml_dtypes.float4_e2m1fn, torch.uint8),
        "hif8": (np.uint8, torch.uint8), "tf32": (np.uint32, torch.uint32),
    }  # fmt: skip
    for output, (numpy_type, torch_type) in dtypes.items():
        made, tensor = sq.matmul(x, ONE, output=output), sq.matmul(t, torch.ones(1, 1), output=output)
        assert made.dtype == numpy_type and tensor.dtype == torch_type, output
        assert np.array_equal(bits_of(made), bits_of(tensor.view(getattr(torch, f"uint{8 * tensor.itemsize}"))))
    assert sq.matmul(x, ONE, output="e2m3").astype(np.float32) == 1.5


def test_a_result_in_blocks_is_what_the_next_product_reads(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 96), (48, 96), (7, 48)))
    a, b = sq.encode(x, "mxfp8"), sq.encode(w, "mxfp6")
    plain = sq.matmul(a, b, datapath="block_fp32")
    for output in ("mxfp4", "mxint8", "int8", "hbfp8"):
        made = sq.matmul(a, b, datapath="block_fp32", output=output)
        wanted = oracle_quantize(plain, BLOCK_FORMATS[output])
        assert made.shape == (2, 5, 48) and made.axis == 2
        assert np.array_equal(made.codes, wanted.codes), output
        assert np.array_equal(made.scales.view(f"u{made.scales.itemsize}"), wanted.scales), output
        following = sq.matmul(made, sq.encode(v, output), datapath="block_fp32")
        assert_same_bits(following, sq.matmul(sq.encode(plain, output), sq.encode(v, output), datapath="block_fp32"))
    sparse = sq.matmul(a, b, output=sq.spec("mxfp4", sparsity="2:4", scale_rule="rceil"))
    assert sparse == sq.encode(sq.matmul(a, b), "mxfp4", sparsity="2:4", scale_rule="rceil")


def test_fp16_sums_and_fp16_outputs_are_different_things(isa: str) -> None:
    codes = np.full((1, 64), 0x3C, np.uint8)  # 1.5
    small = np.full((1, 64), 0x01, np.uint8)
    a, b = np.concatenate([codes, small], axis=1), np.concatenate([codes, small], axis=1)
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": "hopper_fp8_mma_sync"}
    wide, narrow = sq.matmul(a, b, **formats), sq.matmul(a, b, result="fp16", **formats)
    assert_same_bits(sq.matmul(a, b, output="fp16", **formats), wide.astype(np.float16))
    assert narrow.dtype == np.float16 and float(wide[0, 0]) != float(narrow[0, 0]) == 144
    made = sq.matmul(a, b, result="fp16", output="mxfp4", **formats)
    assert made == sq.encode(narrow, "mxfp4")


@pytest.mark.parametrize(
    ("error", "words", "output"),
    [
        (ValueError, "unknown format 'e9m9'", "e9m9"),
        (ValueError, "output='ue4m3': codes of scales hold no results", "ue4m3"),
        (TypeError, "needed a name, a Format or a Spec", 8),
        (ValueError, "stochastic.*encode the result", "stochastic"),
    ],
)
def test_outputs_that_mean_nothing_are_refused_before_any_work(error: Any, words: str, output: Any) -> None:
    given = sq.spec("bf16", rounding="stochastic", random_bits=8) if output == "stochastic" else output
    with pytest.raises(error, match=words):
        sq.matmul(ONE, np.ones((1, 2), np.float32), output=given)  # K does not match, which comes later


def test_an_integer_result_is_no_float_and_the_machines_own_results_stay_apart() -> None:
    x = np.ones((1, 4), np.int8)
    with pytest.raises(ValueError, match="output: this datapath gives int32"):
        sq.matmul(x, x, datapath="int8_int32", output="bf16")
    with pytest.raises(ValueError, match="result='bf16': this datapath gives fp32; output= rounds to any format"):
        sq.matmul(x, x, result="bf16")
