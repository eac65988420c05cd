"""Whole tensors: random formats, shapes, layouts and choices against the oracle, and path against path."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    from_bits,
    oracle_quantize,
    scale_bits,
    user_format,
)
from oracle import BLOCK_FORMATS, E8M0, ELEMENTS, FP32, BlockFormat, Element, RefusedError

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
FAST_ISAS = tuple(name for name in ISAS if name != "reference")
COMMON: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


# Inputs


def random_bits(rng: np.random.Generator, carrier: str, shape: tuple[int, ...], nonfinite: bool) -> Array:
    """Bit patterns of several kinds, so that no binade, tie or zero is rare: any bits at all, neighbouring
    binades with few mantissa bits, powers of two and their neighbours, zeros and subnormals."""
    element = ELEMENTS[carrier]
    _, unsigned = CARRIERS[carrier]
    m, width = element.mantissa_bits, element.width
    count = math.prod(shape)
    fields = (1 << element.exponent_bits) - 1  # the top one is Inf and NaN
    centre = int(rng.integers(0, fields))
    spread = int(rng.integers(1, 12))
    near = np.clip(centre + rng.integers(-spread, spread + 1, count), 0, fields - 1).astype(np.uint64)
    anywhere = rng.integers(0, fields, count).astype(np.uint64)
    full = rng.integers(0, 1 << m, count, dtype=np.uint64)
    keep = rng.integers(0, min(m, 9) + 1, count).astype(np.uint64)  # mantissas with few bits make ties
    few = (full >> (np.uint64(m) - keep)) << (np.uint64(m) - keep)
    step = rng.integers(-1, 2, count).astype(np.int64)
    kind = rng.choice(6, count, p=[0.08, 0.3, 0.37, 0.15, 0.05, 0.05])
    magnitude = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3, kind == 4],
        [
            (anywhere << np.uint64(m)) | full,
            (near << np.uint64(m)) | full,
            (near << np.uint64(m)) | few,
            np.maximum(((near << np.uint64(m)).astype(np.int64) + step), 0).astype(np.uint64),
            full >> np.uint64(int(rng.integers(0, m))),
        ],
        np.uint64(0),
    )
    if nonfinite:
        special = rng.random(count) < 0.03
        payload = np.where(rng.random(count) < 0.5, np.uint64(0), full)
        magnitude = np.where(special, np.uint64(fields << m) | payload, magnitude)
    sign = rng.integers(0, 2, count, dtype=np.uint64) << np.uint64(width - 1)
    return from_bits((magnitude | sign).astype(unsigned), carrier).reshape(shape)


def relaid(x: Array, rng: np.random.Generator) -> Array:
    """The same array in another memory layout: axes permuted, reversed, or with gaps."""
    order = rng.permutation(x.ndim)
    storage = np.ascontiguousarray(x.transpose(order))
    view = storage.transpose(np.argsort(order))
    for axis in range(x.ndim):
        index: list[Any] = [slice(None)] * x.ndim
        choice = int(rng.integers(0, 4))
        if choice == 1:
            index[axis] = slice(None, None, -1)
            view = np.ascontiguousarray(view[tuple(index)])[tuple(index)]
        elif choice == 2:
            shape = list(view.shape)
            shape[axis] = 2 * shape[axis] + 1
            wide = np.zeros(shape, x.dtype)
            index[axis] = slice(1, None, 2)
            wide[tuple(index)] = view
            view = wide[tuple(index)]
    assert view.shape == x.shape
    return view


# Random formats

binary_specials = st.sampled_from(["finite", "fn", "fnuz", "fnuz_inf", "ieee"])


@st.composite
def user_elements(draw: st.DrawFn) -> Element:
    """Any element that section 1 gives a meaning, of 2 to 17 bits."""
    if draw(st.integers(0, 3)) == 0:
        return Element(0, draw(st.integers(2, 15)), draw(st.integers(-20, 20)), "finite",
                       draw(st.sampled_from(["signed", "twos_complement"])))  # fmt: skip
    exponent_bits = draw(st.integers(1, 6))
    mantissa_bits = draw(st.integers(0, 10))
    specials = draw(binary_specials)
    if specials == "ieee" and (exponent_bits < 2 or mantissa_bits < 1):
        specials = "finite"
    if specials in ("fn", "fnuz_inf") and exponent_bits + mantissa_bits < 2:
        specials = "finite"
    return Element(exponent_bits, mantissa_bits, draw(st.integers(-30, 60)), specials)


@st.composite
def user_scales(draw: st.DrawFn) -> Element | None:
    kind = draw(st.sampled_from(["none", "e8m0", "e8m0", "five", "five", "any", "float", "short", "ue4m3"]))
    if kind == "none":
        return None
    if kind == "e8m0":
        return E8M0
    if kind == "float":
        return FP32
    if kind == "ue4m3":
        return ELEMENTS["ue4m3"]
    if kind == "short":
        bits, specials = draw(st.integers(2, 6)), draw(st.sampled_from(["finite", "fn"]))
        return Element(bits, draw(st.integers(1, 5)), draw(st.integers(0, 60)), specials, "unsigned")
    bits = 5 if kind == "five" else draw(st.integers(1, 10))
    # Exponents within +-700, biases up to 512: beyond, a scale is refused.
    bias = draw(st.integers(max(0, (1 << bits) - 1 - 700), min((1 << bits) - 1, 512)))
    return Element(bits, 0, bias, draw(st.sampled_from(["finite", "fn"])), "unsigned", zero=False)


@dataclass(frozen=True)
class Case:
    """One call: everything that `emulate` and the oracle are told."""

    fmt: BlockFormat
    x: Array
    axis: int
    arguments: dict[str, Any]  # for both
    mask: Array | None
    scales: Array | None
    result: str
    inexact: str | None
    threads: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        fmt = BLOCK_FORMATS[draw(st.sampled_from(sorted(BLOCK_FORMATS)))]
        element, scale = fmt.element, fmt.scale
    else:
        element, scale = draw(user_elements()), draw(user_scales())
    overflow = "saturate"
    if scale is None and element.nan_code is not None:
        overflow = draw(st.sampled_from(oracle.OVERFLOWS))
    rule = "floor"
    if scale is not None and oracle.is_power_of_two_scale(scale):
        rule = draw(st.sampled_from(oracle.SCALE_RULES))
    block: int | str | None = None
    if scale is not None:
        block = draw(st.one_of(st.integers(1, 70), st.sampled_from(["row", "tensor"])))
    fmt = BlockFormat(element, scale, block, overflow, rule)

    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=0, max_size=2)))
    axis = draw(st.integers(0, len(shape)))
    length = draw(st.integers(1, 80 if math.prod(shape) <= 5 else 20))
    shape = (*shape[:axis], length, *shape[axis:])
    axis -= draw(st.sampled_from([0, len(shape)]))
    carrier = draw(st.sampled_from(sorted(CARRIERS)))
    x = random_bits(rng, carrier, shape, draw(st.booleans()))

    arguments: dict[str, Any] = {"rounding": draw(st.sampled_from(oracle.ROUNDINGS))}
    if scale is not None and fmt.has_float_scale and scale is not FP32:
        arguments["scale_rounding"] = draw(st.sampled_from(["nearest_even", "up"]))
    if scale is not None and scale is not FP32:
        arguments["scale_minimum"] = draw(st.sampled_from([0, 0, min(1, scale.largest_code), scale.largest_code]))
    mask = None
    choice = draw(st.sampled_from(["dense", "dense", "pattern", "pattern", "mask"]))
    if choice == "pattern":
        m = draw(st.integers(1, 32))
        arguments |= {"sparsity": (draw(st.integers(1, m)), m), "ties": draw(st.sampled_from(oracle.TIES))}
    if choice == "mask":
        mask = rng.random(shape) < 0.6
    if choice != "dense":
        arguments["order"] = draw(st.sampled_from(oracle.ORDERS))

    scales = None
    if scale is not None and draw(st.integers(0, 3)) == 0:
        blocks = {"row": 1, "tensor": 1}.get(str(block)) or -(-length // int(block))  # type: ignore[arg-type]
        scale_shape = (1,) * len(shape)
        if block != "tensor":
            scale_shape = tuple(blocks if i == axis % len(shape) else n for i, n in enumerate(shape))
        if scale is FP32:
            bits = random_bits(rng, "fp32", scale_shape, False).view(np.uint32) & np.uint32(0x7FFFFFFF)
            scales = np.where(rng.random(scale_shape) < 0.05, np.uint32(0x7FC00000), np.maximum(bits, 1))
        else:
            top = scale.largest_code + (scale.nan_code is not None)
            scales = rng.integers(int(fmt.has_float_scale), top + 1, scale_shape).astype(
                np.uint16 if top > 255 else np.uint8
            )
    return Case(
        fmt,
        x,
        axis,
        arguments,
        mask,
        scales,
        draw(st.sampled_from([carrier, carrier, *sorted(CARRIERS)])),
        draw(st.sampled_from([None, "error", "round"])),
        draw(st.integers(1, 4)),
    )


def library_arguments(case: Case, format_: sq.Format) -> dict[str, Any]:
    """The arguments of the oracle in the words of the library."""
    arguments: dict[str, Any] = {"axis": case.axis, "threads": case.threads, "mask": case.mask}
    arguments |= {name: case.arguments[name] for name in ("order", "ties") if name in case.arguments}
    if "sparsity" in case.arguments:
        arguments["sparsity"] = "{}:{}".format(*case.arguments["sparsity"])
    if case.scales is not None:
        arguments["scales"] = case.scales if format_.has_scale_codes else case.scales.view(np.float32)
    return arguments


def expected_or_refused(case: Case, inexact: str | None) -> Any:
    try:
        return oracle_quantize(
            case.x,
            case.fmt,
            axis=case.axis,
            mask=case.mask,
            scales=case.scales,
            result=case.result,
            inexact=inexact,
            **case.arguments,
        )
    except RefusedError as error:
        return error


def check_case(case: Case, x: Array) -> None:
    """`x` equals `case.x`, perhaps in another layout."""
    choices = {
        name: case.arguments[name] for name in ("rounding", "scale_rounding", "scale_minimum") if name in case.arguments
    }
    format_ = user_format(case.fmt, **choices)
    arguments = library_arguments(case, format_)
    dtype = DTYPES[case.result]
    exact = expected_or_refused(case, case.inexact)
    rounded = expected_or_refused(case, "round") if isinstance(exact, RefusedError) else exact
    events = sq.Events()

    if isinstance(rounded, RefusedError):
        for call in (sq.emulate, sq.encode):
            with pytest.raises(ValueError):
                call(x, format_, events=events, **arguments)
        assert events == sq.Events(), "an error counts nothing"
        return
    encoded = sq.encode(x, format_, events=events, **arguments)
    assert_same_integers(encoded.codes, rounded.codes, "codes")
    assert_same_integers(scale_bits(encoded), rounded.scales, "scales")
    assert vars(events) == rounded.events
    if "sparsity" in case.arguments or case.mask is not None:
        assert encoded.mask is not None and np.array_equal(encoded.mask, rounded.mask)
    else:
        assert encoded.mask is None

    if isinstance(exact, RefusedError):
        with pytest.raises(ValueError, match="dtype="):
            sq.emulate(x, format_, dtype=dtype, inexact=case.inexact, **arguments)
        with pytest.raises(ValueError, match="dtype="):
            encoded.decode(dtype, inexact=case.inexact, threads=case.threads)
        return
    again = sq.Events()
    values = sq.emulate(x, format_, dtype=dtype, inexact=case.inexact, events=again, **arguments)
    assert_same_integers(bits_of(values), exact.values, "values")
    assert again == events
    assert_same_bits(encoded.decode(dtype, inexact=case.inexact, threads=case.threads), values, "decode")


@settings(max_examples=350, **COMMON)
@given(case=cases(), layout=st.integers(0, 2**32))
def test_emulate_and_encode_equal_the_oracle(case: Case, layout: int) -> None:
    x = relaid(case.x, np.random.default_rng(layout))
    for name in ISAS:
        with forced_isa(name):
            check_case(case, x)


# Inputs that once went wrong


def test_an_overflow_to_the_nan_of_negative_zero_is_no_underflow(isa: str) -> None:
    e4m3fnuz = sq.elements()["e4m3fnuz"].record
    special = sq.Format("special", e4m3fnuz, (), sq.Conversion(overflow="special"))
    events = sq.Events()
    got = sq.encode(np.float32([1e9, -1e9, np.nan, np.inf, 1e-9]), special, events=events)
    assert got.codes.tolist() == [0x80, 0x80, 0x80, 0x80, 0]
    assert events == sq.Events(saturated=2, underflowed=1, nonfinite=2)


def test_a_double_that_float32_flushes_to_zero_is_no_underflow_of_a_float_scale(isa: str) -> None:
    for x, zero_blocks in ((np.array([1e-226, 1.0]), 0), (np.array([1e-226, 0.0]), 1)):
        events = sq.Events()
        sq.encode(x, "int8", events=events)
        assert events == sq.Events(zero_blocks=zero_blocks)


def test_a_block_counts_as_zero_where_its_scale_comes_from_zeros_only(isa: str) -> None:
    x = np.float32([3, 1])
    for order, count in (("sparsify_first", 1), ("quantize_first", 0)):
        events = sq.Events()
        sq.encode(x, "mxfp4", block=1, sparsity="1:2", order=order, events=events)
        assert events == sq.Events(zero_blocks=count)


def test_decoded_values_that_float32_does_not_hold_are_ranked_as_they_are(isa: str) -> None:
    # 7 * 2^-153 and 7 * 2^-170 are both zero in float32.
    low = sq.ElementFormat(exponent_bits=8, bias=171, signedness="unsigned", zero=False)
    level = sq.ScaleLevel(format=low, along=1)
    format_ = sq.Format("low", sq.elements()["hbfp4_element"].record, [level])
    got = sq.encode(
        np.float32([2.0**-149, 1.0]),
        format_,
        scales=np.array([20, 3], np.uint8),
        sparsity="1:2",
        order="quantize_first",
        ties="highest_index",
    )
    assert got.mask is not None and got.mask.tolist() == [True, False]


# Larger arrays: every ISA and thread count gives the same bytes. The small cases say that they are right.

LARGE_FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mxfp8_e4m3", {}),
    ("mxfp8_e5m2", {"scale_rule": "ceil", "rounding": "nearest_away"}),
    ("mxfp6_e2m3", {"scale_rule": "rceil"}),
    ("mxfp6_e3m2", {"block": 4097, "rounding": "toward_zero"}),
    ("mxfp4", {"block": 5000, "scale_rule": "even"}),
    ("mxfp4", {"block": 7}),
    ("mxint8", {"block": "tensor", "scale_rule": "even"}),
    ("hbfp8", {"rounding": "toward_zero"}),
    ("hbfp6", {"block": "row", "scale_rule": "rceil"}),
    ("hbfp4", {}),
    ("int8", {}),
    ("int8", {"block": "tensor", "rounding": "nearest_away"}),
    ("fp8_e4m3", {}),
    ("fp8_e5m2", {"block": 6000}),
    ("int4_g128", {}),
    ("nvfp4_one_level", {}),
    ("nvfp4_one_level", {"block": "row", "scale_rounding": "up", "scale_minimum": 8}),
    ("fp8_e4m3_1x128", {"rounding": "nearest_away"}),
    ("msfp13", {"scale_rule": "even"}),
    ("tf32", {}),
    ("bf16", {}),
    ("fp16", {"overflow": "saturate", "rounding": "toward_zero"}),
)
#: Each longest axis is longer than 4096, the others are odd.
LARGE_SHAPES = ((9001, 3, 2), (3, 9001, 5), (2, 3, 9001))


def record_bytes(x: Any, format: Any, dtype: str, **arguments: Any) -> tuple[bytes, ...]:
    """Everything that a call produces, as bytes."""
    events = sq.Events()
    encoded = sq.encode(x, format, events=events, **arguments)
    values = sq.emulate(x, format, inexact="round", dtype=dtype, **arguments)
    decoded = encoded.decode(dtype, inexact="round")
    assert bits_of(values).tobytes() == bits_of(decoded).tobytes()
    parts = [encoded.codes.tobytes(), bits_of(values).tobytes(), repr(events).encode()]
    parts += [part.tobytes() for part in (encoded.scales, encoded.mask) if part is not None]
    return tuple(parts)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("axis", range(3))
def test_every_isa_and_thread_count_gives_the_same_bytes(carrier: str, axis: int) -> None:
    rng = np.random.default_rng(axis)
    shape = LARGE_SHAPES[axis]
    x = random_bits(rng, carrier, shape, nonfinite=False)
    some_nan = x.copy()
    some_nan[rng.random(shape) < 1e-4] = np.nan
    for number, (name, choices) in enumerate(LARGE_FORMATS):
        # A single NaN would poison all of a tensor.
        source = x if choices.get("block") == "tensor" or name.startswith("fp8") else some_nan
        sparse = [{}, {"sparsity": "2:4"}, {"sparsity": "5:17", "order": "quantize_first"}][number % 3]
        dtype = ("float32", "float64", DTYPES[carrier])[number % 3]
        results = {}
        for isa in FAST_ISAS:
            with forced_isa(isa):
                for threads in (1, 3):
                    got = record_bytes(source, name, dtype, axis=axis, threads=threads, **choices, **sparse)
                    results[isa, threads] = got
        assert len(set(results.values())) == 1, (name, choices, sparse)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_reference_gives_the_same_bytes_on_long_rows(carrier: str) -> None:
    rng = np.random.default_rng(7)
    for axis, shape in enumerate(((4099, 2), (2, 4099))):
        x = random_bits(rng, carrier, shape, nonfinite=False)
        for number, (name, choices) in enumerate(LARGE_FORMATS):
            if (number + axis) % 2:
                continue
            results = set()
            for isa in ISAS:
                with forced_isa(isa):
                    results.add(record_bytes(x, name, "float32", axis=axis, **choices))
            assert len(results) == 1, (name, choices)


def test_threads_split_large_tensors_without_a_trace() -> None:
    rng = np.random.default_rng(5)
    x = random_bits(rng, "fp32", (70, 40_001), nonfinite=False)
    for name, axis in (("mxfp4", 1), ("mxfp8", 0), ("int8", 1), ("fp8_e4m3", 0), ("int8", 0)):
        choices = {"axis": axis, "sparsity": "2:4"}
        one, *others = (record_bytes(x, name, "float32", threads=n, **choices) for n in (1, 2, 3, 4))
        assert all(other == one for other in others), name


# Layouts, outputs, libraries


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_memory_layout_of_the_input_changes_nothing(carrier: str, isa: str) -> None:
    rng = np.random.default_rng(11)
    x = random_bits(rng, carrier, (6, 5, 37), nonfinite=False)
    for axis in range(3):
        wanted = sq.encode(x, "mxfp4", axis=axis, sparsity="2:4", block=6)
        for trial in range(8):
            view = relaid(x, np.random.default_rng(trial))
            assert sq.encode(view, "mxfp4", axis=axis, sparsity="2:4", block=6) == wanted
            assert_same_bits(sq.emulate(view, "mxfp4", axis=axis, sparsity="2:4", block=6), wanted.decode())


def test_negative_strides_and_steps_are_read_where_they_point(isa: str) -> None:
    line = np.float32([1.3, -2.6, 7.5, 0.1, 3, -0.2, 100])
    for view in (line[::-1], line[::-2], line[1::3]):
        assert_same_bits(sq.emulate(view, "mxfp4", block=3), sq.emulate(view.copy(), "mxfp4", block=3))


def test_a_broadcast_input_is_read_as_its_elements(isa: str) -> None:
    line = np.float32([1.3, -2.6, 7.5, 0.1])
    for view in (np.broadcast_to(line, (3, 4)), np.broadcast_to(line[:, None], (4, 5))):
        wanted = sq.emulate(view.copy(), "mxfp4", axis=0, block=2)
        assert_same_bits(sq.emulate(view, "mxfp4", axis=0, block=2), wanted)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_the_byte_order_of_the_input_changes_no_value(dtype: str) -> None:
    x = np.array([1.25, -2.75, 7.5, 0.1])
    native = x.astype(dtype[1:])
    assert_same_bits(sq.emulate(native.astype(dtype), "mxfp4"), sq.emulate(native, "mxfp4"))


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_the_byte_order_of_the_output_is_written_or_refused(dtype: str) -> None:
    x = np.array([1.25, -2.75, 7.5, 0.1], dtype=dtype[1:])
    out = np.zeros(4, dtype)
    try:
        sq.emulate(x, "mxfp4", out=out)
    except TypeError:
        assert not out.any()
    else:
        assert np.array_equal(out.astype(x.dtype), sq.emulate(x, "mxfp4"))


def test_an_unaligned_input_and_output_are_fine() -> None:
    x = np.arange(9, dtype=np.float32)
    storage = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = storage[1:].view(np.float32)
    unaligned[:] = x
    assert_same_bits(sq.emulate(unaligned, "mxfp4"), sq.emulate(x, "mxfp4"))
    sq.emulate(x, "mxfp4", out=unaligned)
    assert_same_bits(unaligned, sq.emulate(x, "mxfp4"))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
@pytest.mark.parametrize("format", ["mxfp4", "int8", "fp8_e4m3", "bf16"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_empty_tensor_gives_an_empty_tensor(shape: tuple[int, ...], format: str, dtype: str, isa: str) -> None:
    events = sq.Events()
    x = np.zeros(shape, dtype)
    for axis in range(len(shape)):
        got = sq.emulate(x, format, axis=axis, sparsity="2:4", events=events)
        assert (got.shape, got.dtype) == (x.shape, x.dtype)
        encoded = sq.encode(x, format, axis=axis)
        assert encoded.codes.shape == shape and encoded.decode().shape == shape
    assert (events.saturated, events.underflowed, events.nonfinite, events.ties) == (0, 0, 0, 0)


@pytest.mark.parametrize("format", ["mxfp4", "int8", "fp8_e4m3", "bf16"])
def test_a_tensor_without_axes_is_a_block_of_one(format: str, isa: str) -> None:
    for value in (3.3, -0.0, 1e-40):
        x = np.array(value, np.float32)
        wanted = sq.emulate(x.reshape(1), format)
        got = sq.emulate(x, format)
        assert got.shape == () and isinstance(got, np.ndarray)
        assert_same_bits(got.reshape(1), wanted)
        out = np.zeros((), np.float32)
        assert sq.emulate(x, format, out=out) is out
        assert_same_bits(out.reshape(1), wanted)


@pytest.mark.parametrize("format", ["mxfp4", "int8", "fp8_e4m3", "bf16"])
def test_an_encoded_tensor_without_axes_has_none(format: str) -> None:
    for x in (np.array(3.3, np.float32), torch.tensor(3.3)):
        encoded = sq.encode(x, format)
        assert encoded.shape == ()
        decoded = encoded.decode()
        assert decoded.shape == ()
        assert_same_bits(decoded, sq.emulate(x, format))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_results_written_to_out_are_those_returned(carrier: str, isa: str) -> None:
    rng = np.random.default_rng(3)
    x = random_bits(rng, carrier, (5, 6, 33), nonfinite=False)
    for format, axis in (("mxfp4", 2), ("mxfp8", 0), ("int8", 1), ("fp8_e4m3", 2)):
        wanted = sq.emulate(x, format, axis=axis, inexact="round")
        for trial in range(6):
            out = relaid(np.zeros_like(x), np.random.default_rng(trial))
            view = relaid(x, np.random.default_rng(trial + 50))
            assert sq.emulate(view, format, axis=axis, inexact="round", out=out) is out
            assert_same_bits(out, wanted, (format, axis, out.strides))


@pytest.mark.parametrize("format", ["mxfp4", "mxint8", "int8", "fp8_e4m3", "fp16", "bf16"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_tensor_can_be_overwritten_with_its_values(format: str, carrier: str, isa: str) -> None:
    rng = np.random.default_rng(4)
    x = random_bits(rng, carrier, (4, 5, 67), nonfinite=False)
    sparse = {"sparsity": "2:4", "order": "quantize_first"}
    for axis in range(3):
        for arguments in ({"inexact": "round"}, {"inexact": "round"} | sparse):
            for trial in range(3):
                mine = relaid(x.copy(), np.random.default_rng(trial))
                wanted = sq.emulate(x, format, axis=axis, **arguments)
                sq.emulate(mine, format, axis=axis, out=mine, **arguments)
                assert_same_bits(mine, wanted)


def test_an_output_that_overlaps_the_input_is_written_as_if_it_did_not() -> None:
    rng = np.random.default_rng(6)
    for shift in (1, 3, 32, 40):
        storage = random_bits(rng, "fp32", (4000,), nonfinite=False)
        wanted = sq.emulate(storage[:-shift].copy(), "mxfp4", inexact="round")
        sq.emulate(storage[:-shift], "mxfp4", out=storage[shift:], inexact="round")
        assert_same_bits(storage[shift:], wanted)
    storage = random_bits(rng, "fp32", (4000,), nonfinite=False)
    wanted = sq.emulate(storage[::-1].copy(), "mxfp4", inexact="round")
    sq.emulate(storage[::-1], "mxfp4", out=storage, inexact="round")
    assert_same_bits(storage, wanted)


def test_writes_stay_inside_the_output(isa: str) -> None:
    for size in (1, 3, 31, 33, 100):
        for format in ("mxfp4", "int8", "bf16", "mxfp6"):
            storage = np.full(size + 64, 77, np.float32)
            sq.emulate(np.linspace(-3, 3, size, dtype=np.float32), format, out=storage[32 : 32 + size])
            assert (storage[:32] == 77).all() and (storage[32 + size :] == 77).all()


def unholy_inputs() -> dict[str, tuple[Array, Any, dict[str, Any]]]:
    """Inputs that end in an error after some elements could have been written."""
    plain = sq.Format("plain", sq.elements()["e2m1"].record, ())
    tiny = sq.ElementFormat(exponent_bits=0, mantissa_bits=3, bias=10)
    level = sq.ScaleLevel(format=sq.elements()["fp32"].record, along=2)
    float_scale = sq.Format("float", tiny, [level], sq.Conversion(scale_rule="amax"))
    one = np.array([127, 127], np.uint8)
    return {
        "NaN without a code": (np.float32([1.3, 2, np.nan, 4]), plain, {}),
        "scale beyond float32": (np.float32([1.3, 2, 3e38, 4]), float_scale, {}),
        "Inf below a given scale": (np.float32([1.3, 2, np.inf, 4]), "mxfp4", {"scales": one, "block": 2}),
        "not exact": (np.float32([1.3, 2, 3.4e38, 4]), "mxfp4", {"block": 2, "scale_rule": "ceil"}),
        "not exact in float16": (np.float16([1.3, 2, 65504, 4]), "mxfp4",
                                 {"block": 2, "scale_rule": "ceil", "inexact": "error"}),
        "given scale too small": (np.float32([1.3, 2, 3, 2**-140]), "mxfp8_e5m2",
                                  {"scales": np.array([127, 0], np.uint8), "block": 2, "inexact": "error"}),
    }  # fmt: skip


@pytest.mark.parametrize("name", unholy_inputs())
@pytest.mark.parametrize("way", ["same", "reversed"])
def test_an_error_leaves_the_input_as_it_was(name: str, way: str, isa: str) -> None:
    x, format, arguments = unholy_inputs()[name]
    before = x.copy()
    try:
        sq.emulate(x if way == "same" else x[::-1], format, out=x, **arguments)
    except ValueError:
        assert_same_bits(x, before)
    else:
        assert name == "given scale too small", "the others are errors"


def test_the_caller_s_arrays_are_neither_frozen_nor_shared() -> None:
    x = np.float32([1, 2, 3, 4])
    mask = np.array([True, True, False, True])
    scales = np.array([127], np.uint8)
    encoded = sq.encode(x, "mxfp4", mask=mask, scales=scales)
    values = encoded.decode()
    assert mask.flags.writeable and scales.flags.writeable and x.flags.writeable
    mask[:], scales[:], x[:] = False, 0, 0
    assert encoded.mask is not None and encoded.mask.tolist() == [True, True, False, True]
    assert encoded.scales is not None and encoded.scales.tolist() == [127]
    assert_same_bits(encoded.decode(), values)


def test_an_encoded_tensor_is_frozen() -> None:
    encoded = sq.encode(np.float32([1, 2, 3, 4]), "mxfp4", sparsity="2:4")
    for array in (encoded.codes, encoded.scales, encoded.mask):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def as_torch(x: Array) -> torch.Tensor:
    """The same bits as a tensor."""
    carrier = next(name for name, (dtype, _) in CARRIERS.items() if x.dtype == dtype)
    return torch.from_numpy(bits_of(x).copy().view(f"i{x.itemsize}")).view(TORCH_DTYPES[carrier])


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("format", ["mxfp8", "mxfp4", "hbfp8", "int8", "fp8_e5m2", "bf16", "fp16"])
def test_torch_tensors_give_the_bytes_of_numpy_arrays(carrier: str, format: str, isa: str) -> None:
    rng = np.random.default_rng(8)
    x = random_bits(rng, carrier, (6, 70), nonfinite=format.startswith("mx"))
    tensor = as_torch(x)
    for axis in (0, 1):
        wanted = sq.encode(x, format, axis=axis, sparsity="3:5")
        got = sq.encode(tensor, format, axis=axis, sparsity="3:5")
        assert got == wanted
        values = sq.emulate(tensor, format, axis=axis, sparsity="3:5", inexact="round")
        assert isinstance(values, torch.Tensor)
        assert (values.dtype, values.shape) == (tensor.dtype, tensor.shape)
        assert_same_bits(values, sq.emulate(x, format, axis=axis, sparsity="3:5", inexact="round"))
        decoded = got.decode(inexact="round")
        assert isinstance(decoded, torch.Tensor) and decoded.dtype == tensor.dtype
        assert_same_bits(decoded, values)
        assert_same_bits(sq.emulate(tensor.T, format, axis=1 - axis, inexact="round").T.contiguous(),
                         sq.emulate(tensor, format, axis=axis, inexact="round"))  # fmt: skip
        out = torch.zeros_like(tensor)
        assert sq.emulate(tensor, format, axis=axis, sparsity="3:5", inexact="round", out=out) is out
        assert_same_bits(out, values)
    pruned, mask = sq.sparsify(tensor, "3:5")
    wanted_values, wanted_mask = sq.sparsify(x, "3:5")
    assert isinstance(mask, torch.Tensor) and mask.dtype == torch.bool
    assert np.array_equal(mask.numpy(), wanted_mask)
    assert_same_bits(pruned, wanted_values)


def test_dtype_may_be_named_by_numpy_torch_or_a_word() -> None:
    x = np.float32([1.3, 2.7])
    for dtype in ("bfloat16", torch.bfloat16):
        assert_same_bits(sq.emulate(x, "mxfp4", dtype=dtype), sq.emulate(x, "mxfp4", dtype="bfloat16"))
    for dtype in (np.float64, "float64", np.dtype("float64"), torch.float64, float):
        assert sq.emulate(x, "mxfp4", dtype=dtype).dtype == np.float64
    tensor = sq.emulate(torch.from_numpy(x), "mxfp4", dtype=torch.bfloat16)
    assert tensor.dtype == torch.bfloat16
    assert sq.emulate(torch.from_numpy(x), "mxfp4", dtype=np.float64).dtype == torch.float64


# The float state of the machine


@pytest.mark.parametrize("carrier", CARRIERS)
def test_flushing_denormals_changes_nothing(carrier: str, isa: str) -> None:
    rng = np.random.default_rng(9)
    element = ELEMENTS[carrier]
    x = random_bits(rng, carrier, (8, 90), nonfinite=False)
    bits = bits_of(x).copy()
    bits[:, ::2] &= (1 << element.mantissa_bits) - 1  # half subnormal, and lines without a normal number
    bits[2:4] &= (1 << element.mantissa_bits) - 1
    x = from_bits(bits, carrier)
    score = random_bits(rng, carrier, (8, 90), nonfinite=False)
    formats = [name for name, _ in LARGE_FORMATS]

    def everything() -> list[tuple[bytes, ...]]:
        calls = [(name, threads) for name in formats for threads in (1, 2)]
        results = [record_bytes(x, name, "float32", sparsity="2:4", threads=n) for name, n in calls]
        values, mask = sq.sparsify(x, "2:4", score=score)
        return [*results, (bits_of(values).tobytes(), mask.tobytes())]

    wanted = everything()
    assert torch.set_flush_denormal(True), "this machine cannot flush"
    try:
        flushing = everything()
        # The state is the caller's: it must still flush afterwards.
        still = (torch.tensor([1e-310], dtype=torch.float64) * 1).item() == 0
    finally:
        torch.set_flush_denormal(False)
    assert flushing == wanted
    assert still, "the float state of the caller was changed"


@pytest.mark.parametrize("rounding_mode", ["down", "up", "zero"])
def test_the_rounding_mode_of_the_machine_changes_nothing(rounding_mode: str, isa: str) -> None:
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("fesetround numbers are those of x86")
    set_mode = ctypes.CDLL(None).fesetround
    mode = {"down": 0x400, "up": 0x800, "zero": 0xC00}[rounding_mode]
    rng = np.random.default_rng(10)
    arrays = [random_bits(rng, carrier, (4, 90), nonfinite=False) for carrier in CARRIERS]

    def everything() -> list[tuple[bytes, ...]]:
        calls = [(x, name, choices) for x in arrays for name, choices in LARGE_FORMATS]
        return [record_bytes(x, name, "float32", **choices) for x, name, choices in calls]

    wanted = everything()
    assert set_mode(mode) == 0
    try:
        changed = everything()
    finally:
        set_mode(0)
    assert changed == wanted


@pytest.mark.parametrize("rounding", ["up", "to_odd", "nearest_even"])
def test_a_smallest_number_beyond_the_result_leaves_an_input_in_place_alone(rounding: str) -> None:
    huge = sq.ElementFormat(exponent_bits=4, mantissa_bits=3, bias=-256, specials="ieee")
    scale = sq.ElementFormat(exponent_bits=5, bias=-130, signedness="unsigned", zero=False)
    scaled = [sq.ScaleLevel(format=scale, along=4)]
    e2m1 = sq.elements()["e2m1"].record
    wide = sq.ScaleLevel(format=sq.ElementFormat(exponent_bits=9, bias=200, signedness="unsigned", zero=False), along=4)
    least = sq.Format("least", e2m1, [wide], sq.Conversion(scale_minimum=400))
    short = sq.Format("short", huge, [sq.ScaleLevel(format=sq.elements()["ue4m3"].record, along=4)],
                      sq.Conversion(scale_rule="amax", scale_minimum=0x78))  # fmt: skip
    for format_ in (sq.Format("huge", huge), sq.Format("scaled", e2m1, scaled), least, short):
        x = np.float32([1, 2, -3, 4])
        try:
            got = sq.emulate(x, format_, rounding=rounding, out=x, inexact="error")
        except ValueError:
            assert x.tolist() == [1, 2, -3, 4]
        else:
            assert not got.any()
