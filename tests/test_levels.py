"""Scales of several levels and blocks that span lines, beside the oracle (sections 3, 4 and 6)."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from oracle import BLOCK_FORMATS, ELEMENTS, BlockFormat, Element, Micro

#: Levels that no format of the catalog has.
USERS = {
    "float scale over two levels that lift": BlockFormat(
        ELEMENTS["e1m2"], Element(6, 2, 48, "finite", "unsigned"), 64, micro=(Micro((0, 1), 8), Micro((0, 1), 4))
    ),
    "two bits, then one": BlockFormat(
        ELEMENTS["e2m1"], oracle.E8M0, 8, micro=(Micro((0, -1, -2, -3), 4), Micro((0, -1), 2))
    ),
    "powers of two that lift": BlockFormat(ELEMENTS["e2m1"], oracle.E8M0, 8, micro=(Micro((0, 1), 4),)),
    "float32 of rows over short floats": BlockFormat(ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 4, outer="row"),
    "a tensor scale that divides": BlockFormat(
        ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 16, outer="tensor", outer_combine="divide"
    ),
    "scales of rows by their reciprocals": BlockFormat(
        ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 4, outer="row", outer_combine="reciprocal"
    ),
    "reciprocals of reciprocals over tiles": BlockFormat(
        ELEMENTS["e2m1"], ELEMENTS["ue5m3"], (2, 8), outer="tensor", outer_combine="reciprocals"
    ),
    "a tensor scale that divides with the largest scale, in float64": BlockFormat(
        ELEMENTS["e2m1"], ELEMENTS["ue4m3"], 16, outer="tensor", outer_combine="divide_top"
    ),
    "the same of rows over a level that lifts": BlockFormat(
        ELEMENTS["e1m2"], ELEMENTS["ue5m3"], 8, outer="row", outer_combine="divide_top", micro=(Micro((0, 1), 4),)
    ),
    "a tensor scale that divides over a level that lifts": BlockFormat(
        ELEMENTS["e1m2"], ELEMENTS["ue4m3"], 8, outer="tensor", outer_combine="divide", micro=(Micro((0, 1), 4),)
    ),
    "short exponents with NaN": BlockFormat(ELEMENTS["e2m1"], Element(5, 0, 15, "fn", "unsigned", zero=False), 8),
    "short exponents without NaN": BlockFormat(
        ELEMENTS["hbfp4_element"], Element(4, 0, 7, "finite", "unsigned", zero=False), (2, 8)
    ),
}
FORMATS = {name: fmt for name, fmt in BLOCK_FORMATS.items() if not fmt.has_lines_of_blocks} | USERS
SHAPES = ((5, 37), (3, 4, 9), (40,), (2, 3, 2, 7), (7, 70), (1, 1))
TILES = ((2, 5), (3, 16), (2, 3), (16, 1))


def drawn_input(rng: np.random.Generator, shape: tuple[int, ...], carrier: str) -> Array:
    """Many binades; sometimes all of them far away, mostly zeros, or with something that is no number."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 12, shape)
    style = rng.integers(5)
    if style == 1:
        x = x * 2.0 ** rng.integers(-140, 130)
    if style == 2:
        x[rng.random(shape) < 0.7] = 0
    with np.errstate(all="ignore"):
        made: Array = x.astype(CARRIERS[carrier][0])
    if style == 3:
        made.flat[rng.integers(made.size)] = [np.nan, np.inf, -np.inf][rng.integers(3)]
    return made


