"""The command line, `sparq`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track
from rich.table import Table

import sparq_sim as sq
from sparq_sim import _core, cli_machines, cli_storage, files, ranking_plot
from sparq_sim._core import ScaleLevel
from sparq_sim.arrays import bfloat16_values
from sparq_sim.compare import snr_db
from sparq_sim.console import JsonFlag, Like, Pattern, Threads
from sparq_sim.console import choices_of as _choices
from sparq_sim.console import log as _log
from sparq_sim.console import out as _out
from sparq_sim.console import print_json as _print_json
from sparq_sim.difference import Difference
from sparq_sim.explain import Explanation
from sparq_sim.fields import base_format, side
from sparq_sim.formats import Element, Format, Machine, Spec, block_text, code_text
from sparq_sim.identify import identify_sources
from sparq_sim.machines import is_file
from sparq_sim.matmul import offered_results
from sparq_sim.names import unknown_name
from sparq_sim.presets import Preset
from sparq_sim.rank import rank_tensors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=sq.__doc__)
for _command in (*cli_storage.COMMANDS, *cli_machines.COMMANDS):
    app.command()(_command)


def _scale_text(format_: Format) -> str:
    return " + ".join(_level_text(level) for level in format_.levels) or "none"


def _level_text(level: ScaleLevel) -> str:
    record = level.format
    name = next((e.name for e in sq.elements().values() if e.record == record), None)
    if level.combine == "subtract":
        return f"{name or f'int{record.code_bits}'} zero"
    return name or f"2^X, {record.exponent_bits} bits"


def _other_choices(format_: Format) -> dict[str, Any]:
    """What a format chooses besides scale rule and overflow, where it is no default."""
    defaults = sq.Conversion().to_dict()
    chosen = format_.conversion.to_dict()
    return {
        name: word for name, word in chosen.items() if name not in ("scale_rule", "overflow") and word != defaults[name]
    }


def _format_row(format_: Format) -> dict[str, Any]:
    conversion = format_.conversion
    return {
        "name": format_.name,
        "element": next(e.name for e in sq.elements().values() if e.record == format_.element),
        "block": block_text(format_.block) if isinstance(format_.block, tuple) else format_.block,
        "scale": _scale_text(format_),
        "bits_per_element": format_.bits_per_element(),
        "scale_rule": conversion.scale_rule if format_.levels else None,
        "overflow": conversion.overflow,
        "choices": _other_choices(format_),
        "source": format_.source,
        "evidence": format_.evidence,
    }


@app.command()
def formats(as_json: JsonFlag = False) -> None:
    """List the block formats of the catalog."""
    rows = [_format_row(format_) for format_ in sq.formats().values()]
    if as_json:
        return _print_json(rows)
    table = Table(title="formats", title_justify="left")
    for name in ("name", "element", "block", "scale", "bits", "scale rule", "evidence"):
        table.add_column(name, justify="right" if name == "bits" else "left", no_wrap=True)
    keys = ("name", "element", "block", "scale", "bits_per_element", "scale_rule", "evidence")
    for row in rows:
        cells = [row[key] for key in keys]
        table.add_row(
            *("" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells)
        )
    _out.print(table)
    return None


def _machine_row(machine: Machine) -> dict[str, Any]:
    fields = sq.datapath_to_dict(machine.record)
    operands = fields.pop("operands", ["any"])
    return {
        "name": machine.name,
        "operands": operands,
        "results": list(offered_results(machine.record)),
        "fields": fields,
        "source": machine.source,
        "evidence": machine.evidence,
    }


@app.command()
def datapaths(as_json: JsonFlag = False) -> None:
    """List the machines of the catalog, and where their rules come from."""
    rows = [_machine_row(machine) for machine in sq.datapaths().values()]
    if as_json:
        return _print_json(rows)
    table = Table(title="datapaths", title_justify="left")
    for name in ("name", "operands", "results", "evidence", "source"):
        table.add_column(name, no_wrap=name in ("name", "results", "evidence"))
    for row in rows:
        table.add_row(row["name"], " ".join(row["operands"]), " ".join(row["results"]), row["evidence"], row["source"])
    _out.print(table)
    return None


def _machine_of(name: str) -> Machine | None:
    """A machine of the catalog, or of a JSON file; None for other names."""
    if is_file(name):
        return Machine(name, sq.load_datapath(name), "a file", "user")
    return sq.datapaths().get(name)


def _show_machine(machine: Machine, as_json: bool) -> None:
    """Every field that is not at its default, with what it means."""
    row = _machine_row(machine)
    if as_json:
        return _print_json(row)
    title = f"{machine.name}: {machine.source} ({machine.evidence})"
    table = Table(title=title, title_justify="left", show_header=False)
    for key, value in row["fields"].items():
        words = hex(value) if key == "nan_bits" else str(value)
        table.add_row(key, words, machine.record.fields[key])
    table.add_row("operands", " ".join(row["operands"]), "element formats that it takes")
    table.add_row("results", " ".join(row["results"]), "")
    _out.print(table)
    return None


def _choices_text(choices: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={word}" for name, word in choices.items())


@app.command()
def presets(as_json: JsonFlag = False) -> None:
    """List the presets: what other libraries and machines choose, for --like."""
    made = sq.presets().values()
    if as_json:
        return _print_json([_preset_row(preset) for preset in made])
    table = Table(title="presets", title_justify="left")
    for name in ("name", "evidence", "formats", "choices"):
        table.add_column(name, no_wrap=name in ("name", "evidence"))
    for preset in made:
        for i, (names, choices) in enumerate(preset.groups()):
            first = ("", "") if i else (preset.name, preset.evidence)
            table.add_row(*first, " ".join(names), _choices_text(choices))
    _out.print(table)
    return None


def _preset_row(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "formats": list(preset.formats),
        "choices": dict(preset.choices),
        "by_format": {name: dict(choices) for name, choices in preset.by_format.items()},
        "source": preset.source,
        "evidence": preset.evidence,
        "notes": preset.notes,
    }


def _element_of(name: str, like: str | None) -> tuple[Element, Format | None]:
    """An element by its own name, or that of a format."""
    elements = sq.elements()
    if name in elements and name not in sq.formats():
        if like is not None:
            raise ValueError(f"--like {like}: {name} is an element; presets choose for formats")
        return elements[name], None
    known = [*sq.formats(), *dict(_core.aliases), *elements, *sq.datapaths()]
    if name not in known:
        raise unknown_name("format, element or datapath", name, known)
    format_ = sq.spec(name, like=like).format
    return next(e for e in elements.values() if e.record == format_.element), format_


@app.command()
def show(
    format: Annotated[
        str, typer.Argument(help="A format, an element, a datapath or a machine.json: mxfp4, e4m3, hopper_fp8.")
    ],
    like: Like = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a format (its fields, its bits and the value of every code of up to 8 bits) or a datapath (its fields)."""
    machine = _machine_of(format)
    if machine is not None:
        if like is not None:
            raise ValueError(f"--like {like}: {format} is a datapath; presets choose for formats")
        return _show_machine(machine, as_json)
    element, format_ = _element_of(format, like)
    record = element.record
    fields: dict[str, Any] = {
        **record.to_dict(),
        "code_bits": record.code_bits,
        "emin": record.emin,
        "emax": record.emax,
    }
    values = [record.value(code) for code in range(1 << record.code_bits)] if record.code_bits <= 8 else []
    if as_json:
        codes = [{"code": code, "value": repr(value)} for code, value in enumerate(values)]
        said = {"element": element.name, "source": element.source, "evidence": element.evidence}
        data = {**said, "fields": fields, "codes": codes}
        return _print_json({**data, "format": None if format_ is None else _format_row(format_)})
    if format_ is not None:
        table = Table(title=f"{format_.name}: {format_.source}", title_justify="left", show_header=False)
        for key, value in _format_row(format_).items():
            words = _choices_text(value) if isinstance(value, dict) else value
            table.add_row(key.replace("_", " "), "" if words is None else str(words))
        _out.print(table)
    title = f"element {element.name}: {element.source} ({element.evidence})"
    table = Table(title=title, title_justify="left", show_header=False)
    for key, value in fields.items():
        table.add_row(key, str(value), record.fields.get(key, ""))
    _out.print(table)
    if values:
        _out.print(_value_table(element, values))
    return None


