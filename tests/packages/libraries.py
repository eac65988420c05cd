"""What other libraries make of a tensor, called as their documentation says; numbers in, numbers out.

Each function takes float32 [rows, multiple of the block] and a format of the catalog, and returns what the library
decodes. Imports are inside, so that a library that is missing takes only its own tests away.
"""

from __future__ import annotations

from typing import Any

import torch

import sparq_sim as sq


def torchao(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    if format.startswith("nvfp4"):
        scale = per_tensor_amax_to_scale(x.abs().max()) if format == "nvfp4" else None
        return NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(torch.float32)
    elements: dict[str, Any] = {
        "mxfp4": torch.float4_e2m1fn_x2,
        "mxfp6_e2m3": "fp6_e2m3",
        "mxfp6_e3m2": "fp6_e3m2",
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
    }
    mode = getattr(ScaleCalculationMode, rule.upper())
    return MXTensor.to_mx(x, elements[format], block_size=32, scaling_mode=mode).dequantize(torch.float32)


def modelopt(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from modelopt.torch.quantization.qtensor import MXFP4QTensor, MXFP8QTensor, NVFP4QTensor

    if format == "mxfp4":
        quantized, scale = MXFP4QTensor.quantize(x, 32)
        return quantized.dequantize(dtype=torch.float32, scale=scale, block_sizes={-1: 32})
    if format == "mxfp8_e4m3":
        quantized, scale = MXFP8QTensor.quantize(x)
        return quantized.dequantize(dtype=torch.float32, scale=scale)
    quantized, scale, outer = NVFP4QTensor.quantize(x, 16)
    return quantized.dequantize(dtype=torch.float32, scale=scale, double_scale=outer, block_sizes={-1: 16})


def compressed_tensors(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    nvfp4 = format == "nvfp4"
    size = 16 if nvfp4 else 32
    args = QuantizationArgs(
        num_bits={"mxfp4": 4, "nvfp4": 4, "mxfp6_e2m3": 6, "mxfp8_e4m3": 8}[format],
        type="float",
        strategy="tensor_group" if nvfp4 else "group",
        group_size=size,
        symmetric=True,
        scale_dtype=torch.float8_e4m3fn if nvfp4 else torch.uint8,
        zp_dtype=torch.float8_e4m3fn if nvfp4 else torch.uint8,
    )
    groups = x.reshape(len(x), -1, size)
    outer = generate_gparam(x.min(), x.max()) if nvfp4 else None
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args, global_scale=outer)
    return fake_quantize(x, scale, zero, args, global_scale=outer)


def auto_round(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from auto_round.data_type.mxfp import quant_mx, quant_mx_rceil
    from auto_round.data_type.nvfp import calculate_gparam, ref_nvfp4_quant

    if format == "nvfp4":
        return ref_nvfp4_quant(x.reshape(-1, 16), calculate_gparam(x))[0].reshape(x.shape)
    names = {
        "mxfp4": ("mx_fp4", 4),
        "mxfp6_e2m3": ("mx_fp6e2m3", 6),
        "mxfp6_e3m2": ("mx_fp6e3m2", 6),
        "mxfp8_e4m3": ("mx_fp8e4m3", 8),
        "mxfp8_e5m2": ("mx_fp8e5m2", 8),
        "mxint8": ("mx_int8", 8),
    }
    name, bits = names[format]
    quantize = {"floor": quant_mx, "rceil": quant_mx_rceil}[rule]
    return quantize(x.clone(), bits=bits, group_size=32, data_type=name)[0].float()


def neural_compressor(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from neural_compressor.torch.algorithms.mx_quant.utils import quantize_mx_op

    element = format.removeprefix("mx")
    return quantize_mx_op(x.clone(), element, rule, 32, axes=[-1])


def quark(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    import quark.torch.kernel  # noqa: F401  registers the operators

    if format == "bfp16_quark":
        return torch.ops.quark.non_scaled_fake_quantize(x, "bfp16", "", -1, 8)
    if format in ("mx6", "mx9"):
        from quark.torch.kernel.hw_emulation.hw_emulation_interface import fake_quantize_mx6_mx9

        return fake_quantize_mx6_mx9(x, -1, 16, quant_bit=5 if format == "mx6" else 8, sub_block_size=2)
    element = {"mxfp8_e4m3": "fp8_e4m3", "mxfp8_e5m2": "fp8_e5m2"}.get(format, format.removeprefix("mx"))
    return torch.ops.quark.non_scaled_fake_quantize(x, "mx", element, -1, 32, rule)


def brevitas(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from brevitas.nn import QuantLinear
    from brevitas.quant.mx_quant_ocp import MXFloat8e4m3Weight, MXInt8Weight

    quantizer = MXInt8Weight
    if format != "mxint8":
        exponent, mantissa = {
            "mxfp4": (2, 1),
            "mxfp6_e2m3": (2, 3),
            "mxfp6_e3m2": (3, 2),
            "mxfp8_e4m3": (4, 3),
            "mxfp8_e5m2": (5, 2),
        }[format]
        quantizer = MXFloat8e4m3Weight.let(
            bit_width=1 + exponent + mantissa, exponent_bit_width=exponent, mantissa_bit_width=mantissa
        )
    layer = QuantLinear(x.shape[1], x.shape[0], bias=False, weight_quant=quantizer)
    layer.weight.data = x.clone()
    with torch.no_grad():
        return layer.quant_weight().value


def qtorch(x: torch.Tensor, format: str, rule: str) -> torch.Tensor:
    from qtorch.quant import block_quantize

    blocks = x.reshape(-1, min(x.shape[1], sq.formats()[format].block))
    return block_quantize(blocks, int(format.removeprefix("hbfp")), 0, "nearest").reshape(x.shape)


LIBRARIES = {
    "torchao-0.18": torchao,
    "modelopt-0.47": modelopt,
    "compressed-tensors-0.20": compressed_tensors,
    "auto-round-0.16": auto_round,
    "neural-compressor-3.10": neural_compressor,
    "quark-0.13": quark,
    "brevitas-0.13": brevitas,
    "qtorch-0.3": qtorch,
}
