"""The bits of a block as a person who debugs RTL reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim.arrays import widened
from sparq_sim.formats import code_text
from sparq_sim.scales import scale_values
from sparq_sim.tensor import BlockTensor


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
    """The scale of a level above a block."""

    level: int
    bits: str
    """As hex: a code, or a float32."""
    value: float


@dataclass(frozen=True)
class BlockBits:
    """A block of the main level: its scales, outermost first, and its elements."""

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
    """The block of the line through `index` (the first one by default) that holds the element there. Inside it are
    scales of every level, each that of the block's first element.

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
    codes, values = tensor.codes.reshape(shape), np.asarray(_numbers(tensor)).reshape(shape)
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
                float(values[place]),
            )
        )  # fmt: skip
    return BlockBits(_scales_above(tensor, places[0]), tuple(made))


def _numbers(tensor: BlockTensor) -> Any:
    values = tensor.decode("float64", inexact="round")
    return values if isinstance(values, np.ndarray) else values.numpy()


def _scales_above(tensor: BlockTensor, place: tuple[int, ...]) -> tuple[ScaleBits, ...]:
    from sparq_sim.scales import neighbour_axis

    found = []
    shape, axis = tensor.shape or (1,), tensor.axis
    neighbour = neighbour_axis(axis, len(shape))
    for number, (level, plane) in enumerate(zip(tensor.format.levels, tensor.scale_planes, strict=True)):
        at = list(place)
        at[axis] //= level.block_length(shape[axis])
        if neighbour is not None and level.across > 1:
            at[neighbour] //= level.across
        if level.across == 0:
            at = [0] * len(shape)
        one = plane.reshape(plane.shape or (1,))[tuple(at)].reshape(1)
        if one.dtype == np.float32:
            found.append(ScaleBits(number, f"0x{int(one.view(np.uint32)[0]):08X}", float(widened(one)[0])))
            continue
        code, record = int(one[0]), level.format
        value = record.value(code) if record.is_power_of_two_scale or level.combine == "subtract" else 0.0
        if level.combine != "subtract" and not record.is_power_of_two_scale:
            value = float(widened(scale_values(level, one))[0])
        found.append(ScaleBits(number, f"0x{code:0{(record.code_bits + 3) // 4}X}", value))
    return tuple(found)
