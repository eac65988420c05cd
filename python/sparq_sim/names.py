"""Names of catalogs."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def close_first(given: object, known: Collection[str]) -> list[str]:
    """Names, those that are like the given one first."""
    close = get_close_matches(given.lower(), known, n=4, cutoff=0.5) if isinstance(given, str) else []
    return list(dict.fromkeys([*close, *known]))


def unknown_name(what: str, given: object, known: Collection[str]) -> ValueError:
    """The error for a name that is not known: it lists those that are, the ones that are like it first."""
    return ValueError(f"unknown {what} {given!r}; known: {', '.join(close_first(given, known))}")
