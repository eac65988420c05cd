"""The result of `rank`: a row per format and the exponents of the input, as data, JSON and a table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class RankRow:
    """One format on the tensor. Errors are decoded minus original, over the elements that are finite before and after;
    None where there is none to speak of. Shares are of all elements."""

    name: str
    """Of the format, and what differs from the catalog's."""
    spec: str
    bits_per_element: float | None
    """Codes and scales, of the dense tensor also with sparsity; None if the format does not take the choices."""
    snr_db: float | None = None
    """Signal-to-noise ratio; infinite without any error; None if a finite element became NaN or Inf."""
    relative_l1: float | None = None
    """Sum of |error| over the sum of |x|."""
    relative_l2: float | None = None
    """Root of the sum of error**2 over that of x**2."""
    max_error: float | None = None
    """The largest |error|."""
    bias: float | None = None
    """The mean error, with its sign."""
    saturated: float | None = None
    """Share of elements beyond the largest value (docs/numerics.md section 13)."""
    underflowed: float | None = None
    """Share of elements that are not zero and become zero."""
    zeros: float | None = None
    """Share of elements that decode to zero; those that were zero or are pruned count too."""
    refused: bool = False
    note: str = ""
    """Why it is refused, or what the numbers leave out."""


@dataclass(frozen=True)
class ExponentHistogram:
    """How many elements have which floor(log2|x|), taken from their bits."""

    exponents: tuple[int, ...]
    """Those that occur, rising."""
    counts: tuple[int, ...]
    zeros: int
    nonfinite: int


@dataclass(frozen=True)
class Ranking:
    """What `rank` found: rows from the best to the worst, and the exponents of the input. ``print`` it for a table."""

    rows: tuple[RankRow, ...]
    """Highest signal-to-noise ratio first, fewer bits first among equals; then rows without one, then refusals."""
    histogram: ExponentHistogram
    name: str
    """Of the file or tensor, for titles; may be empty."""
    shape: tuple[int, ...] | None
    """None for several tensors."""
    dtype: str
    elements: int
    tensors: int
    axis: int
    given: tuple[str, ...]
    """Sparsity and choices that all rows share, as ``name=word``."""

    @property
    def best(self) -> RankRow | None:
        """The first row; None if no format has a signal-to-noise ratio."""
        return self.rows[0] if self.rows and self.rows[0].snr_db is not None else None

    @property
    def frontier(self) -> tuple[RankRow, ...]:
        """Rows that no other row beats: none has a higher signal-to-noise ratio for as few bits, or fewer bits for as
        high a ratio."""
        rows = [(row, row.snr_db, row.bits_per_element) for row in self.rows]
        able = [(row, snr, bits) for row, snr, bits in rows if snr is not None and bits is not None]
        return tuple(
            row
            for row, snr, bits in able
            if not any(s >= snr and b <= bits and (s, b) != (snr, bits) for _, s, b in able)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it: numbers that are not finite are None, tuples are lists."""
        record = asdict(self)
        for row in record["rows"]:
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[name] = None
        data: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
        data["best"] = None if self.best is None else self.best.name
        data["frontier"] = [row.name for row in self.frontier]
        return data

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @property
    def title(self) -> str:
        """One line that says what was ranked."""
        what = f"{self.tensors} tensors" if self.shape is None else "x".join(map(str, self.shape)) or "scalar"
        parts = [f"{what} {self.dtype}", f"{self.elements} elements", f"axis {self.axis}"]
        text = ", ".join([*parts, *self.given])
        return f"{self.name}: {text}" if self.name else text

    def table(self) -> Table:
        """A rich table; a star marks the rows of `frontier`, shares are in percent."""
        table = Table(title=self.title, title_justify="left")
        table.add_column("format", overflow="fold")
        for name in ("", "bits", "SNR dB", "rel L1", "rel L2", "max error", "bias", "saturated", "underflow", "zeros"):
            table.add_column(name, justify="right", no_wrap=True)
        frontier = self.frontier
        for row in self.rows:
            table.add_row(*_cells(row, row in frontier), style="dim" if row.refused else None)
        return table

    def summary(self) -> list[str]:
        """Lines below the table: notes of rows, what the star means, the exponents."""
        notes: dict[str, list[str]] = {}
        for row in self.rows:
            if row.note:
                notes.setdefault(f"refused: {row.note}" if row.refused else row.note, []).append(row.name)
        lines = [f"{', '.join(names)}: {note}" for note, names in notes.items()]
        if self.frontier:
            lines.append("*: no other format is closer for as few bits")
        if any(" sparsity=" in row.spec for row in self.rows if not row.refused):
            lines.append("bits are those of the dense tensor: pruned elements count, kept positions do not")
        exponents, counts = self.histogram.exponents, self.histogram.counts
        if exponents:
            middle = exponents[counts.index(max(counts))]
            lines.append(f"exponents: {exponents[0]} to {exponents[-1]}, most often {middle}")
        if self.histogram.zeros:
            lines.append(f"zeros in the input: {self.histogram.zeros}")
        if self.histogram.nonfinite:
            lines.append(f"NaN or Inf in the input: {self.histogram.nonfinite}; errors leave them out")
        return lines

    def __str__(self) -> str:
        console = Console(width=120, file=StringIO(), color_system=None)
        console.print(self.table())
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join([*(line.rstrip() for line in text.splitlines()), *self.summary()])

    def plot(self, path: str | Path) -> None:
        """Draws signal-to-noise ratio against bits per element, and the exponents of the input beside it.

        Args:
            path: the file to write, named ``*.png``, ``*.svg`` or ``*.pdf``; written whole or not at all.

        Raises:
            ModuleNotFoundError: matplotlib is missing; ``pip install 'sparq_sim[plot]'``.
            ValueError: another suffix, or a directory that cannot be written.
        """
        from sparq_sim.ranking_plot import draw

        draw(self, Path(path))


def _cells(row: RankRow, marked: bool) -> list[str]:
    def text(value: float | None, form: str, scale: float = 1.0) -> str:
        return "" if value is None else format(value * scale, form)

    shares = [text(share, ".3g", 100) for share in (row.saturated, row.underflowed, row.zeros)]
    return [
        row.name, "*" if marked else "", text(row.bits_per_element, ".5g"), text(row.snr_db, ".2f"),
        text(row.relative_l1, ".3g"), text(row.relative_l2, ".3g"), text(row.max_error, ".3g"), text(row.bias, ".2g"),
        *(share and f"{share}%" for share in shares),
    ]  # fmt: skip