def drawn_choices(rng: np.random.Generator, fmt: BlockFormat) -> dict[str, Any]:
    choices: dict[str, Any] = {"rounding": str(rng.choice(oracle.ROUNDINGS))}
    if fmt.how.cut_offset:
        choices["rounding"] = fmt.rounding
    if fmt.scale is not None and not fmt.has_float_scale:
        choices["scale_rule"] = str(rng.choice(oracle.SCALE_RULES))
    elif fmt.scale not in (None, oracle.FP32):
        choices["scale_rounding"] = str(rng.choice(["nearest_even", "up"]))
    return choices


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("name", FORMATS)
def test_codes_scales_values_and_events_are_those_of_the_oracle(name: str, seed: int) -> None:
    rng, fmt = np.random.default_rng([seed, len(name)]), FORMATS[name]
    shape = SHAPES[rng.integers(len(SHAPES))]
    axis, carrier = int(rng.integers(len(shape))), str(rng.choice(list(CARRIERS)))
    block: Any = TILES[rng.integers(len(TILES))] if isinstance(fmt.block, tuple) else None
    x, choices = drawn_input(rng, shape, carrier), drawn_choices(rng, fmt)
    sparse: dict[str, Any] = {}
    if rng.random() < 0.3:
        sparse = {"sparsity": "2:4", "order": str(rng.choice(oracle.ORDERS))}
    record = user_format(fmt, block, **choices)
    pattern = {"sparsity": (2, 4), "order": sparse["order"]} if sparse else {}
    where = (shape, axis, block, carrier, choices, sparse)
    wanted = None
    try:
        wanted = oracle_quantize(x, fmt, axis=axis, block=block, inexact="round", result="fp64", **choices, **pattern)
    except oracle.RefusedError:
        assert not np.isfinite(x.astype(np.float32)).all(), where
    for isa in ISAS:
        with forced_isa(isa):
            events = sq.Events()
            if wanted is None:
                with pytest.raises(ValueError, match="NaN or Inf"):
                    sq.encode(x, record, axis=axis, **sparse)
                continue
            encoded = sq.encode(x, record, axis=axis, events=events, **sparse)
            values = sq.emulate(x, record, axis=axis, dtype="float64", inexact="round", **sparse)
        for got, plane in zip(plane_bits(encoded), wanted.planes, strict=True):
            assert_same_integers(got, plane, f"scales {isa} {where}")
        assert_same_integers(encoded.codes, wanted.codes, f"codes {isa} {where}")
        assert_same_integers(bits_of(values), wanted.values, f"values {isa} {where}")
        assert_same_bits(encoded.decode("float64", inexact="round"), values, where)
        assert {key: getattr(events, key) for key in wanted.events} == wanted.events, where


def test_blocks_larger_than_a_tile_have_micro_exponents_too() -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((3, 9001)) * 2.0 ** rng.integers(-9, 9, (3, 9001))).astype(np.float32)
    for name in ("two bits, then one", "float scale over two levels that lift"):
        record = sq.spec(user_format(FORMATS[name]), block=8192)
        results = []
        for isa in ISAS:
            with forced_isa(isa):
                results.append(sq.encode(x, record, sparsity="2:4"))
        assert all(result == results[0] for result in results)
        assert results[0].scale_planes[0].shape == (3, 2)


@pytest.mark.parametrize("block", ["row", "tensor", 2, 6, 10, (2, 4)])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 17, 31, 47, 48, 49, 70])
def test_pairs_may_be_cut_short_by_the_end_of_a_line(block: Any, length: int) -> None:
    rng = np.random.default_rng(length)
    x = (rng.standard_normal((4, length)) * 2.0 ** rng.integers(-3, 3, (4, length))).astype(np.float32)
    x[3] = 0
    fmt = dataclasses.replace(BLOCK_FORMATS["mx6"], block=block)
    wanted = oracle_quantize(x, fmt)
    for isa in ISAS:
        with forced_isa(isa):
            encoded, values = sq.encode(x, "mx6", block=block), sq.emulate(x, "mx6", block=block)
        for got, plane in zip(plane_bits(encoded), wanted.planes, strict=True):
            assert_same_integers(got, plane, isa)
        assert_same_integers(encoded.codes, wanted.codes, isa)
        assert_same_integers(bits_of(values), wanted.values, isa)


