"""Libraries of other people that the tests compare elements with, and how each of them converts."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from gfloat import Domain, FormatInfo, RoundMode, encode_ndarray, round_ndarray
from gfloat.formats import (
    format_info_bfloat16,
    format_info_binary16,
    format_info_ocp_e2m1,
    format_info_ocp_e2m3,
    format_info_ocp_e3m2,
    format_info_ocp_e4m3,
    format_info_ocp_e5m2,
    format_info_ocp_e8m0,
    format_info_ocp_int8,
    format_info_p3109,
)

Array = npt.NDArray[Any]

#: Floats of up to 16 bits, by the name of the element.
SHORT_FLOATS: dict[str, Any] = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e4m3_ieee": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}

#: Every element that NumPy or ml_dtypes has.
TYPES: dict[str, Any] = {**SHORT_FLOATS, "fp32": np.float32, "int8": np.int8, "int4": ml_dtypes.int4}

#: The types of torch that a tensor can be cast to.
TORCH_TYPES: dict[str, torch.dtype] = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e8m0": torch.float8_e8m0fnu,
}


def told(k: int, precision: int, bias: int, **words: Any) -> FormatInfo:
    """A format that gfloat has no name for."""
    plain = {"is_signed": True, "has_subnormals": True, "is_twos_complement": False, "domain": Domain.Finite}
    return FormatInfo("told", k, precision, bias=bias, **{**plain, "has_nz": True, "num_high_nans": 0, **words})


GFLOAT_FORMATS: dict[str, FormatInfo] = {
    "e4m3": format_info_ocp_e4m3,
    "e5m2": format_info_ocp_e5m2,
    "e2m3": format_info_ocp_e2m3,
    "e3m2": format_info_ocp_e3m2,
    "e2m1": format_info_ocp_e2m1,
    "bf16": format_info_bfloat16,
    "fp16": format_info_binary16,
    "mxint8_element": format_info_ocp_int8,
    "e8m0": format_info_ocp_e8m0,
    "p3109_8p3se": format_info_p3109(8, 3),
    "p3109_8p4se": format_info_p3109(8, 4),
    "p3109_8p5se": format_info_p3109(8, 5),
    "p3109_4p2sf": format_info_p3109(4, 2, domain=Domain.Finite),
    "e4m3fnuz": told(8, 4, 8, has_nz=False),
    "e5m2fnuz": told(8, 3, 16, has_nz=False),
    "e4m3b11fnuz": told(8, 4, 11, has_nz=False),
    "e4m3_ieee": told(8, 4, 7, domain=Domain.Extended, num_high_nans=7),
    "e3m4": told(8, 5, 3, domain=Domain.Extended, num_high_nans=15),
    "e1m2": told(4, 3, 1),
    "e3m0": told(4, 1, 3),
    "e4m0_fn": told(5, 1, 7, num_high_nans=1),
    "e4m0_fnuz_inf": told(5, 1, 7, domain=Domain.Extended, has_nz=False),
}
GFLOAT_ROUNDINGS = {
    "nearest_even": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "up": RoundMode.TowardPositive,
    "down": RoundMode.TowardNegative,
    "stochastic a": RoundMode.StochasticFastest,
    "stochastic b": RoundMode.StochasticFast,
    "stochastic c": RoundMode.Stochastic,
}

#: Random bits of a number where a rounding takes them.
RANDOM_BITS = 8


def installed(witness: str) -> str:
    """The version that is here."""
    return version(witness)


def by_cast_of_numpy(element: str, x: Array) -> Array:
    type_ = ml_dtypes.float8_e8m0fnu if element == "e8m0" else SHORT_FLOATS[element]
    with np.errstate(all="ignore"):
        cast = x.astype(type_)
    return cast.view(f"u{cast.dtype.itemsize}").astype(np.uint64)


def by_cast_of_torch(element: str, x: Array) -> Array:
    is_bf16 = x.dtype == ml_dtypes.bfloat16
    tensor = torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16) if is_bf16 else torch.from_numpy(x)
    cast = tensor.to(TORCH_TYPES[element])
    return cast.view(torch.uint8 if cast.element_size() == 1 else torch.uint16).numpy().astype(np.uint64)


def by_gfloat(element: str, x: Array, rounding: str, overflow: str, random: Array) -> Array:
    """gfloat rounds values; float64 holds every input."""
    info = GFLOAT_FORMATS[element]
    bits = {"srbits": random, "srnumbits": RANDOM_BITS} if rounding.startswith("stochastic") else {}
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        rounded = round_ndarray(info, wide, GFLOAT_ROUNDINGS[rounding], sat=overflow == "saturate", **bits)
        return encode_ndarray(info, rounded)


def convert(witness: str, element: str, x: Array, rounding: str, overflow: str, random: Array) -> Array:
    """The codes that a witness makes of x. Casts have one rounding and one overflow, and take no random bits."""
    if witness == "gfloat":
        return by_gfloat(element, x, rounding, overflow, random)
    return by_cast_of_torch(element, x) if witness == "torch" else by_cast_of_numpy(element, x)
