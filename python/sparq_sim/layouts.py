"""Where codes, scales and positions lie in memory: the named layouts, as records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sparq_sim.names import unknown_name

#: What a layout places.
KINDS = ("elements", "scales", "positions")


@dataclass(frozen=True)
class Digit:
    """A digit of an index: index // divide % count (count 0: the rest)."""

    axis: str
    divide: int
    count: int


@lru_cache(maxsize=256)
def parse_order(order: str) -> tuple[Digit, ...]:
    """An order of items as digits of their line ``l`` and place in the line ``k``, the slowest first:
    ``"l/128 k/4 l%32 l/32%4 k%4"``.

    Raises:
        ValueError: digits that do not tell all items apart, or tell them apart twice.
    """
    digits = []
    for word in order.split():
        match = re.fullmatch(r"([lk])(?:/([1-9][0-9]*))?(?:%([1-9][0-9]*))?", word)
        if match is None:
            raise ValueError(f"order={order!r}: {word!r} is no digit such as k/16%2")
        digits.append(Digit(match[1], int(match[2] or 1), int(match[3] or 0)))
    for axis in "lk":
        expected = 1
        own = sorted((d for d in digits if d.axis == axis), key=lambda d: d.divide)
        for digit in own:
            if digit.divide != expected:
                raise ValueError(f"order={order!r}: the digits of {axis} leave something out, or overlap")
            expected = digit.divide * digit.count
        if not own or own[-1].count != 0:
            raise ValueError(f"order={order!r}: {axis} needs a digit for all the rest")
    return tuple(digits)


@dataclass(frozen=True)
class Plane:
    """How items of one kind become bytes: put in order, then packed line by line, then words of the lines put in order
    (docs/numerics.md section 15)."""

    order: str = ""
    """Of items, as in `parse_order`; empty: line by line, each from a byte of its own."""
    container_bits: int = 0
    """Bits from one item to the next; 0: as many as an item has."""
    align: str = "low"
    """Where in its container an item lies: ``low`` or ``high``."""
    shift: int = 0
    """Bits above that (``low``) that stay free below the item."""
    first: str = "low"
    """Where in a byte the first of several items lies."""
    run: int = 0
    """Items that lie together in `run_bytes`; 0: a whole line in as few bytes as hold it."""
    run_bytes: int = 0
    slices: tuple[tuple[int, int], ...] = ()
    """Instead of whole items: (lowest bit, number of bits) of each part, of `run` items after each other."""
    offset: int = 0
    """Added to items, modulo their number."""
    word_bytes: int = 0
    words: str = ""
    """Order of words of the packed lines; lines are padded to whole words."""


