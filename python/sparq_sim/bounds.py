"""Proven error bounds of datapaths and of float32 summation in any order (docs/numerics.md section 11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array

U = 2.0**-24
"""Unit roundoff of float32."""
ETA = 2.0**-150
"""Half the smallest positive float32."""


def gamma(n: int) -> float:
    """n u / (1 - n u): the relative error of n roundings (Higham, Accuracy and Stability, 2002, 3.1)."""
    return n * U / (1 - n * U) if n * U < 1 else float("inf")


@dataclass(frozen=True)
class Problem:
    """What is known of a set of dot products."""

    total: Array
    """Upper bounds on the sum of |a b| (+ |c|) of each dot, float64."""
    k: int
    segments: int
    a: ElementFormat
    b: ElementFormat
    a_max: float
    """Largest decoded magnitude of each operand."""
    b_max: float
    float_scaled: bool
    """Float scales per row, block or tensor take part."""
    a_scale: float = 1.0
    """Largest scale of each operand (float scales only)."""
    b_scale: float = 1.0


def _element_max(element: ElementFormat) -> float:
    return float(2.0 ** (element.emax + 1))


def _decode_underflow(p: Problem) -> float:
    """What decoding, and the product of two scales, can lose below the normal range: an ETA for each."""
    elements = p.k * _element_max(p.a) * _element_max(p.b)
    return ETA * (1 + gamma(8)) * (p.k * (p.a_max + p.b_max) + elements + p.segments)


def datapath_bound(path: Datapath, p: Problem) -> Array:
    """A bound on |machine - exact| of each dot, exact being the sum over decoded values; holds while nothing overflows.

    Args:
        path: the machine.
        p: the problem.

    Returns:
        float64 shaped like ``p.total``.
    """
    scaled = _decode_underflow(p) if p.float_scaled else 0.0
    if path.reduce == "exact":
        return U * p.total + ETA
    if path.reduce == "fma":
        return gamma(p.k) * p.total + p.k * ETA
    if path.reduce == "blocks":
        return gamma(p.segments + (8 if p.float_scaled else 0)) * p.total + p.segments * ETA + scaled
    return _align_bound(path, p) + (gamma(10) * p.total + scaled if p.float_scaled else 0.0)


def _align_bound(path: Datapath, p: Problem) -> Array:
    groups = -(-p.k // path.group)
    # 2^E is at most the largest product of operand binades (subnormals count as the smallest normal) or |acc| <= total.
    a_top = max(p.a_max, 2.0**p.a.emin * p.a_scale)
    b_top = max(p.b_max, 2.0**p.b.emin * p.b_scale)
    top = np.maximum(p.total, max(a_top * b_top, 2.0**-126 * p.a_scale * p.b_scale))
    cut = 2.0**-path.fraction_bits
    step = (path.group + 1) * cut * top + 2.0**-path.accumulator_fraction * p.total
    bound: Array = groups * (step + 2.0 ** (-126 - path.accumulator_fraction) * p.a_scale * p.b_scale) * (1 + gamma(10))
    return bound


def any_order_bound(total: Array, bias: Array | float, k: int) -> Array:
    """A bound on |float32 - exact| for products and sums of float32 in any order, fused or not, with a bias added."""
    return gamma(k + 2) * (total + np.abs(bias)) + (2 * k + 2) * ETA