def test_a_tile_spans_the_axis_before_the_reduction_axis_or_after_the_first() -> None:
    x = np.float32([[1, 8], [2, 16], [4, 32]])
    assert sq.encode(x, "mxint8", block=(2, 1)).scales.tolist() == [[128, 131], [129, 132]]
    assert sq.encode(x, "mxint8", block=(2, 1), axis=0).scales.tolist() == [[130], [131], [132]]
    stacked = np.stack([x, 64 * x])
    # Tiles begin anew in every matrix of the stack.
    assert sq.encode(stacked, "mxint8", block=(2, 1)).scales[:, :, 0].tolist() == [[128, 129], [134, 135]]
    assert sq.encode(x[0], "mxint8", block=(5, 2)).scales.tolist() == [130]


def test_transposed_views_have_the_tiles_of_their_own_axes() -> None:
    x = np.random.default_rng(1).standard_normal((6, 5, 8)).astype(np.float32)
    for view in (x.transpose(2, 0, 1), x[:, ::2], x.swapaxes(0, 1)):
        for axis in range(3):
            spec = sq.spec("fp8_e4m3_128x128", block=(2, 3), axis=axis)
            plain = sq.encode(np.ascontiguousarray(view), spec)
            assert sq.encode(view, spec) == plain
            out = np.empty_like(x).transpose(2, 0, 1) if view.shape == (8, 6, 5) else np.empty(view.shape, np.float32)
            assert_same_bits(sq.emulate(view, spec, out=out), plain.decode())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tiles_take_random_bits_by_the_place_of_an_element_too(axis: int, isa: str) -> None:
    x = np.random.default_rng(4).standard_normal((6, 10, 8)).astype(np.float32)
    bits = (sq.Philox(3).words(x.size) >> 16).reshape(x.shape)
    how: dict[str, Any] = {"block": (2, 4), "rounding": "stochastic", "axis": axis}
    assert sq.encode(x, "mxfp4", random=sq.Philox(3), **how) == sq.encode(x, "mxfp4", random=bits, **how)


def test_levels_are_given_or_computed_one_by_one(isa: str) -> None:
    x = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    own = sq.encode(x, "nvfp4")
    assert own.tensor_scale == float(np.float32(np.abs(x).max()) / np.float32(2688))
    assert sq.encode(x, "nvfp4", scales=own.scales) == own
    assert sq.encode(x, "nvfp4", scales=[own.scales[0]]) == own
    assert sq.encode(x, "nvfp4", tensor_scale=own.tensor_scale) == own
    assert sq.encode(x, "nvfp4", scales=[None, own.scales[1]]) == own
    other = sq.encode(x, "nvfp4", tensor_scale=2 * own.tensor_scale)
    assert other.tensor_scale == 2 * own.tensor_scale and not np.array_equal(other.scales[1], own.scales[1])
    pairs = sq.encode(x, "mx9")
    assert sq.encode(x, "mx9", scales=[None, pairs.scales[1]]) == pairs
    # Without the bit of a pair, its elements have the exponent of the block.
    coarse = sq.encode(x, "mx9", scales=[None, np.zeros_like(pairs.scales[1])])
    assert np.array_equal(coarse.decode(), sq.emulate(x, "hbfp8", block=16))


def test_a_nan_scale_of_the_tensor_poisons_all_of_it(isa: str) -> None:
    x = np.ones((2, 32), np.float32)
    x[1, 3] = np.nan
    for encoded in (sq.encode(x, "nvfp4"), sq.encode(np.ones_like(x), "nvfp4", tensor_scale=float("nan"))):
        assert encoded.scales[1].tolist() == [[0x7F, 0x7F]] * 2 and not encoded.codes.any()
        assert np.isnan(encoded.decode()).all()


