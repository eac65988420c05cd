"""Writes docs/disagreements.md and docs/disagreements.json: `sparq_sim.diff` of every two presets that share a format.

Run `python docs/generate_disagreements.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import sparq_sim as sq
from sparq_sim.difference import Comparison, Difference, Share, TellingInput, compare, percent
from sparq_sim.fields import base_format, side

DOCS = Path(__file__).parent
PAGE = DOCS / "disagreements.md"
DATA = DOCS / "disagreements.json"
INTRODUCTION = """\
# Where libraries disagree

Written by `docs/generate_disagreements.py` from `sq.diff` over every pair of [presets](presets.md) that share a format;
[disagreements.json](disagreements.json) has the same as data. Presets say what libraries choose, not what they do in
every row: [presets.md](presets.md) lists the recorded rows that differ besides.

Shares are of a million standard normal numbers, `numpy.random.default_rng(0).standard_normal((1024, 1024), "float32")`,
and of a set of edges: ties, thresholds of scale rules and their neighbours, subnormals, zeros of both signs, NaN, Inf,
huge numbers, scales at the ends of their range. *Values* are those whose bits differ after decoding (-0 is not 0, NaN
is NaN), *scales* those whose stored bits do. Edges are chosen to differ: their share only says whether there is any.

*Input* is the smallest that tells two presets apart, as bits of float32: fewest elements that are not zero, then the
roundest numbers. *Another number* is the smallest of which a value becomes another number, zeros of either sign being
equal, with what each side makes of it. `sq.diff(format, a, b)` and `sparq diff FORMAT --like A --like B` work them out.
"""
SAME = "The same fields, and so the same bits: "
NONE = "-"


def groups(format: str) -> list[tuple[sq.Spec, list[str]]]:
    """The presets that speak of a format: those that set the same fields together."""
    found: dict[sq.Spec, list[str]] = {}
    base = base_format(format)
    for preset in sq.presets().values():
        if format in preset.formats:
            found.setdefault(side(preset.name, base, "preset")[0], []).append(preset.name)
    return list(found.items())


def shared_formats() -> list[str]:
    """The formats and elements of which two presets speak, in the order of the catalog."""
    names = dict.fromkeys([*sq.formats(), *sq.elements()])
    return [name for name in names if sum(name in preset.formats for preset in sq.presets().values()) > 1]


@cache
def differences() -> dict[str, list[tuple[list[str], list[str], Difference]]]:
    """By format: every pair of groups of presets."""
    found: dict[str, list[tuple[list[str], list[str], Difference]]] = {}
    for format in shared_formats():
        comparison = Comparison()
        found[format] = [
            (left, right, compare((a, left[0]), (b, right[0]), comparison, each_field=False))
            for (a, left), (b, right) in combinations(groups(format), 2)
        ]
    return found


def counts(share: Share) -> dict[str, Any]:
    return {
        "elements": share.elements,
        "values": share.values,
        "codes": share.codes,
        "scales": share.scales,
        "scale_count": share.scale_count,
    }


def telling(made: TellingInput | None) -> dict[str, Any] | None:
    """An input as data."""
    if made is None:
        return None
    sides = {
        name: {"scales": list(one.scales), "codes": list(one.codes), "values": list(one.bits)}
        for name, one in (("a", made.block.a), ("b", made.block.b))
    }
    return {
        "x": list(made.bits),
        "proven": made.proven,
        "scales_only": made.scales_only,
        "decides": made.block.decides,
        **sides,
    }


def record(left: Sequence[str], right: Sequence[str], found: Difference) -> dict[str, Any]:
    """A pair as data."""
    return {
        "a": left[0],
        "b": right[0],
        "verdict": found.verdict,
        "fields": {change.name: [change.a, change.b] for change in found.fields},
        "normal": counts(found.shares[0]),
        "edges": counts(found.share("edges")),
        "input": telling(found.smallest),
        "number": telling(found.smallest_number),
    }


def data() -> str:
    """The text of docs/disagreements.json: a line for each pair."""
    made = []
    for format, pairs in differences().items():
        lines = ",".join(f"\n  {json.dumps(record(*pair), sort_keys=True)}" for pair in pairs)
        same = json.dumps([names for _, names in groups(format)])
        made.append(f'{json.dumps(format)}: {{"same": {same}, "pairs": [{lines}]}}')
    return '{"formats": {\n ' + ",\n ".join(made) + "\n}}\n"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def bits_text(bits: Sequence[str]) -> str:
    return " ".join(f"`{one}`" for one in bits)


def row(left: Sequence[str], right: Sequence[str], found: Difference) -> dict[str, object]:
    normal, edges, smallest, number = found.shares[0], found.share("edges"), found.smallest, found.smallest_number
    return {
        "a": f"`{left[0]}`",
        "b": f"`{right[0]}`",
        "values": percent(normal.part("values")),
        "scales": percent(normal.part("scales")) or NONE,
        "edges: values": percent(edges.part("values")),
        "edges: scales": percent(edges.part("scales")) or NONE,
        "input": found.verdict if smallest is None else bits_text(smallest.bits),
        "decides": NONE if smallest is None else smallest.block.decides,
        "another number": NONE if number is None else bits_text(number.bits),
        "a makes": NONE if number is None else bits_text(number.block.a.bits),
        "b makes": NONE if number is None else bits_text(number.block.b.bits),
        "for": NONE if number is None else number.block.decides,
    }


def page() -> str:
    """The text of docs/disagreements.md."""
    parts = [INTRODUCTION]
    for format, pairs in differences().items():
        parts.append(f"## `{format}`\n")
        same = [names for _, names in groups(format) if len(names) > 1]
        if same:
            parts.append(SAME + "; ".join(", ".join(f"`{name}`" for name in names) for names in same) + ".\n")
        if pairs:
            parts.append(table([row(*pair) for pair in pairs]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    DATA.write_text(data(), encoding="utf-8")
