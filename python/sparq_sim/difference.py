"""diff: two ways of encoding one format, how often they differ, and the smallest input that tells them apart."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sparq_sim.arrays import Array, source, widened
from sparq_sim.edges import edge_sets, thresholds
from sparq_sim.fields import FieldChange, base_format, changed_fields, mixed, names_of, require_one_format, side
from sparq_sim.formats import Format, Spec
from sparq_sim.quantize import encode
from sparq_sim.reasons import number_text
from sparq_sim.runs import Encoded, Gaps, Kind, Runs, encode_lines, gaps, line_spec, plane_bits, value_bits
from sparq_sim.smallest import Smallest, boundary, search
from sparq_sim.worked import BlockBits, WorkedBlock, hex_of, worked_block

#: Shape of the standard normal numbers that shares are of.
NORMAL_SHAPE = (1024, 1024)
#: Elements of them among which the search looks, where nothing smaller tells two specs apart.
_SEARCHED = 1 << 16


@dataclass(frozen=True)
class Share:
    """How much of some data two encodings differ in."""

    data: str
    elements: int
    values: int
    """Elements whose decoded bits differ."""
    codes: int
    scales: int | None
    """Scales of all levels that differ; None if the blocks are not the same, or without scales."""
    scale_count: int
    refused: tuple[str, ...] = ()
    """Names of the sides that refuse the data, or lines of it."""

    def part(self, name: str) -> float | None:
        """The share of ``values``, ``codes`` or ``scales`` that differs; None of nothing."""
        count = getattr(self, name)
        total = self.scale_count if name == "scales" else self.elements
        return None if count is None or not total else count / total


@dataclass(frozen=True)
class TellingInput:
    """A small input that two specs encode differently."""

    x: tuple[float, ...]
    bits: tuple[str, ...]
    """Of the elements, as float32."""
    block: WorkedBlock
    """The block in which they differ first."""
    proven: bool
    """No block of zeros and no other single number that is rounder tells them apart; else it is the smallest of what
    was tried."""
    scales_only: bool
    """Values and codes are equal, and a stored scale differs."""
    first: str | None
    """Of a single number: the least magnitude of its binade from which on they differ up to this one, as bits."""
    last: str | None
    """The largest magnitude up to which they do."""

    @property
    def text(self) -> str:
        """The elements with their bits; of a long block those that are not zero."""
        shown = [f"{number_text(value)} ({bits})" for value, bits in zip(self.x, self.bits, strict=True)]
        if len(shown) <= 4:
            return f"[{', '.join(shown)}]"
        parts = [f"x[{i}] = {text}" for i, text in enumerate(shown) if self.bits[i] != hex_of(0, 32)]
        return f"{len(shown)} elements, zeros but {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Lines for people."""
        word = "smallest input that tells them apart" if self.proven else "smallest input found that tells them apart"
        made = [f"{word}: {self.text}"]
        if self.first is not None and self.last is not None:
            ends = [np.array([int(bits, 16)], np.uint32).view(np.float32)[0] for bits in (self.first, self.last)]
            texts = [
                f"{number_text(float(end))} ({bits})" for end, bits in zip(ends, (self.first, self.last), strict=True)
            ]
            one = self.first == self.last
            made.append("its neighbours do not" if one else f"so do magnitudes from {texts[0]} to {texts[1]}")
        if self.scales_only:
            made.append("values and codes are equal: only a stored scale differs")
        return made


@dataclass(frozen=True)
class FieldDifference:
    """What one of the fields does alone: the first spec with this field from the other."""

    field: FieldChange
    smallest: TellingInput | None
    note: str = ""
    """Why there is no input: none was found, or the field means nothing alone."""


