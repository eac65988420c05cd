"""Which block of a tensor each element belongs to, and its scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparq_sim._core import ScaleLevel
from sparq_sim.arrays import Array, normal_axis
from sparq_sim.formats import Spec
from sparq_sim.scales import neighbour_axis

_WHOLE = 0


@dataclass(frozen=True)
class Blocks:
    """The blocks of a tensor, numbered."""

    ids: Array
    """The block of each element, shaped like the tensor."""
    count: int

    def of(self, elements: Array) -> Array:
        """Which blocks hold one of the elements of a mask."""
        found: Array = np.bincount(self.ids[elements], minlength=self.count) > 0
        return found

    def places(self, block: int) -> Array:
        """The elements of a block as flat indices of the tensor."""
        return np.flatnonzero(self.ids.reshape(-1) == block)


def _common(extents: Sequence[int]) -> int:
    """Elements that hold whole blocks of every extent; all of them if one does."""
    return _WHOLE if _WHOLE in extents else math.lcm(*extents)


def blocks_of(shape: tuple[int, ...], specs: Sequence[Spec]) -> Blocks:
    """The blocks of the main level, or what holds whole ones of several specs; elements are their own without scales.

    Args:
        shape: of the tensor.
        specs: of one format with one axis.
    """
    mains = [made.format.main for made in specs]
    levels = [level for level in mains if level is not None]
    if not levels:
        return Blocks(np.arange(math.prod(shape)).reshape(shape), math.prod(shape))
    along, across = _common([level.along for level in levels]), _common([level.across for level in levels])
    if across == _WHOLE or not shape:
        return Blocks(np.zeros(shape, np.int64), 1)
    axis = normal_axis(specs[0].axis, len(shape))
    neighbour = neighbour_axis(axis, len(shape))
    ids, count = np.zeros(shape, np.int64), 1
    for i, extent in enumerate(shape):
        step = (along or max(1, extent)) if i == axis else across if i == neighbour else 1
        order = [1] * len(shape)
        order[i] = extent
        parts = -(-extent // step)
        ids = ids * parts + (np.arange(extent) // step).reshape(order)
        count *= parts
    return Blocks(ids, count)


def spread(level: ScaleLevel, plane: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The scale of a level for every element of a tensor.

    Args:
        level: the level.
        plane: its scales, as `BlockTensor.scale_planes` has them.
        shape: of the tensor.
        axis: the reduction axis, not negative.
    """
    if level.across != _WHOLE and shape:
        if level.along != _WHOLE:
            plane = np.take(plane, np.arange(shape[axis]) // level.along, axis=axis)
        neighbour = neighbour_axis(axis, len(shape))
        if level.across > 1 and neighbour is not None:
            plane = np.take(plane, np.arange(shape[neighbour]) // level.across, axis=neighbour)
    return np.broadcast_to(plane, shape)
