"""Presets: the choices that other libraries and machines make, as named and versioned data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sparq_sim.names import unknown_name

_Choices = Mapping[str, Any]

MX_FLOATS = ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2")
_FP4_AND_FP6 = MX_FLOATS[:3]
_FP8 = MX_FLOATS[3:]
_MX = (*MX_FLOATS, "mxint8")
_CASTS_8 = ("e4m3", "e5m2", "e4m3fnuz", "e5m2fnuz")


@dataclass(frozen=True)
class Preset:
    """What a library or a machine chooses, in the words that `spec` takes: a preset sets fields and does nothing else.

    >>> import numpy as np, sparq_sim as sq
    >>> preset = sq.presets()["quark-0.13/even"]
    >>> preset.choices_for("mxint8")
    {'scale_rule': 'even', 'infinite': 'top', 'even_bits': 8, 'scale_minimum': 7}
    >>> sq.emulate(np.float32([[7.0, 1.0]]), "mxfp4", like="quark-0.13/even")
    array([[8., 1.]], dtype=float32)
    """

    name: str
    #: The formats that it says something of: names of the catalog, or names of elements, for a format of yours that
    #: has such a name and no scales. Others are refused.
    formats: tuple[str, ...]
    #: For all of its formats; fields that it does not name stay as the format has them.
    choices: _Choices = field(hash=False)
    #: What one format has instead or besides.
    by_format: Mapping[str, _Choices] = field(default_factory=dict, hash=False)
    source: str = ""
    #: ``recorded`` (outputs of the library, compared bit for bit by the tests), ``run`` (the tests run the library),
    #: ``host`` (as recorded, of the arithmetic of its GPU kernel compiled for the CPU) or ``documented`` (a rule that
    #: its specification, documents or source state).
    evidence: str = "recorded"
    notes: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", MappingProxyType(dict(self.choices)))
        frozen = {name: MappingProxyType(dict(own)) for name, own in self.by_format.items()}
        object.__setattr__(self, "by_format", MappingProxyType(frozen))

    def choices_for(self, format: str) -> dict[str, Any]:
        """The choices for a format of this name.

        Raises:
            ValueError: the preset does not say anything of that format; lists those that it does.
        """
        if format not in self.formats:
            raise ValueError(f"like={self.name!r}: says nothing of {format}; formats: {', '.join(self.formats)}")
        return {**self.choices, **self.by_format.get(format, {})}

    def groups(self) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
        """Formats that share their choices, with them.

        >>> import sparq_sim as sq
        >>> sq.presets()["cudnn"].groups()[0]
        (('mxfp8_e4m3', 'mxfp8_e5m2'), {'scale_rule': 'rceil'})
        """
        grouped: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        for format in self.formats:
            chosen = self.choices_for(format)
            at = next((i for i, (_, other) in enumerate(grouped) if other == chosen), None)
            if at is None:
                grouped.append(((format,), chosen))
            else:
                grouped[at] = ((*grouped[at][0], format), chosen)
        return grouped


def _each(formats: tuple[str, ...], **choices: Any) -> dict[str, _Choices]:
    """The same choices for several formats."""
    return dict.fromkeys(formats, choices)


def _torchao(version: str, source: str, rule: str, notes: str, **choices: str) -> Preset:
    # NVFP4 has no scaling mode; its scales are not below the smallest normal UE4M3.
    nvfp4 = {"scale_rule": "amax", "scale_minimum": 8}
    return Preset(
        name=f"torchao-{version}/{rule}",
        formats=(*MX_FLOATS, "nvfp4", "nvfp4_one_level"),
        choices={},
        by_format={
            **_each(MX_FLOATS, scale_rule=rule, **choices),
            "nvfp4": {**nvfp4, "scale_apply": "outer_reciprocal"},
            "nvfp4_one_level": {**nvfp4, "scale_apply": "reciprocal"},
        },
        source=source,
        notes=notes,
    )


def _torchao_018(rule: str) -> Preset:
    source = "torchao 0.18.0, torch 2.13.0, to_mx and nvfp4_quantize on the CPU"
    if rule == "rceil":
        notes = (
            "A block whose scale is 2^-127 is not scaled at all, Inf takes the largest scale, and the exponent is a "
            "float32 log2, which does not promote the first numbers above the largest element."
        )
        return _torchao("0.18", source, rule, notes, infinite="top", least_scale="one", amax_exponent="log2")
    notes = "A block whose scale is 2^-127 is divided by 2^-126; Inf counts as 2^128 and poisons nothing."
    return _torchao("0.18", source, rule, notes, infinite="beyond", least_scale="next")


def _torchao_main(rule: str) -> Preset:
    source = "torchao main at 36027d82d (2026-08-21), torch 2.13.0, as for 0.18"
    if rule == "even":
        return _torchao("main", source, rule, "A block whose amax rounds beyond float32 is NaN.", scale_overflow="nan")
    return _torchao("main", source, rule, "")


def _microxcaling_cuda(word: str, rounding: str) -> Preset:
    return Preset(
        name=f"microxcaling-cuda/{word}",
        formats=_MX,
        choices={"scale_rule": "floor", "rounding": rounding, "signed_zero": "drop"},
        source="microxcaling at 7bc4195 (2024-08-19), the kernel of custom_cuda=True, scale_bits=8",
        evidence="host",
        notes="flush_fp32_subnorms=False. The Python path of the library is another one.",
    )


_QUARK = "AMD Quark 0.13, torch 2.13.0, on the CPU: "


def _by_log2(rounding: str) -> dict[str, str]:
    """What microxcaling's Python path does, and Neural Compressor, which has it from there."""
    choices = {"scale_rule": "floor", "amax_exponent": "log2", "rounding": rounding, "signed_zero": "underflow"}
    return choices if rounding == "toward_zero" else {**choices, "half_sum": "fp32"}


