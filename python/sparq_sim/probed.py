"""What `probe` found out about a black box; as data and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sparq_sim._core import Datapath
from sparq_sim.probe_places import Ways
from sparq_sim.summation import START, Node, chain_of, places_text
from sparq_sim.telling import Telling


@dataclass(frozen=True)
class Probe:
    """What a black box does inside, as far as its outputs show it."""

    k: int
    a_format: str
    b_format: str
    dtype: str
    """Of the outputs."""
    takes_c: bool
    at: tuple[int, int] | None = None
    """Row and column of the output that was looked into; None: the most places that agree."""
    ways: Ways | None = None
    """Which places agree, where not all of them add in the same way."""
    tree: Node | None = None
    """The order of summation; None if it was not found, or sums are exact."""
    exact_groups: tuple[tuple[int, ...], ...] | None = None
    """Products, and c as -1, that are added exactly to the sum before them, group after group."""
    exact_span: int | None = None
    """Nothing is lost beside products of 2 to this power as large."""
    fraction_bits: int | None = None
    """Kept below the largest exponent of a group."""
    align_rounding: str | None = None
    """``"to_odd"`` without `fraction_bits`: of single products nothing is lost before sums are rounded."""
    lanes: int = 1
    """Sums of a group that have a largest exponent each; neighbours take turns."""
    output_fraction: int | None = None
    """Fraction bits of the result."""
    output_rounding: str | None = None
    accumulator_fraction: int | None = None
    """Of the accumulator between steps, where it keeps more than the result."""
    accumulator_rounding: str | None = None
    outer_fraction: int | None = None
    """Of sums of instructions or chunks."""
    start_fraction: int | None = None
    """Of c, below the largest exponent of its group."""
    start_rounding: str | None = None
    start_reach: int | None = None
    """Where c is rounded down: how far below the products it still counts; 0: always."""
    dropped_bits: int = 0
    """Low bits of float32 operands that are not read."""
    integer_bits: int | None = None
    """Of sums of integers that leave their range."""
    integer_overflow: str | None = None
    integer_tree: int | None = None
    """Products between two looks at saturation; 0: all of a group."""
    unknowns: tuple[str, ...] = ()
    """What was not found out, and why."""
    record: Datapath | None = field(default=None, repr=False)
    """The machine, which makes all random outputs."""
    nearest: Datapath | None = field(default=None, repr=False)
    """The record that follows from the findings, where it does not make all of them, or could not be asked."""
    misfit: Telling | None = None
    """One that `nearest` does not make."""
    no_record: str = ""
    """Why there is none."""
    equal: int = 0
    """Outputs of random operands that the record, or `nearest`, makes too."""
    total: int = 0
    names: tuple[str, ...] = ()
    """Machines of the catalog that make all of them."""
    calls: int = 0

    def unknown(self, what: str) -> Probe:
        """The same, and one thing more that is not known."""
        return replace(self, unknowns=(*self.unknowns, what))

    def datapath(self) -> Datapath:
        """The machine as a record, which `matmul` takes; fields that were not found out have their defaults.

        Raises:
            ValueError: the order is one that no record has, or was not found; places add in several ways, and none
                was asked for; the record that follows (`nearest`) does not make one of the random outputs, which the
                message shows as codes of the operands and the bits of both results.
        """
        if self.record is None:
            raise ValueError(f"no record: {self.no_record}")
        return self.record

    def require_one_way(self) -> None:
        """ValueError if the findings are those of some places, and not of one that was asked for."""
        if self.ways is not None and self.at is None:
            raise ValueError(f"{self.ways}; at=(row, column) asks one place")

    @property
    def fused(self) -> bool:
        """Whether three terms or more are added in one go, and cut."""
        return self.tree is not None and self.fused_size >= 3

    @property
    def fused_size(self) -> int:
        """The most terms of K that are added in one go."""

        def most(node: Node) -> int:
            own = sum(leaf != START for leaf in node.leaves)
            return max([own, *map(most, node.nodes)])

        return 0 if self.tree is None else most(self.tree)

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """Places of K that join the accumulator together, in order; empty if sums of their own join it."""
        groups = self.exact_groups
        if groups is None and self.tree is not None:
            groups = chain_of(self.tree)
        without = (tuple(place for place in group if place != START) for group in groups or ())
        return tuple(group for group in without if group)

    @property
    def instructions(self) -> tuple[tuple[int, ...], ...]:
        """Places of K whose sums, made apart, join the accumulator one after the other; empty if there are none."""
        return tuple(node.members for node in self.parts)

    @property
    def parts(self) -> tuple[Node, ...]:
        """The sums of `instructions`."""
        if self.tree is None or self.steps:
            return ()
        parts: list[Node] = []
        node = self.tree
        while not parts or node.size != parts[0].size:
            if node.leaves == (START,) and len(node.nodes) == 1:
                node = node.nodes[0]
                break
            if node.leaves or len(node.nodes) != 2:
                break
            node, last = sorted(node.nodes, key=lambda one: max(one.members))
            parts.append(last)
        return (node, *reversed(parts))

    def _adds(self) -> str:
        if self.exact_groups is not None:
            sizes = sorted({len(step) for step in self.steps[:-1]} or {len(self.steps[0])})
            return f"exactly in groups of {_numbers(sizes)}, each with the sum before it, then rounded"
        if self.tree is None:
            return "exactly" if self.exact_span is not None else "in an order that was not found"
        if self.steps:
            sizes = sorted({len(step) for step in self.steps[:-1]} or {len(self.steps[0])})
            if not self.fused and max(map(len, self.steps)) <= 2:
                return "one after the other"
            return f"in groups of {_numbers(sizes)}, each with the sum before it"
        if self.fused:
            sizes = sorted({len(part.members) for part in self.parts})
            return f"in groups of {self.fused_size}, sums of {_numbers(sizes)} join the sum before them"
        return "in pairs, as a tree"

    def lines(self) -> list[str]:
        """The table and the tree."""
        rows = [("adds", self._adds())]
        if self.fraction_bits is not None:
            cut = f", cut {self.align_rounding}" if self.align_rounding else ""
            lanes = f", in {self.lanes} sums of their own" if self.lanes > 1 else ""
            rows.append(("alignment", f"{self.fraction_bits} fraction bits below the largest exponent{cut}{lanes}"))
        elif self.align_rounding == "to_odd":
            rows.append(("alignment", "nothing is lost before sums are rounded"))
        if self.accumulator_fraction is not None:
            rows.append(("carried", f"{self.accumulator_fraction} fraction bits, {self.accumulator_rounding or '?'}"))
        if self.output_fraction is not None:
            rows.append(("result", f"{self.output_fraction} fraction bits, {self.output_rounding or '?'}"))
        if self.dropped_bits:
            rows.append(("operands", f"{self.dropped_bits} low bits are not read"))
        if self.integer_bits is not None:
            looks = {0: ", after a whole group", 1: ", after every product", None: ""}[self.integer_tree]
            rows.append(("integers", f"{self.integer_bits} bits, {self.integer_overflow}{looks}"))
        if self.takes_c:
            rows.append(("c", self._start_text()))
        rows += [("unknown", text) for text in self.unknowns]
        if self.ways is not None:
            rows = [*self.ways.lines(), *rows]
        where = f", at {self.at}" if self.at else ""
        lines = [f"K = {self.k}, {self.a_format} x {self.b_format} -> {self.dtype}{where}"]
        lines += [f"{name:<10} {text}" for name, text in rows]
        if self.tree is not None and self.steps and not self.fused:
            lines.append("then ".join(f"{places_text(step)} " for step in self.steps).strip())
        elif self.tree is not None:
            lines.append(_tree_text(self.tree))
        if self.exact_groups is not None:
            lines.append(" then ".join(f"({places_text(sorted(group))})" for group in self.exact_groups))
        if self.record is None:
            lines.append(f"no record  {self.no_record}")
        else:
            also = f"; so do {', '.join(self.names)}" if self.names else ""
            lines.append(f"random     all {self.total} equal to the record{also}")
        return lines

    def _start_text(self) -> str:
        for group in self.exact_groups or ():
            if self.exact_span is not None:
                return f"added to the sum of products {places_text(group)}"
            if START in group:
                return f"added exactly with products {places_text([p for p in group if p != START])}"
        if self.tree is None:
            return "in no place that was found"
        node = _holding(self.tree)
        beside = places_text([place for place in node.members if place != START])
        if self.start_fraction is None:
            return f"added to the sum of {beside}" if node.nodes else f"added to product {beside}"
        cut = self.start_rounding or "in a way that was not found"
        reach = f", left out below {self.start_reach} bits" if self.start_reach else ""
        return f"one more term of {beside}, {self.start_fraction} fraction bits, cut {cut}{reach}"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        from sparq_sim.machines import datapath_to_dict

        parts = {
            "ways": self.ways and asdict(self.ways), "misfit": self.misfit and asdict(self.misfit),
            "record": self.record and datapath_to_dict(self.record),
            "nearest": self.nearest and datapath_to_dict(self.nearest),
        }  # fmt: skip
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("tree", "unknowns", "names", "exact_groups", *parts)
        }
        tree = None if self.tree is None else _tree_text(self.tree)
        return {
            **plain, "tree": tree, "exact_groups": self.exact_groups, "unknowns": list(self.unknowns),
            "names": list(self.names), **parts,
        }  # fmt: skip


def _holding(node: Node) -> Node:
    """The node whose leaf is c."""
    below = next((one for one in node.nodes if START in one.members), None)
    return node if below is None else _holding(below)


def _numbers(sizes: list[int]) -> str:
    return " or ".join(map(str, sizes))


def _tree_text(node: Node) -> str:
    """Sums in brackets; neighbours that are added in one go as ranges."""
    below = [_tree_text(one) for one in sorted(node.nodes, key=lambda n: min(m for m in n.members))]
    own = places_text(sorted(node.leaves))
    return f"({', '.join([*below, *([own] if own else [])])})"
