"""One block worked out: what two specs make of it, in bits, and what decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.table import Table

from sparq_sim._core import Conversion, ElementFormat
from sparq_sim.arrays import Array, widened
from sparq_sim.edges import binade, largest
from sparq_sim.formats import Format, Spec
from sparq_sim.reasons import number_text, peak_of, prepared, scale_reason

#: Elements that differ in a block that a table shows.
SHOWN = 8
#: Elements of a longer block that are worked out.
LISTED = 256


@dataclass(frozen=True)
class BlockBits:
    """The elements of a block as one spec encodes them."""

    spec: Spec
    values: Array
    """Bits of float32."""
    codes: Array
    scales: tuple[Array, ...]
    """Bits of the scale of each level, for every element."""
    kept: Array
    """Whether a pattern keeps an element."""
    refused: bool = False


@dataclass(frozen=True)
class BlockSide:
    """What one spec makes of a block."""

    name: str
    spec: str
    scales: tuple[str, ...]
    """Bits of the scale of each level, outermost first; of levels inside the block those of its first element."""
    scale: float | None
    """What an element of the main scale is a multiple of, scales above it included; NaN if poisoned, None without."""
    reason: str
    """The rule that chose the scale, with its numbers."""
    scaled: tuple[float, ...]
    """Elements over their scales, before they are rounded."""
    codes: tuple[str, ...]
    values: tuple[float, ...]
    bits: tuple[str, ...]
    """Of the values, as float32."""
    refused: bool = False


@dataclass(frozen=True)
class WorkedBlock:
    """A block that two specs encode differently."""

    size: int
    """Elements of the block."""
    places: tuple[int, ...]
    """Which of them are listed here: all, or of a long block the largest and those that differ."""
    x: tuple[float, ...]
    bits: tuple[str, ...]
    """Of the elements, in their own type."""
    amax: float | None
    """The largest finite magnitude; None if there is no finite element."""
    exponent: int | None
    """floor(log2 amax); None where amax is zero."""
    a: BlockSide
    b: BlockSide
    different: tuple[int, ...]
    """Places of listed elements whose value or code differs."""
    different_count: int
    """Of all elements."""
    decides: str
    """What tells them apart at the first element that differs: scale, scale of zeros, tie, saturation, lowest code,
    sign of zero, subnormal, rounding, pruning, NaN or Inf, or refusal."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it; numbers that are not finite are text."""
        made: dict[str, Any] = _plain(asdict(self))
        return made

    def lines(self) -> list[str]:
        """Lines for people above the table."""
        peak = "amax: none"
        if self.amax is not None:
            peak = f"amax = {number_text(self.amax)}"
            if self.exponent is not None:
                t = math.ldexp(self.amax, -self.exponent)
                peak += f" = {number_text(t)} * 2^{self.exponent}"
        made = [peak]
        for side in (self.a, self.b):
            scales = " ".join(side.scales)
            size = "" if side.scale is None or side.refused else f" = {number_text(side.scale)}"
            said = "refused" if side.refused else f"scale {scales}{size} ({side.reason})" if scales else "no scale"
            made.append(f"{side.name}: {said}")
        return [*made, f"what decides: {self.decides}"]

    def table(self) -> Table:
        """A rich table, a row for each side: the largest element and those that differ, which a star marks."""
        table = Table(title_justify="left", caption_justify="left")
        for name in ("element", "x", "bits", "encoded by", "x / scale", "code", "value", "bits"):
            table.add_column(name, justify="left" if name == "encoded by" else "right", no_wrap=name != "encoded by")
        largest_at = max(self.places, key=lambda place: _size(self.x[self.places.index(place)]))
        shown = sorted({*self.different[:SHOWN], largest_at})
        for place in shown:
            i = self.places.index(place)
            head = [f"{'* ' if place in self.different else ''}{place}", number_text(self.x[i]), self.bits[i]]
            for side in (self.a, self.b):
                scaled = "refused" if side.refused else number_text(side.scaled[i])
                cells = ["", "", ""] if side.refused else [side.codes[i], number_text(side.values[i]), side.bits[i]]
                table.add_row(*head, side.name, scaled, *cells, end_section=side is self.b)
                head = ["", "", ""]
        left = self.size - len(shown)
        if left:
            more = self.different_count - sum(place in self.different for place in shown)
            table.caption = f"{left} more elements{f', {more} of them differ' if more else ''}"
        return table


def _size(value: float) -> float:
    return abs(value) if math.isfinite(value) else -1.0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return number_text(value)
    return value


