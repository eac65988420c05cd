"""What each layer of a torch model was given, multiplied and returned, seen while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

#: Functions whose first two arguments are the operands of a layer, activations first, weight as [out, ...].
_LAYER_PRODUCTS = {nn.functional.linear, nn.functional.conv2d, torch.conv2d}
#: Products of two matrices, [M, K] by [K, N].
_MATRIX_PRODUCTS = {
    torch.matmul,
    torch.mm,
    torch.Tensor.matmul,
    torch.Tensor.mm,
    torch.Tensor.__matmul__,
}


@dataclass
class LayerCall:
    """One call of one layer."""

    name: str
    call: int
    x: torch.Tensor
    """The layer's input."""
    y: torch.Tensor
    """Its output."""
    operands: list[tuple[torch.Tensor, torch.Tensor]]
    """Activations and weight [out, ...] as they were multiplied, if a single product was seen; a plain matrix product
    does not say which of its sides is which, so it leaves two readings."""


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Quantized tensor subclasses as ordinary tensors."""
    dequantize = getattr(tensor, "dequantize", None)
    if type(tensor) not in (torch.Tensor, nn.Parameter) and dequantize is not None:
        return dequantize()  # type: ignore[no-any-return]
    return tensor.detach()


class _Products(TorchFunctionMode):
    """Notes the operands of products that run inside a watched layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[list[list[tuple[torch.Tensor, torch.Tensor]]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.stack and (func in _LAYER_PRODUCTS or func in _MATRIX_PRODUCTS):
            sides = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)][:2]
            if len(sides) == 2:
                first, second = _plain(sides[0]), _plain(sides[1])
                readings = [(first, second)]
                if func in _MATRIX_PRODUCTS:
                    transposed = second.mT if second.dim() > 1 else second
                    readings = [(first, transposed), (transposed, first)]
                self.stack[-1].append(readings)
        return func(*args, **(kwargs or {}))


def run(model: nn.Module, inputs: Any) -> Any:
    """A model on its inputs: a tensor, a tuple of arguments, or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


@contextmanager
def _hooks(
    model: nn.Module, names: list[str], seen: Callable[[LayerCall], None], products: _Products
) -> Iterator[None]:
    calls = dict.fromkeys(names, 0)

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        products.stack.append([])

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> None:
            found = products.stack.pop()
            x = args[0] if args else next(iter(kwargs.values()))
            calls[name] += 1
            # What the callback computes is none of the model's products.
            with torch._C.DisableTorchFunction():
                exposed = getattr(module, "decoded_operands", None)
                operands = found[0] if len(found) == 1 else [exposed(x)] if exposed is not None else []
                seen(LayerCall(name, calls[name] - 1, x.detach(), y.detach(), operands))

        return hook

    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(before).remove)
            # Before the model's own hooks, which work on what the layer returns.
            hook = module.register_forward_hook(after(name), prepend=True, with_kwargs=True)
            stack.callback(hook.remove)
        yield


@torch.no_grad()
def watch(model: nn.Module, inputs: Any, names: list[str], seen: Callable[[LayerCall], None]) -> Any:
    """Runs a model and hands every call of the named layers to `seen`, in order. Returns the model's output.

    Raises:
        ValueError: the model has no module of a name.
    """
    modules = dict(model.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(f"the model under check has no module named {', '.join(map(repr, missing))}")
    products = _Products()
    with _hooks(model, names, seen, products), products:
        return run(model, inputs)
