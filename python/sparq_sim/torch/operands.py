"""Are the operands that a reference multiplied the ones that the machine sees? Compared bit for bit."""

from __future__ import annotations

import numpy as np
import torch

from sparq_sim.arrays import Array
from sparq_sim.compare import different, float_bits, hex_text
from sparq_sim.layers import MachineLayer
from sparq_sim.report import LayerReport
from sparq_sim.torch import bridge
from sparq_sim.torch.capture import LayerCall


def compare_operands(
    call: LayerCall, machine: MachineLayer, activations: torch.Tensor, weight: torch.Tensor, report: LayerReport
) -> bool:
    """Notes differences in the report. False if the reference's operands were seen and differ."""
    ours = (bridge.to_numpy(activations), bridge.to_numpy(weight))
    readings = [_fitting(machine, ours, reading) for reading in call.operands]
    fitting = [reading for reading in readings if reading is not None]
    if not fitting:
        if report.operands_equal is True:
            report.operands_equal = None
        return True
    same = [r for r in fitting if not any(np.any(different(a, b)) for a, b in zip(ours, r, strict=True))]
    chosen = (same or fitting)[0]
    for what, mine, other in zip(("activation", "weight"), ours, chosen, strict=True):
        if not _compare(machine, what, mine, other, report):
            report.operands_equal = False
    return report.operands_equal is not False


def _fitting(
    machine: MachineLayer, ours: tuple[Array, Array], reading: tuple[torch.Tensor, torch.Tensor]
) -> tuple[Array, Array] | None:
    """A reading of the reference's operands in the machine's shapes, or None if it is of another kind."""
    fitted = []
    for mine, tensor in zip(ours, reading, strict=True):
        other = bridge.to_numpy(tensor.float().cpu())
        flat = machine.window is None or machine.windowed
        if other.shape != mine.shape and flat and other.shape[-1:] == mine.shape[-1:] and other.size == mine.size:
            other = other.reshape(mine.shape)
        if other.shape != mine.shape:
            other = _without_padding(machine, mine, other)
        if other.shape != mine.shape:
            return None
        fitted.append(other)
    return fitted[0], fitted[1]


def _without_padding(machine: MachineLayer, ours: Array, theirs: Array) -> Array:
    """A reference may pad before its product; the zeros around are no operands."""
    window = machine.window
    if window is None or ours.ndim != 4 or theirs.ndim != 4:
        return theirs
    top, bottom, left, right = window.padding
    return theirs[:, :, top : theirs.shape[2] - bottom, left : theirs.shape[3] - right]


def _compare(machine: MachineLayer, what: str, ours: Array, theirs: Array, report: LayerReport) -> bool:
    report.zero_signs += int(np.count_nonzero((ours == 0) & (theirs == 0) & (float_bits(ours) != float_bits(theirs))))
    where = different(ours, theirs)
    count = int(np.count_nonzero(where))
    if count == 0:
        return True
    index = tuple(int(i) for i in np.argwhere(where)[0])
    place = _place(machine, what, index, ours.ndim)
    mine, other = float(ours[index]), float(theirs[index])
    report.find(
        f"{what}: {count} of {ours.size} differ; first at {place}: needed {mine!r} ({hex_text(mine)}), "
        f"got {other!r} ({hex_text(other)})"
    )
    return False


def _place(machine: MachineLayer, what: str, index: tuple[int, ...], axes: int) -> str:
    """An index, and which element of which block it is."""
    spec = machine.weight_spec if what == "weight" else machine.activation_spec
    image = machine.window is not None and axes == 4
    line = index[1 if image else axes - 1]
    if what == "activation" and image:
        line %= machine.channels
    text = f"{list(index)}"
    if isinstance(spec.format.block, int):
        text += f" (block {line // spec.format.block}, element {line % spec.format.block})"
    return text
