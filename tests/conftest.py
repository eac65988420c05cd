"""What the tests of the library share: every ISA as a fixture, and the oracle's words in the library's.

Nothing here computes a number; values are compared as bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import oracle
import sparq_sim as sq

Array = npt.NDArray[Any]

ISAS = tuple(sq.available_isas())

#: The types of a tensor: the oracle's name, the dtype in NumPy, the unsigned integer of its bits.
CARRIERS: dict[str, tuple[Any, Any]] = {
    "fp16": (np.float16, np.uint16),
    "bf16": (ml_dtypes.bfloat16, np.uint16),
    "fp32": (np.float32, np.uint32),
    "fp64": (np.float64, np.uint64),
}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once per implementation, forced by SPARQ_ISA."""
    name = str(request.param)
    monkeypatch.setenv("SPARQ_ISA", name)
    return name


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    """Forces an implementation for a few lines, where a test compares several of them."""
    before = os.environ.get("SPARQ_ISA")
    os.environ["SPARQ_ISA"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["SPARQ_ISA"]
        else:
            os.environ["SPARQ_ISA"] = before


def bits_of(values: Any) -> Array:
    """The bits of a float array or tensor as unsigned integers, C-contiguous."""
    if not isinstance(values, np.ndarray):
        import torch

        if values.dtype == torch.bfloat16:
            values = values.view(torch.uint16)
        values = values.numpy()
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").reshape(values.shape)


def from_bits(patterns: Any, carrier: str) -> Array:
    """Bit patterns as an array of one of `CARRIERS`."""
    dtype, unsigned = CARRIERS[carrier]
    with np.errstate(invalid="ignore"):  # NumPy may report flags that earlier signalling NaNs left
        return np.array(patterns, dtype=unsigned).view(dtype)


def carrier_of(values: Array) -> str:
    """The oracle's name of the dtype of an array."""
    return next(name for name, (dtype, _) in CARRIERS.items() if values.dtype == dtype)


def element_record(element: oracle.Element) -> sq.ElementFormat:
    """An element of the oracle as the library writes it."""
    signedness = {"signed": "sign_magnitude"}.get(element.signedness, element.signedness)
    return sq.ElementFormat(
        exponent_bits=element.exponent_bits,
        mantissa_bits=element.mantissa_bits,
        bias=element.bias,
        specials=element.specials,
        signedness=signedness,
        zero=element.zero,
        taper=element.taper,
    )


Block = int | str | tuple[int, int] | None


def user_format(fmt: oracle.BlockFormat, block: Block = None, **choices: Any) -> sq.Format:
    """A block format of the oracle as a record of the library."""
    block = fmt.block if block is None else block
    levels = []
    if fmt.outer is not None:
        across = {"row": 1, "tensor": 0}[fmt.outer]
        outer = element_record(oracle.FP32)
        levels.append(sq.ScaleLevel(format=outer, along=0, across=across, combine=fmt.outer_combine))
    if fmt.scale is not None:
        across, along = block if isinstance(block, tuple) else (1, block)
        along, across = {"row": (0, 1), "tensor": (0, 0)}.get(str(block), (along, across))
        levels.append(sq.ScaleLevel(format=element_record(fmt.scale), along=along, across=across))
    if fmt.zero_point:
        bits = fmt.element.mantissa_bits
        integer = sq.ElementFormat(mantissa_bits=bits, bias=1 - bits, signedness="twos_complement")
        levels.append(
            sq.ScaleLevel(format=integer, along=levels[-1].along, across=levels[-1].across, combine="subtract")
        )
    for level in fmt.micro:
        # Codes are exponents from 0 on, which divide or multiply.
        record = sq.ElementFormat(
            exponent_bits=(len(level.codes) - 1).bit_length(), bias=0, signedness="unsigned", zero=False
        )
        combine = "divide" if min(level.codes) < 0 else "multiply"
        levels.append(sq.ScaleLevel(format=record, along=level.block, combine=combine))
    rule = "amax" if fmt.has_float_scale and fmt.scale_rule == "floor" else fmt.scale_rule
    words = {"overflow": fmt.overflow, "scale_rule": rule}
    return sq.Format(
        "user", element_record(fmt.element), levels, sq.Conversion(**{**words, **own_choices(fmt), **choices})
    )


def own_choices(fmt: oracle.BlockFormat) -> dict[str, Any]:
    """What a format of the oracle chooses besides its scale rule and overflow, in the library's words."""
    plain = oracle.Choices()
    chosen = {
        field.name: float(value) if isinstance(value := getattr(fmt.how, field.name), Fraction) else value
        for field in fields(oracle.Choices)
        if getattr(fmt.how, field.name) != getattr(plain, field.name)
    }
    return {"rounding": fmt.rounding, **chosen}


def plain_format(element: oracle.Element, **choices: str) -> sq.Format:
    """An element without any scale."""
    return sq.Format("plain", element_record(element), (), sq.Conversion(**choices))


def codes_tensor(codes: Array, format: sq.Format, scales: Array | None = None) -> sq.BlockTensor:
    """Codes that nobody encoded, to be decoded."""
    width = 8 * format.element.code_bytes
    return sq.BlockTensor(codes.astype(f"uint{width}"), scales, None, sq.Spec(format), "float32", "numpy")


def assert_same_bits(got: Any, wanted: Any, what: object = "") -> None:
    """Equal shapes, dtypes and bits; shows the first places that differ."""
    a, b = bits_of(got), bits_of(wanted)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), what
    if a.tobytes() != b.tobytes():
        places = np.argwhere(a != b)
        shown = [(tuple(p.tolist()), hex(a[tuple(p)]), hex(b[tuple(p)])) for p in places[:5]]
        raise AssertionError(f"{what}: {len(places)} of {a.size} differ, as (place, got, wanted): {shown}")


