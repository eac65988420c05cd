"""Zero points: affine integers beside the oracle and beside torch (docs/numerics.md section 4)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver
from typer.testing import CliRunner

import oracle
import sparq_sim as sq
from conftest import (
    CARRIERS,
    ISAS,
    Array,
    assert_same_bits,
    assert_same_integers,
    bits_of,
    forced_isa,
    oracle_quantize,
    plane_bits,
    user_format,
)
from oracle import FP32, BlockFormat, Choices, Element
from sparq_sim.cli import app
from test_levels import TILES, drawn_input

NAMES = ("int8_affine", "int4_affine_g128", "int8_affine_tensor")
FULL = Choices(integer_range="full")


def affine(bits: int, block: Any, unit: int = 0) -> BlockFormat:
    """An oracle's format of `bits` bits with units of 2^unit."""
    element = Element(0, bits - 1, 2 - bits - unit, "finite", "twos_complement")
    return BlockFormat(element, FP32, block, how=FULL, zero_point=True)


def assert_is(x: Array, fmt: BlockFormat, how: dict[str, Any], exact: dict[str, Any], where: object) -> None:
    """Scales, zero points, codes, values, decoded values and events of every implementation are the oracle's."""
    choices, arguments = {"rounding", "scale_apply", "nonfinite"}, {"rounding", "random", "stochastic", "random_bits"}
    record = user_format(fmt, **{name: how[name] for name in how if name in choices | arguments - {"random"}})
    call = {name: how[name] for name in how if name not in choices and name not in ("stochastic", "random_bits")}
    words = {name: how[name] for name in how if name in arguments}
    mine = Choices(**{name: how[name] for name in how if name in ("scale_apply", "nonfinite")}, integer_range="full")
    wanted, message = None, ""
    try:
        wanted = oracle_quantize(x, fmt, inexact="round", result="fp64", how=mine, **words, **exact)
    except oracle.RefusedError as error:
        message = "beyond float32" if "exceeds" in str(error) else "NaN or Inf"
    for isa in ISAS:
        with forced_isa(isa):
            if wanted is None:
                with pytest.raises(ValueError, match=message):
                    sq.encode(x, record, **call)
                continue
            events = sq.Events()
            encoded = sq.encode(x, record, events=events, **call)
            values = sq.emulate(x, record, dtype="float64", **call)
            decoded = encoded.decode("float64")
            if x.dtype == np.float32:
                target = x.copy()
                assert_same_bits(sq.emulate(target, record, out=target, **call), encoded.decode(), (isa, where))
        for got, plane in zip(plane_bits(encoded), wanted.planes, strict=True):
            assert_same_integers(got, plane, f"scales {isa} {where}")
        assert_same_integers(encoded.codes, wanted.codes, f"codes {isa} {where}")
        assert_same_integers(bits_of(values), wanted.values, f"values {isa} {where}")
        assert_same_bits(decoded, values, where)
        assert {key: getattr(events, key) for key in wanted.events} == wanted.events, (isa, where)


