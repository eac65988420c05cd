"""Products on every datapath against the oracle, against recorded hardware, and every path against every other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import oracle
import sparq_sim as sq
from conftest import ISAS, Array, assert_same_bits, bits_of, element_record, forced_isa
from oracle import ELEMENTS, FP32, Element, Operand
from witnesses import TYPES

FAST_ISAS = tuple(name for name in ISAS if name != "reference")
THREADS = (1, 2, 3)
DEFINED = ("exact", "block_fp32", "fma32")
DATAPATHS = (*DEFINED, "hopper_fp8")
GOLDEN = Path(__file__).parent / "golden" / "hw"
NAN32, HOPPER_NAN = 0x7FC00000, 0x7FFFFFFF
INF32, MINUS_INF32 = 0x7F800000, 0xFF800000
ONE32 = 0x3F800000


# Operands: what the library is given, and the same in the oracle's words


@dataclass
class Side:
    """One operand: the argument of `matmul`, its keywords without their prefix, and its lines for the oracle."""

    argument: Any
    lines: list[Operand]
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def scaled_at_end(self) -> bool:
        """Whether a scale multiplies after everything else on every datapath."""
        return any(line.tensor_scale is not None for line in self.lines)

    @property
    def float_scaled(self) -> bool:
        """Whether float scales of any kind take part."""
        return any(line.tensor_scale is not None or line.has_float_scales for line in self.lines)

    @property
    def fp8_without_block_scales(self) -> bool:
        """What `hopper_fp8` takes."""
        return all(
            line.element in (ELEMENTS["e4m3"], ELEMENTS["e5m2"])
            and (line.scales is None or (line.has_float_scales and len(line.scales) == 1 and line.tensor_scale is None))
            for line in self.lines
        )


def matmul(a: Side, b: Side, **keywords: Any) -> Any:
    """`sq.matmul` of two sides."""
    for prefix, side in (("a", a), ("b", b)):
        keywords |= {f"{prefix}_{name}": value for name, value in side.keywords.items()}
    return sq.matmul(a.argument, b.argument, **keywords)


def expected(a: Side, b: Side, datapath: str, c: Array | None = None) -> Array:
    """The oracle's bits, [M, N]; K is not 0."""
    result = np.empty((len(a.lines), len(b.lines)), dtype=np.uint32)
    for i, x in enumerate(a.lines):
        for j, y in enumerate(b.lines):
            start = None if c is None else int(c.view(np.uint32)[i, j])
            result[i, j] = oracle.dot(datapath, x, y, start)
    return result


def check(a: Side, b: Side, datapath: str, c: Array | None = None, isas: Sequence[str] = ISAS) -> None:
    """Bits of every implementation equal those of the oracle."""
    wanted = expected(a, b, datapath, c)
    for name in isas:
        with forced_isa(name):
            got = matmul(a, b, datapath=datapath, c=c)
        assert_same_bits(np.asarray(got).view(np.uint32), wanted, (datapath, name))


def bits32(value: float) -> int:
    """Bits of a number as float32."""
    return int(np.float32(value).view(np.uint32))


def from_tensor(tensor: sq.BlockTensor, element: str) -> Side:
    """A 2-D BlockTensor; its line is read off the public arrays."""
    rows = tensor.codes.tolist()
    fmt = tensor.format
    if tensor.scales is None:
        return Side(tensor, [Operand(ELEMENTS[element], row) for row in rows])
    is_float = fmt.scale_kind == "float"
    scales = (tensor.scales if fmt.has_scale_codes else tensor.scales.view(np.uint32)).tolist()
    if fmt.block == "tensor":
        if is_float and not fmt.has_scale_codes:
            return Side(tensor, [Operand(ELEMENTS[element], row, tensor_scale=scales[0][0]) for row in rows])
        scales = scales * len(rows)
    block = fmt.block if isinstance(fmt.block, int) else None
    kind = oracle.ELEMENTS["ue4m3"] if is_float and fmt.has_scale_codes else FP32 if is_float else oracle.E8M0
    pairs = zip(rows, scales, strict=True)
    return Side(tensor, [Operand(ELEMENTS[element], row, scale, block, kind) for row, scale in pairs])


def values(rng: np.random.Generator, rows: int, k: int, style: str, which: str) -> Array:
    """Float32 input for an encoder; the styles are those of `codes_of`."""
    x = rng.standard_normal((rows, k)) * np.exp2(rng.integers(-6, 7, (rows, k)))
    if style == "tiny":
        x *= 2.0 ** float(rng.integers(-140, -120))
    if style == "huge":
        x *= 2.0 ** float(rng.integers(100, 118))
    x = np.where(rng.random((rows, k)) < 0.1, np.copysign(0.0, x), x).astype(np.float32)
    if style == "cancel":
        mirrored(x, which)
    if style == "special":
        pick = rng.random((rows, k))
        x[pick < 0.3 / max(k, 1)] = np.nan
        x[pick > 1 - 0.6 / max(k, 1)] = np.inf
    return x


def mirrored(x: Array, which: str) -> None:
    """Makes the second half of K repeat the first, with the other sign in b: everything cancels but the middle."""
    half = x.shape[1] // 2
    x[:, -half or x.shape[1] :] = x[:, :half] * (1 if which == "a" else -1)


