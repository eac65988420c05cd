"""Blocks that torchao and microxcaling quantized, bit for bit; tests/golden/README.md says whence they come.

The inputs are 609 blocks of 32: random, ties, edges of every scale rule, NaN, Inf, tiny and huge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparq_sim as sq
from conftest import Array, assert_same_bits, assert_same_integers

FOLDER = Path(__file__).parent / "golden" / "quant"
ROWS = 609
FLOAT_FORMATS = ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2")
#: The words of microxcaling, which has one scale rule (floor) and three roundings.
MICROXCALING_ROUNDINGS = {"even": "nearest_even", "nearest": "nearest_away", "floor": "toward_zero"}


def inputs() -> Array:
    with np.load(FOLDER / "inputs_block32.npz") as file:
        x: Array = file["x"]
    assert x.shape == (ROWS, 32) and x.dtype == np.float32
    return x


def recorded(library: str, name: str) -> dict[str, Array]:
    with np.load(FOLDER / library / f"{name}.npz") as file:
        return {key: file[key] for key in file}


def nan_as_canonical(values: Array) -> Array:
    """NaN payloads are not significant in these files."""
    return np.where(np.isnan(values), np.float32(np.nan), values)


@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil"])
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_codes_scales_and_values_are_those_of_torchao(format: str, rule: str, isa: str) -> None:
    x, wanted = inputs(), recorded("torchao_main", f"{format}__{rule}")
    encoded = sq.encode(x, format, scale_rule=rule)
    assert encoded.scales is not None
    assert_same_integers(encoded.scales[:, 0], wanted["scale"], "scales")

    codes = wanted["codes"]
    if format == "mxfp4":
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(ROWS, 32)
    # A block of NaN scale has no meaningful elements: torchao writes the NaN or the largest code, we write 0.
    poisoned = wanted["scale"] == 255
    assert np.array_equal(poisoned, ~np.isfinite(x).all(axis=1))
    assert_same_integers(encoded.codes[~poisoned], codes[~poisoned], "codes")
    assert not encoded.codes[poisoned].any()

    values = nan_as_canonical(wanted["dq"])
    assert_same_bits(sq.emulate(x, format, scale_rule=rule, inexact="round"), values)
    assert_same_bits(encoded.decode(inexact="round"), values)


@pytest.mark.parametrize("word", MICROXCALING_ROUNDINGS)
@pytest.mark.parametrize("format", [*FLOAT_FORMATS, "mxint8"])
def test_values_are_those_of_microxcaling(format: str, word: str, isa: str) -> None:
    x, wanted = inputs(), recorded("microxcaling_cuda_host", f"{format}__{word}")["dq"]
    got = sq.emulate(x, format, rounding=MICROXCALING_ROUNDINGS[word], inexact="round")
    # microxcaling drops the sign of some zeros; + 0 makes every zero positive and changes nothing else.
    assert_same_bits(got + np.float32(0), nan_as_canonical(wanted) + np.float32(0))


def test_the_recorded_inputs_reach_the_corners() -> None:
    x = inputs()
    with np.errstate(invalid="ignore"):
        assert np.isnan(x).any() and np.isinf(x).any() and (np.abs(x) > 2.0**126).any()
        assert ((x != 0) & (np.abs(x) < 2.0**-126)).any() and (np.signbit(x) & (x == 0)).any()
        assert (~x.any(axis=1)).any()


NVFP4_TENSORS = ("normal", "normal_1e-6", "zero_blocks", "nan_one", "tiny", "neg_zero")


def nvfp4_input(name: str) -> Array:
    with np.load(FOLDER / "inputs_nvfp4.npz") as file:
        x: Array = file[name]
    return x


def unpacked(packed: Array, shape: tuple[int, ...]) -> Array:
    """Two codes of 4 bits to a byte, low nibble first."""
    codes: Array = np.stack([packed & 15, packed >> 4], axis=-1).reshape(shape)
    return codes


# torchao multiplies by (1 / t) / scale, which is Inf for the least scales of "tiny": only those codes differ.
@pytest.mark.parametrize("name", NVFP4_TENSORS)
def test_nvfp4_is_that_of_torchao_from_its_least_scale_on(name: str, isa: str) -> None:
    x, wanted = nvfp4_input(name), recorded("torchao", "nvfp4__two_level")
    encoded = sq.encode(x, "nvfp4", scale_minimum=0x08)
    assert_same_bits(encoded.scales[0].reshape(()), nan_as_canonical(wanted[f"{name}/global_scale"]))
    values = nan_as_canonical(wanted[f"{name}/dq"])
    if name == "nan_one":  # everything is NaN under a NaN of the tensor, and no code means anything
        assert np.isnan(values).all()
        return assert_same_bits(encoded.decode(), values)
    assert_same_integers(encoded.scales[1], wanted[f"{name}/scale"], "scales")
    codes = unpacked(wanted[f"{name}/codes"], x.shape)
    if name == "tiny":
        differs = codes != encoded.codes
        assert np.count_nonzero(differs) == 455 and set(codes[differs] & 7) == {7}
        return None
    assert_same_integers(encoded.codes, codes, "codes")
    return assert_same_bits(encoded.decode(), values)


@pytest.mark.parametrize("name", [name for name in NVFP4_TENSORS if name != "nan_one"])
def test_nvfp4_has_the_codes_and_scales_of_modelopt(name: str, isa: str) -> None:
    x, wanted = nvfp4_input(name), recorded("modelopt", "nvfp4__qtensor")
    encoded = sq.encode(x, "nvfp4")
    assert_same_bits(encoded.scales[0].reshape(()), wanted[f"{name}/global_scale"])
    # A block of zeros has scale 1 there, and the least one here; negative zero does not occur there.
    zeros = (x.reshape(len(x), -1, 16) == 0).all(axis=2)
    assert_same_integers(encoded.scales[1][~zeros], wanted[f"{name}/scale"][~zeros], "scales")
    codes = np.where(encoded.codes == 8, 0, encoded.codes)
    assert_same_integers(codes, unpacked(wanted[f"{name}/codes"], x.shape) % 8 + (codes & 8), "codes")


@pytest.mark.parametrize("name", ["mx9", "mx6"])
def test_shared_micro_exponents_are_those_of_quark_but_for_what_is_no_number(name: str, isa: str) -> None:
    x, wanted = inputs(), recorded("amd_quark", f"{name}__default")["dq"]
    got = sq.emulate(x, name, input_subnormals="flush", signed_zero="underflow", inexact="round")
    # Quark lets NaN and Inf stand in their places, for which these elements have no codes.
    numbers = np.repeat(np.isfinite(x).reshape(ROWS, 2, 16).all(axis=2), 16, axis=1).reshape(x.shape)
    assert numbers.mean() > 0.9
    assert_same_bits(got[numbers], wanted[numbers])


def test_bfp16_of_quark_is_quarks_where_its_least_scale_does_not_show(isa: str) -> None:
    x, wanted = inputs(), recorded("amd_quark", "bfp16__default")["dq"]
    got = sq.emulate(x, "bfp16_quark", inexact="round")
    blocks = np.abs(x).reshape(ROWS, 4, 8)
    with np.errstate(invalid="ignore"):
        # Its scales are not below the epsilon of float32, 2^-23, and NaN where a block would take 2^128.
        amax = blocks.max(axis=2)
        plain = np.isfinite(blocks).all(axis=2) & (((amax >= 2.0**-16) & (amax < 2.0**127)) | (amax == 0))
    plain = np.repeat(plain, 8, axis=1).reshape(x.shape)
    assert plain.mean() > 0.5
    assert_same_bits(got[plain] + np.float32(0), wanted[plain] + np.float32(0))


@pytest.mark.parametrize("name", NVFP4_TENSORS)
def test_nvfp4_of_one_level_is_that_of_torchao_from_its_least_scale_on(name: str, isa: str) -> None:
    x, wanted = nvfp4_input(name), recorded("torchao", "nvfp4__one_level")
    # torchao writes no scale below the smallest normal number of E4M3.
    encoded = sq.encode(x, "nvfp4_one_level", scale_minimum=0x08)
    assert encoded.scales is not None
    assert_same_integers(encoded.scales, wanted[f"{name}/scale"], "scales")
    codes = unpacked(wanted[f"{name}/codes"], x.shape)
    poisoned = np.repeat(encoded.scales == 0x7F, 16, axis=1)
    assert np.array_equal(poisoned, np.repeat(~np.isfinite(x).reshape(len(x), -1, 16).all(axis=2), 16, axis=1))
    assert_same_integers(encoded.codes[~poisoned], codes[~poisoned], "codes")
    assert_same_bits(encoded.decode(), nan_as_canonical(wanted[f"{name}/dq"]))