@pytest.mark.parametrize("seed", range(150))
def test_all_of_it_is_the_oracle_s(seed: int) -> None:
    rng = np.random.default_rng([seed, 71])
    bits = int(rng.choice([2, 3, 4, 5, 6, 7, 8, 8, 12, 16]))
    shape = [(5, 37), (3, 4, 9), (40,), (2, 3, 2, 7), (7, 70), (1, 1), (3, 300)][rng.integers(7)]
    block = [1, 5, 16, 32, 33, "row", "tensor", TILES[rng.integers(len(TILES))]][rng.integers(8)]
    fmt = affine(bits, block, int(rng.choice([0, 0, 0, 1 - bits, 3])))
    carrier, axis = str(rng.choice(list(CARRIERS))), int(rng.integers(len(shape)))
    x = drawn_input(rng, shape, carrier)
    sign = rng.integers(4)
    if sign < 2:  # all of one side of zero
        x = (abs(x) if sign else -abs(x)).astype(x.dtype)
    if rng.random() < 0.3:
        x.flat[rng.integers(x.size)] = [np.nan, np.inf, -np.inf, -0.0, 1e-40][rng.integers(5)]
    how: dict[str, Any] = {"rounding": str(rng.choice([*oracle.ROUNDINGS, oracle.STOCHASTIC])), "axis": axis}
    how["scale_apply"] = str(rng.choice(["divide", "reciprocal"]))
    how["nonfinite"] = str(rng.choice(["poison", "poison", "ignore", "largest", "error"]))
    exact: dict[str, Any] = {"axis": axis}
    if how["rounding"] == oracle.STOCHASTIC:
        random_bits = int(rng.choice([1, 4, 16, 22]))
        how |= {"stochastic": str(rng.choice(["a", "b", "c"])), "random_bits": random_bits}
        how["random"] = rng.integers(0, 1 << random_bits, shape, dtype=np.uint32)
    if rng.random() < 0.4:
        ranks = how["nonfinite"] != "ignore" and rng.random() < 0.5
        how |= {"sparsity": "2:4", "order": oracle.ORDERS[int(ranks)]}
        exact |= {"sparsity": (2, 4), "order": oracle.ORDERS[int(ranks)]}
    if rng.random() < 0.4:  # scales, zero points, or both are given; those of another tensor, so that elements saturate
        record = user_format(fmt)
        with np.errstate(all="ignore"):
            other = sq.encode((x * x.dtype.type(0.4)).astype(x.dtype), record, axis=axis, nonfinite="ignore")
        scales, zeros = other.scale_planes
        given = rng.integers(3)
        if given != 1:
            exact["scales"] = scales.view(np.uint32)
        if given != 0:
            zeros = rng.integers(0, 1 << bits, zeros.shape).astype(zeros.dtype)
            exact["zeros"] = zeros
        how["scales"] = [None if given == 1 else scales, None if given == 0 else zeros]
    assert_is(x, fmt, how, exact, (seed, bits, block, shape, carrier, how))


@pytest.mark.parametrize(
    ("block", "rounding"),
    [
        ("row", oracle.NEAREST_EVEN),
        ("tensor", oracle.TO_ODD),
        (4500, oracle.DOWN),
        ((2, 2500), oracle.STOCHASTIC),
        (128, oracle.NEAREST_AWAY),
    ],
)
def test_lines_longer_than_a_tile_have_zero_points_too(block: Any, rounding: str) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((3, 5003)) + rng.standard_normal((3, 1))).astype(np.float32)
    how: dict[str, Any] = {"rounding": rounding}
    if rounding == oracle.STOCHASTIC:
        how["random"] = rng.integers(0, 1 << 16, x.shape, dtype=np.uint32)
    assert_is(x, affine(8, block), how, {}, (block, rounding))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", ["row", "tensor", 3000, 64])
def test_an_inner_axis_and_both_orders_of_memory_agree(block: Any, axis: int, isa: str) -> None:
    x = np.random.default_rng(6).standard_normal((4100, 7)).astype(np.float32)
    along = {"axis": axis, "block": block, "sparsity": "2:4"}
    plain = sq.encode(x, "int8_affine", **along)
    assert sq.encode(np.asfortranarray(x), "int8_affine", **along) == plain
    turned = sq.encode(np.ascontiguousarray(x.T), "int8_affine", **{**along, "axis": 1 - axis})
    assert_same_integers(turned.codes.T, plain.codes, "codes")
    for mine, theirs in zip(turned.scale_planes, plain.scale_planes, strict=True):
        assert_same_bits(np.ascontiguousarray(mine.T), theirs)
    with forced_isa("reference"):
        assert sq.encode(x, "int8_affine", **along) == plain
    assert sq.encode(x, "int8_affine", threads=3, **along) == plain


