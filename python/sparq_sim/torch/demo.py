"""The shipped check: EfficientNet-Lite0 on sample photos, and three cases that show that a check can go red."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sparq_sim.accelerator import Accelerator
from sparq_sim.report import Report
from sparq_sim.torch import zoo
from sparq_sim.torch.checking import check
from sparq_sim.torch.simulate import simulate

#: The machine of the shipped check.
MACHINE = Accelerator("mxfp6_e2m3", "mxfp8_e4m3", datapath="block_fp32")

# Photos of the three cases: enough to see what they are about.
_FEW = 2


def _power(exponent: torch.Tensor) -> torch.Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)


def _scale(x: torch.Tensor, emax: int) -> torch.Tensor:
    """Power-of-two scales of blocks along the last axis, from torch's own frexp."""
    exponent = torch.frexp(x.abs().amax(-1, keepdim=True)).exponent - 1 - emax
    return _power(exponent.clamp(-127, 127))


def _e4m3(x: torch.Tensor) -> torch.Tensor:
    scale = _scale(x, 8)
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def _e2m3(x: torch.Tensor) -> torch.Tensor:
    scale = _scale(x, 2)
    y = x / scale
    step = _power((torch.frexp(y).exponent - 1).clamp(0, 2) - 3)
    return (torch.round(y / step) * step).clamp(-7.5, 7.5) * scale


def _along(x: torch.Tensor, axis: int, quantize: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Blocks of 32 along an axis, the last one shorter."""
    return torch.cat([quantize(part.movedim(axis, -1)).movedim(-1, axis) for part in torch.split(x, 32, axis)], axis)


class TorchFakeQuant(nn.Module):
    """MXFP6 weights and MXFP8 activations by twelve lines of torch, for `MACHINE`'s formats: no code of sparq_sim."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.layer.weight.data = _along(layer.weight.data, 1, _e2m3)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes along the channels of a group, then multiplies as torch does."""
        groups = getattr(self.layer, "groups", 1)
        if isinstance(self.layer, nn.Linear):
            out = self.layer(_along(x, x.dim() - 1, _e4m3))
        else:
            n, channels, height, width = x.shape
            lines = x.view(n, groups, channels // groups, height, width)
            out = self.layer(_along(lines, 2, _e4m3).view(x.shape))
        assert isinstance(out, torch.Tensor)
        return out


def torch_fake_quant(model: nn.Module) -> nn.Module:
    """A copy of a model with every Linear and Conv2d fake-quantized by torch alone."""
    changed = copy.deepcopy(model)
    for name, module in list(changed.named_modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            parent, _, attribute = name.rpartition(".")
            setattr(changed.get_submodule(parent), attribute, TorchFakeQuant(module))
    return changed


def one_weight_off(model: nn.Module, layer: str, index: tuple[int, ...]) -> nn.Module:
    """`torch_fake_quant` with one weight moved by one code; `index` is at the first tap of a kernel."""
    changed = torch_fake_quant(model)
    module = changed.get_submodule(layer)
    assert isinstance(module, TorchFakeQuant)
    weight = module.layer.weight.data
    start = index[1] // 32 * 32
    original = model.get_submodule(layer).weight
    assert isinstance(original, torch.Tensor)
    # The channels of this output and tap, in the block of the weight.
    lines = original.data[index[0]].flatten(1)[:, 0] if original.dim() == 4 else original.data[index[0]]
    block = lines[start : start + 32]
    scale = float(_scale(block, 2))
    code_step = 2.0 ** (max(0, int(torch.frexp(weight[index] / scale).exponent) - 1) - 3)
    weight[index] += scale * code_step
    return changed


@dataclass(frozen=True)
class Case:
    """One of the cases that a check must tell apart."""

    title: str
    expected_ok: bool
    report: Report

    @property
    def as_expected(self) -> bool:
        """The check said what it had to say."""
        return self.report.ok == self.expected_ok


def _metric(labels: torch.Tensor) -> Callable[[torch.Tensor], dict[str, float]]:
    def score(logits: torch.Tensor) -> dict[str, float]:
        top1, cross_entropy = zoo.score(logits, labels)
        return {"top-1 accuracy": float(top1), "cross-entropy": float(cross_entropy)}

    return score


def shipped_check(
    accelerator: Accelerator | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """The main job: EfficientNet-Lite0 with its published weights on twelve labelled photos.

    Raises:
        ModuleNotFoundError: the packages of the ``demo`` extra are missing.
    """
    model = zoo.efficientnet_lite0()
    images, labels, _ = zoo.photos()
    machine = MACHINE if accelerator is None else accelerator
    return check(model, images, machine, metric=_metric(labels), threads=threads, progress=progress)


def cases(threads: int | None = None, progress: Callable[[str], None] | None = None) -> list[Case]:
    """Three checks against other models: an honest one, one with a wrong weight, one on a worse machine."""
    model = zoo.efficientnet_lite0()
    images = zoo.photos()[0][:_FEW]
    conv, index = "blocks.5.expand.conv", (7, 37, 0, 0)
    claimed = Accelerator("fp8_e4m3", "fp8_e4m3", datapath="fma32")
    worse = simulate(model, Accelerator("fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8"), threads=threads)

    def run(machine: Accelerator, against: nn.Module) -> Report:
        return check(model, images, machine, against=against, threads=threads, progress=progress)

    wrong = f"the same, weight {list(index)} of {conv} one code off"
    return [
        Case("a fake-quant written in torch alone", True, run(MACHINE, torch_fake_quant(model))),
        Case(wrong, False, run(MACHINE, one_weight_off(model, conv, index))),
        Case("a 14-bit truncating accumulator passed off as float32", False, run(claimed, worse)),
    ]
