"""Reads the worked examples of docs/numerics.md.

An example is a fenced block marked `example`: a line `operation format key=value ...`, then lines
`name = patterns`; `#` starts a comment. Nothing here computes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "numerics.md"
OPENING, CLOSING = "```example", "```"


@dataclass(frozen=True)
class Patterns:
    """A list of bit patterns, all written with the same number of digits."""

    values: tuple[int, ...]
    digits: int  # 8 means float32, 16 float64; codes have as many as they need


@dataclass(frozen=True)
class Example:
    """One example; `line` is where its first line stands in the document."""

    line: int
    operation: str
    format: str
    options: dict[str, str]
    lists: dict[str, Patterns]

    @property
    def name(self) -> str:
        """A readable identifier for test reports."""
        return f"line{self.line}-{self.operation}-{self.format}"


def parse_patterns(text: str, line: int) -> Patterns:
    """`0x7E 0x01` or `1 0 0`; digits of unequal number are most likely a slip of the pen."""
    words = text.split()
    if not words:
        raise ValueError(f"line {line}: an empty list")
    digits = {len(word.removeprefix("0x")) for word in words}
    if len(digits) != 1:
        raise ValueError(f"line {line}: patterns of different lengths: {text}")
    # A word without 0x is decimal: masks are written as 0 and 1.
    return Patterns(tuple(int(word, 16 if word.startswith("0x") else 10) for word in words), digits.pop())


def parse_example(lines: list[tuple[int, str]]) -> Example:
    """The lines of one block, each with its number in the document."""
    stripped = [(number, text.split("#")[0].strip()) for number, text in lines]
    (number, head), *rest = [(number, text) for number, text in stripped if text]
    operation, name, *words = head.split()
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in options:
            raise ValueError(f"line {number}: {word!r} is not a new key=value")
        options[key] = value
    lists: dict[str, Patterns] = {}
    for at, text in rest:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or key in lists:
            raise ValueError(f"line {at}: {text!r} is not a new name = patterns")
        lists[key] = parse_patterns(value, at)
    return Example(number, operation, name, options, lists)


def parse_examples(text: str) -> list[Example]:
    """Every example of a document, in order."""
    examples: list[Example] = []
    block: list[tuple[int, str]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if block is None:
            block = [] if line.strip() == OPENING else None
        elif line.strip() == CLOSING:
            examples.append(parse_example(block))
            block = None
        else:
            block.append((number, line))
    if block is not None:
        raise ValueError("the last example is not closed")
    return examples


def load_examples(path: Path = DOCUMENT) -> list[Example]:
    """The examples of docs/numerics.md."""
    return parse_examples(path.read_text(encoding="utf-8"))
