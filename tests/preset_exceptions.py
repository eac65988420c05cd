"""Rows of recorded files that a preset does not reproduce, and why: exactly these differ (test_presets.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Rows of the recorded input that come out otherwise under each of the presets, in each of the formats."""

    presets: tuple[str, ...]
    formats: tuple[str, ...]
    #: As in "3 7-9".
    rows: str
    count: int
    #: What the library does there.
    cause: str
    #: As of a `Claim`: the tensor of NVFP4 input, or "bfloat16".
    case: str = ""


DIFFERENCES = (
    Difference(
        ("compressed-tensors-0.20",),
        ("mxfp4", "mxfp6_e2m3", "mxfp8_e4m3"),
        "435-437 440",
        4,
        "NaN takes the least scale, under which the finite elements saturate",
    ),
    Difference(
        ("compressed-tensors-0.20",),
        ("mxfp4", "mxfp8_e4m3"),
        "443 447-448",
        3,
        "amax rounds beyond float32, which makes the block NaN",
    ),
    Difference(
        ("compressed-tensors-0.20",), ("mxfp6_e2m3",), "443", 1, "amax rounds beyond float32, which makes the block NaN"
    ),
    Difference(("modelopt-0.47/cuda",), ("mxfp8_e4m3",), "438-440", 3, "Inf counts as the largest float32"),
    Difference(("modelopt-0.47/cuda",), ("mxfp8_e5m2",), "438 440", 2, "Inf counts as the largest float32"),
    Difference(
        ("modelopt-0.47/cuda",),
        ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2"),
        "435-437",
        3,
        "NaN does not count for the scale, and becomes the largest element",
    ),
    Difference(
        ("modelopt-0.47/qtensor",), ("mxfp8_e4m3",), "438-439", 2, "Inf takes the scale 2^127, under which it saturates"
    ),
    Difference(
        ("modelopt-0.47/qtensor",),
        ("mxfp8_e4m3",),
        "435-437 440",
        4,
        "NaN takes the least scale, under which the finite elements saturate",
    ),
    Difference(("modelopt-0.47/qtensor",), ("mxfp4",), "435-440", 6, "a block with NaN or Inf becomes -0"),
    Difference(
        ("modelopt-0.47/qtensor",),
        ("mxfp4",),
        "0-1 204-205 311 343 375 407 428 441 449-467",
        29,
        "a zero of the input becomes -0",
    ),
    Difference(("quark-0.13/bfp16",), ("bfp16_quark",), "435-440", 6, "NaN and Inf count as 0 and become it"),
    Difference(("quark-0.13/bfp16",), ("bfp16_quark",), "443", 1, "a block that needs the scale 2^128 is NaN"),
    Difference(
        ("quark-0.13/even", "gfloat-0.5"),
        ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8"),
        "438-439",
        2,
        "Inf takes the largest scale, under which the finite elements vanish",
    ),
    Difference(
        ("quark-0.13/mx6",), ("mx6",), "435-440", 6, "NaN and Inf pass through under the scale of the finite elements"
    ),
    Difference(
        ("quark-0.13/mx9",), ("mx9",), "435-440", 6, "NaN and Inf pass through under the scale of the finite elements"
    ),
    Difference(
        ("torchao-0.18/ceil",), ("mxfp4",), "7 453-461", 10, "the scale is 2^-127, and elements are divided by 2^-126"
    ),
    Difference(
        ("torchao-0.18/ceil",),
        ("mxfp6_e2m3",),
        "6-7 452-461",
        12,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/ceil",),
        ("mxfp8_e4m3",),
        "4-9 452-464 468-470",
        22,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-0.18/ceil", "torchao-0.18/even"),
        ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"),
        "438-439",
        2,
        "Inf counts as 2^128, under whose scale the finite elements vanish",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-0.18/ceil", "torchao-0.18/even"),
        ("mxfp6_e3m2",),
        "6-8 452-462 468",
        15,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-0.18/ceil", "torchao-0.18/even"),
        ("mxfp8_e5m2",),
        "2-10 451-466 468-471",
        29,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-0.18/even"),
        ("mxfp4",),
        "7 453-461 468",
        11,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-0.18/even"),
        ("mxfp6_e2m3",),
        "6-7 452-461 468",
        13,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-0.18/even"),
        ("mxfp8_e4m3",),
        "4-10 452-464 468-470",
        23,
        "the scale is 2^-127, and elements are divided by 2^-126",
    ),
    Difference(
        ("torchao-0.18/floor", "torchao-main/floor"),
        ("nvfp4",),
        "0-7",
        8,
        "x is multiplied by RN32(RN32(1 / t) / scale), which is Inf here",
        case="tiny",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"),
        "438-439",
        2,
        "Inf takes the scale 2^127, under which the finite elements vanish",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp6_e2m3",),
        "263 265 552 558",
        4,
        "amax / max is just above a power of two, and its float32 log2 is not",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp6_e3m2",),
        "245 247 567 570 573 576 579",
        7,
        "amax / max is just above a power of two, and its float32 log2 is not",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp8_e5m2",),
        "245-247 561 564 567 570 573",
        8,
        "amax / max is just above a power of two, and its float32 log2 is not",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp4",),
        "7 453-461 468",
        11,
        "the scale is 2^-127, and elements are taken as they are",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp6_e2m3",),
        "6-7 452-461 468",
        13,
        "the scale is 2^-127, and elements are taken as they are",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp6_e3m2",),
        "6-8 452-462 468",
        15,
        "the scale is 2^-127, and elements are taken as they are",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp8_e4m3",),
        "4-9 452-464 468-470",
        22,
        "the scale is 2^-127, and elements are taken as they are",
    ),
    Difference(
        ("torchao-0.18/rceil",),
        ("mxfp8_e5m2",),
        "2-10 451-466 468-471",
        29,
        "the scale is 2^-127, and elements are taken as they are",
    ),
    Difference(
        ("torchao-0.18/rceil", "modelopt-0.47/qtensor"),
        ("mxfp4",),
        "230 232",
        2,
        "amax / max is just above a power of two, and its float32 log2 is not",
    ),
    Difference(
        ("torchao-0.18/rceil", "modelopt-0.47/qtensor"),
        ("mxfp8_e4m3",),
        "245-247 561 567 573 576 579",
        8,
        "amax / max is just above a power of two, and its float32 log2 is not",
    ),
    Difference(
        ("torchao-main/even",), ("mxfp4",), "443 447-448", 3, "amax rounds beyond float32, which makes the block NaN"
    ),
    Difference(
        ("torchao-main/even",),
        ("mxfp6_e2m3", "mxfp8_e4m3"),
        "443",
        1,
        "amax rounds beyond float32, which makes the block NaN",
    ),
    Difference(
        ("torchao-main/even",),
        ("mxfp6_e3m2", "mxfp8_e5m2"),
        "443 448",
        2,
        "amax rounds beyond float32, which makes the block NaN",
    ),
)