def codes_of(element: Element, rng: np.random.Generator, shape: tuple[int, int], style: str, which: str) -> Array:
    """Random codes.

    plain: any finite code. tiny: the smallest exponent fields. huge: the largest. cancel: see `mirrored`.
    special: a few NaN, Inf and zeros of either sign.
    """
    top = element.largest_code
    magnitude = rng.integers(0, top + 1, shape, dtype=np.int64)
    if style == "plain" and element.exponent_bits > 5:
        # Any exponent at all would let one product dwarf the others.
        centre = int(rng.integers(element.bias - 20, element.bias + 20))
        fields = centre + rng.integers(-8, 9, shape)
        mantissa = magnitude & ((1 << element.mantissa_bits) - 1)
        magnitude = (fields << element.mantissa_bits) | mantissa
    low = 3 << max(element.mantissa_bits - (element.exponent_bits == 0) * 5, 0)
    if style == "tiny":
        magnitude = rng.integers(0, min(low, top) + 1, shape)
    if style == "huge":
        magnitude = top - rng.integers(0, min(low, top) + 1, shape)
    magnitude[rng.random(shape) < 0.05] = 0
    negative = rng.random(shape) < 0.5
    if style == "cancel":
        mirrored(magnitude, "a")
        signs = np.where(negative, -1, 1)
        mirrored(signs, which)
        negative = signs < 0
    if element.signedness == "twos_complement":
        codes = np.where(negative, -magnitude, magnitude) & ((1 << element.width) - 1)
        if style in ("plain", "special"):
            codes[rng.random(shape) < 0.02] = 1 << (element.width - 1)  # the code that no encoder writes
    else:
        if not element.has_negative_zero:
            negative &= magnitude != 0
        codes = np.where(negative, magnitude | element.sign_bit, magnitude)
    if style == "special":
        pick = rng.random(shape)
        if element.nan_code is not None:
            codes[pick < 0.2 / shape[1]] = element.nan_code
        if element.infinity_code is not None:
            codes[pick > 1 - 0.6 / shape[1]] = element.infinity_code
            codes[pick > 1 - 0.3 / shape[1]] |= element.sign_bit
    return codes.astype(np.uint8 if element.width <= 8 else np.uint16 if element.width <= 16 else np.uint32)


Maker = Callable[[np.random.Generator, int, int, str, str], Side]


def encoded(format: str, element: str, **choices: Any) -> Maker:
    """A BlockTensor made by the library's encoder from random numbers."""

    def make(rng: np.random.Generator, rows: int, k: int, style: str, which: str) -> Side:
        return from_tensor(sq.encode(values(rng, rows, k, style, which), format, **choices), element)

    return make