@pytest.mark.parametrize("order", [0, 1])
def test_random_bits_belong_to_places(order: int, isa: str) -> None:
    x = np.random.default_rng(7).standard_normal((6, 96)).astype(np.float32)
    bits = (sq.Philox(3).words(x.size) >> 16).reshape(x.shape)
    how: dict[str, Any] = {"rounding": "stochastic", "axis": order, "block": 16}
    for name in NAMES:
        assert sq.encode(x, name, random=sq.Philox(3), **how) == sq.encode(x, name, random=bits, **how)


# Witnesses


def torch_inputs(rng: np.random.Generator, rows: int = 40, length: int = 384) -> Array:
    """Rows of many sizes and offsets; torch has a least scale of 2^-23, so none is tiny."""
    x = rng.standard_normal((rows, length)) * 2.0 ** rng.integers(-6, 20, (rows, 1))
    x += rng.standard_normal((rows, 1)) * 2.0 ** rng.integers(-6, 20, (rows, 1))
    x[3], x[4] = np.abs(x[3]), -np.abs(x[4])
    return x.astype(np.float32)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_int8_per_row_is_torch_s_observer_and_quantizer(isa: str) -> None:
    x = torch_inputs(np.random.default_rng(1))
    observer = PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=torch.per_channel_affine, reduce_range=False)
    observer(torch.from_numpy(x))
    scales, zeros = observer.calculate_qparams()
    theirs = torch.quantize_per_channel(torch.from_numpy(x), scales, zeros, 0, torch.qint8)
    ours = sq.encode(torch.from_numpy(x), "int8_affine", scale_apply="reciprocal")
    assert_same_bits(ours.scale_planes[0][:, 0], scales)
    assert_same_integers(ours.scale_planes[1][:, 0], zeros.numpy().astype(np.int8).view(np.uint8), "zero points")
    assert_same_integers(ours.codes, theirs.int_repr().numpy().view(np.uint8), "codes")
    assert_same_bits(ours.decode(), theirs.dequantize())
    faked = torch.fake_quantize_per_channel_affine(torch.from_numpy(x), scales, zeros, 0, -128, 127)
    assert_same_bits(ours.decode(), faked + 0)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_int8_of_a_tensor_is_torch_s_observer_and_quantizer(isa: str) -> None:
    for seed in range(12):
        x = torch_inputs(np.random.default_rng(seed), 5, 77)
        observer = MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_affine, reduce_range=False)
        observer(torch.from_numpy(x))
        scale, zero = observer.calculate_qparams()
        theirs = torch.quantize_per_tensor(torch.from_numpy(x), float(scale), int(zero), torch.qint8)
        ours = sq.encode(x, "int8_affine_tensor", scale_apply="reciprocal")
        assert ours.tensor_scale == float(scale) and ours.scale_planes[1].view(np.int8).item() == int(zero)
        assert_same_integers(ours.codes, theirs.int_repr().numpy().view(np.uint8), "codes")
        assert_same_bits(ours.decode(), theirs.dequantize().numpy())


def test_int4_in_groups_is_gptq_s_quantizer_less_8(isa: str) -> None:
    x = torch_inputs(np.random.default_rng(2))
    groups = torch.from_numpy(x).reshape(40, 3, 128)
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 15
    zero = torch.round(-low / scale)
    codes = torch.clamp(torch.round(groups / scale) + zero, 0, 15)
    ours = sq.encode(x, "int4_affine_g128")
    assert_same_bits(ours.scale_planes[0], scale[..., 0].numpy())
    assert_same_integers(ours.scale_planes[1], (zero[..., 0].numpy().astype(np.int64) - 8) & 15, "zero points")
    assert_same_integers(ours.codes, (codes.numpy().astype(np.int64) - 8).reshape(x.shape) & 15, "codes")
    assert_same_bits(ours.decode(), (scale * (codes - zero)).numpy().reshape(x.shape) + np.float32(0))


def test_every_code_under_every_zero_point_decodes_in_order(isa: str) -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    zeros = np.arange(16, dtype=np.uint8)[:, None]
    scales = np.full((16, 1), 0.3, np.float32)
    tensor = sq.BlockTensor(codes, (scales, zeros), None, sq.spec("int4_affine_g128"), "float32", "numpy")
    signed = (codes.astype(np.int64) ^ 8) - 8, (zeros.astype(np.int64) ^ 8) - 8
    assert_same_bits(tensor.decode(), (signed[0] - signed[1]).astype(np.float32) * np.float32(0.3))


