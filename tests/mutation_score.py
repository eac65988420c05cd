"""Changes every field of every machine by one, and counts how many changes the vectors of the tests see.

    python tests/mutation_score.py [NAME ...]

A change that is refused cannot go unseen. Survivors are printed: changes that no vector tells from the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import sparq_sim as sq
from test_datapaths import (
    _INSTRUCTIONS,
    _MMA_FORMATS,
    STYLES,
    Side,
    drawn_codes,
    drawn_problem,
    drawn_starts,
    modelled_machine,
    nibbles,
    operand_names,
    run,
)

WORDS = {
    "align_rounding": ("toward_zero", "down", "nearest_even"),
    "accumulator_rounding": ("toward_zero", "nearest_even"),
    "zero_products": ("absent", "lowest"),
    "start": ("aligned", "after_instruction", "late_floor"),
    "overflow": ("infinity", "saturate"),
    "integer_overflow": ("wrap", "saturate"),
    "reduce": ("exact", "blocks", "fma", "align", "tree", "integer"),
}
#: What says which operands, scales and results there are, not what is computed.
DESCRIPTIVE = ("block_scales", "output", "scale", "operands")


def mutants(fields: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field by one step: integers up and down, words to each other word, flags over."""
    for name, value in fields.items():
        if name in DESCRIPTIVE:
            continue
        if name in WORDS:
            others: list[Any] = [word for word in WORDS[name] if word != value]
        elif isinstance(value, bool):
            others = [not value]
        else:
            others = [value - 1, value + 1]
        for other in others:
            yield f"{name}: {value} -> {other}", {**fields, name: other}


@dataclass
class Score:
    """Changes of one machine."""

    seen: int = 0
    refused: int = 0
    survivors: list[str] = field(default_factory=list)


def recorded(name: str) -> list[tuple[Side, Side, Any]]:
    """What MMA-Sim made of float32 results: every tile of the instructions of a machine."""
    made = []
    for path in _INSTRUCTIONS:
        info = json.loads(path.read_text())
        if modelled_machine(info) != name or info["d"] != "f32":
            continue
        with np.load(path.with_suffix(".npz")) as file:
            arrays = dict(file)
        a, b = arrays["A"], arrays["B"].transpose(0, 2, 1)
        if info["packing"]:
            a, b = nibbles(a), nibbles(b)
        scale = {"ue8m0": "e8m0"}.get(info["scale"], info["scale"]) or "e8m0"
        elements = [_MMA_FORMATS.get(info[side], info[side]) for side in "ab"]
        for tile in range(len(a)):
            scales = (arrays["SA"][tile], arrays["SB"][tile].T) if "SA" in arrays else (None, None)
            sides = [
                Side("fp32" if e == "tf32" else e, x[tile], own, info["block"] or 0, scale)
                for e, x, own in zip(elements, (a, b), scales, strict=True)
            ]
            made.append((sides[0], sides[1], arrays["C"][tile]))
    return made


def vectors(record: sq.Datapath, name: str) -> list[tuple[Side, Side, Any]]:
    """Operands of every style, with and without c."""
    rng, made = np.random.default_rng(99), []
    elements = operand_names(record, name)
    for number in range(4 * len(STYLES)):
        style = STYLES[number % len(STYLES)]
        pair = (elements[number % len(elements)], elements[number // 2 % len(elements)])
        k = (5, 40, 130)[number % 3] if record.presum == 1 else (80, 128)[number % 2]
        a, b = drawn_problem(rng, record, pair, style, k)
        made.append((a, b, drawn_starts(rng, (3, 3), False, style) if number % 2 else None))
    made += recorded(name)
    # An accumulator of subnormal size: where the least exponent matters.
    tiny = Side(elements[0], drawn_codes(rng, elements[0], (3, 40), "tiny"))
    made.append((tiny, tiny, rng.integers(0, 1 << 20, (3, 3), dtype=np.uint32)))
    return made


def score(name: str) -> Score:
    record = sq.datapaths()[name].record
    fields = sq.datapath_to_dict(record)
    full = {**record.to_dict(), "scale": fields.get("scale", "e8m0"), "operands": fields.get("operands", [])}
    cases = vectors(record, name)
    result = record.output.split("_")[0]
    wanted = [run(record, a, b, c, result) for a, b, c in cases]
    out = Score()
    for text, changed in mutants(full):
        try:
            mutant = sq.datapath_from_dict(changed)
            differs = False
            for (a, b, c), want in zip(cases, wanted, strict=True):
                differs = differs or not np.array_equal(run(mutant, a, b, c, result), want)
        except (ValueError, TypeError, OverflowError):
            out.refused += 1
            continue
        if differs:
            out.seen += 1
        else:
            out.survivors.append(text)
    return out


def main() -> None:
    known = [n for n, m in sq.datapaths().items() if m.record.reduce in ("align", "tree", "integer", "blocks")]
    total = Score()
    for name in sys.argv[1:] or known:
        own = score(name)
        print(
            f"{name}: {own.seen} seen, {own.refused} refused, {len(own.survivors)} survive {own.survivors}", flush=True
        )
        total.seen, total.refused = total.seen + own.seen, total.refused + own.refused
        total.survivors += own.survivors
    meant = total.seen + len(total.survivors)
    print(f"score {total.seen}/{meant} = {total.seen / max(1, meant):.1%} of changes that mean something are seen")


if __name__ == "__main__":
    main()
