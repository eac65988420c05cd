"""Writes docs/presets.md from the presets and the differences that tests list: `python docs/generate_presets.py`."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sparq_sim as sq

DOCS = Path(__file__).parent
PAGE = DOCS / "presets.md"
DIFFERENCES = DOCS.parent / "tests" / "preset_exceptions.py"
INTRODUCTION = """\
# Presets

Written from `sparq_sim.presets()` by `docs/generate_presets.py`. A preset is a set of choices under a versioned name:
`emulate(x, "mxfp4", like="torchao-main/rceil")` says `scale_rule="rceil"` and no more. Explicit choices override it, a
spec holds what was chosen and not the name, and fields that a preset does not name stay as the format has them. The
words are explained in [numerics.md](numerics.md).

Evidence: `recorded` is outputs of the library itself, every row of which the tests compare bit for bit; `host` is the
same for the arithmetic of its GPU kernel, compiled for the CPU; `run` is a library that the tests run; `documented` is
a rule that its specification, documents or source state, without outputs to compare.

Names of elements among the formats are for casts: a format of yours with that name and no scales, such as
`Format("e4m3", elements()["e4m3"])`.
"""
DIFFERENT = """\
## Rows that differ

Recorded inputs are 609 blocks of 32, most of them at the edges of something: the smallest and largest numbers, numbers
next to a power of two, NaN, Inf; and tensors of NVFP4, whose names are given. These of them come out otherwise in the
library, and the tests assert that exactly these do (tests/preset_exceptions.py has their numbers).
"""
NOTHING = "-"


def choices_text(choices: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={word}`" for name, word in choices.items()) or "as the format"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def names_text(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def preset_rows(preset: sq.Preset) -> Iterator[dict[str, object]]:
    for i, (formats, choices) in enumerate(preset.groups()):
        yield {
            "name": NOTHING if i else f"`{preset.name}`",
            "formats": names_text(formats),
            "choices": choices_text(choices),
            "evidence": NOTHING if i else preset.evidence,
        }


def source_row(preset: sq.Preset) -> dict[str, object]:
    return {"name": f"`{preset.name}`", "source": preset.source, "notes": preset.notes or NOTHING}


def differences() -> Sequence[Any]:
    """The list of the tests, which are no package."""
    listed: Sequence[Any] = runpy.run_path(str(DIFFERENCES))["DIFFERENCES"]
    return listed


def difference_rows() -> Iterator[dict[str, object]]:
    """By preset, in their order, and by cause: how many rows of which formats."""
    listed = differences()
    for name in sq.presets():
        causes: dict[tuple[str, str], dict[str, int]] = {}
        for one in listed:
            if name in one.presets:
                counts = causes.setdefault((one.cause, one.case), {})
                counts.update(dict.fromkeys(one.formats, one.count))
        for (cause, case), counts in causes.items():
            order = sorted(counts, key=sq.presets()[name].formats.index)
            texts = [f"`{format}`{f' {case}' if case else ''} {counts[format]}" for format in order]
            yield {"preset": f"`{name}`", "formats, rows": ", ".join(texts), "the library": cause}


def page() -> str:
    """The text of docs/presets.md."""
    made = sq.presets().values()
    parts = [
        INTRODUCTION,
        "## Choices\n",
        table([row for preset in made for row in preset_rows(preset)]),
        "## Sources\n",
        table([source_row(preset) for preset in made]),
        DIFFERENT,
        table(list(difference_rows())),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
