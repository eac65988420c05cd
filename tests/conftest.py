"""What the tests of the library share: every ISA as a fixture, and the oracle's words in the library's.

Nothing here computes a number; values are compared as bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    )


def user_format(fmt: oracle.BlockFormat, block: int | str | None = None, **choices: str) -> sq.Format:
    """A block format of the oracle as a record of the library."""
    block = fmt.block if block is None else block
    levels = []
    if fmt.scale is not None:
        along, across = {"row": (0, 1), "tensor": (0, 0)}.get(str(block), (block, 1))
        levels.append(sq.ScaleLevel(format=element_record(fmt.scale), along=along, across=across))
    words = {"overflow": fmt.overflow, "scale_rule": "amax" if fmt.has_float_scale else fmt.scale_rule}
    return sq.Format("user", element_record(fmt.element), levels, sq.Conversion(**{**words, **choices}))


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


def oracle_quantize(
    x: Array,
    fmt: oracle.BlockFormat,
    *,
    axis: int = -1,
    mask: Array | None = None,
    scales: Array | None = None,
    block: int | str | None = None,
    random: Array | None = None,
    **arguments: Any,
) -> Expected:
    """`oracle.quantize_tensor` for an array of any shape without empty axes."""
    bits = bits_of(x)
    shape = bits.shape
    bits = bits.reshape(1) if bits.ndim == 0 else bits
    moved = np.moveaxis(bits, axis, -1)
    block = fmt.block if block is None else block

    def lines(array: Array) -> list[list[Any]]:
        """Lines along the axis, in the order of the other axes."""
        along = np.moveaxis(array.reshape(1) if array.ndim == 0 else array, axis, -1)
        rows: list[list[Any]] = along.reshape(-1, along.shape[-1]).tolist()
        return rows

    got = oracle.quantize_tensor(
        lines(bits),
        carrier_of(x),
        fmt,
        block=block,
        mask=None if mask is None else lines(mask),
        scales=None if scales is None else lines(scales),
        random=None if random is None else lines(random),
        **arguments,
    )

    def back(rows: list[list[Any]], dtype: Any) -> Array:
        """Lines as an array in the shape of x."""
        array = np.array(rows, dtype=dtype).reshape(*moved.shape[:-1], -1)
        return np.moveaxis(array, -1, axis)

    if fmt.scale is None:
        made_scales = None
    elif block == "tensor":
        made_scales = np.array(got.scales, dtype=np.uint64).reshape((1,) * bits.ndim)
    else:
        made_scales = back(got.scales, np.uint64)
    return Expected(
        codes=back(got.codes, np.uint64).reshape(shape),
        scales=made_scales,
        values=back(got.values, np.uint64).reshape(shape),
        mask=back(got.mask, bool).reshape(shape),
        events=asdict(got.events),
    )


def scale_bits(tensor: sq.BlockTensor) -> Array | None:
    """The scales of a tensor as integers."""
    if tensor.scales is None:
        return None
    return tensor.scales.view(np.uint32) if tensor.scales.dtype == np.float32 else tensor.scales


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
