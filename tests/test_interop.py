"""Codes and scales in the dtypes of other libraries, over the same memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import assert_same_bits

X = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)

CASES = {
    "mxfp8_e4m3": (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    "mxfp8_e5m2": (torch.float8_e5m2, ml_dtypes.float8_e5m2),
    "mxfp6_e2m3": (None, ml_dtypes.float6_e2m3fn),
    "mxfp4": (None, ml_dtypes.float4_e2m1fn),
    "bf16": (torch.bfloat16, ml_dtypes.bfloat16),
    "fp16": (torch.float16, np.float16),
    "int8": (torch.int8, np.int8),
}


def address(x: Any) -> int:
    return int(x.data_ptr() if isinstance(x, torch.Tensor) else x.ctypes.data)


@pytest.mark.parametrize("format_", CASES)
def test_codes_are_the_items_of_the_dtype_without_a_copy(format_: str) -> None:
    tensor = sq.encode(X, format_)
    scales = tensor.scale_planes[0] if tensor.scale_planes else None
    plain = sq.Format("plain", tensor.format.element)
    values = sq.BlockTensor(tensor.codes, None, None, sq.Spec(plain), "float32", "numpy").decode()
    for dtype in CASES[format_]:
        if dtype is None:
            continue
        made = tensor.codes_as(dtype)
        assert address(made) == address(tensor.codes) and made.dtype == dtype
        as_floats = made.float().numpy() if isinstance(made, torch.Tensor) else made.astype(np.float32)
        if format_ != "int8":
            assert np.array_equal(as_floats, values)
        back = sq.BlockTensor.from_codes(made, scales, format=format_)
        assert back == tensor and address(back.codes) == address(tensor.codes)
        assert back.library == ("torch" if isinstance(made, torch.Tensor) else "numpy")
    assert sq.BlockTensor.from_codes(tensor.codes, scales, format=format_) == tensor
    assert tensor.codes.flags.writeable is False


def test_scales_are_the_items_of_the_dtype_without_a_copy() -> None:
    tensor = sq.encode(X, "mxfp8")
    for dtype in (torch.float8_e8m0fnu, ml_dtypes.float8_e8m0fnu):
        made = tensor.scales_as(dtype)
        assert address(made) == address(tensor.scales) and made.dtype == dtype
        assert sq.BlockTensor.from_codes(tensor.codes, made, format="mxfp8") == tensor
    as_numbers = tensor.scales_as(torch.float8_e8m0fnu).float().numpy()
    assert np.array_equal(as_numbers, 2.0 ** (tensor.scales.astype(np.float32) - 127))
    two = sq.encode(X, "nvfp4")
    made = [two.scales_as(np.float32, level=0), two.scales_as(torch.float8_e4m3fn)]
    assert [address(one) for one in made] == [address(plane) for plane in two.scale_planes]
    assert sq.BlockTensor.from_codes(two.codes, made, format="nvfp4") == two


def test_pairs_of_fp4_are_torch_s() -> None:
    packed = sq.encode(X, "mxfp4").pack()
    made = packed.elements_as(torch.float4_e2m1fn_x2)
    assert made.dtype == torch.float4_e2m1fn_x2 and address(made) == address(packed.planes["elements"])
    eight = sq.encode(X, "mxfp8").pack()
    assert address(eight.elements_as(torch.float8_e4m3fn)) == address(eight.planes["elements"])
    half = sq.encode(np.tile(X, (4, 1)), "fp16", sparsity="2:4").pack("cutlass_sm80")
    assert np.array_equal(half.elements_as(np.float16), half.planes["elements"].view(np.float16))


def test_a_tensor_of_given_codes_decodes_and_packs_as_any_other() -> None:
    x = torch.from_numpy(X).to(torch.float8_e4m3fn)
    tensor = sq.BlockTensor.from_codes(x, torch.ones(8, 2).to(torch.float8_e8m0fnu), format="mxfp8")
    assert_same_bits(tensor.decode(), x.float())
    assert sq.unpack(tensor.pack("nvidia_128x4")) == tensor
    transposed = sq.BlockTensor.from_codes(x.T, torch.ones(2, 8).to(torch.float8_e8m0fnu), format="mxfp8", axis=0)
    assert_same_bits(transposed.decode(), x.float().T.contiguous())
    mask = np.arange(64) % 4 < 2
    kept = sq.BlockTensor.from_codes(
        np.where(mask, 0x38, 0).astype(np.uint8)[None], np.full((1, 2), 127, np.uint8), format="mxfp8", mask=mask[None]
    )
    assert kept.structured("2:4").positions.tolist() == [[0, 1] * 16]
    shared = np.from_dlpack(torch.zeros(4, 32, dtype=torch.uint8))
    assert sq.BlockTensor.from_codes(shared, np.zeros((4, 1), np.uint8), format="mxfp4").shape == (4, 32)


def test_pairs_of_fp4_come_in_too() -> None:
    tensor = sq.encode(X, "mxfp4")
    packed = tensor.pack()
    pairs, scales = packed.elements_as(torch.float4_e2m1fn_x2), tensor.scales_as(torch.float8_e8m0fnu)
    assert sq.BlockTensor.from_codes(pairs, scales, format="mxfp4") == replace(tensor, library="torch")
    planes = {"elements": pairs, "scales": scales}
    assert sq.unpack(planes, spec="mxfp4", shape=X.shape, layout="row_major") == tensor
    plain = sq.matmul(tensor.codes, tensor.codes, a_format="e2m1", b_format="e2m1")
    assert_same_bits(sq.matmul(pairs, pairs), torch.from_numpy(plain))
    with pytest.raises(TypeError, match="needed float4_e2m1fn, float4_e2m1fn_x2, uint8 codes"):
        sq.BlockTensor.from_codes(torch.ones(2, 32), scales, format="mxfp4")


def test_bytes_in_the_other_order_are_turned() -> None:
    for dtype in (">f2", ">u2"):
        given = X.astype(np.float16) if dtype == ">f2" else X.astype(np.float16).view(np.uint16)
        assert_same_bits(
            sq.BlockTensor.from_codes(given.astype(dtype), format="fp16").decode("float16"), X.astype(np.float16)
        )
    rows = sq.encode(X, "int8")
    assert isinstance(rows.scales, np.ndarray)
    assert sq.BlockTensor.from_codes(rows.codes, rows.scales.astype(">f4"), format="int8") == rows
    halves = sq.encode(X, "q8_0")
    assert isinstance(halves.scales, np.ndarray)
    turned = halves.scales.view(np.float16).astype(">f2")
    assert sq.BlockTensor.from_codes(halves.codes, turned, format="q8_0") == halves


def test_elements_of_float32_are_codes_too() -> None:
    plain = sq.Format("fp32", sq.elements()["fp32"].record)
    assert_same_bits(sq.BlockTensor.from_codes(X, format=plain).decode(), X)


def test_a_mask_is_what_the_codes_and_the_pattern_say() -> None:
    mask = np.tile([True, False, True, False], (1, 8))
    one = np.uint8([[127]])
    codes = np.where(mask, 3, 8).astype(np.uint8)  # -0 is a zero too
    made = sq.BlockTensor.from_codes(codes, one, format="mxfp4", mask=mask, sparsity="2:4")
    assert_same_bits(made.decode() + 0, np.where(mask, np.float32(1.5), 0).astype(np.float32))
    for given, message in (
        ({"codes": np.ones_like(codes), "mask": mask}, r"codes: 0x1 at \[0, 1\], where the mask says pruned"),
        ({"codes": codes, "mask": mask, "sparsity": "1:4"}, "the mask is not 1:4"),
        ({"codes": codes, "sparsity": "2:4"}, "needed mask=, which elements were kept"),
    ):
        with pytest.raises(ValueError, match=message):
            sq.BlockTensor.from_codes(scales=one, format="mxfp4", **given)
    affine = sq.encode(X, "int8_affine", mask=X > 0)
    again = sq.BlockTensor.from_codes(affine.codes, list(affine.scale_planes), format="int8_affine", mask=X > 0)
    assert again == affine


def test_dtypes_of_other_codes_are_refused() -> None:
    tensor = sq.encode(X, "mxfp8")
    for call, message in (
        (lambda: tensor.codes_as(torch.float8_e5m2), "codes: dtype float8_e5m2 is not their code; float8_e4m3fn is"),
        (lambda: tensor.codes_as(np.float32), "dtype float32 is not their code"),
        (lambda: tensor.scales_as(torch.float8_e4m3fn), "is not their code; float8_e8m0fnu is"),
        (lambda: sq.BlockTensor.from_codes(X, tensor.scales, format="mxfp8"), "needed float8_e4m3fn, uint8 codes"),
        (lambda: sq.BlockTensor.from_codes(tensor.codes, X, format="mxfp8"), "needed float8_e8m0fnu, uint8 codes"),
        (lambda: tensor.pack("bytes_high").elements_as(torch.float8_e4m3fn), "has no plain codes of 8 bits"),
        (lambda: sq.encode(X, "mxfp6").pack().elements_as(ml_dtypes.float6_e2m3fn), "has no plain codes of 6 bits"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(ValueError, match="scales: 0 levels; mxfp8_e4m3 has 1"):
        sq.BlockTensor.from_codes(tensor.codes, format="mxfp8")
    twos = np.full((8, 64), 2, np.uint8).view(np.bool_)
    with pytest.raises(ValueError, match="bytes are not 0 or 1"):
        sq.BlockTensor.from_codes(tensor.codes, tensor.scales, format="mxfp8", mask=twos)
    with pytest.raises(ValueError, match="level=1: mxfp8_e4m3 has 1"):
        tensor.scales_as(np.float32, level=1)
    with pytest.raises(ValueError, match=r"needed C-contiguous uint8 \(8, 2\)"):
        sq.BlockTensor.from_codes(tensor.codes, tensor.scales[:4], format="mxfp8")


def test_scale_codes_of_more_bits_than_the_scale_has_are_refused() -> None:
    tensor = sq.encode(X, "nvfp4_one_level")
    assert isinstance(tensor.scales, np.ndarray)
    with pytest.raises(ValueError, match=r"scales: a code of 0x[89a-f][0-9a-f] has more than 7 bits"):
        sq.BlockTensor.from_codes(tensor.codes, tensor.scales | 0x80, format="nvfp4_one_level")
    negative = torch.from_numpy(tensor.scales | 0x80).view(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="more than 7 bits"):
        sq.BlockTensor.from_codes(torch.from_numpy(tensor.codes.copy()), negative, format="nvfp4_one_level")
