"""The work behind `sparq_sim.check`: three runs of a model, watched layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sparq_sim._core import Datapath
from sparq_sim.accelerator import Accelerator
from sparq_sim.arrays import Array
from sparq_sim.bounds import ETA, Problem, U, any_order_bound, datapath_bound, gamma
from sparq_sim.formats import datapaths, find_element
from sparq_sim.layers import MachineLayer
from sparq_sim.report import VERDICTS, LayerReport, Report
from sparq_sim.tensor import BlockTensor
from sparq_sim.torch import bridge
from sparq_sim.torch.capture import LayerCall, watch
from sparq_sim.torch.fake_quant import fake_quantize
from sparq_sim.torch.simulate import Simulated, replace_layers, targets, untouched

# Outputs of a layer that signal-to-noise ratios look at, evenly spaced.
_SAMPLES = 1 << 16
# Machines whose accumulation is float32 arithmetic in some order: what a float32 claim may turn out to be.
_FLOAT32_REDUCTIONS = ("exact", "blocks", "fma")
# A mean signed error of n outputs beyond sqrt(K) * max(1, this / sqrt(n)) is a bias (docs/numerics.md section 12).
_BIAS_LIMIT = 8.0


def _bits(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)


def _ulp_distance(a: Array, b: Array) -> Array:
    """Distance in steps of float32; NaN against NaN is 0, against a number the largest distance."""
    both = [
        np.where(bits >> 31 != 0, -(bits & 0x7FFFFFFF).astype(np.int64), bits.astype(np.int64))
        for bits in (_bits(a), _bits(b))
    ]
    distance: Array = np.abs(both[0] - both[1])
    distance[np.isnan(a) & np.isnan(b)] = 0
    return distance


def _different(a: Array, b: Array) -> Array:
    """Where values differ: NaN equals NaN, zeros of either sign are equal."""
    x, y = _bits(a), _bits(b)  # comparing as floats could flush subnormals
    magnitudes = (x & 0x7FFFFFFF, y & 0x7FFFFFFF)
    zeros = (magnitudes[0] | magnitudes[1]) == 0
    nans = (magnitudes[0] > 0x7F800000) & (magnitudes[1] > 0x7F800000)
    different: Array = (x != y) & ~zeros & ~nans
    return different


def _snr_db(signal: Array, noisy: Array) -> float:
    noise = float(np.sum((signal.astype(np.float64) - noisy) ** 2))
    power = float(np.sum(signal.astype(np.float64) ** 2))
    if noise == 0:
        return float("inf")
    return -float("inf") if power == 0 else 10 * float(np.log10(power / noise))


def _sample(y: torch.Tensor) -> Array:
    flat = y.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    return bridge.to_numpy(flat[::step].float().cpu()).copy()


@dataclass
class _Sampler:
    """Outputs of every call of every layer, thinned out."""

    outputs: dict[tuple[str, int], Array] = field(default_factory=dict)

    def __call__(self, call: LayerCall) -> None:
        self.outputs[call.name, call.call] = _sample(call.y)

    def snr(self, other: _Sampler, name: str) -> float | None:
        """Of the other's outputs, taking these as the signal."""
        keys = [key for key in self.outputs if key[0] == name and key in other.outputs]
        if not keys or any(self.outputs[key].shape != other.outputs[key].shape for key in keys):
            return None
        return _snr_db(
            np.concatenate([self.outputs[k] for k in keys]), np.concatenate([other.outputs[k] for k in keys])
        )


@dataclass
class _Products:
    """Exact enough sums over a layer's decoded operands, by torch: for bounds and for the bias statistic."""

    exact: Array
    """float64 sums plus bias."""
    total: Array
    """Upper bounds on the sums of magnitudes."""
    norm: Array
    """Root of the sums of squares."""