def _microxcaling_python(word: str, rounding: str) -> Preset:
    notes = "Exponents are float32 logarithms: numbers just below a power of two count as it."
    by_format: dict[str, _Choices] = {"mxint8": {"scale_overflow": "nan"}}
    if word == "floor":
        notes += " So are those of elements, which shows where they are cut."
        by_format |= _each(MX_FLOATS, element_exponent="log2")
    return Preset(
        name=f"microxcaling-python/{word}",
        formats=_MX,
        choices=_by_log2(rounding),
        by_format=by_format,
        source="microxcaling at 7bc4195 (2024-08-19), _quantize_mx with custom_cuda=False",
        notes=notes,
    )


def _neural_compressor(word: str, rounding: str) -> Preset:
    return Preset(
        name=f"neural-compressor-3.10/{word}",
        formats=_MX,
        choices=_by_log2(rounding),
        by_format={"mxint8": {"scale_overflow": "nan"}},
        source="Intel Neural Compressor 3.10, quantize_mx_op on the CPU",
        notes="The bits of microxcaling's Python path.",
    )


#: A tensor scale that encoders multiply by, of amax by its reciprocal.
_ENCODE_SCALE = {"outer_apply": "reciprocal", "signed_zero": "underflow"}


def _auto_round(rule: str) -> Preset:
    quotient = {"scale_underflow": "nan"} if rule == "rceil" else {}
    nvfp4 = {
        **_ENCODE_SCALE,
        "outer_combine": "reciprocals",
        "divisor_apply": "reciprocal",
        "scale_apply": "reciprocal",
        "scale_underflow": "zeros",
        "outer_overflow": "infinity",
    }
    return Preset(
        name=f"auto-round-0.16/{rule}",
        formats=(*_MX, "nvfp4"),
        choices={},
        by_format={
            **_each(_MX, scale_rule=rule, amax_exponent="log2", signed_zero="underflow", half_sum="fp32", **quotient),
            "nvfp4": nvfp4,
        },
        source="auto-round 0.16.1, quant_mx, quant_mx_rceil and ref_nvfp4_quant on the CPU",
        notes="Exponents are float32 logarithms; NVFP4 has no rules, and its codes are not looked at."
        + (" A quotient that underflows is NaN." if quotient else ""),
    )


def _quark_by_log2(rule: str) -> Preset:
    return Preset(
        name=f"quark-0.13/{rule}",
        formats=_MX,
        choices={"scale_rule": rule, "amax_exponent": "log2"},
        by_format=_each(_FP4_AND_FP6, signed_zero="drop") | {"mxint8": {"scale_minimum": 7, "scale_overflow": "nan"}},
        source=_QUARK + f'non_scaled_fake_quantize("mx", scale_calculation_mode="{rule}")',
        notes="Exponents are float32 logarithms; scales are float32 powers of two there, which go on below 2^-127.",
    )


