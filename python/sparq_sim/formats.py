"""Formats as records: the catalog, a user's own, and the `Spec` that says everything about an encoding."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim._core import BlockFormat, Conversion, Datapath, ElementFormat, ScaleLevel, Sparsity
from sparq_sim.names import unknown_name
from sparq_sim.presets import find_preset

#: Version of the JSON that `Spec.to_json` writes; others are refused.
SPEC_VERSION = 1

_WHOLE = 0  # block extent: all of the axis
_WORDS: Mapping[str, tuple[str, ...]] = _core.words
_CONVERSION_CHOICES = tuple(Conversion.fields)
_CHOICES = ("block", "outer_combine", "ties", "scale_space", *_CONVERSION_CHOICES)
_DEFAULTS: Mapping[str, Any] = Conversion().to_dict()
# Choices that only stochastic rounding reads.
_STOCHASTIC = ("stochastic", "random_bits")


@dataclass(frozen=True)
class Element:
    """A named element or scale code of the catalog with its evidence: ``specification`` (a published one, or a draft,
    says so), ``implementation`` (makers' software or documents do so) or ``inferred`` (makers may differ)."""

    name: str
    record: ElementFormat
    source: str
    evidence: str


@dataclass(frozen=True)
class Format:
    """A block format with the conversion it uses unless told otherwise.

    Make your own; it runs through the same kernels as the catalog's:

    >>> import numpy as np, sparq_sim as sq
    >>> scale = sq.ElementFormat(exponent_bits=5, bias=15, signedness="unsigned", specials="fn", zero=False)
    >>> e3m0 = sq.Format("e3m0_b8", sq.ElementFormat(exponent_bits=3, bias=3), [sq.ScaleLevel(format=scale, along=8)])
    >>> sq.emulate(np.float32([0.3, -1.0, 6.0, 0.01]), e3m0)
    array([ 0.25, -1.  ,  4.  ,  0.  ], dtype=float32)

    Raises:
        ValueError: the records say something that no kernel can do, with the reason.
    """

    name: str
    element: ElementFormat
    levels: Sequence[ScaleLevel] = ()
    conversion: Conversion = field(default_factory=Conversion)
    source: str = "user"
    #: As of an `Element`, or ``user``. It says how sure the catalog is, not what is computed: equality and digests
    #: leave it out.
    evidence: str = field(default="user", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.element, Element):
            object.__setattr__(self, "element", self.element.record)
        if not isinstance(self.element, ElementFormat):
            raise TypeError(f"element: needed an ElementFormat, such as elements()['e2m1'], got {self.element!r}")
        levels = self.levels if isinstance(self.levels, (list, tuple)) else [self.levels]
        for level in levels:
            if not isinstance(level, ScaleLevel):
                raise TypeError(f"levels: needed a list of ScaleLevel, got {level!r}")
        object.__setattr__(self, "levels", tuple(levels))
        _core.check_spec(self.block_format, self.conversion, None)

    @property
    def block_format(self) -> BlockFormat:
        """What decoding needs."""
        return BlockFormat(self.element, self.levels)

    @property
    def main(self) -> ScaleLevel | None:
        """The level whose scales are those of blocks; None without scales."""
        return self.levels[self.block_format.main_level] if self.levels else None

    @property
    def block(self) -> int | str | tuple[int, int] | None:
        """Elements under one scale of the main level: a count along a line, (lines, elements of each), ``"row"``,
        ``"tensor"``, or None without scales."""
        return None if self.main is None else level_block(self.main)

    @property
    def scale_kind(self) -> str:
        """``"none"``, ``"power_of_two"`` or ``"float"``: of the main level."""
        level = self.main
        if level is None:
            return "none"
        return "power_of_two" if level.format.is_power_of_two_scale else "float"

    @property
    def has_zero_points(self) -> bool:
        """Whether a zero point lies beside each scale: the innermost level."""
        return bool(self.levels) and self.levels[-1].combine == "subtract"

    @property
    def outer_combine(self) -> str | None:
        """How the scale above those of blocks meets them, where there is one: ``"multiply"``, or one of the words for
        a scale that encoders multiply by (``"divide"``, ``"reciprocal"``, ``"reciprocals"``, ``"divide_top"``)."""
        return self.levels[0].combine if self.levels and self.block_format.main_level > 0 else None

    @property
    def has_scale_codes(self) -> bool:
        """Whether the scales of blocks are stored as codes; else they are float32 numbers (or there are none)."""
        return self.main is not None and self.main.format.code_bytes < 4

    def bits_per_element(self, length: int | None = None, lines: int | None = None) -> float:
        """Bits of codes and scales per element of `lines` lines of `length` elements (default: without ragged blocks;
        scales per row or tensor then count nothing)."""
        bits = float(self.element.code_bits)
        for level in self.levels:
            size, across = scale_bits(level), level.across
            if length is None:
                bits += size / (level.along * across) if level.along != _WHOLE else 0.0
            elif length and lines != 0:
                spanned: float = across if across > 1 else 1
                if lines is not None:
                    spanned = lines if across == _WHOLE else lines / -(-lines // max(1, across))
                bits += size * level.blocks_per_line(length) / (length * spanned)
        return bits


def level_block(level: ScaleLevel) -> int | str | tuple[int, int]:
    """Elements under one scale of a level, as `Format.block` says it."""
    if level.along == _WHOLE:
        return "tensor" if level.across == _WHOLE else "row" if level.across == 1 else (level.across, _WHOLE)
    return level.along if level.across == 1 else (level.across, level.along)


def scale_bits(level: ScaleLevel) -> int:
    """Bits of a stored scale: a byte for a short float, whose sign bit nobody reads; of an exponent or a zero point its
    own."""
    record = level.format
    own = record.is_power_of_two_scale or level.combine == "subtract"
    return record.code_bits if own else 8 * record.code_bytes


@dataclass(frozen=True)
class Spec:
    """Everything about an encoding: format, conversion, sparsity, order and axis. Hashable and printable; as JSON it
    carries a version and the numerics version."""

    format: Format
    sparsity: Sparsity | None = None
    order: str = "sparsify_first"
    axis: int = -1
    scale_space: str = "dense"
    """Along which K the blocks of scales were counted: ``"dense"``, or ``"stored"``, where only the kept elements of an
    N:M tensor count. `format` always says dense elements."""

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise TypeError(f"format: needed a Format, got {self.format!r}; spec() takes names")
        _check_scale_space(self.format, self.sparsity, self.scale_space)

    @property
    def conversion(self) -> Conversion:
        """How bits are chosen."""
        return self.format.conversion

    def dense(self) -> Spec:
        """The same without a pattern."""
        return replace(self, sparsity=None, order="sparsify_first", scale_space="dense")

    def __str__(self) -> str:
        parts = [self.format.name]
        if self.format.block is not None:
            parts.append(f"block={block_text(self.format.block)}")
        if self.format.outer_combine not in (None, "multiply"):
            parts.append(f"outer_combine={self.format.outer_combine}")
        chosen = self._said()
        if self.format.scale_kind == "none":
            chosen.pop("scale_rule")
        parts += [f"{name}={word}" for name, word in chosen.items()]
        if self.sparsity is not None:
            parts += [f"sparsity={pattern_text(self.sparsity)}", f"ties={self.sparsity.ties}", f"order={self.order}"]
        if self.scale_space != "dense":
            parts.append(f"scale_space={self.scale_space}")
        parts.append(f"axis={self.axis}")
        return " ".join(parts)

    def _said(self) -> dict[str, Any]:
        """The choices of the conversion that mean something."""
        chosen: dict[str, Any] = self.conversion.to_dict()
        wanted = {"rounding", "overflow", "scale_rule"}
        if self.format.scale_kind == "float" and self.format.has_scale_codes:
            wanted.add("scale_rounding")
        if self.conversion.rounding == "stochastic":
            wanted.update(_STOCHASTIC)
        return {name: word for name, word in chosen.items() if name in wanted or word != _DEFAULTS[name]}

    def to_json(self) -> str:
        """One line of JSON with sorted keys.

        >>> import sparq_sim as sq
        >>> sq.Spec.from_json(sq.spec("mxfp4", sparsity="2:4").to_json()) == sq.spec("mxfp4", sparsity="2:4")
        True
        """
        return json.dumps({**self._record(), "evidence": self.format.evidence}, sort_keys=True)

    def _record(self) -> dict[str, Any]:
        """What the digest is of."""
        return {
            "version": SPEC_VERSION,
            "numerics": _core.numerics_version,
            "name": self.format.name,
            "source": self.format.source,
            "format": self.format.block_format.to_dict(),
            "conversion": self._said(),
            "sparsity": None if self.sparsity is None else _pattern_dict(self.sparsity),
            "order": self.order,
            "axis": self.axis,
            **({} if self.scale_space == "dense" else {"scale_space": self.scale_space}),
        }

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The spec of `to_json`.

        Raises:
            ValueError: not such JSON, or of an unknown version.
        """
        try:
            record = json.loads(text)
            version = record["version"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"not a spec: {text[:80]!r}") from None
        if version != SPEC_VERSION:
            raise ValueError(f"spec version {version!r}; this library reads version {SPEC_VERSION}")
        try:
            levels = [
                ScaleLevel(**{**level, "format": ElementFormat(**level["format"])})
                for level in record["format"]["levels"]
            ]
            format_ = Format(
                record["name"],
                ElementFormat(**record["format"]["element"]),
                levels,
                Conversion(**record["conversion"]),
                record["source"],
                record.get("evidence", "user"),
            )
            sparsity = None if record["sparsity"] is None else parse_sparsity(Sparsity(**record["sparsity"]))
            axis = record["axis"]
            if not isinstance(axis, int) or isinstance(axis, bool):
                raise TypeError(f"axis {axis!r} is no integer")
            return cls(format_, sparsity, checked_order(record["order"]), axis, record.get("scale_space", "dense"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a spec: {error}") from None

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change whenever the spec or the numerics version does."""
        return record_digest(self._record())


def record_digest(record: Mapping[str, Any]) -> str:
    """Of the record of a spec."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Machine:
    """A named datapath of the catalog with its evidence: ``definition`` (true by construction), ``hardware`` (equals
    recorded devices), ``model`` (equals a published model, or RTL) or ``inferred`` (from documents that leave things
    open)."""

    name: str
    record: Datapath
    source: str
    evidence: str


def elements() -> dict[str, Element]:
    """The element and scale codes of the catalog, by name."""
    return {name: Element(name, record, source, evidence) for name, record, source, evidence in _core.elements}


def formats() -> dict[str, Format]:
    """The block formats of the catalog, by name.

    >>> import sparq_sim as sq
    >>> sq.formats()["mxfp4"].bits_per_element()
    4.25
    """
    return dict(_catalog())


@lru_cache(maxsize=1)
def _catalog() -> dict[str, Format]:
    return {
        name: Format(name, block_format.element, block_format.levels, conversion, source, evidence)
        for name, block_format, conversion, source, evidence in _core.formats
    }


def conversions() -> dict[str, tuple[str, ...]]:
    """The choices of an encoder and their allowed words."""
    words = {name: _WORDS[name] for name in (*_CONVERSION_CHOICES, "ties", "order") if name in _WORDS}
    return {**words, "outer_combine": tuple(word for word in _WORDS["combine"] if word != "subtract")}


def words_of(name: str) -> tuple[str, ...] | None:
    """The words of a field of `Conversion`, which may have those of another whose name ends its own
    (``input_subnormals``); None for numbers."""
    if name in _core.words:
        return tuple(_core.words[name])
    return next((tuple(words) for key, words in _core.words.items() if name.endswith(f"_{key}")), None)


def datapaths() -> dict[str, Machine]:
    """The machines of the catalog, by name."""
    return {name: Machine(name, record, source, evidence) for name, record, source, evidence in _core.datapaths}


def find_format(name: str) -> Format:
    """A format by its name or short name; ValueError lists the known names."""
    known = _catalog()
    short = dict(_core.aliases)
    if short.get(name, name) not in known:
        raise unknown_name("format", name, [*known, *short])
    return known[short.get(name, name)]


def find_element(name: str) -> ElementFormat:
    """An element record by its name; ValueError lists the known names."""
    known = elements()
    if name not in known:
        raise unknown_name("element format", name, list(known))
    return known[name].record


def find_datapath(name: str) -> Machine:
    """A machine by its name; ValueError lists the known names."""
    known = datapaths()
    if name not in known:
        raise unknown_name("datapath", name, list(known))
    return known[name]


def checked_order(word: str) -> str:
    """An order word; ValueError lists the known ones."""
    if word not in _WORDS["order"]:
        raise unknown_name("order", word, _WORDS["order"])
    return word


def pattern_text(pattern: Sparsity) -> str:
    """``2:4``; ``4:8/2`` where two neighbours are kept together."""
    text = f"{pattern.kept}:{pattern.group}"
    return text if pattern.unit == 1 else f"{text}/{pattern.unit}"


def _pattern_dict(pattern: Sparsity) -> dict[str, Any]:
    """Without what came later, where it is the default: digests stay."""
    fields: dict[str, Any] = pattern.to_dict()
    return {name: value for name, value in fields.items() if name != "unit" or value != 1}


#: Along which K blocks of scales are counted.
SCALE_SPACES = ("dense", "stored")


def _check_scale_space(format: Format, pattern: Sparsity | None, space: str) -> None:
    if space not in SCALE_SPACES:
        raise unknown_name("scale_space", space, SCALE_SPACES)
    if space == "dense":
        return
    if pattern is None:
        raise ValueError("scale_space='stored' without a sparsity pattern means nothing")
    for level in format.levels:
        if level.along != _WHOLE and level.along % pattern.group:
            raise ValueError(
                f"scale_space='stored': a block of {level.along} dense elements cuts a group of {pattern.group}"
            )


def _in_dense_elements(format: Format, pattern: Sparsity) -> Format:
    """A format whose blocks count stored elements of N:M, with blocks that count dense ones."""
    levels = []
    for level in format.levels:
        along = level.along
        if along != _WHOLE:
            if along % pattern.kept:
                raise ValueError(
                    f"scale_space='stored': a block of {along} stored elements cuts a group of {pattern.kept} of them; "
                    f"needed a multiple of {pattern.kept}"
                )
            along = along // pattern.kept * pattern.group
        levels.append(ScaleLevel(format=level.format, along=along, across=level.across, combine=level.combine))
    return replace(format, levels=levels)


def parse_sparsity(pattern: str | Sparsity | None, ties: str | None = None) -> Sparsity | None:
    """``"2:4"``, or ``"4:8/2"`` in units of two (or a record, or None), as a record with a tie rule.

    Raises:
        ValueError: not of the form N:M with 1 <= N <= M <= 32, or an unknown tie rule.
    """
    if pattern is None:
        if ties is not None:
            raise ValueError(f"ties={ties!r} without a sparsity pattern means nothing")
        return None
    if isinstance(pattern, str):
        match = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})(?:/([0-9]{1,4}))?", pattern)
        if match is None:
            raise ValueError(f"sparsity={pattern!r}: needed a pattern N:M such as '2:4', or '4:8/2'")
        record = Sparsity(kept=int(match[1]), group=int(match[2]), unit=int(match[3] or 1))
    elif isinstance(pattern, Sparsity):
        record = pattern
    else:
        raise TypeError(f"sparsity: needed a pattern such as '2:4', got {type(pattern).__name__}")
    if ties is not None:
        record = Sparsity(kept=record.kept, group=record.group, ties=ties, unit=record.unit)
    _core.check_spec(find_format("bf16").block_format, find_format("bf16").conversion, record)
    if record.group == 0:
        raise ValueError("sparsity=0:0: needed 1 <= N <= M <= 32")
    return record


def code_text(record: ElementFormat, code: int) -> str:
    """Sign, exponent and mantissa of a code; sign, prefix and the rest of a tapered one."""
    bits = f"{code:0{record.code_bits}b}"
    sign = 1 if record.signedness != "unsigned" else 0
    first = record.exponent_bits
    if record.taper:
        zeros = len(bits) - sign - len(bits[sign:].lstrip("0"))
        first = max(2, min(zeros + 1, record.exponent_bits))
    parts = (bits[:sign], bits[sign : sign + first], bits[sign + first :])
    return " ".join(part for part in parts if part)


def block_text(block: int | str | tuple[int, int] | None) -> str:
    """A block's extents for people: ``32``, ``row``, ``16x16`` (lines x elements of each)."""
    return "x".join(map(str, block)) if isinstance(block, tuple) else str(block)


def _extent(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, np.integer)) and bool(1 <= value < 2**31)


def levels_with_extents(base: Format, along: int, across: int) -> tuple[ScaleLevel, ...]:
    """The levels of a format under blocks of other extents (0 for a whole axis): those of its main level."""
    at = base.block_format.main_level
    return tuple(
        ScaleLevel(format=level.format, along=along, across=across, combine=level.combine)
        if i == at or level.combine == "subtract"  # zero points are those of the same blocks
        else level
        for i, level in enumerate(base.levels)
    )


def levels_with_outer(levels: Sequence[ScaleLevel], combine: str) -> tuple[ScaleLevel, ...]:
    """Levels whose outermost one meets those inside it in another way."""
    first = levels[0]
    outer = ScaleLevel(format=first.format, along=first.along, across=first.across, combine=combine)
    return (outer, *levels[1:])


def _with_block(base: Format, block: object) -> Format:
    """The format with other blocks, as a user writes them."""
    if base.main is None:
        raise ValueError(f"block={block!r}: {base.name} has no scales")
    words = {"row": (_WHOLE, 1), "tensor": (_WHOLE, _WHOLE)}
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", block) if isinstance(block, str) else None
    if match is not None:
        block = (int(match[1]), int(match[2]))
    if isinstance(block, str) and block in words:
        along, across = words[block]
    elif _extent(block):
        along, across = int(block), 1  # type: ignore[call-overload]
    elif isinstance(block, (tuple, list)) and len(block) == 2 and all(map(_extent, block)):
        across, along = map(int, block)
    else:
        raise ValueError(
            f"block={block!r}: needed a positive integer below 2^31, 'row' or 'tensor', or (lines, elements) of a tile"
        )
    return replace(base, levels=levels_with_extents(base, along, across))


def _scale_space(base: Spec, choices: Mapping[str, Any]) -> str:
    """Of a spec with choices. Going back to dense elements needs blocks in dense elements."""
    asked = choices.get("scale_space")
    space: str = base.scale_space if asked is None else asked
    if space == "dense" and base.scale_space == "stored" and choices.get("block") is None:
        raise ValueError("scale_space='dense': give block= with it, in dense elements")
    return space


def spec(
    format: str | Format | Spec,
    *,
    axis: int | None = None,
    sparsity: str | Sparsity | None = None,
    order: str | None = None,
    like: str | None = None,
    **choices: Any,
) -> Spec:
    """A `Spec` from a name, a `Format` or another spec, with choices.

    Args:
        format: a name of `formats()`, a short name (``"mxfp8"``, ``"mxfp6"``), a record, or a spec to change.
        axis: the reduction axis, along which blocks and N:M groups run; default -1.
        sparsity: ``"N:M"`` or None.
        order: ``"sparsify_first"`` (default) or ``"quantize_first"``.
        like: a preset of `presets()`, whose choices are made first; others then override them. The spec holds what
            was chosen, and not the name.
        choices: ``block`` (elements, ``"row"``, ``"tensor"``, or (lines, elements) of a tile), ``outer_combine`` (what
            the float32 scale above those of blocks does: multiply, divide, reciprocal, reciprocals, divide_top),
            ``ties``, ``scale_space`` (``"dense"``; ``"stored"``: blocks count the kept elements of an N:M tensor), and
            every field of `Conversion`: ``rounding``, ``overflow``, ``scale_rule``, ``scale_rounding``,
            ``scale_minimum`` and ``zero_scale`` (scale codes), ``divisor``, ``even_bits``, ``amax_exponent``,
            ``element_exponent``, ``half_sum``, ``scale_overflow``, ``least_scale``,
            ``scale_underflow``, ``scale_apply``, ``divisor_apply``, ``divide_by``, ``outer_apply``, ``outer_overflow``,
            ``scale_order``, ``scale_compute``, ``apply_compute``, ``cut_offset``, ``align_bits``, ``align_rounding``,
            ``nonfinite``, ``infinite``, ``nan_scale``, ``signed_zero``, ``subnormals``, ``input_subnormals``,
            ``integer_range``, ``preround``, ``stochastic``, ``random_bits`` (1 to 22). The words are in
            `conversions()`, their meaning in docs/numerics.md.

    Raises:
        ValueError: an unknown name or word, a format of which the preset says nothing, or a combination that means
            nothing, with the reason.
        TypeError: an unknown choice.

    >>> import sparq_sim as sq
    >>> print(sq.spec("mxfp4", block=16, scale_rule="rceil", sparsity="2:4"))
    mxfp4 block=16 rounding=nearest_even overflow=saturate scale_rule=rceil sparsity=2:4 ...
    >>> sq.spec("mxfp8", like="torchao-main/even") == sq.spec("mxfp8", scale_rule="even", scale_overflow="nan")
    True
    """
    if isinstance(format, Spec):
        base = format
    elif isinstance(format, Format):
        base = Spec(format)
    elif isinstance(format, str):
        base = Spec(find_format(format))
    else:
        raise TypeError(f"format: needed a name, a Format or a Spec, got {type(format).__name__}")
    for name in choices:
        if name not in _CHOICES:
            raise TypeError(f"unknown choice {name!r}; choices: {', '.join(_CHOICES)}")
    record = base.format
    if like is not None:
        given = {name: word for name, word in choices.items() if word is not None}
        choices = find_preset(like).choices_for(record.name) | given
    if choices.get("block") is not None:
        record = _with_block(record, choices["block"])
    combine = choices.get("outer_combine")
    if combine is not None:
        if record.outer_combine is None:
            raise ValueError(f"outer_combine={combine!r}: {record.name} has no float32 scale above those of blocks")
        if combine not in conversions()["outer_combine"]:
            raise unknown_name("outer_combine", combine, conversions()["outer_combine"])
    chosen = {name: choices[name] for name in _CONVERSION_CHOICES if choices.get(name) is not None}
    for name in ("scale_rule", "divisor", "even_bits"):
        if name in chosen and not record.levels:
            raise ValueError(f"{name}={chosen[name]!r}: {record.name} has no scales")
    if chosen or combine is not None:
        levels = record.levels if combine is None else levels_with_outer(record.levels, combine)
        conversion = Conversion(**{**record.conversion.to_dict(), **chosen})
        record = replace(record, levels=levels, conversion=conversion)
    for name in _STOCHASTIC:
        if name in chosen and record.conversion.rounding != "stochastic":
            raise ValueError(f"{name}={chosen[name]!r} needs rounding='stochastic'")
    pattern = sparsity if sparsity is not None else base.sparsity
    parsed = parse_sparsity(pattern, choices.get("ties"))
    if order is not None and parsed is None and order != "sparsify_first":
        raise ValueError(f"order={order!r} without a sparsity pattern means nothing")
    space = _scale_space(base, choices)
    if space == "stored" and parsed is not None:
        # Blocks of a spec that counted stored elements already count dense ones now.
        counted = base.scale_space == "stored" and choices.get("block") is None
        if (
            counted
            and base.sparsity is not None
            and parsed.kept * base.sparsity.group != parsed.group * base.sparsity.kept
        ):
            raise ValueError("scale_space='stored': give block= together with another pattern")
        record = record if counted else _in_dense_elements(record, parsed)
    return Spec(
        record,
        parsed,
        base.order if order is None else checked_order(order),
        base.axis if axis is None else axis,
        space,
    )
