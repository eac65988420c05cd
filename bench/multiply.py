"""Speed of products on simulated machines beside torch's float32 product, all in one run.

    python bench/multiply.py [--size 512] [--repeat 5]

One thread everywhere; medians in G multiply-adds per second, operands already encoded.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import commit, processor, seconds

import sparq_sim as sq

CASES = (
    ("mxfp8_e4m3", "mxfp8_e4m3", "block_fp32"),
    ("mxfp6_e2m3", "mxfp8_e4m3", "block_fp32"),
    ("mxint8", "mxint8", "block_fp32"),
    ("hbfp8", "hbfp8", "block_fp32"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "exact"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "fma32"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8_promoted"),
    ("fp8_e4m3", "fp8_e4m3", "hopper_fp8_mma_sync"),
    ("fp16", "fp16", "hopper_16"),
    ("fp16", "fp16", "ampere_16"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "blackwell_mxf8"),
    ("nvfp4", "nvfp4", "blackwell_nvf4"),
    ("bf16", "bf16", "cdna3_16"),
    ("bf16", "bf16", "cdna2_16"),
    ("mxfp8_e4m3", "mxfp8_e4m3", "mxdotp"),
    ("hbfp8", "hbfp8", "hbfp8_wrap"),
    ("bf16", "bf16", "exact"),
)


def rate(call: Callable[[], Any], products: int, repeat: int) -> float:
    """Median G multiply-adds per second, after two calls to warm up."""
    call()
    call()
    return products / statistics.median(seconds(call) for _ in range(repeat)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    n = options.size
    x = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    torch.set_num_threads(1)
    tensor = torch.from_numpy(x)
    table = Table(title=f"{n}x{n}x{n}, one thread, {sq.available_isas()[-1]}, {processor()}, commit {commit()}")
    for column in ("operands", "machine", "G multiply-adds/s"):
        table.add_column(column, justify="right" if column.startswith("G") else "left")
    table.add_row("float32", "torch", f"{rate(lambda: tensor @ tensor.T, n**3, options.repeat):.2f}")
    for a, b, datapath in CASES:
        left, right = sq.encode(x, a), sq.encode(x, b)
        speed = rate(lambda a=left, b=right, d=datapath: sq.matmul(a, b, datapath=d, threads=1), n**3, options.repeat)
        table.add_row(f"{a}, {b}", datapath, f"{speed:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