def raw(element: str, scales: str = "none", block: int = 4) -> Maker:
    """Random codes as unsigned integers, with random scales."""

    def make(rng: np.random.Generator, rows: int, k: int, style: str, which: str) -> Side:
        codes = codes_of(ELEMENTS[element], rng, (rows, k), style, which)
        keywords: dict[str, Any] = {"format": element}
        kind: dict[str, Any] = {}
        per_line: list[dict[str, Any]] = [{} for _ in range(rows)]
        if scales == "e8m0":
            extent = next(n for n in (block, 3, 2, 1) if k % n == 0)
            low, high = {"tiny": (0, 4), "huge": (250, 255)}.get(style, (115, 140))
            made = rng.integers(low, high, (rows, max(k // extent, 1))).astype(np.uint8)
            if style == "special":
                made[rng.random(made.shape) < 0.1] = 0xFF
            kind = {"block": extent, "scale_element": oracle.E8M0}
            per_line = [{"scales": row} for row in made.tolist()]
            keywords["scales"] = made
        elif scales in ("row", "row and tensor"):
            floats = scale_values(rng, rows, style)
            kind = {"scale_element": FP32}
            per_line = [{"scales": [bits]} for bits in floats.view(np.uint32).tolist()]
            keywords["scales"] = floats
        if scales in ("tensor", "row and tensor"):
            value = np.float32(rng.uniform(0.1, 3))
            kind["tensor_scale"] = int(value.view(np.uint32))
            keywords["tensor_scale"] = float(value)
        lines = [
            Operand(ELEMENTS[element], row, **kind, **own) for row, own in zip(codes.tolist(), per_line, strict=True)
        ]
        return Side(codes, lines, keywords)

    return make


def scale_values(rng: np.random.Generator, rows: int, style: str) -> Array:
    """Float scales, one per row."""
    exponent = {"tiny": -148, "huge": 100}.get(style, -2)
    floats = np.float32(rng.uniform(1, 2, rows) * 2.0**exponent)
    if style == "special":
        floats[rng.random(rows) < 0.2] = np.nan
    return floats


TORCH_DTYPES = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "int8": torch.int8,
}


def numpy_array(element: str) -> Maker:
    """An array whose dtype is the format."""

    def make(rng: np.random.Generator, rows: int, k: int, style: str, which: str) -> Side:
        codes = codes_of(ELEMENTS[element], rng, (rows, k), style, which)
        lines = [Operand(ELEMENTS[element], row) for row in codes.tolist()]
        return Side(codes.view(TYPES[element]), lines)

    return make


def torch_tensor(element: str) -> Maker:
    """A tensor whose dtype is the format."""

    def make(rng: np.random.Generator, rows: int, k: int, style: str, which: str) -> Side:
        codes = codes_of(ELEMENTS[element], rng, (rows, k), style, which)
        lines = [Operand(ELEMENTS[element], row) for row in codes.tolist()]
        return Side(torch.from_numpy(codes).view(TORCH_DTYPES[element]), lines)

    return make


KINDS: dict[str, Maker] = {
    "mxfp8_e4m3": encoded("mxfp8_e4m3", "e4m3"),
    "mxfp8_e5m2 of 16": encoded("mxfp8_e5m2", "e5m2", block=16),
    "mxfp6_e2m3 of 12": encoded("mxfp6_e2m3", "e2m3", block=12),
    "mxfp6_e3m2": encoded("mxfp6_e3m2", "e3m2"),
    "mxfp4 of 16": encoded("mxfp4", "e2m1", block=16),
    "mxfp4 2:4": encoded("mxfp4", "e2m1", sparsity="2:4"),
    "mxfp8 per tensor": encoded("mxfp8", "e4m3", block="tensor"),
    "mxint8": encoded("mxint8", "mxint8_element"),
    "mxint4": encoded("mxint4", "mxint4_element"),
    "msfp12": encoded("msfp12", "hbfp4_element"),
    "msfp13 of 6": encoded("msfp13", "msfp13_element", block=6),
    "msfp15": encoded("msfp15", "msfp15_element"),
    "int4 per row": encoded("int4", "int4"),
    "int4 in groups of 16": encoded("int4_g128", "int4", block=16),
    "nvfp4_one_level": encoded("nvfp4_one_level", "e2m1"),
    "nvfp4_one_level of 6": encoded("nvfp4_one_level", "e2m1", block=6),
    "fp8_e4m3 in blocks of 8": encoded("fp8_e4m3_1x128", "e4m3", block=8),
    "tf32": encoded("tf32", "tf32"),
    "hbfp8": encoded("hbfp8", "hbfp8_element"),
    "hbfp6 of 5": encoded("hbfp6", "hbfp6_element", block=5),
    "hbfp4 per row": encoded("hbfp4", "hbfp4_element", block="row"),
    "int8 per row": encoded("int8", "int8"),
    "int8 per tensor": encoded("int8", "int8", block="tensor"),
    "fp8_e4m3 per tensor": encoded("fp8_e4m3", "e4m3"),
    "fp8_e5m2 per row": encoded("fp8_e5m2", "e5m2", block="row"),
    "bf16": encoded("bf16", "bf16"),
    "raw e4m3 with e8m0": raw("e4m3", "e8m0"),
    "raw int8 with e8m0": raw("int8", "e8m0"),
    "raw bf16 with e8m0": raw("bf16", "e8m0"),
    "raw e5m2 with row scales": raw("e5m2", "row"),
    "raw fp32 with row scales": raw("fp32", "row"),
    "raw e4m3 with a tensor scale": raw("e4m3", "tensor"),
    "raw int8 with row and tensor scales": raw("int8", "row and tensor"),
    "raw e2m1": raw("e2m1"),
    "raw tf32": raw("tf32"),
    "raw p3109_8p3se with e8m0": raw("p3109_8p3se", "e8m0"),
    "raw p3109_8p4se": raw("p3109_8p4se"),
    "raw p3109_4p2sf with row scales": raw("p3109_4p2sf", "row"),
    "numpy e4m3": numpy_array("e4m3"),
    "numpy e5m2": numpy_array("e5m2"),
    "numpy e4m3fnuz": numpy_array("e4m3fnuz"),
    "numpy e2m3": numpy_array("e2m3"),
    "numpy e2m1": numpy_array("e2m1"),
    "numpy e4m3b11fnuz": numpy_array("e4m3b11fnuz"),
    "numpy e4m3_ieee": numpy_array("e4m3_ieee"),
    "numpy e3m4": numpy_array("e3m4"),
    "numpy int8": numpy_array("int8"),
    "numpy int4": numpy_array("int4"),
    "numpy fp16": numpy_array("fp16"),
    "numpy fp32": numpy_array("fp32"),
    "torch e4m3": torch_tensor("e4m3"),
    "torch e5m2fnuz": torch_tensor("e5m2fnuz"),
    "torch bf16": torch_tensor("bf16"),
    "torch fp32": torch_tensor("fp32"),
}
STYLES = ("plain", "tiny", "huge", "cancel", "special")


def starting_values(rng: np.random.Generator, shape: tuple[int, int], wanted: Array | None = None) -> Array:
    """c of every magnitude: zeros, numbers that dominate, subnormals, and now and then an Inf or a NaN."""
    bits = rng.integers(0, 1 << 32, shape, dtype=np.uint64).astype(np.uint32)
    moderate = (rng.standard_normal(shape) * np.exp2(rng.integers(-10, 11, shape))).astype(np.float32)
    kind = rng.choice(5, shape, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    return np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [moderate, bits.view(np.float32), np.float32(-0.0), (bits & 0x807FFFFF).view(np.float32)],
        np.float32(0),
    ).astype(np.float32)


# Against the oracle


@pytest.mark.parametrize("left", KINDS)
def test_every_pair_of_operand_kinds_gives_the_bits_of_the_oracle(left: str) -> None:
    rng = np.random.default_rng(sorted(KINDS).index(left))
    for right in KINDS:
        style = STYLES[int(rng.integers(len(STYLES)))]
        k = int(rng.choice([1, 2, 7, 17, 33, 47]))
        a, b = KINDS[left](rng, 2, k, style, "a"), KINDS[right](rng, 1, k, style, "b")
        for datapath in DATAPATHS:
            if datapath == "hopper_fp8" and not (a.fp8_without_block_scales and b.fp8_without_block_scales):
                continue
            check(a, b, datapath)


HOPPER_KINDS = [
    "numpy e4m3", "numpy e5m2", "fp8_e4m3 per tensor", "fp8_e5m2 per row", "raw e5m2 with row scales",
]  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("datapath", DATAPATHS)
def test_random_and_adversarial_products_with_a_starting_value_are_those_of_the_oracle(
    datapath: str, style: str
) -> None:
    rng = np.random.default_rng([DATAPATHS.index(datapath), STYLES.index(style)])
    kinds = HOPPER_KINDS if datapath == "hopper_fp8" else list(KINDS)
    for _ in range(24):
        left, right = (str(rng.choice(kinds)) for _ in range(2))
        k = int(rng.choice([1, 3, 8, 31, 32, 33, 63, 65, 100]))
        a, b = KINDS[left](rng, 2, k, style, "a"), KINDS[right](rng, 2, k, style, "b")
        at_end = a.scaled_at_end or b.scaled_at_end
        if datapath == "hopper_fp8":
            at_end = a.float_scaled or b.float_scaled
        check(a, b, datapath, None if at_end else starting_values(rng, (2, 2)))


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_few_products_of_any_bits_are_those_of_the_oracle(datapath: str) -> None:
    # Short dots of one binade meet ties, cancellations and the cut of an aligned sum far more often than long ones.
    rng = np.random.default_rng(11)
    elements = ("e4m3", "e5m2") if datapath == "hopper_fp8" else ("e5m2", "fp16", "bf16", "fp32", "e4m3fnuz")
    for element in elements:
        for k in (1, 2, 3, 4):
            a, b = (numpy_array(element)(rng, 5, k, style, which) for style, which in (("plain", "a"), ("huge", "b")))
            check(a, b, datapath, starting_values(rng, (5, 5)))
            # c near the products, so that it neither drowns nor is drowned.
            near = expected(a, b, "exact").view(np.float32)
            c = (-near * rng.choice([1, 1 + 2**-20, 0.5, 2**12, 2**-12], near.shape)).astype(np.float32)
            check(a, b, datapath, c)


@pytest.mark.parametrize("shape", [(1, 33, 40), (33, 1, 40), (17, 17, 5), (33, 17, 1)])
@pytest.mark.parametrize("datapath", DATAPATHS)
def test_shapes_that_are_no_multiple_of_a_tile_are_those_of_the_oracle(
    datapath: str, shape: tuple[int, int, int]
) -> None:
    m, n, k = shape
    rng = np.random.default_rng(m)
    for left, right in (("raw e5m2 with row scales", "fp8_e4m3 per tensor"), ("numpy e4m3", "numpy e5m2")):
        check(KINDS[left](rng, m, k, "plain", "a"), KINDS[right](rng, n, k, "plain", "b"), datapath)


@pytest.mark.parametrize("pair", [("mxfp8_e4m3", "mxfp4 of 16"), ("mxint8", "hbfp8"), ("hbfp6 of 5", "int8 per row")])
def test_blocks_of_unequal_length_and_ragged_ends_make_the_segments_of_the_rules(
    pair: tuple[str, str],
) -> None:
    rng = np.random.default_rng(3)
    for k in (31, 33, 64, 65, 97, 130):
        a, b = KINDS[pair[0]](rng, 2, k, "plain", "a"), KINDS[pair[1]](rng, 2, k, "cancel", "b")
        check(a, b, "block_fp32", starting_values(rng, (2, 2)))


def test_equal_scales_of_neighbouring_blocks_do_not_join_their_segments(isa: str) -> None:
    # 2^24 + 1 is a tie that goes down, twice; in one segment the two ones would reach 2^24 + 2.
    codes, scales = np.full((1, 2), 2, np.uint8), np.full((1, 2), 127, np.uint8)
    c = np.float32([[2.0**24]])
    keywords: dict[str, Any] = {"a_format": "e2m1", "b_format": "e2m1", "a_scales": scales, "c": c}
    assert sq.matmul(codes, codes, datapath="block_fp32", **keywords) == c
    assert sq.matmul(codes, codes, datapath="exact", **keywords) == np.float32(2.0**24 + 2)


# Degenerate shapes


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_without_products_the_result_is_the_starting_value_or_zero(isa: str, datapath: str) -> None:
    nothing = np.zeros((2, 0), np.uint8)
    keywords: dict[str, Any] = {"datapath": datapath, "a_format": "e4m3", "b_format": "e5m2"}
    assert_same_bits(sq.matmul(nothing, nothing[:1], **keywords), np.zeros((2, 1), np.float32))
    # 0x3F8007FF has more bits than the Hopper accumulator keeps: without a group nothing is cut.
    c = np.uint32([[0x3F8007FF, 0x80000001], [INF32, 0xFFC12345]]).view(np.float32)
    nan = HOPPER_NAN if datapath == "hopper_fp8" else NAN32
    wanted = np.uint32([[0x3F8007FF, 0x80000001], [INF32, nan]])
    assert_same_bits(sq.matmul(nothing, nothing, c=c, **keywords).view(np.uint32), wanted)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "with e8m0" not in kind])