@dataclass(frozen=True)
class Layout:
    """Where codes, scales and positions lie in memory.

    >>> import sparq_sim as sq
    >>> sq.layouts()["nvidia_128x4"].scales.order
    'l/128 k/4 l%32 l/32%4 k%4'
    """

    name: str
    elements: Plane = field(default_factory=Plane)
    scales: Plane = field(default_factory=Plane)
    """Of every level of scales."""
    positions: Plane | None = None
    """None: the layout holds dense tensors only."""
    encoding: str = "index"
    """Of positions: a word of `ENCODINGS`."""
    fill: str = "lowest"
    """What a group that keeps fewer than N is stored with: a word of `FILLS`."""
    chunk: int = 0
    """Elements, in the order of `elements`, that lie together with their scales; 0: planes of their own."""
    sequence: tuple[str, ...] = ("scales", "elements")
    """What comes first in a chunk."""
    formats: tuple[str, ...] = ()
    """Block formats that it holds; empty: any."""
    code_bits: tuple[int, ...] = ()
    """Widths of elements that it holds; empty: any."""
    patterns: tuple[str, ...] = ()
    """Units kept of units in a group, such as ``2:4``; empty: any."""
    multiple: tuple[int, int] = (1, 1)
    """What the number of lines and their length have to be multiples of."""
    reciprocal_outer: bool = False
    """The scale of the tensor is stored as one over it, or as the one that encoders multiply by (outer_combine)."""
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """How files call planes, and their safetensors dtype."""
    by_block: bool = False
    """In files, elements have an axis for their blocks."""
    checkpoint: str = ""
    """What ``quantization_config`` in a checkpoint's config.json calls it, in the form of compressed-tensors; empty:
    checkpoints do not say."""
    source: str = "user"
    evidence: str = field(default="user", compare=False)

    def __post_init__(self) -> None:
        for plane in (self.elements, self.scales, self.positions):
            if plane is None:
                continue
            for order in (plane.order, plane.words):
                if order:
                    parse_order(order)
            for name, word in (("align", plane.align), ("first", plane.first)):
                if word not in ("low", "high"):
                    raise ValueError(f"{name}={word!r}: choose low or high")
            if bool(plane.words) != bool(plane.word_bytes):
                raise ValueError("words and word_bytes belong together")
            if min(plane.container_bits, plane.run, plane.run_bytes, plane.word_bytes, plane.shift) < 0:
                raise ValueError("container_bits, run, run_bytes, word_bytes and shift must not be negative")
            if plane.slices and not plane.run:
                raise ValueError("slices need a run")
            ends = [0]
            for low, bits in sorted(plane.slices):
                if bits < 1 or low != ends[-1]:
                    raise ValueError(f"slices={plane.slices}: they leave bits of a code out, or overlap")
                ends.append(low + bits)
        if self.chunk < 0 or len(self.multiple) != 2 or min(self.multiple) < 1:
            raise ValueError("chunk must not be negative, and multiple two positive numbers")
        if sorted(self.sequence) != ["elements", "scales"]:
            raise ValueError("sequence: needed elements and scales in either order")

    def __hash__(self) -> int:
        return hash((self.name, self.elements, self.scales, self.positions, self.encoding, self.fill, self.chunk))


_SPECIFICATION, _IMPLEMENTATION, _INFERRED = "specification", "implementation", "inferred"

_PLAIN_SPARSE = Plane()
_NIBBLES_16 = Plane(order="l k/32 k%16 k/16%2")
_CT_NVFP4 = {
    "elements": ("weight_packed", "U8"),
    "scales": ("weight_scale", "F8_E4M3"),
    "outer": ("weight_global_scale", "F32"),
}
_CT_MXFP4 = {"elements": ("weight_packed", "U8"), "scales": ("weight_scale", "U8")}

