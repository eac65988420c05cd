"""Commands of `sparq` about what memory holds: layouts, sizes, files of encoded tensors."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from sparq_sim import ranking_plot
from sparq_sim.console import Choices, JsonFlag, Like, Pattern, Threads, choices_of, log, out, print_json
from sparq_sim.convert import convert
from sparq_sim.formats import spec
from sparq_sim.inspection import BlockBits, inspect_block
from sparq_sim.layouts import layouts as all_layouts
from sparq_sim.packing import layout_for
from sparq_sim.storage import Storage, storage, traffic
from sparq_sim.store import contents, load, others
from sparq_sim.tradeoff import tradeoff as measure_tradeoff

LayoutName = Annotated[str, typer.Option("--layout", help="A layout of `sparq layouts`.")]
Encoding = Annotated[str | None, typer.Option(help="Of positions: index, relative, halves, bitmask or rank.")]


def layouts(as_json: JsonFlag = False) -> None:
    """List the layouts of the catalog: how bytes of codes, scales and positions lie in memory."""
    made = all_layouts().values()
    if as_json:
        return print_json(
            [
                {
                    "name": one.name, "formats": list(one.formats), "code_bits": list(one.code_bits),
                    "patterns": list(one.patterns), "sparse": one.positions is not None, "encoding": one.encoding,
                    "fill": one.fill, "multiple": list(one.multiple), "source": one.source, "evidence": one.evidence,
                }
                for one in made
            ]
        )  # fmt: skip
    table = Table(title="layouts", title_justify="left")
    for name in ("name", "holds", "sparse", "evidence", "source"):
        table.add_column(name, no_wrap=name in ("name", "evidence"))
    for one in made:
        holds = " ".join(one.formats) or (f"codes of {_widths(one.code_bits)} bits" if one.code_bits else "any format")
        sparse = "no" if one.positions is None else " ".join(one.patterns) or "any N:M"
        table.add_row(one.name, holds, sparse, one.evidence, one.source)
    out.print(table)
    return None


def _widths(bits: tuple[int, ...]) -> str:
    whole = bits == tuple(range(bits[0], bits[-1] + 1)) and len(bits) > 2
    return f"{bits[0]} to {bits[-1]}" if whole else " or ".join(map(str, bits))


def _sizes(text: str, count: int | None, option: str) -> tuple[int, ...]:
    match = re.fullmatch(r"[0-9]{1,15}(x[0-9]{1,15})*", text)
    sizes = tuple(map(int, text.split("x"))) if match else ()
    if not sizes or (count is not None and len(sizes) != count):
        needed = "x".join("MNK"[:count] if count else ("4096", "4096"))
        raise ValueError(f"{option} {text}: needed sizes such as {needed}")
    return sizes


def _size_rows(made: Storage) -> list[tuple[str, str]]:
    bits = made.per_element
    return [
        ("elements", f"{bits(made.elements):.6g} bits"),
        ("scales", f"{bits(made.scales):.6g} bits"),
        ("positions", f"{bits(made.positions):.6g} bits"),
        ("padding", f"{bits(made.padding):.6g} bits"),
        ("together", f"{made.bits_per_element:.6g} bits"),
        ("against float32", f"{made.against_fp32:.4g} times smaller"),
        ("against float16", f"{made.against_fp16:.4g} times smaller"),
        ("against the dense format", f"{made.against_dense:.4g} times smaller"),
        ("elements alone against float32", f"{made.elements_alone_against_fp32:.4g} times (what papers often count)"),
    ]


def size(
    format: Annotated[str, typer.Argument(help="A format of the catalog.")],
    shape: Annotated[str, typer.Option(help="Of the dense tensor.")] = "4096x4096",
    sparsity: Pattern = None,
    axis: Annotated[int, typer.Option(help="Reduction axis.")] = -1,
    layout: LayoutName = "row_major",
    encoding: Encoding = None,
    like: Like = None,
    choice: Choices = None,
    gemm: Annotated[str | None, typer.Option(help="MxNxK: bytes of a product whose b [N, K] is in the format.")] = None,
    activations: Annotated[str, typer.Option(help="Format of a [M, K] in that product.")] = "mxfp8",
    as_json: JsonFlag = False,
) -> None:
    """Count the bits per element of a format, split into elements, scales, positions and padding."""
    made = spec(format, axis=axis, sparsity=sparsity, like=like, **choices_of(choice or []))
    counted = storage(made, _sizes(shape, None, "--shape"), layout=layout, encoding=encoding)
    moved = None
    if gemm is not None:
        m, n, k = _sizes(gemm, 3, "--gemm")
        moved = traffic(m, n, k, activations, spec(made, axis=-1), layout=layout, encoding=encoding)
    if as_json:
        return print_json(
            {"spec": str(made), **counted.to_dict(), **({} if moved is None else {"gemm": moved.to_dict()})}
        )
    table = Table(title=f"{made}, {layout}, {shape}: bits per dense element", title_justify="left")
    table.add_column("what")
    table.add_column("how much", justify="right")
    for row in _size_rows(counted):
        table.add_row(*row)
    out.print(table)
    if moved is not None:
        out.print(
            f"{gemm}: a {moved.a} + b {moved.b} + result (bf16) {moved.result} = {moved.total} bytes, "
            f"{moved.intensity:.4g} operations per byte",
            highlight=False,
        )
    return None


def inspect(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A safetensors file that `save` or `encode` wrote, or a GGUF file.")
    ],
    tensor: Annotated[str | None, typer.Option(help="Show a block of this tensor.")] = None,
    index: Annotated[str | None, typer.Option(help="Of an element of the block, such as 3,64.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the tensors of a file, or print the bits of a block: sign, exponent, mantissa, scales, positions.

    Tensors that are not encoded, or of a type that has no format here, are listed by their type alone.
    """
    found, beside = contents(source), others(source)
    if tensor is None and len(found) == 1 and not beside:
        tensor = next(iter(found))
    if tensor is None:
        rows: list[dict[str, Any]] = [
            {
                "name": one.name, "shape": list(one.shape), "spec": str(one.spec), "layout": one.layout.name,
                "bits_per_element": storage(one.spec, one.shape, layout=one.layout).bits_per_element,
            }
            for one in found.values()
        ]  # fmt: skip
        rows += [
            {
                "name": one.name, "shape": list(one.shape), "type": one.type,
                "bits_per_element": None if one.nbytes is None else 8 * one.nbytes / max(1, math.prod(one.shape)),
            }
            for one in beside.values()
        ]  # fmt: skip
        if as_json:
            return print_json(rows)
        table = Table(title=source.name, title_justify="left")
        for name in ("name", "shape", "spec", "layout", "bits"):
            table.add_column(name)
        for row in rows:
            extents, bits = "x".join(map(str, row["shape"])), row["bits_per_element"]
            table.add_row(
                escape(_shown(row["name"])), extents, row.get("spec", row.get("type")), row.get("layout", ""),
                "" if bits is None else f"{bits:.6g}",
            )  # fmt: skip
        out.print(table)
        return None
    read = load(source, tensor)
    at: tuple[int, ...] = ()
    if index is not None:
        if not re.fullmatch(r"[0-9]{1,15}(,[0-9]{1,15})*", index):
            raise ValueError(f"--index {index}: needed numbers such as 3,64")
        at = tuple(map(int, index.split(",")))
    block = inspect_block(read, at)
    if as_json:
        return print_json({"name": tensor, "spec": str(read.spec), **block.to_dict()})
    _print_block(tensor, str(read.spec), block)
    return None