def test_every_operand_kind_may_be_empty_along_any_axis(isa: str, kind: str) -> None:
    # Raw block scales are K / block to a row, which says nothing where K is 0.
    rng = np.random.default_rng(1)
    for m, n, k in itertools.product((0, 2), (0, 1), (0, 5)):
        if m and n and k:
            continue
        a, b = KINDS[kind](rng, m, k, "plain", "a"), KINDS[kind](rng, n, k, "plain", "b")
        for datapath in DEFINED:
            assert_same_bits(np.asarray(matmul(a, b, datapath=datapath)), np.zeros((m, n), np.float32), (m, n, k))


# NaN, Inf and zeros


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_nan_is_the_canonical_one_of_the_machine_wherever_it_comes_from(isa: str, datapath: str) -> None:
    nan = HOPPER_NAN if datapath == "hopper_fp8" else NAN32
    infinity, zero, one = 0x7C, 0x80, 0x3C

    def run(a: Sequence[int], b: Sequence[int], c: int = 0) -> int:
        got = sq.matmul(
            np.uint8([a]), np.uint8([b]), datapath=datapath, a_format="e5m2", b_format="e5m2",
            c=np.uint32([[c]]).view(np.float32),
        )  # fmt: skip
        return int(got.view(np.uint32)[0, 0])

    for payload in (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF):
        assert run([payload], [one]) == nan
        assert run([one, payload, one], [zero, zero, zero]) == nan
    for payload in (0x7F800001, 0xFFFFFFFF, 0x7FC00001):
        assert run([one], [one], payload) == nan
    assert run([infinity], [zero]) == nan
    assert run([infinity, infinity], [one, 0xBC]) == nan
    assert run([0xFC], [one], INF32) == nan
    assert run([infinity, one], [one, one], 0xFF7FFFFF) == INF32
    assert run([infinity, one], [0xBC, one]) == MINUS_INF32
    assert run([one], [one], MINUS_INF32) == MINUS_INF32


def test_a_nan_scale_of_any_kind_makes_nan(isa: str) -> None:
    codes = np.uint8([[0x38, 0x00, 0x38, 0x00]])
    for datapath in DEFINED:
        for scales in (np.uint8([[127, 255]]), np.float32([np.nan])):
            got = sq.matmul(codes, codes, datapath=datapath, a_format="e4m3", b_format="e4m3", a_scales=scales)
            assert int(got.view(np.uint32)[0, 0]) == NAN32
    poisoned = sq.encode(np.float32([[1, np.inf]]), "fp8_e4m3")
    for datapath in DATAPATHS:
        got = sq.matmul(poisoned, sq.encode(np.float32([[1, 2]]), "fp8_e4m3"), datapath=datapath)
        assert int(got.view(np.uint32)[0, 0]) == (HOPPER_NAN if datapath == "hopper_fp8" else NAN32)
    got = sq.matmul(
        codes, codes, datapath="hopper_fp8", a_format="e4m3", b_format="e4m3", b_scales=np.float32([np.nan])
    )
    assert int(got.view(np.uint32)[0, 0]) == HOPPER_NAN


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_zeros_of_either_sign_sum_as_the_rules_say(isa: str, datapath: str) -> None:
    for codes_a, codes_b, start in itertools.product(
        ([0x80], [0x00], [0x80, 0x00], [0x38, 0x38], [0x80, 0x80]), ([0x38, 0x38], [0x38, 0xB8], [0xB8, 0xB8]),
        (None, 0x00000000, 0x80000000),
    ):  # fmt: skip
        k = min(len(codes_a), len(codes_b))
        a = Side(np.uint8([codes_a[:k]]), [Operand(ELEMENTS["e4m3"], codes_a[:k])], {"format": "e4m3"})
        b = Side(np.uint8([codes_b[:k]]), [Operand(ELEMENTS["e4m3"], codes_b[:k])], {"format": "e4m3"})
        c = None if start is None else np.uint32([[start]]).view(np.float32)
        check(a, b, datapath, c, isas=[isa])


