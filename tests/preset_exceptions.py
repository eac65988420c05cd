"""Rows of recorded files that a preset does not reproduce, and why: exactly these differ (test_presets.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Rows of the recorded input that come out otherwise under each of the presets, in each of the formats."""

    presets: tuple[str, ...]
    formats: tuple[str, ...]
    #: As in "3 7-9", or "20-29:3" for every third one.
    rows: str
    count: int
    #: What the library does there.
    cause: str
    #: As of a `Claim`: the tensor of NVFP4 input, or "bfloat16".
    case: str = ""


DIFFERENCES = (
    Difference(
        ("compressed-tensors-0.20",),
        ("mxfp4", "mxfp6_e2m3"),
        "435-437 440",
        4,
        "NaN stays NaN, which the element has no code for",
    ),
    Difference(
        ("brevitas-0.13",),
        ("mxfp4",),
        "490-491 552 559-560 589-590",
        7,
        "amax is below 2^-33, where the scale is 10^-10 over the largest power of two",
    ),
    Difference(
        ("brevitas-0.13",),
        ("mxfp6_e2m3",),
        "20 490-491 544-545 552 559-560 582 589-590",
        11,
        "amax is below 2^-33, where the scale is 10^-10 over the largest power of two",
    ),
    Difference(
        ("brevitas-0.13",),
        ("mxfp6_e3m2",),
        "20 489-491 544-545 552 559-560 582 589-590",
        12,
        "amax is below 2^-33, where the scale is 10^-10 over the largest power of two",
    ),
    Difference(
        ("brevitas-0.13",),
        ("mxfp8_e4m3",),
        "19-20 487-491 544-545 552 559-560 582 589-590",
        15,
        "amax is below 2^-33, where the scale is 10^-10 over the largest power of two",
    ),
    Difference(
        ("brevitas-0.13",),
        ("mxfp8_e5m2",),
        "17-20 296-327 483-491 544-545 552 559-560 582 589-590",
        53,
        "amax is below 2^-33, where the scale is 10^-10 over the largest power of two",
    ),
    Difference(
        ("brevitas-0.13",),
        ("mxint8",),
        "20 489-491 544-545 552 559-560 582 589-590",
        12,
        "amax is below 2^-33, where the scale is 10^-10 over the largest power of two",
    ),
    Difference(
        ("qtorch-0.3",),
        ("hbfp8",),
        "0-7 449-451 458",
        12,
        "numbers below 2^-126 are rounded by themselves, and keep their sign",
    ),
    Difference(
        ("qtorch-0.3",),
        ("hbfp6",),
        "0-7 449-451 458",
        12,
        "numbers below 2^-126 are rounded by themselves, and keep their sign",
    ),
    Difference(
        ("qtorch-0.3",),
        ("hbfp4",),
        "0-7 449-453 458",
        14,
        "numbers below 2^-126 are rounded by themselves, and keep their sign",
    ),
    Difference(
        ("qtorch-0.3",),
        ("hbfp8", "hbfp6", "hbfp4"),
        "42-43 443-448 531",
        9,
        "amax is 2^126 or more, and 6 times its power of two is Inf, beside which everything becomes the lowest number",
    ),
    Difference(
        ("quark-0.13/ceil",),
        ("mxfp4",),
        "1-7 450-453",
        11,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/ceil",),
        ("mxfp6_e2m3",),
        "1-7 450-451",
        9,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/ceil",),
        ("mxfp6_e3m2",),
        "1-7 451 468",
        9,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/ceil",),
        ("mxfp8_e4m3",),
        "2-7 451 468",
        8,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/ceil",),
        ("mxfp8_e5m2",),
        "2-4 451",
        4,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/floor",),
        ("mxfp4",),
        "1-7 451-453 457",
        11,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/floor",),
        ("mxfp6_e2m3",),
        "1-7 451",
        8,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/floor",),
        ("mxfp6_e3m2",),
        "1-8 451 468",
        10,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/floor",),
        ("mxfp8_e4m3",),
        "3-7 451 468",
        7,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/floor",),
        ("mxfp8_e5m2",),
        "2-5 451",
        5,
        "scales go on below 2^-127, and are 2^-23 where float32 has none",
    ),
    Difference(
        ("quark-0.13/mx6",), ("mx6",), "435-440", 6, "NaN and Inf pass through under the scale of the finite elements"
    ),
    Difference(
        ("quark-0.13/mx9",), ("mx9",), "435-440", 6, "NaN and Inf pass through under the scale of the finite elements"
    ),
    Difference(
        ("modelopt-0.47/cuda",),
        ("nvfp4",),
        "0-7",
        8,
        "the largest magnitude of the tensor is NaN, under which nothing is scaled, and NaN becomes 6",
        case="nan_one",
    ),
)
