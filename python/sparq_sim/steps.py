"""Elementwise steps around a product: one fused multiply-add, and a rounding where a narrower type is asked for."""

from __future__ import annotations

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import Array, thread_argument
from sparq_sim.quantize import emulate

#: Types that steps may be rounded to.
PRECISIONS = ("fp32", "bf16", "fp16")
#: What is added where nothing is: (-0) + (-0) is -0, and any x + (-0) is x.
NOTHING = np.full((1, 1), -0.0, np.float32)
ONE = np.ones((1, 1), np.float32)


def checked_precision(word: str) -> str:
    """The word; ValueError if it is none."""
    if word not in PRECISIONS:
        raise ValueError(f"precision={word!r}: choose one of {', '.join(PRECISIONS)}")
    return word


def rounded_to(values: Array, precision: str) -> Array:
    """float32 numbers rounded to a precision, in place."""
    return values if precision == "fp32" else emulate(values, precision, inexact="round", out=values)


def fused_step(
    x: Array, y: Array, z: Array, to: Array, *, nan_bits: int, precision: str = "fp32", threads: int | None = None
) -> Array:
    """to = x · y + z, one rounding to float32, and one to the precision if that is another. x, y and z are contiguous
    float32 [m or 1, n or 1], `to` is [m, n] and may be any of them. NaN has those bits."""
    _core.fused_multiply_add(x=x, y=y, z=z, d=to, nan_bits=nan_bits, threads=thread_argument(threads))
    if precision != "fp32":
        rounded_to(to, precision)
        to.view(np.uint32)[np.isnan(to)] = nan_bits
    return to
