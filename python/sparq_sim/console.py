"""What the commands of `sparq` share: consoles, options, JSON."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

# Redirected output has no width of its own.
out = Console(width=None if sys.stdout.isatty() else 120)
log = Console(stderr=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Threads = Annotated[int | None, typer.Option(help="Threads to use; results never depend on it.")]
Like = Annotated[str | None, typer.Option(help="A preset, such as torchao-main/rceil; --choice overrides it.")]
Pattern = Annotated[str | None, typer.Option("--sparsity", help="An N:M pattern, such as 2:4; in pairs 4:8/2.")]
Choices = Annotated[list[str] | None, typer.Option("--choice", help="name=word, such as scale_rule=rceil; repeatable.")]


def print_json(data: Any) -> None:
    """Data on standard output."""
    typer.echo(json.dumps(data, indent=1, allow_nan=False))


def choices_of(pairs: list[str], option: str = "--choice") -> dict[str, Any]:
    """``name=word`` pairs as choices of `spec`."""
    choices: dict[str, Any] = {}
    for pair in pairs:
        name, equals, word = pair.partition("=")
        if not equals:
            raise ValueError(f"{option} {pair}: needed name=word, such as scale_rule=rceil")
        choices[name] = number_or_word(word)
    return choices


def number_or_word(word: str) -> int | float | str:
    """A number where it looks like one."""
    if re.fullmatch(r"-?[0-9]+", word):
        return int(word)
    return float(word) if re.fullmatch(r"[0-9]+\.[0-9]*|\.[0-9]+", word) else word
