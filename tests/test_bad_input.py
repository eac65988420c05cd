"""Every bad argument is an error before work that says what was given and what was needed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import assert_same_bits
from sparq_sim import _core

X = np.arange(1, 9, dtype=np.float32)
E2M1 = sq.elements()["e2m1"].record
E8M0 = sq.elements()["e8m0"].record
FP32 = sq.elements()["fp32"].record
CALLS = (sq.emulate, sq.encode)


def refuse(kind: type[Exception], match: str, *arguments: Any, **named: Any) -> None:
    """Both `emulate` and `encode` refuse."""
    for call in CALLS:
        with pytest.raises(kind, match=match):
            call(*arguments, **named)


# x


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "complex64", "uint16", "longdouble"])
def test_an_array_that_is_no_float_is_refused(dtype: str) -> None:
    x = np.ones(4, dtype)
    refuse(TypeError, f"x: dtype {x.dtype}; needed: float16, bfloat16, float32, float64", x, "mxfp4")
    with pytest.raises(TypeError, match=f"x: dtype {x.dtype}"):
        sq.sparsify(x, "2:4")


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint16, torch.complex64, torch.float8_e4m3fn])
def test_a_tensor_that_is_no_float_is_refused(dtype: torch.dtype) -> None:
    x = torch.zeros(4).to(dtype)
    refuse(TypeError, f"x: dtype {str(dtype)[6:]}; needed", x, "mxfp4")


@pytest.mark.parametrize("x", [[1.0, 2.0], (1.0,), 3.0, None, "1"])
def test_what_is_no_array_is_refused(x: object) -> None:
    refuse(TypeError, f"x: needed a NumPy array or a torch tensor, got {type(x).__name__}", x, "mxfp4")
    with pytest.raises(TypeError, match="x: needed a NumPy array or a torch tensor"):
        sq.sparsify(x, "2:4")


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.dtype("S4"), np.dtype(object), "datetime64[s]"])
def test_exotic_dtypes_are_refused(dtype: Any) -> None:
    refuse(TypeError, "x: dtype", np.zeros(4, dtype), "mxfp4")


def test_a_structured_array_is_refused() -> None:
    refuse(TypeError, "x: dtype", np.zeros(4, [("a", np.float32)]), "mxfp4")


def test_a_sparse_tensor_is_refused() -> None:
    refuse(TypeError, "dense", torch.eye(4).to_sparse(), "mxfp4")


# Formats and choices


@pytest.mark.parametrize("name", ["mxfp5", "", "MXFP4", "e4m3", "mxfp4 "])
def test_an_unknown_format_lists_the_known_ones(name: str) -> None:
    refuse(ValueError, f"unknown format {name!r}; known: (?=.*mxfp8_e4m3)(?=.*mxfp4).*bf16", X, name)
    with pytest.raises(ValueError, match="unknown format"):
        sq.spec(name)


@pytest.mark.parametrize("format", [None, 4, E2M1, ["mxfp4"], np.float32])
def test_a_format_of_another_kind_is_refused(format: Any) -> None:
    refuse(TypeError, f"format: needed a name, a Format or a Spec, got {type(format).__name__}", X, format)


@pytest.mark.parametrize(
    ("name", "word", "allowed"),
    [
        (
            "rounding",
            "upward",
            "nearest_even, nearest_away, nearest_zero, nearest_up, toward_zero, up, down, to_odd, stochastic",
        ),
        (
            "rounding",
            "Nearest_Even",
            "nearest_even, nearest_away, nearest_zero, nearest_up, toward_zero, up, down, to_odd, stochastic",
        ),
        ("overflow", "wrap", "saturate, special"),
        ("scale_rule", "round", "floor, ceil, rceil, even"),
        ("rounding", "", "nearest_even"),
    ],
)
def test_an_unknown_word_lists_the_allowed_ones(name: str, word: str, allowed: str) -> None:
    refuse(ValueError, f"{name}={word!r}.*{allowed}", X, "mxfp4", **{name: word})


def test_unknown_words_for_order_and_ties_list_the_allowed_ones() -> None:
    refuse(ValueError, "ties='first'.*lowest_index, highest_index", X, "mxfp4", sparsity="2:4", ties="first")
    refuse(ValueError, "order 'first'.*sparsify_first, quantize_first", X, "mxfp4", sparsity="2:4", order="first")
    refuse(ValueError, "order 'first'.*sparsify_first, quantize_first", X, "mxfp4", mask=X > 3, order="first")


@pytest.mark.parametrize("choice", ["roundng", "scale", "rule", "likes", "sparse"])
def test_an_unknown_choice_lists_the_known_ones(choice: str) -> None:
    listed = "block.*ties.*rounding.*overflow.*scale_rule"
    refuse(TypeError, f"unknown choice {choice!r}; choices: {listed}", X, "mxfp4", **{choice: "floor"})


@pytest.mark.parametrize("word", [1, True, ("floor",)])
def test_a_choice_that_is_no_word_is_refused(word: Any) -> None:
    for call in CALLS:
        with pytest.raises((TypeError, ValueError), match="scale_rule"):
            call(X, "mxfp4", scale_rule=word)


@pytest.mark.parametrize("block", [0, -1, 2.0, True, "rows", "", 2**31, 10**30, (4,)])
def test_a_block_that_is_no_extent_is_refused(block: Any) -> None:
    refuse(ValueError, r"block=.*needed a positive integer below 2\^31, 'row' or 'tensor'", X, "mxfp4", block=block)


@pytest.mark.parametrize(
    ("format", "choices", "match"),
    [
        ("bf16", {"block": 8}, "block=8: bf16 has no scales"),
        (
            "mxfp4",
            {"scale_rule": "amax"},
            "scale_rule='amax'.*power of two: use floor, ceil, rceil, even, nearest, fit, mse or mae",
        ),
        ("int8", {"scale_rule": "floor"}, "scale_rule='floor'.*float: use 'amax'"),
        ("fp8_e4m3", {"scale_rule": "rceil"}, "scale_rule='rceil'.*float: use 'amax'"),
        ("mxfp8", {"overflow": "special"}, "overflow='special'.*scaled block saturates"),
        ("int8", {"overflow": "special"}, "overflow='special'.*scaled block saturates"),
        ("mxfp4", {"ties": "lowest_index"}, "ties='lowest_index' without a sparsity pattern"),
        ("mxfp4", {"order": "quantize_first"}, "order='quantize_first' without a sparsity pattern"),
    ],
)
def test_a_combination_that_means_nothing_is_refused(format: str, choices: dict[str, str], match: str) -> None:
    refuse(ValueError, match, X, format, **choices)


def test_a_mask_beside_a_pattern_is_refused() -> None:
    refuse(ValueError, "mask= replaces.*give one", X, "mxfp4", mask=X > 3, sparsity="2:4")
    refuse(ValueError, "mask= replaces.*give one", X, sq.spec("mxfp4", sparsity="2:4"), mask=X > 3)


# User formats


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"exponent_bits": 9, "mantissa_bits": 3, "bias": 255}, "exponent_bits must be 0 to 8"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "bias": 300}, "bias must be -256 to 256"),
        ({"exponent_bits": 0, "mantissa_bits": 0}, "magnitude bit"),
        ({"exponent_bits": 4, "mantissa_bits": 0, "specials": "ieee"}, "mantissa bit for NaN"),
        ({"exponent_bits": 0, "mantissa_bits": 7, "specials": "ieee"}, "two exponent bits"),
        ({"exponent_bits": 1, "mantissa_bits": 0, "specials": "fn"}, "leaves no number"),
        ({"exponent_bits": 0, "mantissa_bits": 1, "specials": "fn"}, "leaves no number"),
        ({"exponent_bits": 1, "mantissa_bits": 0, "specials": "fnuz_inf"}, "leaves no number"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "signedness": "unsigned"}, "signed"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "signedness": "twos_complement"}, "two's complement"),
        ({"exponent_bits": -1, "mantissa_bits": 3}, "exponent_bits"),
        ({"exponent_bits": 4, "mantissa_bits": -1}, "mantissa_bits"),
        ({"exponent_bits": 8, "mantissa_bits": 60}, "mantissa_bits"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "zero": False}, "zero"),
    ],
)
def test_an_element_that_no_kernel_can_do_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sq.Format("mine", sq.ElementFormat(**fields), ())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (
            {"exponent_bits": 11, "bias": 100, "signedness": "unsigned", "zero": False},
            "1 to 10 exponent bits",
        ),
        ({"exponent_bits": 8, "bias": 600, "signedness": "unsigned", "zero": False}, "bias must be"),
        ({"exponent_bits": 8, "bias": 127, "signedness": "unsigned"}, "a scale is"),
        ({"exponent_bits": 8, "bias": 127, "zero": False}, "a scale is|signed"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "bias": 8, "specials": "fnuz"}, "a scale is"),
        (
            {"exponent_bits": 1, "signedness": "unsigned", "zero": False, "specials": "ieee"},
            "ieee|a scale is",
        ),
    ],
)
def test_a_scale_that_no_kernel_can_do_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sq.Format("mine", E2M1, [sq.ScaleLevel(format=sq.ElementFormat(**fields), along=8)])


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        ([sq.ScaleLevel(format=E8M0, along=8)] * 2, "a level inside blocks"),
        ([sq.ScaleLevel(format=E8M0, along=8, across=0)], "across"),
        ([sq.ScaleLevel(format=E8M0, along=8, across=-8)], "across"),
        ([sq.ScaleLevel(format=E8M0, along=-8)], "along"),
    ],
)
def test_scale_levels_that_no_kernel_can_do_are_refused(levels: list[sq.ScaleLevel], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sq.Format("mine", E2M1, levels)


def test_an_element_without_specials_cannot_overflow_to_one() -> None:
    with pytest.raises(ValueError, match="overflow='special' needs an element with Inf or NaN"):
        sq.Format("mine", E2M1, (), sq.Conversion(overflow="special"))


# Sparsity

PATTERNS = ["3:2", "0:4", "2:33", "0:0", "33:33", "4:0"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_out_of_range_is_refused(pattern: str) -> None:
    refuse(ValueError, "1 <= N <= M <= 32", X, "mxfp4", sparsity=pattern)
    with pytest.raises(ValueError, match="1 <= N <= M <= 32"):
        sq.sparsify(X, pattern)


UNREADABLE = [
    "",
    "2",
    "2:",
    ":4",
    "2/4",
    "2:4 ",
    " 2:4",
    "2:4\n",
    "-2:4",
    "2:4:8",
    "a:b",
    "2.0:4",
    "\uff12:\uff14",
]


@pytest.mark.parametrize("pattern", [*UNREADABLE, "1:4294967297", "99999999999999999999:4"])
def test_a_pattern_that_does_not_read_is_refused(pattern: str) -> None:
    refuse(ValueError, "needed a pattern N:M such as '2:4'", X, "mxfp4", sparsity=pattern)
    with pytest.raises(ValueError, match="needed a pattern N:M such as '2:4'"):
        sq.sparsify(X, pattern)


@pytest.mark.parametrize("pattern", [24, (2, 4), 2.4, True])
def test_a_pattern_of_another_kind_is_refused(pattern: Any) -> None:
    refuse(TypeError, f"sparsity.*got {type(pattern).__name__}", X, "mxfp4", sparsity=pattern)


def test_sparsify_needs_a_pattern() -> None:
    with pytest.raises((TypeError, ValueError), match="sparsity"):
        sq.sparsify(X, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("score", "kind", "match"),
    [
        (np.ones(7, np.float32), ValueError, r"score: shape \(7,\); needed the shape of x, \(8,\)"),
        (np.ones((8, 1), np.float32), ValueError, r"score: shape \(8, 1\)"),
        (np.ones(8, np.int32), TypeError, "score: dtype int32"),
        ([1.0] * 8, TypeError, "score.*list"),
    ],
)
def test_a_wrong_score_is_refused(score: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        sq.sparsify(X, "2:4", score=score)


@pytest.mark.parametrize(
    ("mask", "kind", "match"),
    [
        (np.ones(7, bool), ValueError, r"mask: shape \(7,\); needed the shape of x, \(8,\)"),
        (np.ones((8, 1), bool), ValueError, r"mask: shape \(8, 1\)"),
        (np.ones((), bool), ValueError, r"mask: shape \(\)"),
        (np.ones(8, np.int32), TypeError, "mask: dtype int32; needed bool, or uint8"),
        (np.ones(8, np.float32), TypeError, "mask: dtype float32; needed bool"),
        (np.full(8, 2, np.uint8), ValueError, "mask: holds 2; needed 0 and 1"),
        ([True] * 8, TypeError, "mask: needed a NumPy array or a torch tensor, got list"),
        ("2:4", TypeError, "mask: needed a NumPy array or a torch tensor, got str"),
    ],
)
def test_a_wrong_mask_is_refused(mask: Any, kind: type[Exception], match: str) -> None:
    refuse(kind, match, X, "mxfp4", mask=mask)


# Given scales


@pytest.mark.parametrize(
    ("format", "scales", "kind", "match"),
    [
        ("mxfp4", np.zeros(3, np.uint8), ValueError, r"scales: shape \(3,\); needed \(2,\)"),
        ("mxfp4", np.zeros((2, 1), np.uint8), ValueError, r"scales: shape \(2, 1\); needed \(2,\)"),
        ("mxfp4", np.zeros((), np.uint8), ValueError, r"scales: shape \(\); needed \(2,\)"),
        ("mxfp4", np.int32([0, 256]), ValueError, "codes must be 0 to 255"),
        ("mxfp4", np.int32([0, -1]), ValueError, "codes must be 0 to 255"),
        ("mxfp4", np.float32([1, 3]), ValueError, "powers of two"),
        ("mxfp4", np.float32([1, -1]), ValueError, "powers of two"),
        ("mxfp4", np.float32([1, 0]), ValueError, "powers of two"),
        ("mxfp4", np.float32([1, np.inf]), ValueError, "powers of two"),
        ("mxfp4", np.float64([1, 2.0**128]), ValueError, "powers of two"),
        ("mxfp4", np.float64([1, 2.0**-128]), ValueError, "powers of two"),
        ("mxfp4", np.array([True, False]), TypeError, "scales: dtype bool"),
        ("mxfp4", np.complex64([1, 1]), TypeError, "scales: dtype complex64"),
        ("mxfp4", "floor", TypeError, "scales.*str"),
        ("mxfp4", [np.zeros(2, np.uint8)] * 2, ValueError, "2 levels given, mxfp4 has 1"),
        ("int8", np.uint8([1, 1]), TypeError, "scales: dtype uint8; int8 takes float values"),
        ("int8", np.float32([1, 0]), ValueError, "positive finite"),
        ("int8", np.float32([1, -0.0]), ValueError, "positive finite"),
        ("int8", np.float32([1, -1]), ValueError, "positive finite"),
        ("int8", np.float32([1, np.inf]), ValueError, "positive finite"),
        ("int8", np.float64([1, 0.1]), ValueError, "float32 does not hold"),
        ("int8", np.float64([1, 1e300]), ValueError, "float32 does not hold|positive finite"),
        ("bf16", np.zeros(2, np.uint8), ValueError, "scales=: bf16 has no scales"),
    ],
)
def test_wrong_scales_are_refused(format: str, scales: Any, kind: type[Exception], match: str) -> None:
    choices = {} if format == "bf16" else {"block": 4}
    with np.errstate(over="ignore"):
        refuse(kind, match, X, format, scales=scales, **choices)


@pytest.mark.filterwarnings("ignore:overflow")
def test_bfloat16_scales_are_values_or_refused_but_never_codes() -> None:
    x = torch.from_numpy(X)
    for value in (2.0, 2.0**-133):
        scales = torch.tensor([value], dtype=torch.bfloat16)
        try:
            got = sq.encode(x, "mxfp4", scales=scales)
        except (TypeError, ValueError) as error:
            assert "bfloat16" in str(error) or "powers of two" in str(error)
        else:
            assert value == 2.0 and got.scales is not None and got.scales.tolist() == [128]


def test_a_five_bit_scale_without_nan_takes_no_nan() -> None:
    five = sq.ElementFormat(exponent_bits=5, bias=15, signedness="unsigned", zero=False)
    mine = sq.Format("mine", E2M1, [sq.ScaleLevel(format=five, along=4)])
    refuse(ValueError, "scales", X, mine, scales=np.float32([1, np.nan]))
    refuse(ValueError, "codes must be 0 to 31", X, mine, scales=np.uint8([0, 32]))


def test_the_scale_of_a_tensor_is_for_formats_that_have_one() -> None:
    refuse(ValueError, "tensor_scale=: mxfp4 has no scale of the tensor", X, "mxfp4", tensor_scale=1.0)
    refuse(ValueError, "tensor_scale=: int8 has no scale of the tensor", X, "int8", tensor_scale=1.0)
    scales = np.float32([1])
    refuse(ValueError, "the same scale: give one", X, "fp8_e4m3", tensor_scale=1.0, scales=scales)
    for bad in (0.0, -1.0, float("inf"), 0.1):
        refuse(ValueError, "scale", X, "fp8_e4m3", tensor_scale=bad)


# Values that cannot be expressed


def test_what_is_not_finite_needs_a_code() -> None:
    plain = sq.Format("plain", E2M1, ())
    for bad in (np.nan, -np.nan):
        refuse(ValueError, "NaN or Inf, and plain has no code for it", np.float32([1, bad]), plain)
    # Inf saturates: it is no error.
    assert sq.emulate(np.float32([np.inf, -np.inf]), plain).tolist() == [6, -6]


def test_what_is_not_finite_needs_a_scale_with_nan() -> None:
    five = sq.ElementFormat(exponent_bits=5, bias=15, signedness="unsigned", zero=False)
    mine = sq.Format("mine", E2M1, [sq.ScaleLevel(format=five, along=4)])
    for bad in (np.nan, np.inf, -np.inf):
        refuse(ValueError, "NaN or Inf, and mine has no code for it", np.float32([1, bad]), mine)


def test_what_is_not_finite_below_a_given_scale_is_refused() -> None:
    scales = np.uint8([127])
    for bad in (np.nan, np.inf):
        x = np.float32([1, bad])
        refuse(ValueError, "NaN or Inf where scales= gives a scale that is a number", x, "mxfp4", scales=scales)
    # Pruned before, it does not reach the scale; and a NaN scale poisons.
    assert sq.emulate(x, "mxfp4", scales=scales, mask=np.array([True, False])).tolist() == [1, 0]
    assert np.isnan(sq.emulate(x, "mxfp4", scales=np.uint8([255]))).all()


def test_an_inexact_result_names_the_ways_out() -> None:
    x = np.float32([3.4028235e38])
    with pytest.raises(ValueError, match=r"1 value.*mxfp4.*float32.*dtype='float64'.*inexact='round'"):
        sq.emulate(x, "mxfp4", scale_rule="ceil")
    encoded = sq.encode(x, "mxfp4", scale_rule="ceil")
    with pytest.raises(ValueError, match="dtype='float64'"):
        encoded.decode()
    assert encoded.decode("float64").tolist() == [2.0**128]
    assert sq.emulate(x, "mxfp4", scale_rule="ceil", inexact="round").tolist() == [np.inf]
    assert sq.emulate(x, "mxfp4", scale_rule="ceil", dtype="float64").tolist() == [2.0**128]


@pytest.mark.parametrize("word", ["warn", "", "Round", 1])
def test_an_unknown_inexact_policy_is_refused(word: Any) -> None:
    with pytest.raises(ValueError, match=r"inexact=.*error, round"):
        sq.emulate(X, "mxfp4", inexact=word)
    with pytest.raises(ValueError, match=r"inexact=.*error, round"):
        sq.encode(X, "mxfp4").decode(inexact=word)


# Axes, dtypes, outputs, threads


@pytest.mark.parametrize("axis", [1, -2, 100])
def test_an_axis_that_is_not_there_is_refused(axis: int) -> None:
    refuse(ValueError, f"axis={axis}: the array has 1 axes", X, "mxfp4", axis=axis)
    with pytest.raises(ValueError, match=f"axis={axis}: the array has 1 axes"):
        sq.sparsify(X, "2:4", axis=axis)


@pytest.mark.parametrize("axis", [0.0, "0", True, (0,)])
def test_an_axis_that_is_no_integer_is_refused(axis: Any) -> None:
    refuse(TypeError, "axis: needed an integer", X, "mxfp4", axis=axis)
    with pytest.raises(TypeError, match="axis: needed an integer"):
        sq.sparsify(X, "2:4", axis=axis)


@pytest.mark.parametrize("dtype", [int, "int32", "half", np.uint8, torch.int8, "float8_e4m3fn", "", complex, 5])
def test_a_result_dtype_that_is_no_float_is_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"dtype.*needed: float16, bfloat16, float32, float64"):
        sq.emulate(X, "mxfp4", dtype=dtype)
    with pytest.raises(TypeError, match=r"dtype.*needed: float16, bfloat16, float32, float64"):
        sq.encode(X, "mxfp4").decode(dtype)


@pytest.mark.parametrize(
    ("out", "kind", "match"),
    [
        (np.zeros(7, np.float32), ValueError, r"out: shape \(7,\); needed \(8,\)"),
        (np.zeros((8, 1), np.float32), ValueError, r"out: shape \(8, 1\); needed \(8,\)"),
        (np.zeros(8, np.int32), TypeError, "dtype int32"),
        (torch.zeros(8), TypeError, "out.*Tensor; needed.*ndarray"),
        ([0.0] * 8, TypeError, "out"),
        (1.0, TypeError, "out"),
    ],
)
def test_a_wrong_output_is_refused(out: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        sq.emulate(X, "mxfp4", out=out)


def test_an_output_of_another_dtype_than_asked_for_is_refused() -> None:
    with pytest.raises(TypeError, match="out: dtype float64; needed float32"):
        sq.emulate(X, "mxfp4", out=np.zeros(8), dtype="float32")


def test_an_array_is_no_output_for_a_tensor() -> None:
    with pytest.raises(TypeError, match="out: ndarray; needed the kind of x, Tensor"):
        sq.emulate(torch.from_numpy(X.copy()), "mxfp4", out=np.zeros(8, np.float32))  # type: ignore[type-var]


def test_a_read_only_output_is_refused_and_stays_as_it_is() -> None:
    out = np.full(8, 5, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"out.*read-only"):
        sq.emulate(X, "mxfp4", out=out)
    assert (out == 5).all()
    broadcast = np.broadcast_to(np.float32(0), 8)
    with pytest.raises(ValueError, match=r"out.*read-only"):
        sq.emulate(X, "mxfp4", out=broadcast)


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_a_number_of_threads_that_is_none_is_refused(threads: Any) -> None:
    refuse(ValueError, "threads=.*needed a positive integer or None", X, "mxfp4", threads=threads)
    with pytest.raises(ValueError, match="threads="):
        sq.sparsify(X, "2:4", threads=threads)
    with pytest.raises(ValueError, match="threads="):
        sq.encode(X, "mxfp4").decode(threads=threads)


def test_many_threads_for_little_work_are_fine() -> None:
    assert np.array_equal(sq.emulate(X, "mxfp4", threads=1000), sq.emulate(X, "mxfp4"))


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "reference ", "avx2,baseline"])
def test_an_unknown_isa_lists_the_available_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARQ_ISA", name)
    listed = ".*".join(sq.available_isas())
    refuse(ValueError, f"SPARQ_ISA.*{name}.*{listed}", X, "mxfp4")
    with pytest.raises(ValueError, match="SPARQ_ISA"):
        sq.sparsify(X, "2:4")


def test_an_error_counts_no_events() -> None:
    events = sq.Events()
    with pytest.raises(ValueError):
        sq.emulate(np.float32([np.nan, 7.5]), "mxfp4", scales=np.uint8([127]), events=events)
    with pytest.raises(ValueError):
        sq.emulate(np.float32([3.4e38, 0]), "mxfp4", scale_rule="ceil", events=events)
    assert events == sq.Events()


def test_a_bad_argument_touches_neither_input_nor_output() -> None:
    x, out = X.copy(), np.full(8, 5, np.float32)
    several: list[dict[str, Any]] = [
        {"axis": 3},
        {"rounding": "upward"},
        {"sparsity": "5:4"},
        {"threads": 0},
        {"mask": np.ones(3, bool)},
        {"scales": np.zeros(5, np.uint8)},
        {"inexact": "maybe"},
        {"nonsense": 1},
    ]
    for bad in several:
        with pytest.raises((TypeError, ValueError)):
            sq.emulate(x, "mxfp4", out=out, **bad)
    assert np.array_equal(x, X) and (out == 5).all()


def test_a_scale_rule_for_a_format_without_scales_is_refused() -> None:
    refuse(ValueError, "scale_rule='floor': bf16 has no scales", X, "bf16", scale_rule="floor")


def test_the_core_refuses_arrays_of_the_wrong_size_instead_of_reading_past_them() -> None:
    spec = sq.spec("mxfp4")
    decoding = {
        "codes": np.zeros(8, np.uint8), "scales": [np.zeros(1, np.uint8)], "shape": (1, 8, 1), "rows": 0,
        "format": spec.format.block_format, "values": np.zeros(8, np.float32), "values_type": "float32", "threads": 1,
    }  # fmt: skip
    bad: list[dict[str, Any]] = [
        {"scales": []},
        {"scales": [None]},
        {"scales": [np.zeros(2, np.uint8)]},
        {"scales": [np.zeros(1, np.float32)]},
        {"rows": 2},
        {"rows": -1},
        {"codes": np.zeros(7, np.uint8)},
        {"codes": np.zeros(16, np.uint8)[::2]},
        {"values": np.zeros(8, np.float64)},
        {"values_type": "float128"},
        {"shape": (1, 9, 1)},
    ]
    _core.decode(**decoding)
    for one in bad:
        with pytest.raises(ValueError):
            _core.decode(**{**decoding, **one})


def test_numbers_beyond_float32_under_a_given_float_scale_leave_an_input_in_place_alone() -> None:
    x = np.array([1e300, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="beyond float32 become Inf"):
        sq.emulate(x, "int8", scales=np.float32([1]), out=x)
    assert x.tolist() == [1e300, 2, 3, 4]


def test_a_format_below_the_result_leaves_an_input_in_place_alone() -> None:
    tiny = sq.ElementFormat(exponent_bits=4, mantissa_bits=3, bias=200, specials="fn")
    x = np.float32([1, 2])
    with pytest.raises(ValueError, match="not representable in float32"):
        sq.emulate(x, sq.Format("tiny", tiny), out=x)
    assert x.tolist() == [1, 2]


def test_a_scale_that_is_an_integer_is_a_code_and_a_float_a_value() -> None:
    x = np.float32([[3, 1]])
    by_code = sq.emulate(x, "mxfp4", scales=np.array([[128]]))
    assert_same_bits(sq.emulate(x, "mxfp4", scales=128), by_code)
    assert_same_bits(sq.emulate(x, "mxfp4", scales=[128]), by_code)
    assert_same_bits(sq.emulate(x, "mxfp4", scales=2.0), by_code)
    assert_same_bits(sq.emulate(x, "mxfp4", block="tensor", tensor_scale=2), by_code)


def test_records_of_the_wrong_kind_are_refused_with_what_was_given() -> None:
    element = sq.elements()["e2m1"]
    assert sq.Format("by entry", element).element == element.record
    for levels in ([1], "e8m0", 3):
        with pytest.raises(TypeError, match="levels: needed a list of ScaleLevel"):
            sq.Format("u", element.record, levels)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="element: needed an ElementFormat"):
        sq.Format("u", "e2m1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="format: needed a Format"):
        sq.Spec("mxfp4")  # type: ignore[arg-type]


def test_codes_and_scales_that_no_encoder_makes_are_refused() -> None:
    for codes, scales, format_, match in (
        (np.uint8([100]), np.uint8([127]), "mxfp4", "more than the 4 bits"),
        (np.uint8([1]), np.float32([-1]), "int8", "positive finite"),
    ):
        with pytest.raises(ValueError, match=match):
            sq.BlockTensor(codes, scales, None, sq.spec(format_), "float32", "numpy")


def test_scalars_of_numpy_are_arrays_and_masked_arrays_are_refused() -> None:
    assert sq.emulate(np.float32(3.3), "bf16").shape == ()
    assert sq.emulate(X, "mxfp4", block=np.int64(2)).tolist() == sq.emulate(X, "mxfp4", block=2).tolist()
    refuse(TypeError, "masked array", np.ma.masked_array(X, mask=X > 3), "mxfp4")
