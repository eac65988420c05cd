"""Types of other people that the tests compare elements with."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

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