def _value_table(element: Element, values: list[float]) -> Table:
    columns = 4 if len(values) >= 64 else 2 if len(values) > 4 else 1
    table = Table(title="codes (sign, exponent, mantissa) and values", title_justify="left", show_header=False)
    rows = len(values) // columns
    for row in range(rows):
        cells = []
        for column in range(columns):
            code = column * rows + row
            cells += [f"0x{code:02X}", code_text(element.record, code), f"{values[code]:.9g}"]
        table.add_row(*cells)
    return table


def _side(text: str) -> dict[str, Any]:
    """Choices as one word, ``scale_rule=even,rounding=nearest_away``; empty for those of the format."""
    return _choices([pair.strip() for pair in text.split(",") if pair.strip()], "--with")


def _print_comparison(found: Difference | Explanation, as_json: bool) -> None:
    if as_json:
        return _print_json(found.to_dict())
    _out.print(found.title, highlight=False, markup=False, soft_wrap=True)
    for table in found.tables():
        _out.print(table)
    for line in found.summary():
        _out.print(line, highlight=False, markup=False, soft_wrap=True)
    return None


@app.command()
def diff(
    format: Annotated[str, typer.Argument(help="A format, or an element for a cast, such as mxfp4 or e4m3.")],
    like: Annotated[list[str] | None, typer.Option(help="A preset; twice, or once beside --with.")] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            "--with", help="Choices, such as scale_rule=even,rounding=nearest_away, or '' for those of the format."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--data", help="An npy, npz, safetensors or GGUF file to measure, not normal numbers."),
    ] = None,
    tensor: Annotated[str | None, typer.Option(help="The tensor of the file, if it holds several.")] = None,
    seed: Annotated[int, typer.Option(help="Of the normal numbers.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compare two ways of encoding a format: fields, how much differs, and the smallest input that tells them apart."""
    sides: list[str | dict[str, Any]] = [*(like or []), *(_side(text) for text in choices or [])]
    if len(sides) != 2:
        raise ValueError(f"{len(sides)} sides: needed two, of --like PRESET and --with CHOICES")
    data = None if source is None else _numbers(_one_float(source, tensor)[1])
    found = sq.diff(format, sides[0], sides[1], data=data, seed=seed)
    _print_comparison(found, as_json)


@app.command()
def explain(
    source: Annotated[Path, typer.Argument(metavar="X", help="The input: an npy, npz, safetensors or GGUF file.")],
    outputs: Annotated[
        list[Path] | None, typer.Argument(metavar="[A] [B]", help="What became of it: values, not codes.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="A format, or an element for a cast, that made the outputs.")
    ] = None,
    like: Annotated[list[str] | None, typer.Option(help="A preset in the place of an output; repeatable.")] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option("--with", help="Choices in the place of an output, such as scale_rule=even, or ''; repeatable."),
    ] = None,
    axis: Annotated[int | None, typer.Option(help="Reduction axis of the format; default the last.")] = None,
    sparsity: Pattern = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="name=word of the format for both sides, such as block=16; repeatable.")
    ] = None,
    tensor: Annotated[str | None, typer.Option(help="The tensor of this name in files that hold several.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which choices account for two different outputs of the same input, block by block.

    Sides are the files A and B, then --like, then --with: two of them. Without --format nothing is said of A and B but
    where they differ.
    """
    sides: list[Any] = [*(like or []), *(_side(text) for text in choices or [])]
    count = len(outputs or []) + len(sides)
    if count != 2:
        raise ValueError(f"{count} sides: needed two, of files A and B, --like PRESET and --with CHOICES")
    if format is None and (sides or axis is not None or sparsity is not None or choice):
        raise ValueError("--format: needed beside --like, --with, --axis, --sparsity and --choice")
    made = None
    if format is not None:
        made = sq.spec(base_format(format), axis=axis, sparsity=sparsity, **_choices(choice or []))
        for given, option in zip(sides, ["--like"] * len(like or []) + ["--with"] * len(choices or []), strict=True):
            side(given, made, option)
    x, *arrays = (_one_float(path, tensor)[1].source() for path in (source, *(outputs or [])))
    for path, array in zip(outputs or [], arrays, strict=True):
        if array.shape != x.shape:
            raise ValueError(f"{path}: shape {array.shape}; needed that of {source}, {x.shape}")
    with _log.status("explaining"):
        found = sq.explain(x, *arrays, *sides, format=made)
    _print_comparison(found, as_json)


def _numbers(made: files.Named) -> Any:
    """The floats of a tensor, bfloat16 as float32."""
    return made.array if made.dtype != "bfloat16" else bfloat16_values(made.array)


def _chosen(path: Path, tensors: dict[str, files.Named], names: list[str] | None) -> dict[str, files.Named]:
    """The tensors of these names, or all."""
    for name in names or []:
        if name not in tensors:
            raise ValueError(f"{path}: no tensor {name!r}; there are: {', '.join(map(repr, tensors)) or 'none'}")
    return {name: made for name, made in tensors.items() if not names or name in names}


def _floats(path: Path, tensors: dict[str, files.Named]) -> dict[str, files.Named]:
    """Those that can be quantized; TypeError if there are none."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype in sq.FLOATS}
    if not floats:
        kinds = ", ".join(sorted({tensor.dtype for tensor in tensors.values()})) or "no tensors"
        raise TypeError(f"{path}: holds {kinds}; needed a tensor of {', '.join(sq.FLOATS)}")
    return floats


@app.command()
def emulate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An npy, npz, safetensors or GGUF file.")],
    format: Annotated[str, typer.Option("--format", "-f", help="A format of the catalog.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: npy, npz or safetensors.")],
    axis: Annotated[int, typer.Option(help="Reduction axis.")] = -1,
    sparsity: Annotated[str | None, typer.Option(help="An N:M pattern, such as 2:4.")] = None,
    like: Like = None,
    choice: Annotated[list[str] | None, typer.Option(help="name=word, such as scale_rule=rceil; repeatable.")] = None,
    tensor: Annotated[list[str] | None, typer.Option(help="Only the tensor of this name; repeatable.")] = None,
    inexact: Annotated[str | None, typer.Option(help="error or round.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of stochastic rounding by Philox; tensors are streams 0, 1, …, by name.")
    ] = None,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the values that every tensor of a file, or those named, have after encoding and decoding."""
    spec = sq.spec(format, axis=axis, sparsity=sparsity, like=like, **_choices(choice or []))
    if spec.conversion.rounding == "stochastic" and seed is None:
        raise ValueError("--choice rounding=stochastic needs --seed")
    if not output.parent.is_dir():
        raise ValueError(f"{output}: cannot write there (no such directory)")
    files.require_suffix(output)
    tensors = files.read_tensors(source)
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output}: is the input; give another file")
    chosen = _chosen(source, tensors, tensor)
    files.require_plain(source, chosen)
    floats = _floats(source, chosen)
    # Tensors of other dtypes go through unchanged.
    results, rows = dict(chosen), []
    # In the order of names: a file's own may differ from one reading to the next.
    streams = {name: stream for stream, name in enumerate(sorted(_floats(source, tensors)))}
    for name in track(sorted(floats), description="emulating", console=_log, transient=True):
        random = None if seed is None else sq.Philox(seed, streams[name])
        result, row = _emulate_one(name, floats[name], spec, inexact, random, threads)
        results[name] = result
        rows.append(row)
    kept = files.read_metadata(source)
    files.write_tensors(output, results, {**kept, "sparq_spec": spec.to_json(), "sparq_digest": spec.digest})
    if as_json:
        return _print_json({"spec": json.loads(spec.to_json()), "digest": spec.digest, "tensors": rows})
    table = Table(title=f"{spec} ({spec.digest})", title_justify="left")
    for name in rows[0] if rows else []:
        table.add_column(name.replace("_", " "), justify="left" if name in ("name", "shape", "dtype") else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _out.print(table)
    unchanged = [name for name in chosen if name not in floats]
    if unchanged:
        _out.print(f"unchanged, not floats: {', '.join(unchanged)}", highlight=False, markup=False)
    return None


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _emulate_one(
    name: str, tensor: files.Named, spec: Spec, inexact: str | None, random: sq.Philox | None, threads: int | None
) -> tuple[files.Named, dict[str, Any]]:
    events = sq.Events()
    x = _numbers(tensor)
    y = sq.emulate(x, spec, inexact=inexact, random=random, events=events, threads=threads)
    with np.errstate(all="ignore"):
        snr = snr_db(x, y)
    stored = y
    if tensor.dtype == "bfloat16":
        stored = sq.encode(y, "bf16", threads=threads).codes
    row = {
        "name": name,
        "shape": list(x.shape),
        "dtype": tensor.dtype,
        "snr_db": snr if np.isfinite(snr) else None,
        **vars(events),
    }
    return files.Named(stored, tensor.dtype), row


@app.command()
def rank(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="An npy, npz, safetensors or GGUF file.")],
    format: Annotated[
        list[str] | None, typer.Option("--format", "-f", help="A format; repeatable; default the catalog.")
    ] = None,
    axis: Annotated[int, typer.Option(help="Reduction axis.")] = -1,
    sparsity: Annotated[str | None, typer.Option(help="An N:M pattern, such as 2:4.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="name=word, such as scale_rule=rceil; repeatable.")] = None,
    tensor: Annotated[list[str] | None, typer.Option(help="Only the tensor of this name; repeatable.")] = None,
    each: Annotated[bool, typer.Option("--each", help="A ranking per tensor, not one of all together.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the ranking to this png, svg or pdf file.")] = None,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Rank formats by what they do to the float tensors of a file, the closest first."""
    if plot is not None:
        ranking_plot.require(plot)
    choices = _choices(choice or [])
    for name in format or []:
        sq.spec(name)
    chosen = dict(sorted(_chosen(source, files.read_tensors(source), tensor).items()))
    floats = _floats(source, chosen)
    if plot is not None and each and len(floats) > 1:
        raise ValueError("--plot draws one ranking: give one --tensor, or no --each")
    parts = [{name: one} for name, one in floats.items()] if each else [floats]
    rankings = []
    for part in track(parts, description="ranking", console=_log, transient=True):
        title = f"{source.name} {next(iter(part))}".strip() if len(part) == 1 else source.name
        sources = {name: one.source() for name, one in part.items()}
        rankings.append(
            rank_tensors(sources, format or None, name=title, axis=axis, sparsity=sparsity, threads=threads, **choices)
        )
    if plot is not None:
        rankings[0].plot(plot)
    if as_json:
        return _print_json([ranking.to_dict() for ranking in rankings] if each else rankings[0].to_dict())
    for ranking in rankings:
        _out.print(ranking.table())
        for line in ranking.summary():
            _out.print(line, highlight=False, markup=False, soft_wrap=True)
    left_out = [name for name in chosen if name not in floats]
    if left_out:
        _out.print(f"left out, not floats: {', '.join(left_out)}", highlight=False, markup=False)
    return None


def _one_float(path: Path, tensor: str | None) -> tuple[str, files.Named]:
    """The float tensor of a file that has this name, or the only one."""
    tensors = files.read_tensors(path)
    if tensor is not None and list(tensors) != [""]:
        if tensor not in tensors:
            raise ValueError(f"{path}: no tensor {tensor!r}; there are: {', '.join(map(repr, tensors)) or 'none'}")
        tensors = {tensor: tensors[tensor]}
    floats = _floats(path, tensors)
    if len(floats) > 1:
        raise ValueError(
            f"{path}: {len(floats)} tensors of floats; name one with --tensor: {', '.join(sorted(floats))}"
        )
    return next(iter(floats.items()))


@app.command()
def identify(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="An npy, npz, safetensors or GGUF file.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="What became of it: values, not codes.")],
    axis: Annotated[
        int | None, typer.Option(help="Reduction axis; default: the last two, the first, and of four all.")
    ] = None,
    tensor: Annotated[str | None, typer.Option(help="The tensor of this name in both files.")] = None,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which format and choices made AFTER of BEFORE, or what comes closest.

    Exit code 0 if something makes exactly AFTER, 1 if nothing does, 2 for wrong arguments.
    """
    name, x = _one_float(before, tensor)
    _, y = _one_float(after, tensor)
    with _log.status("identifying"):
        title = f"{after.name} {name}".strip()
        found = identify_sources(x.source(), y.source(), axis=axis, threads=threads, name=title)
    if as_json:
        _print_json(found.to_dict())
    else:
        _out.print(found.table())
        for line in found.summary():
            _out.print(line, highlight=False, markup=False, soft_wrap=True)
        _out.print(f"{found.seconds:.1f} s", highlight=False)
    raise typer.Exit(0 if found.matches else 1)


@app.command()
def check(
    weights: Annotated[str, typer.Option("--weights", "-w", help="Format of the weights.")] = "mxfp6_e2m3",
    activations: Annotated[str, typer.Option("--activations", "-a", help="Format of the activations.")] = "mxfp8_e4m3",
    datapath: Annotated[str, typer.Option("--datapath", "-d", help="The machine that adds.")] = "block_fp32",
    weight_sparsity: Annotated[str | None, typer.Option(help="An N:M pattern, such as 2:4.")] = None,
    activation_sparsity: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    compressed: Annotated[
        str | None, typer.Option(help="weights or activations: the machine takes these as they are stored.")
    ] = None,
    split_k: Annotated[int | None, typer.Option(help="Parts of K that are added up by themselves.", min=1)] = None,
    epilogue: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16: precision of the epilogue.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="name=word, such as scale_rule=rceil; repeatable.")] = None,
    cases: Annotated[bool, typer.Option(help="Also run the three cases that a check must tell apart.")] = True,
    every_layer: Annotated[bool, typer.Option(help="List every layer, not only those that are not ok.")] = True,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Check EfficientNet-Lite0 (published weights, twelve photos) against a simulated accelerator.

    Exit code 0 if everything is explained, and, with --cases, if the honest model passes and the two wrong ones are
    caught; 1 if not; 2 for wrong arguments.
    """
    machine = sq.Accelerator(
        weights, activations, weight_sparsity, activation_sparsity, datapath, compressed=compressed, split_k=split_k,
        epilogue=None if epilogue is None else sq.Epilogue(precision=epilogue), rules=_choices(choice or []),
    )  # fmt: skip
    from sparq_sim.torch import demo

    with _log.status("loading") as status:
        say: Callable[[str], None] = status.update
        report = demo.shipped_check(machine, threads, say)
        made = demo.cases(threads, say) if cases else []
    if as_json:
        listed = [{"title": c.title, "expected_ok": c.expected_ok, "report": c.report.to_dict()} for c in made]
        _print_json({**report.to_dict(), "cases": listed})
    else:
        if every_layer or not all(layer.ok for layer in report.layers):
            _out.print(report.table(every_layer=every_layer))
        for line in report.summary():
            _out.print(line, highlight=False, markup=False)
        if made:
            _print_cases(made)
    raise typer.Exit(0 if report.ok and all(case.as_expected for case in made) else 1)


def _print_cases(made: list[Any]) -> None:
    _out.print("\nWould it notice? Other models on the same machine, two photos each:")
    for case in made:
        word = "green" if case.report.ok else "RED"
        expected = "as it must be" if case.as_expected else "WRONG"
        _out.print(f"  {word} ({expected}): {case.title}", highlight=False, markup=False, soft_wrap=True)
        for finding in case.report.findings[:2]:
            _out.print(f"      {finding}", highlight=False, markup=False, soft_wrap=True)
        if len(case.report.findings) > 2:
            _out.print(f"      and {len(case.report.findings) - 2} more findings", highlight=False)


def main() -> None:
    """Entry point: errors of arguments and files are one line and exit code 2."""
    try:
        app()
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        _log.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        _log.print(
            f"error: {where}{error.strerror or error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left for a disk that is full
        sys.exit(2)


if __name__ == "__main__":
    main()
