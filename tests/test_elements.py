"""Every code of every element of the catalog: what it decodes to, and that it comes back."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np
import pytest
import torch

import oracle
import sparq_sim as sq
from conftest import Array, assert_same_bits, assert_same_integers, bits_of, codes_tensor, element_record
from oracle import ELEMENTS
from witnesses import TYPES

#: Elements that can stand for themselves; the others are codes of scales.
NAMES = tuple(name for name in sq.elements() if name not in oracle.SCALE_CODES)


def codes_of(name: str, isa: str = "") -> Array:
    """All codes; of wider ones the corners of each exponent and random ones; a sample for the slow reference."""
    element = ELEMENTS[name]
    if element.width <= 16:
        codes = np.arange(1 << element.width, dtype=np.uint32)
        thin = isa == "reference" and element.width == 16
        return codes[np.unique(np.r_[0 : codes.size : 23, 0:300, 0x7B00:0x8100, 0xFB00:0x10000])] if thin else codes
    fields = np.arange(1 << element.exponent_bits, dtype=np.uint32) << element.mantissa_bits
    top, half = (1 << element.mantissa_bits) - 1, 1 << (element.mantissa_bits - 1)
    corners = (fields[:, None] | np.uint32([0, 1, 2, half, half - 1, half + 1, top - 1, top])).ravel()
    both = np.concatenate([corners, corners | np.uint32(element.sign_bit)])
    return np.concatenate([both, np.random.default_rng(1).integers(0, 1 << element.width, 3000, dtype=np.uint32)])


def plain(name: str) -> sq.Format:
    """The element of the catalog alone; overflow must be able to give Inf back."""
    record = sq.elements()[name].record
    overflow = "special" if record.has_nan else "saturate"
    return sq.Format(name, record, (), sq.Conversion(overflow=overflow))


def test_the_catalog_and_the_oracle_name_the_same_elements() -> None:
    ours = {name: element.record for name, element in sq.elements().items()}
    theirs = {name: element_record(element) for name, element in ELEMENTS.items() if name != "fp64"}
    assert ours == theirs


@pytest.mark.parametrize("name", sq.elements())
def test_what_a_record_says_of_itself_is_what_the_oracle_derives(name: str) -> None:
    record, element = sq.elements()[name].record, ELEMENTS[name]
    assert record.code_bits == element.width
    assert record.code_bytes == (1 if element.width <= 8 else 2 if element.width <= 16 else 4)
    assert record.max_code == element.largest_code
    assert (record.emin, record.emax) == (element.emin, element.emax)
    assert record.nan_code == element.nan_code
    assert record.has_nan == (element.nan_code is not None)
    assert record.infinity_code == element.infinity_code
    assert record.has_infinity == (element.infinity_code is not None)
    assert record.is_power_of_two_scale == oracle.is_power_of_two_scale(element)
    for code in range(1 << min(element.width, 12)):
        assert record.is_nan(code) == (oracle.decode(element, code).kind == "nan")


@pytest.mark.parametrize("name", sq.elements())
def test_a_record_says_the_value_of_every_code_of_elements_and_scales(name: str) -> None:
    record, codes = sq.elements()[name].record, codes_of(name)
    got = np.array([record.value(int(code)) for code in codes])
    wanted = np.array([decoded(name, "fp64")[int(code)] for code in codes], dtype=np.uint64)
    assert_same_integers(bits_of(got), wanted, name)
    with pytest.raises(ValueError, match="does not fit"):
        sq.elements()["e4m3"].record.value(256)


@cache
def decoded(name: str, carrier: str) -> dict[int, int]:
    """The bits of every code that is tested, by the oracle."""
    element = ELEMENTS[name]
    return {int(c): oracle.round_to_float(oracle.decode(element, int(c)), carrier) for c in codes_of(name)}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_code_decodes_to_the_oracle_s_number(name: str, dtype: str, isa: str) -> None:
    codes = codes_of(name, isa)
    got = codes_tensor(codes, plain(name)).decode(dtype, inexact="round")
    by_code = decoded(name, {"float64": "fp64", "float32": "fp32", "float16": "fp16"}[dtype])
    wanted = np.array([by_code[int(code)] for code in codes], dtype=np.uint64)
    assert_same_integers(bits_of(got), wanted, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_code_decodes_to_bfloat16(name: str, isa: str) -> None:
    codes = codes_of(name, isa)
    got = codes_tensor(codes, plain(name)).decode("bfloat16", inexact="round")
    exact = codes_tensor(codes, plain(name)).decode("float32")
    wanted = torch.from_numpy(exact).to(torch.bfloat16)
    wanted[torch.from_numpy(np.isnan(exact))] = torch.nan
    assert_same_bits(got.view(np.uint16) & np.uint16(0x7FFF), bits_of(wanted) & np.uint16(0x7FFF))
    assert np.array_equal(np.signbit(got)[~np.isnan(exact)], np.signbit(exact)[~np.isnan(exact)])


@pytest.mark.parametrize("name", TYPES)
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    codes = codes_of(name)
    type_ = np.dtype(TYPES[name])
    with np.errstate(all="ignore"):
        wanted = codes.astype(f"u{type_.itemsize}").view(type_).astype(np.float64)
    got = codes_tensor(codes, plain(name)).decode("float64")
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    number = ~np.isnan(wanted)
    assert_same_bits(got[number], wanted[number])


def test_unsigned_scale_codes_are_signed_codes_without_the_sign() -> None:
    ue4m3, ue5m3 = (sq.elements()[name].record for name in ("ue4m3", "ue5m3"))
    e4m3 = np.arange(128, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert_same_bits(np.array([ue4m3.value(code) for code in range(127)]), e4m3[:127])
    assert ue4m3.is_nan(0x7F) and np.isnan(e4m3[127])
    assert [ue5m3.value(code) for code in (0, 1, 8, 0xFE)] == [0.0, 2.0**-17, 2.0**-14, 114688.0]
    assert ue5m3.is_nan(0xFF)
    for record in (ue4m3, ue5m3):
        with pytest.raises(ValueError, match="an element must be signed"):
            sq.Format("scale", record)


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4", "mxint8", "hbfp8"])
def test_every_scale_code_scales_by_its_power_of_two(name: str, isa: str) -> None:
    record = sq.formats()[name]
    codes = np.full((256, 1), {"mxint8": 0x40, "hbfp8": 0x40}.get(name, 1), np.uint8)
    one = codes_tensor(codes[:1], sq.Format("plain", record.element, ())).decode("float64")[0, 0]
    scales = np.arange(256, dtype=np.uint8)[:, None].copy()
    got = codes_tensor(codes, record, scales).decode("float64")[:, 0]
    wanted = one * 2.0 ** (np.arange(255) - 127.0)
    assert_same_bits(got[:255], wanted)
    assert np.isnan(got[255])
    witness = np.arange(255, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert_same_bits(got[:255], one * witness)


@cache
def never_emitted(name: str) -> tuple[int, ...]:
    """NaN has one spelling, and a symmetric encoder leaves the lowest code of two's complement alone."""
    element = ELEMENTS[name]
    nans = [int(code) for code in codes_of(name) if oracle.decode(element, int(code)).kind == "nan"]
    return (*nans, *([element.sign_bit] if element.signedness == "twos_complement" else []))


