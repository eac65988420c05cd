"""What can be said of an encoding from its spec alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import Any

from sparq_sim.formats import Format, Spec, spec

# Rules under which the values of a block, quantized once more, keep an exponent that holds them all.
_STABLE_RULES = ("floor", "ceil", "rceil", "even", "fit", "mse", "mae")
_NEAREST = ("nearest_even", "nearest_away", "nearest_zero", "nearest_up")


@dataclass(frozen=True)
class Traits:
    """Properties of ``x -> emulate(x, spec)`` for finite x (docs/numerics.md section 14). True is proven there; False
    means that there are counter-examples."""

    idempotent: bool
    """Emulating the result changes nothing (zeros of either sign are equal)."""
    sign_symmetric: bool
    """emulate(-x) is -emulate(x), zeros of either sign being equal."""
    monotone: bool
    """Of two elements of a block the larger one does not become the smaller one."""
    half_step: bool
    """An element that does not saturate moves by at most half the distance of its neighbours on the grid."""
    shift_invariant: bool
    """emulate(2^k x) is 2^k emulate(x), while no scale is clamped and float32 and scales stay normal numbers."""


def _divides_by_largest(made: Spec) -> bool:
    """Whether the divisor is the largest element, as far as the rule looks at it."""
    how, largest = made.conversion, made.format.element.value(made.format.element.max_code)
    if how.divisor in (0, largest):
        return True
    return how.scale_rule == "floor" and frexp(how.divisor)[1] == frexp(largest)[1]


def traits(format: str | Format | Spec, **choices: Any) -> Traits:
    """The traits of an encoding.

    Args:
        format: a name, `Format` or `Spec`, with choices as for `spec`.

    Returns:
        What holds for every finite tensor, dense or with a mask that stays the same.

    Raises:
        ValueError, TypeError: as `spec`.

    >>> import sparq_sim as sq
    >>> sq.traits("mxfp4").idempotent, sq.traits("int8").idempotent
    (True, False)
    >>> sq.traits("mxfp4", rounding="up").sign_symmetric
    False
    """
    made = spec(format, **choices)
    how, record = made.conversion, made.format
    kind = record.scale_kind
    inside = len(record.levels) > record.block_format.main_level + 1
    directed = how.rounding in ("up", "down", "nearest_up")
    # Without scales, what overflowed is no number the second time.
    settled = how.overflow == "saturate" or how.nonfinite in ("poison", "keep", "ignore", "saturate")
    stable = (kind == "none" and settled) or (
        kind == "power_of_two"
        and how.scale_rule in _STABLE_RULES
        and (how.amax_exponent, how.scale_overflow, how.least_scale) == ("bits", "clamp", "exact")
        and how.even_bits < 0
        and _divides_by_largest(made)
        and how.integer_range == "symmetric"
        and not inside
    )
    fixed = kind == "float" and record.has_scale_codes and record.block_format.main_level == 0
    return Traits(
        idempotent=stable and how.input_subnormals == "keep" and how.preround == "none",
        # Zero points have the full range.
        sign_symmetric=not directed and how.integer_range == "symmetric" and how.cut_offset == 0,
        # A logarithm takes numbers just below a power of two for it, and cuts more off them.
        monotone=how.rounding != "stochastic" and not inside and how.element_exponent == "bits",
        half_step=(
            # The largest numbers may become NaN, and the least ones are divided by something else.
            (how.scale_overflow, how.least_scale, how.amax_exponent) == ("clamp", "exact", "bits")
            and how.rounding in _NEAREST
            and how.half_sum == "exact"
            and kind != "float"
            and how.align_bits == 0
            and how.preround == "none"
            and "flush" not in (how.subnormals, how.input_subnormals)
        ),
        # Elements without a scale have a grid of their own, and short floats alone a short range.
        shift_invariant=kind != "none" and not fixed and how.amax_exponent == "bits",
    )