def _shown(name: str) -> str:
    """A name of a file, without what a terminal would obey."""
    return name if name.isprintable() else repr(name)


def _print_block(name: str, made: str, block: BlockBits) -> None:
    out.print(f"{_shown(name)}: {made}", highlight=False, markup=False, soft_wrap=True)
    for scale in block.scales:
        whole = scale.count == len(block.elements)
        of = "" if whole else f" of {scale.first} to {scale.first + scale.count - 1}"
        does = "" if scale.combine == "multiply" else f" ({scale.combine})"
        out.print(f"scale {scale.level}{of}: {scale.bits} = {scale.value:.9g}{does}", highlight=False)
    table = Table()
    for column in ("index", "position", "code", "s e m", "element", "value"):
        table.add_column(column, justify="right")
    for one in block.elements:
        if not one.kept:
            table.add_row(",".join(map(str, one.index)), "pruned", "", "", "", f"{one.value:.9g}")
            continue
        position = "" if one.position is None else str(one.position)
        cells = (position, f"0x{one.code:X}", one.fields, f"{one.element:.9g}", f"{one.value:.9g}")
        table.add_row(",".join(map(str, one.index)), *cells)
    out.print(table)


def encode(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A directory of safetensors shards, or a safetensors or GGUF file.")
    ],
    format: Annotated[str, typer.Option("--format", "-f", help="A format of the catalog.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to write.")],
    sparsity: Pattern = None,
    axis: Annotated[int, typer.Option(help="Reduction axis.")] = -1,
    layout: LayoutName = "row_major",
    encoding: Encoding = None,
    like: Like = None,
    choice: Choices = None,
    include: Annotated[list[str] | None, typer.Option(help="Only tensors of such names; * is anything.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave tensors of such names as they are.")] = None,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Encode and pack every float tensor of two and more axes of a checkpoint, a tensor at a time.

    Everything else is copied. Run again after a kill, it goes on after the shards that are finished. --layout takes a
    family too (compressed-tensors, gguf, quark): the layout in it that holds the format.
    """
    made = spec(format, axis=axis, sparsity=sparsity, like=like, **choices_of(choice or []))
    chosen = layout_for(layout, made, encoding)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, transient=True, disable=not log.is_terminal) as progress:
        task = progress.add_task("encoding", total=None)

        def started(total: int) -> None:
            progress.update(task, total=total)

        def advanced(name: str, nbytes: int) -> None:
            progress.update(task, advance=nbytes, description=name[-40:])

        done = convert(
            source, output, made, chosen, include=include or (), exclude=exclude or (), threads=threads,
            started=started, advanced=advanced,
        )  # fmt: skip
    if as_json:
        return print_json({"spec": str(made), "digest": made.digest, "layout": chosen.name, **asdict(done)})
    times = f", {done.bytes_before / done.bytes_after:.2f} times smaller" if done.bytes_after else ""
    out.print(f"{made} ({made.digest}), {chosen.name}", highlight=False, markup=False, soft_wrap=True)
    if made.sparsity is not None and chosen.positions is None:
        out.print("pruned elements are stored as zeros: the layout has no positions", highlight=False)
    out.print(
        f"{done.tensors} tensors encoded: {done.bytes_before} bytes became {done.bytes_after}{times}; "
        f"{done.others} copied",
        highlight=False,
    )
    if done.skipped:
        out.print(f"finished before: {', '.join(done.skipped)}", highlight=False, markup=False, soft_wrap=True)
    return None


def tradeoff(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A safetensors or GGUF file, or a directory of safetensors.")
    ],
    format: Annotated[list[str], typer.Option("--format", "-f", help="A format of the catalog; repeatable.")],
    sparsity: Annotated[
        list[str] | None, typer.Option(help="An N:M pattern, or dense; repeatable; default dense and 2:4.")
    ] = None,
    axis: Annotated[int, typer.Option(help="Reduction axis.")] = -1,
    plot: Annotated[Path | None, typer.Option(help="Draw size against noise to this png, svg or pdf file.")] = None,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare size with signal-to-noise ratio over formats and sparsities, on all weights of a model."""
    if plot is not None:
        ranking_plot.require(plot)
    patterns = [None if one == "dense" else one for one in sparsity or ["dense", "2:4"]]
    with log.status("measuring"):
        found = measure_tradeoff(source, format, patterns, axis=axis, threads=threads)
    if plot is not None:
        found.plot(plot)
    if as_json:
        return print_json(found.to_dict())
    out.print(found.table())
    return None


COMMANDS = (layouts, size, inspect, encode, tradeoff)
