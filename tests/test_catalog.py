"""The rows of the catalog beside the arithmetic of their makers, written with NumPy, torch and gfloat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gfloat import decode_ndarray

import oracle
import sparq_sim as sq
from conftest import (
    Array,
    assert_same_bits,
    codes_tensor,
    element_record,
    plain_format,
    user_format,
)
from known_differences import element_named
from witnesses import GFLOAT_FORMATS


@pytest.mark.parametrize("name", [name for name in GFLOAT_FORMATS if name not in oracle.SCALE_CODES])
def test_every_code_decodes_as_in_gfloat(name: str, isa: str) -> None:
    element = element_named(name)
    codes = np.arange(1 << element.width)
    wanted = decode_ndarray(GFLOAT_FORMATS[name], codes)
    got = codes_tensor(codes, plain_format(element)).decode("float64")
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    assert_same_bits(got[~np.isnan(got)], wanted[~np.isnan(got)])


def inputs(rng: np.random.Generator, length: int) -> Array:
    """Rows of normal numbers of many scales, one of zeros, and powers of two."""
    x = rng.standard_normal((40, length)) * 2.0 ** rng.integers(-30, 30, (40, 1))
    x[3] = 0
    x[4] = 2.0 ** rng.integers(-9, 9, length)
    return x.astype(np.float32)


def test_the_catalog_and_the_oracle_name_the_same_formats() -> None:
    ours, theirs = sq.formats(), oracle.BLOCK_FORMATS
    assert set(ours) == set(theirs)
    for name, fmt in theirs.items():
        record = user_format(fmt)
        assert (ours[name].element, ours[name].levels) == (element_record(fmt.element), record.levels), name
        assert ours[name].conversion == record.conversion or not record.levels, name
        assert ours[name].conversion.overflow == record.conversion.overflow, name


@pytest.mark.parametrize(
    ("name", "block", "magnitude_bits", "lowest"),
    [
        ("mxint4", 32, 3, -7),
        ("msfp12", 16, 3, -7),
        ("msfp13", 16, 4, -15),
        ("msfp14", 16, 5, -31),
        ("msfp15", 16, 6, -63),
        ("msfp16", 16, 7, -127),
    ],
)
def test_a_shared_exponent_is_that_of_the_largest_magnitude(
    name: str, block: int, magnitude_bits: int, lowest: int, isa: str
) -> None:
    x = inputs(np.random.default_rng(1), 3 * block)
    blocks = x.astype(np.float64).reshape(40, 3, block)
    # frexp's exponent is one more than floor(log2): the largest magnitude has its leading bit in the top one.
    exponent = np.frexp(np.abs(blocks).max(-1, keepdims=True))[1] - magnitude_bits
    integers = np.clip(np.rint(np.ldexp(blocks, -exponent)), lowest, -lowest)
    wanted = np.ldexp(integers, exponent).reshape(x.shape)
    got = sq.emulate(x, name)
    assert np.array_equal(got, wanted)
    stored = sq.formats()[name].bits_per_element()
    assert stored == magnitude_bits + 1 + 8 / block
    assert not name.startswith("msfp") or magnitude_bits == int(name.removeprefix("msfp")) - 9


@pytest.mark.parametrize(("name", "block"), [("int4", 256), ("int4_g128", 128), ("int8", 256)])
def test_symmetric_integers_divide_by_the_scale_and_round_to_even(name: str, block: int, isa: str) -> None:
    x = inputs(np.random.default_rng(2), 256)
    groups = x.reshape(40, -1, block)
    top = np.float32(127 if name == "int8" else 7)
    scales = np.abs(groups).max(-1, keepdims=True) / top
    scales[scales == 0] = 1
    integers = np.rint(groups / scales)
    got = sq.encode(x, name)
    assert np.abs(integers).max() == top
    assert_same_bits(got.scales, scales[..., 0])
    mask = 0xFF if name == "int8" else 0xF
    assert np.array_equal(got.codes, integers.reshape(x.shape).astype(np.int64) & mask)
    # Two's complement has no negative zero.
    assert_same_bits(sq.emulate(x, name), (integers * scales + np.float32(0)).reshape(x.shape))


def test_fp8_in_blocks_of_128_is_amax_over_448_cast_by_torch(isa: str) -> None:
    x = inputs(np.random.default_rng(3), 384)
    tiles = torch.from_numpy(x).reshape(40, 3, 128)
    scales = tiles.abs().amax(-1, keepdim=True) / 448.0
    scales[scales == 0] = 1
    codes = (tiles / scales).to(torch.float8_e4m3fn)
    got = sq.encode(x, "fp8_e4m3_1x128")
    assert got.scales is not None and got.scales.shape == (40, 3)
    assert_same_bits(got.scales, scales[..., 0])
    assert_same_bits(got.codes, codes.view(torch.uint8).numpy().reshape(x.shape))
    assert_same_bits(sq.emulate(x, "fp8_e4m3_1x128"), (codes.float() * scales).numpy().reshape(x.shape))


def test_tf32_keeps_the_upper_19_bits_of_a_float32(isa: str) -> None:
    # Two ties at 1, one step more, a subnormal, the largest float32, and what rounds below it.
    x = np.uint32([0x3F801000, 0x3F803000, 0x3F801001, 0x80000001, 0x7F7FFFFF, 0x7F7FEFFF]).view(np.float32)
    wanted = np.uint32([0x3F800000, 0x3F804000, 0x3F802000, 0x80000000, 0x7F800000, 0x7F7FE000])
    assert_same_bits(sq.emulate(x, "tf32").view(np.uint32), wanted)
    assert sq.encode(x, "tf32").codes.tolist() == (wanted >> 13).tolist()
