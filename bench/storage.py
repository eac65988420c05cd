"""Speed of what memory holds, all in one run: sparsify, encode and pack beside torch's own way to the same bytes, and
unpack and decode beside a memory copy.

    python bench/storage.py [--size 2048] [--repeat 7]

One thread everywhere but for the checkpoint, which takes what it is given; medians. Each contender is timed right after
a copy of its own (see README.md). Before torch is timed its bytes have to be ours.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file
from timing import Contender, Copy, commit, processor, race
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

import sparq_sim as sq
from sparq_sim.convert import convert

LAYOUT = "cutlass_sm80_8bit"


def by_torch(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """MXFP4 of 2:4 (scales by floor) with CUTLASS metadata in torch's own operations: elements, scales, metadata."""
    groups = x.view(-1, 4)
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.abs().topk(2, dim=1).indices, True)
    blocks = torch.where(keep, groups, 0.0).view(x.shape[0], -1, 32)
    exponent = ((blocks.abs().amax(2, keepdim=True).view(torch.int32) >> 23) - 2).clamp(0, 254)
    scaled = blocks / (exponent << 23).view(torch.float32)
    size = scaled.abs().clamp(max=6.0)
    halves = torch.where(size < 2, (2 * size).round(), torch.where(size < 4, 2 * size.round(), 4 * (size / 2).round()))
    table = torch.tensor([0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7], dtype=torch.int8)
    codes = table[halves.long()] | (scaled.signbit().to(torch.int8) << 3)
    # The conversion goes by what is not zero: codes plus one, where they are kept.
    dense = ((codes.view(x.shape) + 1) * keep.view(x.shape)).to(torch.int8)
    stored, metadata = sparse_semi_structured_from_dense_cutlass(dense)
    stored = stored - 1
    return stored[:, ::2] | stored[:, 1::2] << 4, exponent.squeeze(2).to(torch.uint8), metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    n = options.size
    torch.set_num_threads(1)
    x = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    tensor, target = torch.from_numpy(x), np.empty_like(x)
    spec = sq.spec("mxfp4", sparsity="2:4")

    def encode_and_pack() -> sq.Packed:
        return sq.encode(x, spec, threads=1).pack(LAYOUT, threads=1)

    packed = encode_and_pack()
    made = dict(zip(("elements", "scales", "positions"), by_torch(tensor), strict=True))
    for name, data in made.items():
        if data.numpy().tobytes() != packed.planes[name].tobytes():
            raise SystemExit(f"torch's {name} are not ours")
    encoded = sq.encode(x, spec, threads=1)
    if packed.decode().tobytes() != encoded.decode().tobytes():
        raise SystemExit("the ways to decode differ")
    dense = sq.encode(x, "mxfp4", threads=1)
    dense_packed = dense.pack(threads=1)
    copy = Copy(lambda: np.copyto(target, x), x.size)
    ours = "sparq_sim"
    rows = race(
        [
            Contender("sparsify, encode, pack", ours, encode_and_pack, x.size, copy),
            Contender("sparsify, encode, pack", "torch", lambda: by_torch(tensor), x.size, copy),
            Contender("pack alone", ours, lambda: encoded.pack(LAYOUT, threads=1), x.size, copy),
            Contender("unpack, decode", ours, lambda: packed.decode(threads=1), x.size, copy),
            Contender(
                "the same by way of codes", ours, lambda: sq.unpack(packed, threads=1).decode(threads=1), x.size, copy
            ),
            Contender("unpack alone", ours, lambda: sq.unpack(packed, threads=1), x.size, copy),
            Contender("decode alone", ours, lambda: encoded.decode(threads=1), x.size, copy),
            Contender("dense: unpack, decode", ours, lambda: dense_packed.decode(threads=1), x.size, copy),
        ],
        options.repeat,
    )
    with tempfile.TemporaryDirectory() as folder:
        source, output, copied = Path(folder) / "in", Path(folder) / "out", Path(folder) / "copy"
        source.mkdir()
        save_file({"weight": x}, source / "model.safetensors")

        def convert_it() -> None:
            (output / "model.safetensors").unlink(missing_ok=True)
            convert(source, output, spec, sq.layouts()["row_major"])

        def copy_it() -> None:
            copied.write_bytes((source / "model.safetensors").read_bytes())

        files = Copy(copy_it, x.size)
        rows += race([Contender("a checkpoint, of copying its file", ours, convert_it, x.size, files)], options.repeat)
    title = f"mxfp4 2:4, {LAYOUT}, {n}x{n} float32, one thread, {sq.available_isas()[-1]}, {processor()}, {commit()}"
    table = Table(title=title, title_justify="left")
    for column in ("what", "by", "G elements/s", "of copy", "of capped copy"):
        table.add_column(column, justify="left" if column in ("what", "by") else "right")
    for row in rows:
        table.add_row(row.what, row.by, f"{row.rate:.3f}", f"{row.of_copy:.2f}", f"{row.of_capped_copy:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"sparsify, encode, pack: {rows[0].rate / rows[1].rate:.1f} times torch", highlight=False)


if __name__ == "__main__":
    main()
