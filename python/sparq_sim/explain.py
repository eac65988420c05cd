"""explain: which choices account for two different outputs of the same input, block by block."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from rich.table import Table

from sparq_sim.arrays import Array, Source, bfloat16_values, is_torch, normal_axis, source, widened
from sparq_sim.difference import percent, plain_lines
from sparq_sim.fields import (
    FieldChange,
    base_format,
    changed_fields,
    fields_of,
    mixed,
    names_of,
    require_one_format,
    side,
)
from sparq_sim.formats import Format, Spec, conversions, spec, words_of
from sparq_sim.places import Blocks, blocks_of, spread
from sparq_sim.presets import presets
from sparq_sim.quantize import encode
from sparq_sim.runs import plane_bits, value_bits
from sparq_sim.worked import BlockBits, WorkedBlock, hex_of, worked_block

#: Of so many fields every set is tried; of more, single ones, pairs, and all together.
_EVERY_SET = 8
#: Fields that a search for the spec of an array changes, one after the other, at most.
_STEPS = 4


@dataclass(frozen=True)
class Cause:
    """Blocks for which the same fields account: the first spec with these fields from the second one makes what the
    second one does, and no fewer fields do."""

    fields: tuple[tuple[str, ...], ...]
    """Sets of fields that do so; several are alternatives."""
    blocks: int
    elements: int
    """Of those blocks, that differ."""
    place: tuple[int, ...]
    """Of the first element of the first block, in x."""
    example: WorkedBlock
    """The first block."""

    @property
    def text(self) -> str:
        """``scale_rule``, ``scale_rule + even_bits``, ``rounding or signed_zero``."""
        return " or ".join(" + ".join(names) for names in self.fields)


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; ``print`` it for tables and the first block worked out."""

    names: tuple[str, str]
    specs: tuple[str, str] | None
    """None if neither specs nor a format were given."""
    fields: tuple[FieldChange, ...]
    """In which the specs differ."""
    elements: int
    blocks: int
    different_elements: int
    different_blocks: int
    causes: tuple[Cause, ...]
    """Most blocks first."""
    unattributed: int
    """Blocks that differ and for which no field of the specs accounts."""
    unattributed_place: tuple[int, ...] | None
    """Of the first of their elements that differs."""
    notes: tuple[str, ...] = ()
    """What the arrays were taken for."""

    @property
    def first(self) -> Cause | None:
        """The cause of the first block that differs and is accounted for."""
        return min(self.causes, key=lambda cause: cause.place, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it: numbers that are not finite are text, tuples are lists."""
        record = asdict(self)
        for made, cause in zip(record["causes"], self.causes, strict=True):
            made["example"] = cause.example.to_dict()
        data: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
        return data

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @property
    def title(self) -> str:
        """One line that says what was compared."""
        return f"{self.names[0]} against {self.names[1]}"

    def tables(self) -> list[Table]:
        """Rich tables: causes, and the first block that differs."""
        if not self.causes:
            return []
        table = Table(title_justify="left")
        for name in ("fields", *self.names, "blocks", "of those that differ", "elements", "first at"):
            table.add_column(
                name, justify="right" if name in ("blocks", "of those that differ", "elements") else "left"
            )
        words = {change.name: [word.partition("=")[2] for word in change.words] for change in self.fields}
        for cause in self.causes:
            named = list(dict.fromkeys(name for names in cause.fields for name in names))
            table.add_row(
                cause.text,
                *(", ".join(words[name][i] for name in named) for i in range(2)),
                str(cause.blocks),
                percent(cause.blocks / self.different_blocks),
                str(cause.elements),
                _place_text(cause.place),
            )
        first = self.first
        return [table] if first is None else [table, first.example.table()]

    def summary(self) -> list[str]:
        """Lines for people: counts, what the arrays were taken for, what is not accounted for, the first block."""
        lines = [
            f"{self.different_blocks} of {self.blocks} blocks differ, {self.different_elements} of "
            f"{self.elements} elements",
            *self.notes,
        ]
        if self.unattributed_place is not None:
            lines.append(f"not accounted for: {self.unattributed} blocks, from {_place_text(self.unattributed_place)}")
        if self.first is not None:
            lines.append(f"first block, at {_place_text(self.first.place)}, {self.first.text}:")
            lines += self.first.example.lines()
        return lines

    def __str__(self) -> str:
        return "\n".join([self.title, *plain_lines(self.tables()), *self.summary()])


def _place_text(place: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, place))}]"


@dataclass(frozen=True)
class _Output:
    """What a spec makes of the input, shaped like it."""

    values: Array
    """Bits of float32."""
    codes: Array
    scales: tuple[Array, ...]
    """Bits of each level, for every element."""
    kept: Array
    spec: Spec

    def differs(self, other: _Output, values_only: bool) -> Array:
        """Elements of which the value or the code is another."""
        found: Array = self.values != other.values
        return found if values_only else found | (self.codes != other.codes)

    def blocks_differ(self, other: _Output, blocks: Blocks, values_only: bool) -> Array:
        """Blocks of which a value, a code or a scale is another."""
        found = self.differs(other, values_only)
        if not values_only:
            for mine, others in zip(self.scales, other.scales, strict=True):
                found = found | (mine != others)
        return blocks.of(found)


class _Input:
    """The tensor that was encoded."""

    def __init__(self, x: object) -> None:
        self.x = x
        self.source: Source = source(x, "x")
        self.raw = self.source.to_user_copy(self.source.data)
        self.shape = self.raw.shape

    def output(self, made: Spec) -> _Output:
        """What a spec makes of it."""
        tensor = encode(self.x, made)
        axis = normal_axis(made.axis, max(1, len(self.shape)))
        planes = zip(made.format.levels, plane_bits(tensor), strict=True)
        return _Output(
            value_bits(tensor),
            tensor.codes,
            tuple(spread(level, plane, self.shape, axis) for level, plane in planes),
            np.ones(self.shape, np.bool_) if tensor.mask is None else tensor.mask,
            made,
        )

    def wide(self, places: Array) -> Array:
        """Some elements as float64."""
        picked = np.ascontiguousarray(self.raw.reshape(-1)[places])
        if self.source.dtype == "bfloat16":
            return widened(bfloat16_values(picked))
        return widened(picked.view(self.source.dtype))

    def bits(self, places: Array) -> list[str]:
        """Their bits."""
        picked = np.ascontiguousarray(self.raw.reshape(-1)[places])
        width = picked.dtype.itemsize
        return [hex_of(int(bits), 8 * width) for bits in picked.view(f"u{width}")]

    def example(self, places: Array, a: _Output, b: _Output, names: tuple[str, str]) -> WorkedBlock:
        """A block worked out."""

        def taken(made: _Output) -> BlockBits:
            flat = [plane.reshape(-1)[places] for plane in (made.values, made.codes, made.kept, *made.scales)]
            return BlockBits(made.spec, flat[0], flat[1], tuple(flat[3:]), flat[2])

        return worked_block(self.wide(places), self.bits(places), taken(a), taken(b), names)


def _is_array(given: object) -> bool:
    return isinstance(given, (np.ndarray, Source)) or is_torch(given)


def _array_bits(given: object, shape: tuple[int, ...], what: str) -> tuple[Array, str]:
    """The values of an output as bits of float64 with one NaN, and their dtype."""
    made = source(given, what)
    if made.shape != shape:
        raise ValueError(f"{what}: shape {made.shape}; needed that of x, {shape}")
    raw = made.to_user_copy(made.data)
    values = bfloat16_values(raw) if made.dtype == "bfloat16" else raw.view(made.dtype)
    return _one_nan(widened(values)), made.dtype


def _one_nan(wide: Array) -> Array:
    bits: Array = np.where(np.isnan(wide), np.nan, wide).view(np.uint64)
    return bits


def explain(
    x: object,
    a: object,
    b: object,
    *,
    format: str | Format | Spec | None = None,
) -> Explanation:
    """Which choices account for two different outputs of the same input, and on how many blocks.

    A set of fields accounts for a block if the first spec with these fields from the second one makes the values, codes
    and scales that the second one does, and no set of fewer fields does. If several sets do, they are alternatives.

    Outputs may be arrays: then the presets of `format` and its choices are tried for the spec that makes them in most
    blocks, values are compared, and blocks that it does not make are counted as not accounted for.

    Args:
        x: the input, as `encode` takes it.
        a: the name of a preset or choices (for `format`), a `Spec` or `Format`, ``(format, preset)``, or an output of
            x: an array or tensor of its shape.
        b: the other one.
        format: what presets and choices are for, and what made arrays. Without it nothing is said about arrays but
            where they differ.

    Returns:
        An `Explanation`: causes with counts of blocks, each with its first block worked out.

    Raises:
        ValueError: unknown names, two formats, stochastic rounding, arrays of other shapes, input that a spec refuses.
        TypeError: something that is no way of encoding.

    >>> import numpy as np, sparq_sim as sq
    >>> x = np.float32([[7, 1, 1, 1], [5, 4, 4, 4], [6, 3, 3, 3]])
    >>> found = sq.explain(x, {}, {"scale_rule": "even", "rounding": "nearest_away"}, format="mxfp4")
    >>> [(cause.text, cause.blocks, cause.place) for cause in found.causes]
    [('scale_rule', 1, (0, 0)), ('rounding', 1, (1, 0))]
    >>> found.first.example.b.reason
    'even: t = 1.75 >= 1.75, X = 2 - 2 + 1 = 1'
    """
    given = _Input(x)
    arrays = [_array_bits(one, given.shape, name) if _is_array(one) else None for one, name in ((a, "a"), (b, "b"))]
    if format is None and any(arrays):
        if not all(arrays):
            raise ValueError("format=: needed beside an array, or its choices cannot be looked for")
        return _unknown(given, arrays)
    base = None if format is None else base_format(format)
    given_sides = ((a, arrays[0], "a"), (b, arrays[1], "b"))
    # What was named is looked at before anything is searched for.
    known = {name: side(one, base, name) for one, array, name in given_sides if array is None}
    sides: list[tuple[Spec, str]] = []
    reproduced: list[Array | None] = []
    notes: list[str] = []
    for _, array, name in given_sides:
        if array is None or base is None:
            sides.append(known[name])
            reproduced.append(None)
            continue
        found = _closest(given, array, base)
        sides.append((found.spec, found.name))
        reproduced.append(found.equal)
        count = int(np.count_nonzero(found.equal))
        notes.append(
            f"{name} is taken for {found.name or found.spec}, which makes {count} of its {found.equal.size} blocks"
        )
    left, right = sides
    require_one_format(left[0], right[0])
    return _explained(given, left, right, arrays, reproduced, tuple(notes))


def _unknown(given: _Input, arrays: Sequence[tuple[Array, str] | None]) -> Explanation:
    """Two arrays of which nothing is known."""
    left, right = (array[0] for array in arrays if array is not None)
    differs = left != right
    count = int(np.count_nonzero(differs))
    return Explanation(
        names=("a", "b"),
        specs=None,
        fields=(),
        elements=differs.size,
        blocks=differs.size,
        different_elements=count,
        different_blocks=count,
        causes=(),
        unattributed=count,
        unattributed_place=_first_place(differs) if count else None,
        notes=("without format= elements are their own blocks, and no choice can be held against them",),
    )


def _first_place(elements: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(elements)), elements.shape))


def _explained(
    given: _Input,
    left: tuple[Spec, str],
    right: tuple[Spec, str],
    arrays: Sequence[tuple[Array, str] | None],
    reproduced: Sequence[Array | None],
    notes: tuple[str, ...],
) -> Explanation:
    a, b = left[0], right[0]
    names = names_of(left, right)
    blocks = blocks_of(given.shape, [a, b])
    outputs = (given.output(a), given.output(b))
    values_only = any(array is not None for array in arrays)
    if values_only:
        # Where a side is no array, what its spec makes stands for it.
        dtype = next(array[1] for array in arrays if array is not None)
        seen = [
            array[0] if array is not None else _spec_bits(given, made, dtype)
            for array, made in zip(arrays, (a, b), strict=True)
        ]
        differs = seen[0] != seen[1]
    else:
        differs = outputs[0].differs(outputs[1], False)
    wrong = blocks.of(differs) if values_only else outputs[0].blocks_differ(outputs[1], blocks, False)
    able = wrong.copy()
    for equal in reproduced:
        if equal is not None:
            able &= equal
    changes = changed_fields(a, b)
    found = _sets(given, a, b, [change.name for change in changes], outputs, blocks, able, values_only)
    causes, left_over = [], wrong.copy()
    for fields, members in found.items():
        left_over &= ~members
        first = int(np.flatnonzero(members)[0])
        places = blocks.places(first)
        causes.append(
            Cause(
                fields,
                int(np.count_nonzero(members)),
                int(np.count_nonzero(differs & members[blocks.ids])),
                tuple(int(i) for i in np.unravel_index(int(places[0]), given.shape)),
                given.example(places, *outputs, names),
            )
        )
    lost = left_over[blocks.ids]
    lost = (differs & lost) if (differs & lost).any() else lost
    return Explanation(
        names=names,
        specs=(str(a), str(b)),
        fields=changes,
        elements=differs.size,
        blocks=blocks.count,
        different_elements=int(np.count_nonzero(differs)),
        different_blocks=int(np.count_nonzero(wrong)),
        causes=tuple(sorted(causes, key=lambda cause: (-cause.blocks, cause.place))),
        unattributed=int(np.count_nonzero(left_over)),
        unattributed_place=_first_place(lost) if lost.any() else None,
        notes=notes,
    )


def _subsets(names: Sequence[str]) -> Iterator[list[tuple[str, ...]]]:
    """Sets of fields by their size, the smallest first."""
    sizes = range(1, len(names) + 1) if len(names) <= _EVERY_SET else (1, 2, len(names))
    for size in sizes:
        yield list(combinations(names, size))


def _sets(
    given: _Input,
    a: Spec,
    b: Spec,
    names: Sequence[str],
    outputs: tuple[_Output, _Output],
    blocks: Blocks,
    able: Array,
    values_only: bool,
) -> dict[tuple[tuple[str, ...], ...], Array]:
    """The smallest sets of fields that account for blocks, and which blocks."""
    found: dict[tuple[tuple[str, ...], ...], Array] = {}
    remaining = able.copy()
    for subsets in _subsets(names):
        if not remaining.any():
            break
        matched = []
        for subset in subsets:
            try:
                made = given.output(mixed(a, b, subset))
            except ValueError:  # fields that mean nothing together, or NaN that this mixture refuses
                continue
            equal = ~made.blocks_differ(outputs[1], blocks, values_only) & remaining
            if equal.any():
                matched.append((subset, equal))
        for block in np.flatnonzero(remaining):
            key = tuple(subset for subset, equal in matched if equal[block])
            if key:
                found.setdefault(key, np.zeros_like(remaining))[block] = True
        for members in found.values():
            remaining &= ~members
    return found


@dataclass(frozen=True)
class _Closest:
    """The spec that makes an array in most blocks."""

    spec: Spec
    name: str
    equal: Array
    """Which blocks it makes."""


def _spec_bits(given: _Input, made: Spec, dtype: str) -> Array:
    """The values of a spec as bits of float64, rounded to the dtype of an array."""
    values = encode(given.x, made).decode("float32" if dtype == "bfloat16" else dtype, inexact="round")
    if dtype == "bfloat16":
        values = encode(values, "bf16").decode()
    array: Array = np.asarray(values)
    return _one_nan(widened(array))


def _closest(given: _Input, array: tuple[Array, str], base: Format | Spec) -> _Closest:
    """Of the presets of a format and its own choices, then of single changes to the best of them, what makes an array
    in most blocks; of equals the first."""
    start = base if isinstance(base, Spec) else Spec(base)
    blocks = blocks_of(given.shape, [start])

    def tried(made: Spec, name: str) -> _Closest | None:
        try:
            bits = _spec_bits(given, made, array[1])
        except ValueError:
            return None
        return _Closest(made, name, ~blocks.of(bits != array[0]))

    named = [("", start)]
    for preset in presets().values():
        if start.format.name in preset.formats:
            with contextlib.suppress(ValueError):  # its choices may mean nothing beside those that were given
                named.append((preset.name, side(preset.name, start, "preset")[0]))
    found = [one for one in (tried(made, name) for name, made in named) if one is not None]
    if not found:
        raise ValueError(f"{start.format.name} refuses x, whatever the preset")
    best = max(found, key=lambda one: int(np.count_nonzero(one.equal)))
    for _ in range(_STEPS):
        if best.equal.all():
            break
        others = [one for one in (tried(made, "") for made in _neighbours(best.spec)) if one is not None]
        better = max([best, *others], key=lambda one: int(np.count_nonzero(one.equal)))
        if better is best:
            break
        best = better
    return best


def _neighbours(made: Spec) -> Iterator[Spec]:
    """Specs that differ from this one in the word of one choice."""
    own = fields_of(made)
    for field in own:
        for word in words_of(field) or conversions().get(field, ()):
            if word in (own[field], "stochastic"):
                continue
            choice: dict[str, Any] = {field: word}
            try:
                yield spec(made, **choice)
            except ValueError:  # it means nothing with the others
                continue
