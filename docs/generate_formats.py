"""Writes docs/formats.md from the catalog: `python docs/generate_formats.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import sparq_sim as sq
from sparq_sim.formats import Element, block_text

PAGE = Path(__file__).parent / "formats.md"
INTRODUCTION = """\
# Formats

Written from the catalog by `docs/generate_formats.py`. What the columns mean is in [numerics.md](numerics.md),
section 1 for elements and sections 3 to 6 for blocks.

Evidence: `specification` is what a published specification says, a draft included; `implementation` is what software or
documents of the makers do; `inferred` is what papers and names suggest, and makers may differ.
"""
BLOCK_FORMATS = """\
## Block formats

A block is what the scales of the main level are of: elements of a line, or lines x elements of each; scales are listed
from the outermost level to the innermost. Scale rule and overflow are the defaults. Bits per element count the scales
of blocks; one per row or tensor counts nothing.
"""
ELEMENTS = """\
## Elements and scale codes

s, e, m: bits of sign, exponent and mantissa. An integer (e = 0) has no normal numbers; its least subnormal is its unit.
Unsigned codes are those of scales.
"""
CODINGS = {"sign_magnitude": "sign and magnitude", "twos_complement": "two's complement", "unsigned": "unsigned"}
NOTHING = "-"


def as_power(value: float) -> str:
    """A value exactly, as an odd integer times a power of two."""
    fraction = Fraction(value)
    odd, exponent = fraction.numerator, 1 - fraction.denominator.bit_length()
    while odd % 2 == 0:
        odd, exponent = odd // 2, exponent + 1
    if odd != 1:
        return f"{odd} · 2^{exponent}"
    return f"2^{exponent}" if exponent else "1"


def number(value: float) -> str:
    """A value exactly: in digits where they are few."""
    if value.is_integer() and abs(value) < 2**17:
        return str(int(value))
    digits = f"{value:.8g}"
    return digits if Fraction(digits) == Fraction(value) else as_power(value)


def code_text(record: sq.ElementFormat, code: int) -> str:
    return f"0x{code:0{-(-record.code_bits // 4)}X}"


def sign_bit(record: sq.ElementFormat) -> int:
    return 0 if record.signedness == "unsigned" else 1 << (record.exponent_bits + record.mantissa_bits)


def nan_codes(record: sq.ElementFormat) -> list[tuple[int, int]]:
    """First and last code of each run of NaNs: they are the last magnitudes, or the code of negative zero."""
    sign, last = sign_bit(record), (1 << (record.exponent_bits + record.mantissa_bits)) - 1
    if record.nan_code is None:
        return []
    if record.nan_code == sign:
        return [(sign, sign)]
    first = record.max_code + (2 if record.has_infinity else 1)
    return [(first | s, last | s) for s in sorted({0, sign})]


def special_codes(record: sq.ElementFormat) -> tuple[str, str]:
    """The codes of Inf and of NaN."""
    infinities = [] if record.infinity_code is None else [record.infinity_code, record.infinity_code | sign_bit(record)]
    runs = [
        code_text(record, first) if first == last else f"{code_text(record, first)}-{code_text(record, last)}"
        for first, last in nan_codes(record)
    ]
    return " ".join(code_text(record, code) for code in infinities) or NOTHING, " ".join(runs) or NOTHING


def table(rows: Sequence[Mapping[str, object]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def element_row(element: Element) -> dict[str, object]:
    record = element.record
    sign = 0 if record.signedness == "unsigned" else 1
    least_normal = 2.0**record.emin
    infinity, nan = special_codes(record)
    return {
        "name": f"`{element.name}`",
        "s.e.m": f"{sign}.{record.exponent_bits}.{record.mantissa_bits}",
        "coding": CODINGS[record.signedness] + (", tapered" if record.taper else ""),
        "bias": record.bias,
        "specials": f"`{record.specials}`",
        "largest": f"{number(record.value(record.max_code))} ({code_text(record, record.max_code)})",
        "least normal": as_power(least_normal) if record.exponent_bits else NOTHING,
        "least subnormal": as_power(record.value(1))
        if record.zero and record.mantissa_bits and not record.taper
        else NOTHING,
        "Inf": infinity,
        "NaN": nan,
        "source": element.source,
        "evidence": element.evidence,
    }


def value_text(value: float) -> str:
    if value != value:
        return "NaN"
    return "-0" if value == 0 and str(value).startswith("-") else number(value)


def value_table(element: Element) -> str:
    """The value of every code, eight to a line."""
    record = element.record
    codes = 1 << record.code_bits
    rows: list[dict[str, object]] = [
        {"code": code_text(record, first)}
        | {f"+{i}": value_text(record.value(first + i)) for i in range(min(8, codes - first))}
        for first in range(0, codes, 8)
    ]
    return f"### {element.name}\n\n{table(rows)}"


def level_text(level: sq.ScaleLevel, names: dict[sq.ElementFormat, str]) -> str:
    """A level of scales and what one of them is of."""
    extents = {(0, 0): "tensor", (0, 1): "row"}
    of = extents.get((level.along, level.across), block_text((level.across, level.along)))
    how = {"divide": " (divides)", "subtract": " (zero point)"}.get(level.combine, "")
    return f"`{names[level.format]}` per {of}{how}"


def choices_text(format_: sq.Format) -> str:
    """What is chosen besides scale rule and overflow, where it is no default."""
    defaults = sq.Conversion().to_dict()
    chosen = {
        name: word
        for name, word in format_.conversion.to_dict().items()
        if name not in ("scale_rule", "overflow") and word != defaults[name]
    }
    return ", ".join(f"`{name}={word}`" for name, word in chosen.items()) or NOTHING


def format_row(format_: sq.Format, names: dict[sq.ElementFormat, str]) -> dict[str, object]:
    scaled = format_.scale_kind != "none"
    return {
        "name": f"`{format_.name}`",
        "element": f"`{names[format_.element]}`",
        "block": block_text(format_.block) if scaled else NOTHING,
        "scale": ", ".join(level_text(level, names) for level in format_.levels) or NOTHING,
        "scale rule": f"`{format_.conversion.scale_rule}`" if scaled else NOTHING,
        "overflow": f"`{format_.conversion.overflow}`",
        "other choices": choices_text(format_),
        "bits per element": f"{format_.bits_per_element():g}",
        "source": format_.source,
        "evidence": format_.evidence,
    }


def page() -> str:
    """The text of docs/formats.md."""
    elements, formats = sq.elements().values(), sq.formats().values()
    names = {element.record: element.name for element in elements}
    parts = [
        INTRODUCTION,
        BLOCK_FORMATS,
        table([format_row(format_, names) for format_ in formats]),
        ELEMENTS,
        table([element_row(element) for element in elements]),
        "## Values of short codes\n",
        *(value_table(element) for element in elements if element.record.code_bits <= 6),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
