"""An honest count of the bits that an encoded tensor takes, and of the bytes that a product moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sparq_sim.arrays import sizes_of
from sparq_sim.formats import Format, Spec, scale_bits, spec
from sparq_sim.layouts import Layout
from sparq_sim.packing import chosen_layout, plan
from sparq_sim.positions import encoded_items, group_count


@dataclass(frozen=True)
class Storage:
    """Bits that a tensor takes, by what they are for.

    >>> import sparq_sim as sq
    >>> s = sq.storage("mxfp8", (4096, 4096), sparsity="2:4")
    >>> s.bits_per_element, round(s.against_fp32, 2), s.elements_alone_against_fp32
    (5.25, 6.1, 8.0)
    """

    size: int
    """Elements of the dense tensor."""
    elements: int
    """Codes that are stored and mean something."""
    scales: int
    """Of all levels."""
    positions: int
    padding: int
    """What the layout adds: tiles, words, runs, containers wider than a code, ends of lines, slots of groups that are
    not full."""
    dense: int
    """The same format without sparsity: elements and scales, no padding."""
    layout: str

    @property
    def total(self) -> int:
        """All bits."""
        return self.elements + self.scales + self.positions + self.padding

    def per_element(self, bits: int) -> float:
        """Of a dense element."""
        return bits / self.size if self.size else 0.0

    @property
    def bits_per_element(self) -> float:
        """All bits over the elements of the dense tensor."""
        return self.per_element(self.total)

    @property
    def against_fp32(self) -> float:
        """How many times smaller than float32."""
        return _times(32 * self.size, self.total)

    @property
    def against_fp16(self) -> float:
        """How many times smaller than float16 or bfloat16."""
        return _times(16 * self.size, self.total)

    @property
    def against_dense(self) -> float:
        """How many times smaller than the format without sparsity."""
        return _times(self.dense, self.total)

    @property
    def elements_alone_against_fp32(self) -> float:
        """What papers often count: float32 over the stored codes, without scales, positions and padding."""
        return _times(32 * self.size, self.elements)

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        ratios = ("bits_per_element", "against_fp32", "against_fp16", "against_dense", "elements_alone_against_fp32")
        return {
            "layout": self.layout,
            "size": self.size,
            "bits": {
                name: getattr(self, name) for name in ("elements", "scales", "positions", "padding", "total", "dense")
            },
            **{name: getattr(self, name) for name in ratios},
        }


def _times(whole: int, part: int) -> float:
    return whole / part if part else 0.0


def storage(
    format: str | Format | Spec,
    shape: tuple[int, ...] | int,
    *,
    layout: str | Layout = "row_major",
    encoding: str | None = None,
    fill: str | None = None,
    **choices: Any,
) -> Storage:
    """What a tensor of a shape takes in a format and layout; no tensor is needed.

    Args:
        format, choices: as in `spec`: ``sparsity="2:4"``, ``block=16``, ``axis=0`` and the rest.
        shape: of the dense tensor.
        layout, encoding, fill: as in `BlockTensor.pack`.

    Raises:
        ValueError: a layout that does not hold such tensors; sizes below zero.
        TypeError: sizes that are no integers.
    """
    made = spec(format, **choices)
    shape = sizes_of(shape)
    held = plan(made, shape, chosen_layout(layout, encoding, fill))
    size, pattern = math.prod(shape), made.sparsity
    length = held.length
    lines = size // length if length else 0
    kept = length
    if pattern is not None:
        kept = length // pattern.group * pattern.kept + min(pattern.kept, length % pattern.group)
    elements = lines * kept * made.format.element.code_bits
    scales = sum(
        math.prod(items.extents) * scale_bits(level)
        for items, level in zip(held.scales, made.format.levels, strict=True)
    )
    positions = 0
    if pattern is not None:
        items = encoded_items(pattern, held.layout.encoding)
        positions = lines * group_count(pattern, length) * items.per_group * items.bits
    total = 8 * sum(math.prod(extent) for extent in held.plane_shapes().values())
    dense = size * made.format.element.code_bits + scales
    return Storage(size, elements, scales, positions, total - elements - scales - positions, dense, held.layout.name)


@dataclass(frozen=True)
class Traffic:
    """Bytes that a product reads and writes once each: a [M, K], b [N, K], the result [M, N]."""

    a: int
    b: int
    result: int
    operations: int
    """Multiplications of the dense product, and as many additions."""

    @property
    def total(self) -> int:
        """All bytes."""
        return self.a + self.b + self.result

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.total if self.total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        return {
            "a_bytes": self.a, "b_bytes": self.b, "result_bytes": self.result, "total_bytes": self.total,
            "operations": self.operations, "operations_per_byte": self.intensity,
        }  # fmt: skip


def traffic(
    m: int,
    n: int,
    k: int,
    a: str | Format | Spec,
    b: str | Format | Spec,
    result: str = "bf16",
    *,
    layout: str | Layout = "row_major",
    encoding: str | None = None,
) -> Traffic:
    """Bytes of a product a [M, K] times b [N, K], both K last.

    Args:
        a, b: a format, or a spec with sparsity.
        result: the format of the result, such as ``bf16`` or ``fp16``.
        layout, encoding: of b, as in `BlockTensor.pack`; a and the result are packed line by line.

    >>> import sparq_sim as sq
    >>> sq.traffic(1, 4096, 4096, "mxfp8", sq.spec("mxfp4", sparsity="2:4")).b / 4096**2
    0.40625
    """
    if min(m, n, k) < 0:
        raise ValueError(f"M={m}, N={n}, K={k}: needed sizes")
    first, made = (storage(one, extents).total // 8 for one, extents in ((a, (m, k)), (result, (m, n))))
    second = storage(b, (n, k), layout=layout, encoding=encoding).total // 8
    return Traffic(first, second, made, 2 * m * n * k)
