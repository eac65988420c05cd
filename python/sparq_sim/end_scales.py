"""Float scales that multiply a machine's result, apart from the machine: for sums that are not done when it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparq_sim._core import Datapath
from sparq_sim.arrays import Array, as_float32_exactly
from sparq_sim.operands import Operand
from sparq_sim.steps import NOTHING, fused_step

#: Where operands are decoded with all their scales, so that none is left for the end (docs/numerics.md section 10).
_DECODED = ("exact", "fma", "tree")
#: Where scales of rows multiply the result; elsewhere each segment's sum.
_ROWS_LAST = ("align", "integer")


def without_end_scales(operand: Operand, path: Datapath) -> tuple[Operand, Array | None]:
    """The operand without what multiplies the result, and that: [rows, 1] float32, or None."""
    rows_last = path.reduce in _ROWS_LAST and operand.float_scales is not None
    tensor_last = path.reduce not in _DECODED and operand.tensor_scale is not None
    if not rows_last and not tensor_last:
        return operand, None
    factors = np.ones((operand.rows, 1), np.float32)
    if rows_last and operand.float_scales is not None:
        if operand.float_scales.shape[1] != 1:
            raise ValueError("float scales that vary along K: this datapath takes one per row or tensor")
        factors = operand.float_scales.copy()
        operand = replace(operand, float_scales=None, segment_end=())
    if tensor_last:
        scale = as_float32_exactly(np.full((1, 1), operand.tensor_scale, np.float64))
        assert scale is not None
        fused_step(factors, scale, NOTHING, factors, nan_bits=path.nan_bits)
        operand = replace(operand, tensor_scale=None)
    return operand, factors


def times_end_scales(
    sums: Array, left: Array | None, right: Array | None, path: Datapath, groups: int, threads: int | None
) -> Array:
    """RN32(sum · RN32(sA · sB)), in place; an absent scale is 1, and with none there is no multiplication."""
    if left is None and right is None:
        return sums
    m, n = sums.shape[0], sums.shape[1] // max(1, groups)
    for group in range(groups):
        x = np.ones((m, 1), np.float32) if left is None else left[group * m : (group + 1) * m]
        y = np.ones((n, 1), np.float32) if right is None else right[group * n : (group + 1) * n]
        own = np.empty((m, n), np.float32)
        fused_step(x, np.ascontiguousarray(y.T), NOTHING, own, nan_bits=path.nan_bits, threads=threads)
        part = np.ascontiguousarray(sums[:, group * n : (group + 1) * n])
        sums[:, group * n : (group + 1) * n] = fused_step(
            part, own, NOTHING, part, nan_bits=path.nan_bits, threads=threads
        )
    return sums