_CATALOG = (
    Layout(
        "row_major",
        positions=_PLAIN_SPARSE,
        source="codes bit after bit from the lowest on, a line from a byte of its own (FP4 two to a byte, FP6 four to "
        "three bytes: ONNX, torchao, compressed-tensors, Quark)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "bytes",
        elements=Plane(container_bits=8),
        positions=_PLAIN_SPARSE,
        code_bits=tuple(range(1, 9)),
        source="one code to a byte, in its low bits (ml_dtypes 0.6; torch float8)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "bytes_high",
        elements=Plane(container_bits=8, align="high"),
        positions=_PLAIN_SPARSE,
        code_bits=tuple(range(1, 9)),
        source="one code to a byte, in its high bits (Tenstorrent FP6)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "nvidia_byte_fp4",
        elements=Plane(container_bits=8, shift=2),
        code_bits=(4,),
        source="FP4 in bits 5 to 2 of a byte: registers of f8f6f4 (CUTLASS 7107b05, mma_traits_sm120.hpp)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "nvidia_align16",
        elements=Plane(run=16, run_bytes=16),
        positions=_PLAIN_SPARSE,
        code_bits=(4, 6),
        source="16 codes in 16 bytes: 12 and 4 of padding (16U6_ALIGN16B), 8 and 8 (16U4_ALIGN16B)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "nvidia_128x4",
        scales=Plane(order="l/128 k/4 l%32 l/32%4 k%4"),
        positions=_PLAIN_SPARSE,
        source="scales in tiles of 128 lines by 4 (cuBLAS, cuDNN, CUTLASS, torchao to_blocked), padded with zeros",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "amd_32x8",
        scales=Plane(order="l/256 l/32%8 k/8 k%4 l%16 k/4%2 l/16%2"),
        source="scales in tiles of 32 lines by 8, lines padded to 256 (aiter e8m0_shuffle, rocm-libraries PreSwizzle)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "split_half",
        elements=_NIBBLES_16,
        code_bits=(4,),
        multiple=(1, 32),
        source="element j in the low nibble, j + 16 in the high one (GGML), scales apart",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "gguf_q8_0",
        chunk=32,
        formats=("q8_0",),
        multiple=(1, 32),
        source="GGUF Q8_0: float16, 32 int8 (gguf 0.19)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "gguf_q4_0",
        elements=Plane(order="l k/32 k%16 k/16%2", offset=8),
        chunk=32,
        formats=("q4_0",),
        multiple=(1, 32),
        source="GGUF Q4_0: float16, 16 bytes of element j and j + 16, each plus 8 (gguf 0.19)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "gguf_mxfp4",
        elements=_NIBBLES_16,
        chunk=32,
        formats=("mxfp4",),
        multiple=(1, 32),
        source="GGUF MXFP4: E8M0, 16 bytes of element j and j + 16 (gguf 0.19)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "gguf_nvfp4",
        elements=Plane(order="l k/16 k%8 k/8%2"),
        chunk=64,
        formats=("nvfp4_one_level",),
        multiple=(1, 64),
        source="GGUF NVFP4: four UE4M3, then 8 bytes for each 16 elements, j and j + 8 (gguf 0.19)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "tenstorrent_tile",
        elements=Plane(order="l/32 k/32 l/16%2 k/16%2 l%16 k%16"),
        scales=Plane(order="l/32 k/2 l/16%2 k%2 l%16"),
        chunk=1024,
        formats=(
            "bfp8_b",
            "bfp4_b",
            "bfp2_b",
            "bfp8_b_wormhole",
            "bfp4_b_wormhole",
            "bfp2_b_wormhole",
        ),
        source="tiles of 32 x 32 in four faces of 16 x 16: 64 exponents, then the elements face by face (tt-metal)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "xdna_bfp16",
        chunk=8,
        formats=("bfp16", "bfp16_quark"),
        multiple=(1, 8),
        source="9 bytes a block: exponent, 8 int8 (mlir-aie block_datatypes)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "xdna_bfp16_shuffled",
        elements=Plane(order="l/8 k/8 l%8 k%8"),
        scales=Plane(order="l/8 k l%8"),
        chunk=8,
        formats=("bfp16", "bfp16_quark"),
        multiple=(8, 8),
        source="8 x 8 tiles of 72 bytes, in each 8 blocks of 9 (mlir-aie block_datatypes)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "quark_mxfp4",
        scales=Plane(offset=-127),
        chunk=32,
        formats=("mxfp4",),
        multiple=(1, 32),
        source="AMD Quark 0.13 Pack_mxfp4: 17 bytes a block, the exponent of the scale as int8, 16 bytes of pairs",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "quark_mxfp6",
        elements=Plane(run=4, slices=((4, 2), (0, 4)), first="high"),
        scales=Plane(offset=-127),
        chunk=32,
        formats=("mxfp6_e2m3", "mxfp6_e3m2"),
        multiple=(1, 32),
        source="AMD Quark 0.13 Pack_mxfp6: 25 bytes a block, the exponent of the scale as int8, then for each 4 codes "
        "a byte of their upper two bits and two of their lower four, the first on top",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "nvidia_sparse",
        positions=Plane(),
        fill="cutlass2",
        patterns=("2:4",),
        source="2:4 in two bits each, ascending, a nibble for a group (PTX mma.sp::ordered_metadata)",
        evidence=_SPECIFICATION,
    ),
    Layout(
        "cutlass3_sparse",
        positions=Plane(),
        fill="cutlass3",
        patterns=("2:4",),
        source="2:4 in two bits each; groups of fewer than two as CUTLASS 3.x fills them (7107b05, "
        "sm90_sparse_gemm_compressor)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "cutlass_sm80",
        positions=Plane(word_bytes=2, words="k/2 l/32 l%8 l/16%2 k%2 l/8%2"),
        fill="cutlass2",
        patterns=("2:4",),
        code_bits=(4, 16),
        multiple=(32, 32),
        source="2:4 of 16-bit elements, 16-bit words reordered (torch 2.13 _semi_structured_conversions, CUTLASS "
        "host_reorder.h); of 4-bit ones likewise",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "cutlass_sm80_8bit",
        positions=Plane(word_bytes=4, words="k/2 l/16 l%8 k%2 l/8%2"),
        fill="cutlass2",
        patterns=("2:4",),
        code_bits=(4, 6, 8),
        multiple=(16, 64),
        source="2:4 of 8-bit elements, 32-bit words reordered (torch 2.13 _semi_structured_conversions, CUTLASS "
        "host_reorder.h)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "cutlass_sm80_tf32",
        elements=Plane(container_bits=32, align="high"),
        positions=Plane(word_bytes=2, words="k/2 l/32 l%8 l/16%2 k%2 l/8%2"),
        encoding="halves",
        fill="cutlass2",
        patterns=("1:2",),
        code_bits=(19, 32),
        multiple=(32, 16),
        source="1:2 of 32-bit elements as 2:4 of their halves, 16-bit words reordered (torch 2.13, CUTLASS)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "amd_smfmac_16x16x32",
        positions=Plane(word_bytes=1, words="l/16 k/4 k%4 l%16"),
        patterns=("2:4",),
        code_bits=(16,),
        multiple=(16, 32),
        source="4:2 of V_SMFMAC_F32_16X16X32: a byte of two nibbles for each lane, lane = 16 (k / 8) + line (AMD "
        "matrix instruction calculator)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "ascend",
        positions=Plane(first="high"),
        encoding="relative",
        patterns=("2:4",),
        code_bits=(8,),
        source="Huawei Ascend 4:2 of int8: two bits each, the second counted from the element after the first place, "
        "four to a byte from the top (CANN)",
        evidence=_INFERRED,
    ),
    Layout(
        "compressed_tensors_nvfp4",
        formats=("nvfp4",),
        reciprocal_outer=True,
        names=_CT_NVFP4,
        multiple=(1, 2),
        checkpoint="nvfp4-pack-quantized",
        source="compressed-tensors nvfp4-pack-quantized (ac8e2ba)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "compressed_tensors_mxfp4",
        formats=("mxfp4",),
        names=_CT_MXFP4,
        multiple=(1, 2),
        checkpoint="mxfp4-pack-quantized",
        source="compressed-tensors mxfp4-pack-quantized (ac8e2ba)",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "compressed_tensors_sparse24",
        positions=Plane(),
        encoding="bitmask",
        patterns=("2:4",),
        code_bits=(8, 16),
        names={"elements": ("compressed", ""), "positions": ("bitmask", "U8")},
        multiple=(1, 8),
        source="compressed-tensors 0.10.2 sparse-24-bitmask",
        evidence=_IMPLEMENTATION,
    ),
    Layout(
        "gpt_oss",
        formats=("mxfp4",),
        names={"elements": ("blocks", "U8"), "scales": ("scales", "U8")},
        by_block=True,
        multiple=(1, 32),
        source="gpt-oss 7b58334: blocks [..., blocks, 16] and scales [..., blocks]",
        evidence=_IMPLEMENTATION,
    ),
)


def layouts() -> dict[str, Layout]:
    """The layouts of the catalog, by name.

    >>> import sparq_sim as sq
    >>> sq.layouts()["gguf_mxfp4"].chunk
    32
    """
    return {layout.name: layout for layout in _CATALOG}


def find_layout(name: str | Layout) -> Layout:
    """A layout by its name (records as they are); ValueError lists the known names."""
    if isinstance(name, Layout):
        return name
    known = layouts()
    if name not in known:
        raise unknown_name("layout", name, known)
    return known[name]
