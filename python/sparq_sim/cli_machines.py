"""Commands of `sparq` about machines that add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparq_sim import files
from sparq_sim.arrays import numpy_dtype
from sparq_sim.console import JsonFlag, Threads, log, out, print_json
from sparq_sim.formats import elements
from sparq_sim.identify_datapath import identify_datapath as identify
from sparq_sim.machines import resolve_datapath
from sparq_sim.matmul import RESULTS, matmul, result_of
from sparq_sim.probe import probe as probe_function

_ONE = "An npy file, or FILE:NAME of an npz, safetensors or GGUF file"
Scales = Annotated[str | None, typer.Option(help=f"Scale codes or float32 scales of rows. {_ONE}.")]


def _read(text: str) -> files.Named:
    """The tensor that FILE or FILE:NAME names."""
    path, colon, name = text.rpartition(":")
    if not colon or not Path(path).suffix:
        path, name = text, ""
    tensors = files.read_tensors(Path(path))
    if name not in tensors and not (name == "" and len(tensors) == 1):
        raise ValueError(f"{path}: no tensor {name!r}; name one as {path}:NAME, of {', '.join(map(repr, tensors))}")
    made = tensors[name] if name in tensors else next(iter(tensors.values()))
    files.require_plain(Path(path), {name: made})
    return made


def _array(text: str | None) -> Any:
    """As the library takes it in."""
    if text is None:
        return None
    made = _read(text)
    return made.array.view(numpy_dtype("bfloat16")) if made.dtype == "bfloat16" else made.array


def identify_datapath(
    a: Annotated[str, typer.Argument(metavar="A", help=f"[M, K]: {_ONE}.")],
    b: Annotated[str, typer.Argument(metavar="B", help="[N, K].")],
    d: Annotated[str, typer.Argument(metavar="D", help="[M, N]: what a machine made of them.")],
    c: Annotated[str | None, typer.Option("--c", help="[M, N]: what its accumulators started with.")] = None,
    a_format: Annotated[str | None, typer.Option(help="Element of A where it holds codes, such as e4m3.")] = None,
    b_format: Annotated[str | None, typer.Option(help="Of B.")] = None,
    d_format: Annotated[str | None, typer.Option(help="Of D where it holds bits: fp32, fp16, bf16, int32.")] = None,
    a_scales: Scales = None,
    b_scales: Scales = None,
    datapath: Annotated[
        list[str] | None, typer.Option("--datapath", "-d", help="A machine.json to try too; repeatable.")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show the steps of the nearest's first difference.")] = False,
    threads: Threads = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which machine made D = A @ B.T (+ C), or what comes closest: the catalog, given ones, and knobs turned.

    Exit code 0 if something makes exactly D, 1 if nothing does, 2 for wrong arguments.
    """
    with log.status("identifying"):
        found = identify(
            _array(a), _array(b), _array(d), c=_array(c), a_format=a_format, b_format=b_format, d_format=d_format,
            a_scales=_array(a_scales), b_scales=_array(b_scales), machines=datapath, threads=threads,
        )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        out.print(found.table())
        for line in found.summary():
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        out.print(f"{found.seconds:.1f} s", highlight=False)
        if trace and found.best is not None and not found.best.exact:
            out.print(str(found.best.trace()), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.matches else 1)


def probe(
    name: Annotated[str, typer.Argument(metavar="MACHINE", help="A machine of the catalog, or a machine.json.")],
    k: Annotated[int, typer.Option("--k", help="Length of the sums.")] = 64,
    a_format: Annotated[str | None, typer.Option(help="Element of the operands; default: its first.")] = None,
    result: Annotated[str | None, typer.Option(help="fp32, fp16 or int32, where it offers it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Look into a machine as into a black box: the order of its sums, widths and roundings, from outputs alone."""
    record = resolve_datapath(name)
    known = [one for one, element in elements().items() if element.record in record.operands]
    # A machine that drops bits reads float32 words.
    format = a_format or ("fp32" if record.dropped_bits else (known or ["fp16"])[0])
    c_dtype = RESULTS[result_of(record, result)].name

    def box(a: Any, b: Any, c: Any) -> Any:
        return matmul(a, b, datapath=record, c=c, a_format=format, b_format=format, result=result)

    with log.status("probing"):
        found = probe_function(box, k, a_format=format, operands="codes", c_dtype=c_dtype)
    if as_json:
        return print_json(found.to_dict())
    for line in found.lines():
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    return None


COMMANDS = (identify_datapath, probe)