# Corners


def test_zero_is_exact_and_both_ends_are_reached(isa: str) -> None:
    rng = np.random.default_rng(8)
    for bits in range(2, 9):
        x = (rng.standard_normal((50, 33)) * 3 + 2).astype(np.float32)
        x[:, 5] = 0
        encoded = sq.encode(x, user_format(affine(bits, "row")))
        assert_same_integers(encoded.codes[:, 5], encoded.scale_planes[1][:, 0], "the code of zero")
        assert not encoded.decode()[:, 5].any()
        signed = (encoded.codes.astype(np.int64) ^ (1 << (bits - 1))) - (1 << (bits - 1))
        assert (signed.min(1) == -(1 << (bits - 1))).all() and (signed.max(1) == (1 << (bits - 1)) - 1).all()


def test_zeros_have_scale_1_and_the_lowest_code(isa: str) -> None:
    events = sq.Events()
    got = sq.encode(np.float32([[0, -0.0], [0, 1]]), "int8_affine", events=events)
    assert got.scale_planes[0][0] == 1 and got.scale_planes[1].tolist() == [[0x80], [0x80]]
    assert got.codes.tolist() == [[0x80, 0x80], [0x80, 0x7F]] and events.zero_blocks == 1
    assert_same_bits(got.decode()[0], np.float32([0, 0]))


def test_a_scale_that_rounds_to_zero_is_the_smallest_number(isa: str) -> None:
    x = np.uint32([1, 0x80000003, 100, 0]).view(np.float32)
    got = sq.encode(x, "int8_affine")
    assert got.scale_planes[0].view(np.uint32) == 1 and got.scale_planes[1].view(np.int8) == -125
    assert_same_bits(got.decode(), x)


def test_a_range_beyond_float32_is_refused_and_input_stays(isa: str) -> None:
    for x in (np.float32([3e38, -3e38, 1]), np.float32([[3e38, 1], [1, -3e38]])):
        kept = x.copy()
        for name in NAMES:
            if x.ndim == 1 or name == "int8_affine_tensor":
                with pytest.raises(ValueError, match=f"{name}: the distance from the least element"):
                    sq.emulate(x, name, out=x)
                assert_same_bits(x, kept)
                # A given scale is not computed.
                shape = [1] * x.ndim
                scales = [np.full(shape, 2e36, np.float32)]
                assert sq.encode(x, name, scales=scales).scale_planes[1].view(np.int8) == (
                    22 if name != "int4_affine_g128" else 7
                )
    with pytest.raises(ValueError, match="beyond float32"):
        sq.emulate(np.float32([np.inf, -np.inf]), "int8_affine", nonfinite="largest")


def test_what_is_no_number_poisons_stays_out_or_is_large(isa: str) -> None:
    x = np.float32([[1, -1, np.nan, 2], [1, -1, 0.5, 2], [-np.inf, -1, 0.5, 2]])
    events = sq.Events()
    got = sq.encode(x, "int8_affine", events=events)
    assert np.isnan(got.scale_planes[0][:, 0]).tolist() == [True, False, True]
    assert got.scale_planes[1][:, 0].tolist() == [0, got.codes[1].tolist()[0] - 85 & 0xFF, 0]
    assert not got.codes[[0, 2]].any() and np.isnan(got.decode()[[0, 2]]).all() and events.nonfinite == 2
    ignored = sq.encode(x, "int8_affine", nonfinite="ignore")
    assert ignored.codes[0, 2] == ignored.scale_planes[1][0] and ignored.codes[2, 0] == 0x80
    assert_same_bits(ignored.decode()[1], got.decode()[1])
    large = sq.encode(np.float32([np.nan, 1]), "int8_affine", nonfinite="largest")
    assert large.codes.tolist() == [0x7F, 0x80]
    with pytest.raises(ValueError, match="nonfinite='error' was asked for"):
        sq.encode(x, "int8_affine", nonfinite="error")
    with pytest.raises(ValueError, match="nonfinite='keep' needs an element with NaN"):
        sq.spec("int8_affine", nonfinite="keep")