_QUARK_MICRO = {"input_subnormals": "flush", "signed_zero": "underflow"}
_QUARK_MICRO_NOTES = "NaN and Inf pass through in their places there, under scales of the finite elements."

_ALL = (
    Preset(
        name="ocp",
        formats=_MX,
        choices={"scale_rule": "floor", "rounding": "nearest_even", "overflow": "saturate", "nonfinite": "poison"},
        source="OCP Microscaling Formats (MX) v1.0, 6.3",
        evidence="documented",
        notes="What the specification leaves open is as docs/numerics.md says. torchao main and the kernel of "
        "microxcaling make the same of every recorded row.",
    ),
    *map(_torchao_018, ("floor", "rceil", "ceil", "even")),
    *map(_torchao_main, ("floor", "rceil", "ceil", "even")),
    _microxcaling_cuda("nearest", "nearest_away"),
    _microxcaling_cuda("even", "nearest_even"),
    _microxcaling_cuda("floor", "toward_zero"),
    _microxcaling_python("nearest", "nearest_away"),
    _microxcaling_python("even", "nearest_even"),
    _microxcaling_python("floor", "toward_zero"),
    _neural_compressor("nearest", "nearest_away"),
    _neural_compressor("even", "nearest_even"),
    _auto_round("floor"),
    _auto_round("rceil"),
    Preset(
        name="quark-0.13/even",
        formats=_MX,
        choices={"scale_rule": "even", "infinite": "top"},
        # Integers go through an affine quantizer whose step is at least 2^-126: a scale of 2^-120.
        by_format=_each(_FP4_AND_FP6, signed_zero="drop") | {"mxint8": {"even_bits": 8, "scale_minimum": 7}},
        source=_QUARK + 'non_scaled_fake_quantize("mx", scale_calculation_mode="even")',
        notes="Inf takes the largest scale, and does not poison its block.",
    ),
    _quark_by_log2("floor"),
    _quark_by_log2("ceil"),
    Preset(
        name="quark-0.13/bfp16",
        formats=("bfp16_quark",),
        choices={
            "scale_rule": "fit",
            "integer_range": "full",
            "scale_minimum": 7,
            "nonfinite": "zero",
            "scale_overflow": "nan_amax",
        },
        source=_QUARK + 'non_scaled_fake_quantize("bfp16", block_size=8)',
        notes="NaN and Inf count as 0, and a block that would need 2^128, be it for an element, becomes NaN.",
    ),
    Preset(
        name="quark-0.13/mx6",
        formats=("mx6",),
        choices=_QUARK_MICRO,
        source=_QUARK + "fake_quantize_mx6_mx9(quant_bit=5)",
        notes=_QUARK_MICRO_NOTES,
    ),
    Preset(
        name="quark-0.13/mx9",
        formats=("mx9",),
        choices=_QUARK_MICRO,
        source=_QUARK + "fake_quantize_mx6_mx9(quant_bit=8)",
        notes=_QUARK_MICRO_NOTES,
    ),
    Preset(
        name="modelopt-0.47/qtensor",
        formats=("mxfp4", "mxfp8_e4m3", "nvfp4"),
        choices={},
        by_format={
            "mxfp4": {
                "scale_rule": "rceil",
                "amax_exponent": "log2",
                "rounding": "nearest_zero",
                "nonfinite": "zero_block",
                "signed_zero": "negative",
            },
            "mxfp8_e4m3": {"scale_rule": "rceil", "amax_exponent": "log2", "infinite": "top", "nan_scale": "least"},
            "nvfp4": {"signed_zero": "drop", "zero_scale": 0x38, "scale_order": "outer_first"},
        },
        source="NVIDIA Model Optimizer 0.47.0, MXFP4QTensor, MXFP8QTensor and NVFP4QTensor on the CPU",
        notes="MXFP4 makes every zero of the input -0, and a block with NaN or Inf all -0; a block of MXFP8 with NaN "
        "has the least scale. The codes of NVFP4 keep the sign of what underflows, which decoding drops.",
    ),
    Preset(
        name="modelopt-0.47/cuda",
        formats=(*MX_FLOATS, "nvfp4"),
        choices={"signed_zero": "underflow"},
        by_format={
            **_each(_FP4_AND_FP6, scale_rule="rceil", nonfinite="saturate", infinite="largest", zero_scale=127),
            **_each(_FP8, scale_rule="rceil", nonfinite="keep", infinite="largest", zero_scale=127),
            "nvfp4": {
                "outer_combine": "divide_top",
                "outer_overflow": "infinity",
                "scale_apply": "reciprocal",
                "scale_underflow": "zero",
            },
        },
        source="NVIDIA Model Optimizer 0.47.0, the kernel fused_amax_convert (NVFP4: with the amax of the tensor)",
        evidence="host",
        notes="Inf counts as the largest float32; NaN does not count there, and becomes the largest element of one "
        "without NaN. NVFP4 takes scales in float64 there and writes neither them nor codes; a tensor with NaN or Inf "
        "is not scaled at all, and zeros under scales below 2^-128 come out as 6 of them.",
    ),
    Preset(
        name="compressed-tensors-0.20",
        formats=("mxfp4", "mxfp6_e2m3", "mxfp8_e4m3", "nvfp4"),
        choices={"signed_zero": "underflow"},
        by_format={
            **_each(("mxfp4", "mxfp6_e2m3"), scale_rule="even", scale_overflow="nan", nan_scale="least"),
            "mxfp8_e4m3": {"scale_rule": "even", "scale_overflow": "nan", "even_bits": 1, "nan_scale": "least"},
            "nvfp4": {
                **_ENCODE_SCALE,
                "outer_combine": "divide",
                "outer_overflow": "one",
                "scale_underflow": "zero_scale",
                "zero_scale": 0x20,
            },
        },
        source="compressed-tensors 0.20.0, calculate_qparams and fake_quantize, group_size=32; NVFP4 in blocks of 16",
        notes="A block with NaN takes the least scale, and NaN stays NaN there; one whose amax rounds beyond float32 "
        "is NaN.",
    ),
    Preset(
        name="brevitas-0.13",
        formats=_MX,
        choices={"scale_rule": "floor", "amax_exponent": "log2", "scale_overflow": "nan_amax"},
        # 10^-10 is between 2^-34 and 2^-33: the least scale is 2^-33 over the largest power of two.
        by_format={
            "mxfp4": {"scale_minimum": 92},
            "mxfp6_e2m3": {"scale_minimum": 92},
            "mxfp6_e3m2": {"scale_minimum": 90},
            "mxfp8_e4m3": {"scale_minimum": 86},
            "mxfp8_e5m2": {"scale_minimum": 79},
            "mxint8": {"scale_minimum": 93, "divisor": 2, "integer_range": "full", "signed_zero": "drop"},
        },
        source="Brevitas 0.13.4, MXFloat8e4m3Weight at other bit widths and MXInt8Weight, on the CPU",
        notes="Exponents are float32 logarithms; MXINT8 counts from 128, so that its scales are one power of two less. "
        "Below 2^-33 the scale is 10^-10 over that power there.",
    ),
    Preset(
        name="qtorch-0.3",
        formats=("hbfp8", "hbfp6", "hbfp4"),
        choices={
            "scale_rule": "floor",
            "rounding": "nearest_up",
            "align_bits": 21,
            "align_rounding": "nearest_even",
            "signed_zero": "drop",
        },
        source="QPyTorch 0.3.0, block_quantize(wl, dim, rounding='nearest'), on the CPU",
        notes="Elements are added to 6 times the power of two of the block, in float32. In a block with 2^126 or "
        "more that is Inf, and everything becomes the lowest number; numbers below 2^-126 keep more bits there.",
    ),
    Preset(
        name="gfloat-0.5",
        formats=_MX,
        choices={"scale_rule": "floor", "infinite": "top"},
        by_format={"mxint8": {"integer_range": "full"}},
        source="gfloat 0.5.2, quantize_block with compute_scale_amax and RoundMode.TiesToEven",
        notes="Inf takes the largest scale; NaN is refused there where the element has none.",
    ),
    Preset(
        name="ggml",
        formats=("q8_0", "q4_0", "mxfp4"),
        choices={},
        by_format={
            "mxfp4": {
                "scale_rule": "floor",
                "amax_exponent": "log2",
                "rounding": "nearest_zero",
                "signed_zero": "drop",
                "zero_scale": 0,
            }
        },
        source="gguf 0.19.0, the Python package of GGML: Q8_0, Q4_0 and MXFP4",
        evidence="run",
        notes="MXFP4: the code of a scale below 2^-127 wraps round there, and NaN and Inf are not looked for.",
    ),
    Preset(
        name="torch-2.13",
        formats=("bf16", "fp16", *_CASTS_8),
        choices={"overflow": "special"},
        by_format={"e4m3": {"overflow": "saturate"}},
        source="torch 2.13.0, Tensor.to(dtype) on the CPU",
        notes="Casts of tensors. Earlier versions gave NaN where E4M3 overflows.",
    ),
    Preset(
        name="ml_dtypes-0.6",
        formats=("bf16", "fp16", *_CASTS_8, "e4m3b11fnuz", "e4m3_ieee", "e3m4", "e2m3", "e3m2", "e2m1"),
        choices={"overflow": "special"},
        by_format=_each(("e2m3", "e3m2", "e2m1"), overflow="saturate", nonfinite="ignore"),
        source="ml_dtypes 0.6.0, astype from float32",
        evidence="run",
        notes="Casts of arrays. NaN becomes -0 in elements without NaN, +0 here.",
    ),
    Preset(
        name="transformer-engine",
        formats=(*_FP8, "nvfp4"),
        choices={},
        by_format={
            **_each(_FP8, scale_rule="rceil"),
            "nvfp4": {
                "outer_combine": "reciprocal",
                "scale_order": "outer_first",
                "divisor_apply": "reciprocal",
                "scale_apply": "reciprocal",
                "scale_underflow": "zero",
            },
        },
        source="NVIDIA TransformerEngine at d0067d0, the MXFP8 and NVFP4 kernels",
        evidence="documented",
        notes="Inf gives the scale 2^127 there. NVFP4: the scale of the tensor is 2688 / amax, that of a block amax "
        "times (that times 1/6), and elements are multiplied by the reciprocal of the scale times its reciprocal.",
    ),
    Preset(
        name="cudnn",
        formats=(*_FP8, "nvfp4_one_level"),
        choices={"scale_rule": "rceil"},
        by_format={"nvfp4_one_level": {"scale_rule": "amax", "scale_rounding": "up"}},
        source="NVIDIA cuDNN, block_scale_quantize: the scale is amax / max rounded up, elements to nearest even",
        evidence="documented",
    ),
    Preset(
        name="tenstorrent",
        formats=("bfp8_b", "bfp4_b", "bfp2_b", "bfp8_b_wormhole", "bfp4_b_wormhole", "bfp2_b_wormhole"),
        choices={},
        source="tt-metal, blockfloat_common.cpp; tt-isa-documentation at 3930471, Wormhole",
        evidence="documented",
        notes="The formats are its own, so nothing is left to choose.",
    ),
    Preset(
        name="xdna",
        formats=("bfp16",),
        choices={},
        source="mlir-aie, block_datatypes/helper.h",
        evidence="documented",
        notes="The format is its own, so nothing is left to choose.",
    ),
    Preset(
        name="paper",
        formats=("hbfp8", "hbfp6", "hbfp4", "int8"),
        # The exponent ceil(log2 amax) counts the sign bit: one more than the power of two of our unit.
        choices={"scale_rule": "rceil", "divisor": 2},
        by_format={"int8": {"scale_rule": "amax", "divisor": 127.5, "integer_range": "full"}},
        source="Effective Interplay between Sparsity and Quantization (ICLR 2025), its code at bed02bf",
        evidence="documented",
        notes="Deterministic rounding. 10^-8 is added to amax there, so exact powers of two up to 2^-3 take one more, "
        "and no exponent is below -26; a row of INT8 without negative numbers is clipped at half of its range.",
    ),
)
_BY_NAME = {preset.name: preset for preset in _ALL}


def presets() -> dict[str, Preset]:
    """The presets, by name.

    >>> import sparq_sim as sq
    >>> [name for name in sq.presets() if name.startswith("quark-0.13/mx")]
    ['quark-0.13/mx6', 'quark-0.13/mx9']
    """
    return dict(_BY_NAME)


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Args:
        name: with its version and mode, such as ``"torchao-main/rceil"``.

    Raises:
        ValueError: an unknown name; lists the known ones, those that are like it first.

    >>> import sparq_sim as sq
    >>> sq.find_preset("ocp").formats[0]
    'mxfp4'
    """
    if not isinstance(name, str):
        raise TypeError(f"like: needed the name of a preset, got {type(name).__name__}")
    if name not in _BY_NAME:
        raise unknown_name("preset", name, _BY_NAME)
    return _BY_NAME[name]