@dataclass(frozen=True)
class Expected:
    """What the oracle makes of an array, in the array's own shape."""

    codes: Array
    scales: Array | None
    """Codes (bits of float32 for float scales), shaped as the library shapes scales."""
    values: Array
    """Bits of the result dtype."""
    mask: Array
    events: dict[str, int]
    planes: tuple[Array, ...]
    """The scales of all levels, outermost first, shaped like `scales`."""


def oracle_quantize(
    x: Array,
    fmt: oracle.BlockFormat,
    *,
    axis: int = -1,
    mask: Array | None = None,
    scales: Array | None = None,
    zeros: Array | None = None,
    block: Block = None,
    random: Array | None = None,
    **arguments: Any,
) -> Expected:
    """`oracle.quantize_tensor` for an array of any shape without empty axes."""
    bits = bits_of(x)
    shape = bits.shape
    bits = bits.reshape(1) if bits.ndim == 0 else bits
    axis = axis % bits.ndim
    block = fmt.block if block is None else block
    # Blocks that span lines span the axis before the reduction axis, or the one after the first.
    neighbour = axis - 1 if axis > 0 else 1
    along = [i for i in range(bits.ndim) if i not in (axis, neighbour)] + [neighbour] * (bits.ndim > 1) + [axis]
    moved = bits.transpose(along)

    def lines(array: Array) -> list[list[Any]]:
        """Lines along the axis, neighbours together."""
        turned = (array.reshape(1) if array.ndim == 0 else array).transpose(along)
        rows: list[list[Any]] = turned.reshape(-1, turned.shape[-1]).tolist()
        return rows

    rows = moved.shape[-2] if moved.ndim > 1 else 1
    got = oracle.quantize_tensor(
        lines(bits),
        carrier_of(x),
        fmt,
        block=block,
        rows=rows,
        mask=None if mask is None else lines(mask),
        scales=None if scales is None else lines(scales),
        zeros=None if zeros is None else lines(zeros),
        random=None if random is None else lines(random),
        **arguments,
    )

    def back(made: list[list[Any]], dtype: Any, per_tile: int = 1) -> Array:
        """Lines (or rows of tiles) as an array in the shape of x."""
        shape_ = list(moved.shape[:-1])
        if per_tile > 1 and moved.ndim > 1:
            shape_[-1] = -(-rows // per_tile)
        array = np.array(made, dtype=dtype).reshape(*shape_, -1)
        return array.transpose(np.argsort(along))

    def plane(made: list[list[int]], of: Block) -> Array:
        """Scales in the shape that the library gives them."""
        if of == "tensor":
            return np.array(made, dtype=np.uint64).reshape((1,) * bits.ndim)
        return back(made, np.uint64, of[0] if isinstance(of, tuple) else 1)

    planes = [] if fmt.outer is None else [plane(got.outer, fmt.outer)]
    planes += [] if fmt.scale is None else [plane(got.scales, block)]
    planes += [plane(made, level.block) for made, level in zip(got.micro, fmt.micro, strict=True)]
    planes += [plane(got.zeros, block)] if fmt.zero_point else []
    return Expected(
        codes=back(got.codes, np.uint64).reshape(shape),
        scales=None if fmt.scale is None else planes[fmt.outer is not None],
        values=back(got.values, np.uint64).reshape(shape),
        mask=back(got.mask, bool).reshape(shape),
        events=asdict(got.events),
        planes=tuple(planes),
    )


def scale_bits(tensor: sq.BlockTensor) -> Array | None:
    """The scales of a tensor of one level as integers."""
    planes = plane_bits(tensor)
    return planes[0] if planes else None


def plane_bits(tensor: sq.BlockTensor) -> list[Array]:
    """The scales of all levels as integers, outermost first."""
    return [plane.view(np.uint32) if plane.dtype == np.float32 else plane for plane in tensor.scale_planes]


def assert_same_integers(got: Array | None, wanted: Array | None, what: str) -> None:
    """Equal shapes and numbers, whatever the widths."""
    if got is None or wanted is None:
        assert got is None and wanted is None, what
        return
    assert got.shape == wanted.shape, what
    a, b = got.astype(np.uint64), wanted.astype(np.uint64)
    if not np.array_equal(a, b):
        places = np.argwhere(a != b)
        shown = [(tuple(p.tolist()), hex(a[tuple(p)]), hex(b[tuple(p)])) for p in places[:5]]
        raise AssertionError(f"{what}: {len(places)} of {a.size} differ, as (place, got, wanted): {shown}")
