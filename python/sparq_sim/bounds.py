"""Proven error bounds of datapaths and of float32 summation in any order (docs/numerics.md section 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array

U = 2.0**-24
"""Unit roundoff of float32."""
ETA = 2.0**-150
"""Half the smallest positive float32."""
# Sums that may grow by this say nothing any more.
_SENSELESS = 2.0**500


def gamma(n: int, u: float = U) -> float:
    """n u / (1 - n u): the relative error of n roundings (Higham, Accuracy and Stability, 2002, 3.1)."""
    return n * u / (1 - n * u) if n * u < 1 else float("inf")


def _rounding(path: Datapath) -> tuple[float, float]:
    """The relative error of a rounding to the accumulator, and what one below its normal range can lose."""
    half = 0.5 if path.accumulator_rounding.startswith("nearest") else 1.0
    least = 2 - 2 ** (path.accumulator_exponent_bits - 1)
    return half * 2.0**-path.accumulator_fraction, half * 2.0 ** (least - path.accumulator_fraction)


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
    a_block_scale: float = 1.0
    """Largest scale of a block of each operand, of any kind."""
    b_block_scale: float = 1.0


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
        u, eta = _rounding(path)
        decoded = ETA * p.k * (p.a_max + p.b_max + ETA)
        return _grown(gamma(p.k, u), p.total, p.k * eta + decoded)
    if path.reduce == "blocks":
        steps = p.segments + (p.k // path.group if path.group else 0)
        u, eta = _rounding(path)
        return _grown(gamma(steps + (8 if p.float_scaled else 0), u), p.total, steps * eta) + scaled
    if path.reduce == "tree":
        return _tree_bound(path, p)
    end = gamma(10) * p.total + scaled if p.float_scaled else 0.0
    return (_integer_bound(path, p) if path.reduce == "integer" else _align_bound(path, p)) + end


def _grown(growth: float, total: Array, lost: float) -> Array:
    """A relative error of sums, and what is lost below the normal range on the way; infinite if it says nothing."""
    if growth == float("inf"):
        return np.full_like(total, np.inf)
    bound: Array = growth * total + lost * (1 + growth)
    return bound


def _tree_bound(path: Datapath, p: Problem) -> Array:
    """Products and sums are rounded, each at most the height of its tree and the steps times; flushing loses what is
    below the smallest normal number."""
    group = path.group or p.k
    steps = -(-p.k // group)
    u, eta = _rounding(path)
    roundings = steps + max(1, group).bit_length() + 3  # decoding both operands, the product, the tree, the chain
    lost = 2.0 ** (2 - 2 ** (path.accumulator_exponent_bits - 1)) if path.flush_results else eta
    # A flushed operand takes its whole product with it.
    inputs = 2.0 ** max(p.a.emin, p.b.emin) * p.k * max(p.a_max, p.b_max) if path.flush_inputs else 0.0
    start = 2.0**-126 if path.flush_inputs else 0.0
    decoded = ETA * p.k * (p.a_max + p.b_max + ETA)
    below = (inputs + start + decoded + 2 * (p.k + steps) * lost) * (1 + gamma(9))
    return _grown(gamma(roundings, u), p.total, below)


def _integer_bound(path: Datapath, p: Problem) -> Array:
    """Sums that do not wrap or saturate are exact; each is rounded into the accumulator and added there."""
    steps = p.segments + (p.k // path.group if path.group else 0)
    u, eta = _rounding(path)
    return _grown(gamma(steps + 1, u), p.total, 2 * (steps + 1) * eta)


def _align_bound(path: Datapath, p: Problem) -> Array:
    # Steps of padding too, which cut the accumulator.
    length = path.instruction or path.group
    groups = -(-p.k // length) * (length // path.group)
    # 2^E is at most the largest product of operand binades (subnormals count as the smallest normal) or |acc| <= total.
    a_top = max(p.a_max, 2.0**p.a.emin * p.a_scale)
    b_top = max(p.b_max, 2.0**p.b.emin * p.b_scale)
    if path.presum > 1:  # exponents are those of scales alone
        a_top, b_top = max(p.a_block_scale, 2.0**-126), max(p.b_block_scale, 2.0**-126)
    elif path.zero_products == "lowest":
        a_top, b_top = max(a_top, 2.0**-126 * p.a_block_scale), max(b_top, 2.0**-126 * p.b_block_scale)
    units = p.a_scale * p.b_scale
    least = 2 - 2 ** (path.accumulator_exponent_bits - 1)
    smallest = max(a_top * b_top, 2.0 ** max(least, path.exponent_floor) * units)
    lost = (path.group // path.presum + 1) * 2.0**-path.fraction_bits
    if path.start == "late_floor":
        # Cutting products, joining partial sums, both rounded down, and an accumulator left out.
        late = 2.0**-path.sum_fraction + 2.0**-path.start_fraction
        late += 2.0**-path.start_reach if path.start_reach else 0.0
        lost = (path.group + path.lanes) * 2.0**-path.fraction_bits + late
    rounding = 2.0**-path.accumulator_fraction
    instructions = -(-p.k // (path.instruction or path.group)) if path.start == "after_instruction" else 0
    chunks = -(-p.k // path.chunk) if path.chunk else 0
    # Sums stay below T where everything is cut toward zero; else by what they are off.
    total, steps = p.total, groups + instructions
    shrinks = path.align_rounding == path.accumulator_rounding == "toward_zero" and path.start == "aligned"
    if not shrinks or chunks:
        with np.errstate(over="ignore"):
            growth = np.float64(1 + lost + rounding) ** steps * (1 + U) ** chunks
            if growth > _SENSELESS:
                return np.full_like(p.total, np.inf)
        total = growth * (p.total + groups * lost * smallest + steps * 2.0**least * units * rounding)
    step = lost * np.maximum(total, smallest) + rounding * total
    subnormal = 2.0 ** (least - path.accumulator_fraction) * units
    bound: Array = (steps * (step + subnormal) + chunks * (U * total + ETA * units)) * (1 + gamma(10))
    return bound


def any_order_bound(total: Array, bias: Array | float, k: int) -> Array:
    """A bound on |float32 - exact| for products and sums of float32 in any order, fused or not, with a bias added."""
    return gamma(k + 2) * (total + np.abs(bias)) + (2 * k + 2) * ETA


@dataclass(frozen=True)
class Sum:
    """What is known of sums of machines as they go from step to step, float64 arrays of one shape."""

    size: Array
    """Upper bounds on the magnitude of what is added up exactly."""
    error: Array
    """Bounds on |value - exact|."""


_PRECISIONS = {"fp32": (0.0, 0.0), "bf16": (2.0**-8, 2.0**-134), "fp16": (2.0**-11, 2.0**-25)}
"""Of a second rounding to a type: its unit roundoff, and half its smallest number."""


def _growth(roundings: int, precision: str) -> tuple[float, float]:
    """The relative error of so many roundings to float32 and then to a precision, and what one of the latter can lose
    below the normal range."""
    u, eta = _PRECISIONS[precision]
    v = roundings * (U + u)
    return (v / (1 - v) if v < 1 else float("inf")), eta


def parts_bound(parts: Sequence[Sum], start: Array, precision: str, units: float = 1.0) -> Sum:
    """Sums of parts of K that meet in any order, each narrowed to the precision, with a start of that magnitude; all
    in units of scales that multiply the total afterwards."""
    size = start + sum(part.size for part in parts)
    error = sum((part.error for part in parts), np.zeros_like(size))
    # Each sum is narrowed, and goes through no more additions than there are parts.
    growth, eta = _growth(len(parts) + 1, precision)
    roundings = 2 * len(parts) + 1
    slack = 1 + gamma(10)
    return Sum(size, (error + growth * (size + error) + roundings * eta * units * (1 + growth)) * slack)


def scaled_bound(d: Sum, scaled: bool) -> Sum:
    """d times the product of two float scales, if there are any."""
    if not scaled:
        return d
    return Sum(d.size, (d.error + gamma(2) * (d.size + d.error) + 2 * ETA) * (1 + gamma(4)))


def epilogue_bound(d: Sum, alpha: float, beta: float, source: Array, bias: Array, precision: str) -> Sum:
    """alpha * d + beta * source + bias in any order; source and bias are magnitudes that broadcast."""
    a, b = abs(alpha), abs(beta)
    size = a * d.size + b * source + bias
    # Narrowing an operand, its product, and up to three additions.
    growth, eta = _growth(5, precision)
    lost = (a + b + 1) * eta + 6 * (ETA + eta)
    slack = 1 + gamma(10)
    return Sum(size, (a * d.error + growth * (size + a * d.error) + lost * (1 + growth)) * slack)


def rounding_bound(y: Sum, element: ElementFormat, nearest: bool) -> Sum:
    """y rounded once to an element with subnormals."""
    half = 0.5 if nearest else 1.0
    u = half * 2.0**-element.mantissa_bits
    least = half * 2.0 ** (element.emin - element.mantissa_bits)
    slack = 1 + gamma(4)
    return Sum(y.size, (y.error + u * (y.size + y.error) + least) * slack)
