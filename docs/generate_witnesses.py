"""Writes docs/witnesses.md from tests/known_differences.py: `python docs/generate_witnesses.py`."""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from known_differences import BOTH, COMPARED, EVERY, KNOWN, RANDOM, Difference, element_named  # noqa: E402

PAGE = ROOT / "docs" / "witnesses.md"
INTRODUCTION = """\
# Witnesses

Libraries of other people convert numbers as this one does, except as listed here. The page is written from
`tests/known_differences.py` by `docs/generate_witnesses.py`. `tests/test_known_differences.py` runs every example; and
over all bfloat16 and float16 numbers, and the corners of every code in float32 and float64, it sees that each witness
differs in all of the inputs that are listed and in no others.

Where one of our two choices of `overflow` ([numerics.md](numerics.md), section 2) is what a witness does, that one is
compared, and there is no difference to list.
"""
COMPARED_INTRODUCTION = """\
## What is compared

The five roundings are `nearest_even`, `nearest_away`, `toward_zero`, `up` and `down`; the eight are these and the three
variants of `stochastic`, with random bits given as data.

The code of a scale (`e8m0`) is that of a block of one number whose element has emax = 0. Its roundings are scale
rules: `nearest` for the two nearest ones, `floor` for `toward_zero` and `down`, `ceil` for `up`. It has no choice of
`overflow` in ours, so there the column is the witness's.

NaN "any" means that one NaN is as good as another: in casts to 16 bits, NumPy and torch keep or change sign and payload
as the instructions of the machine do. gfloat has no names for `e1m2`, for the elements of FNUZ and IEEE kind, and for
`e3m0`, `e4m0_fn` and `e4m0_fnuz_inf`, which have no mantissa bits; it is told of them as formats of a user.

Left out are a type to itself, which is a copy, and casts to integers, which cut and are undefined beyond the range.
"""
DIFFERENCES_INTRODUCTION = """\
## Differences

An example is float32, or float64 where it has sixteen digits.
"""


def table(rows: Sequence[Mapping[str, object]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def names(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def roundings_text(words: tuple[str, ...]) -> str:
    """Roundings, most of which come in one of a few sets."""
    return {(*EVERY, *RANDOM): "all eight", EVERY: "all five"}.get(words) or names(words)


def overflows_text(words: tuple[str, ...]) -> str:
    return "both" if words == BOTH else names(words)


def example_text(row: Difference) -> str:
    digits, integer, real = (8, "I", "f") if row.carrier == "fp32" else (16, "Q", "d")
    (value,) = struct.unpack(real, struct.pack(integer, row.bits))
    text = f"{value:.9g}" if row.carrier == "fp32" else repr(value)
    return f"0x{row.bits:0{digits}X} ({'NaN' if value != value else text})"


def code_text(row: Difference, code: int | None) -> str:
    digits = -(-element_named(row.element).width // 4)
    return "refused" if code is None else f"0x{code:0{digits}X}"


def section(rule: str) -> str:
    """The number of the section of docs/numerics.md that says so."""
    text = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    before = next(part for part in re.split(r"\n(?=## )", text) if rule in re.sub(r"\s+", " ", part))
    return before.removeprefix("## ").partition(".")[0]


def difference_text(rows: Sequence[Difference]) -> str:
    """Rows of one class of inputs, one cause and one rule."""
    first = rows[0]
    inputs = " ".join((first.inputs.__doc__ or "").split())
    choice = "".join(f" With `{name}={word!r}` ours is theirs." for name, word in first.choice)
    examples = [
        {
            "witness": f"{row.witness} {row.version}",
            "element": f"`{row.element}`",
            "rounding": roundings_text(row.roundings),
            "overflow": overflows_text(row.overflows),
            "example": example_text(row),
            "ours": code_text(row, row.ours),
            "theirs": code_text(row, row.theirs),
        }
        for row in rows
    ]
    ours = f"Ours is section {section(first.rule)}: “{first.rule}”.{choice}"
    return f"### {inputs.rstrip('.')}\n\n{first.cause} {ours}\n\n{table(examples)}"


def page() -> str:
    """The text of docs/witnesses.md."""
    compared = [
        {
            "witness": f"{c.witness} {c.version}",
            "elements": names(c.elements),
            "rounding": roundings_text(c.roundings),
            "overflow": overflows_text(c.overflows),
            "NaN": c.nan,
        }
        for c in COMPARED
    ]
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for row in KNOWN:
        groups.setdefault((row.inputs, row.cause, row.rule), []).append(row)
    parts = [INTRODUCTION, COMPARED_INTRODUCTION, table(compared), DIFFERENCES_INTRODUCTION]
    return "\n".join([*parts, *map(difference_text, groups.values())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