def test_a_sum_that_leaves_float32_on_its_way_is_lost_only_where_it_is_rounded(isa: str) -> None:
    big, one = float(np.finfo(np.float32).max), 1.0
    a, b = np.float32([[big, big, -big, -big, one]]), np.float32([[one, one, one, one, one]])
    assert sq.matmul(a, b, datapath="exact") == 1
    assert sq.matmul(a, b, datapath="block_fp32") == 1  # one segment
    assert int(sq.matmul(a, b, datapath="fma32").view(np.uint32)[0, 0]) == INF32
    # The product alone is beyond float64 and comes back.
    huge = np.float32([[2.0**127, 2.0**127, 2.0**-149]])
    assert sq.matmul(huge, np.float32([[2.0**127, -(2.0**127), 1]]), datapath="exact") == 2.0**-149


def test_results_round_once_into_the_subnormals(isa: str) -> None:
    tiny = np.float32([[2.0**-75, 2.0**-100]])
    # 2^-150 + 2^-200 is above the tie of the smallest subnormal; rounded by parts it would be a tie that goes to 0.
    assert sq.matmul(tiny, np.float32([[2.0**-75, 2.0**-100]]), datapath="exact") == 2.0**-149
    assert sq.matmul(tiny[:, :1], tiny[:, :1], datapath="exact") == 0
    minus = sq.matmul(tiny[:, 1:], -tiny[:, 1:], datapath="exact")
    assert int(minus.view(np.uint32)[0, 0]) == 0x80000000


# Recorded hardware


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
@pytest.mark.parametrize("isa_name", ISAS)
def test_every_recorded_h100_dot_product_is_reproduced(isa_name: str, name: str) -> None:
    with np.load(GOLDEN / f"H100_{name}_fp32.npz") as recorded:
        a, b, c, d = (recorded[key] for key in "abcd")
    assert a.shape == b.shape == (1500, 32)
    step = 1 if isa_name in FAST_ISAS else 10
    dtype = TYPES[name]
    with forced_isa(isa_name):
        got = [
            sq.matmul(
                a[i : i + 1].view(dtype), b[i : i + 1].view(dtype), datapath="hopper_fp8",
                c=c[i : i + 1, None].view(np.float32),
            )[0, 0]
            for i in range(0, len(a), step)
        ]  # fmt: skip
    assert_same_bits(np.float32(got).view(np.uint32), d[::step].view(np.uint32), name)


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
@pytest.mark.parametrize("isa_name", FAST_ISAS)
def test_every_recorded_dot_product_is_reproduced_inside_a_large_product(isa_name: str, name: str) -> None:
    with np.load(GOLDEN / f"H100_{name}_fp32.npz") as recorded:
        a, b, d = (recorded[key] for key in "abd")
    dtype = TYPES[name]
    with forced_isa(isa_name):
        for first in range(0, len(a), 300):
            part = slice(first, first + 300)
            got = sq.matmul(a[part].view(dtype), b[part].view(dtype), datapath="hopper_fp8")
            assert_same_bits(np.diagonal(got).view(np.uint32), d[part].view(np.uint32), (name, first))


def test_a_dot_product_of_mixed_fp8_formats_follows_the_hopper_rule() -> None:
    rng = np.random.default_rng(8)
    for left, right in itertools.product(("e4m3", "e5m2"), repeat=2):
        for k in (32, 64, 70):
            a, b = numpy_array(left)(rng, 3, k, "plain", "a"), numpy_array(right)(rng, 3, k, "plain", "b")
            check(a, b, "hopper_fp8", starting_values(rng, (3, 3)))


# Every path against every other


