"""Speed of emulate, encode and decode beside a memory copy, torch and other libraries, all in one run.

    python bench/quantize.py [--size 4096] [--repeat 9] [--json]

One thread where no other number is said. Figures are medians in G elements per second; "of copy" is the median ratio to
an np.copyto of arrays of the same type that ran just before, "of capped copy" the same with the copy's rate counted as
2.5 G elements per second where it is more, and "of one thread" the ratio to the same call on one thread. Other
libraries are in peers.py; what is left out of the table, or differs, is said below it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import torch
from peers import peers_on
from rich.console import Console
from rich.table import Table
from timing import COPY_CAP, Contender, Copy, Row, commit, processor, race

import sparq_sim as sq

OURS = "sparq_sim"
FORMATS = (
    "mxfp4",
    "mxfp6",
    "mxfp8",
    "mxint8",
    "hbfp8",
    "nvfp4_one_level",
    "nvfp4",
    "mx9",
    "int8",
    "fp8_e4m3",
    "fp8_e4m3_1x128",
    "fp8_e4m3_128x128",
    "bf16",
)
BF16_FORMATS = ("mxfp4", "mxfp8", "nvfp4", "bf16")
ROUNDINGS = ("nearest_away", "nearest_zero", "toward_zero", "up", "to_odd")
COLUMN_FORMATS = ("mxfp4", "nvfp4", "int8")
THREADED_FORMATS = ("mxfp4", "nvfp4", "int8")
CODED_FORMATS = ("mxfp4", "mxfp8", "hbfp8")
#: Under float scales.
FLOAT_SCALED_FORMATS = ("nvfp4", "int8", "fp8_e4m3", "fp8_e4m3_1x128")


def emulations(x: np.ndarray, copy: Copy) -> Iterator[Contender]:
    """Emulate of float32, to memory that is there already but for the first."""
    out = np.empty_like(x)

    def call(name: str, **choices: Any) -> Callable[[], Any]:
        return partial(sq.emulate, x, name, **{"threads": 1, **choices})

    def contender(what: str, name: str, **choices: Any) -> Contender:
        return Contender(f"emulate {what}, out=", OURS, call(name, out=out, **choices), x.size, copy)

    yield Contender("emulate mxfp4, fresh output", OURS, call("mxfp4"), x.size, copy)
    for name in FORMATS:
        yield contender(name, name)
    for word in ROUNDINGS:
        yield contender(f"mxfp4 {word}", "mxfp4", rounding=word)
    yield contender("mxfp4 stochastic, Philox", "mxfp4", rounding="stochastic", random=sq.Philox(1))
    yield contender("mxfp4 2:4", "mxfp4", sparsity="2:4")
    for name in COLUMN_FORMATS:
        yield contender(f"{name} axis=0", name, axis=0)
    for name in THREADED_FORMATS:
        two, one = call(name, out=out, threads=2), call(name, out=out)
        yield Contender(f"emulate {name}, out=, 2 threads", OURS, two, x.size, copy, one)


def bf16_emulations(x: np.ndarray) -> Iterator[Contender]:
    """Emulate from bfloat16 to bfloat16, beside a copy of as many bytes."""
    x = x.astype(ml_dtypes.bfloat16)
    out = np.empty_like(x)
    copy = Copy(partial(np.copyto, out.view(np.uint16), x.view(np.uint16)), x.size)
    yield Contender("np.copyto(out, x) of bf16", "memory copy", copy.call, x.size, copy)
    for name in BF16_FORMATS:
        call = partial(sq.emulate, x, name, out=out, threads=1)
        yield Contender(f"emulate {name} of bf16, out=", OURS, call, x.size, copy)


def codings(x: np.ndarray, copy: Copy) -> Iterator[Contender]:
    """Encode, encode to memory that is there already, and decode."""
    for name in CODED_FORMATS:
        calls = (
            (f"encode {name}", OURS, partial(sq.encode, x, name, threads=1)),
            (f"encode {name}, warm codes", f"{OURS} core", warm_encode(x, name)),
            (f"decode {name}", OURS, partial(sq.encode(x, name).decode, threads=1)),
        )
        for what, by, call in calls:
            yield Contender(what, by, call, x.size, copy)
    for name in FLOAT_SCALED_FORMATS:
        yield Contender(f"encode {name}", OURS, partial(sq.encode, x, name, threads=1), x.size, copy)
        yield Contender(f"decode {name}", OURS, partial(sq.encode(x, name).decode, threads=1), x.size, copy)


def warm_encode(x: np.ndarray, name: str) -> Callable[[], Any]:
    """The core alone, into codes and scales that are already in memory."""
    from sparq_sim import _core

    format_ = sq.spec(name).format
    codes, scales = np.zeros(x.shape, np.uint8), np.zeros((len(x), x.shape[1] // int(format_.block or 1)), np.uint8)
    arguments: dict[str, Any] = {
        "x": x, "x_type": "float32", "shape": (len(x), x.shape[1], 1), "rows": 0, "format": format_.block_format,
        "conversion": format_.conversion, "sparsity": None, "order": "sparsify_first", "values": None,
        "values_type": "float32", "codes": codes, "scales": [scales], "scales_given": [False], "mask_in": None,
        "mask_out": None, "count": False, "random": None, "philox": None, "threads": 1,
    }  # fmt: skip
    return partial(_core.encode, **arguments)


def measure(size: int, repeat: int) -> tuple[list[Row], list[str]]:
    """The rows, and the notes below them."""
    x = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    out, tensor = np.empty_like(x), torch.from_numpy(x)
    torch.set_num_threads(1)
    copy = Copy(partial(np.copyto, out, x), x.size)
    peers = peers_on(x, copy)
    contenders = [
        Contender("np.copyto(out, x)", "memory copy", copy.call, x.size, copy),
        Contender("tensor.clone()", "memory copy, fresh output", tensor.clone, x.size, copy),
        *emulations(x, copy),
        *bf16_emulations(x),
        *codings(x, copy),
        *peers.contenders,
    ]
    return race(contenders, repeat), peers.notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, notes = measure(options.size, options.repeat)
    isa = sq.available_isas()[-1]
    title = f"{options.size}x{options.size} float32, one thread, {isa}, {processor()}, commit {commit()}"
    if options.json:
        cap = COPY_CAP / 1e9
        print(json.dumps({"title": title, "copy_cap": cap, "rows": [asdict(row) for row in rows], "notes": notes}))
        return
    table = Table(title=title, title_justify="left")
    for column in ("what", "by", "G elements/s", "of copy", "of capped copy", "of one thread"):
        table.add_column(column, justify="left" if column in ("what", "by") else "right")
    for row in rows:
        threads = "" if row.of_one_thread is None else f"{row.of_one_thread:.2f}"
        ratios = (f"{row.of_copy:.2f}", f"{row.of_capped_copy:.2f}", threads)
        table.add_row(row.what, row.by, f"{row.rate:#.3g}", *ratios)
    console = Console(width=130, highlight=False)
    console.print(table)
    for note in notes:
        console.print(f"- {note}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