def test_products_of_scales_beyond_float32_are_decoded_as_float32_has_them(isa: str) -> None:
    x = np.float32([[6, 3, 0, -1]])
    # 2^-149 * 2^-9 is zero: the encoder divides by the smallest number, the decoder multiplies by zero.
    tiny = sq.encode(x, "nvfp4", block=4, scales=[np.full((1, 1), 2.0**-149), np.full((1, 1), 1)])
    assert tiny.codes.tolist() == [[7, 7, 0, 15]]
    assert_same_bits(tiny.decode(), np.float32([[0, 0, 0, -0.0]]))
    huge = sq.encode(x, "nvfp4", block=4, scales=[np.full((1, 1), 2.0**127), np.full((1, 1), 448.0)])
    assert huge.codes.tolist() == [[0, 0, 0, 8]]
    assert np.isnan(huge.decode()).all()  # 0 * Inf


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([("micro1", 2, 1), ("e8m0", 16, 1)], "a level inside blocks is a power of two of 1 or 2 exponent bits"),
        ([("fp32", 0, 0), ("e8m0", 16, 1)], "a float32 scale lies above short floats"),
        ([("fp32", 64, 1), ("ue4m3", 16, 1)], "a scale above others is of the tensor"),
        ([("fp32", 0, 1), ("ue4m3", 16, 16)], "a scale above others is of the tensor"),
        ([("e8m0", 16, 1), ("micro1", 3, 1)], "must divide them: along=3 inside along=16"),
        ([("e8m0", 16, 1), ("micro1", 2, 2)], "a level inside blocks spans 1 to 64 elements of a line"),
        ([("e8m0", 0, 1), ("micro1", 128, 1)], "a level inside blocks spans 1 to 64 elements of a line"),
        ([("e8m0", 16, -1)], "a block needs at least one line"),
        ([("e8m0", 16, 0)], "a scale across all lines spans all of each line"),
    ],
)
def test_levels_that_mean_nothing_are_refused(levels: list[tuple[str, int, int]], message: str) -> None:
    records = [
        sq.ScaleLevel(format=sq.elements()[name].record, along=along, across=across) for name, along, across in levels
    ]
    rule = "floor" if levels[-1][0] in ("e8m0", "micro1") else "amax"
    with pytest.raises(ValueError, match=message):
        sq.Format("user", sq.elements()["e2m1"].record, records, sq.Conversion(scale_rule=rule))


def test_scales_of_blocks_do_not_divide() -> None:
    level = sq.ScaleLevel(format=sq.elements()["e8m0"].record, along=16, combine="divide")
    with pytest.raises(ValueError, match="scales of blocks multiply"):
        sq.Format("user", sq.elements()["e2m1"].record, [level])


@pytest.mark.parametrize(
    ("format", "scales", "message"),
    [
        ("nvfp4", np.ones((1, 1)), "nvfp4 has 2 levels: give a list, outermost first"),
        ("nvfp4", [1.0, 1.0, 1.0], "3 levels given, nvfp4 has 2"),
        ("nvfp4", [np.ones((1, 2))], r"shape \(1, 2\); needed \(1, 1\)"),
        ("mx9", [None, np.full((1, 8), 2)], "codes must be 0 to 1"),
        ("mx9", [None, np.full((1, 8), 3.0)], "values that the scale format of mx9 does not hold"),
    ],
)
def test_scales_that_do_not_fit_their_level_are_refused(format: str, scales: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sq.encode(np.ones((1, 16), np.float32), format, scales=scales)


@pytest.mark.parametrize("block", [(0, 4), (2, 0), (2, 2, 2), "4x", "0x4", 2.5])
def test_blocks_that_are_none_are_refused(block: Any) -> None:
    with pytest.raises(ValueError, match="block="):
        sq.spec("mxfp4", block=block)


def test_tiles_are_written_as_lines_times_elements() -> None:
    assert sq.spec("hbfp8", block="24x24") == sq.spec("hbfp8", block=(24, 24))
    assert "block=24x24" in str(sq.spec("hbfp8", block=(24, 24)))
    assert sq.formats()["nvfp4_16x16"].block == (16, 16) and sq.formats()["nvfp4"].block == 16
    assert sq.Spec.from_json(sq.spec("nvfp4_16x16").to_json()) == sq.spec("nvfp4_16x16")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("nvfp4", 4.5),
        ("nvfp4_16x16", 4 + 8 / 256),
        ("mx9", 9),
        ("mx6", 6),
        ("mx4", 4),
        ("fp8_e4m3_128x128", 8 + 32 / 2**14),
    ],
)
def test_bits_count_the_scales_of_every_level(name: str, bits: float) -> None:
    assert sq.formats()[name].bits_per_element() == bits
    assert sq.formats()["nvfp4"].bits_per_element(32, 4) == 4.5 + 32 / 128
    assert sq.formats()["nvfp4_16x16"].bits_per_element(16, 24) == 4 + 8 * 2 / (16 * 24) + 32 / (16 * 24)


