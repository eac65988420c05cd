"""What each layer of a torch model was given, multiplied and returned, seen while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

#: Functions whose first two arguments are the operands of a layer, activations first.
_PRODUCTS = {
    nn.functional.linear,
    nn.functional.conv2d,
    torch.conv2d,
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
    operands: tuple[torch.Tensor, torch.Tensor] | None
    """Activations and weight as they were multiplied, if a single product was seen."""


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
        self.stack: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.stack and func in _PRODUCTS:
            named = {**dict(zip(("input", "weight"), args, strict=False)), **(kwargs or {})}
            if isinstance(named.get("input"), torch.Tensor) and isinstance(named.get("weight"), torch.Tensor):
                self.stack[-1].append((_plain(named["input"]), _plain(named["weight"])))
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
                operands = found[0] if len(found) == 1 else exposed(x) if exposed is not None else None
                seen(LayerCall(name, calls[name] - 1, x.detach(), y.detach(), operands))

        return hook

    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after(name), with_kwargs=True).remove)
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
