"""What a spec is made of, as a search sees it: structures, blocks and fields, and the names that the library has."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

from sparq_sim._core import Conversion
from sparq_sim.formats import Format, Spec, block_text, elements, formats, levels_with_extents, spec, words_of
from sparq_sim.presets import presets

#: Elements of a line under one scale that are tried besides those of the catalog.
BLOCKS = (8, 16, 32, 64, 128)
#: Lines and elements of a tile that are tried besides those of the catalog.
TILES = (16, 24, 64, 128)

#: Fields that no value shows, or that need random bits.
_UNSEEN = ("stochastic", "random_bits", "zero_scale")
FIELDS: tuple[str, ...] = tuple(name for name in Conversion.fields if name not in _UNSEEN)


_WORDS = {name: words for name in FIELDS if (words := words_of(name)) is not None}
_DEFAULTS: Mapping[str, Any] = Conversion().to_dict()
#: What a field may need others to be.
_COMPANY: tuple[Mapping[str, Any], ...] = (
    {"integer_range": "full"},
    {"scale_rule": "even"},
    {"scale_rule": "rceil"},
    {"scale_rule": "amax", "divide_by": "stored"},
    {"rounding": "toward_zero"},
    {"rounding": "toward_zero", "scale_apply": "reciprocal", "apply_compute": "fp32"},
    {"scale_overflow": "nan_amax"},
    {"scale_rule": "rceil", "amax_exponent": "log2"},
    {"nonfinite": "poison"},
    {"divisor": 0.0},
    {"even_bits": -1},
    {"amax_exponent": "bits"},
    {"cut_offset": 0.0},
    {"align_bits": 0, "align_rounding": "toward_zero"},
    {"align_bits": 23},
    {"divisor_apply": "divide", "scale_compute": "fp32", "divide_by": "stored"},
    {"even_bits": -1, "divisor": 0.0, "amax_exponent": "bits"},
)

#: What was found to mean nothing in any company: kinds of formats with a field and its word.
_MEANINGLESS: set[Hashable] = set()

Block = tuple[int, int]
"""(along, across) of a main level; 0 for all."""


def structure(format: Format, *, outer_combine: str | None = None) -> Hashable:
    """What two formats share that differ only in the blocks of their main level, their conversion or their name; as if
    the scale above others had another `outer_combine`."""
    at = format.block_format.main_level if format.levels else -1
    levels = tuple(
        (level.format, outer_combine or level.combine, level.along, level.across)
        if i < at
        else (level.format, level.combine)
        if i == at or level.combine == "subtract"  # zero points have the blocks of their scales
        else (level.format, level.combine, level.along, level.across)
        for i, level in enumerate(format.levels)
    )
    return format.element, levels


def block_of(format: Format) -> Block:
    """The extents of the main level; (0, 0) without scales."""
    main = format.main
    return (0, 0) if main is None else (main.along, main.across)


def values_of(format: Format) -> int:
    """How many values elements under one scale of the main level can have, at most, pruned ones among them."""
    count = 1 << format.element.code_bits
    for level in format.levels[format.block_format.main_level + 1 :]:
        count *= 1 if level.combine == "subtract" else level.format.max_code + 1
    return count + 1


def with_block(format: Format, block: Block) -> Format | None:
    """The format with other blocks; None if it cannot have them."""
    main = format.main
    if main is None or block == block_of(format):
        return format
    try:
        return replace(format, levels=levels_with_extents(format, *block))
    except ValueError:
        return None


@lru_cache(1 << 16)
def _with_fields(format: Format, changes: tuple[tuple[str, Any], ...]) -> Format | None:
    try:
        return replace(format, conversion=Conversion(**{**format.conversion.to_dict(), **dict(changes)}))
    except ValueError:
        return None


def with_fields(format: Format, changes: Mapping[str, Any]) -> Format | None:
    """The format with other choices; None if they mean nothing together."""
    return _with_fields(format, tuple(changes.items()))


def with_conversion(format: Format, conversion: Conversion) -> Format | None:
    """The format with all choices of another; None if they mean nothing for it."""
    try:
        return replace(format, conversion=conversion)
    except ValueError:
        return None


def changed(format: Format, name: str, word: Any) -> Format | None:
    """The format with one other choice, and, if that alone means nothing, with what it needs."""
    made = with_fields(format, {name: word})
    if made is not None:
        return made
    main = format.main
    kind = (format.element, len(format.levels), None if main is None else main.format, format.conversion.scale_rule)
    if (*kind, name, word) in _MEANINGLESS:
        return None
    for company in _COMPANY:
        if name not in company and (made := with_fields(format, {**company, name: word})) is not None:
            return made
    _MEANINGLESS.add((*kind, name, word))
    return None


@dataclass(frozen=True)
class Numbers:
    """The numbers that are tried where a field is one."""

    divisor: tuple[float, ...] = (0.0,)
    even_bits: tuple[int, ...] = (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8)
    scale_minimum: tuple[int, ...] = (0,)
    align_bits: tuple[int, ...] = (0,)
    cut_offset: tuple[float, ...] = (0.0,)

    @classmethod
    def of_the_catalog(cls) -> Numbers:
        """Those that the catalog and the presets have."""
        seen: dict[str, set[Any]] = {name: set(getattr(cls(), name)) for name in cls.__dataclass_fields__}
        for one in named():
            for name, values in seen.items():
                values.add(getattr(one.format.conversion, name))
        return cls(**{name: tuple(sorted(values)) for name, values in seen.items()})

    def with_rare_ones(self) -> Numbers:
        """With numbers that no format of the catalog has."""
        offsets = {*self.cut_offset, *(k + 0.5 for k in range(10)), *(2.0**k + 0.5 for k in range(4, 8))}
        return replace(
            self, align_bits=tuple(sorted({*self.align_bits, *range(1, 25)})), cut_offset=tuple(sorted(offsets))
        )

    def extended(self, name: str, values: Sequence[Any]) -> Numbers:
        """With more numbers for a field."""
        return replace(self, **{name: tuple(sorted({*getattr(self, name), *values}))})


def other_words(format: Format, name: str, numbers: Numbers) -> Iterator[Any]:
    """Words or numbers of a field that the format does not have."""
    own = getattr(format.conversion, name)
    words: Sequence[Any] = _WORDS[name] if name in _WORDS else getattr(numbers, name)
    yield from (word for word in words if word not in (own, "stochastic"))


def neighbours(format: Format, numbers: Numbers) -> Iterator[Format]:
    """The formats that differ in one choice (and what it needs), or in two that hide one another."""
    for name in FIELDS:
        for word in other_words(format, name, numbers):
            made = changed(format, name, word)
            if made is not None:
                yield made
    # Without subnormals another divisor shows the same smallest numbers.
    for word in other_words(format, "subnormals", numbers):
        for divisor in other_words(format, "divisor", numbers):
            made = with_fields(format, {"subnormals": word, "divisor": divisor})
            if made is not None:
                yield made


@dataclass(frozen=True)
class Named:
    """A format as the catalog or a preset has it."""

    label: str
    format: Format
    preset: str | None = None


@cache
def named() -> tuple[Named, ...]:
    """Every format of the catalog, the elements as formats without scales, and every preset of each of its formats."""
    catalog = formats()
    plain = {name: Format(name, one.record) for name, one in elements().items() if one.record.signedness != "unsigned"}
    known = {**{name: one for name, one in plain.items() if _possible(one)}, **catalog}
    made = [Named(name, one) for name, one in known.items()]
    for preset in presets().values():
        for name in preset.formats:
            if name in known:
                made.append(
                    Named(f"{name} like={preset.name}", spec(known[name], like=preset.name).format, preset.name)
                )
    return tuple(made)


def _possible(format: Format) -> bool:
    return format.element.zero


@cache
def by_structure() -> Mapping[Hashable, tuple[Named, ...]]:
    """`named`, by what they are made of."""
    table: dict[Hashable, list[Named]] = {}
    for one in named():
        table.setdefault(structure(one.format), []).append(one)
    return {key: tuple(ones) for key, ones in table.items()}


@dataclass(frozen=True)
class Description:
    """A spec in the library's names."""

    spec: Spec
    """As the format of the catalog that it differs least from."""
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What differs from that format, the block among it."""
    names: tuple[str, ...] = ()
    """Formats of the catalog, and presets, that are exactly this."""
    related: tuple[str, ...] = ()
    """Presets that are this but for the block."""
    unusual: int = 0
    """Changes to what no format of the catalog and no preset has."""


def _differences(format: Format, base: Format) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if format.outer_combine != base.outer_combine:
        made["outer_combine"] = format.outer_combine
    if block_of(format) != block_of(base):
        block = format.block
        made["block"] = block_text(block) if isinstance(block, tuple) else block
    own, usual = format.conversion.to_dict(), base.conversion.to_dict()
    made |= {name: word for name, word in own.items() if word != usual[name]}
    return made


def describe(made: Spec) -> Description:
    """The names of a spec."""
    family = by_structure().get(structure(made.format), ())
    if made.format.outer_combine not in (None, "multiply"):  # as the catalog has none
        family = (*family, *by_structure().get(structure(made.format, outer_combine="multiply"), ()))
    bases = [(_differences(made.format, one.format), one) for one in family]
    catalog = [(changes, one) for changes, one in bases if one.preset is None]
    if not catalog:
        return Description(made, str(made))
    changes, base = min(catalog, key=lambda pair: len(pair[0]))
    format_ = replace(base.format, levels=made.format.levels, conversion=made.format.conversion)
    words = [base.label, *(f"{name}={word}" for name, word in changes.items())]
    if made.sparsity is not None:
        words.append(f"sparsity={made.sparsity.kept}:{made.sparsity.group}")
        words += [f"ties={made.sparsity.ties}"] if made.sparsity.ties != "lowest_index" else []
        words += [f"order={made.order}"] if made.order != "sparsify_first" else []
    if made.axis != -1:
        words.append(f"axis={made.axis}")
    names = tuple(one.label for differs, one in bases if not differs)
    related = tuple(one.label for differs, one in bases if one.preset is not None and set(differs) == {"block"})
    unusual = sum((name, word) not in _usual_words() for name, word in changes.items() if name in Conversion.fields)
    return Description(replace(made, format=format_), " ".join(words), changes, names, related, unusual)


@cache
def _usual_words() -> frozenset[tuple[str, Any]]:
    return frozenset(pair for one in named() for pair in one.format.conversion.to_dict().items())
