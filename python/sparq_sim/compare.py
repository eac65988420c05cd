"""How two float32 arrays differ: where, by how many steps, and how loud the difference is."""

from __future__ import annotations

import numpy as np

from sparq_sim.arrays import Array


def float_bits(x: Array) -> Array:
    """float32 numbers as uint32."""
    return np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)


def ulp_distance(a: Array, b: Array) -> Array:
    """Distance in steps of float32; NaN against NaN is 0, against a number the largest distance."""
    both = [
        np.where(bits >> 31 != 0, -(bits & 0x7FFFFFFF).astype(np.int64), bits.astype(np.int64))
        for bits in (float_bits(a), float_bits(b))
    ]
    distance: Array = np.abs(both[0] - both[1])
    distance[np.isnan(a) & np.isnan(b)] = 0
    return distance


def different(a: Array, b: Array) -> Array:
    """Where values differ: NaN equals NaN, zeros of either sign are equal."""
    x, y = float_bits(a), float_bits(b)  # comparing as floats could flush subnormals
    magnitudes = (x & 0x7FFFFFFF, y & 0x7FFFFFFF)
    zeros = (magnitudes[0] | magnitudes[1]) == 0
    nans = (magnitudes[0] > 0x7F800000) & (magnitudes[1] > 0x7F800000)
    different: Array = (x != y) & ~zeros & ~nans
    return different


def snr_db(signal: Array, noisy: Array) -> float:
    """Signal-to-noise ratio in decibels; infinite when equal."""
    noise = float(np.sum((signal.astype(np.float64) - noisy) ** 2))
    power = float(np.sum(signal.astype(np.float64) ** 2))
    if noise == 0:
        return float("inf")
    return -float("inf") if power == 0 else 10 * float(np.log10(power / noise))


def hex_text(value: float) -> str:
    """The bits of a number as float32, ``0x3F800000``."""
    return f"0x{int(float_bits(np.array([value], np.float32))[0]):08X}"
