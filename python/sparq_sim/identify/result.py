"""What `identify` found: specs that make y of x, or those that come near; as data, JSON and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from sparq_sim.formats import Spec
from sparq_sim.identify.apart import Apart


@dataclass(frozen=True)
class Match:
    """A spec that makes exactly y, NaN as NaN."""

    label: str
    """The format of the catalog that it differs least from, and what differs."""
    spec: Spec = field(repr=False)
    names: tuple[str, ...]
    """Formats of the catalog and presets (``format like=preset``) that set these very fields; empty for none."""
    related: tuple[str, ...]
    """Presets that do so with another block."""
    changes: Mapping[str, Any]
    """What differs from the format of the catalog."""
    zero_signs: bool
    """Whether signs of zeros are those of y too."""

    @property
    def presets(self) -> tuple[str, ...]:
        """The presets among `names`."""
        return tuple(name.partition(" like=")[2] for name in self.names if " like=" in name)


@dataclass(frozen=True)
class Near:
    """A spec that does not make y, and where it differs."""

    label: str
    spec: Spec = field(repr=False)
    names: tuple[str, ...]
    differing: int
    """Elements of which the values differ."""
    signs: int
    """Zeros of the other sign."""
    kinds: Mapping[str, int]
    """What differing elements lie in: NaN/Inf blocks, scales, saturated maxima, ties, subnormals, other roundings,
    signs of zero. Each counts once, in the first that fits."""
    blocks: int
    """Blocks that would be right under a scale nearby."""
    index: tuple[int, ...]
    """The first element that differs."""
    x_bits: str
    y_bits: str
    our_bits: str

    def words(self) -> str:
        """The kinds in a line."""
        said = [
            f"in scales of {self.blocks} blocks ({count})" if name == "scales" else f"in {name} ({count})"
            for name, count in self.kinds.items()
        ]
        return ", ".join(said)


@dataclass(frozen=True)
class Group:
    """Matches that this tensor cannot tell apart."""

    specs: tuple[str, ...]
    pairs: tuple[Apart, ...]
    """For every two of the first of them, an input that does."""


@dataclass(frozen=True, repr=False)
class Identification:
    """What `identify` found. ``print`` it for a table."""

    matches: tuple[Match, ...]
    """Specs that make exactly y: signs of zeros first, then formats of the catalog and presets, then fewest changes."""
    nearest: tuple[Near, ...]
    """If nothing matches, what comes closest."""
    indistinguishable: tuple[Group, ...]
    undecided: Mapping[str, tuple[str, ...]]
    """Fields of the first match, and the other words of each that make y as well."""
    facts: Mapping[str, Any]
    """What the tensors say by themselves."""
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    whole_runs: int
    """Specs that the whole tensor was run through."""
    seconds: float = field(compare=False)
    name: str = ""

    def __repr__(self) -> str:
        if self.best is None:
            near = f"{self.nearest[0].label}, {self.nearest[0].differing} elements differ" if self.nearest else "none"
            return f"Identification(nothing matches; nearest {near})"
        return f"Identification({self.best.label}; {len(self.matches)} matches)"

    @property
    def best(self) -> Match | None:
        """The first match."""
        return self.matches[0] if self.matches else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it; specs as `Spec.to_json` writes them."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtypes": list(self.dtypes),
            "facts": dict(self.facts),
            "matches": [_plain(one) | {"presets": list(one.presets)} for one in self.matches],
            "nearest": [_plain(one) for one in self.nearest],
            "indistinguishable": json.loads(json.dumps([asdict(one) for one in self.indistinguishable])),
            "undecided": {name: list(words) for name, words in self.undecided.items()},
            "whole_runs": self.whole_runs,
            "seconds": round(self.seconds, 3),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @property
    def title(self) -> str:
        """One line that says what was looked at."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        text = f"{shape}, {self.dtypes[0]} to {self.dtypes[1]}"
        return f"{self.name}: {text}" if self.name else text

    def table(self) -> Table:
        """A rich table of the matches that have names or are first, or of what comes closest."""
        table = Table(title=self.title, title_justify="left")
        if self.matches:
            table.add_column("spec", overflow="fold")
            table.add_column("the same fields as", overflow="fold")
            table.add_column("zero signs", no_wrap=True)
            first = self.matches[0]
            for one in self.matches:
                # Other axes and ties are among what is undecided.
                if one is first or (one.names and _place(one.spec) == _place(first.spec)):
                    names = [name for name in one.names if name != one.label]
                    same = names or [f"{name}, but for the block" for name in one.related]
                    table.add_row(one.label, "\n".join(same), "agree" if one.zero_signs else "differ")
            return table
        table.add_column("spec", overflow="fold")
        table.add_column("differ", justify="right", no_wrap=True)
        table.add_column("in what", overflow="fold")
        table.add_column("first at: x, y, ours", overflow="fold")
        for near in self.nearest:
            where = f"[{', '.join(map(str, near.index))}]: {near.x_bits}, {near.y_bits}, {near.our_bits}"
            table.add_row(near.label, str(near.differing), near.words(), where)
        return table

    def summary(self) -> list[str]:
        """Lines below the table."""
        if not self.matches:
            return ["nothing matches"]
        lines = [
            f"not decided by this tensor: {name} may be {', '.join(words)} too"
            for name, words in self.undecided.items()
        ]
        for group in self.indistinguishable:
            lines.append(f"{len(group.specs)} specs cannot be told apart by this tensor; inputs that do:")
            first = group.specs[0]
            lines += [f"  {pair}" for pair in group.pairs if pair.first == first]
        return lines

    def __str__(self) -> str:
        console = Console(width=120, file=StringIO(), color_system=None)
        console.print(self.table())
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join([*(line.rstrip() for line in text.splitlines()), *self.summary()])


def _place(made: Spec) -> tuple[object, ...]:
    return made.axis, made.sparsity, made.order


def _plain(one: Match | Near) -> dict[str, Any]:
    fields = {name: value for name, value in vars(one).items() if name != "spec"}
    made: dict[str, Any] = json.loads(
        json.dumps({name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()})
    )
    return made | {"spec": json.loads(one.spec.to_json())}