def hex_of(value: int, bits: int) -> str:
    """A pattern with all of its digits."""
    return f"0x{value:0{-(-bits // 4)}X}"


def worked_block(x: Array, x_bits: Sequence[str], a: BlockBits, b: BlockBits, names: tuple[str, str]) -> WorkedBlock:
    """Works out a block.

    Args:
        x: its elements as float64.
        x_bits: their bits, as text.
        a: what one spec makes of it.
        b: what the other does.
        names: of the two.
    """
    sizes = np.where(np.isfinite(x), np.abs(x), -1.0)
    largest_at = int(np.argmax(sizes))
    peak = float(sizes[largest_at]) if sizes[largest_at] >= 0 else None
    different = np.flatnonzero((a.values != b.values) | (a.codes != b.codes))
    places = np.arange(x.size)
    if x.size > LISTED:
        places = np.unique([0, largest_at, *different[: LISTED - 2]])
    return WorkedBlock(
        size=x.size,
        places=tuple(map(int, places)),
        x=tuple(map(float, x[places])),
        bits=tuple(x_bits[int(i)] for i in places),
        amax=peak,
        exponent=binade(peak) if peak else None,
        a=_side(x, a, names[0], places),
        b=_side(x, b, names[1], places),
        different=tuple(int(i) for i in different if i in places),
        different_count=different.size,
        decides=_decides(x, a, b, int(different[0]) if different.size else 0),
    )


def _level_value(format: Format, at: int, bits: int) -> float:
    """The number that the bits of a scale are."""
    record = format.levels[at].format
    if record.code_bytes == 4:
        return float(np.array([bits], np.uint32).view(np.float32).astype(np.float64)[0])
    return record.value(bits)


def _float_scales(made: Spec, scales: Sequence[int]) -> tuple[np.float32, np.float32]:
    """What float scales divide by, and what multiplies when decoding (docs/numerics.md section 4)."""
    outer = made.format.outer_combine
    values = [np.float32(_level_value(made.format, at, bits)) for at, bits in enumerate(scales)]
    main = made.format.block_format.main_level
    with np.errstate(all="ignore"):
        if outer is None or len(values) == main:
            divisor = values[0]
        elif outer == "divide":
            divisor = values[1] / values[0]
        elif outer == "divide_top":
            divisor = np.float32(_share(made, values))
        else:
            divisor = values[1] * (values[0] if outer == "multiply" else np.float32(1) / values[0])
        factor = np.float32(1) / (np.float32(1) / divisor) if outer == "reciprocals" else divisor
    return divisor, factor


def _share(made: Spec, values: Sequence[np.float32]) -> float:
    """A scale over the largest scale times the one above it, in float64 (docs/numerics.md section 4)."""
    stored = made.format.levels[1].format
    with np.errstate(all="ignore"):
        return float(np.float64(values[1]) / (stored.value(stored.max_code) * np.float64(values[0])))


def _inside(made: Spec, scales: Sequence[int]) -> float:
    """The powers of two of the levels that are not float scales."""
    first = made.format.block_format.main_level + 1 if made.format.scale_kind == "float" else 0
    total = 1.0
    for at, bits in list(enumerate(scales))[first:]:
        value = _level_value(made.format, at, bits)
        total = total / value if made.format.levels[at].combine == "divide" else total * value
    return total


def element_scale(made: Spec, scales: Sequence[int]) -> float:
    """What an element is a multiple of, from the bits of its scales; 1 without scales."""
    if made.format.scale_kind != "float" or not scales:
        return _inside(made, scales)
    with np.errstate(all="ignore"):
        return float(np.float32(float(_float_scales(made, scales)[1]) * _inside(made, scales)))


def _scaled(x: float, scales: Sequence[int], made: Spec) -> float:
    """An element over its scale; under a float scale as float32 divides or multiplies it."""
    if made.format.scale_kind != "float":
        return x / _inside(made, scales)
    one, inside = np.float32(1), np.float32(_inside(made, scales))
    with np.errstate(all="ignore"):
        divisor = _float_scales(made, scales)[0] * inside
        if made.conversion.scale_apply == "outer_reciprocal":
            outer, main = (np.float32(_level_value(made.format, at, scales[at])) for at in (0, 1))
            return float(np.float32(x) * (one / outer / main / inside))
        if made.conversion.scale_apply == "reciprocal" and made.format.outer_combine == "divide_top":
            values = [np.float32(_level_value(made.format, at, scales[at])) for at in (0, 1)]
            return float(np.float32(x) * (np.float32(1 / np.float64(_share(made, values))) / inside))
        if made.conversion.scale_apply == "reciprocal":
            return float(np.float32(x) * np.minimum(one / divisor, np.finfo(np.float32).max))
        return float(np.float32(x) / divisor)


