"""Speed of emulate and encode beside a memory copy, torch and other libraries, all in one run.

    python bench/quantize.py [--size 4096] [--repeat 9] [--json]

One thread everywhere. Figures are medians in G elements per second; "of copy" is the median ratio to an np.copyto of
the same arrays that ran just before. Contenders: a hand-written torch function, eager and under torch.compile (the
strongest baseline known), and the obvious composite over ml_dtypes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import commit, processor, seconds

import sparq_sim as sq


@dataclass(frozen=True)
class Contender:
    """Something to time."""

    what: str
    by: str
    call: Callable[[], Any]
    elements: int


@dataclass(frozen=True)
class Row:
    """Medians of one contender."""

    what: str
    by: str
    rate: float
    """G elements per second."""
    of_copy: float
    """Of the copy that ran just before, round by round."""


def race(contenders: list[Contender], copy: Contender, repeat: int) -> list[Row]:
    """Rounds over all contenders, each after a copy of its own: on a machine whose speed drifts, neighbours in time
    are what can be compared."""
    for one in contenders:
        one.call()
        one.call()
    times: dict[str, list[float]] = {one.what: [] for one in contenders}
    ratios: dict[str, list[float]] = {one.what: [] for one in contenders}
    for _ in range(repeat):
        for one in contenders:
            copied = seconds(copy.call) / copy.elements
            took = seconds(one.call) / one.elements
            times[one.what].append(took)
            ratios[one.what].append(copied / took)
    return [
        Row(one.what, one.by, 1e-9 / statistics.median(times[one.what]), statistics.median(ratios[one.what]))
        for one in contenders
    ]


def torch_mxfp4(x: torch.Tensor) -> torch.Tensor:
    """MXFP4, floor rule, in a dozen lines of torch: exponents by bit-cast, rounding by a magic number."""
    blocks = x.view(-1, 32)
    exponent = (blocks.abs().amax(1, keepdim=True).view(torch.int32) >> 23).clamp(3, 254) - 2
    scale = (exponent << 23).view(torch.float32)
    y = blocks / scale
    field = ((y.view(torch.int32) >> 23) & 0xFF).clamp(127, 129)
    magic = ((field + 22) << 23).view(torch.float32)
    magic = torch.copysign(magic, y)
    return (((y + magic) - magic).clamp(-6, 6) * scale).view_as(x)


def ml_dtypes_mxfp4(x: np.ndarray) -> np.ndarray:
    """MXFP4, floor rule: a scale by frexp, the element cast by ml_dtypes."""
    blocks = x.reshape(-1, 32)
    _, exponent = np.frexp(np.abs(blocks).max(1, keepdims=True))
    scale = np.ldexp(np.float32(1), np.clip(exponent - 3, -126, 127))
    return ((blocks / scale).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scale).reshape(x.shape)


def measure(size: int, repeat: int) -> list[Row]:
    x = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    out = np.empty_like(x)
    tensor, small = torch.from_numpy(x), x[: size // 4]
    torch.set_num_threads(1)
    compiled = torch.compile(torch_mxfp4)

    def emulate(name: str, **choices: Any) -> Callable[[], Any]:
        return lambda: sq.emulate(x, name, threads=1, **choices)

    copy = Contender("np.copyto(out, x)", "memory copy", lambda: np.copyto(out, x), x.size)
    contenders = [copy, Contender("tensor.clone()", "memory copy, fresh output", tensor.clone, x.size)]
    contenders.append(Contender("emulate mxfp4, fresh output", "sparq_sim", emulate("mxfp4"), x.size))
    for name in (
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
    ):
        contenders.append(Contender(f"emulate {name}, out=", "sparq_sim", emulate(name, out=out), x.size))
    for word in ("nearest_away", "nearest_zero", "toward_zero", "up", "to_odd"):
        directed = emulate("mxfp4", rounding=word, out=out)
        contenders.append(Contender(f"emulate mxfp4 {word}, out=", "sparq_sim", directed, x.size))
    random = emulate("mxfp4", rounding="stochastic", random=sq.Philox(1), out=out)
    contenders.append(Contender("emulate mxfp4 stochastic, Philox, out=", "sparq_sim", random, x.size))
    sparse = emulate("mxfp4", sparsity="2:4", out=out)
    contenders.append(Contender("emulate mxfp4 2:4, out=", "sparq_sim", sparse, x.size))
    for name in ("mxfp4", "mxfp8", "hbfp8"):
        contenders.append(
            Contender(f"encode {name}", "sparq_sim", lambda f=name: sq.encode(x, f, threads=1), x.size)  # type: ignore[misc]
        )
        contenders.append(Contender(f"encode {name}, warm codes", "sparq_sim core", _warm_encode(x, name), x.size))
    contenders.append(Contender("mxfp4, 12 lines of torch", "torch eager", lambda: torch_mxfp4(tensor), x.size))
    contenders.append(Contender("mxfp4, the same compiled", "torch.compile", lambda: compiled(tensor), x.size))
    contenders.append(Contender("mxfp4, composite", "ml_dtypes", lambda: ml_dtypes_mxfp4(small), small.size))
    expected = sq.emulate(x, "mxfp4")
    assert np.array_equal(torch_mxfp4(tensor).numpy(), expected)
    assert np.array_equal(ml_dtypes_mxfp4(small), expected[: size // 4])
    return race(contenders, copy, repeat)


def _warm_encode(x: np.ndarray, name: str) -> Callable[[], Any]:
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
    return lambda: _core.encode(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.size, options.repeat)
    isa = sq.available_isas()[-1]
    title = f"{options.size}x{options.size} float32, one thread, {isa}, {processor()}, commit {commit()}"
    if options.json:
        print(json.dumps({"title": title, "rows": [asdict(row) for row in rows]}))
        return
    table = Table(title=title, title_justify="left")
    for column in ("what", "by", "G elements/s", "of copy"):
        table.add_column(column, justify="left" if column in ("what", "by") else "right")
    for row in rows:
        table.add_row(row.what, row.by, f"{row.rate:.3f}", f"{row.of_copy:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
