"""The work behind `sparq_sim.check`: three runs of a model, watched layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sparq_sim import _core
from sparq_sim._core import Datapath
from sparq_sim.accelerator import Accelerator
from sparq_sim.arrays import Array
from sparq_sim.compare import different, float_bits, snr_db, ulp_distance
from sparq_sim.formats import datapaths, find_element
from sparq_sim.layers import MachineLayer
from sparq_sim.report import LayerReport, Report
from sparq_sim.scales import spans_lines
from sparq_sim.tensor import BlockTensor, stored_scales
from sparq_sim.torch import bridge
from sparq_sim.torch.capture import LayerCall, watch
from sparq_sim.torch.fake_quant import fake_quantize
from sparq_sim.torch.judging import Judge
from sparq_sim.torch.operands import compare_operands
from sparq_sim.torch.simulate import Simulated, naming, replace_layers, targets, untouched

# Outputs of a layer that signal-to-noise ratios look at, evenly spaced.
_SAMPLES = 1 << 16
# Machines whose accumulation is float32 arithmetic in some order: what a float32 claim may turn out to be.
_FLOAT32_REDUCTIONS = ("exact", "blocks", "fma", "tree")
_NEVER = "never called: nothing was checked"
# 16-bit models round every output once more.
_NARROW = {torch.bfloat16: "bf16", torch.float16: "fp16"}


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
        return snr_db(np.concatenate([self.outputs[k] for k in keys]), np.concatenate([other.outputs[k] for k in keys]))


class _Layer:
    """One layer on the machine, against what a reference did."""

    def __init__(self, name: str, layer: nn.Linear | nn.Conv2d, accelerator: Accelerator, threads: int | None) -> None:
        self.simulated = Simulated(layer, accelerator, threads)
        self.weight = self.simulated.decoded_weight
        self.layer = layer
        machine = self.simulated.machine
        self.report = LayerReport(name, type(layer).__name__, machine.k, kept_dense=machine.kept_dense)

    def see(self, call: LayerCall) -> None:
        """One call of the reference's layer."""
        x = call.x
        if self.simulated.machine.window is not None and x.dim() == 3:
            x, call = x[None], replace(call, x=x[None], y=call.y[None])
        encoded = self.simulated.encode(x)
        activations = bridge.as_float32(self.simulated.machine.decoded_activations(*encoded))
        agree = compare_operands(call, self.simulated.machine, activations, self.weight, self.report)
        # A layer returns its input's dtype: 16-bit models round every output once more.
        ours = bridge.to_numpy(self.simulated.run(encoded).to(call.y.dtype).float())
        theirs = bridge.to_numpy(call.y.float().cpu())
        if ours.shape != theirs.shape:
            self.report.worsen("unexplained")
            self.report.find(f"the output has shape {theirs.shape}, the machine's {ours.shape}")
            return
        report = self.report
        report.outputs += ours.size
        report.nonfinite += int(np.count_nonzero(~np.isfinite(theirs)))
        report.different += int(np.count_nonzero(float_bits(ours) != float_bits(theirs)))
        report.max_ulp = max(report.max_ulp, int(ulp_distance(ours, theirs).max(initial=0)))
        if not agree:
            report.worsen("unexplained")
        elif bool(np.any(different(ours, theirs))):
            narrow = _NARROW.get(call.y.dtype)
            rounded_to = None if narrow is None else find_element(narrow)
            judge = Judge(self.simulated.machine, activations, self.weight, self.layer.bias, rounded_to)
            if self._reproduce(encoded, theirs) is None:
                judge.verdict(ours, theirs, report)
            else:
                judge.bounds(ours, theirs, report)

    def _reproduce(self, encoded: tuple[BlockTensor, tuple[int, ...]], theirs: Array) -> str | None:
        """A named datapath, other than the accelerator's own, that gives the very values."""
        accelerator = self.simulated.machine.accelerator
        own = str(accelerator) if not accelerator.is_plain else accelerator.datapath_name
        tensor, shape = encoded
        for name, machine in sorted(datapaths().items(), key=lambda item: item[1].record.reduce != "fma"):
            if accelerator.is_plain and machine.record == accelerator.path:
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
            self.report.worsen("reproduced")
            if machine.record.reduce not in _FLOAT32_REDUCTIONS:
                self.report.find(f"the reference is {name} bit for bit, and the accelerator says {own}")
                self.report.worsen("unexplained")
            return name
        return None

    def _differs(self, encoded: tuple[BlockTensor, tuple[int, ...]], path: Datapath, theirs: Array) -> bool:
        got = bridge.to_numpy(self.simulated.run(encoded, path))
        return bool(np.any(different(got, theirs[: len(got)])))


def _first(
    tensor: BlockTensor, machine: MachineLayer, shape: tuple[int, ...]
) -> tuple[BlockTensor, tuple[int, ...]] | None:
    """The first image, or the first rows, of encoded activations; None if there is no such part to cut."""
    if machine.windowed or shape[0] < 2 or (machine.window is None and len(shape) != 2):
        return None
    count = 1 if machine.window is not None else min(8, shape[0])
    if spans_lines(tensor.format):
        return None
    planes = [plane[:count] if plane.shape[0] == shape[0] else plane for plane in tensor.scale_planes]
    part = replace(tensor, codes=tensor.codes[:count], scales=stored_scales(planes), mask=None)
    return part, (count, *shape[1:])


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
    against: nn.Module | None = None,
    metric: Callable[[Any], Any] | None = None,
    layers: list[str] | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
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
    if not names and found:
        raise ValueError(f"layers: the list is empty; layers: {', '.join(found)}")
    if not names:
        raise ValueError(f"{type(subject).__name__} has no Linear or Conv2d layer to check")
    say("encoding weights")
    watched = {}
    for name in names:
        with naming(name):
            watched[name] = _Layer(name, found[name], accelerator, threads)
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
        calls = [sum(key[0] == name for key in run.outputs) for run in (in_float, in_reference)]
        if report.outputs == 0 and not report.findings:
            report.find("called without a row of input: nothing was checked" if calls[1] else _NEVER)
            report.worsen("unexplained")
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
        numerics=_core.numerics_version,
        isa=_core.active_isa(),
    )
