"""torch tensors as NumPy views and back. CPU tensors share memory; others are copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]

#: Dtypes that NumPy lacks, seen through an integer of the same width.
_BITS: dict[torch.dtype, torch.dtype] = {torch.bfloat16: torch.uint16}
for _name in (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
):
    if hasattr(torch, _name):
        _BITS[getattr(torch, _name)] = torch.uint8


def to_numpy(tensor: torch.Tensor) -> Array:
    """A view of a CPU tensor's memory (of a copy for other devices), strides kept; dtypes that NumPy lacks as bits."""
    if tensor.layout != torch.strided:
        raise TypeError(f"needed a dense torch tensor, got layout {tensor.layout}")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if plain.dtype in _BITS:
        plain = plain.view(_BITS[plain.dtype])
    return plain.numpy()


def from_numpy(array: Array, dtype: str, like: torch.Tensor) -> torch.Tensor:
    """A tensor over the array's memory (16-bit floats as ``uint16`` bits), on the device of `like`."""
    tensor = torch.from_numpy(array)
    if dtype in ("bfloat16", "float16"):
        tensor = tensor.view(torch_dtype(dtype))
    return tensor.to(like.device)


def torch_dtype(name: str) -> torch.dtype:
    """A torch dtype by its name."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def as_float32(array: Array) -> torch.Tensor:
    """A float32 tensor over (or of) an array."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