BIG = [
    ("exact", "numpy fp32", "torch bf16"),
    ("exact", "numpy fp16", "numpy fp16"),
    ("exact", "raw bf16 with e8m0", "raw fp32 with row scales"),
    ("exact", "mxfp8_e4m3", "mxfp4 of 16"),
    ("exact", "int8 per row", "fp8_e4m3 per tensor"),
    ("block_fp32", "bf16", "numpy fp32"),
    ("block_fp32", "numpy fp32", "numpy fp32"),
    ("block_fp32", "mxfp4 2:4", "mxfp8_e4m3"),
    ("block_fp32", "hbfp8", "mxfp8_e5m2 of 16"),
    ("block_fp32", "mxint8", "mxint8"),
    ("block_fp32", "int8 per row", "int8 per row"),
    ("block_fp32", "raw int8 with row and tensor scales", "hbfp6 of 5"),
    ("block_fp32", "raw e4m3 with e8m0", "raw e5m2 with row scales"),
    ("fma32", "numpy fp32", "torch fp32"),
    ("fma32", "mxfp8_e5m2 of 16", "mxint8"),
    ("hopper_fp8", "numpy e4m3", "numpy e5m2"),
    ("hopper_fp8", "fp8_e5m2 per row", "fp8_e4m3 per tensor"),
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("datapath", "left", "right"), BIG)
def test_every_implementation_and_thread_count_gives_equal_bits(
    datapath: str, left: str, right: str, style: str
) -> None:
    rng = np.random.default_rng(17)
    for m, n, k in ((33, 17, 35), (1, 9, 300), (65, 3, 19)):
        a, b = KINDS[left](rng, m, k, style, "a"), KINDS[right](rng, n, k, style, "b")
        at_end = a.float_scaled or b.float_scaled
        c = None if at_end else starting_values(rng, (m, n))
        with forced_isa("reference"):
            wanted = matmul(a, b, datapath=datapath, c=c, threads=1)
        for name, threads in itertools.product(FAST_ISAS, THREADS):
            with forced_isa(name):
                got = matmul(a, b, datapath=datapath, c=c, threads=threads)
            assert_same_bits(got, wanted, (m, n, k, name, threads))
        with forced_isa("reference"):
            assert_same_bits(matmul(a, b, datapath=datapath, c=c, threads=2), wanted)


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_a_product_is_the_same_alone_and_inside_a_large_matrix(isa: str, datapath: str) -> None:
    rng = np.random.default_rng(23)
    a, b = (
        numpy_array("e5m2")(rng, 40, 150, "special", "a"),
        numpy_array("e4m3")(rng, 50, 150, "special", "b"),
    )
    whole = matmul(a, b, datapath=datapath)
    for i, j in itertools.product((0, 7, 31, 32), (0, 9, 18)):
        alone = sq.matmul(a.argument[i : i + 1], b.argument[j : j + 1], datapath=datapath)
        assert_same_bits(alone, whole[i : i + 1, j : j + 1], (i, j))


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_flushing_subnormals_to_zero_changes_nothing(isa: str, datapath: str) -> None:
    rng = np.random.default_rng(29)
    kinds = ["numpy fp32", "raw fp32 with row scales", "raw e4m3 with e8m0", "fp8_e4m3 per tensor"]
    if datapath == "hopper_fp8":
        kinds = HOPPER_KINDS
    for left, right in itertools.combinations_with_replacement(kinds, 2):
        a, b = KINDS[left](rng, 5, 33, "tiny", "a"), KINDS[right](rng, 5, 33, "tiny", "b")
        at_end = a.float_scaled or b.float_scaled
        c = None if at_end else (rng.integers(0, 1 << 22, (5, 5)).astype(np.uint32)).view(np.float32)
        plain = matmul(a, b, datapath=datapath, c=c)
        assert torch.set_flush_denormal(True)
        try:
            flushed = [matmul(a, b, datapath=datapath, c=c, threads=threads) for threads in (None, 1, 3)]
        finally:
            torch.set_flush_denormal(False)
        for got in flushed:
            assert_same_bits(got, plain, (left, right))


# Kinds of arrays in and out


def test_torch_comes_out_where_torch_went_in_first(isa: str) -> None:
    x, w = torch.randn(3, 40), torch.randn(2, 40)
    float8 = torch.float8_e4m3fn
    got = sq.matmul(x.to(float8), w.to(float8), datapath="hopper_fp8")
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float32 and got.shape == (3, 2)
    as_numpy = sq.matmul(x.to(float8).view(torch.uint8).numpy(), w.to(float8), datapath="hopper_fp8", a_format="e4m3")
    assert isinstance(as_numpy, np.ndarray)
    assert_same_bits(got, as_numpy)
    tensors = [sq.encode(t, "mxfp8") for t in (x, w)]
    arrays = [sq.encode(t.numpy(), "mxfp8") for t in (x, w)]
    assert isinstance(sq.matmul(tensors[0], arrays[1]), torch.Tensor)
    assert isinstance(sq.matmul(arrays[0], tensors[1]), np.ndarray)
    assert_same_bits(sq.matmul(*tensors, c=torch.ones(3, 2)), sq.matmul(*arrays, c=np.ones((3, 2), np.float32)))


def test_views_with_strides_are_read_in_place(isa: str) -> None:
    rng = np.random.default_rng(31)
    x, w, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((80, 6), (4, 160), (10, 6)))
    wanted = sq.matmul(
        np.ascontiguousarray(x[::2].T), np.ascontiguousarray(w[::2, ::4]), c=np.ascontiguousarray(c[::5].T)
    )
    got = sq.matmul(x[::2].T, w[::2, ::4], c=c[::5].T)
    assert_same_bits(got, wanted)
    assert_same_bits(sq.matmul(torch.from_numpy(x)[::2].T, torch.from_numpy(w)[::2, ::4], c=c[::5].T), wanted)


def test_the_operands_and_the_starting_value_are_not_written_to(isa: str) -> None:
    rng = np.random.default_rng(37)
    for kind in ("numpy fp32", "raw e5m2 with row scales", "raw e4m3 with e8m0"):
        a, b = KINDS[kind](rng, 3, 40, "plain", "a"), KINDS[kind](rng, 3, 40, "plain", "b")
        c = np.ones((3, 3), np.float32)
        before = [np.array(x, copy=True) for x in (a.argument, b.argument, c)]
        matmul(a, b, datapath="block_fp32", c=c)
        for was, now in zip(before, (a.argument, b.argument, c), strict=True):
            assert_same_bits(now, was)


# A user's own machine


def aligned_dot(
    path: sq.Datapath, elements: tuple[Element, Element], a: Sequence[int], b: Sequence[int], c: int
) -> int:
    """`hopper_fp8` of the rules with other numbers in it, for finite operands, in fractions."""
    acc = oracle.decode(FP32, c).fraction

    def cut(value: Fraction, exponent: int) -> Fraction:
        """Toward zero, to a multiple of 2^exponent."""
        unit = Fraction(2) ** exponent
        whole = abs(value) // unit * unit
        return whole if value >= 0 else -whole

    def exponent_of(value: Fraction, emin: int) -> int:
        return max(oracle.floor_log2(abs(value)), emin)

    for start in range(0, len(a), path.group):
        terms: list[tuple[Fraction, int]] = []
        for code_a, code_b in zip(a[start : start + path.group], b[start : start + path.group], strict=True):
            x, y = oracle.decode(elements[0], code_a).fraction, oracle.decode(elements[1], code_b).fraction
            if x and y:
                terms.append((x * y, exponent_of(x, elements[0].emin) + exponent_of(y, elements[1].emin)))
        if acc:
            terms.append((acc, exponent_of(acc, -126)))
        if not terms:
            acc = Fraction(0)
            continue
        top = max(exponent for _, exponent in terms)
        total = sum((cut(value, top - path.fraction_bits) for value, _ in terms), Fraction(0))
        if total:
            total = cut(total, exponent_of(total, -126) - path.accumulator_fraction)
        if abs(total) >= Fraction(2) ** 128:
            return INF32 if total > 0 else MINUS_INF32
        acc = total
    return oracle.round_to_float(acc)


