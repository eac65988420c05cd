"""Packed bytes against the libraries that define them: torch, gguf, ml_dtypes, and recorded torchao, Quark and
compressed-tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from torch.sparse import _semi_structured_conversions as semi_structured

import sparq_sim as sq
from conftest import Array, bits_of

GOLDEN = Path(__file__).parent / "golden" / "quant"


def golden(name: str) -> dict[str, Array]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def tensor_of(codes: Array, format_: str, scales: Any = None) -> sq.BlockTensor:
    made = sq.formats()[format_]
    return sq.BlockTensor(np.ascontiguousarray(codes), scales, None, sq.Spec(made), "float32", "numpy")


# torch, run here

SEMI_STRUCTURED = {
    "fp16": (torch.float16, "2:4", "cutlass_sm80"),
    "bf16": (torch.bfloat16, "2:4", "cutlass_sm80"),
    "int8": (torch.int8, "2:4", "cutlass_sm80_8bit"),
    "fp32": (torch.float32, "1:2", "cutlass_sm80_tf32"),
}
FP32 = sq.Format("fp32", sq.ElementFormat(exponent_bits=8, mantissa_bits=23, bias=127, specials="ieee"))


@pytest.mark.parametrize("name", SEMI_STRUCTURED)
def test_semi_structured_bytes_are_torch_s(name: str) -> None:
    dtype, pattern, layout = SEMI_STRUCTURED[name]
    rng = np.random.default_rng(1)
    for lines, length in ((32, 64), (64, 128), (96, 320)):
        # Groups of every number of non-zeros that fits, the kept ones never zero.
        n, m = map(int, pattern.split(":"))
        counts = rng.integers(0, n + 1, (lines, length // m))
        keep = rng.random((lines, length // m, m)).argsort(-1) < counts[..., None]
        dense = (rng.integers(1, 100, (lines, length)) * keep.reshape(lines, length)).astype(np.float32)
        ours = torch.from_numpy(dense).to(dtype)
        stored, metadata = semi_structured.sparse_semi_structured_from_dense_cutlass(ours)
        if name == "int8":
            scales = np.ones((lines, 1), np.float32)
            tensor = sq.encode(dense, "int8", mask=dense != 0, scales=scales)
        else:
            tensor = sq.encode(dense, FP32 if name == "fp32" else name, mask=dense != 0)
        packed = tensor.structured(pattern).pack(layout)
        assert packed.planes["elements"].tobytes() == bits_of(stored).tobytes()
        assert packed.planes["positions"].tobytes() == metadata.numpy().tobytes()
        assert sq.unpack(packed).codes.tobytes() == tensor.codes.tobytes()


def test_recorded_semi_structured_bytes() -> None:
    made = golden("torch_sparse_cutlass/nm_2of4_fp16__from_dense_cutlass")
    x = made["pruned"]
    packed = sq.encode(x, "fp16", mask=x != 0).structured("2:4").pack("cutlass_sm80")
    assert packed.planes["positions"].tobytes() == made["meta"].tobytes()
    # Where torch fills up a group with a -0 of its input, ours is a pruned element: +0.
    values = made["values"]
    differ = packed.planes["elements"].view(np.uint16) != values.view(np.uint16)
    assert 0 < differ.sum() < 100 and bool((values.view(np.uint16)[differ] == 0x8000).all())
    assert bool((packed.planes["elements"].view(np.uint16)[differ] == 0).all())


def test_float8_tensors_of_torch_hold_the_same_bytes() -> None:
    x = np.random.default_rng(2).standard_normal((8, 32), dtype=np.float32)
    plain = sq.Format("e4m3", sq.elements()["e4m3"])
    packed = sq.encode(x, plain).pack("bytes")
    assert (
        packed.planes["elements"].tobytes()
        == torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
    )


# gguf, run here


def gguf_scales(x: Array, blocks: Array, format_: str) -> sq.BlockTensor:
    """Our tensor of the codes that gguf chose: its own bytes, read by us."""
    layout = f"gguf_{format_}"
    spec = sq.Spec(sq.formats()[{"nvfp4": "nvfp4_one_level"}.get(format_, format_)])
    return sq.unpack({"elements": blocks}, spec=spec, shape=x.shape, layout=layout)


@pytest.mark.parametrize("kind", ("Q8_0", "Q4_0", "MXFP4"))
def test_gguf_blocks_are_gguf_s(kind: str) -> None:
    x = np.random.default_rng(3).standard_normal((16, 96), dtype=np.float32)
    quant = gguf.GGMLQuantizationType[kind]
    blocks = gguf.quants.quantize(x, quant)
    tensor = gguf_scales(x, blocks, kind.lower())
    assert tensor.pack(f"gguf_{kind.lower()}").planes["elements"].tobytes() == blocks.tobytes()
    assert tensor.decode(inexact="round").tobytes() == gguf.quants.dequantize(blocks, quant).tobytes()
    if kind != "MXFP4":  # gguf rounds ties of MXFP4 down
        like = {"Q8_0": "q8_0", "Q4_0": "q4_0"}[kind]
        assert sq.encode(x, like).pack(f"gguf_{like}").planes["elements"].tobytes() == blocks.tobytes()


def test_gguf_reads_our_nvfp4_blocks() -> None:
    x = np.random.default_rng(4).standard_normal((4, 128), dtype=np.float32)
    tensor = sq.encode(x, "nvfp4_one_level")
    blocks = tensor.pack("gguf_nvfp4").planes["elements"]
    assert blocks.shape == (1, 4 * 2 * 36)
    read = gguf.quants.dequantize(blocks.reshape(4, 72), gguf.GGMLQuantizationType.NVFP4)
    # gguf has no -0.
    assert np.array_equal(read, tensor.decode(inexact="round"))


# ml_dtypes, run here


@pytest.mark.parametrize("element", ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e5m2"))
def test_ml_dtypes_holds_the_same_bytes(element: str) -> None:
    x = np.random.default_rng(5).standard_normal((4, 32), dtype=np.float32)
    dtype = np.dtype(getattr(ml_dtypes, element))
    plain = sq.Format(element, sq.elements()[element.split("_")[1].removesuffix("fn")])
    packed = sq.encode(x, plain, overflow="saturate").pack("bytes")
    assert packed.planes["elements"].tobytes() == x.astype(dtype).tobytes()


# Recorded


@pytest.mark.parametrize(
    "name",
    ("torchao/pack_fp4__pack_uint4", "amd_quark/pack_fp4__Pack_fp4", "compressed_tensors/pack_fp4__pack_fp4_to_uint8"),
)
def test_recorded_pairs_of_fp4(name: str) -> None:
    made = golden(name)
    packed = tensor_of(made["codes"].reshape(1, 32), "mxfp4", np.full((1, 1), 127, np.uint8)).pack("row_major")
    assert packed.planes["elements"].tobytes() == made["packed"].tobytes()


@pytest.mark.parametrize(
    "name",
    (
        "amd_quark/pack_fp6_e2m3__Pack_fp6",
        "amd_quark/pack_fp6_e3m2__Pack_fp6",
        "compressed_tensors/pack_fp6_e2m3__pack_fp6_to_uint8",
    ),
)
def test_recorded_streams_of_fp6(name: str) -> None:
    made = golden(name)
    format_ = "mxfp6_e3m2" if "e3m2" in name else "mxfp6_e2m3"
    packed = tensor_of(made["codes"].reshape(2, 32), format_, np.full((2, 1), 127, np.uint8)).pack("row_major")
    assert packed.planes["elements"].tobytes() == made["packed"].tobytes()


@pytest.mark.parametrize("element", ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2"))
def test_recorded_blocks_of_quark(element: str) -> None:
    kind = "fp4" if element == "mxfp4" else "fp6"
    made = golden(f"amd_quark/pack_{element}__Pack_mx{kind}")
    scales = np.frexp(made["values"][:, :1])[1] - 1 + 127
    tensor = tensor_of(made["codes"].reshape(-1, 32), element, scales.astype(np.uint8))
    packed = tensor.pack(f"quark_mx{kind}")
    assert packed.planes["elements"].tobytes() == made["packed"].tobytes()
    assert sq.unpack(packed) == tensor


@pytest.mark.parametrize("size", ("100x5", "128x4", "256x16"))
def test_recorded_tiles_of_scales(size: str) -> None:
    made = golden(f"torchao/scale_swizzle_{size}__to_blocked")
    rows, columns = made["scales"].shape
    tensor = tensor_of(np.zeros((rows, 32 * columns), np.uint8), "mxfp8_e4m3", made["scales"])
    assert tensor.pack("nvidia_128x4").planes["scales"].tobytes() == made["swizzled"].tobytes()


def test_recorded_bitmask_of_compressed_tensors() -> None:
    made, x = golden("compressed_tensors_0_10_2/nm_2of4__sparse24_bitmask"), golden("inputs_nm")["x"]
    packed = sq.encode(x, "fp16", mask=made["mask"]).structured("2:4").pack("compressed_tensors_sparse24")
    assert packed.planes["elements"].tobytes() == made["values"].tobytes()
    assert packed.planes["positions"].tobytes() == made["bitmask"].tobytes()
