"""Size against signal-to-noise ratio over formats and sparsities: what a checkpoint would become."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from sparq_sim import disk, files, ranking_plot
from sparq_sim.arrays import Array, Source, source
from sparq_sim.containers import open_file
from sparq_sim.formats import spec
from sparq_sim.rank import rank_tensors
from sparq_sim.shards import find_index
from sparq_sim.storage import storage


@dataclass(frozen=True)
class TradeoffRow:
    """A format and a sparsity on all tensors together."""

    format: str
    sparsity: str | None
    bits_per_element: float
    """Elements, scales, positions and ends of lines, packed line by line, per dense element."""
    snr_db: float | None
    """Signal-to-noise ratio, pruned elements counted as errors; infinite without any; None if numbers became NaN or
    Inf."""
    against_fp32: float
    elements_alone_against_fp32: float
    """What papers often count."""
    on_frontier: bool = False
    """Whether nothing else has a higher ratio for as few bits, or fewer bits for as high a ratio."""


@dataclass(frozen=True)
class Tradeoff:
    """What `tradeoff` found: rows from the smallest to the largest."""

    rows: tuple[TradeoffRow, ...]
    name: str
    tensors: int
    elements: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it: an infinite ratio is None."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["snr_db"] = row["snr_db"] if row["snr_db"] is not None and math.isfinite(row["snr_db"]) else None
        return {"name": self.name, "tensors": self.tensors, "elements": self.elements, "rows": rows}

    def table(self) -> Table:
        """For a console; a star marks the frontier."""
        made = Table(title=f"{self.name}: {self.tensors} tensors, {self.elements} elements", title_justify="left")
        for column in ("", "format", "sparsity", "bits", "SNR dB", "against float32", "elements alone"):
            made.add_column(column, justify="left" if column in ("", "format", "sparsity") else "right")
        for row in self.rows:
            snr = "" if row.snr_db is None else f"{row.snr_db:.2f}"
            made.add_row(
                "*" if row.on_frontier else "", row.format, row.sparsity or "", f"{row.bits_per_element:.4f}", snr,
                f"{row.against_fp32:.2f}", f"{row.elements_alone_against_fp32:.2f}",
            )  # fmt: skip
        return made

    def plot(self, path: str | Path) -> None:
        """Draws bits against the ratio to a png, svg or pdf file; needs matplotlib.

        Raises:
            ValueError: another suffix, or a directory that cannot be written.
        """
        path = Path(path)
        ranking_plot.require(path)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 6), dpi=120)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        able = [(row, row.snr_db) for row in self.rows if row.snr_db is not None and math.isfinite(row.snr_db)]
        for sparsity in dict.fromkeys(row.sparsity for row, _ in able):
            own = [(row, snr) for row, snr in able if row.sparsity == sparsity]
            axes.scatter([row.bits_per_element for row, _ in own], [snr for _, snr in own], label=sparsity or "dense")
        front = [(row.bits_per_element, snr) for row, snr in able if row.on_frontier]
        axes.plot([bits for bits, _ in front], [snr for _, snr in front], linewidth=0.8, color="#8a8f98")
        for row, snr in able:
            place = (row.bits_per_element, snr)
            axes.annotate(row.format, place, xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set_xlabel("bits per dense element: elements, scales, positions")
        axes.set_ylabel("signal-to-noise ratio (dB)")
        axes.set_title(f"{self.name}: {self.tensors} tensors, {self.elements} elements", loc="left")
        axes.legend()
        disk.write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def tradeoff(
    tensors: str | Path | Mapping[str, Any],
    formats: Sequence[str],
    sparsities: Sequence[str | None] = (None, "2:4"),
    *,
    axis: int = -1,
    threads: int | None = None,
    **choices: Any,
) -> Tradeoff:
    """Size against signal-to-noise ratio, for every format with every sparsity.

    Args:
        tensors: arrays or torch tensors by name, a safetensors or GGUF file, or a directory of safetensors; of files
            the float tensors of two and more axes count, mapped and not read as a whole.
        formats: names of `formats()`.
        sparsities: patterns N:M; None is dense.
        axis, threads, choices: as in `emulate`.

    Raises:
        ValueError: unknown names, or no tensors; shards or tensors that an index names and that are not there.

    >>> import numpy as np, sparq_sim as sq
    >>> x = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    >>> made = sq.tradeoff({"x": x}, ["mxfp8", "mxfp4"])
    >>> [(row.format, row.sparsity, row.bits_per_element) for row in made.rows if row.on_frontier]
    [('mxfp4', '2:4', 3.25), ('mxfp4', None, 4.25), ('mxfp8', None, 8.25)]
    """
    name, found = _sources(tensors)
    specs = [(f, s, spec(f, axis=axis, sparsity=s, **choices)) for f in formats for s in sparsities]
    if not specs:
        raise ValueError("needed a format and a sparsity (None is dense)")
    rows = []
    elements = sum(one.data.size for one in found.values())
    for format_, sparsity, made in specs:
        counted = [storage(made, one.shape) for one in found.values()]
        total, alone = sum(one.total for one in counted), sum(one.elements for one in counted)
        ranking = rank_tensors(found, [format_], name=name, axis=axis, sparsity=sparsity, threads=threads, **choices)
        rows.append(
            TradeoffRow(
                format_,
                sparsity,
                total / elements,
                ranking.rows[0].snr_db,
                32 * elements / total,
                32 * elements / alone,
            )
        )
    rows.sort(key=lambda row: (row.bits_per_element, -(row.snr_db if row.snr_db is not None else -math.inf)))
    best, marked = -math.inf, []
    for row in rows:
        better = row.snr_db is not None and row.snr_db > best
        marked.append(TradeoffRow(**{**asdict(row), "on_frontier": better}))
        best = max(best, row.snr_db) if row.snr_db is not None else best
    return Tradeoff(tuple(marked), name, len(found), elements)


def _sources(tensors: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Source]]:
    if isinstance(tensors, Mapping):
        found = {name: source(x, name) for name, x in tensors.items()}
        title = ""
    else:
        path = Path(tensors)
        title = path.name
        paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        shards = {one.name: open_file(one).shard() for one in paths}
        index = find_index(path) if path.is_dir() else None
        if index is not None:
            index.require({file: shard.entries.keys() for file, shard in shards.items()})
        found = {}
        for file, shard in shards.items():
            for name, entry in shard.entries.items():
                if entry.float_name is None or len(entry.shape) < 2 or not entry.nbytes:
                    continue
                found[f"{file}:{name}"] = _named(shard.bytes_of(name), entry.float_name, entry.shape)
    if not any(one.data.size for one in found.values()):
        raise ValueError(f"{tensors if title else 'tensors'}: no elements there to count")
    return title, found


def _named(data: Array, dtype: str, shape: tuple[int, ...]) -> Source:
    width = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
    return files.Named(data.view(width).reshape(shape), dtype).source()
