"""The reference of a check: the same model with the operands that the machine sees, multiplied by torch in float32."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from sparq_sim.accelerator import Accelerator
from sparq_sim.quantize import emulate
from sparq_sim.torch.simulate import Simulated, replace_layers, targets

M = TypeVar("M", bound=nn.Module)


class FakeQuant(nn.Module):
    """A layer whose operands are emulated and whose products and sums are torch's."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, accelerator: Accelerator) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.operands = Simulated(layer, accelerator)
        self.decoded_weight = self.operands.decoded_weight
        self.output = accelerator.output_spec
        self.alpha = 1.0 if accelerator.epilogue is None else float(accelerator.epilogue.alpha)

    def decoded_operands(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The activations and the weight that `forward` multiplies."""
        return self.operands.decoded_operands(x)

    @torch.no_grad()
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """float32 arithmetic, cast to the dtype of the input."""
        x = input
        window = self.operands.machine.window
        image = window is not None and x.dim() == 3
        values, _ = self.operands.decoded_operands(x[None] if image else x)
        weight = self.decoded_weight
        own = None if self.operands.bias is None else self.operands.bias.detach().float().cpu()
        bias = own if self.alpha == 1 else None
        if window is None:
            out = nn.functional.linear(values, weight, bias)
        elif self.operands.machine.windowed:
            out = self._product_of_windows(x[None] if image else x, values, weight, bias)
        else:
            top, bottom, left, right = window.padding
            padded = nn.functional.pad(values, (left, right, top, bottom))
            out = nn.functional.conv2d(padded, weight, bias, window.stride, 0, window.dilation, window.groups)
        if self.alpha != 1:
            out = out * self.alpha
            out = out if own is None else out + own.reshape(-1, *([1] * (0 if window is None else 2)))
        if self.output is not None:
            out = emulate(out, self.output, inexact="round")
        return (out[0] if image else out).to(device=x.device, dtype=x.dtype)

    def _product_of_windows(
        self, x: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        window = self.operands.machine.window
        assert window is not None
        shape = self.operands.padded(x).shape
        rows, columns = window.output_size(int(shape[2]), int(shape[3]))
        per_group = weight.reshape(window.groups, -1, weight.shape[-1])
        out = torch.cat([nn.functional.linear(v, w) for v, w in zip(values, per_group, strict=True)], dim=1)
        if bias is not None:
            out = out + bias
        return out.reshape(x.shape[0], rows, columns, -1).permute(0, 3, 1, 2).contiguous()


def fake_quantize(model: M, accelerator: Accelerator, *, layers: list[str] | None = None) -> M:
    """A copy of a model with every Linear and Conv2d layer's operands emulated (all those that `simulate` replaces)."""
    names = list(targets(model)) if layers is None else layers
    return replace_layers(model, lambda name, layer: FakeQuant(layer, accelerator), names)
