"""Products have a fast way for numbers near each other and a general one for the rest: rows and panels of both kinds in
one product, and what lies on the border between them, have the bits of the reference on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sparq_sim as sq
from conftest import ISAS, Array, bits_of, forced_isa


def assert_equal_to_reference(a: Array, b: Array, **keywords: Any) -> Array:
    with forced_isa("reference"), np.errstate(all="ignore"):
        wanted = bits_of(sq.matmul(a, b, **keywords))
    for name in ISAS:
        with forced_isa(name):
            got = bits_of(sq.matmul(a, b, **keywords))
        different = np.argwhere(got != wanted)
        assert not len(different), (name, keywords.get("datapath"), different[:4].tolist())
    return wanted


def normal(rng: np.random.Generator, shape: tuple[int, int], spread: int) -> Array:
    """Normal numbers, each times a power of two up to 2^spread or down to 2^-spread."""
    exponents = rng.integers(-spread, spread + 1, shape)
    return (rng.standard_normal(shape) * 2.0**exponents).astype(np.float32)


def bf16(values: Array) -> Array:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def mixed_rows(rng: np.random.Generator, rows: int, k: int) -> Array:
    """bfloat16 codes of rows from very near to very far apart; some hold zeros, Inf or NaN alone among numbers."""
    values = np.vstack([normal(rng, (1, k), [0, 20, 31, 32, 60, 120][i % 6]) for i in range(rows)])
    values[2 % rows] = 0
    codes = bf16(values)
    codes[rng.random(codes.shape) < 0.1] = 0
    codes[5 % rows, -1], codes[7 % rows, 0] = 0x7F80, 0x7FC1
    return codes


@pytest.mark.parametrize("datapath", ["hopper_16", "ampere_16", "cdna3_16"])
@pytest.mark.parametrize("k", [1, 17, 300])
def test_rows_of_every_spread_in_one_product_have_the_bits_of_the_reference(datapath: str, k: int) -> None:
    rng = np.random.default_rng(k)
    a, b = mixed_rows(rng, 9, k), mixed_rows(rng, 35, k)
    c = normal(rng, (9, 35), 126)
    c[0], c[1, :8], c[3, 3] = 0, -0.0, np.inf
    c[4] = 2.0 ** np.arange(-149, -149 + 35)
    for start in (None, c):
        assert_equal_to_reference(a, b, datapath=datapath, a_format="bf16", b_format="bf16", c=start)


@pytest.mark.parametrize("exponent", [*range(-72, -32, 4), 46, 54, 62])
@pytest.mark.parametrize("datapath", ["hopper_16", "cdna3_16"])
def test_products_near_either_end_of_float32_have_the_bits_of_the_reference(datapath: str, exponent: int) -> None:
    """On the fast way no sum, cut or not, may reach the subnormals or overflow."""
    rng = np.random.default_rng(abs(exponent))
    a = bf16((normal(rng, (6, 64), 2) * 2.0**exponent).astype(np.float32))
    c = (rng.standard_normal((6, 6)) * 2.0 ** (2 * exponent + rng.integers(-30, 2, (6, 6)))).astype(np.float32)
    for start in (None, c):
        assert_equal_to_reference(a, a, datapath=datapath, a_format="bf16", b_format="bf16", c=start)


@pytest.mark.parametrize("datapath", ["hopper_fp8", "hopper_16"])
def test_fp16_accumulators_that_overflow_on_the_way_have_the_bits_of_the_reference(datapath: str) -> None:
    rng = np.random.default_rng(3)
    element = "e4m3" if datapath == "hopper_fp8" else "fp16"
    large = {"e4m3": np.uint8(0x7E), "fp16": np.uint16(0x5C00)}[element]  # 448, 256
    negative = large | large.dtype.type(1 << (8 * large.itemsize - 1))
    a = np.full((5, 128), large)
    b = np.where(rng.random((20, 128)) < np.linspace(0, 1, 20)[:, None], large, negative)
    wanted = assert_equal_to_reference(a, b, datapath=datapath, a_format=element, b_format=element, result="fp16")
    assert (wanted == 0x7C00).any() and (wanted == 0xFC00).any()


@pytest.mark.parametrize("element", ["e2m1", "e2m3", "e3m2", "int8"])
@pytest.mark.parametrize("block", [1, 3, 16, 32])
def test_integer_blocks_under_any_scales_have_the_bits_of_the_reference(element: str, block: int) -> None:
    """Scales whose product leaves float32 or is subnormal, NaN scales, scales of blocks of zeros; odd ends."""
    rng = np.random.default_rng(block)
    width, blocks = {"e2m1": 4, "e2m3": 6, "e3m2": 6, "int8": 8}[element], 7
    k = blocks * block
    a, b = (rng.integers(0, 1 << width, (rows, k)).astype(np.uint8) for rows in (11, 37))
    a_scales, b_scales = (rng.integers(120, 135, (rows, blocks)).astype(np.uint8) for rows in (11, 37))
    a[2], a[3, : (k + 1) // 2], a_scales[2], a_scales[3, :] = 0, 0, 0, 0
    a_scales[4], a_scales[5], a_scales[6, -1] = 2, 250, 255
    a_scales[7] = rng.integers(0, 255, blocks)
    b_scales[1], b_scales[20] = 254, 0
    c = normal(rng, (11, 37), 100)
    c[8], c[9, 0] = -0.0, np.nan
    # Powers of two that are no float32 numbers, whose products with sums are.
    a_scales[10], b_scales[30:36], c[10, 30:] = 47, np.arange(47, 59, 2)[:, None], 0
    for start in (None, c):
        for datapath in ("block_fp32", "exact"):
            keywords: dict[str, Any] = {"a_format": element, "b_format": element, "c": start}
            assert_equal_to_reference(a, b, datapath=datapath, a_scales=a_scales, b_scales=b_scales, **keywords)


@pytest.mark.parametrize(("datapath", "block"), [("blackwell_mxf4", 32), ("blackwell_nvf4", 16)])
@pytest.mark.parametrize("blocks", [1, 3, 14])
def test_presums_under_any_scales_have_the_bits_of_the_reference(datapath: str, block: int, blocks: int) -> None:
    rng = np.random.default_rng(blocks)
    k = blocks * block
    a, b = (rng.integers(0, 16, (rows, k)).astype(np.uint8) for rows in (10, 33))
    a_scales, b_scales = (rng.integers(0, 256, (rows, blocks)).astype(np.uint8) for rows in (10, 33))
    a_scales[:8] = np.where(a_scales[:8] & 0x7F == 0x7F, 0x30, a_scales[:8])
    b_scales[:30] = np.where(b_scales[:30] & 0x7F == 0x7F, 0x30, b_scales[:30])
    a[1], a_scales[2] = 0, 0
    c = normal(rng, (10, 33), 120)
    c[3], c[4, 4] = 0, np.inf
    for start in (None, c):
        keywords: dict[str, Any] = {"a_format": "e2m1", "b_format": "e2m1", "c": start}
        assert_equal_to_reference(a, b, datapath=datapath, a_scales=a_scales, b_scales=b_scales, **keywords)


@pytest.mark.parametrize("shape", [(1, 1, 1), (257, 3, 33), (3, 290, 70), (40, 17, 4100)])
def test_blocks_of_rows_panels_and_parts_of_k_meet_without_a_seam(shape: tuple[int, int, int]) -> None:
    """Shapes beyond what one block of rows, one panel and one part of K hold."""
    m, n, k = shape
    rng = np.random.default_rng(m)
    fp4 = [rng.integers(0, 16, (rows, k)).astype(np.uint8) for rows in (m, n)]
    fp8 = [(rng.integers(0x20, 0x50, (rows, k)) | rng.choice([0, 0x80], (rows, k))).astype(np.uint8) for rows in (m, n)]
    corners = {(0, 0), (m - 1, n - 1), (m // 2, n // 2), (m - 1, 0), (0, n - 1)}
    for element, (a, b) in {"e2m1": fp4, "e4m3": fp8}.items():
        for datapath in ("block_fp32", "fma32", *(["hopper_fp8_promoted"] if element == "e4m3" else [])):
            keywords: dict[str, Any] = {"datapath": datapath, "a_format": element, "b_format": element}
            whole = bits_of(sq.matmul(a, b, **keywords))
            with forced_isa("reference"):
                for i, j in corners:
                    one = bits_of(sq.matmul(a[i : i + 1], b[j : j + 1], **keywords))
                    assert one[0, 0] == whole[i, j], (keywords, i, j)