class _Layer:
    """One layer on the machine, against what a reference did."""

    def __init__(self, name: str, layer: nn.Linear | nn.Conv2d, accelerator: Accelerator, threads: int | None) -> None:
        self.simulated = Simulated(layer, accelerator, threads)
        self.weight = self.simulated.decoded_weight
        self.layer = layer
        self.rounded_to: str | None = None
        machine = self.simulated.machine
        self.report = LayerReport(name, type(layer).__name__, machine.k, kept_dense=machine.kept_dense)

    def see(self, call: LayerCall) -> None:
        """One call of the reference's layer."""
        x = call.x
        if self.simulated.machine.window is not None and x.dim() == 3:
            x, call = x[None], replace(call, x=x[None], y=call.y[None])
        encoded = self.simulated.encode(x)
        activations = bridge.as_float32(self.simulated.machine.decoded_activations(*encoded))
        agree = self._compare_operands(call, activations, self.weight)
        # A layer returns its input's dtype: 16-bit models round every output once more.
        ours = bridge.to_numpy(self.simulated.run(encoded).to(call.y.dtype).float())
        theirs = bridge.to_numpy(call.y.float().cpu())
        self.rounded_to = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(call.y.dtype)
        if ours.shape != theirs.shape:
            self._worsen("unexplained")
            self._find(f"the output has shape {theirs.shape}, the machine's {ours.shape}")
            return
        report = self.report
        report.outputs += ours.size
        report.nonfinite += int(np.count_nonzero(~np.isfinite(theirs)))
        report.different += int(np.count_nonzero(_bits(ours) != _bits(theirs)))
        report.max_ulp = max(report.max_ulp, int(_ulp_distance(ours, theirs).max(initial=0)))
        if not agree:
            self._worsen("unexplained")
        elif bool(np.any(_different(ours, theirs))):
            name = self._reproduce(encoded, theirs)
            if name is None:
                self._judge(activations, ours, theirs)

    def _find(self, finding: str) -> None:
        if finding not in self.report.findings:
            self.report.findings.append(finding)

    def _worsen(self, verdict: str) -> None:
        self.report.verdict = max(self.report.verdict, verdict, key=VERDICTS.index)

    def _compare_operands(self, call: LayerCall, activations: torch.Tensor, weight: torch.Tensor) -> bool:
        """False if the reference's operands were seen and differ."""
        ours = (bridge.to_numpy(activations), bridge.to_numpy(weight))
        readings = [self._fitting(ours, reading) for reading in call.operands]
        fitting = [reading for reading in readings if reading is not None]
        if not fitting:
            if self.report.operands_equal is True:
                self.report.operands_equal = None
            return True
        same = [r for r in fitting if not any(np.any(_different(a, b)) for a, b in zip(ours, r, strict=True))]
        chosen = (same or fitting)[0]
        for what, mine, other in zip(("activation", "weight"), ours, chosen, strict=True):
            if not self._compare_operand(what, mine, other):
                self.report.operands_equal = False
        return self.report.operands_equal is not False

    def _fitting(
        self, ours: tuple[Array, Array], reading: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[Array, Array] | None:
        """A reading of the reference's operands in the machine's shapes, or None if it is of another kind."""
        machine, fitted = self.simulated.machine, []
        for mine, tensor in zip(ours, reading, strict=True):
            other = bridge.to_numpy(tensor.float().cpu())
            flat = machine.window is None or machine.windowed
            if other.shape != mine.shape and flat and other.shape[-1:] == mine.shape[-1:] and other.size == mine.size:
                other = other.reshape(mine.shape)
            if other.shape != mine.shape:
                other = self._without_padding(mine, other)
            if other.shape != mine.shape:
                return None
            fitted.append(other)
        return fitted[0], fitted[1]

    def _compare_operand(self, what: str, ours: Array, theirs: Array) -> bool:
        self.report.zero_signs += int(np.count_nonzero((ours == 0) & (theirs == 0) & (_bits(ours) != _bits(theirs))))
        different = _different(ours, theirs)
        count = int(np.count_nonzero(different))
        if count == 0:
            return True
        index = tuple(int(i) for i in np.argwhere(different)[0])
        self._find(f"{what}: {count} of {ours.size} differ; first at {self._place(what, index, ours, theirs)}")
        return False

    def _without_padding(self, ours: Array, theirs: Array) -> Array:
        """A reference may pad before its product; the zeros around are no operands."""
        window = self.simulated.machine.window
        if window is None or ours.ndim != 4 or theirs.ndim != 4:
            return theirs
        top, bottom, left, right = window.padding
        return theirs[:, :, top : theirs.shape[2] - bottom, left : theirs.shape[3] - right]

    def _place(self, what: str, index: tuple[int, ...], ours: Array, theirs: Array) -> str:
        machine = self.simulated.machine
        spec = machine.weight_spec if what == "weight" else machine.activation_spec
        axis = 1 if machine.window is not None and ours.ndim == 4 else ours.ndim - 1
        line = index[axis]
        if what == "activation" and machine.window is not None and ours.ndim == 4:
            line %= machine.channels
        text = f"{list(index)}"
        if isinstance(spec.format.block, int):
            text += f" (block {line // spec.format.block}, element {line % spec.format.block})"
        mine, other = float(ours[index]), float(theirs[index])
        return f"{text}: needed {mine!r} ({_hex(mine)}), got {other!r} ({_hex(other)})"

    def _products(self, activations: torch.Tensor, weight: torch.Tensor) -> _Products:
        bias = None if self.layer.bias is None else self.layer.bias.detach().double()

        def product(a: torch.Tensor, w: torch.Tensor, offset: torch.Tensor | None) -> Array:
            machine = self.simulated.machine
            if machine.window is None:
                out = nn.functional.linear(a, w, offset)
            elif machine.windowed:
                groups = w.reshape(machine.window.groups, -1, w.shape[-1])
                out = torch.cat([v @ m.T for v, m in zip(a, groups, strict=True)], dim=1)
                out = out if offset is None else out + offset
            else:
                top, bottom, left, right = machine.window.padding
                padded = nn.functional.pad(a, (left, right, top, bottom))
                window = machine.window
                out = nn.functional.conv2d(padded, w, offset, window.stride, 0, window.dilation, window.groups)
            return bridge.to_numpy(out.double())

        a, w = activations.double(), weight.double()
        total = product(a.abs(), w.abs(), None) * (1 + 2 * self.report.k * 2.0**-53)
        return _Products(product(a, w, bias), total, np.sqrt(product(a * a, w * w, None)))

    def _machine_bound(self, total: Array, activations_max: float, weight_max: float) -> Array:
        machine = self.simulated.machine
        a, w = machine.activation_spec.format, machine.weight_spec.format
        floats = "float" in (a.scale_kind, w.scale_kind)
        # A computed scale is the largest decoded magnitude over the largest element, which is at least 2^emax.
        scales = [2 * m / 2.0**f.element.emax for f, m in ((a, activations_max), (w, weight_max))]
        problem = Problem(
            total, machine.k, machine.segments(), a.element, w.element, activations_max, weight_max, floats,
            a_scale=scales[0] if a.scale_kind == "float" else 1.0,
            b_scale=scales[1] if w.scale_kind == "float" else 1.0,
        )  # fmt: skip
        return datapath_bound(machine.accelerator.path, problem)

    def _judge(self, activations: torch.Tensor, ours: Array, theirs: Array) -> None:
        """Outputs that differ, of equal operands, against the bounds and against one-sided errors."""
        report, machine = self.report, self.simulated.machine
        sums = self._products(activations, self.weight)
        if machine.windowed:
            sums = _Products(*(_image(part, ours.shape) for part in (sums.exact, sums.total, sums.norm)))
        finite = np.isfinite(theirs) & np.isfinite(ours)
        bound = self._bound(sums, activations, ours, theirs)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.abs(ours.astype(np.float64) - theirs) / bound
        beyond = (finite & ~(ratio <= 1)) | (~finite & _different(ours, theirs))
        report.bound_ratio = max(report.bound_ratio, float(np.max(ratio, initial=0.0, where=finite)))
        unexplained = int(np.count_nonzero(beyond))
        report.unexplained += unexplained
        self._judge_bias(sums, theirs, finite)
        if unexplained:
            index = tuple(int(i) for i in np.argwhere(beyond)[0])
            mine, other = float(ours[index]), float(theirs[index])
            self._find(
                f"{unexplained} of {ours.size} outputs beyond the bound; first at {list(index)}: machine {mine!r} "
                f"({_hex(mine)}), reference {other!r} ({_hex(other)}), {float(ratio[index]):.3g} of the bound"
            )
        self._worsen("unexplained" if unexplained else "consistent")

    def _judge_bias(self, sums: _Products, theirs: Array, finite: Array) -> None:
        if self.simulated.machine.accelerator.output is not None or self.rounded_to is not None:
            return  # an output format's own rounding would drown the statistic
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.sign(sums.exact) * (theirs - sums.exact) / (U * np.hypot(sums.norm, sums.exact))
        use = finite & np.isfinite(z)
        bias = float(np.mean(z, where=use)) if bool(use.any()) else 0.0
        self.report.bias = bias if abs(bias) > abs(self.report.bias) else self.report.bias
        # The mean of few outputs scatters more.
        limit = float(np.sqrt(self.report.k)) * max(1.0, _BIAS_LIMIT / float(np.sqrt(np.count_nonzero(use) or 1)))
        if abs(bias) > limit:
            side = "toward" if bias < 0 else "away from"
            self._find(
                f"the reference's errors lie {side} zero: bias {bias:.3g}, rounding noise stays within {limit:.3g}"
            )
            self._worsen("unexplained")

    def _bound(self, sums: _Products, activations: torch.Tensor, ours: Array, theirs: Array) -> Array:
        bias = 0.0 if self.layer.bias is None else float(self.layer.bias.detach().abs().max())
        tops = [
            float(t.abs().nan_to_num(0.0, posinf=0.0).max()) if t.numel() else 0.0 for t in (activations, self.weight)
        ]
        machine = self._machine_bound(sums.total, tops[0], tops[1])
        # The bias is one more float32 addition on the machine.
        added = U * (1 + gamma(1)) * (sums.total + machine + bias) + ETA
        bound = machine + added + any_order_bound(sums.total, bias, self.report.k)
        output = self.simulated.machine.accelerator.output_spec
        rounded = [output.format.element] if output is not None else []
        rounded += [find_element(self.rounded_to)] if self.rounded_to is not None else []
        for element in rounded:
            half_step = 2.0 ** -(element.mantissa_bits + 1)
            largest = np.maximum(np.abs(ours), np.abs(theirs)) + bound
            bound = bound + 2 * (half_step * largest + 2.0 ** (element.emin - element.mantissa_bits))
        return bound

    def _reproduce(self, encoded: tuple[BlockTensor, tuple[int, ...]], theirs: Array) -> str | None:
        """A named datapath, other than the accelerator's own, that gives the very values."""
        own = self.simulated.machine.accelerator.datapath_name
        tensor, shape = encoded
        for name, machine in sorted(datapaths().items(), key=lambda item: item[1].record.reduce != "fma"):
            if name == own:
                continue
            try:
                # A small part decides against a machine; all of it decides for it.
                few = _first(tensor, self.simulated.machine, shape)
                if few is not None and self._differs(few, machine.record, theirs):
                    continue
                if self._differs(encoded, machine.record, theirs):
                    continue
            except ValueError:  # a machine that cannot take these operands
                continue
            self.report.reproduced_by = name
            self._worsen("reproduced")
            if machine.record.reduce not in _FLOAT32_REDUCTIONS:
                self._find(f"the reference is {name} bit for bit, and the accelerator says {own}")
                self._worsen("unexplained")
            return name
        return None

    def _differs(self, encoded: tuple[BlockTensor, tuple[int, ...]], path: Datapath, theirs: Array) -> bool:
        got = bridge.to_numpy(self.simulated.run(encoded, path))
        return bool(np.any(_different(got, theirs[: len(got)])))


def _first(
    tensor: BlockTensor, machine: MachineLayer, shape: tuple[int, ...]
) -> tuple[BlockTensor, tuple[int, ...]] | None:
    """The first image, or the first rows, of encoded activations; None if there is no such part to cut."""
    if machine.windowed or shape[0] < 2 or (machine.window is None and len(shape) != 2):
        return None
    count = 1 if machine.window is not None else min(8, shape[0])
    scales = tensor.scales
    if scales is not None and scales.shape[0] == shape[0]:
        scales = scales[:count]
    part = replace(tensor, codes=tensor.codes[:count], scales=scales, mask=None)
    return part, (count, *shape[1:])


def _hex(value: float) -> str:
    return f"0x{int(_bits(np.array([value], np.float32))[0]):08X}"


def _image(values: Array, shape: tuple[int, ...]) -> Array:
    """[M, out] of windows as [N, out, Ho, Wo]."""
    n, out, rows, columns = shape
    return values.reshape(n, rows, columns, out).transpose(0, 3, 1, 2)


def _scores(metric: Callable[[Any], Any], output: Any) -> dict[str, float]:
    value = metric(output)
    if isinstance(value, dict):
        return {str(name): float(number) for name, number in value.items()}
    return {"metric": float(value)}


def check(
    subject: nn.Module,
    inputs: Any,
    accelerator: Accelerator,
    *,
    against: nn.Module | None,
    metric: Callable[[Any], Any] | None,
    layers: list[str] | None,
    threads: int | None,
    progress: Callable[[str], None] | None,
    numerics: int,
    isa: str,
) -> Report:
    """See `sparq_sim.check`."""
    say = progress if progress is not None else lambda line: None
    if not isinstance(subject, nn.Module):
        raise TypeError(f"subject: needed a torch module, got {type(subject).__name__}")
    if isinstance(layers, str):
        raise TypeError(f"layers: needed a list of names, got {layers!r}")
    for value in (
        inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, (tuple, list)) else [inputs]
    ):
        if isinstance(value, np.ndarray):
            raise TypeError("inputs: needed torch tensors, got a NumPy array")
    found = targets(subject)
    names = list(found) if layers is None else list(layers)
    for name in names:
        if name not in found:
            raise ValueError(f"no Linear or Conv2d layer named {name!r}; layers: {', '.join(found) or 'none'}")
    if not names:
        raise ValueError(f"{type(subject).__name__} has no Linear or Conv2d layer to check")
    say("encoding weights")
    watched = {name: _Layer(name, found[name], accelerator, threads) for name in names}
    reference = fake_quantize(subject, accelerator, layers=names) if against is None else against
    runs: dict[str, Any] = {}

    say("running the float model")
    in_float = _Sampler()
    runs["float"] = watch(subject, inputs, names, in_float)

    say("running the reference, and the machine on its inputs")
    in_reference = _Sampler()

    def see(call: LayerCall) -> None:
        say(f"checking {call.name}")
        watched[call.name].see(call)
        in_reference(call)

    runs["reference"] = watch(reference, inputs, names, see)

    say("running the machine on its own")
    in_machine = _Sampler()
    alone = replace_layers(subject, lambda name, layer: watched[name].simulated, names)
    runs["machine"] = watch(alone, inputs, names, in_machine)

    reports = []
    for name in names:
        report = watched[name].report
        if report.outputs == 0 and not report.findings:
            report.findings.append("never called: nothing was checked")
            report.verdict = "unexplained"
        calls = [sum(key[0] == name for key in run.outputs) for run in (in_float, in_reference)]
        if calls[0] != calls[1] and calls[1]:
            report.findings.append(f"called {calls[0]} times by the model, {calls[1]} times by the reference")
        report.snr_db = in_float.snr(in_machine, name)
        report.drift_db = in_reference.snr(in_machine, name)
        reports.append(report)
    return Report(
        accelerator=str(accelerator),
        reference="torch fake-quant" if against is None else type(against).__name__,
        layers=reports,
        skipped=untouched(subject),
        metric={} if metric is None else {run: _scores(metric, output) for run, output in runs.items()},
        numerics=numerics,
        isa=isa,
    )
