"""The result of a check: what each layer showed, as data, JSON and a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

#: From best to worst.
VERDICTS = ("equal", "reproduced", "consistent", "unexplained")


@dataclass
class LayerReport:
    """One layer against the machine, over all of its calls. "Local" means on the reference's own inputs."""

    name: str
    kind: str
    k: int
    """Products per output."""
    outputs: int = 0
    operands_equal: bool | None = True
    """Bit for bit (zeros of either sign are equal); None if the reference did not show its operands."""
    zero_signs: int = 0
    """Operands that differ in the sign of zero only."""
    verdict: str = "equal"
    """The worst of its calls."""
    reproduced_by: str | None = None
    """A named datapath that gives the reference's very bits."""
    nonfinite: int = 0
    """Outputs of the reference that are NaN or Inf."""
    different: int = 0
    """Outputs whose bits differ, local."""
    max_ulp: int = 0
    """Largest distance of outputs in float32 steps, local."""
    unexplained: int = 0
    """Outputs beyond the bounds, local."""
    bound_ratio: float = 0.0
    """Largest difference over its proven bound, local; above 1 is unexplained."""
    bias: float = 0.0
    """Mean signed error of the reference in units of the rounding noise (docs/numerics.md section 12)."""
    snr_db: float | None = None
    """Signal to noise of the free-running machine against the float model."""
    drift_db: float | None = None
    """Signal to noise of the free-running machine against the free-running reference; infinite when equal."""
    kept_dense: bool = False
    """Too few channels per group for the N:M pattern."""
    findings: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name; ``(model)`` where the layer is all there is."""
        return self.name or "(model)"

    def find(self, finding: str) -> None:
        """Notes a finding once."""
        if finding not in self.findings:
            self.findings.append(finding)

    def worsen(self, verdict: str) -> None:
        """The worse of the verdict so far and this one."""
        self.verdict = max(self.verdict, verdict, key=VERDICTS.index)

    @property
    def ok(self) -> bool:
        """Nothing unexplained."""
        return self.verdict != "unexplained" and not self.findings


@dataclass
class Report:
    """What `check` found. ``ok`` is True if every layer is explained; ``str(report)`` is a table."""

    accelerator: str
    reference: str
    layers: list[LayerReport]
    skipped: list[str]
    """Modules that multiply by weights and that the machine does not run."""
    metric: dict[str, dict[str, float]]
    """By run (``float``, ``reference``, ``machine``) and by name, if a metric was given."""
    numerics: int
    isa: str

    @property
    def ok(self) -> bool:
        """Every layer is explained, and there was one."""
        return bool(self.layers) and all(layer.ok for layer in self.layers)

    @property
    def findings(self) -> list[str]:
        """Of all layers, each with the layer's name."""
        return [f"{layer.label}: {finding}" for layer in self.layers for finding in layer.findings]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; infinite ratios are None."""
        record = asdict(self)
        for scores in record["metric"].values():
            for name, value in scores.items():
                scores[name] = value if abs(value) < float("inf") else None
        for layer, made in zip(record["layers"], self.layers, strict=True):
            layer["ok"] = made.ok
            for name in ("snr_db", "drift_db", "bound_ratio", "bias"):
                if layer[name] is not None and not abs(layer[name]) < float("inf"):
                    layer[name] = None
        return {"ok": self.ok, **record}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def table(self, *, every_layer: bool = True) -> Table:
        """A rich table of the layers; else only of those that are not ok."""
        table = Table(title=f"{self.reference} against {self.accelerator}", title_justify="left")
        table.add_column("layer", no_wrap=True)
        table.add_column("K", justify="right")
        table.add_column("operands")
        table.add_column("verdict", no_wrap=True)
        for name in ("max ulp", "of bound", "bias", "SNR dB", "drift dB"):
            table.add_column(name, justify="right")
        for layer in self.layers:
            if every_layer or not layer.ok:
                table.add_row(*_row(layer), style=None if layer.ok else "bold red")
        return table

    def summary(self) -> list[str]:
        """Lines for people: counts by verdict, findings, metric."""
        counts = {word: sum(layer.verdict == word for layer in self.layers) for word in VERDICTS}
        lines = [
            f"{_count(len(self.layers), 'layer')}: " + ", ".join(f"{n} {word}" for word, n in counts.items() if n),
        ]
        lines += [f"finding: {finding}" for finding in self.findings[:10]]
        if len(self.findings) > 10:
            lines.append(f"finding: {len(self.findings) - 10} more")
        dense = [layer.label for layer in self.layers if layer.kept_dense]
        if dense:
            lines.append(f"kept dense (lines shorter than a group): {', '.join(dense)}")
        wild = [layer.label for layer in self.layers if layer.nonfinite]
        if wild:
            lines.append(f"NaN or Inf in the reference's outputs: {_count(len(wild), 'layer')}, from {wild[0]}")
        unseen = [layer.label for layer in self.layers if layer.operands_equal is None]
        if unseen:
            lines.append(
                f"operands not seen, judged by outputs alone: {_count(len(unseen), 'layer')}, from {unseen[0]}"
            )
        if self.skipped:
            lines.append(f"not on the machine: {', '.join(self.skipped)}")
        for name in next(iter(self.metric.values()), {}):
            values = ", ".join(f"{run} {row[name]:.4f}" for run, row in self.metric.items())
            lines.append(f"{name}: {values}")
        lines.append("OK: everything is explained" if self.ok else "NOT OK")
        return lines

    def __str__(self) -> str:
        console = Console(width=120, file=StringIO(), color_system=None)
        console.print(self.table())
        text = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join([text.rstrip("\n"), *self.summary()])


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _decibels(value: float | None) -> str:
    return "" if value is None else "inf" if value == float("inf") else f"{value:.1f}"


def _row(layer: LayerReport) -> tuple[str, ...]:
    operands = {True: "equal", False: "DIFFER", None: "not seen"}[layer.operands_equal]
    verdict = layer.verdict if layer.reproduced_by is None else f"{layer.verdict} ({layer.reproduced_by})"
    ratio = f"{layer.bound_ratio:.3g}" if layer.bound_ratio else ""
    return (
        layer.label, str(layer.k), operands, verdict, str(layer.max_ulp), ratio, f"{layer.bias:.2g}",
        _decibels(layer.snr_db), _decibels(layer.drift_db),
    )  # fmt: skip