@pytest.mark.parametrize("order", oracle.ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_pruned_elements_have_the_code_of_zero(name: str, order: str, isa: str) -> None:
    x = (np.random.default_rng(9).standard_normal((4, 40)) + 1).astype(np.float32)
    got = sq.encode(x, name, sparsity="1:4", order=order)
    assert got.mask is not None
    zeros = np.broadcast_to(got.scale_planes[1], x.shape)
    assert_same_integers(got.codes[~got.mask], zeros[~got.mask], "pruned")
    assert_same_bits(got.decode()[~got.mask], np.zeros((~got.mask).sum(), np.float32))
    assert_same_bits(sq.emulate(x, name, sparsity="1:4", order=order), got.decode())
    x[1, 7] = np.nan
    poisoned = sq.encode(x, name, sparsity="1:4", order=order)
    assert not poisoned.codes[1].any() and np.isnan(poisoned.decode()[1]).all()


# Given scales and zero points


@pytest.mark.parametrize("name", NAMES)
def test_scales_and_zero_points_are_given_or_computed_one_by_one(name: str, isa: str) -> None:
    x = (np.random.default_rng(10).standard_normal((4, 300)) - 0.5).astype(np.float32)
    own = sq.encode(x, name)
    scales, zeros = own.scale_planes
    bits = own.format.element.code_bits
    signed = (zeros.astype(np.int64) ^ (1 << (bits - 1))) - (1 << (bits - 1))
    for given in (own.scales, [scales], [None, zeros], [None, signed], [scales, signed], [scales.astype(float), None]):
        assert sq.encode(x, name, scales=given) == own
    moved = sq.encode(x, name, scales=[None, np.zeros_like(signed)])
    assert not moved.scale_planes[1].any()
    assert_same_bits(moved.scale_planes[0], scales)
    doubled = sq.encode(x, name, scales=[2 * scales])
    assert not np.array_equal(doubled.scale_planes[1], zeros)
    assert_same_bits(doubled.scale_planes[0], 2 * scales)
    if name == "int8_affine_tensor":
        assert sq.encode(x, name, tensor_scale=own.tensor_scale) == own
        assert sq.encode(x, name, scales=[own.tensor_scale, int(signed.item())]) == own


def test_a_given_nan_scale_poisons_and_a_number_refuses_nan(isa: str) -> None:
    got = sq.encode(np.float32([1, 2]), "int8_affine", scales=[np.float32([np.nan])])
    assert got.scale_planes[1].tolist() == [0] and got.codes.tolist() == [0, 0] and np.isnan(got.decode()).all()
    kept = sq.encode(np.float32([1, 2]), "int8_affine", scales=[np.float32([np.nan]), np.int64([3])])
    assert kept.scale_planes[1].tolist() == [3] and np.isnan(kept.decode()).all()
    for zeros in (None, np.int64([3])):
        with pytest.raises(ValueError, match="given scales are never changed"):
            sq.encode(np.float32([1, np.nan]), "int8_affine", scales=[np.float32([1]), zeros])


@pytest.mark.parametrize(
    ("zeros", "error", "message"),
    [
        (np.int64([[-9]]), ValueError, "zero points: integers must be -8 to 7"),
        (np.int64([[8]]), ValueError, "zero points: integers must be -8 to 7"),
        (np.uint8([[16]]), ValueError, "zero points: codes must be 0 to 15"),
        (np.float32([[1]]), TypeError, "zero points: dtype float32; needed signed integers"),
        (np.int64([1, 2]), ValueError, r"zero points: shape \(2,\); needed \(1, 1\)"),
    ],
)
def test_zero_points_that_do_not_fit_are_refused(zeros: Array, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sq.encode(np.ones((1, 16), np.float32), "int4_affine_g128", scales=[None, zeros])


def test_stored_zero_points_have_the_bits_of_the_element() -> None:
    codes, scales = np.zeros((1, 4), np.uint8), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match="a zero point of 0x10 has more than 4 bits"):
        sq.BlockTensor(codes, (scales, np.uint8([[16]])), None, sq.spec("int4_affine_g128"), "float32", "numpy")


# Records


INT4 = sq.elements()["int4"].record
INT8 = sq.elements()["int8"].record
SCALE = sq.ScaleLevel(format=sq.elements()["fp32"].record, along=16)
ZERO = sq.ScaleLevel(format=INT8, along=16, combine="subtract")
E8M0 = sq.ScaleLevel(format=sq.elements()["e8m0"].record, along=16)
UE4M3 = sq.ScaleLevel(format=sq.elements()["ue4m3"].record, along=16)
MICRO = sq.ScaleLevel(format=sq.elements()["micro1"].record, along=2)
TENSOR = sq.ScaleLevel(format=sq.elements()["fp32"].record, along=0, across=0)


@pytest.mark.parametrize(
    ("element", "levels", "message"),
    [
        (INT8, [ZERO], "directly inside the float32 scales of blocks"),
        (INT8, [E8M0, ZERO], "directly inside the float32 scales of blocks"),
        (INT8, [UE4M3, ZERO], "directly inside the float32 scales of blocks"),
        (INT8, [TENSOR, UE4M3, ZERO], "directly inside the float32 scales of blocks"),
        (INT8, [SCALE, ZERO, MICRO], "directly inside the float32 scales of blocks"),
        (INT8, [SCALE, ZERO, ZERO], "directly inside the float32 scales of blocks"),
        (INT8, [ZERO, SCALE], "directly inside the float32 scales of blocks"),
        (sq.elements()["e4m3"].record, [SCALE, ZERO], "zero points are for elements of two's complement"),
        (sq.elements()["hbfp8_element"].record, [SCALE, ZERO], "zero points are for elements of two's complement"),
        (INT4, [SCALE, ZERO], "an integer of the bits of the element with unit 1"),
        (
            INT8,
            [SCALE, sq.ScaleLevel(format=sq.elements()["mxint8_element"].record, along=16, combine="subtract")],
            "an integer of the bits of the element with unit 1",
        ),
        (
            INT8,
            [SCALE, sq.ScaleLevel(format=INT8, along=8, combine="subtract")],
            "one zero point for each scale",
        ),
        (
            sq.ElementFormat(mantissa_bits=20, bias=-19, signedness="twos_complement"),
            [SCALE, ZERO],
            "elements of up to 16 bits",
        ),
        (
            sq.ElementFormat(mantissa_bits=7, bias=100, signedness="twos_complement"),
            [SCALE, ZERO],
            "a unit of 2\\^-64 to 2\\^64",
        ),
    ],
)
def test_levels_that_mean_nothing_are_refused(
    element: sq.ElementFormat, levels: list[sq.ScaleLevel], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sq.Format("user", element, levels, sq.Conversion(scale_rule="amax", integer_range="full"))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"divisor": 100.0}, "divisor stands for the largest element"),
        ({"integer_range": "symmetric"}, "integer_range must be 'full'"),
        ({"scale_rule": "mse"}, "this format's scale is a float32 number"),
        ({"scale_rule": "floor"}, "use 'amax'"),
        ({"overflow": "special"}, "a scaled block saturates"),
        ({"subnormals": "flush"}, "would leave an integer nothing"),
        ({"zero_scale": 3}, "no scale codes"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_choices_that_mean_nothing_are_refused(name: str, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sq.spec(name, **choices)


def test_specs_say_all_of_it() -> None:
    for name in NAMES:
        for choices in (
            {},
            {"block": 64},
            {"block": "4x16"},
            {"rounding": "nearest_away", "scale_apply": "reciprocal"},
        ):
            made = sq.spec(name, **choices)
            assert sq.Spec.from_json(made.to_json()) == made
            main, zero = made.format.levels
            assert (main.along, main.across) == (zero.along, zero.across) and zero.combine == "subtract"
            assert made.format.has_zero_points and made.format.scale_kind == "float" and not made.format.has_scale_codes
            assert not sq.traits(made).sign_symmetric and sq.traits(made).shift_invariant
    assert not sq.spec("int8").format.has_zero_points and not sq.spec("bf16").format.has_zero_points


def test_bits_count_zero_points() -> None:
    formats = sq.formats()
    assert formats["int4_affine_g128"].bits_per_element() == 4 + (32 + 4) / 128
    assert formats["int8_affine"].bits_per_element() == 8
    assert formats["int8_affine"].bits_per_element(80) == 8.5
    assert formats["int8_affine_tensor"].bits_per_element(4, 10) == 9


def test_the_command_line_shows_zero_points() -> None:
    shown = CliRunner().invoke(app, ["show", "int8_affine"])
    assert shown.exit_code == 0 and "fp32 + int8 zero" in shown.stdout
    listed = json.loads(CliRunner().invoke(app, ["formats", "--json"]).stdout)
    assert {row["name"]: row["scale"] for row in listed}["int4_affine_g128"] == "fp32 + int4 zero"


# What there is not


def test_products_of_zero_points_are_refused_with_the_way_out() -> None:
    x = np.random.default_rng(11).standard_normal((3, 8)).astype(np.float32)
    a = sq.encode(x, "int8_affine")
    with pytest.raises(ValueError, match=r"takes no zero points; multiply the decoded values, as in matmul\(a.decode"):
        sq.matmul(a, a)
    assert sq.matmul(a.decode(), a.decode()).shape == (3, 3)
    for sides in (("int8_affine", "int8"), ("int8", "int4_affine_g128")):
        with pytest.raises(ValueError, match="no datapath here multiplies operands with zero points"):
            sq.Accelerator(*sides, datapath="block_fp32")
    with pytest.raises(ValueError, match="give scales=\\[scale, zero point\\]"):
        sq.Calibrator("int8_affine_tensor")


# Rankings


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonfinite", ["poison", "ignore"])
def test_a_ranking_in_pieces_measures_what_is_emulated(name: str, nonfinite: str, monkeypatch: Any) -> None:
    from sparq_sim import measure

    monkeypatch.setattr(measure, "PIECE", 256)
    rng = np.random.default_rng(12)
    x = (rng.standard_normal((3, 1200)) + rng.standard_normal((3, 1))).astype(np.float32)
    if nonfinite == "ignore":
        x[1, [7, 900]] = np.nan, np.inf
    for sparse in ({}, {"sparsity": "1:4"}, {"sparsity": "1:4", "order": "quantize_first"}):
        if sparse.get("order") == "quantize_first" and nonfinite == "ignore":
            continue
        with np.errstate(all="ignore"):
            made = sq.emulate(x, name, nonfinite=nonfinite, dtype="float64", **sparse)
            error = made - x.astype(np.float64)
        row = sq.rank(x, [name], nonfinite=nonfinite, **sparse).rows[0]
        assert row.max_error == np.abs(error[np.isfinite(error)]).max()
    for axis in (0, 1):
        wanted = np.abs(sq.emulate(x[:, :80].copy(), name, axis=axis, dtype="float64", nonfinite="ignore"))
        got = sq.rank(x[:, :80].copy(), [name], axis=axis, nonfinite="ignore").rows[0]
        assert got.bits_per_element is not None and wanted.shape == (3, 80)


def test_a_poisoned_row_is_so_in_every_piece(monkeypatch: Any) -> None:
    from sparq_sim import measure

    monkeypatch.setattr(measure, "PIECE", 256)
    x = np.random.default_rng(13).standard_normal((3, 1200)).astype(np.float32)
    x[1, 1100] = np.nan
    row = sq.rank(x, ["int8_affine"]).rows[0]
    assert row.snr_db is None and "1199 finite elements became NaN" in row.note