WIDE = Element(10, 0, 400, "fn", "unsigned", zero=False)


def operand_lines(tensor: sq.BlockTensor, fmt: BlockFormat) -> list[oracle.Operand]:
    """The rows of a tensor as the oracle multiplies them: the powers of two of levels inside blocks moved outside."""
    planes = [plane.tolist() for plane in plane_bits(tensor)]
    tensor_scale = planes.pop(0)[0][0] if fmt.outer else None
    lines = []
    for row, codes in enumerate(tensor.codes.tolist()):
        along = fmt.block[1] if isinstance(fmt.block, tuple) else fmt.block
        assert isinstance(along, int) and fmt.scale is not None
        scales = planes[0][row // fmt.block[0] if isinstance(fmt.block, tuple) else row]
        encodes = fmt.outer_combine != "multiply"  # then nothing is left for the end
        if fmt.has_float_scale and not fmt.micro and not encodes:
            lines.append(oracle.Operand(fmt.element, codes, scales, along, fmt.scale, tensor_scale))
            continue
        block = fmt.micro[-1].block if fmt.micro else along
        if fmt.has_float_scale:
            lifted = []
            for start in range(0, len(codes), block):
                above = oracle.Above(outer=tensor_scale, scale=scales[start // along])
                scale = oracle.factor_of(fmt, above)
                for level, plane in zip(fmt.micro, planes[1:], strict=True):
                    power = oracle.power_of_two(level.codes[plane[row][start // level.block]])
                    scale = oracle.multiply(scale, oracle.finite(power))
                lifted.append(oracle.round_to_float(scale))
            lines.append(oracle.Operand(fmt.element, codes, lifted, block, oracle.FP32))
            continue
        exponents = []
        for start in range(0, len(codes), block):
            exponent = scales[start // along] - fmt.scale.bias
            for level, plane in zip(fmt.micro, planes[1:], strict=True):
                exponent += level.codes[plane[row][start // level.block]]
            poisoned = oracle.decode(fmt.scale, scales[start // along]).kind == "nan"
            exponents.append(WIDE.nan_code if poisoned else exponent + WIDE.bias)
        lines.append(oracle.Operand(fmt.element, codes, exponents, block, WIDE))
    return lines


@pytest.mark.parametrize("datapath", ["exact", "block_fp32", "fma32"])
@pytest.mark.parametrize(
    "name",
    [name for name, fmt in FORMATS.items() if fmt.outer != "row" and not fmt.zero_point],
)
def test_products_of_levels_are_those_of_the_oracle(name: str, datapath: str) -> None:
    fmt = FORMATS[name]
    if isinstance(fmt.block, tuple):
        fmt = dataclasses.replace(fmt, block=(2, 8))
    rng, record = np.random.default_rng(7), user_format(fmt)
    x, y = ((rng.standard_normal((n, 37)) * 2.0 ** rng.integers(-9, 9, (n, 37))).astype(np.float32) for n in (3, 5))
    if fmt.outer is None and fmt.scale is not None and fmt.scale.nan_code is not None:
        x[1, 20] = np.nan
    a, b = sq.encode(x, record), sq.encode(y, record)
    left, right = operand_lines(a, fmt), operand_lines(b, fmt)
    wanted = np.array([[oracle.dot(datapath, p, q, None) for q in right] for p in left], np.uint32)
    for isa in ISAS:
        with forced_isa(isa):
            assert_same_bits(sq.matmul(a, b, datapath=datapath).view(np.uint32), wanted, (name, isa))


def test_a_product_takes_no_scales_of_rows_above_scales_of_blocks() -> None:
    tensor = sq.encode(np.ones((2, 8), np.float32), user_format(FORMATS["float32 of rows over short floats"]))
    with pytest.raises(ValueError, match="a product takes no scales of rows above scales of blocks"):
        sq.matmul(tensor, tensor)


def test_a_float_scale_with_levels_that_lift_multiplies_as_it_decodes() -> None:
    record = user_format(FORMATS["float scale over two levels that lift"])
    x = (np.random.default_rng(8).standard_normal((4, 130)) * 8).astype(np.float32)
    tensor = sq.encode(x, record)
    identity = np.eye(130, dtype=np.float32)
    # A sum of zeros is +0.
    assert_same_bits(sq.matmul(tensor, identity, datapath="fma32"), tensor.decode() + np.float32(0))


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_16x16", "mx9", "mx6", "fp8_e4m3_128x128", "hbfp8"])
def test_a_model_on_a_machine_with_levels_is_explained(name: str) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(70, 40), torch.nn.ReLU(), torch.nn.Linear(40, 9))
    block: Any = {"block": (8, 8)} if name in ("hbfp8", "fp8_e4m3_128x128") else {}
    activations = {"fp8_e4m3_128x128": "fp8_e4m3_1x128", "nvfp4_16x16": "nvfp4"}.get(name, name)
    spec = sq.spec(name, **block)
    report = sq.check(model, torch.randn(12, 70), sq.Accelerator(spec, activations, datapath="block_fp32"))
    assert report.ok and all(layer.operands_equal for layer in report.layers), report


def test_a_convolution_refuses_blocks_that_span_lines() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="blocks of 16x16 span lines"):
        sq.simulate(model, sq.Accelerator("nvfp4_16x16", "nvfp4"))


def test_tiles_and_levels_are_ranked_as_they_are_emulated() -> None:
    x = np.random.default_rng(9).standard_normal((3, 50, 70)).astype(np.float32)
    for name in ("nvfp4", "nvfp4_16x16", "mx9", "fp8_e4m3_128x128"):
        ranking = sq.rank(x, [name], axis=1)
        error = (sq.emulate(x, name, axis=1, dtype="float64") - x.astype(np.float64)).ravel()
        assert ranking.rows[0].max_error == pytest.approx(np.abs(error).max(), rel=1e-12)
        assert ranking.rows[0].relative_l2 == pytest.approx(
            np.sqrt((error**2).sum() / (x.astype(np.float64) ** 2).sum()), rel=1e-9
        )


@pytest.mark.parametrize("word", ["divide", "reciprocal", "reciprocals", "divide_top"])
def test_products_and_files_know_scales_below_one_that_encoders_multiply_by(
    word: str, tmp_path: Path, isa: str
) -> None:
    x = np.random.default_rng(3).standard_normal((4, 40), dtype=np.float32)
    made = sq.encode(x, "nvfp4", outer_combine=word)
    values = made.decode()
    got = sq.matmul(made, made, datapath="exact")
    for i, j in np.ndindex(got.shape):
        exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(values[i], values[j], strict=True))
        assert int(got[i, j].view(np.uint32)) == oracle.round_to_float(exact)
    endless = sq.encode(np.full((1, 16), 1e-44, np.float32), "nvfp4", outer_combine=word, outer_overflow="infinity")
    assert np.isinf(endless.scale_planes[0]).all() and not endless.decode().any()
    for one in (made, endless):
        one.save(tmp_path / "made.safetensors")
        assert sq.load(tmp_path / "made.safetensors") == one


def test_a_layout_that_stores_an_encode_scale_takes_none_of_another_size() -> None:
    x = np.float32([[1.0] * 16])
    assert sq.encode(x, "nvfp4", outer_combine="divide").pack(layout="compressed_tensors_nvfp4").planes
    with pytest.raises(ValueError, match="nvfp4 with outer_combine='divide_top' is none of them"):
        sq.encode(x, "nvfp4", outer_combine="divide_top").pack(layout="compressed_tensors_nvfp4")
