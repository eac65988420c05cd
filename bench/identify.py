"""How long identify takes: formats, presets, choices that no preset has, and outputs that nothing makes.

    python bench/identify.py [--size 1024] [--repeat 3]

Medians. A row whose first match does not make the output, or that should have none and has one, ends the run.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import commit, processor

import sparq_sim as sq

#: A format and its choices.
MADE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("mxfp4", {}),
    ("nvfp4", {}),
    ("hbfp8", {}),
    ("mxfp8_e4m3", {}),
    ("fp8_e4m3", {}),
    ("int8_affine", {}),
    ("mxfp4", {"like": "torchao-main/rceil"}),
    ("nvfp4", {"like": "transformer-engine"}),
    ("mxfp6_e2m3", {"block": 64, "scale_rule": "even", "rounding": "up", "signed_zero": "drop"}),
    ("int8", {"block": 128, "scale_compute": "bf16", "rounding": "nearest_away"}),
    ("nvfp4", {"scale_order": "outer_first", "outer_apply": "reciprocal", "rounding": "nearest_away"}),
)
#: Of which one element in 35 becomes 1.01 times what it was.
SPOILT: tuple[tuple[str, dict[str, Any]], ...] = (("mxfp4", {}), ("int8", {}), ("nvfp4", {"rounding": "up"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((options.size, options.size), dtype=np.float32)
    title = f"identify, {options.size}x{options.size} float32, {sq.available_isas()[-1]}, {processor()}, {commit()}"
    table = Table(title=title, title_justify="left")
    for column in ("made by", "seconds", "found"):
        table.add_column(column, justify="right" if column == "seconds" else "left")

    def row(name: str, y: np.ndarray, possible: bool) -> None:
        found = [sq.identify(x, y) for _ in range(options.repeat)]
        best = found[0].best
        if (best is not None) != possible:
            raise SystemExit(f"{name}: {found[0]}")
        if best is not None and not np.array_equal(sq.emulate(x, best.spec), y):
            raise SystemExit(f"{name}: {best.label} makes another tensor")
        label = best.label if best is not None else f"nothing; nearest {found[0].nearest[0].label}"
        table.add_row(name, f"{statistics.median(one.seconds for one in found):.1f}", label)

    for format, choices in MADE:
        row(" ".join([format, *(f"{k}={v}" for k, v in choices.items())]), sq.emulate(x, format, **choices), True)
    for format, choices in SPOILT:
        y = sq.emulate(x, format, **choices)
        y[::7, ::5] *= np.float32(1.01)
        row(" ".join([format, *(f"{k}={v}" for k, v in choices.items()), "spoilt"]), y, False)
    row("noise", x + np.float32(0.01) * rng.standard_normal(x.shape, dtype=np.float32), False)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