USER_PATHS = [
    (16, 13, 13), (32, 14, 23), (4, 19, 23), (1, 20, 13), (8, 6, 23), (33, 7, 10), (64, 15, 1), (2, 9, 22),
]  # fmt: skip
USER_PAIRS = [
    ("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e5m2", "e5m2"), ("e2m1", "e3m2"), ("e4m3fnuz", "e2m3"),
]  # fmt: skip


@pytest.mark.parametrize("numbers", USER_PATHS)
def test_a_users_aligning_machine_follows_its_own_numbers(numbers: tuple[int, int, int]) -> None:
    group, fraction_bits, accumulator = numbers
    path = sq.Datapath(
        reduce="align",
        group=group,
        fraction_bits=fraction_bits,
        accumulator_fraction=accumulator,
        accumulator_rounding="toward_zero",
        block_scales=False,
    )
    rng = np.random.default_rng(group)
    for (left, right), style in itertools.product(USER_PAIRS, ("plain", "cancel", "tiny")):
        k = int(rng.choice([3, 31, 40, 65]))
        a, b = numpy_array(left)(rng, 2, k, style, "a"), numpy_array(right)(rng, 2, k, style, "b")
        c = starting_values(rng, (2, 2))
        c[~np.isfinite(c)] = 1
        elements = (ELEMENTS[left], ELEMENTS[right])
        wanted = np.uint32(
            [
                [
                    aligned_dot(path, elements, x.codes, y.codes, int(c.view(np.uint32)[i, j]))
                    for j, y in enumerate(b.lines)
                ]
                for i, x in enumerate(a.lines)
            ]
        )
        for name in ISAS:
            with forced_isa(name):
                got = matmul(a, b, datapath=path, c=c)
            assert_same_bits(got.view(np.uint32), wanted, (left, right, style, k, name))


def test_the_small_model_of_an_aligning_machine_agrees_with_the_oracle_on_hoppers_numbers() -> None:
    path = sq.datapaths()["hopper_fp8"].record
    rng = np.random.default_rng(41)
    for _ in range(20):
        a, b = (codes_of(ELEMENTS[e], rng, (1, 70), "plain", "a")[0].tolist() for e in ("e4m3", "e5m2"))
        c = int(starting_values(rng, (1, 1)).view(np.uint32)[0, 0]) & 0xBFFFFFFF
        wanted = oracle.dot("hopper_fp8", Operand(ELEMENTS["e4m3"], a), Operand(ELEMENTS["e5m2"], b), c)
        assert aligned_dot(path, (ELEMENTS["e4m3"], ELEMENTS["e5m2"]), a, b, c) == wanted


@pytest.mark.parametrize("reduce", ["exact", "blocks", "fma"])
def test_a_users_machine_writes_its_own_nan(isa: str, reduce: str) -> None:
    path = sq.Datapath(reduce=reduce, nan_bits=0xFFC00001)
    a = np.float32([[np.nan, 1], [np.inf, 1], [1, 1]])
    got = sq.matmul(a, np.float32([[0, 1]]), datapath=path).view(np.uint32)
    assert got.tolist() == [[0xFFC00001], [0xFFC00001], [ONE32]]


def test_a_users_machine_takes_only_the_operands_it_names(isa: str) -> None:
    path = sq.datapaths()["fma32"].record.with_operands([element_record(ELEMENTS["e4m3"])])
    x = np.float32([[1, 2]])
    float8 = x.astype(ml_dtypes.float8_e4m3fn)
    assert sq.matmul(float8, float8, datapath=path) == 5
    with pytest.raises(ValueError):
        sq.matmul(x, float8, datapath=path)
    with pytest.raises(ValueError):
        sq.matmul(float8, x, datapath=path)


@pytest.mark.parametrize(
    "record",
    [
        {"reduce": "align", "group": 0, "fraction_bits": 13},
        {"reduce": "align", "group": -1, "fraction_bits": 13},
        {"reduce": "align", "group": 32, "fraction_bits": -1},
        {"reduce": "align", "group": 32, "fraction_bits": 1000},
        {"reduce": "align", "group": 32, "fraction_bits": 13, "accumulator_fraction": 24},
        {"reduce": "align", "group": 32, "fraction_bits": 13, "accumulator_fraction": -1},
        {"reduce": "fma", "nan_bits": ONE32},
        {"reduce": "fma", "nan_bits": INF32},
    ],
)
def test_a_users_machine_that_means_nothing_is_refused(record: dict[str, Any]) -> None:
    one = np.ones((1, 1), ml_dtypes.float8_e4m3fn)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        sq.matmul(one, one, datapath=sq.Datapath(**{"block_scales": False, **record}))


# Refusals