def _side(x: Array, made: BlockBits, name: str, places: Array) -> BlockSide:
    spec, element = made.spec, made.spec.format.element
    first = [int(plane[0]) for plane in made.scales]
    main = spec.format.block_format.main_level if first else 0
    widths = [8 * level.format.code_bytes for level in spec.format.levels]
    above = _level_value(spec.format, 0, first[0]) if main else None
    return BlockSide(
        name=name,
        spec=str(spec),
        scales=tuple(hex_of(bits, width) for bits, width in zip(first, widths, strict=True)),
        scale=element_scale(spec, first[: main + 1]) if first else None,
        reason=scale_reason(spec, _seen(x, made), first[main], above) if first and not made.refused else "",
        scaled=() if made.refused else tuple(_all_scaled(x, made, places)),
        codes=tuple(hex_of(int(code), element.code_bits) for code in made.codes[places]),
        values=tuple(map(float, widened(made.values[places].view(np.float32)))),
        bits=tuple(hex_of(int(bits), 32) for bits in made.values[places]),
        refused=made.refused,
    )


def _seen(x: Array, made: BlockBits) -> Array:
    """The elements that the first scale is for: pruned ones are not, and blocks of the other spec may be longer."""
    main = made.spec.format.main
    part = slice(None if main is None or not main.along or main.across != 1 else main.along)
    return x[part][made.kept[part]] if made.spec.order == "sparsify_first" else x[part]


def _all_scaled(x: Array, made: BlockBits, places: Array) -> list[float]:
    seen = prepared(x[places], made.spec.conversion)
    scales = zip(*(plane[places] for plane in made.scales), strict=True) if made.scales else ([] for _ in places)
    return [
        _scaled(float(value), [int(bits) for bits in each], made.spec)
        for value, each in zip(seen, scales, strict=False)
    ]


def _decides(x: Array, a: BlockBits, b: BlockBits, place: int) -> str:
    """What tells two encodings of a block apart, at the first element that differs."""
    if a.refused or b.refused:
        return "refusal"
    if a.kept[place] != b.kept[place]:
        return "pruning"
    if not np.isfinite(x).all():
        return "NaN or Inf"
    zeros = all(int(side.values[place]) & 0x7FFFFFFF == 0 for side in (a, b))
    all_zero = all(peak_of(x, side.spec.conversion) == 0 for side in (a, b))
    if zeros and all_zero and a.codes[place] != b.codes[place]:
        return "sign of zero"
    if any(p[place] != q[place] for p, q in zip(a.scales, b.scales, strict=True)):
        return "scale of zeros" if all_zero else "scale"
    if zeros:
        return "sign of zero"
    scaled = [_all_scaled(x, side, np.array([place]))[0] for side in (a, b)]
    element = a.spec.format.element
    if any(abs(v) > largest(element) for v in scaled):
        lowest = any(_is_lowest(element, int(side.codes[place])) for side in (a, b))
        return "lowest code" if lowest else "saturation"
    if scaled[0] == scaled[1] and is_tie(element, scaled[0]):
        return "tie"
    tiny = [abs(v) < 2.0**element.emin and element.exponent_bits > 0 for v in scaled]
    if any(tiny) or _flushes(a.spec.conversion, b.spec.conversion, abs(float(x[place]))):
        return "subnormal"
    return "rounding"


def _is_lowest(element: ElementFormat, code: int) -> bool:
    return element.signedness == "twos_complement" and code == 1 << (element.code_bits - 1)


def _flushes(a: Conversion, b: Conversion, magnitude: float) -> bool:
    return a.input_subnormals != b.input_subnormals and 0 < magnitude < 2.0**-126


def is_tie(element: ElementFormat, value: float) -> bool:
    """Whether a number lies half way between two neighbours among the values of an element."""
    magnitude = abs(value)
    if not 0 < magnitude < math.inf:
        return False
    if element.taper:
        grid = [element.value(code) for code in range(1 << element.code_bits)]
        sizes = sorted({abs(one) for one in grid if math.isfinite(one)})
        return magnitude in {(low + high) / 2 for low, high in pairwise(sizes)}
    exponent = max(binade(magnitude), element.emin) if element.exponent_bits else element.emin
    return math.ldexp(magnitude, element.mantissa_bits - exponent) % 1 == 0.5
