"""Outputs that differ although the operands are equal: within proven bounds, or unexplained? (docs/numerics.md
sections 11 and 12)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.bounds import (
    ETA,
    Problem,
    Sum,
    U,
    any_order_bound,
    datapath_bound,
    epilogue_bound,
    gamma,
    parts_bound,
    scaled_bound,
)
from sparq_sim.compare import different, hex_text
from sparq_sim.layers import MachineLayer
from sparq_sim.report import LayerReport
from sparq_sim.torch import bridge

# A mean signed error of n outputs beyond sqrt(K) * max(1, this / sqrt(n)) is a bias.
_BIAS_LIMIT = 8.0


@dataclass(frozen=True)
class Judge:
    """What the outputs of one layer may be, from its decoded operands."""

    machine: MachineLayer
    activations: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    rounded_to: ElementFormat | None
    """The dtype of a 16-bit model rounds every output once more."""

    def verdict(self, ours: Array, theirs: Array, report: LayerReport) -> None:
        """Holds the differences of two outputs against the bounds and looks for one-sided errors."""
        sums = self._sums(ours.shape)
        within = self._within(sums.total, ours, theirs, report)
        if self.machine.accelerator.output is None and self.rounded_to is None:
            finite = np.isfinite(theirs) & np.isfinite(ours)
            self._judge_bias(sums, theirs, finite, report)  # an output format's rounding would drown the statistic
        report.worsen("consistent" if within else "unexplained")

    def bounds(self, ours: Array, theirs: Array, report: LayerReport) -> None:
        """Holds the differences against the bounds alone: who the reference is says nothing of a machine whose sums
        overflow, wrap or saturate."""
        if not self._within(self._total(ours.shape), ours, theirs, report):
            report.worsen("unexplained")

    def _within(self, total: Array, ours: Array, theirs: Array, report: LayerReport) -> bool:
        finite = np.isfinite(theirs) & np.isfinite(ours)
        bound = self._bound(total, ours, theirs)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.abs(ours.astype(np.float64) - theirs) / bound
        beyond = (finite & ~(ratio <= 1)) | (~finite & different(ours, theirs))
        report.bound_ratio = max(report.bound_ratio, float(np.max(ratio, initial=0.0, where=finite)))
        unexplained = int(np.count_nonzero(beyond))
        report.unexplained += unexplained
        if unexplained:
            index = tuple(int(i) for i in np.argwhere(beyond)[0])
            mine, other = float(ours[index]), float(theirs[index])
            report.find(
                f"{unexplained} of {ours.size} outputs beyond the bound; first at {list(index)}: machine {mine!r} "
                f"({hex_text(mine)}), reference {other!r} ({hex_text(other)}), {float(ratio[index]):.3g} of the bound"
            )
        return not unexplained

    def _sums(self, shape: tuple[int, ...]) -> _Sums:
        a, w = self.activations.double(), self.weight.double()
        bias = None if self.bias is None else self.bias.detach().double()
        total = self._total(shape)
        norm = np.sqrt(self._product(a * a, w * w, None, shape))
        how = self.machine.accelerator.epilogue
        if how is None or how.alpha == 1:
            return _Sums(self._product(a, w, bias, shape), total, norm)
        return _Sums(self._product(how.alpha * a, w, bias, shape), total, abs(how.alpha) * norm)

    def _total(self, shape: tuple[int, ...]) -> Array:
        """Upper bounds on the sums of magnitudes."""
        made = self._product(self.activations.double().abs(), self.weight.double().abs(), None, shape)
        return made * (1 + 2 * self.machine.k * 2.0**-53)

    def _product(self, a: torch.Tensor, w: torch.Tensor, offset: torch.Tensor | None, shape: tuple[int, ...]) -> Array:
        """Torch's float64 product of a layer."""
        window = self.machine.window
        if window is None:
            out = nn.functional.linear(a, w, offset)
        elif self.machine.windowed:
            groups = w.reshape(window.groups, -1, w.shape[-1])
            out = torch.cat([v @ m.T for v, m in zip(a, groups, strict=True)], dim=1)
            out = out if offset is None else out + offset
            n, channels, rows, columns = shape
            out = out.reshape(n, rows, columns, channels).permute(0, 3, 1, 2)
        else:
            top, bottom, left, right = window.padding
            padded = nn.functional.pad(a, (left, right, top, bottom))
            out = nn.functional.conv2d(padded, w, offset, window.stride, 0, window.dilation, window.groups)
        return bridge.to_numpy(out)

    def _bound(self, total: Array, ours: Array, theirs: Array) -> Array:
        bias = 0.0 if self.bias is None else float(self.bias.detach().abs().max())
        how, k = self.machine.accelerator.epilogue, self.machine.k
        machine = self._machine(total)
        if how is None:
            # The bias is one more float32 addition on the machine.
            added = U * (1 + gamma(1)) * (total + machine.error + bias) + ETA
            bound = machine.error + added + any_order_bound(total, bias, k)
        else:
            none, added = np.zeros(1), np.full(1, bias)
            bound = epilogue_bound(machine, how.alpha, 0.0, none, added, how.precision).error
            # A bias may be where the reference's sums begin.
            reference = Sum(total, any_order_bound(total, bias / abs(how.alpha) if how.alpha else bias, k))
            bound = bound + epilogue_bound(reference, how.alpha, 0.0, none, added, "fp32").error
        output = self.machine.accelerator.output_spec
        rounded = [output.format.element] if output is not None else []
        rounded += [self.rounded_to] if self.rounded_to is not None else []
        for element in rounded:
            half_step = 2.0 ** -(element.least_mantissa_bits + 1)
            largest = np.maximum(np.abs(ours), np.abs(theirs)) + bound
            bound = bound + 2 * (half_step * largest + 2.0 ** (element.emin - element.mantissa_bits))
        return bound

    def _machine(self, total: Array) -> Sum:
        """What the machine makes of sums of such magnitudes."""
        path, split, k = self.machine.accelerator.path, self.machine.accelerator.split, self.machine.machine_k
        if split is None:
            return Sum(total, datapath_bound(path, self._problem(total, k)))
        lengths = np.diff([0, *split.ends(k, path)])
        problems = [self._problem(sums, int(lengths.max(initial=1))) for sums in (total, np.zeros(1))]
        most, least = (datapath_bound(path, problem) for problem in problems)
        # Bounds are convex in the sums of magnitudes: all of it in one part, and nothing in the others, is the worst.
        parts = [Sum(total, most), *[Sum(np.zeros(1), least)] * (len(lengths) - 1)]
        problem = problems[0]
        # Scales of blocks are in the sums of parts already.
        units = max(1.0, problem.a_scale * problem.b_scale)
        return scaled_bound(parts_bound(parts, np.zeros(1), split.precision, units), problem.float_scaled)

    def _problem(self, total: Array, k: int) -> Problem:
        machine = self.machine
        a, w = machine.activation_spec.format, machine.weight_spec.format
        a_max, w_max = _largest(self.activations), _largest(self.weight)
        # A computed scale is the largest decoded magnitude over the largest element, which is at least 2^emax.
        scales = [2 * m / 2.0**f.element.emax for f, m in ((a, a_max), (w, w_max))]
        return Problem(
            total, k, machine.segments(), a.element, w.element, a_max, w_max,
            "float" in (a.scale_kind, w.scale_kind),
            a_scale=scales[0] if a.scale_kind == "float" else 1.0,
            b_scale=scales[1] if w.scale_kind == "float" else 1.0,
            # A block of zeros may have the scale 1.
            a_block_scale=max(1.0, scales[0]),
            b_block_scale=max(1.0, scales[1]),
        )  # fmt: skip

    def _judge_bias(self, sums: _Sums, theirs: Array, finite: Array, report: LayerReport) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.sign(sums.exact) * (theirs - sums.exact) / (U * np.hypot(sums.norm, sums.exact))
        use = finite & np.isfinite(z)
        bias = float(np.mean(z, where=use)) if bool(use.any()) else 0.0
        report.bias = bias if abs(bias) > abs(report.bias) else report.bias
        # The mean of few outputs scatters more.
        limit = float(np.sqrt(report.k)) * max(1.0, _BIAS_LIMIT / float(np.sqrt(np.count_nonzero(use) or 1)))
        if abs(bias) > limit:
            side = "toward" if bias < 0 else "away from"
            report.find(
                f"the reference's errors lie {side} zero: bias {bias:.3g}, rounding noise stays within {limit:.3g}"
            )
            report.worsen("unexplained")


@dataclass(frozen=True)
class _Sums:
    """Exact enough sums over a layer's decoded operands, shaped like its output."""

    exact: Array
    """float64 sums plus bias."""
    total: Array
    """Upper bounds on the sums of magnitudes."""
    norm: Array
    """Root of the sums of squares."""


def _largest(values: torch.Tensor) -> float:
    """Largest finite magnitude."""
    return float(values.abs().nan_to_num(0.0, posinf=0.0).max()) if values.numel() else 0.0