SIX, FIVE = np.zeros((2, 6), np.float32), np.zeros((2, 5), np.float32)
CODES = np.zeros((2, 6), np.uint8)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "K does not match", lambda: sq.matmul(SIX, FIVE)),
        (ValueError, "a: shape", lambda: sq.matmul(SIX[0], SIX)),
        (ValueError, "b: shape", lambda: sq.matmul(SIX, SIX[0])),
        (ValueError, "hopper_fp9", lambda: sq.matmul(SIX, SIX, datapath="hopper_fp9")),
        (TypeError, "datapath", lambda: sq.matmul(SIX, SIX, datapath=3)),
        (TypeError, "c: dtype float64", lambda: sq.matmul(SIX, SIX, c=np.zeros((2, 2)))),
        (ValueError, "c: shape", lambda: sq.matmul(SIX, SIX, c=np.zeros((1, 2), np.float32))),
        (TypeError, "a: dtype float64", lambda: sq.matmul(SIX.astype(np.float64), SIX)),
        (TypeError, "a: dtype uint8", lambda: sq.matmul(CODES, SIX)),
        (TypeError, "a: needed", lambda: sq.matmul([[1.0]], SIX)),
        (ValueError, "e9m9", lambda: sq.matmul(CODES, SIX, a_format="e9m9")),
        (TypeError, "raw codes", lambda: sq.matmul(SIX, SIX, a_format="e4m3")),
        (
            ValueError,
            "more than 4 bits",
            lambda: sq.matmul(CODES + 16, CODES, a_format="e2m1", b_format="e2m1"),
        ),
        (ValueError, "BlockTensor", lambda: sq.matmul(sq.encode(SIX, "mxfp8"), SIX, a_format="e4m3")),
        (ValueError, "axis 0", lambda: sq.matmul(sq.encode(SIX, "mxfp8", axis=0), SIX)),
        (ValueError, "a: shape", lambda: sq.matmul(sq.encode(SIX[0], "mxfp8"), SIX)),
        (ValueError, "a_scales: shape", lambda: sq.matmul(SIX, SIX, a_scales=np.zeros((2, 4), np.uint8))),
        (ValueError, "b_scales: shape", lambda: sq.matmul(SIX, SIX, b_scales=np.ones(3, np.float32))),
        (TypeError, "a_scales: dtype", lambda: sq.matmul(SIX, SIX, a_scales=np.zeros((2, 3), np.int32))),
        (ValueError, "a_tensor_scale", lambda: sq.matmul(SIX, SIX, a_tensor_scale=0.0)),
        (ValueError, "b_tensor_scale", lambda: sq.matmul(SIX, SIX, b_tensor_scale=float("inf"))),
        (ValueError, "a_tensor_scale", lambda: sq.matmul(SIX, SIX, a_tensor_scale=-1.0)),
        (ValueError, "a_tensor_scale", lambda: sq.matmul(SIX, SIX, a_tensor_scale=0.1)),
        (ValueError, "threads", lambda: sq.matmul(SIX, SIX, threads=0)),
        (ValueError, "does not take fp32; it takes e4m3, e5m2$", lambda: sq.matmul(SIX, SIX, datapath="hopper_fp8")),
        (
            ValueError,
            "scale",
            lambda: sq.matmul(sq.encode(SIX, "mxfp8"), sq.encode(SIX, "mxfp8"), datapath="hopper_fp8"),
        ),
    ],
)
def test_what_means_nothing_is_refused_by_name(error: type[Exception], words: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_a_starting_value_has_no_unit_beside_a_scale_that_multiplies_at_the_end(isa: str, datapath: str) -> None:
    codes, c = np.full((1, 4), 0x38, np.uint8), np.ones((1, 1), np.float32)
    formats: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": datapath, "c": c}
    with pytest.raises(ValueError, match="c"):
        sq.matmul(codes, codes, b_tensor_scale=0.5, **formats)
    with pytest.raises(ValueError, match="c"):
        sq.matmul(sq.encode(np.ones((1, 4), np.float32), "fp8_e4m3"), codes, b_format="e4m3", datapath=datapath, c=c)
    if datapath == "hopper_fp8":
        with pytest.raises(ValueError, match="c"):
            sq.matmul(codes, codes, a_scales=np.float32([0.5]), **formats)
    else:
        assert sq.matmul(codes, codes, a_scales=np.float32([0.5]), **formats) == 3


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf])
def test_a_float_row_scale_is_positive_and_finite_or_nan(value: float) -> None:
    codes = np.full((1, 4), 0x38, np.uint8)
    with pytest.raises(ValueError, match="scale"):
        sq.matmul(codes, codes, a_format="e4m3", b_format="e4m3", a_scales=np.float32([value]))


def test_results_are_those_of_a_float64_product_where_that_is_exact(isa: str) -> None:
    # An independent witness for shapes that are too large for fractions: small integers.
    rng = np.random.default_rng(43)
    a, b = rng.integers(-127, 128, (35, 133)), rng.integers(-127, 128, (18, 133))
    wanted = (a @ b.T).astype(np.float32)
    left, right = a.astype(np.int8), b.astype(np.int8)
    for datapath in ("exact", "block_fp32", "fma32"):
        assert_same_bits(sq.matmul(left, right, datapath=datapath), wanted, datapath)
    assert_same_bits(sq.matmul(left, bits_of(right), b_format="int8"), wanted)


@pytest.mark.parametrize("datapath", ["exact", "block_fp32", "fma32", "hopper_fp8"])
def test_products_over_no_k_are_c_as_it_is(datapath: str, isa: str) -> None:
    empty = np.zeros((1, 0), np.uint8)
    arguments: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "datapath": datapath}
    for bits in (0x80000000, 0x00000001, 0x7F800000, 0x3F800000):
        c = np.uint32([[bits]]).view(np.float32)
        assert bits_of(sq.matmul(empty, empty, c=c, **arguments)).tolist() == [[bits]]
    nan = bits_of(sq.matmul(empty, empty, c=np.uint32([[0xFFC00001]]).view(np.float32), **arguments)).tolist()
    assert nan == [[sq.datapaths()[datapath].record.nan_bits]]
    assert bits_of(sq.matmul(empty, empty, **arguments)).tolist() == [[0]]


@pytest.mark.parametrize("floats", [False, True], ids=["e8m0", "float scales"])
@pytest.mark.parametrize("element", ["bf16", "e5m2"])
def test_an_accumulator_that_overflowed_meets_a_later_infinity(element: str, floats: bool, isa: str) -> None:
    """Also where sums are wider than any machine type (bf16), +Inf by overflow and then -Inf is NaN."""
    form = ELEMENTS[element]
    top, one = form.largest_code, (form.bias << form.mantissa_bits)
    assert form.infinity_code is not None
    minus_infinity = form.infinity_code | form.sign_bit
    for last, wanted in ((minus_infinity, 0x7FC00000), (form.infinity_code, 0x7F800000), (one, 0x7F800000)):
        a, b = np.array([[top, one]]), np.array([[top, last]])
        catalog = sq.elements()
        level = sq.ScaleLevel(format=catalog["fp32" if floats else "e8m0"].record, along=1)
        rule = sq.Conversion(scale_rule="amax" if floats else "floor")
        fmt = sq.Format("u", catalog[element].record, [level], rule)
        scales = np.float32([[2.0**120, 1]]) if floats else np.uint8([[254, 127]])
        width = np.dtype(f"uint{8 * fmt.element.code_bytes}")
        sides = [sq.BlockTensor(x.astype(width), scales.copy(), None, sq.Spec(fmt), "float32", "numpy") for x in (a, b)]
        assert bits_of(sq.matmul(*sides, datapath="block_fp32")).tolist() == [[wanted]]