@dataclass(frozen=True)
class Difference:
    """What `diff` found; ``print`` it for tables."""

    format: str
    names: tuple[str, str]
    specs: tuple[str, str]
    fields: tuple[FieldChange, ...]
    shares: tuple[Share, ...]
    """Of the data, of every kind of edge, and of all edges together."""
    smallest: TellingInput | None
    smallest_number: TellingInput | None
    """The smallest input of which a value becomes another number: zeros of either sign are equal, and so are codes of
    the same value under other scales."""
    by_field: tuple[FieldDifference, ...]
    """Where several fields differ."""
    tried: tuple[str, ...]
    """Where the search looked, until it found something."""

    @property
    def same(self) -> bool:
        """The specs are equal field by field."""
        return not self.fields

    @property
    def verdict(self) -> str:
        """``the same spec``, ``no difference found``, or ``they differ``."""
        if self.same:
            return "the same spec"
        seen = any(share.values or share.codes or share.scales for share in self.shares)
        return "they differ" if self.smallest is not None or seen else "no difference found"

    def share(self, data: str) -> Share:
        """The shares of ``normal``, ``data``, ``edges`` or one kind of edge."""
        for share in self.shares:
            if share.data == data:
                return share
        raise ValueError(f"no share of {data!r}; there are: {', '.join(share.data for share in self.shares)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it: numbers that are not finite are text, tuples are lists."""
        record = asdict(self)
        record["smallest"] = telling_dict(self.smallest)
        record["smallest_number"] = telling_dict(self.smallest_number)
        for made, one in zip(record["by_field"], self.by_field, strict=True):
            made["smallest"] = telling_dict(one.smallest)
        data: dict[str, Any] = json.loads(json.dumps({"verdict": self.verdict, **record}, allow_nan=False))
        return data

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @property
    def title(self) -> str:
        """One line that says what was compared."""
        return f"{self.format}: {self.names[0]} against {self.names[1]}"

    def tables(self) -> list[Table]:
        """Rich tables: fields, shares, and the smallest input worked out."""
        if self.same:
            return []
        fields = Table(title_justify="left")
        for name in ("field", *self.names):
            fields.add_column(name)
        for change in self.fields:
            fields.add_row(change.name, *(word.partition("=")[2] for word in change.words))
        made = [fields]
        if self.shares:
            made.append(_share_table(self.shares))
        if self.smallest is not None:
            made.append(self.smallest.block.table())
        return made

    def summary(self) -> list[str]:
        """Lines for people: the verdict, the smallest input, and what was tried."""
        if self.same:
            return [f"the same spec: {self.specs[0]}"]
        lines = [] if self.verdict == "they differ" else [self.verdict]
        lines += [f"{name} refuses {share.data}" for share in self.shares[:1] for name in share.refused]
        if self.smallest is not None:
            lines += [*self.smallest.lines(), *self.smallest.block.lines()]
        if self.smallest is not None and self.smallest_number is None:
            lines.append("no input found of which a value becomes another number")
        elif self.smallest_number is not None and self.smallest_number != self.smallest:
            lines.append(f"smallest input that becomes another number: {_short(self.smallest_number)}")
        if self.smallest is None or not self.smallest.proven:
            lines.append(f"tried: {'; '.join(self.tried)}")
        for one in self.by_field:
            lines.append(f"{one.field} alone: {one.note if one.smallest is None else _short(one.smallest)}")
        return lines

    def __str__(self) -> str:
        return "\n".join([self.title, *plain_lines(self.tables()), *self.summary()])


def plain_lines(tables: Sequence[Table]) -> list[str]:
    """Rich tables as lines of text."""
    console = Console(width=120, file=StringIO(), color_system=None)
    for table in tables:
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def telling_dict(made: TellingInput | None) -> dict[str, Any] | None:
    """Plain data of a `TellingInput`."""
    if made is None:
        return None
    return {
        "x": [value if np.isfinite(value) else number_text(value) for value in made.x],
        "bits": list(made.bits),
        "proven": made.proven,
        "scales_only": made.scales_only,
        "first": made.first,
        "last": made.last,
        "block": made.block.to_dict(),
    }


def _short(made: TellingInput) -> str:
    """An input, what decides, and what one side and the other make of the first element that differs."""
    block = made.block
    said = f"{made.text}, {block.decides}"
    if not block.different:
        return said
    place = block.places.index(block.different[0])
    makes = [
        "refused" if one.refused else f"{number_text(one.values[place])} (code {one.codes[place]})"
        for one in (block.a, block.b)
    ]
    return f"{said}: {makes[0]} against {makes[1]}"


def percent(part: float | None) -> str:
    """A share as people read it; empty for None."""
    return "" if part is None else f"{part * 100:.3g}%"


def _share_table(shares: Sequence[Share]) -> Table:
    table = Table(title="share that differs", title_justify="left")
    for name in ("data", "elements", "values", "codes", "scales"):
        table.add_column(name, justify="left" if name == "data" else "right", no_wrap=True)
    for share in shares:
        table.add_row(
            share.data, str(share.elements), *(percent(share.part(name)) for name in ("values", "codes", "scales"))
        )
    return table


@dataclass(frozen=True)
class _OnData:
    """What a spec makes of the data: bits, flat."""

    values: Array
    codes: Array
    scales: tuple[Array, ...]


class Comparison:
    """Compares specs of one format; what is the same for several pairs is made once."""

    def __init__(self, data: object = None, seed: int = 0) -> None:
        self.label = "normal" if data is None else "data"
        if data is None:
            data = np.random.default_rng(seed).standard_normal(NORMAL_SHAPE, dtype=np.float32)
        self.source = source(data, "data")
        self.data = data
        self.runs = Runs()
        self._encoded: dict[Spec, _OnData | str] = {}
        self._edges: dict[Hashable, dict[str, Array]] = {}

    def _on_data(self, made: Spec) -> _OnData | str:
        """What a spec makes of the data, or why it refuses it."""
        if made not in self._encoded:
            try:
                tensor = encode(self.data, made)
                planes = tuple(plane.reshape(-1) for plane in plane_bits(tensor))
                bits = value_bits(tensor).reshape(-1)
                self._encoded[made] = _OnData(bits, tensor.codes.reshape(-1), planes)
            except ValueError as error:
                self._encoded[made] = str(error)
        return self._encoded[made]

    def _data_share(self, a: Spec, b: Spec, names: tuple[str, str]) -> Share:
        left, right = self._on_data(a), self._on_data(b)
        size = self.source.data.size
        if isinstance(left, str) or isinstance(right, str):
            refused = tuple(name for name, made in zip(names, (left, right), strict=True) if isinstance(made, str))
            lost = size if len(refused) == 1 else 0
            return Share(self.label, size, lost, lost, None, 0, refused)
        scales: int | None = None
        count = 0
        if left.scales and [p.shape for p in left.scales] == [q.shape for q in right.scales]:
            scales = sum(int(np.count_nonzero(p != q)) for p, q in zip(left.scales, right.scales, strict=True))
            count = sum(plane.size for plane in left.scales)
        values = int(np.count_nonzero(left.values != right.values))
        codes = int(np.count_nonzero(left.codes != right.codes))
        return Share(self.label, size, values, codes, scales, count)

    def edges(self, a: Spec, b: Spec) -> dict[str, Array]:
        """The edge set of two specs of lines."""
        key = (a.format.element, a.format.levels, thresholds(a, b))
        if key not in self._edges:
            self._edges[key] = edge_sets(a, b)
        return self._edges[key]

    def shares(self, a: Spec, b: Spec, names: tuple[str, str]) -> tuple[Share, ...]:
        """Of the data, of each kind of edge, of all edges."""
        left, right = line_spec(a), line_spec(b)
        found = []
        for name, lines in self.edges(left, right).items():
            sides = (encode_lines(lines, left), encode_lines(lines, right))
            found.append(_edge_share(name, gaps(*sides), sides, names))
        whole = Share(
            "edges",
            sum(share.elements for share in found),
            sum(share.values for share in found),
            sum(share.codes for share in found),
            None if any(share.scales is None for share in found) else sum(share.scales or 0 for share in found),
            sum(share.scale_count for share in found),
            tuple(name for name in names if any(name in share.refused for share in found)),
        )
        return (self._data_share(a, b, names), whole, *found)

    def smallest(
        self, a: Spec, b: Spec, names: tuple[str, str], kind: Kind = "bits"
    ) -> tuple[TellingInput | None, tuple[str, ...]]:
        """The smallest input that tells two specs apart, and what was tried."""
        left, right = line_spec(a), line_spec(b)
        others = [(f"edges: {name}", lines) for name, lines in self.edges(left, right).items()]
        width = others[0][1].shape[1]
        sample = self.source.data.reshape(-1)[:_SEARCHED]
        if self.source.dtype == "float32" and sample.size >= width:
            kept = sample[: sample.size // width * width]
            others.append((f"{kept.size} elements of the {self.label} data", kept.reshape(-1, width)))
        found, tried = search(left, right, self.runs, others, kind)
        return None if found is None else _telling(found, left, right, names), tried

    def smallest_number(
        self, a: Spec, b: Spec, names: tuple[str, str], smallest: TellingInput | None
    ) -> TellingInput | None:
        """The smallest input of which a value becomes another number; `smallest` if that is one."""
        if smallest is None:
            return None
        block = smallest.block
        values = np.array([block.a.values, block.b.values])
        same = (values[0] == values[1]) | np.isnan(values).all(axis=0)
        if block.a.refused != block.b.refused or not same.all():
            return smallest
        return self.smallest(a, b, names, "numbers")[0]

    def by_field(self, a: Spec, b: Spec, names: tuple[str, str]) -> tuple[FieldDifference, ...]:
        """What each field does alone, if several differ."""
        changes = changed_fields(a, b)
        return tuple(self._alone(a, b, names, change) for change in changes) if len(changes) > 1 else ()

    def _alone(self, a: Spec, b: Spec, names: tuple[str, str], change: FieldChange) -> FieldDifference:
        try:
            other = mixed(a, b, [change.name])
        except ValueError:
            return FieldDifference(change, None, f"means nothing with the other fields of {names[0]}")
        found, _ = self.smallest(a, other, (names[0], change.words[1]))
        return FieldDifference(change, found, "" if found is not None else "no difference found")


def _edge_share(name: str, found: Gaps, sides: tuple[Encoded, Encoded], names: tuple[str, str]) -> Share:
    refused = tuple(label for label, made in zip(names, sides, strict=True) if made.refused.any())
    return Share(
        f"edges: {name}",
        found.values.size,
        int(np.count_nonzero(found.values)),
        int(np.count_nonzero(found.codes)),
        int(np.count_nonzero(found.scales)) if found.scales is not None and found.scales.size else None,
        found.scales.size if found.scales is not None else 0,
        refused,
    )


def _telling(found: Smallest, a: Spec, b: Spec, names: tuple[str, str]) -> TellingInput:
    """A line that was found, with its block worked out and the stretch of numbers that it is one of."""
    line = found.line
    patterns = tuple(hex_of(int(bits), 32) for bits in line.view(np.uint32))
    wide = widened(line)
    sides = (encode_lines(line[None, :], a), encode_lines(line[None, :], b))
    gap = gaps(*sides)
    place = int(np.flatnonzero(gap.values[0] | gap.codes[0] | (found.kind == "scales"))[0])
    main = a.format.main
    along = line.size if main is None or not main.along else main.along
    part = slice(place // along * along, min(line.size, (place // along + 1) * along))
    blocks = [line_block(made, spec, part) for made, spec in zip(sides, (a, b), strict=True)]
    block = worked_block(wide[part], patterns[part], blocks[0], blocks[1], names)
    ends = boundary(line, a, b, found.kind)
    first, last = (None, None) if ends is None else (hex_of(ends[0], 32), hex_of(ends[1], 32))
    return TellingInput(tuple(map(float, wide)), patterns, block, found.proven, found.kind == "scales", first, last)


def line_block(made: Encoded, spec: Spec, part: slice) -> BlockBits:
    """Some elements of the only line of an encoding."""
    places = np.arange(part.start, part.stop)
    scales = tuple(
        plane[0][places // level.along if level.along else np.zeros_like(places)]
        for plane, level in zip(made.scales, spec.format.levels, strict=True)
    )
    return BlockBits(spec, made.values[0, part], made.codes[0, part], scales, made.kept[0, part], bool(made.refused[0]))


def diff(
    format: str | Format | Spec,
    a: str | Spec | Format | Mapping[str, Any],
    b: str | Spec | Format | Mapping[str, Any],
    *,
    data: object = None,
    seed: int = 0,
) -> Difference:
    """How two ways of encoding one format differ, how often, and on which smallest input.

    Smallest is: the fewest elements that are not zero, then the fewest NaN and Inf, then the roundest numbers, which
    have the fewest significant bits and, written as an odd integer times a power of two, powers nearest to 1. All
    single numbers of up to 10 significant bits are tried, then numbers near every threshold, pairs of round numbers, a
    few more, the edges and the data, of which what differs is made smaller. Inputs are float32, each a tensor of its
    own.

    Args:
        format: a name of `formats()` or `elements()` (a cast), a `Format`, or a `Spec`.
        a: the name of a preset, choices as `spec` takes them (``{"scale_rule": "even"}``; ``like`` is one), or a
            `Spec` or `Format` of the same elements and kinds of scales.
        b: the other one.
        data: what to measure instead of normal numbers: an array or tensor as `encode` takes it.
        seed: of ``numpy.random.default_rng(seed).standard_normal((1024, 1024), dtype=float32)``.

    Returns:
        A `Difference`: fields, shares of elements, codes and scales that differ on the data and on an edge set, the
        smallest input worked out, the smallest that becomes another number, and, if several fields differ, the smallest
        input of each of them alone.

    Raises:
        ValueError: unknown names, choices that mean nothing, two formats, stochastic rounding.
        TypeError: something that is no way of encoding.

    >>> import sparq_sim as sq
    >>> found = sq.diff("mxfp4", "torchao-main/floor", "torchao-main/even")
    >>> [str(change) for change in found.fields], found.smallest.x, found.smallest.block.decides
    (['scale_rule: floor -> even', 'scale_overflow: clamp -> nan'], (7.0,), 'scale')
    >>> found.smallest.block.a.values, found.smallest.block.b.values
    ((6.0,), (8.0,))
    >>> sq.diff("mxfp4", "ocp", "torchao-main/floor").verdict
    'the same spec'
    """
    base = base_format(format)
    left, right = side(a, base, "a"), side(b, base, "b")
    require_one_format(left[0], right[0])
    own = Spec(base) if isinstance(base, Format) else base
    require_one_format(own, left[0])
    return compare(left, right, Comparison(data, seed))


def compare(a: tuple[Spec, str], b: tuple[Spec, str], comparison: Comparison, *, each_field: bool = True) -> Difference:
    """`diff` of two specs of one format with their names.

    Args:
        a: a spec and its name, which may be empty.
        b: the other one.
        comparison: what is shared between pairs.
        each_field: also look at each field alone.
    """
    names = names_of(a, b)
    changes = changed_fields(a[0], b[0])
    head = (a[0].format.name, names, (str(a[0]), str(b[0])), changes)
    if not changes:
        return Difference(*head, (), None, None, (), ())
    smallest, tried = comparison.smallest(a[0], b[0], names)
    number = comparison.smallest_number(a[0], b[0], names, smallest)
    shares = comparison.shares(a[0], b[0], names)
    fields = comparison.by_field(a[0], b[0], names) if each_field else ()
    return Difference(*head, shares, smallest, number, fields, tried)
