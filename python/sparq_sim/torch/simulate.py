"""Torch models on a simulated machine: `simulate` swaps linear and convolution layers for ones that run on it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from sparq_sim._core import Datapath
from sparq_sim.accelerator import Accelerator
from sparq_sim.layers import MachineLayer, Window
from sparq_sim.tensor import BlockTensor
from sparq_sim.torch import bridge

M = TypeVar("M", bound=nn.Module)


def is_target(module: nn.Module) -> bool:
    """Whether `simulate` replaces a module: Linear and Conv2d with their own forward."""
    return (isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward) or (
        isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward
    )


def untouched(model: nn.Module) -> list[str]:
    """Names (and types) of modules that multiply by weights and stay as they are."""
    multiplying = (
        nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
    )  # fmt: skip
    names = [n for n, m in model.named_modules() if isinstance(m, multiplying) and not _replaced(model, n, m)]
    return [f"{name} ({type(model.get_submodule(name)).__name__})" for name in names]


def _replaced(model: nn.Module, name: str, module: nn.Module) -> bool:
    # Attention calls torch's fused function with the weights of its projection, which would bypass a replacement.
    parent = model.get_submodule(name.rpartition(".")[0]) if "." in name or name else model
    return is_target(module) and not (name and isinstance(parent, nn.MultiheadAttention))


def targets(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that `simulate` replaces, by name, in the model's order."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and _replaced(model, name, module):
            found[name] = module
    return found


def pair(value: Any) -> tuple[int, int]:
    """Height and width."""
    return int(value[0]), int(value[1])


@dataclass(frozen=True)
class _Padding:
    """What a convolution pads with: zeros go in as codes; other modes are applied to the input first."""

    window: Window
    mode: str
    before: tuple[int, int, int, int] | None
    """For torch.nn.functional.pad, or None."""


def _padding(conv: nn.Conv2d) -> _Padding:
    kernel, stride, dilation = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
    if conv.padding == "valid":
        sides = (0, 0, 0, 0)
    elif conv.padding == "same":
        total = [dilation[i] * (kernel[i] - 1) for i in range(2)]
        sides = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        tall, wide = pair(conv.padding)
        sides = (tall, tall, wide, wide)
    if conv.padding_mode == "zeros":
        return _Padding(Window(kernel, stride, dilation, sides, conv.groups), "zeros", None)
    top, bottom, left, right = sides
    return _Padding(
        Window(kernel, stride, dilation, (0, 0, 0, 0), conv.groups),
        conv.padding_mode,
        (left, right, top, bottom),
    )


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.element_size() == 2 else x


class Simulated(nn.Module):
    """A linear or convolution layer on a simulated machine; keeps the original's parameters. The weight is encoded when
    the layer is made, and again when `load_state_dict` brings another."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, accelerator: Accelerator, threads: int | None = None) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.kind = type(layer).__name__
        self.threads = threads
        padding = _padding(layer) if isinstance(layer, nn.Conv2d) else None
        self.pad_mode = "zeros" if padding is None else padding.mode
        self.pad_before = None if padding is None else padding.before
        self.machine = self._encoded(accelerator, None if padding is None else padding.window)
        self.register_load_state_dict_post_hook(_encode_again)  # type: ignore[no-untyped-call]

    def _encoded(self, accelerator: Accelerator, window: Window | None) -> MachineLayer:
        # 16-bit weights widen exactly; float64 ones are rounded once, to the element.
        return MachineLayer(bridge.to_numpy(_wide(self.weight.detach())), accelerator, window)

    def encode_weight(self) -> None:
        """Encodes the weight as it is now."""
        self.machine = self._encoded(self.machine.accelerator, self.machine.window)

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """The input with any padding that is not zeros."""
        if self.pad_before is None:
            return x
        return nn.functional.pad(x, self.pad_before, mode=self.pad_mode)

    def encode(self, x: torch.Tensor) -> tuple[BlockTensor, tuple[int, ...]]:
        """The activations in codes, and the shape of the input that they stand for."""
        x = self.padded(x.detach())
        array = bridge.to_numpy(_wide(x))
        return self.machine.encode_activations(array), array.shape

    def run(self, encoded: tuple[BlockTensor, tuple[int, ...]], path: Datapath | None = None) -> torch.Tensor:
        """float32 results of encoded activations, on the accelerator's datapath or another one."""
        bias = None if self.bias is None else np.ascontiguousarray(bridge.to_numpy(self.bias.detach().float()))
        return torch.from_numpy(self.machine.run(*encoded, bias, path=path, threads=self.threads))

    def decoded_operands(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The activations and the weight as the multipliers see them, float32."""
        batch = x[None] if self.machine.window is not None and x.dim() == 3 else x
        return bridge.as_float32(self.machine.decoded_activations(*self.encode(batch))), self.decoded_weight

    @property
    def decoded_weight(self) -> torch.Tensor:
        """The weight as the multipliers see it, float32."""
        return bridge.as_float32(self.machine.decoded_weight())

    @torch.no_grad()
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """float32 results, cast to the dtype of the input."""
        x = input
        image = self.machine.window is not None and x.dim() == 3
        out = self.run(self.encode(x[None] if image else x))
        return (out[0] if image else out).to(device=x.device, dtype=x.dtype)


def _encode_again(module: nn.Module, keys: Any) -> None:
    assert isinstance(module, Simulated)
    module.encode_weight()


# Where torch keeps the hooks of a module.
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def _take_hooks(made: nn.Module, layer: nn.Module) -> None:
    """A layer's forward hooks move to its replacement; those of torch that only compute its weight have done so."""
    for name in _HOOKS:
        hooks = getattr(layer, name)
        kept = {key: hook for key, hook in hooks.items() if not type(hook).__module__.startswith("torch.nn.utils.")}
        getattr(made, name).update(kept)


@contextlib.contextmanager
def naming(layer: str) -> Iterator[None]:
    """ValueErrors inside begin with the layer's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{layer}: {error}" if layer else str(error)) from None


def replace_layers(model: M, make: Callable[[str, Any], nn.Module], names: list[str]) -> M:
    """A deep copy of a model with the named layers replaced by ``make(name, layer)``, under every name they have."""
    changed = copy.deepcopy(model)
    for module in changed.modules():
        # Torch's fused path for inference would read the weights of replaced layers and pass their forward by.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
    made: dict[int, tuple[nn.Module, nn.Module]] = {}
    for name in names:
        layer = changed.get_submodule(name)
        with naming(name):
            replacement = make(name, layer)
        _take_hooks(replacement, layer)
        if not name:
            return cast(M, replacement)
        made[id(layer)] = (layer, replacement)
    for alias, module in list(changed.named_modules(remove_duplicate=False)):
        if id(module) in made:
            parent, _, attribute = alias.rpartition(".")
            setattr(changed.get_submodule(parent), attribute, made[id(module)][1])
    return changed


def simulate(model: M, accelerator: Accelerator, *, layers: list[str] | None = None, threads: int | None = None) -> M:
    """A copy of a model whose Linear and Conv2d layers run on a simulated machine.

    Args:
        model: any module; itself unchanged.
        accelerator: the machine.
        layers: names of the layers to replace; default all.
        threads: threads to use in each layer; default by size.

    Returns:
        A module of the same kind for inference (results have no gradient). What multiplies by weights and is neither a
        Linear nor a Conv2d stays as it is; `untouched` lists it.

    Raises:
        ValueError: an unknown layer name, or a layer that the machine cannot take.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: needed a torch module, got {type(model).__name__}")
    if not isinstance(accelerator, Accelerator):
        raise TypeError(f"accelerator: needed an Accelerator, got {type(accelerator).__name__}")
    if isinstance(layers, str):
        raise TypeError(f"layers: needed a list of names, got {layers!r}")
    found = targets(model)
    names = list(found) if layers is None else layers
    for name in names:
        if name not in found:
            raise ValueError(f"no Linear or Conv2d layer named {name!r}; layers: {', '.join(found) or 'none'}")
    return replace_layers(model, lambda name, layer: Simulated(layer, accelerator, threads), names)
