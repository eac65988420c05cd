"""The bits of a block as a person who debugs RTL reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparq_sim._core import ScaleLevel
from sparq_sim.arrays import Array, widened
from sparq_sim.formats import code_text
from sparq_sim.scales import neighbour_axis, scale_values
from sparq_sim.tensor import BlockTensor, stored_scales


@dataclass(frozen=True)
class ElementBits:
    """An element of a block."""

    index: tuple[int, ...]
    kept: bool
    position: int | None
    """Of its unit in its group, where it is kept; None in a dense tensor."""
    code: int
    fields: str
    """Sign, exponent and mantissa."""
    element: float
    """What the code alone stands for."""
    value: float
    """What it decodes to."""


@dataclass(frozen=True)
class ScaleBits:
    """A scale of a block, or of some of its elements."""

    level: int
    """0 is the outermost."""
    first: int
    """Of the elements of the block that it is of, counted from the block's first."""
    count: int
    combine: str
    """What it does to them: ``multiply``, ``divide``, ``subtract`` (a zero point), …; see `ScaleLevel`."""
    bits: str
    """As hex: a code, or a float32."""
    value: float


@dataclass(frozen=True)
class BlockBits:
    """A block of the main level: the scales of each level, outermost first, and its elements."""

    scales: tuple[ScaleBits, ...]
    elements: tuple[ElementBits, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it by name; numbers that JSON does not have as text."""
        return {
            "scales": [{**vars(scale), "value": _json_number(scale.value)} for scale in self.scales],
            "elements": [
                {
                    **vars(one), "index": list(one.index), "element": _json_number(one.element),
                    "value": _json_number(one.value),
                }
                for one in self.elements
            ],
        }  # fmt: skip


def _json_number(value: float) -> float | str:
    return value if np.isfinite(value) else str(value)


def inspect_block(tensor: BlockTensor, index: tuple[int, ...] = ()) -> BlockBits:
    """The block of the line through `index` (the first one by default) that holds the element there, with all scales
    above its elements.

    Raises:
        ValueError: an index that is none.

    >>> import numpy as np, sparq_sim as sq
    >>> block = sq.inspect_block(sq.encode(np.float32([6, -1.5]), "mxfp4"))
    >>> [(one.code, one.fields, one.value) for one in block.elements]
    [(7, '0 11 1', 6.0), (11, '1 01 1', -1.5)]
    """
    shape, axis, format_ = tensor.shape or (1,), tensor.axis, tensor.format
    at = index or (0,) * len(shape)
    if len(at) != len(shape) or not all(0 <= i < n for i, n in zip(at, shape, strict=True)):
        raise ValueError(f"index {at}: needed one of a tensor of shape {shape}")
    length = shape[axis]
    block = min(length, 64) if format_.main is None else format_.main.block_length(length)
    start = at[axis] // block * block
    places = [(*at[:axis], k, *at[axis + 1 :]) for k in range(start, min(start + block, length))]
    codes, values = tensor.codes.reshape(shape), _line_values(tensor, shape, at)
    pattern, mask = tensor.spec.sparsity, None if tensor.mask is None else tensor.mask.reshape(shape)
    made = []
    for place in places:
        kept = mask is None or bool(mask[place])
        position = None
        if pattern is not None and kept:
            position = place[axis] % pattern.group // pattern.unit
        code = int(codes[place])
        made.append(
            ElementBits(
                place, kept, position, code, code_text(format_.element, code), format_.element.value(code),
                float(values[place[axis]]),
            )
        )  # fmt: skip
    return BlockBits(_scales_above(tensor, places), tuple(made))


def _line_scales(tensor: BlockTensor, at: tuple[int, ...]) -> list[Array]:
    """The scales of each level above the line through a place, [its blocks]."""
    shape, axis = tensor.shape or (1,), tensor.axis
    neighbour = neighbour_axis(axis, len(shape))
    lines = []
    for level, plane in zip(tensor.format.levels, tensor.scale_planes, strict=True):
        where: list[Any] = [0 if level.across == 0 else i for i in at]
        if neighbour is not None and level.across > 1:
            where[neighbour] //= level.across
        where[axis] = slice(None)
        lines.append(np.ascontiguousarray(plane.reshape(plane.shape or (1,))[tuple(where)]))
    return lines


def _line_values(tensor: BlockTensor, shape: tuple[int, ...], at: tuple[int, ...]) -> Array:
    """What the elements of the line through a place decode to, float64."""
    where: list[Any] = list(at)
    where[tensor.axis] = slice(None)
    codes = np.ascontiguousarray(tensor.codes.reshape(shape)[tuple(where)])
    mask = None if tensor.mask is None else np.ascontiguousarray(tensor.mask.reshape(shape)[tuple(where)])
    alone = replace(tensor.spec, axis=0)
    line = BlockTensor(codes, stored_scales(_line_scales(tensor, at)), mask, alone, "float64", "numpy")
    values: Array = line.decode(inexact="round")
    return values


def _scales_above(tensor: BlockTensor, places: list[tuple[int, ...]]) -> tuple[ScaleBits, ...]:
    found, axis = [], tensor.axis
    length = (tensor.shape or (1,))[axis]
    line = _line_scales(tensor, places[0])
    start = places[0][axis]
    for number, (level, plane) in enumerate(zip(tensor.format.levels, line, strict=True)):
        each = length if level.across == 0 else level.block_length(length)
        for block in range(start // each, (places[-1][axis]) // each + 1):
            one = plane[block : block + 1]
            first, end = (max(start, block * each), min(places[-1][axis] + 1, (block + 1) * each))
            bits, value = _scale_text(level, one)
            found.append(ScaleBits(number, first - start, end - first, level.combine, bits, value))
    return tuple(found)


def _scale_text(level: ScaleLevel, one: Array) -> tuple[str, float]:
    """A scale as hex, and its value."""
    if one.dtype == np.float32:
        return f"0x{int(one.view(np.uint32)[0]):08X}", float(widened(one)[0])
    code, record = int(one[0]), level.format
    text = f"0x{code:0{(record.code_bits + 3) // 4}X}"
    if level.combine == "subtract" or record.is_power_of_two_scale:
        return text, record.value(code)
    return text, float(widened(scale_values(level, one))[0])
