"""Speed of products on simulated machines beside torch's float32 product, all in one run.

    python bench/multiply.py [--size 512] [--repeat 5] [--layers]

One thread everywhere; medians in G multiply-adds per second, operands already encoded, each machine right after torch's
product of the same shape. --layers adds 1024^3 and layers of ViT-B/16 (197 tokens) and of a language model of 135M
parameters (512 tokens). mmaemu, where it is installed, takes the first rows only: its values have to be ours first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import Contender, Copy, Row, commit, processor, race

import sparq_sim as sq

CASES = (
    ("mxfp4", "mxfp4", "block_fp32"),
    ("mxfp6_e2m3", "mxfp6_e2m3", "block_fp32"),
    ("mxfp6_e3m2", "mxfp6_e3m2", "block_fp32"),
    ("mxint8", "mxint8", "block_fp32"),
    ("hbfp8", "hbfp8", "block_fp32"),
    ("mxfp6_e2m3", "mxfp8_e4m3", "block_fp32"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "block_fp32"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "exact"),
    ("hbfp8", "hbfp8", "exact"),
    ("bf16", "bf16", "exact"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "fma32"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8_promoted"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8_mma_sync"),
    ("fp16", "fp16", "hopper_16"),
    ("fp16", "fp16", "ampere_16"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "blackwell_mxf8"),
    ("mxfp4", "mxfp4", "blackwell_mxf4"),
    ("nvfp4", "nvfp4", "blackwell_nvf4"),
    ("bf16", "bf16", "cdna3_16"),
    ("bf16", "bf16", "cdna2_16"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "mxdotp"),
    ("hbfp8", "hbfp8", "hbfp8_wrap"),
    ("float8_e4m3fnuz", "float8_e4m3fnuz", "cdna3_fp8"),
    ("bf16", "bf16", "tree32"),
)
#: Machines of no catalog.
OWN_CASES = (
    ("bf16", "bf16", "fused, into bf16", {"reduce": "fma", "accumulator_fraction": 7}),
    ("bf16", "bf16", "rounded products into bf16", {"reduce": "tree", "group": 1, "accumulator_fraction": 7}),
    ("mxfp8_e4m3", "mxfp8_e4m3", "exact blocks into bf16", {"reduce": "blocks", "accumulator_fraction": 7}),
    ("bf16", "bf16", "pairs cut at 24 bits", {"reduce": "align", "group": 2, "fraction_bits": 24}),
    ("fp8_e4m3", "fp8_e4m3", "steps of 16, to nearest even at 20 bits",
     {"reduce": "align", "group": 16, "fraction_bits": 20, "align_rounding": "nearest_even"}),
)  # fmt: skip

#: M, N, K: tokens, outputs, inputs.
LAYERS = {
    "1024^3": (1024, 1024, 1024),
    "ViT-B qkv": (197, 2304, 768),
    "ViT-B mlp up": (197, 3072, 768),
    "ViT-B mlp down": (197, 768, 3072),
    "135M attention out": (512, 576, 576),
    "135M mlp up": (512, 1536, 576),
    "135M mlp down": (512, 576, 1536),
}
LAYER_CASES = (
    ("mxfp4", "mxfp4", "block_fp32"),
    ("mxint8", "mxint8", "block_fp32"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "block_fp32"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8"),
    ("nvfp4", "nvfp4", "blackwell_nvf4"),
)

#: Rows of a that mmaemu multiplies.
PEER_ROWS = 64


def matrices(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal float32 numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)


def named(cases: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str, sq.Datapath]]:
    """Cases on machines of the catalog, with their records."""
    return [(*case, sq.datapaths()[case[2]].record) for case in cases]


def operand(x: np.ndarray, format: str) -> object:
    """x in a format of the catalog, or in a dtype of torch."""
    dtype = getattr(torch, format, None)
    return sq.encode(x, format) if dtype is None else torch.from_numpy(x).to(dtype)


def of_torch(a: np.ndarray, b: np.ndarray) -> Copy:
    """torch's float32 product of this shape, which is what a contender is compared with."""
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return Copy(lambda: left @ right.T, a.shape[0] * b.shape[0] * a.shape[1])


def machines(
    what: str, cases: Sequence[tuple[str, str, str, sq.Datapath]], m: int, n: int, k: int
) -> Iterator[Contender]:
    """Products of one shape, torch's own first."""
    a, b = matrices(m, n, k)
    torch_product = of_torch(a, b)
    yield Contender(f"{what}float32", "torch", torch_product.call, torch_product.elements, torch_product)
    for left, right, name, record in cases:
        encoded = operand(a, left), operand(b, right)
        call = partial(sq.matmul, *encoded, datapath=record, threads=1)
        yield Contender(f"{what}{left}, {right}", name, call, torch_product.elements, torch_product)


def mmaemu_rows(n: int) -> Iterator[Contender]:
    """Its accumulators of Hopper's two FP8 rules, if they are ours; else it is an error."""
    import mmaemu

    a, b = matrices(min(PEER_ROWS, n), n, n)
    codes = [torch.from_numpy(x).to(torch.float8_e4m3fn) for x in (a, b)]
    torch_product = of_torch(a, b)
    for datapath, fast in (("hopper_fp8", True), ("hopper_fp8_promoted", False)):
        call = partial(mmaemu.accumulate, *codes, use_fast_accum=fast, splitk=1)
        got, wanted = call().numpy(), np.asarray(sq.matmul(*codes, datapath=datapath))
        if not np.array_equal(got.view(np.uint32), wanted.view(np.uint32)):
            raise AssertionError(f"mmaemu, {datapath}: {(got != wanted).sum()} of {got.size} values are not ours")
        by = f"mmaemu {version('mmaemu')}, {datapath}, {len(a)} rows"
        yield Contender("fp8_e4m3, fp8_e4m3", by, call, torch_product.elements, torch_product)


def table_of(title: str, rows: list[Row]) -> Table:
    table = Table(title=title)
    for column in ("operands", "machine", "G multiply-adds/s", "of torch"):
        table.add_column(column, justify="right" if column in ("G multiply-adds/s", "of torch") else "left")
    for row in rows:
        table.add_row(row.what, row.by, f"{row.rate:.2f}", f"{row.of_copy:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--layers", action="store_true", help="also 1024^3 and shapes of layers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = options.size
    own = [(left, right, name, sq.Datapath(**fields)) for left, right, name, fields in OWN_CASES]
    where = f"one thread, {sq.available_isas()[-1]}, {processor()}, commit {commit()}"
    contenders, notes = list(machines("", [*named(CASES), *own], n, n, n)), []
    if find_spec("mmaemu") is None:
        notes.append("mmaemu is not installed: its rows are left out")
    else:
        contenders += mmaemu_rows(n)
    console = Console(width=110)
    console.print(table_of(f"{n}x{n}x{n}, {where}", race(contenders, options.repeat)))
    for note in notes:
        console.print(note)
    if options.layers:
        layers = [c for name, shape in LAYERS.items() for c in machines(f"{name}: ", named(LAYER_CASES), *shape)]
        console.print(table_of(f"layers, {where}", race(layers, options.repeat)))


if __name__ == "__main__":
    main()
