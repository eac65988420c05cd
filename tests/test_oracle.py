"""The oracle against the examples of docs/numerics.md and against witnesses that share nothing with it."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import sparq_sim as sq
import storage_oracle
from machines import Line, machine_dot
from numerics_examples import Example, load_examples, parse_examples
from oracle import (
    BLOCK_FORMATS,
    E8M0,
    ELEMENTS,
    FP32,
    NAN,
    NEGATIVE_INFINITY,
    NEGATIVE_ZERO,
    POSITIVE_INFINITY,
    POSITIVE_ZERO,
    BlockFormat,
    Element,
    Number,
    Operand,
    RefusedError,
)
from test_compressed import slots
from test_epilogue import in_steps
from test_requantize import MULTIPLIER_RULES, SCALE_RULES, clipped
from test_split import met
from witnesses import SHORT_FLOATS

CARRIER_OF_DIGITS = {8: "fp32", 16: "fp64"}


def number_of(value: float) -> Number:
    """A Python float as a Number, by its bits."""
    return oracle.decode(ELEMENTS["fp64"], int(np.float64(value).view(np.uint64)))


def bits32(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.uint32))


# Examples of the document


def check_decode(example: Example) -> None:
    element = ELEMENTS[example.format]
    wanted = example.lists["values"]
    result = CARRIER_OF_DIGITS[wanted.digits]
    numbers = [oracle.decode(element, code) for code in example.lists["codes"].values]
    assert [oracle.round_to_float(number, result) for number in numbers] == list(wanted.values)


def check_quantize(example: Example) -> None:
    arguments: dict[str, Any] = dict(example.options)
    block = arguments.get("block", "")
    if block.isdigit():
        arguments["block"] = int(block)
    elif "x" in block:
        arguments["block"] = tuple(int(extent) for extent in block.split("x"))
    if "sparsity" in arguments:
        arguments["sparsity"] = tuple(int(part) for part in arguments["sparsity"].split(":"))
    if "scales" in arguments:
        arguments["scales"] = [[int(code, 16) for code in arguments["scales"].split(",")]]
    if "tensor_scale" in arguments:
        arguments["outer"] = [[bits32(float(arguments.pop("tensor_scale")))]]
    if "scale_minimum" in arguments:
        arguments["scale_minimum"] = int(arguments["scale_minimum"])
    choices = {field.name: arguments.pop(field.name) for field in fields(oracle.Choices) if field.name in arguments}
    for name, kind in {
        "zero_scale": int,
        "align_bits": int,
        "even_bits": int,
        "divisor": Fraction,
        "cut_offset": Fraction,
    }.items():
        if name in choices:
            choices[name] = kind(choices[name])
    arguments["how"] = replace(BLOCK_FORMATS[example.format].how, **choices)
    lists = dict(example.lists)
    if "random" in lists:
        arguments["random"] = [lists.pop("random").values]
        arguments["random_bits"] = int(arguments["random_bits"])
    x = lists.pop("x")
    fmt = replace(BLOCK_FORMATS[example.format], outer_combine=arguments.pop("outer_combine", "multiply"))
    length = int(arguments.pop("shape").split("x")[1]) if "shape" in arguments else len(x.values)
    lines = [x.values[start : start + length] for start in range(0, len(x.values), length)]
    got = oracle.quantize_tensor(lines, CARRIER_OF_DIGITS[x.digits], fmt, **arguments)
    planes = {"scale": got.scales, "codes": got.codes, "values": got.values, "outer": got.outer}
    if got.zeros:
        planes["zero"] = got.zeros
    planes |= dict(zip(("micro", "inner"), got.micro, strict=False))
    produced = {name: [bits for line in plane for bits in line] for name, plane in planes.items()}
    assert set(lists) <= set(produced), f"line {example.line}: a name that quantize does not produce"
    for name, wanted in lists.items():
        assert [f"{v:#x}" for v in produced[name]] == [f"{v:#x}" for v in wanted.values], name
    widths = {"codes": fmt.element.width, "scale": fmt.scale.width if fmt.scale else 0}
    for name, width in widths.items():
        assert name not in lists or lists[name].digits == (width + 3) // 4, f"digits of {name}"


def pattern_of(text: str) -> tuple[int, int, int]:
    """N, M and the unit of ``N:M`` or ``N:M/unit``."""
    pattern, _, unit = text.partition("/")
    n, m = map(int, pattern.split(":"))
    return n, m, int(unit or 1)


def check_store(example: Example) -> None:
    n, m, unit = pattern_of(example.format)
    codes, mask = (list(example.lists[name].values) for name in ("codes", "mask"))
    stored, places = storage_oracle.store_line(codes, [bool(k) for k in mask], n, m, unit, example.options["fill"])
    fields_ = storage_oracle.position_fields(places, n // unit, m // unit, example.options["encoding"])
    assert stored == list(example.lists["stored"].values)
    assert places == list(example.lists["positions"].values)
    assert storage_oracle.stream(fields_) == bytes(example.lists["bytes"].values)


def check_pack(example: Example) -> None:
    codes = list(example.lists["codes"].values)
    bits = BLOCK_FORMATS[example.format].element.width
    scale = bytes(example.lists["scale"].values) if "scale" in example.lists else b""
    packed = {
        "row_major": lambda: storage_oracle.stream([(code, bits) for code in codes]),
        "gguf_mxfp4": lambda: scale + storage_oracle.split_half(codes, 16),
        "xdna_bfp16": lambda: storage_oracle.xdna([codes], [list(scale)], False),
    }[example.options["layout"]]()
    assert packed == bytes(example.lists["elements"].values)


def check_sparsify(example: Example) -> None:
    n, m, unit = pattern_of(example.format)
    x = example.lists["x"]
    carrier = CARRIER_OF_DIGITS[x.digits]
    numbers = [oracle.decode(ELEMENTS[carrier], bits) for bits in x.values]
    choices: dict[str, Any] = dict(example.options)
    mask = oracle.sparsify(numbers, n, m, unit=unit, **choices)
    assert mask == [bool(keep) for keep in example.lists["mask"].values]
    if "values" in example.lists:
        assert oracle.apply_mask(x.values, carrier, mask) == list(example.lists["values"].values)


def dot_of(name: str, a: Operand, b: Operand, start: int | None) -> int:
    """Bits of one dot product of a machine of the catalog."""
    if name in oracle.DATAPATHS:
        return oracle.dot(name, a, b, start)
    # Other machines are fields of one model; which ones, the catalog says.
    fields = sq.datapaths()[name].record.to_dict()
    short = fields["scale"]["mantissa_bits"] > 0
    lines = [Line(o.element, o.codes, o.scales, o.block or 0, ELEMENTS["ue4m3" if short else "e8m0"]) for o in (a, b)]
    return machine_dot(fields, *lines, start)


def part_length(name: str, k: int, parts: int) -> int:
    """Products of a part of split-K: a share of K, rounded up to whole instructions."""
    fields = sq.datapaths()[name].record.to_dict()
    unit = fields["instruction"] or fields["group"] or 1
    return -(-k // (parts * unit)) * unit


def check_matmul(example: Example) -> None:
    options, name = dict(example.options), example.format
    block = int(options.pop("block")) if "block" in options else None
    start = example.lists["c"].values[0] if "c" in example.lists else None
    elements, codes, scales = [], [], []
    for side in "ab":
        elements.append(ELEMENTS[options.pop(f"{side}_format")])
        scales.append([int(code, 16) for code in options.pop(f"{side}_scales", "").split(",") if code] or None)
        shape = [int(extent) for extent in options.pop(f"{side}_shape", "1x-1").split("x")]
        codes.append(np.array(example.lists[side].values).reshape(shape))
    if "compressed" in options:  # of a, what is not 0 is kept, and memory holds n of each m
        n, m = (int(number) for number in options.pop("compressed").split(":"))
        places = slots(codes[0][0] != 0, n, m, 1)
        codes = [np.array([[int(line[k]) if k < len(line) else 0 for k in places]]) for (line,) in codes]
    parts, order = int(options.pop("split_k", "1")), options.pop("split_order", "ascending")
    output = options.pop("output", None)
    assert not options, f"line {example.line}: unknown options {options}"
    batch = np.broadcast_shapes(codes[0].shape[:-2], codes[1].shape[:-2])
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in codes)
    got = []
    for *lead, i, j in np.ndindex(*batch, a.shape[-2], b.shape[-2]):
        lines = (a[(*lead, i)].tolist(), b[(*lead, j)].tolist())
        length = part_length(name, len(lines[0]), parts) if parts > 1 else max(1, len(lines[0]))
        sums = []
        for begin in range(0, max(1, len(lines[0])), length):
            sides = [
                Operand(element, line[begin : begin + length], own, block if own else None)
                for element, line, own in zip(elements, lines, scales, strict=True)
            ]
            sums.append(dot_of(name, sides[0], sides[1], start if parts == 1 else None))
        numbers = order if order == "ascending" else tuple(int(number) for number in order.split(","))
        bits = sums[0] if parts == 1 else met(sums, start, numbers, "fp32", sq.datapaths()[name].record.nan_bits)
        if output is not None:
            bits = oracle.round_to_code(ELEMENTS[output], oracle.decode(FP32, bits))
        got.append(bits)
    assert [f"{bits:#x}" for bits in got] == [f"{d:#x}" for d in example.lists["d"].values]


def check_epilogue(example: Example) -> None:
    given = example.options
    how = sq.Epilogue(
        alpha=1.0, precision=example.format, order=tuple(given["order"].split(",")), fused=given["fused"] == "True"
    )
    alpha, beta = int(given["alpha"], 16), int(given["beta"], 16)
    lists = [example.lists[name].values for name in ("d", "source", "bias", "y")]
    for acc, source, bias, wanted in zip(*lists, strict=True):
        assert in_steps(acc, alpha, beta, source, bias, how) == wanted


def check_requantize(example: Example) -> None:
    given = {name: int(text, 0) for name, text in example.options.items()}
    zero = given.pop("zero_point")
    if "scale" in given:
        scale = oracle.decode(ELEMENTS["fp32"], given["scale"]).fraction
        rule = SCALE_RULES[example.format]
        results = [rule(v - (v >> 31 << 32), float(scale)) for v in example.lists["v"].values]
    else:
        fixed = MULTIPLIER_RULES[example.format]
        numbers = [v - (v >> 31 << 32) for v in example.lists["v"].values]
        results = [fixed(v, given["multiplier"], given["shift"]) or 0 for v in numbers]
    assert [clipped(r, zero, "int8") & 0xFF for r in results] == list(example.lists["q"].values)


CHECKS = {
    "epilogue": check_epilogue,
    "requantize": check_requantize,
    "decode": check_decode,
    "quantize": check_quantize,
    "sparsify": check_sparsify,
    "matmul": check_matmul,
    "store": check_store,
    "pack": check_pack,
}


@pytest.mark.parametrize("example", load_examples(), ids=lambda example: example.name)
def test_oracle_recomputes_the_example(example: Example) -> None:
    CHECKS[example.operation](example)


def test_every_operation_has_an_example() -> None:
    assert {example.operation for example in load_examples()} == set(CHECKS)


def test_an_example_is_read_with_its_line_options_and_digits() -> None:
    (example,) = parse_examples("text\n```example\nmatmul exact a_format=e4m3   # why\na = 0x07 0x1F\n```\n")
    assert (example.line, example.operation, example.format) == (3, "matmul", "exact")
    assert example.options == {"a_format": "e4m3"}
    assert (example.lists["a"].values, example.lists["a"].digits) == ((7, 31), 2)


@pytest.mark.parametrize(
    "body",
    ["decode e4m3 codes", "decode e4m3\ncodes 0x1", "decode e4m3\ncodes = 0x1 0x02", "decode e4m3\ncodes ="],
)
def test_a_malformed_example_is_an_error(body: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse_examples(f"```example\n{body}\n```\n")


# Section 1: every code of every type that ml_dtypes has

ML_TYPES = {**SHORT_FLOATS, "e8m0": ml_dtypes.float8_e8m0fnu}


def same_number(got: Number, witness: float) -> bool:
    """Equal including the sign of zero; NaN has neither sign nor payload."""
    return got == (NAN if np.isnan(witness) else number_of(witness))


@pytest.mark.parametrize("name", ML_TYPES)
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    element = ELEMENTS[name]
    store = np.uint8 if element.width <= 8 else np.uint16
    codes = np.arange(1 << element.width, dtype=store)
    with np.errstate(invalid="ignore"):
        witness = codes.view(ML_TYPES[name]).astype(np.float64)
    for code, value in zip(codes, witness, strict=True):
        assert same_number(oracle.decode(element, int(code)), float(value)), code


def test_float32_and_float64_bits_decode_as_the_machine_reads_them() -> None:
    patterns = np.random.default_rng(1).integers(0, 1 << 64, 2000, dtype=np.uint64)
    wide = patterns.view(np.float64)
    narrow = (patterns >> np.uint64(32)).astype(np.uint32).view(np.float32)
    for bits, value in zip(patterns, wide, strict=True):
        assert same_number(oracle.decode(ELEMENTS["fp64"], int(bits)), float(value))
    for bits, single in zip(narrow.view(np.uint32), narrow, strict=True):
        assert same_number(oracle.decode(FP32, int(bits)), float(single))


INTEGERS = {
    "mxint8_element": 64,
    "int8": 1,
    "mxint4_element": 4,
    "int4": 1,
    "hbfp8_element": 64,
    "hbfp6_element": 16,
    "hbfp4_element": 4,
    "msfp15_element": 32,
    "msfp13_element": 8,
}


@pytest.mark.parametrize(("name", "units_in_one"), INTEGERS.items())
def test_integers_are_multiples_of_their_unit(name: str, units_in_one: int) -> None:
    element = ELEMENTS[name]
    half = 1 << (element.width - 1)
    for code in range(1 << element.width):
        if element.signedness == "twos_complement":
            k = code - 2 * half if code >= half else code
        else:
            k = half - code if code >= half else code
        assert oracle.decode(element, code).fraction == Fraction(k, units_in_one)


def test_a_users_e3m0_element_has_powers_of_two_and_zero() -> None:
    values = [oracle.decode(Element(3, 0, 3), code).fraction for code in range(8)]
    assert values == [0, Fraction(1, 4), Fraction(1, 2), 1, 2, 4, 8, 16]


def test_largest_values_are_those_of_the_specifications() -> None:
    largest = {"e4m3": 448, "e5m2": 57344, "e4m3fnuz": 240, "e5m2fnuz": 57344, "e3m2": 28, "e2m1": 6}
    assert {name: ELEMENTS[name].largest for name in largest} == largest
    assert ELEMENTS["fp16"].largest == 65504
    assert ELEMENTS["e2m3"].largest == Fraction(15, 2)
    largest = {"p3109_8p3se": 49152, "p3109_8p4se": 224, "p3109_8p5se": 15, "p3109_4p2sf": 3, "e4m3_ieee": 240}
    assert {name: ELEMENTS[name].largest for name in largest} == largest
    largest = {"e4m3b11fnuz": 30, "ue4m3": 448, "ue5m3": 114688, "int4": 7}
    assert {name: ELEMENTS[name].largest for name in largest} == largest
    assert [ELEMENTS[name].largest for name in ("e3m4", "e1m2", "mxint4_element")] == [15.5, 1.75, 1.75]
    emax = {"e4m3": 8, "e5m2": 15, "e3m2": 4, "e2m3": 2, "e2m1": 2, "mxint8_element": 0, "hbfp8_element": 0}
    assert {name: ELEMENTS[name].emax for name in emax} == emax


# Section 2: rounding

SMALL_ELEMENTS = [
    *(name for name in ELEMENTS if ELEMENTS[name].width <= 8 and name not in oracle.SCALE_CODES),
    "E3M0",
    "E4M0",
    "E5M0",
    "E2M2",
    "E4M0 with Inf",
]
USER_ELEMENTS = {
    "E3M0": Element(3, 0, 3),
    "E4M0": Element(4, 0, 7, "fn"),
    "E5M0": Element(5, 0, 15, "ieee"),
    "E2M2": Element(2, 2, 1, "fnuz"),
    "E4M0 with Inf": Element(4, 0, 7, "fnuz_inf"),
}
CHOICES = [(rounding, overflow) for rounding in oracle.ROUNDINGS for overflow in oracle.OVERFLOWS]


def element_named(name: str) -> Element:
    return ELEMENTS[name] if name in ELEMENTS else USER_ELEMENTS[name]


def corner_magnitudes(element: Element) -> list[Fraction]:
    """Every value and every midpoint, just below and just above each, and far outside on both sides."""
    values = list(oracle.magnitude_list(element))
    values += [2 * values[-1], 3 * values[-1], values[-1] * 2**40, values[1] / 2**40]
    points = values + [(low + high) / 2 for low, high in pairwise(values)]
    tiny = values[1] / 2**30
    return sorted({p + d for p in points for d in (-tiny, Fraction(0), tiny) if p + d >= 0})


def outcome(function: Any, *arguments: Any) -> int | str:
    """The code, or that there is none."""
    try:
        return int(function(*arguments))
    except RefusedError:
        return "refused"


@pytest.mark.parametrize("name", SMALL_ELEMENTS)
def test_the_funnel_picks_the_neighbour_at_every_corner(name: str) -> None:
    element = element_named(name)
    for magnitude in corner_magnitudes(element):
        for negative in (False, True):
            value = Number("finite", magnitude, negative)
            for choice in CHOICES:
                assert outcome(oracle.round_to_code, element, value, *choice) == outcome(
                    oracle.round_by_neighbours, element, value, *choice
                ), (magnitude, choice)


fractions = st.builds(
    lambda numerator, shift: numerator * oracle.power_of_two(shift),
    st.integers(-(2**60), 2**60),
    st.integers(-180, 80),
)
positive = fractions.filter(bool).map(abs)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from([*SMALL_ELEMENTS, "fp16", "bf16"]),
    value=fractions,
    choice=st.sampled_from(CHOICES),
)
def test_the_funnel_picks_the_neighbour_of_any_fraction(name: str, value: Fraction, choice: tuple[str, str]) -> None:
    arguments = (element_named(name), oracle.finite(value), *choice)
    assert outcome(oracle.round_to_code, *arguments) == outcome(oracle.round_by_neighbours, *arguments)


@pytest.mark.parametrize("name", [*SMALL_ELEMENTS, "fp16", "bf16"])
def test_a_code_that_is_a_number_survives_a_round_trip(name: str) -> None:
    element = element_named(name)
    # Every code of up to 8 bits; of 16 bits a sample that meets every exponent field.
    step = 1 if element.width <= 8 else 9
    lowest = element.sign_bit if element.signedness == "twos_complement" else None
    # Inf survives only where overflow may go to it.
    overflow = "special" if element.infinity_code is not None else "saturate"
    for code in range(0, 1 << element.width, step):
        value = oracle.decode(element, code)
        # An encoder never emits the lowest code of two's complement, and a NaN has one spelling only.
        if code != lowest and value.kind != "nan":
            assert oracle.round_to_code(element, value, overflow=overflow) == code


@pytest.mark.parametrize("name", [name for name in ML_TYPES if name != "e8m0"])
def test_float32_rounds_as_ml_dtypes_casts_it(name: str) -> None:
    element, ml_type = ELEMENTS[name], ML_TYPES[name]
    inputs = np.array([*float32_corners(element), 0x7F800000, 0, 1, 0x7F000000], np.uint32).view(np.float32)
    inputs = np.concatenate([inputs, -inputs])
    # ml_dtypes saturates where a type has no special codes, and overflows to them where it has.
    overflow = "saturate" if element.specials == "finite" else "special"
    with np.errstate(over="ignore", invalid="ignore"):
        witness = inputs.astype(ml_type)
    codes = witness.view(np.uint8 if element.width <= 8 else np.uint16)
    for x, code, value in zip(inputs, codes, witness.astype(np.float32), strict=True):
        got = oracle.round_to_code(element, number_of(float(x)), overflow=overflow)
        if np.isnan(value):
            assert oracle.decode(element, got) == NAN, float(x)
        else:
            assert got == int(code), float(x)


def float32_corners(element: Element) -> list[int]:
    """Bits of the values and midpoints of a type, and of their neighbours in float32."""
    values = oracle.magnitude_list(element)
    normal = 1 << element.mantissa_bits
    if len(values) > 300:
        # A 16-bit type has too many; those around zero, emin and the largest value are the special ones.
        values = (*values[:100], *values[normal - 50 : normal + 50], *values[-100:])
    points = [*values, *((low + high) / 2 for low, high in pairwise(values)), 2 * values[-1] - values[-2]]
    found = {oracle.round_to_float(point) for point in points}
    return sorted({near for bits in found for near in (max(bits - 1, 0), bits, bits + 1)})


def test_e8m0_ties_go_to_the_larger_power_as_in_ml_dtypes() -> None:
    inputs = np.array([2.0**e * t for e in range(-126, 127) for t in (1, 1.25, 1.5, 1.75)], dtype=np.float32)
    witness = inputs.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    got = [oracle.round_to_code(E8M0, number_of(float(x)), overflow="special") for x in inputs]
    assert got == witness.tolist()


def test_float64_rounds_to_float32_and_float16_as_the_machine_does() -> None:
    random = np.random.default_rng(2)
    exponents = np.concatenate([random.integers(-160, 140, 1500), random.integers(-28, 18, 1500)])
    x = np.ldexp(random.uniform(-2, 2, exponents.size), exponents)
    with np.errstate(over="ignore", under="ignore"):
        singles, halves = x.astype(np.float32).view(np.uint32), x.astype(np.float16).view(np.uint16)
    assert [oracle.round_to_float(number_of(v), "fp32") for v in x] == singles.tolist()
    assert [oracle.round_to_float(number_of(v), "fp16") for v in x] == halves.tolist()


@settings(max_examples=300, deadline=None)
@given(numerator=st.integers(-(2**70), 2**70), denominator=st.integers(1, 2**70))
def test_any_fraction_rounds_to_float64_as_python_divides(numerator: int, denominator: int) -> None:
    # True division of Python integers is correctly rounded, so it is a witness for fp64.
    wanted = int(np.float64(numerator / denominator).view(np.uint64))
    assert oracle.round_to_float(Fraction(numerator, denominator), "fp64") == wanted


def test_rounding_toward_zero_never_leaves_the_finite_range() -> None:
    huge = Fraction(2) ** 200
    assert oracle.round_to_float(huge, "fp32", "toward_zero") == 0x7F7FFFFF
    assert oracle.round_to_float(-huge, "fp16", "toward_zero") == 0xFBFF
    assert oracle.round_to_float(huge, "bf16", "nearest_even") == 0x7F80


def test_an_infinity_saturates_keeps_its_code_or_becomes_nan() -> None:
    e5m2, e4m3, fnuz = ELEMENTS["e5m2"], ELEMENTS["e4m3"], ELEMENTS["e4m3fnuz"]
    assert oracle.round_to_code(e5m2, NEGATIVE_INFINITY, overflow="saturate") == 0xFB
    assert oracle.round_to_code(e5m2, NEGATIVE_INFINITY, overflow="special") == 0xFC
    assert oracle.round_to_code(e4m3, NEGATIVE_INFINITY, overflow="saturate") == 0xFE
    assert oracle.round_to_code(e4m3, NEGATIVE_INFINITY, overflow="special") == 0x7F
    assert oracle.round_to_code(fnuz, POSITIVE_INFINITY, overflow="special") == 0x80
    assert oracle.round_to_code(ELEMENTS["p3109_8p4se"], POSITIVE_INFINITY, overflow="special") == 0x7F
    assert oracle.round_to_code(ELEMENTS["p3109_8p4se"], NEGATIVE_INFINITY, overflow="special") == 0xFF


def test_a_nan_without_a_nan_code_is_refused() -> None:
    with pytest.raises(RefusedError, match="NaN"):
        oracle.round_to_code(ELEMENTS["e2m1"], NAN)
    with pytest.raises(RefusedError, match="special"):
        oracle.round_to_code(ELEMENTS["e2m1"], oracle.finite(7), overflow="special")


# Sections 3 to 7: scales and blocks


@settings(max_examples=300, deadline=None)
@given(
    amax=positive,
    name=st.sampled_from(["e4m3", "e5m2", "e2m3", "e3m2", "e2m1", "mxint8_element", "E3M0"]),
)
def test_rceil_is_the_least_scale_that_saturates_nothing(amax: Fraction, name: str) -> None:
    element = element_named(name)
    x = oracle.scale_exponent(element, amax, "rceil")
    assert amax <= element.largest * oracle.power_of_two(x)
    assert amax > element.largest * oracle.power_of_two(x - 1)


@settings(max_examples=300, deadline=None)
@given(amax=positive, name=st.sampled_from(["e4m3", "e5m2", "e2m3", "e3m2", "e2m1"]))
def test_even_rounds_the_magnitude_before_taking_its_exponent(amax: Fraction, name: str) -> None:
    element = ELEMENTS[name]
    quantum = oracle.power_of_two(oracle.floor_log2(amax) - element.mantissa_bits)
    rounded = oracle.round_integer(amax / quantum, "nearest_away") * quantum
    assert oracle.scale_exponent(element, amax, "even") == oracle.floor_log2(rounded) - element.emax


@settings(max_examples=200, deadline=None)
@given(amax=positive)
def test_ceil_brings_the_largest_magnitude_of_an_integer_block_to_at_most_one(amax: Fraction) -> None:
    x = oracle.scale_exponent(ELEMENTS["mxint8_element"], amax, "ceil")
    assert amax / oracle.power_of_two(x) <= 1


def test_the_exponent_just_below_a_power_of_two_comes_from_the_bits() -> None:
    for exponent in range(-149, 128):
        bits = oracle.round_to_float(oracle.power_of_two(exponent))
        below = oracle.decode(FP32, bits - 1)
        if below.magnitude:
            assert oracle.floor_log2(below.magnitude) == exponent - 1
        assert oracle.floor_log2(oracle.decode(FP32, bits).magnitude) == exponent


USER_FORMATS = {
    "no NaN code": BlockFormat(Element(3, 0, 3), Element(5, 0, 15, "finite", "unsigned", zero=False), 8),
    "NaN code": BlockFormat(Element(3, 0, 3), Element(5, 0, 15, "fn", "unsigned", zero=False), 8),
}


@pytest.mark.parametrize(("name", "top"), [("no NaN code", 31), ("NaN code", 30)])
def test_a_users_five_bit_scale_is_clamped_to_its_own_range(name: str, top: int) -> None:
    fmt = USER_FORMATS[name]
    x = [bits32(v) for v in (2.0**40, 1.0, -3.0, 0.0, 2.0**19, 2.0**11, 1.5 * 2.0**12, 2.0**20)]
    got = oracle.quantize(x, "fp32", fmt)
    assert got.scales == [top]
    assert got.events.saturated == sum(v > 1.5 * 2.0 ** (top - 11) for v in (2.0**40, 2.0**20, 2.0**19))
    tiny = oracle.quantize([bits32(2.0**-30)] * 8, "fp32", fmt)
    assert (tiny.scales, tiny.codes, tiny.events.underflowed) == ([0], [0] * 8, 8)


def test_a_poisoned_block_needs_a_scale_with_a_nan_code() -> None:
    x = [bits32(1.0)] * 7 + [0xFF800000]
    assert oracle.quantize(x, "fp32", USER_FORMATS["NaN code"]).scales == [31]
    with pytest.raises(RefusedError, match="NaN code"):
        oracle.quantize(x, "fp32", USER_FORMATS["no NaN code"])


def test_an_all_zero_block_takes_the_smallest_scale_and_keeps_its_signs() -> None:
    got = oracle.quantize([0, 0x80000000, 0x3F800000], "fp32", BLOCK_FORMATS["mxfp4"], block=2)
    assert (got.scales, got.codes) == ([0x00, 0x7D], [0x0, 0x8, 0x6])
    assert got.events == oracle.Events(zero_blocks=1)
    assert oracle.quantize([0, 0x80000000], "fp32", BLOCK_FORMATS["int8"]).scales == [0x3F800000]


def test_a_float_scale_that_would_be_zero_is_the_smallest_number() -> None:
    got = oracle.quantize([1, 0x80000001], "fp32", BLOCK_FORMATS["fp8_e4m3"])
    assert (got.scales, got.codes, got.values) == ([1], [0x38, 0xB8], [1, 0x80000001])


def test_int8_repeats_the_steps_of_float32() -> None:
    x = np.random.default_rng(3).standard_normal(400).astype(np.float32)
    scale = np.float32(np.abs(x).max() / np.float32(127))
    codes = np.clip(np.rint(x / scale), -127, 127)
    got = oracle.quantize(x.view(np.uint32).tolist(), "fp32", BLOCK_FORMATS["int8"])
    assert got.scales == [int(scale.view(np.uint32))]
    assert got.codes == (codes.astype(np.int64) & 0xFF).tolist()
    # Comparing values and not bits, because a two's complement zero has no sign and NumPy's does.
    assert (np.array(got.values, dtype=np.uint32).view(np.float32) == codes.astype(np.float32) * scale).all()


def test_fp8_repeats_the_steps_of_float32() -> None:
    x = np.random.default_rng(4).standard_normal(400).astype(np.float32)
    scale = np.float32(np.abs(x).max() / np.float32(448))
    codes = (x / scale).astype(ml_dtypes.float8_e4m3fn)
    values = codes.astype(np.float32) * scale
    lines = x.reshape(8, 50).view(np.uint32).tolist()
    got = oracle.quantize_tensor(lines, "fp32", BLOCK_FORMATS["fp8_e4m3"])
    assert got.scales == [[int(scale.view(np.uint32))]]
    assert [c for line in got.codes for c in line] == codes.view(np.uint8).tolist()
    assert [v for line in got.values for v in line] == values.view(np.uint32).tolist()


def test_a_double_beyond_float32_poisons_a_float_scale_only() -> None:
    x = [int(np.float64(v).view(np.uint64)) for v in (1e39, 1.0)]
    assert oracle.quantize(x, "fp64", BLOCK_FORMATS["int8"]).events.nonfinite == 1
    got = oracle.quantize(x, "fp64", BLOCK_FORMATS["mxfp4"])
    assert (got.scales, got.events.nonfinite) == ([0xFE], 0)


def test_tensor_scope_shares_one_scale_between_lines() -> None:
    lines = [[bits32(1.0), bits32(448.0)], [bits32(-2.0)]]
    got = oracle.quantize_tensor(lines, "fp32", BLOCK_FORMATS["fp8_e4m3"])
    assert (got.scales, got.codes) == ([[0x3F800000]], [[0x38, 0x7E], [0xC0]])


def test_a_given_scale_is_kept_and_poison_below_it_is_refused() -> None:
    mxfp4 = BLOCK_FORMATS["mxfp4"]
    got = oracle.quantize([bits32(1.0), 0], "fp32", mxfp4, scales=[0x80])
    assert (got.scales, got.codes) == ([0x80], [0x1, 0x0])
    with pytest.raises(RefusedError, match="given scale"):
        oracle.quantize([0x7F800000], "fp32", mxfp4, scales=[0x7F])
    poisoned = oracle.quantize([bits32(1.0), 0x7F800000], "fp32", mxfp4, scales=[0xFF])
    assert (poisoned.codes, poisoned.values) == ([0, 0], [0x7FC00000] * 2)
    assert poisoned.events == oracle.Events(nonfinite=1)


def test_a_value_outside_the_result_type_is_refused_unless_rounding_is_asked_for() -> None:
    x = [int(np.float64(2.0**128).view(np.uint64))]
    mxfp4 = BLOCK_FORMATS["mxfp4"]
    assert oracle.quantize(x, "fp64", mxfp4).values == x
    with pytest.raises(RefusedError, match="dtype="):
        oracle.quantize(x, "fp64", mxfp4, result="fp32")
    assert oracle.quantize(x, "fp64", mxfp4, result="fp32", inexact="round").values == [0x7F800000]
    # A 16-bit result rounds without being asked.
    assert oracle.quantize(x, "fp64", mxfp4, result="bf16").values == [0x7F80]


def test_a_ragged_last_block_is_a_shorter_block() -> None:
    got = oracle.quantize([bits32(v) for v in (4.0, 1.0, 16.0)], "fp32", BLOCK_FORMATS["mxfp4"], block=2)
    assert (got.scales, got.codes) == ([0x7F, 0x81], [0x6, 0x2, 0x6])


# Section 8: sparsity


def test_a_signed_score_replaces_the_magnitude() -> None:
    line = [number_of(v) for v in (9.0, 1.0, 2.0, 3.0)]
    score = [number_of(v) for v in (-5.0, float("-inf"), -0.0, 0.0)]
    assert oracle.sparsify(line, 1, 4, score=score) == [False, False, True, False]
    assert oracle.sparsify(line, 1, 4, "highest_index", score) == [False, False, False, True]
    assert oracle.sparsify(line, 1, 4, score=[*score[:3], NAN]) == [False, False, False, True]


@settings(max_examples=200, deadline=None)
@given(
    line=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, float("inf"), float("nan")]), max_size=11),
    pattern=st.sampled_from([(1, 2), (1, 3), (2, 4), (3, 4), (4, 4)]),
    ties=st.sampled_from(oracle.TIES),
)
def test_no_pruned_element_outranks_a_kept_one(line: list[float], pattern: tuple[int, int], ties: str) -> None:
    n, m = pattern
    numbers = [number_of(v) for v in line]
    mask = oracle.sparsify(numbers, n, m, ties)
    for start in range(0, len(line), m):
        group = list(range(start, min(start + m, len(line))))
        assert sum(mask[i] for i in group) == min(n, len(group))
        for kept in (i for i in group if mask[i]):
            for pruned in (i for i in group if not mask[i]):
                ranks = [oracle.rank(oracle.absolute(numbers[i])) for i in (kept, pruned)]
                preferred = {"lowest_index": kept < pruned, "highest_index": kept > pruned, "topk": True}[ties]
                assert ranks[0] > ranks[1] or (ranks[0] == ranks[1] and preferred)


def test_a_pruned_infinity_does_not_poison_when_pruning_comes_first() -> None:
    x = [0x7F800000, bits32(1.0), bits32(2.0), bits32(3.0)]
    mask = [False, True, True, False]
    mxfp4 = BLOCK_FORMATS["mxfp4"]
    first = oracle.quantize(x, "fp32", mxfp4, mask=mask)
    assert (first.scales, first.codes, first.events.nonfinite) == ([0x7E], [0, 0x4, 0x6, 0], 0)
    last = oracle.quantize(x, "fp32", mxfp4, mask=mask, order="quantize_first")
    assert (last.scales, last.values, last.events.nonfinite) == ([0xFF], [0x7FC00000] * 4, 1)


def test_groups_with_equal_ranks_on_both_sides_are_counted_as_ties() -> None:
    x = [bits32(v) for v in (5.5, 6.0, 5.0, 6.5, 1.0, 2.0, 3.0, 4.0)]
    mxfp4 = BLOCK_FORMATS["mxfp4"]
    first = oracle.quantize(x, "fp32", mxfp4, block=4, sparsity=(2, 4))
    assert (first.events.ties, first.mask[:4]) == (0, [False, True, False, True])
    last = oracle.quantize(x, "fp32", mxfp4, block=4, sparsity=(2, 4), order="quantize_first")
    assert (last.events.ties, last.mask[:4]) == (1, [True, True, False, False])


# Section 10: datapaths

GOLDEN = Path(__file__).parent / "golden" / "hw"


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_the_hopper_rule_reproduces_recorded_h100_dot_products(name: str) -> None:
    with np.load(GOLDEN / f"H100_{name}_fp32.npz") as recorded:
        sample = slice(0, None, 15)
        a, b, c, d = (recorded[key][sample].tolist() for key in "abcd")
    element = ELEMENTS[name]
    got = [
        oracle.dot("hopper_fp8", Operand(element, x), Operand(element, y), start)
        for x, y, start in zip(a, b, c, strict=True)
    ]
    assert len(got) == 100
    assert got == d


ONE = 0x3F800000


def fp32_operand(*values: float) -> Operand:
    return Operand(FP32, [bits32(v) for v in values])


def test_fma32_repeats_a_chain_that_float64_can_hold() -> None:
    random = np.random.default_rng(5)
    # 12-bit factors have 24-bit products, so that product plus float32 is exact in float64 near 1.
    a, b = (np.round(random.uniform(-1, 1, 64) * 2048).astype(np.float32) / 2048 for _ in range(2))
    acc = np.float32(0.25)
    for x, y in zip(a, b, strict=True):
        acc = np.float32(np.float64(x) * np.float64(y) + np.float64(acc))
    got = oracle.dot("fma32", fp32_operand(*a.tolist()), fp32_operand(*b.tolist()), bits32(0.25))
    assert got == int(acc.view(np.uint32))


def test_segments_end_at_the_blocks_of_either_operand() -> None:
    wide = Operand(FP32, [0] * 80, [127, 127, 127], 32)
    narrow = Operand(FP32, [0] * 80, [127] * 5, 16)
    row = Operand(FP32, [0] * 80, [ONE], None, FP32)
    assert oracle.segments(wide, narrow) == [range(k, k + 16) for k in range(0, 80, 16)]
    assert oracle.segments(row, wide) == [range(0, 32), range(32, 64), range(64, 80)]
    assert oracle.segments(row, row) == [range(80)]


def test_equal_scales_of_two_blocks_do_not_join_their_segments() -> None:
    # 2^24 + 1 is a tie that goes down, twice; joined, the two ones would reach 2^24 + 2.
    one = Operand(ELEMENTS["e2m1"], [0x2, 0x2], [127, 127], 1)
    assert oracle.dot("block_fp32", one, one, bits32(2.0**24)) == bits32(2.0**24)


def test_block_fp32_fuses_the_float_scale_into_the_sum() -> None:
    e2m1 = ELEMENTS["e2m1"]
    scale = bits32(1 + 2.0**-23)
    a = Operand(e2m1, [0x3], [scale], None, FP32)
    b = Operand(e2m1, [0x2])
    # 1.5 + 1.5 * 2^-23 - 1.5 survives only where nothing is rounded before the sum.
    assert oracle.dot("block_fp32", a, b, bits32(-1.5)) == bits32(1.5 * 2.0**-23)


def test_block_fp32_joins_a_power_of_two_exactly_to_a_float_scale() -> None:
    e2m1 = ELEMENTS["e2m1"]
    a = Operand(e2m1, [0x7, 0x7], [0x7E, 0x80], 1)
    b = Operand(e2m1, [0x7, 0x7], [bits32(3.0)], None, FP32)
    assert oracle.dot("block_fp32", a, b) == bits32(36 * 0.5 * 3 + 36 * 2 * 3)


def test_tensor_scales_multiply_once_at_the_end_and_exclude_c() -> None:
    int8 = ELEMENTS["int8"]
    third = bits32(1 / 3)
    a = Operand(int8, [3, 5], tensor_scale=third)
    b = Operand(int8, [7, 11])
    assert oracle.dot("block_fp32", a, b) == int((np.float32(76) * np.float32(1 / 3)).view(np.uint32))
    with pytest.raises(RefusedError, match="c has no unit"):
        oracle.dot("block_fp32", a, b, 0)


@pytest.mark.parametrize("datapath", ["exact", "fma32"])
def test_decoded_operands_include_their_float_scales(datapath: str) -> None:
    # 3 * RN32(1/3) decodes to 1; multiplied at the end, as block_fp32 does, the scales give one ulp more.
    operand = Operand(ELEMENTS["int8"], [3], tensor_scale=bits32(1 / 3))
    assert oracle.dot(datapath, operand, operand) == ONE
    assert oracle.dot("block_fp32", operand, operand) == ONE + 1


@pytest.mark.parametrize(
    ("datapath", "nan"),
    [("exact", 0x7FC00000), ("block_fp32", 0x7FC00000), ("fma32", 0x7FC00000), ("hopper_fp8", 0x7FFFFFFF)],
)
def test_nan_inf_and_zero_meet_as_ieee_says(datapath: str, nan: int) -> None:
    e5m2 = ELEMENTS["e5m2"]
    infinity, minus_infinity, not_a_number, zero, one = 0x7C, 0xFC, 0x7D, 0x80, 0x3C

    def run(a: list[int], b: list[int], c: int | None = None) -> int:
        return oracle.dot(datapath, Operand(e5m2, a), Operand(e5m2, b), c)

    assert run([infinity, one], [one, one]) == 0x7F800000
    assert run([infinity, one], [zero, one]) == nan
    assert run([infinity, infinity], [one, 0xBC]) == nan
    assert run([one], [one], 0xFF800000) == 0xFF800000
    assert run([minus_infinity], [one], 0x7F800000) == nan
    assert run([not_a_number], [zero]) == nan
    assert run([one, one], [one, 0xBC]) == 0
    assert run([zero], [one]) == 0


def test_hopper_cuts_each_term_thirteen_bits_below_the_largest_exponent() -> None:
    e4m3 = ELEMENTS["e4m3"]

    # A product of 2^-13 beside 1 is kept, one of 1.5 * 2^-13 loses its half, and c is cut like a product.
    def run(a: list[int], b: list[int], c: int) -> int:
        return oracle.dot("hopper_fp8", Operand(e4m3, a), Operand(e4m3, b), c)

    assert run([0x38, 0x08], [0x38, 0x04], 0) == 0x3F800400
    assert run([0x38, 0x0C], [0x38, 0x04], 0) == 0x3F800400
    assert run([0x38], [0x38], bits32(2.0**-13 * 1.5)) == 0x3F800400
    assert run([0], [0], 0x3F8007FF) == 0x3F800400


def test_hopper_cuts_a_subnormal_accumulator_at_2_to_the_minus_139() -> None:
    zero = Operand(ELEMENTS["e4m3"], [0])
    assert oracle.dot("hopper_fp8", zero, zero, 0x00000FFF) == 0x00000C00
    assert oracle.dot("hopper_fp8", zero, zero, 0x800003FF) == 0x00000000


def test_hopper_overflows_to_infinity_although_it_rounds_toward_zero() -> None:
    largest = Operand(ELEMENTS["e5m2"], [0x7B] * 32)
    assert oracle.dot("hopper_fp8", largest, largest, 0x7F7FFFFF) == 0x7F7FFC00
    # No FP8 product reaches the accumulator's last bit up there, so a made-up product of 2^114 has to.
    product = (oracle.finite(oracle.power_of_two(114)), 114)
    assert oracle.hopper_step([product], oracle.decode(FP32, 0x7F7FFC00)) == POSITIVE_INFINITY


def test_ones_stick_at_16384_in_the_hopper_accumulator() -> None:
    # From 2^14 on every term is cut to a multiple of 2, so a product of 1 is nothing.
    ones = [(oracle.ONE, 0)] * 32
    acc = POSITIVE_ZERO
    for _ in range(600):
        acc = oracle.hopper_step(ones, acc)
    assert acc == oracle.finite(16384)


def test_hopper_applies_row_and_tensor_scales_once_at_the_end() -> None:
    e4m3 = ELEMENTS["e4m3"]
    row = Operand(e4m3, [0x38] * 40, [bits32(0.3)], None, FP32)
    tensor = Operand(e4m3, [0x38] * 40, tensor_scale=bits32(0.7))
    wanted = np.float32(40) * (np.float32(0.3) * np.float32(0.7))
    assert oracle.dot("hopper_fp8", row, tensor) == int(np.float32(wanted).view(np.uint32))
    with pytest.raises(RefusedError, match="c has no unit"):
        oracle.dot("hopper_fp8", row, tensor, 0)
    with pytest.raises(RefusedError, match="float scale"):
        oracle.dot("hopper_fp8", Operand(e4m3, [0x38] * 40, [127, 127], 32), tensor)


def test_an_exact_zero_is_positive_and_an_underflow_keeps_its_sign() -> None:
    tiny = fp32_operand(2.0**-100)
    assert oracle.dot("exact", tiny, fp32_operand(-(2.0**-100))) == 0x80000000
    assert oracle.dot("exact", fp32_operand(0.0), fp32_operand(-1.0), 0x80000000) == 0
    assert oracle.dot("fma32", fp32_operand(0.0), fp32_operand(-1.0), 0x80000000) == 0x80000000
    assert oracle.dot("fma32", fp32_operand(0.0), fp32_operand(-1.0), 0) == 0
    assert oracle.add(NEGATIVE_ZERO, NEGATIVE_ZERO) == POSITIVE_ZERO
