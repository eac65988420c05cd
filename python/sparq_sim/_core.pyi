# Types of the extension module. tests/test_records.py checks the record classes here against the C++ field lists.
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt

_Array = npt.NDArray[Any]

class ElementFormat:
    fields: ClassVar[Mapping[str, str]]
    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: str
    signedness: str
    zero: bool
    taper: int
    code_bits: int
    code_bytes: int
    max_code: int
    emin: int
    emax: int
    least_mantissa_bits: int
    has_nan: bool
    has_infinity: bool
    nan_code: int | None
    infinity_code: int | None
    is_power_of_two_scale: bool
    def __init__(
        self,
        *,
        exponent_bits: int = ...,
        mantissa_bits: int = ...,
        bias: int = ...,
        specials: str = ...,
        signedness: str = ...,
        zero: bool = ...,
        taper: int = ...,
    ) -> None: ...
    def is_nan(self, code: int) -> bool: ...
    def value(self, code: int) -> float: ...
    def to_dict(self) -> dict[str, Any]: ...

class ScaleLevel:
    fields: ClassVar[Mapping[str, str]]
    format: ElementFormat
    along: int
    across: int
    combine: str
    def __init__(
        self, *, format: ElementFormat = ..., along: int = ..., across: int = ..., combine: str = ...
    ) -> None: ...
    def block_length(self, length: int) -> int: ...
    def blocks_per_line(self, length: int) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...

class BlockFormat:
    element: ElementFormat
    levels: tuple[ScaleLevel, ...]
    main_level: int
    def __init__(self, element: ElementFormat, levels: Sequence[ScaleLevel] = ...) -> None: ...
    def to_dict(self) -> dict[str, Any]: ...

class Conversion:
    fields: ClassVar[Mapping[str, str]]
    rounding: str
    overflow: str
    scale_rule: str
    scale_rounding: str
    scale_minimum: int
    stochastic: str
    random_bits: int
    nonfinite: str
    infinite: str
    nan_scale: str
    scale_overflow: str
    least_scale: str
    signed_zero: str
    subnormals: str
    input_subnormals: str
    integer_range: str
    preround: str
    amax_exponent: str
    element_exponent: str
    half_sum: str
    scale_apply: str
    divisor_apply: str
    divide_by: str
    outer_apply: str
    outer_overflow: str
    scale_order: str
    scale_underflow: str
    scale_compute: str
    apply_compute: str
    divisor: float
    even_bits: int
    zero_scale: int
    align_bits: int
    align_rounding: str
    cut_offset: float
    def __init__(
        self,
        *,
        rounding: str = ...,
        overflow: str = ...,
        scale_rule: str = ...,
        scale_rounding: str = ...,
        scale_minimum: int = ...,
        stochastic: str = ...,
        random_bits: int = ...,
        nonfinite: str = ...,
        infinite: str = ...,
        nan_scale: str = ...,
        scale_overflow: str = ...,
        least_scale: str = ...,
        signed_zero: str = ...,
        subnormals: str = ...,
        input_subnormals: str = ...,
        integer_range: str = ...,
        preround: str = ...,
        amax_exponent: str = ...,
        element_exponent: str = ...,
        half_sum: str = ...,
        scale_apply: str = ...,
        divisor_apply: str = ...,
        divide_by: str = ...,
        outer_apply: str = ...,
        outer_overflow: str = ...,
        scale_order: str = ...,
        scale_underflow: str = ...,
        scale_compute: str = ...,
        apply_compute: str = ...,
        divisor: float = ...,
        even_bits: int = ...,
        zero_scale: int = ...,
        align_bits: int = ...,
        align_rounding: str = ...,
        cut_offset: float = ...,
    ) -> None: ...
    def to_dict(self) -> dict[str, Any]: ...

class Sparsity:
    fields: ClassVar[Mapping[str, str]]
    kept: int
    group: int
    ties: str
    unit: int
    def __init__(self, *, kept: int = ..., group: int = ..., ties: str = ..., unit: int = ...) -> None: ...
    def to_dict(self) -> dict[str, Any]: ...