@pytest.mark.parametrize("rounding", oracle.ROUNDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_every_code_survives_decoding_and_encoding(name: str, rounding: str, isa: str) -> None:
    codes = codes_of(name, isa)
    codes = codes[~np.isin(codes, never_emitted(name))]
    record = plain(name)
    conversion = sq.Conversion(rounding=rounding, overflow=record.conversion.overflow)
    format_ = sq.Format(name, record.element, (), conversion)
    for dtype in ("float32", "float64"):
        values = codes_tensor(codes, format_).decode(dtype, inexact="error")
        assert_same_integers(sq.encode(values, format_).codes, codes, f"{name} through {dtype}")
        assert_same_bits(sq.emulate(values, format_), values, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_nan_becomes_the_one_nan_or_is_refused(name: str, isa: str) -> None:
    element = ELEMENTS[name]
    patterns = np.uint32([0x7F800001, 0x7FC00000, 0xFFC00000, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF])
    x = patterns.view(np.float32)
    if element.nan_code is None:
        with pytest.raises(ValueError, match="NaN"):
            sq.encode(x, plain(name))
        return
    encoded = sq.encode(x, plain(name))
    assert encoded.codes.tolist() == [element.nan_code] * 6
    assert bits_of(encoded.decode()).tolist() == [0x7FC00000] * 6
    assert bits_of(encoded.decode("float64")).tolist() == [0x7FF8000000000000] * 6
    assert bits_of(encoded.decode("float16")).tolist() == [0x7E00] * 6
    assert bits_of(encoded.decode("bfloat16")).tolist() == [0x7FC0] * 6


LOWEST = {"int8": -128.0, "mxint8_element": -2.0, "int4": -8.0, "mxint4_element": -2.0}


@pytest.mark.parametrize("name", LOWEST)
def test_the_lowest_code_of_two_s_complement_decodes_but_is_never_emitted(name: str, isa: str) -> None:
    code = ELEMENTS[name].sign_bit
    lowest = codes_tensor(np.array([code]), plain(name)).decode()
    assert lowest.tolist() == [LOWEST[name]]
    for rounding in oracle.ROUNDINGS:
        format_ = sq.Format(name, sq.elements()[name].record, (), sq.Conversion(rounding=rounding))
        assert sq.encode(np.float32([lowest[0], -1e30, -np.inf]), format_).codes.tolist() == [code + 1] * 3
