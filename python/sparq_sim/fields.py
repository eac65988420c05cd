"""The fields of a spec: in which two specs differ, and specs between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparq_sim._core import Conversion, ElementFormat, ScaleLevel, Sparsity
from sparq_sim.formats import (
    Format,
    Spec,
    block_text,
    elements,
    find_format,
    formats,
    level_block,
    pattern_text,
    spec,
)


@dataclass(frozen=True)
class FieldChange:
    """A field in which two specs differ, and the word of each."""

    name: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.name}: {_text(self.a)} -> {_text(self.b)}"

    @property
    def words(self) -> tuple[str, str]:
        """As choices, ``name=word``."""
        return f"{self.name}={_text(self.a)}", f"{self.name}={_text(self.b)}"


def _text(word: object) -> str:
    return block_text(word) if isinstance(word, tuple) else str(word)


def fields_of(made: Spec) -> dict[str, Any]:
    """The choices of a spec by name: levels, sparsity, and every field of `Conversion`."""
    pattern, levels = made.sparsity, made.format.levels
    parts = [_extents_field(made.format, i) for i in range(len(levels))]
    inner = [block_text(level_block(levels[i])) for i, part in enumerate(parts) if part == "inner_blocks"]
    return {
        "block": made.format.block,
        "outer_block": level_block(levels[0]) if "outer_block" in parts else None,
        "inner_blocks": "+".join(inner) or None,
        "outer_combine": made.format.outer_combine,
        "sparsity": None if pattern is None else pattern_text(pattern),
        "ties": None if pattern is None else pattern.ties,
        "order": made.order,
        "scale_space": made.scale_space,
        **made.conversion.to_dict(),
    }


def _extents_field(format: Format, i: int) -> str:
    """Which field holds the extents of a level; zero points are those of the blocks."""
    main = format.block_format.main_level
    if i < main:
        return "outer_block"
    return "block" if i == main or format.levels[i].combine == "subtract" else "inner_blocks"


def _mixed_levels(a: Format, b: Format, taken: Collection[str]) -> list[ScaleLevel]:
    """The levels of `a` with extents, and what the outermost one does, from `b`."""
    made = []
    for i, (mine, other) in enumerate(zip(a.levels, b.levels, strict=True)):
        extents = other if _extents_field(a, i) in taken else mine
        combine = other if i < a.block_format.main_level and "outer_combine" in taken else mine
        made.append(ScaleLevel(format=mine.format, along=extents.along, across=extents.across, combine=combine.combine))
    return made


def changed_fields(a: Spec, b: Spec) -> tuple[FieldChange, ...]:
    """The fields in which two specs differ, in the order of the records."""
    left, right = fields_of(a), fields_of(b)
    if a.sparsity is None or b.sparsity is None:
        left["ties"] = right["ties"]  # part of the pattern
    return tuple(FieldChange(name, left[name], right[name]) for name in left if left[name] != right[name])


def mixed(a: Spec, b: Spec, taken: Collection[str]) -> Spec:
    """`a` with the fields `taken` (names of `fields_of`) from `b`, a spec of the same format.

    Raises:
        ValueError: fields that mean nothing together.
    """
    left, right = a.conversion.to_dict(), b.conversion.to_dict()
    conversion = Conversion(**{name: (right if name in taken else left)[name] for name in left})
    levels = _mixed_levels(a.format, b.format, taken)
    pattern = (b if "sparsity" in taken else a).sparsity
    ties = (b if "ties" in taken else a).sparsity
    if pattern is not None and ties is not None:
        pattern = Sparsity(kept=pattern.kept, group=pattern.group, ties=ties.ties, unit=pattern.unit)
    order = (b if "order" in taken else a).order
    space = (b if "scale_space" in taken else a).scale_space
    return Spec(replace(a.format, levels=levels, conversion=conversion), pattern, order, a.axis, space)


def base_format(format: str | Format | Spec) -> Format | Spec:
    """A format by name, or an element of that name without scales, as casts have it; records as they are.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(format, str):
        if not isinstance(format, (Format, Spec)):
            raise TypeError(f"format: needed a name, a Format or a Spec, got {type(format).__name__}")
        return format
    known = elements()
    if format in known and format not in formats():
        return Format(format, known[format].record)
    return find_format(format)


def side(given: object, format: str | Format | Spec | None, what: str) -> tuple[Spec, str]:
    """One of two ways of encoding a format.

    Args:
        given: the name of a preset, a `Spec`, a `Format`, choices of `spec` (``like`` is one), or a format and a
            preset.
        format: what a preset or choices are for.
        what: for messages.

    Returns:
        The spec, and its name: the preset, or the choices; empty for records.

    Raises:
        ValueError: unknown names, choices that mean nothing, no format to apply them to, stochastic rounding.
        TypeError: something else.
    """
    name = ""
    if isinstance(given, tuple) and len(given) == 2:
        format, given = given
    if isinstance(given, Spec):
        made = given
    elif isinstance(given, Format):
        made = Spec(given)
    elif isinstance(given, (str, Mapping)):
        if format is None:
            raise ValueError(f"{what}={given!r}: needed format=, or (format, preset)")
        choices: dict[str, Any] = {"like": given} if isinstance(given, str) else dict(given)
        made = spec(base_format(format), **choices)
        name = given if isinstance(given, str) else _choices_text(choices)
    else:
        raise TypeError(
            f"{what}: needed the name of a preset, choices, a Spec or (format, preset), got {type(given).__name__}"
        )
    if made.conversion.rounding == "stochastic":
        raise ValueError(f"{what}: rounding='stochastic' needs random bits, which a comparison has none of")
    return made, name


def _choices_text(choices: Mapping[str, Any]) -> str:
    words = [str(word) if name == "like" else f"{name}={_text(word)}" for name, word in choices.items()]
    return ", ".join(words) or "as the format"


def require_one_format(a: Spec, b: Spec) -> None:
    """ValueError unless two specs differ in fields alone: one element, scales of the same codes, one axis."""

    def kinds_of(format: Format) -> list[tuple[ElementFormat, str]]:
        main = format.block_format.main_level if format.levels else 0
        return [(level.format, level.combine if i >= main else "") for i, level in enumerate(format.levels)]

    kinds = [kinds_of(made.format) for made in (a, b)]
    if a.format.element != b.format.element or kinds[0] != kinds[1]:
        raise ValueError(
            f"{a.format.name} and {b.format.name} are two formats: needed two ways of encoding one "
            "(the same elements and the same codes of scales)"
        )
    if a.axis != b.axis:
        raise ValueError(f"axis={a.axis} and axis={b.axis}: needed the same")


def names_of(a: tuple[Spec, str], b: tuple[Spec, str]) -> tuple[str, str]:
    """Names for two sides: those that they were given, else the words in which they differ."""
    changes = changed_fields(a[0], b[0])
    words = [", ".join(change.words[i] for change in changes) for i in range(2)]
    return (a[1] or words[0] or a[0].format.name, b[1] or words[1] or b[0].format.name)
