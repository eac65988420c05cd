"""Scales of a tensor, level by level: their shapes, what a caller gives, and what a product needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparq_sim._core import ElementFormat, ScaleLevel
from sparq_sim.arrays import (
    Array,
    Source,
    as_float32_exactly,
    dtype_name,
    normal_axis,
    positive_finite_or_nan,
    to_numpy,
    widened,
)
from sparq_sim.formats import Format

_WHOLE = 0


def neighbour_axis(axis: int, ndim: int) -> int | None:
    """The axis that blocks of several lines span besides `axis`: the one before it, or after it where it is the first
    (docs/numerics.md section 6)."""
    if ndim < 2:
        return None
    return axis - 1 if axis > 0 else 1


def spans_lines(format: Format) -> bool:
    """Whether a block holds elements of several lines, but not the whole tensor."""
    return any(level.across > 1 for level in format.levels)


def line_rows(format: Format, shape: tuple[int, ...]) -> int:
    """Neighbouring lines that blocks can span, in the memory order of `lines_together`; 0 where blocks span none."""
    if not spans_lines(format):
        return 0
    return int(shape[-2]) if len(shape) > 1 else 1


def lines_together(data: Source, axis: int) -> Source:
    """The tensor in an order in which the reduction axis is the last and its neighbour the one before."""
    ndim = data.data.ndim
    last = normal_axis(axis, ndim)
    neighbour = neighbour_axis(last, ndim)
    pair = [last] if neighbour is None else [neighbour, last]
    order = tuple(i for i in range(ndim) if i not in pair) + tuple(pair)
    user = data.data.transpose(np.argsort(data.order))
    return replace(data, data=np.ascontiguousarray(user.transpose(order)), order=order)


def scale_shape(level: ScaleLevel, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Of the scales of a level: the shape of the tensor with blocks instead of elements."""
    if level.across == _WHOLE or not shape:
        return (1,) * len(shape)
    extents = list(shape)
    extents[axis] = level.blocks_per_line(shape[axis]) if shape[axis] else 0
    neighbour = neighbour_axis(axis, len(shape))
    if level.across > 1 and neighbour is not None:
        extents[neighbour] = -(-shape[neighbour] // level.across)
    return tuple(extents)


def level_dtype(level: ScaleLevel) -> np.dtype[Any]:
    """Of stored scales: float32, or unsigned codes."""
    return np.dtype(f"uint{8 * level.format.code_bytes}") if level.format.code_bytes < 4 else np.dtype("float32")


def scale_values(level: ScaleLevel, scales: Array) -> Array:
    """Float scales as float32 numbers."""
    if scales.dtype == np.float32:
        return scales
    values = [level.format.value(code) for code in range(1 << level.format.code_bits)]
    return np.array(values, np.float32)[scales]


def given_scales(scales: object, format: Format, data: Source, axis: int) -> list[Array | None]:
    """The caller's ``scales=``, one entry per level (None where it is to be computed), in memory order.

    Raises:
        ValueError, TypeError: what does not fit the format.
    """
    levels = format.levels
    if not levels:
        raise ValueError(f"scales=: {format.name} has no scales")
    if isinstance(scales, (list, tuple)):
        if len(scales) > len(levels):
            raise ValueError(f"scales=: {len(scales)} levels given, {format.name} has {len(levels)}")
        given = list(scales) + [None] * (len(levels) - len(scales))
    elif len(levels) > 1:
        raise ValueError(f"scales=: {format.name} has {len(levels)} levels: give a list, outermost first")
    else:
        given = [scales]
    return [
        None if one is None else _given_level(one, level, format.name, data, axis)
        for one, level in zip(given, levels, strict=True)
    ]


def _given_level(scales: object, level: ScaleLevel, name: str, data: Source, axis: int) -> Array:
    dtype = dtype_name(getattr(scales, "dtype", "float64"))
    if dtype.startswith(("bfloat", "float8")):
        raise TypeError(f"scales: dtype {dtype}; needed integer codes, or values of float32 or float64")
    array = np.asarray(scales) if isinstance(scales, (int, float)) else to_numpy(scales, "scales")
    shape = scale_shape(level, data.shape or (1,), axis)
    what = "scales" if level.combine != "subtract" else "zero points"
    if array.shape != (shape if data.shape else ()) and not (array.size == 1 == int(np.prod(shape))):
        raise ValueError(f"{what}: shape {array.shape}; needed {shape if data.shape else ()}")
    array = data.from_user(array.reshape(shape))
    record = level.format
    if level.combine == "subtract":
        return _zero_point_codes(array, level)
    if record.code_bytes == 4:
        if array.dtype.kind != "f":
            raise TypeError(f"scales: dtype {array.dtype}; {name} takes float values")
        values = as_float32_exactly(array)
        if values is None:
            raise ValueError("scales: values that float32 does not hold")
        if not positive_finite_or_nan(values):
            raise ValueError("scales: needed positive finite numbers (or NaN, which poisons its block)")
        return values
    if array.dtype.kind in "ui":
        # A short float has a code of zero, by which nothing can be scaled, and float16 one of Inf.
        low = int(record.zero)
        top = record.max_code + (1 if record.has_nan and not record.has_infinity else 0)
        sign = 0 if record.signedness == "unsigned" else 1 << (record.code_bits - 1)
        sizes = array.astype(np.int64) & ~sign if array.size else array
        nan = record.nan_code if record.has_infinity else None
        usable = (sizes >= low) & (sizes <= top) | (False if nan is None else array == nan)
        if not bool(usable.all()):
            signed = f", or those with the sign {sign:#x}" if sign else ""
            raise ValueError(f"scales: codes must be {low} to {top}{signed}")
        return np.ascontiguousarray(array, dtype=level_dtype(level))
    if array.dtype.kind != "f":
        raise TypeError(f"scales: dtype {array.dtype}; needed codes (integers) or values (floats)")
    codes, held = _codes_of_values(widened(array), record)
    if not bool((held | np.isnan(array)).all()) or (bool(np.isnan(array).any()) and not record.has_nan):
        kind = "powers of two within its range" if record.is_power_of_two_scale else "its numbers but zero"
        raise ValueError(f"scales: values that the scale format of {name} does not hold ({kind})")
    nan = 0 if record.nan_code is None else record.nan_code
    return np.ascontiguousarray(np.where(np.isnan(array), nan, codes), dtype=level_dtype(level))


def _zero_point_codes(zeros: Array, level: ScaleLevel) -> Array:
    """Zero points as codes: signed integers, or, unsigned, the codes that `BlockTensor.scales` has."""
    if zeros.dtype.kind not in "iu":
        raise TypeError(f"zero points: dtype {zeros.dtype}; needed signed integers, or unsigned codes of them")
    bits = level.format.code_bits
    low, top = (0, (1 << bits) - 1) if zeros.dtype.kind == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if zeros.size and (int(zeros.min()) < low or int(zeros.max()) > top):
        kind = "codes" if zeros.dtype.kind == "u" else "integers"
        raise ValueError(f"zero points: {kind} must be {low} to {top}")
    codes = zeros.astype(np.int64) & ((1 << bits) - 1)
    return np.ascontiguousarray(codes, dtype=level_dtype(level))


def _codes_of_values(values: Array, scale: ElementFormat) -> tuple[Array, Array]:
    """Codes of scales that are numbers, and where there is one."""
    if scale.is_power_of_two_scale:
        fraction, exponent = np.frexp(values)
        codes = exponent.astype(np.int64) - 1 - scale.emin
        return codes, (fraction == 0.5) & (codes >= 0) & (codes <= scale.max_code)
    table = np.array([scale.value(code) for code in range(scale.max_code + 1)])
    signed = scale.signedness != "unsigned"
    sizes = np.abs(values) if signed else values
    codes = np.searchsorted(table, sizes).clip(0, scale.max_code)
    held = (table[codes] == sizes) & (codes >= int(scale.zero))
    return codes + (np.signbit(values) * (1 << (scale.code_bits - 1)) if signed else 0), held


@dataclass(frozen=True)
class LineScales:
    """The scales of a tensor whose reduction axis is the last, as a product takes them: one per segment of a line."""

    block: int
    """Elements of a line under one scale."""
    codes: Array | None = None
    """[..., segments] codes of `record`: powers of two, or short floats where asked for."""
    record: ElementFormat | None = None
    factors: Array | None = None
    """[..., segments] float32."""
    tensor_scale: float | None = None
    """Of the whole tensor, to be applied at the end."""


def line_scales(
    format: Format, scales: tuple[Array, ...], shape: tuple[int, ...], short_codes: bool = False
) -> LineScales | None:
    """The scales of all levels together, for each line; None without scales. `short_codes` leaves short floats as
    codes, where no level lies inside them.

    Raises:
        ValueError: scales of rows above scales of blocks, or zero points, which no product here takes.
    """
    if not format.levels:
        return None
    if format.has_zero_points:
        raise ValueError(
            f"{format.name}: a product takes no zero points; multiply the decoded values, as in "
            "matmul(a.decode(), b.decode())"
        )
    main, length = format.block_format.main_level, shape[-1]
    tensor_scale = None
    for level, plane in zip(format.levels[:main], scales, strict=False):
        if level.across != _WHOLE:
            raise ValueError(f"{format.name}: a product takes no scales of rows above scales of blocks")
        tensor_scale = exact_float(plane)
    block = format.levels[-1].block_length(length)
    own = format.levels[main]
    if format.scale_kind == "float" and own.across == _WHOLE and len(format.levels) == 1:
        return LineScales(block, tensor_scale=exact_float(scale_values(own, scales[main])))
    spread = [_on_lines(level, plane, shape, block) for level, plane in zip(format.levels, scales, strict=True)]
    shift = np.zeros((1,), np.int64)
    for level, plane in zip(format.levels[main + 1 :], spread[main + 1 :], strict=True):
        exponents = plane.astype(np.int64) + level.format.emin
        shift = shift + (-exponents if level.combine == "divide" else exponents)
    if short_codes and format.scale_kind == "float" and own.format.code_bytes == 1 and len(format.levels) == main + 1:
        codes = np.ascontiguousarray(spread[main])
        return LineScales(block, codes=codes, record=own.format, tensor_scale=tensor_scale)
    if format.scale_kind == "float":
        values = scale_values(own, spread[main])
        if tensor_scale is not None and format.levels[0].combine != "multiply":
            largest = own.format.value(own.format.max_code)
            values, tensor_scale = _decode_factors(values, tensor_scale, format.levels[0].combine, largest), None
        if np.isinf(values).any():
            raise ValueError(f"{format.name}: a product takes no infinite scales")
        if len(format.levels) > main + 1:
            lifted = as_float32_exactly(np.ldexp(widened(values), shift))
            if lifted is None:
                raise ValueError(f"{format.name}: scales with their micro-exponents leave float32")
            values = lifted
        return LineScales(block, factors=np.ascontiguousarray(values), tensor_scale=tensor_scale)
    if len(format.levels) == 1:
        return LineScales(block, codes=np.ascontiguousarray(spread[main]), record=own.format)
    return _merged(own.format, spread[main], shift, block)


def _decode_factors(scales: Array, outer: float, combine: str, largest: float) -> Array:
    """What scales, the greatest of which is `largest`, are for decoding below one that encoders multiply by
    (docs/numerics.md section 4). Each step rounds to float32 what float64 holds, which is as good as one rounding."""
    wide = widened(scales).astype(np.float64)
    with np.errstate(all="ignore"):
        if combine == "divide_top":
            made = (wide / (largest * outer)).astype(np.float32)
        elif combine == "divide":
            made = (wide / outer).astype(np.float32)
        else:
            made = (wide * float(np.float32(1 / np.float64(outer)))).astype(np.float32)
        if combine == "reciprocals":
            once = (1 / made.astype(np.float64)).astype(np.float32)
            made = (1 / once.astype(np.float64)).astype(np.float32)
    return made


def _merged(record: ElementFormat, codes: Array, shift: Array, block: int) -> LineScales:
    """Powers of two of a main level and those inside it as codes of one wider format."""
    room = 64  # beyond what micro-exponents can add or take away
    wide = ElementFormat(
        exponent_bits=record.exponent_bits + 1,
        bias=room - record.emin,
        specials="fn",
        signedness="unsigned",
        zero=False,
    )
    sums = codes.astype(np.int64) + shift + room
    if record.has_nan:
        sums[np.broadcast_to(codes == record.nan_code, sums.shape)] = wide.max_code + 1
    return LineScales(block, codes=np.ascontiguousarray(sums, np.dtype(f"uint{8 * wide.code_bytes}")), record=wide)


def _on_lines(level: ScaleLevel, plane: Array, shape: tuple[int, ...], block: int) -> Array:
    """The scales of a level for each line and each innermost block."""
    segments = -(-shape[-1] // block)
    if level.across == _WHOLE:
        return np.broadcast_to(plane, (*shape[:-1], segments))
    if level.across > 1 and len(shape) > 1:
        plane = np.repeat(plane, level.across, axis=-2)[..., : shape[-2], :]
    repeats = level.block_length(shape[-1]) // block if level.along != _WHOLE else segments
    return np.repeat(plane, repeats, axis=-1)[..., :segments]


def exact_float(scale: Array) -> float:
    """The one float32 number of an array as a Python float, whatever the float state does to subnormals."""
    return float(widened(scale.reshape(1))[0])
