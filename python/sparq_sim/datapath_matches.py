"""What `identify_datapath` found: machines, how much of an output they make, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from sparq_sim._core import Datapath
from sparq_sim.arrays import Array
from sparq_sim.candidates import Candidate
from sparq_sim.operands import Operand
from sparq_sim.split import SplitK
from sparq_sim.telling import Telling
from sparq_sim.trace import DotTrace
from sparq_sim.traced import trace_operands


@dataclass(frozen=True)
class DatapathMatch:
    """A machine, and how much of an output it makes."""

    label: str
    """The named machine, and what differs from it."""
    names: tuple[str, ...]
    """Every machine of the catalog, or given, that computes the same; empty for a variant."""
    record: Datapath = field(repr=False)
    result: str
    """What the machine gives, ``fp32``, ``fp16`` or ``int32``: what `matmul` takes as ``result=``."""
    rounded: str | None
    """The format that a float32 result was rounded to afterwards."""
    changes: Mapping[str, Any]
    split: SplitK | None
    """Parts of K that it added up by themselves: what `matmul` takes as ``split_k=``."""
    equal: int
    """Outputs that are equal bit for bit, NaN as NaN."""
    total: int
    """Outputs that were compared."""
    index: tuple[int, int] | None
    """The first that differs."""
    given_bits: str | None
    our_bits: str | None
    candidate: Candidate = field(repr=False, compare=False)
    lines: tuple[Operand, Operand, Array | None] | None = field(default=None, repr=False, compare=False)
    """Operands and c of that output."""

    @property
    def exact(self) -> bool:
        """Whether every output is equal."""
        return self.equal == self.total

    @property
    def share(self) -> float:
        """Of equal outputs."""
        return self.equal / self.total if self.total else 1.0

    def trace(self) -> DotTrace:
        """The first output that differs, step by step (`dot_trace`).

        Raises:
            ValueError: nothing differs; operands with float scales, which are no part of a machine's steps.
        """
        if self.lines is None:
            raise ValueError(f"{self.label}: no output differs")
        return trace_operands(*self.lines, self.record, self.result, self.split)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        place = {"index": self.index, "given_bits": self.given_bits, "our_bits": self.our_bits}
        split = None if self.split is None else asdict(self.split)
        return {
            "label": self.label, "names": list(self.names), "result": self.result, "rounded": self.rounded,
            "changes": dict(self.changes), "split_k": split, "equal": self.equal, "total": self.total,
            "first_difference": None if self.index is None else place,
        }  # fmt: skip


@dataclass(frozen=True)
class DatapathIdentification:
    """What `identify_datapath` found; prints as a table."""

    candidates: tuple[DatapathMatch, ...]
    """The closest first. All outputs of these were compared."""
    eliminated: int
    """Machines and variants that a few outputs ruled out, or showed to be further away."""
    refused: Mapping[str, str]
    """Machines that do not take these operands, and why."""
    telling: tuple[Telling, ...]
    """Inputs that tell the best match from others that this input does not tell from it."""
    same_everywhere: tuple[str, ...]
    """Machines and turned knobs that make it too, and that no input of the search told from the best match. Only named
    machines among them are `candidates`."""
    seconds: float

    @property
    def best(self) -> DatapathMatch | None:
        """The closest; None if every machine refuses."""
        return self.candidates[0] if self.candidates else None

    @property
    def matches(self) -> tuple[DatapathMatch, ...]:
        """Those that make every output."""
        return tuple(one for one in self.candidates if one.exact)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "candidates": [one.to_dict() for one in self.candidates],
            "eliminated": self.eliminated,
            "refused": dict(self.refused),
            "telling": [{**vars(one), "a": list(one.a), "b": list(one.b)} for one in self.telling],
            "same_everywhere": list(self.same_everywhere),
        }

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title="which machine", title_justify="left")
        for name in ("machine", "equal", "first difference", "given", "computed"):
            table.add_column(name, justify="right" if name == "equal" else "left")
        for one in self.candidates:
            share = "all" if one.exact else f"{one.equal} of {one.total}"
            place = ("", "", "") if one.index is None else (str(list(one.index)), one.given_bits, one.our_bits)
            others = [name for name in one.names if name != one.label]
            table.add_row(one.label + (f" = {', '.join(others)}" if others else ""), share, *place)
        return table

    def summary(self) -> list[str]:
        """Lines below the table."""
        best = self.best
        if best is None:
            return ["no machine takes these operands", *(f"{name}: {why}" for name, why in self.refused.items())]
        said = []
        if not best.exact:
            said.append(f"no machine makes it; nearest is {best.label}, {best.share:.1%} of {best.total} outputs")
        elif len(self.matches) > 1:
            said.append(f"{len(self.matches)} make it: this input does not tell them apart")
        said += [f"told apart by {one}" for one in self.telling]
        if self.same_everywhere:
            said.append(f"no input was found that tells {best.label} from {'; '.join(self.same_everywhere)}")
        said.append(f"{self.eliminated} machines and variants ruled out, {len(self.refused)} refuse the operands")
        return said

    def __str__(self) -> str:
        lines = [
            f"{one.label}: {one.equal} of {one.total} equal"
            + ("" if one.index is None else f", first {one.index}: given {one.given_bits}, computed {one.our_bits}")
            for one in self.candidates
        ]
        return "\n".join([*lines, *self.summary()])
