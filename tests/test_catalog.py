"""The rows of the catalog beside the arithmetic of their makers, written with NumPy, torch and gfloat."""

from __future__ import annotations

import en_dtypes
import gguf.quants
import numpy as np
import pytest
import torch
from gfloat import decode_ndarray

import oracle
import sparq_sim as sq
from conftest import (
    Array,
    assert_same_bits,
    assert_same_integers,
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


def tricky_float32(rng: np.random.Generator) -> Array:
    """Every bfloat16 pattern, their neighbours, every midpoint of two, and random bits."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    drawn = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32)
    patterns: Array = np.concatenate([high, high + 1, high - 1, high + 0x8000, high + 0x7FFF, drawn])
    return patterns.view(np.float32)


def test_hif8_is_that_of_en_dtypes(isa: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    wanted = codes.view(en_dtypes.hifloat8).astype(np.float32)
    decoded = codes_tensor(codes, sq.formats()["hif8"]).decode()
    assert np.isnan(decoded[0x80]) and np.isnan(wanted[0x80])
    assert_same_bits(np.delete(decoded, 0x80), np.delete(wanted, 0x80))
    x = tricky_float32(np.random.default_rng(4))
    with np.errstate(all="ignore"):
        cast = x.astype(en_dtypes.hifloat8).view(np.uint8)
    assert_same_integers(sq.encode(x, "hif8").codes, cast, "codes")


def ggml_blocks(name: str, x: Array) -> tuple[Array, Array, Array]:
    """float16 scales, integers and values of the gguf package, in the order of the elements."""
    quantizer = {"q8_0": gguf.quants.Q8_0, "q4_0": gguf.quants.Q4_0}[name]
    raw = quantizer.quantize(x)
    blocks = raw.reshape(*x.shape[:-1], -1, 34 if name == "q8_0" else 18)
    scales = blocks[..., :2].copy().view(np.uint16)[..., 0]
    stored = blocks[..., 2:]
    if name == "q4_0":  # the low halves come first, and 8 stands for 0
        stored = (np.concatenate([stored & 15, stored >> 4], axis=-1) - 8) & 15
    return scales, stored.reshape(x.shape), quantizer.dequantize(raw)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_blocks_of_ggml_are_those_of_gguf(name: str, isa: str) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((3000, 64)) * 2.0 ** rng.integers(-40, 20, (3000, 1))).astype(np.float32)
    x[:400] = rng.integers(-16, 17, (400, 64)) / 2  # ties, and largest magnitudes of both signs
    x[7], x[8, ::2], x[9] = 0, 0, 1e-35
    # Both kinds of zero scales, and what float16 does not reach.
    x[10:20] *= np.float32(1e-30)
    x[20:30] *= np.float32(1e25)
    with np.errstate(all="ignore"):
        scales, codes, values = ggml_blocks(name, x)
    got = sq.encode(x, name)
    assert (scales & 0x7FFF == 0).any() and (scales & 0x7FFF == 0x7C00).any()
    assert_same_integers(got.scales, scales, "scales")
    assert_same_integers(got.codes, codes, "codes")
    numbers = ~np.isnan(values)
    assert np.array_equal(np.isnan(got.decode()), ~numbers)
    assert_same_bits(got.decode()[numbers], values[numbers])
    assert_same_bits(sq.emulate(x, name), got.decode())


def test_a_block_of_negative_zeros_has_the_scale_of_ggml_which_is_not_that_of_gguf(isa: str) -> None:
    # In C the largest magnitude starts as +0 and nothing exceeds it; NumPy takes the first element itself.
    x = np.full(32, -0.0, np.float32)
    assert sq.encode(x, "q4_0").scales.tolist() == [0x8000]
    assert ggml_blocks("q4_0", x[None])[0].tolist() == [[0x0000]]


def bfloat16(x: Array) -> Array:
    """float64 numbers to bfloat16, nearest even."""
    return torch.from_numpy(np.asarray(x, np.float64)).to(torch.bfloat16).double().numpy()


def test_hif4_is_the_arithmetic_of_its_authors(isa: str) -> None:
    rng = np.random.default_rng(6)
    x = bfloat16(rng.standard_normal((300, 192)) * 2.0 ** rng.integers(-50, 15, (300, 1)))
    x[0], x[1], x[2, :64], x[3, 64:] = 0, 7, 2.0**-60, 3e6
    blocks = np.abs(x).reshape(300, 3, 8, 2, 4)
    of_four = blocks.max(-1)
    of_eight = of_four.max(-1)
    scale = np.clip(bfloat16(of_eight.max(-1) * bfloat16(1 / 7)), 2.0**-48, 1.5 * 2.0**15)
    step = 2.0 ** (np.floor(np.log2(scale)) - 2)
    scale = np.rint(scale / step) * step
    times = bfloat16(1 / scale)
    doubled = np.where(of_eight * times[..., None] >= 4, 2.0, 1.0)[..., None]
    again = np.where(of_four * times[..., None, None] / doubled >= 2, 2.0, 1.0)
    factor = (doubled * again)[..., None]
    quarters = np.minimum(np.floor(blocks * times[..., None, None, None] / factor * 4 + 0.5), 7)
    wanted = (quarters / 4 * factor * scale[..., None, None, None]).reshape(x.shape)
    got = sq.encode(x.astype(np.float32), "hif4")
    assert np.array_equal(got.decode("float64"), np.where(np.signbit(x), -wanted, wanted))
    # As codes: 48 + 15 binades of four, from 2^-48 on.
    exponent = np.floor(np.log2(scale))
    codes = (exponent + 48) * 4 + (scale / 2.0**exponent - 1) * 4
    assert_same_integers(got.scale_planes[0], codes.astype(np.int64), "scales")
    assert_same_integers(got.scale_planes[1], (doubled[..., 0].reshape(300, 24) > 1).astype(np.int64), "of 8")
    assert_same_integers(got.scale_planes[2], (again.reshape(300, 48) > 1).astype(np.int64), "of 4")
    assert sq.formats()["hif4"].bits_per_element() == 4.5


@pytest.mark.parametrize("rule", ["floor", "ceil"])
def test_the_float32_logarithm_is_that_of_numpy_and_torch_near_powers_of_two(rule: str, isa: str) -> None:
    exponents = np.arange(-126, 127, dtype=np.int64)
    near = np.concatenate([np.arange(64), (1 << 23) - 1 - np.arange(64)])
    amax = ((exponents[:, None] + 127 << 23) + near).astype(np.uint32).view(np.float32).reshape(-1, 1)
    whole = {"floor": np.floor, "ceil": np.ceil}[rule]
    theirs = whole(np.log2(amax)).astype(np.int64)
    assert np.array_equal(theirs, whole(torch.from_numpy(amax).log2().numpy()).astype(np.int64))
    exact = np.frexp(amax)[1] - 1 + ((rule == "ceil") & (np.frexp(amax)[0] != 0.5))
    assert 500 < np.count_nonzero(theirs != exact) < 20_000
    got = sq.encode(amax, "mxfp4", scale_rule=rule, amax_exponent="log2").scales
    assert_same_integers(got, np.clip(theirs - 2, -127, 127) + 127, "scales")


def test_rceil_by_the_logarithm_of_a_quotient(isa: str) -> None:
    # Just above 448 * 2^k and 57344 * 2^k, where the logarithm of the quotient comes out as an integer.
    for name, top in (("mxfp8_e4m3", 448.0), ("mxfp8_e5m2", 57344.0), ("mxfp4", 6.0)):
        amax = np.concatenate([np.float32(top * 2.0**k) * (1 + np.arange(-40, 40, dtype=np.float32) * 2.0**-23)
                               for k in range(-60, 60)]).astype(np.float32)[:, None]  # fmt: skip
        wanted = np.ceil(np.log2(amax / np.float32(top))).astype(np.int64) + 127
        got = sq.encode(amax, name, scale_rule="rceil", amax_exponent="log2").scales
        assert_same_integers(got, wanted, name)
        assert not np.array_equal(sq.encode(amax, name, scale_rule="rceil").scales, wanted)