class Datapath:
    fields: ClassVar[Mapping[str, str]]
    reduce: str
    group: int
    instruction: int
    run: int
    lanes: int
    presum: int
    chunk: int
    fraction_bits: int
    align_rounding: str
    normalize: bool
    zero_products: str
    exponent_floor: int
    product_overflow: bool
    start: str
    sum_fraction: int
    start_fraction: int
    start_reach: int
    accumulator_exponent_bits: int
    accumulator_fraction: int
    accumulator_rounding: str
    overflow: str
    flush_inputs: bool
    flush_results: bool
    integer_bits: int
    integer_tree: int
    integer_overflow: str
    dropped_bits: int
    output: str
    nan_bits: int
    block_scales: bool
    scale: ElementFormat
    operands: tuple[ElementFormat, ...]
    def __init__(
        self,
        *,
        reduce: str = ...,
        group: int = ...,
        instruction: int = ...,
        run: int = ...,
        lanes: int = ...,
        presum: int = ...,
        chunk: int = ...,
        fraction_bits: int = ...,
        align_rounding: str = ...,
        normalize: bool = ...,
        zero_products: str = ...,
        exponent_floor: int = ...,
        product_overflow: bool = ...,
        start: str = ...,
        sum_fraction: int = ...,
        start_fraction: int = ...,
        start_reach: int = ...,
        accumulator_exponent_bits: int = ...,
        accumulator_fraction: int = ...,
        accumulator_rounding: str = ...,
        overflow: str = ...,
        flush_inputs: bool = ...,
        flush_results: bool = ...,
        integer_bits: int = ...,
        integer_tree: int = ...,
        integer_overflow: str = ...,
        dropped_bits: int = ...,
        output: str = ...,
        nan_bits: int = ...,
        block_scales: bool = ...,
        scale: ElementFormat = ...,
    ) -> None: ...
    def with_operands(self, operands: Sequence[ElementFormat]) -> Datapath: ...
    def with_fp16_result(self) -> Datapath: ...
    def to_dict(self) -> dict[str, Any]: ...

class Side:
    def __init__(
        self,
        codes: _Array,
        element: ElementFormat,
        *,
        scale: ElementFormat | None = ...,
        block_scales: _Array | None = ...,
        segment_end: Sequence[int] = ...,
        float_scales: _Array | None = ...,
        tensor_scale: float | None = ...,
    ) -> None: ...

elements: list[tuple[str, ElementFormat, str, str]]
formats: list[tuple[str, BlockFormat, Conversion, str, str]]
aliases: list[tuple[str, str]]
datapaths: list[tuple[str, Datapath, str, str]]
words: dict[str, tuple[str, ...]]
numerics_version: int

def available_isas() -> list[str]: ...
def active_isa() -> str: ...
def check_spec(format: BlockFormat, conversion: Conversion, sparsity: Sparsity | None) -> None: ...
def check_datapath(path: Datapath) -> None: ...
def check_operands(path: Datapath, a: ElementFormat, b: ElementFormat, block_scales: bool) -> None: ...
def encode(
    *,
    x: _Array,
    x_type: str,
    shape: tuple[int, int, int],
    rows: int,
    format: BlockFormat,
    conversion: Conversion,
    sparsity: Sparsity | None,
    order: str,
    values: _Array | None,
    values_type: str,
    codes: _Array | None,
    scales: Sequence[_Array | None],
    scales_given: Sequence[bool],
    mask_in: _Array | None,
    mask_out: _Array | None,
    count: bool,
    random: _Array | None,
    philox: tuple[int, int, int] | None,
    threads: int,
) -> dict[str, int]: ...
def decode(
    *,
    codes: _Array,
    scales: Sequence[_Array | None],
    shape: tuple[int, int, int],
    rows: int,
    format: BlockFormat,
    values: _Array,
    values_type: str,
    threads: int,
) -> dict[str, int]: ...
def sparsify(
    *,
    x: _Array,
    x_type: str,
    shape: tuple[int, int, int],
    sparsity: Sparsity,
    by_score: bool,
    mask_out: _Array,
    count: bool,
    threads: int,
) -> dict[str, int]: ...
def multiply(
    *,
    path: Datapath,
    a: Side,
    b: Side,
    groups: int,
    mnk: tuple[int, int, int],
    c: _Array | None,
    bias: _Array | None,
    d: _Array,
    counts: _Array | None,
    threads: int,
) -> None: ...
def fused_multiply_add(*, x: _Array, y: _Array, z: _Array, d: _Array, nan_bits: int, threads: int) -> None: ...
def philox(seed: int, stream: int, offset: int, count: int) -> _Array: ...
def shift_register(state: int, count: int) -> _Array: ...
def check_fill(sparsity: Sparsity, fill: str) -> None: ...
def compress(
    *,
    sparsity: Sparsity,
    fill: str,
    codes: _Array,
    mask: _Array,
    stored: _Array,
    positions: _Array,
    threads: int,
) -> None: ...
def expand(
    *,
    sparsity: Sparsity,
    repeats: bool,
    stored: _Array,
    positions: _Array,
    codes: _Array,
    mask: _Array,
    threads: int,
) -> None: ...
def pack(
    *,
    items: _Array,
    bytes: _Array,
    item_bits: int,
    container_bits: int,
    shift: int,
    from_top: bool,
    run: int,
    run_bytes: int,
    threads: int,
) -> None: ...
def unpack(
    *,
    bytes: _Array,
    items: _Array,
    item_bits: int,
    container_bits: int,
    shift: int,
    from_top: bool,
    run: int,
    run_bytes: int,
    threads: int,
) -> None: ...
def decode_packed(
    *,
    elements: _Array,
    element_packing: tuple[int, int, int, bool, int, int],
    positions: _Array | None,
    position_packing: tuple[int, int, int, bool, int, int] | None,
    sparsity: Sparsity | None,
    repeats: bool,
    scales: Sequence[_Array | None],
    shape: tuple[int, int, int],
    format: BlockFormat,
    values: _Array,
    values_type: str,
    threads: int,
) -> dict[str, int]: ...
