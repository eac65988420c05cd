"""What becomes of the result of a product: rounded to an element, or encoded as what the next layer reads."""

from __future__ import annotations

from typing import Any

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array, is_torch, numpy_dtype
from sparq_sim.dtypes import DTYPE_ELEMENTS, in_dtype
from sparq_sim.formats import Format, Spec, elements, find_element, formats, spec
from sparq_sim.quantize import encode


def output_spec(output: str | Format | Spec) -> Spec:
    """The spec of ``output=``: of a format, or of an element that is no format's name, as it is by itself.

    Raises:
        ValueError: unknown names; scale codes; stochastic rounding, which needs random bits.
        TypeError: what is no name, `Format` or `Spec`.
    """
    if isinstance(output, str) and output not in formats() and output in elements():
        if find_element(output).signedness == "unsigned":
            raise ValueError(f"output={output!r}: codes of scales hold no results")
        element = find_element(output)
        made = spec(Format(output, element, (), source="elements()"), overflow="special" if _is_wide(element) else None)
    else:
        made = spec(output)
    if made.conversion.rounding == "stochastic":
        raise ValueError(
            f"output: {made.format.name} with rounding='stochastic' needs random bits: encode the result with random="
        )
    return made


def _is_wide(element: ElementFormat) -> bool:
    """With Inf, and of more than 8 bits: those overflow, as bf16 and fp16 do; shorter ones saturate."""
    return element.code_bits > 8 and element.infinity_code is not None


def written(values: Any, made: Spec, threads: int | None) -> Any:
    """Results as that spec says: a BlockTensor, or without scales and pattern the codes, in a dtype of theirs if there
    is one."""
    tensor = encode(values, made, threads=threads)
    if made.format.levels or made.sparsity is not None:
        return tensor
    return _in_own_dtype(tensor.codes, made.format, values)


def _in_own_dtype(codes: Array, format: Format, values: Any) -> Any:
    name = next((dtype for dtype, known in DTYPE_ELEMENTS.items() if find_element(known) == format.element), None)
    if is_torch(values):
        import torch

        if name is not None and hasattr(torch, name) and name != "int4":
            return in_dtype(codes, format.element, getattr(torch, name), DTYPE_ELEMENTS, "output").to(values.device)
        return torch.from_numpy(codes.copy()).to(values.device)
    if name is None:
        return codes.copy()
    return in_dtype(codes, format.element, numpy_dtype(name), DTYPE_ELEMENTS, "output").copy()
