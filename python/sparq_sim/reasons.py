"""Why a block has its scale: the rule, with the numbers that it looked at."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from sparq_sim._core import Conversion, ElementFormat, ScaleLevel
from sparq_sim.arrays import Array
from sparq_sim.edges import binade, fraction_bits, largest
from sparq_sim.formats import Spec
from sparq_sim.quantize import emulate

_LARGEST = float(np.finfo(np.float32).max)


def number_text(value: float) -> str:
    """The shortest decimal number that is this float32, or ``2^k`` of its size where that is shorter to read."""
    if not math.isfinite(value):
        return {True: "Inf", False: "-Inf"}[value > 0] if not math.isnan(value) else "NaN"
    fraction, exponent = math.frexp(abs(value))
    sign = "-" if math.copysign(1, value) < 0 else ""
    if fraction == 0.5 and not -8 < exponent <= 11:
        return f"{sign}2^{exponent - 1}"
    with np.errstate(all="ignore"):
        narrow = np.float32(value)
    return (str(narrow) if float(narrow) == value else repr(value)).removesuffix(".0")


def prepared(x: Array, how: Conversion) -> Array:
    """What scales and elements see of an input, as float64 (docs/numerics.md section 2)."""
    seen = np.array(x, np.float64)
    if how.preround != "none":
        with np.errstate(all="ignore"):
            narrow = seen.astype(np.float32)
        rounding = "toward_zero" if how.preround == "bf16_toward_zero" else "nearest_even"
        seen = emulate(narrow, "bf16", rounding=rounding).astype(np.float64)
    if how.input_subnormals == "flush":
        seen[np.abs(seen) < 2.0**-126] *= 0
    if how.signed_zero == "underflow":
        seen = seen + 0.0
    if how.nonfinite == "zero_block" and not np.isfinite(seen).all():
        seen = np.zeros_like(seen)
    if how.nonfinite == "largest":
        seen = np.where(np.isnan(seen), _LARGEST, np.clip(seen, -_LARGEST, _LARGEST))
    return seen


def peak_of(x: Array, how: Conversion) -> float | None:
    """The magnitude that a scale is for; None if NaN or Inf poison the block."""
    seen = prepared(x, how)
    finite = np.isfinite(seen)
    if how.nonfinite in ("poison", "error") and not finite.all():
        return None
    return float(np.abs(seen[finite]).max(initial=0.0))


def threshold(how: Conversion, element: ElementFormat) -> tuple[float, bool] | None:
    """Where a rule takes the larger power of two: the least t, amax over the power of two below it, and whether that t
    is taken too. None where other elements of the block or a logarithm decide; floor has none below 2."""
    if how.amax_exponent != "bits":
        return None
    if how.scale_rule == "floor":
        return 2.0, True
    if how.scale_rule == "ceil":
        return 1.0, False
    if how.scale_rule == "nearest":
        return 1.5, True
    if how.scale_rule == "rceil":
        reach = how.divisor or largest(element)
        return reach / 2.0 ** binade(reach), False
    if how.scale_rule == "even":
        return 2 - 2.0 ** (-(how.even_bits if how.even_bits >= 0 else fraction_bits(element)) - 1), True
    return None


def _highest(levels: Sequence[ScaleLevel]) -> int:
    """The sum of the highest exponents of levels inside blocks."""
    total = 0
    for level in levels:
        ends = [level.format.emin, level.format.emin + level.format.max_code]
        total += max(-end for end in ends) if level.combine == "divide" else max(ends)
    return total


def scale_reason(made: Spec, x: Array, code: int, above: float | None) -> str:
    """Why the main scale of a block has this code.

    Args:
        made: the spec.
        x: the elements of the block that are kept, as float64.
        code: the code, or the bits of a float32 scale.
        above: the scale above those of blocks, where there is one.

    Returns:
        The rule with its numbers; without them where they do not lead to the code, because something else decides.
    """
    main, how, element = made.format.main, made.conversion, made.format.element
    if main is None:
        return "no scale"
    peak = peak_of(x, how)
    if peak is None:
        known = main.format.code_bytes < 4 and not main.format.is_nan(code)
        return f"NaN or Inf: infinite={how.infinite}, nan_scale={how.nan_scale}" if known else "poisoned by NaN or Inf"
    if peak == 0:
        rest = f"zero_scale={how.zero_scale}" if how.zero_scale >= 0 else "the least scale that is written"
        return f"a block of zeros: {rest}" if main.format.code_bytes < 4 else "a block of zeros: 1"
    if made.format.scale_kind == "float":
        return _quotient_reason(made, main, peak, code, above)
    rule = how.scale_rule if how.amax_exponent == "bits" else f"{how.scale_rule} of a float32 log2"
    exponent = binade(peak)
    divided = how.scale_rule in ("rceil", "floor")
    base = exponent - (binade(how.divisor or largest(element)) if divided else element.emax)
    base -= _highest(made.format.levels[made.format.block_format.main_level + 1 :])
    limit = threshold(how, element)
    low, high = main.format.emin + how.scale_minimum, main.format.emin + main.format.max_code
    chosen = main.format.emin + code
    if limit is None:
        return f"{rule}: X = {chosen}, where floor of amax gives {base}"
    t, (least, taken) = math.ldexp(peak, -exponent), limit
    promoted = t > least or (taken and t == least)
    wanted = base + promoted
    if min(max(wanted, low), high) != chosen:
        return rule
    text = f"X = {exponent} - {exponent - base}{' + 1' if promoted else ''} = {wanted}"
    if least < 2:
        sign = (">=" if taken else ">") if promoted else ("<" if taken else "<=")
        text = f"t = {number_text(t)} {sign} {number_text(least)}, {text}"
    return f"{rule}: {text}{'' if wanted == chosen else f', clamped to {chosen}'}"


def _quotient_reason(made: Spec, main: ScaleLevel, peak: float, code: int, above: float | None) -> str:
    """Of a float scale; numbers where the plain quotient leads to the code."""
    how, element, stored = made.conversion, made.format.element, main.format
    if made.format.outer_combine not in (None, "multiply") or how.scale_order == "outer_first":
        return f"{how.scale_rule} (outer_combine={made.format.outer_combine}, scale_order={how.scale_order})"
    reach = how.divisor or largest(element)
    if how.scale_rule == "signed_max":
        reach = abs(element.value(1 << (element.code_bits - 1)))
    reach = math.ldexp(reach, _highest(made.format.levels[made.format.block_format.main_level + 1 :]))
    with np.errstate(all="ignore"):
        quotient = np.float32(peak) / np.float32(reach)
        text = f"{how.scale_rule}: {number_text(float(np.float32(peak)))} / {number_text(reach)}"
        if above is not None:
            quotient = quotient / np.float32(above)
            text += f" / {number_text(above)}"
    text += f" = {number_text(float(quotient))}"
    if stored.code_bytes == 4:
        return text if int(quotient.view(np.uint32)) == code else how.scale_rule
    least = max(how.scale_minimum, int(stored.zero and how.divide_by == "stored"))
    nearest = _nearest_code(stored, float(quotient), how.scale_rounding == "up")
    wanted = min(max(nearest, least), stored.max_code)
    sign = 0 if stored.signedness == "unsigned" else 1 << (stored.code_bits - 1)
    if wanted != code & ~sign:
        return how.scale_rule
    ending = "" if wanted == nearest else ", the least that is written"
    return f"{text}, {how.scale_rounding}: {number_text(stored.value(wanted))}{ending}"


def _nearest_code(stored: ElementFormat, quotient: float, up: bool) -> int:
    """The code of a positive number, to nearest even or to the next one that is not below."""
    sizes = [stored.value(code) for code in range(stored.max_code + 1)]
    at = min(max(bisect.bisect_left(sizes, quotient), 1), stored.max_code)
    balance = (quotient - sizes[at - 1]) - (sizes[at] - quotient)
    return at if up or balance > 0 or (balance == 0 and at % 2 == 0) else at - 1
